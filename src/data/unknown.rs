//! Sets of unknown images.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Dataset, Noise, OTHER_CLASSES, PublishedSet, Split, check_set_names};
use crate::{
    error::{Error, Result},
    image::Input,
    text::on_one_line,
};

/// Where unknown images come from, as a user names it.
///
/// As text, also in JSON and TOML: `NAME=DIR`; `SET` or `NAME=SET` with the name of a [published set](PublishedSet);
/// `gaussian-noise[:COUNT]` or `uniform-noise[:COUNT]`, with 1,000 images by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnknownSource {
    /// A folder or a published set.
    Images {
        /// The name of the set's row in the report.
        name: String,
        /// A folder, or the name of a published set, which
        /// [`DataFolder::resolve_unknown`](super::DataFolder::resolve_unknown) turns into one.
        path: PathBuf,
    },
    /// Noise. Its name is that of its kind.
    Noise(Noise),
}

impl UnknownSource {
    /// The name of the set's row in the report.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Images { name, .. } => name,
            Self::Noise(noise) => noise.name(),
        }
    }

    /// The folder, or the name of the published set; `None` for noise.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Images { path, .. } => Some(path),
            Self::Noise(_) => None,
        }
    }

    /// The same set with its images at another path. Noise has none.
    #[must_use]
    pub fn at(&self, path: &Path) -> Self {
        match self {
            Self::Images { name, .. } => Self::Images { name: name.clone(), path: path.to_owned() },
            Self::Noise(noise) => Self::Noise(*noise),
        }
    }
}

impl fmt::Display for UnknownSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Images { name, path }
                if Path::new(name) == path && PublishedSet::meant_by(path).is_some() =>
            {
                f.write_str(name)
            }
            Self::Images { name, path } => write!(f, "{name}={}", path.display()),
            Self::Noise(noise) => noise.fmt(f),
        }
    }
}

impl FromStr for UnknownSource {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let images = |name: &str, path: &str| Self::Images { name: name.to_owned(), path: path.into() };
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok(images(name, path)),
            None if PublishedSet::meant_by(Path::new(text)).is_some() => Ok(images(text, text)),
            _ => text.parse().map(Self::Noise),
        }
    }
}

impl Serialize for UnknownSource {
    /// Serialises as text.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UnknownSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A set of unknown images and the name of its row in the report.
#[derive(Debug, Clone)]
pub struct UnknownSet {
    /// The row's name.
    pub name: String,
    /// The images, all labelled [`UNKNOWN`](super::UNKNOWN).
    pub images: Dataset,
}

impl UnknownSet {
    /// Opens unknown sets. Their names are rows of the report, so they must be unique and not reserved.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), and [`Error::Setting`] if a name is taken.
    pub fn open_all(sources: &[UnknownSource], input: &Input) -> Result<Vec<Self>> {
        for name in sources.iter().map(UnknownSource::name) {
            let setting =
                |reason| Err(Error::setting("set name", format!("`{}`", on_one_line(name)), reason));
            if name.trim() != name {
                return setting("begins or ends with a space");
            }
            if name == OTHER_CLASSES {
                return setting("is that of the unknown classes of the known data set");
            }
        }
        check_set_names(sources.iter().map(UnknownSource::name))?;
        sources.iter().map(|source| Self::open(source, input)).collect()
    }

    /// Opens an unknown set.
    ///
    /// # Errors
    /// Those of [`Dataset::unknown`].
    pub fn open(source: &UnknownSource, input: &Input) -> Result<Self> {
        let images = match source {
            UnknownSource::Images { path, .. } => Dataset::unknown(path, Split::Test, input)?,
            UnknownSource::Noise(noise) => Dataset::noise(*noise, input),
        };
        Ok(Self { name: source.name().to_owned(), images })
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(texts: &[&str]) -> Vec<UnknownSource> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn sources_are_read_from_their_text() {
        let images = |name: &str, path: &str| UnknownSource::Images { name: name.into(), path: path.into() };
        for (text, expected) in [
            ("a=b", images("a", "b")),
            ("a=b=c", images("a", "b=c")),
            ("textures", images("textures", "textures")),
            ("a=textures", images("a", "textures")),
            ("textures=./textures", images("textures", "./textures")),
            ("cifar10-c:fog:3", images("cifar10-c:fog:3", "cifar10-c:fog:3")),
            ("gaussian-noise:5", UnknownSource::Noise(Noise::gaussian(5))),
            ("gaussian-noise=noise", images("gaussian-noise", "noise")),
        ] {
            let source: UnknownSource = text.parse().unwrap();
            assert_eq!((&source, source.to_string().as_str()), (&expected, text));
            let json = serde_json::to_string(&source).unwrap();
            assert_eq!(serde_json::from_str::<UnknownSource>(&json).unwrap(), source);
        }
        for text in ["gaussian-noise", "uniform-noise"] {
            assert_eq!(sources(&[text]), sources(&[&format!("{text}:1000")]));
        }
        for wrong in
            ["", "noise", "gaussian-noise:0", "gaussian-noise:-3", "=folder", "=textures", "a=", "./b"]
        {
            assert!(matches!(wrong.parse::<UnknownSource>(), Err(Error::Setting { .. })), "{wrong}");
        }
    }

    #[test]
    fn unknown_sets_are_opened() {
        let input = Input::of_size(2, 3);
        let open = |texts: &[&str]| UnknownSet::open_all(&sources(texts), &input);
        let sets = open(&["gaussian-noise:5", "uniform-noise:6"]).unwrap();
        let found: Vec<_> = sets.iter().map(|set| (set.name.as_str(), set.images.len())).collect();
        assert_eq!(found, [("gaussian-noise", 5), ("uniform-noise", 6)]);
        assert_eq!(sets[0].images.pixels(4).unwrap().len(), 18);
        assert!(matches!(open(&["a=/no/such"]), Err(Error::Io { .. })));
        for (wrong, reason) in [
            (" a=/no/such", "begins or ends with a space"),
            ("other-classes=/no/such", "is that of the unknown classes of the known data set"),
            ("all=/no/such", "is reserved for a row of the report"),
            ("uniform-noise:6", "is the name of another set"),
        ] {
            let error = open(&["uniform-noise:5", wrong]).unwrap_err();
            assert!(matches!(error, Error::Setting { .. }) && error.to_string().ends_with(reason), "{error}");
        }
    }
}
