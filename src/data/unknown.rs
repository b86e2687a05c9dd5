//! Sets of unknown images.

use std::path::Path;

use super::{Dataset, Noise, OTHER_CLASSES, Split, check_set_names};
use crate::{
    error::{Error, Result},
    image::Input,
};

/// A set of unknown images and the name of its row in the report.
#[derive(Debug, Clone)]
pub struct UnknownSet {
    /// The row's name.
    pub name: String,
    /// The images, all labelled [`UNKNOWN`](super::UNKNOWN).
    pub images: Dataset,
}

impl UnknownSet {
    /// Opens unknown sets as a user wrote them. Their names are rows of the report, so they must be unique
    /// and not reserved.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), and [`Error::Setting`] if a name is taken.
    pub fn open_all(texts: &[String], input: &Input) -> Result<Vec<Self>> {
        let mut sets: Vec<Self> = Vec::with_capacity(texts.len());
        for text in texts {
            let set = Self::open(text, input)?;
            let setting = |reason| Err(Error::setting("set name", format!("`{}`", set.name), reason));
            if set.name.trim() != set.name {
                return setting("begins or ends with a space");
            }
            if set.name == OTHER_CLASSES {
                return setting("is that of the unknown classes of the known data set");
            }
            sets.push(set);
        }
        check_set_names(sets.iter().map(|set| set.name.as_str()))?;
        Ok(sets)
    }

    /// Opens an unknown set as a user wrote it: `NAME=DIR`, `gaussian-noise[:COUNT]` or
    /// `uniform-noise[:COUNT]`, with 1,000 images by default.
    ///
    /// # Errors
    /// [`Error::Setting`] for any other text, and those of [`Dataset::unknown`].
    pub fn open(text: &str, input: &Input) -> Result<Self> {
        if let Some((name, folder)) = Self::folder(text) {
            let images = Dataset::unknown(Path::new(folder), Split::Test, input)?;
            return Ok(Self { name: name.to_owned(), images });
        }
        let noise: Noise = text.parse()?;
        Ok(Self { name: noise.name().to_owned(), images: Dataset::noise(noise, input) })
    }

    /// Checks that no image of the set comes from a folder or file of `other`: known images, or those of
    /// `other-classes`, which have no class names.
    ///
    /// # Errors
    /// [`Error::Setting`] if one does.
    pub(crate) fn check_apart_from(&self, other: &Dataset) -> Result<()> {
        if self.images.shares_images_with(other) {
            let origin = self.images.origin.display();
            return Err(Error::setting(
                "unknown set",
                format!("`{}={origin}`", self.name),
                if other.classes().is_empty() {
                    "holds images of `other-classes`"
                } else {
                    "holds known images"
                },
            ));
        }
        Ok(())
    }

    /// Name and folder, if the text is `NAME=DIR`.
    #[must_use]
    pub fn folder(text: &str) -> Option<(&str, &str)> {
        text.split_once('=').filter(|(name, folder)| !name.is_empty() && !folder.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_sets_are_parsed() {
        let input = Input::of_size(2, 3);
        let noise = UnknownSet::open("gaussian-noise:5", &input).unwrap();
        assert_eq!((noise.name.as_str(), noise.images.len()), ("gaussian-noise", 5));
        assert_eq!(noise.images.pixels(4).unwrap().len(), 18);
        let set = concat!(" a=", env!("CARGO_MANIFEST_DIR"), "/examples/demo/textures").to_owned();
        let error = UnknownSet::open_all(&[set], &input).unwrap_err().to_string();
        assert!(error.ends_with("begins or ends with a space"), "{error}");
        assert_eq!(UnknownSet::open("uniform-noise", &input).unwrap().images.len(), 1000);
        for wrong in ["", "noise", "gaussian-noise:0", "gaussian-noise:-3", "=folder"] {
            assert!(matches!(UnknownSet::open(wrong, &input), Err(Error::Setting { .. })), "{wrong}");
        }
        assert!(matches!(UnknownSet::open("a=/no/such", &input), Err(Error::Io { .. })));
        let all = |texts: &[&str]| {
            UnknownSet::open_all(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>(), &input)
        };
        assert_eq!(all(&["gaussian-noise:5", "uniform-noise:5"]).unwrap().len(), 2);
        assert!(matches!(all(&["uniform-noise:5", "uniform-noise:6"]), Err(Error::Setting { .. })));
    }
}
