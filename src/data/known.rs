//! Where the images of the known classes are, and which of them are for training and for tests.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Dataset, Degradation, OTHER_CLASSES, Protocol, Split, UnknownSet, UnknownSource};
use crate::{
    error::{Error, Result},
    image::Input,
    text::{composed, few, first_few, on_one_line, shown},
};

/// The data set of the known classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnownData {
    /// A folder, or the name of a [published set](super::PublishedSet), which
    /// [`DataFolder::resolve`](super::DataFolder::resolve) turns into one.
    #[serde(rename = "known")]
    pub path: PathBuf,
    /// The share of its images that are test images, if it has no test split; see [`Dataset::divided`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_test: Option<f64>,
    /// The protocol that selects the known classes; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Further classes that are unknown, sorted. Their images in the test split are unknown test images; with
    /// `held_out_test`, all their images are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown_classes: Vec<String>,
}

/// The images that a network is tested on.
#[derive(Debug, Clone)]
pub struct TestImages {
    /// Those of the known classes.
    pub known: Dataset,
    /// The classes of the data set that are unknown.
    pub other_classes: Vec<String>,
    /// The unknown sets; the first one is `other-classes`, the images of these classes, if there are any.
    pub unknown: Vec<UnknownSet>,
}

impl TestImages {
    /// The unknown sets that are not of the data set itself.
    fn given(&self) -> impl Iterator<Item = &UnknownSet> {
        self.unknown.iter().filter(|set| set.name != OTHER_CLASSES)
    }

    /// Checks that no unknown set has images to train on. Those of `other-classes` are from the same files.
    fn check_apart_from(&self, training: &Dataset) -> Result<()> {
        self.given().try_for_each(|set| set.check_apart_from(training))
    }
}

/// Which classes the images of `other-classes` are of, in words; `None` if all classes are known.
#[must_use]
pub fn other_classes_in_words(names: &[String]) -> Option<String> {
    let classes = first_few(names.iter().map(|name| on_one_line(name)));
    (!names.is_empty()).then(|| format!("the images of `other-classes` are those of {classes}"))
}

impl TestImages {
    /// The known images, and then those of each unknown set.
    pub fn sets(&self) -> impl Iterator<Item = &Dataset> {
        [&self.known].into_iter().chain(self.unknown.iter().map(|set| &set.images))
    }

    /// The number of images of all sets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sets().map(Dataset::len).sum()
    }

    /// Whether there are no images.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same images, [degraded](Dataset::degraded).
    #[must_use]
    pub fn degraded(self, degradation: Degradation) -> Self {
        let degraded = |set: UnknownSet| UnknownSet { images: set.images.degraded(degradation), ..set };
        Self {
            known: self.known.degraded(degradation),
            other_classes: self.other_classes,
            unknown: self.unknown.into_iter().map(degraded).collect(),
        }
    }
}

impl KnownData {
    /// All classes of a data set, and the splits that it has.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), held_out_test: None, protocol: None, unknown_classes: Vec::new() }
    }

    /// The same data with these unknown classes, in any order.
    #[must_use]
    pub fn with_unknown_classes(self, names: &[String]) -> Self {
        let unknown: BTreeSet<String> = names.iter().map(|name| composed(name)).collect();
        Self { unknown_classes: unknown.into_iter().collect(), ..self }
    }

    /// The same data in a folder.
    #[must_use]
    pub fn at(&self, folder: &Path) -> Self {
        Self { path: folder.to_owned(), ..self.clone() }
    }

    /// Whether some classes of the data set are unknown.
    #[must_use]
    pub fn has_unknown_classes(&self) -> bool {
        self.protocol.is_some() || !self.unknown_classes.is_empty()
    }

    /// Opens the training images of the known classes.
    ///
    /// # Errors
    /// Those of [`Dataset::known`] and [`Dataset::divided`]; [`Error::Setting`] if the data set does not have the
    /// ten classes of the protocol or lacks an unknown class, or if fewer than two classes are known.
    pub fn training(&self, input: &Input) -> Result<Dataset> {
        self.to_train_on(match self.held_out_test {
            Some(share) => self.divided(share, input)?.0,
            None => self.split(Split::Train, input)?,
        })
    }

    /// Opens the test images of the known classes, and the unknown sets.
    ///
    /// # Errors
    /// Those of [`training`](Self::training) and [`UnknownSet::open_all`]; [`Error::Dataset`] if the known or
    /// the unknown classes have no test images; [`Error::Setting`] if an unknown set has known images, including
    /// those to train on, or images of the unknown classes.
    pub fn test(&self, unknown: &[UnknownSource], input: &Input) -> Result<TestImages> {
        let images = match self.held_out_test {
            Some(share) => self.divided(share, input)?.1,
            None => self.split(Split::Test, input)?,
        };
        let test = self.with_unknown(images, unknown, input)?;
        if test.given().any(|set| set.images.lies_in(&self.path)) {
            let training = match self.held_out_test {
                Some(share) => self.divided(share, input).map(|(training, _)| training),
                None => self.split(Split::Train, input),
            };
            match training {
                Ok(training) => test.check_apart_from(&training.known)?,
                Err(error) if error.is_of_missing_images() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(test)
    }

    /// Opens what [`training`](Self::training) and [`test`](Self::test) open. Data that is divided here is read
    /// once.
    ///
    /// # Errors
    /// Those of the two.
    pub fn both(&self, unknown: &[UnknownSource], input: &Input) -> Result<(Dataset, TestImages)> {
        let (training, test) = match self.held_out_test {
            Some(share) => self.divided(share, input)?,
            None => (self.split(Split::Train, input)?, self.split(Split::Test, input)?),
        };
        let (training, test) = (self.to_train_on(training)?, self.with_unknown(test, unknown, input)?);
        test.check_apart_from(&training)?;
        Ok((training, test))
    }

    /// Other images without those of unknown classes, as far as these are among their classes.
    #[must_use]
    pub fn without_unknown(&self, images: Dataset) -> Dataset {
        let of_protocol = self.protocol.and_then(|protocol| protocol.known_of(&images).ok());
        self.parted(images, of_protocol).known
    }

    /// The training and the test images. Which of the two a known image is does not depend on the unknown classes.
    fn divided(&self, share: f64, input: &Input) -> Result<(ByClass, ByClass)> {
        let whole = Dataset::undivided(&self.path, share, input)?;
        self.check_unknown_classes(whole.classes())?;
        let (training, test) = whole.divide(share)?;
        let test = ByClass { others: self.by_class(whole)?.others, ..self.by_class(test)? };
        Ok((self.by_class(training)?, test))
    }

    /// The images of a split.
    fn split(&self, split: Split, input: &Input) -> Result<ByClass> {
        let images = Dataset::known(&self.path, split, input)?;
        let lacks = |class: &String| !images.classes().contains(class);
        if self.unknown_classes.iter().any(lacks) {
            // A class may have images in one split only.
            let other = Dataset::known(&self.path, split.other(), input);
            let of_other = match other {
                Ok(other) => other.classes,
                Err(error) if error.is_of_missing_images() => Vec::new(),
                Err(error) => return Err(error),
            };
            let classes = images.classes().iter().cloned().chain(of_other.into_iter().filter(lacks));
            self.check_unknown_classes(&classes.collect::<Vec<_>>())?;
        }
        self.by_class(images)
    }

    fn check_unknown_classes(&self, classes: &[String]) -> Result<()> {
        let is_absent = |name: &&String| !classes.contains(*name);
        match self.unknown_classes.iter().find(is_absent) {
            None => Ok(()),
            Some(name) => {
                let classes = few(classes.iter().map(String::as_str));
                let reason = format!("must be a class of `{}`: {classes}", shown(&self.path));
                Err(Error::setting("unknown class", format!("`{}`", on_one_line(name)), reason))
            }
        }
    }

    fn by_class(&self, images: Dataset) -> Result<ByClass> {
        let of_protocol = self.protocol.map(|protocol| protocol.known_of(&images)).transpose()?;
        Ok(self.parted(images, of_protocol))
    }

    fn parted(&self, images: Dataset, of_protocol: Option<[usize; 6]>) -> ByClass {
        if !self.has_unknown_classes() {
            return ByClass { known: images, other_classes: Vec::new(), others: None };
        }
        let classes = images.classes();
        let is_known = |class: &usize| {
            of_protocol.is_none_or(|known| known.contains(class))
                && !self.unknown_classes.contains(&classes[*class])
        };
        let (known, others): (Vec<usize>, Vec<usize>) = (0..classes.len()).partition(is_known);
        let other_classes = others.into_iter().map(|class| classes[class].clone()).collect();
        let (known, others) = images.by_class(&known);
        ByClass { known, other_classes, others: Some(others) }
    }

    /// The known images, if they have enough classes to train on.
    fn to_train_on(&self, images: ByClass) -> Result<Dataset> {
        let ByClass { known, other_classes, .. } = images;
        let left = known.classes().len();
        if left >= 2 {
            return Ok(known);
        }
        let (given, all) = (few(self.unknown_classes.iter().map(String::as_str)), left + other_classes.len());
        let reason = format!("leaves {left} of {all} classes; at least 2 must be known");
        Err(Error::setting("unknown class", given, reason))
    }

    fn with_unknown(&self, images: ByClass, unknown: &[UnknownSource], input: &Input) -> Result<TestImages> {
        let ByClass { known, other_classes, others } = images;
        for (images, which) in [(Some(&known), "known"), (others.as_ref(), "unknown")] {
            if images.is_some_and(Dataset::is_empty) {
                let reason = format!("the {which} classes have no test images");
                return Err(Error::Dataset { path: self.path.clone(), reason });
            }
        }
        let sets = UnknownSet::open_all(unknown, input)?;
        for set in &sets {
            [&known].into_iter().chain(&others).try_for_each(|images| set.check_apart_from(images))?;
        }
        let others = others.map(|images| UnknownSet { name: OTHER_CLASSES.to_owned(), images });
        Ok(TestImages { known, other_classes, unknown: others.into_iter().chain(sets).collect() })
    }
}

/// The images of a data set or of a split.
struct ByClass {
    known: Dataset,
    /// The other classes, and their images; without any, there is no set of them.
    other_classes: Vec<String>,
    others: Option<Dataset>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images in class folders, named after the class and a number.
    fn images(folder: &Path, class: &str, count: u8) {
        let folder = folder.join(class);
        std::fs::create_dir_all(&folder).unwrap();
        for number in 0..count {
            let colour = [number, class.len() as u8, class.as_bytes()[0]];
            let image = ::image::RgbImage::from_pixel(4, 4, ::image::Rgb(colour));
            image.save(folder.join(format!("{number}.bmp"))).unwrap();
        }
    }

    fn data(path: &Path, unknown: &[&str]) -> KnownData {
        KnownData::new(path)
            .with_unknown_classes(&unknown.iter().map(|&class| class.to_owned()).collect::<Vec<_>>())
    }

    fn input() -> Input {
        Input::of_size(4, 4)
    }

    #[test]
    fn an_unknown_class_is_tested_on_and_not_trained_on() {
        let folder = tempfile::tempdir().unwrap();
        for (class, count) in [("ants", 3), ("bees", 4), ("cats", 5)] {
            images(&folder.path().join("train"), class, count);
            images(&folder.path().join("test"), class, count - 2);
        }
        let data = data(folder.path(), &["bees"]);
        let (training, test) = data.both(&[], &input()).unwrap();
        assert_eq!((training.classes(), training.len()), (&["ants".to_owned(), "cats".to_owned()][..], 8));
        assert_eq!((test.known.classes(), test.known.labels()), (training.classes(), &[0, 1, 1, 1][..]));
        let [others] = &test.unknown[..] else { panic!("{:?}", test.unknown) };
        assert_eq!((others.name.as_str(), others.images.len()), (OTHER_CLASSES, 2));
        assert!(others.images.name(1).ends_with("test/bees/1.bmp"), "{}", others.images.name(1));
        assert_eq!(data.training(&input()).unwrap().len(), 8);
        for (class, what) in [("bees", "holds images of `other-classes`"), ("ants", "holds known images")] {
            let path = folder.path().join("test").join(class);
            let set = UnknownSource::Images { name: "x".to_owned(), path };
            let error = data.test(&[set], &input()).unwrap_err().to_string();
            assert!(error.ends_with(what), "{error}");
        }
        assert_eq!(data.test(&[], &input()).unwrap().unknown[0].images.len(), 2);
    }

    #[test]
    fn all_images_of_an_unknown_class_are_tested_on_if_nothing_is_trained_on_them() {
        let folder = tempfile::tempdir().unwrap();
        for (class, count) in [("ants", 10), ("bees", 7), ("cats", 10)] {
            images(folder.path(), class, count);
        }
        let data = KnownData { held_out_test: Some(0.2), ..data(folder.path(), &["bees"]) };
        let (training, test) = data.both(&[], &input()).unwrap();
        assert_eq!((training.len(), test.known.len(), test.unknown[0].images.len()), (16, 4, 7));
        assert_eq!(test.other_classes, ["bees"]);
        // Whichever classes are unknown, the others have the same test images.
        let names = |images: &Dataset, class: &str| -> Vec<String> {
            let names = (0..images.len()).map(|index| images.name(index));
            names.filter(|name| name.contains(class)).collect()
        };
        let whole = KnownData { unknown_classes: Vec::new(), ..data };
        let (_, all) = whole.both(&[], &input()).unwrap();
        assert_eq!(names(&test.known, "cats"), names(&all.known, "cats"));
        assert!(all.unknown.is_empty() && all.other_classes.is_empty());
    }

    #[test]
    fn an_unknown_class_may_be_in_one_split_only() {
        let folder = tempfile::tempdir().unwrap();
        let [train, test] = ["train", "test"].map(|split| folder.path().join(split));
        for class in ["ants", "cats"] {
            images(&train, class, 3);
            images(&test, class, 2);
        }
        images(&test, "bees", 2);
        let (training, tests) = data(folder.path(), &["bees"]).both(&[], &input()).unwrap();
        assert_eq!((training.len(), tests.unknown[0].images.len()), (6, 2));
        images(&train, "dogs", 2);
        let error = data(folder.path(), &["dogs"]).both(&[], &input()).unwrap_err().to_string();
        assert!(error.contains("the unknown classes have no test images"), "{error}");
    }

    #[test]
    fn other_data_may_lack_unknown_classes() {
        let folder = tempfile::tempdir().unwrap();
        images(folder.path(), "ants", 2);
        images(folder.path(), "bees", 3);
        let other = Dataset::known(folder.path(), Split::Test, &input()).unwrap();
        // A protocol is of ten classes.
        let data =
            KnownData { protocol: "cac-2020/0".parse().ok(), ..data(Path::new("x"), &["bees", "dogs"]) };
        let left = data.without_unknown(other.clone());
        assert_eq!((left.classes(), left.len()), (&["ants".to_owned()][..], 2));
        assert_eq!(KnownData::new("x").without_unknown(other).len(), 5);
    }

    #[test]
    fn two_known_classes_must_be_left() {
        let folder = tempfile::tempdir().unwrap();
        for class in ["ants", "bees", "cats"] {
            images(&folder.path().join("train"), class, 2);
            images(&folder.path().join("test"), class, 2);
        }
        let path = folder.path().display();
        for (unknown, message) in [
            (
                &["bee"][..],
                format!("unknown class = `bee`: must be a class of `{path}`: `ants`, `bees`, `cats`"),
            ),
            (
                &["cats", "bees"],
                "unknown class = `bees`, `cats`: leaves 1 of 3 classes; at least 2 must be known".to_owned(),
            ),
        ] {
            let data = data(folder.path(), unknown);
            for error in [data.training(&input()).unwrap_err(), data.both(&[], &input()).unwrap_err()] {
                assert_eq!(error.to_string(), message);
            }
        }
        // Tests may have one.
        assert!(matches!(data(folder.path(), &["bee"]).test(&[], &input()), Err(Error::Setting { .. })));
        let one = data(folder.path(), &["cats", "bees"]).test(&[], &input()).unwrap();
        assert_eq!((one.known.len(), one.unknown[0].images.len()), (2, 4));
        let all = data(folder.path(), &["cats", "bees", "ants"]).test(&[], &input()).unwrap_err().to_string();
        assert!(all.contains("the known classes have no test images"), "{all}");
        // Also together with a protocol.
        let data = KnownData { protocol: "cac-2020/0".parse().ok(), ..data(folder.path(), &["ants"]) };
        let error = data.training(&input()).unwrap_err().to_string();
        assert!(error.contains("needs 10 classes"), "{error}");
    }
}
