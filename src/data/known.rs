//! Where the images of the known classes are, and which of them are for training and for tests.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Dataset, Degradation, OTHER_CLASSES, Protocol, Split, UnknownSet};
use crate::{error::Result, image::Input};

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
    /// The protocol that selects the known classes; `None` if all classes are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
}

/// The images that a network is tested on.
#[derive(Debug, Clone)]
pub struct TestImages {
    /// Those of the known classes.
    pub known: Dataset,
    /// The unknown sets. With a protocol the first one is `other-classes`, the images of its unknown classes.
    pub unknown: Vec<UnknownSet>,
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
            unknown: self.unknown.into_iter().map(degraded).collect(),
        }
    }
}

impl KnownData {
    /// All classes of a data set, and the splits that it has.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), held_out_test: None, protocol: None }
    }

    /// The same data in a folder.
    #[must_use]
    pub fn at(&self, folder: &Path) -> Self {
        Self { path: folder.to_owned(), ..*self }
    }

    /// Opens the training images of the known classes.
    ///
    /// # Errors
    /// Those of [`Dataset::known`], [`Dataset::divided`] and [`Dataset::by_protocol`].
    pub fn training(&self, input: &Input) -> Result<Dataset> {
        let images = match self.held_out_test {
            Some(share) => Dataset::divided(&self.path, share, input)?.0,
            None => Dataset::known(&self.path, Split::Train, input)?,
        };
        self.limited(images)
    }

    /// Opens the test images of the known classes, and the unknown sets.
    ///
    /// # Errors
    /// Those of [`Dataset::known`], [`Dataset::divided`], [`Dataset::by_protocol`] and
    /// [`UnknownSet::open_all`]; [`Error::Setting`](crate::Error::Setting) if an unknown set has known images,
    /// including those to train on.
    pub fn test(&self, unknown: &[String], input: &Input) -> Result<TestImages> {
        let images = match self.held_out_test {
            Some(share) => Dataset::divided(&self.path, share, input)?.1,
            None => Dataset::known(&self.path, Split::Test, input)?,
        };
        let test = self.with_unknown(images, unknown, input)?;
        // Images of the other classes of a protocol are from the same files.
        let is_within = |set: &&UnknownSet| set.name != OTHER_CLASSES && set.images.lies_in(&self.path);
        let mut within = test.unknown.iter().filter(is_within).peekable();
        // There may be no training images.
        if within.peek().is_some()
            && let Ok(training) = self.training(input)
        {
            within.try_for_each(|set| set.check_apart_from(&training))?;
        }
        Ok(test)
    }

    /// Opens what [`training`](Self::training) and [`test`](Self::test) open. Data that is divided here is read
    /// once.
    ///
    /// # Errors
    /// Those of the two.
    pub fn both(&self, unknown: &[String], input: &Input) -> Result<(Dataset, TestImages)> {
        let (training, test) = match self.held_out_test {
            Some(share) => Dataset::divided(&self.path, share, input)?,
            None => (
                Dataset::known(&self.path, Split::Train, input)?,
                Dataset::known(&self.path, Split::Test, input)?,
            ),
        };
        Ok((self.limited(training)?, self.with_unknown(test, unknown, input)?))
    }

    /// The images of the protocol's known classes.
    fn limited(&self, images: Dataset) -> Result<Dataset> {
        match &self.protocol {
            Some(protocol) => Ok(images.by_protocol(protocol)?.0),
            None => Ok(images),
        }
    }

    fn with_unknown(&self, mut known: Dataset, texts: &[String], input: &Input) -> Result<TestImages> {
        let mut unknown = Vec::new();
        if let Some(protocol) = &self.protocol {
            let (chosen, images) = known.by_protocol(protocol)?;
            known = chosen;
            unknown.push(UnknownSet { name: OTHER_CLASSES.to_owned(), images });
        }
        for set in UnknownSet::open_all(texts, input)? {
            set.check_apart_from(&known)?;
            unknown.push(set);
        }
        Ok(TestImages { known, unknown })
    }
}
