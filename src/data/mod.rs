//! Data sets of known and unknown images.

mod arrays;
mod catalog;
mod cifar;
mod copies;
pub(crate) mod degradation;
mod draws;
#[cfg(feature = "files")]
mod fetch;
mod folder;
mod idx;
mod known;
mod layout;
mod loader;
mod noise;
mod numpy;
mod origin;
mod parquet;
mod pixels;
mod protocol;
pub(crate) mod stand_ins;
mod svhn;
mod tiny_imagenet;
mod unknown;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

#[cfg(feature = "files")]
use sha2::{Digest, Sha256};

#[cfg(feature = "files")]
use crate::files::checksum;
#[cfg(feature = "files")]
pub use crate::files::download::FetchEvent;
use crate::{
    error::{Error, Result},
    image::Input,
    text::{composed, few, on_one_line, path_text},
};
use arrays::Arrays;
pub use catalog::{DataFolder, Download, PublishedSet, Role, SETS};
pub(crate) use copies::Copies;
pub use degradation::Degradation;
#[cfg(any(feature = "export", feature = "train"))]
pub(crate) use draws::{leaving_classes, shuffled};
#[cfg(feature = "files")]
pub use fetch::{Fault, Verified};
#[cfg(feature = "train")]
pub(crate) use folder::add_counts;
pub use folder::{LeftOut, Listing, images_below, is_divided};
pub(crate) use folder::{is_catch_all, is_split_name};
pub use known::{KnownData, TestImages, other_classes_in_words};
use layout::{Part, Wanted};
pub use layout::{exists, layouts, unused_splits};
pub use loader::prefetch;
pub use noise::Noise;
pub use pixels::Readable;
pub use protocol::Protocol;
pub use stand_ins::StandIn;
pub use unknown::{UnknownSet, UnknownSource};

/// The label of images that belong to no known class.
pub const UNKNOWN: i64 = -1;

/// The name of the set of known images.
pub const KNOWN: &str = "known";

/// The row of a report with the mean over the unknown sets.
pub(crate) const MEAN: &str = "mean";
/// The row of all unknown images together.
pub(crate) const ALL: &str = "all";
/// Names that no unknown set and no group may have: those of rows, and that of the known images.
pub(crate) const RESERVED_NAMES: [&str; 3] = [MEAN, ALL, KNOWN];

/// Checks that the names of unknown sets can be those of rows of a report.
///
/// # Errors
/// [`Error::Setting`] if one is reserved, or is that of an earlier set.
pub(crate) fn check_set_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let mut earlier = HashSet::new();
    for name in names {
        let reason = match name {
            _ if RESERVED_NAMES.contains(&name) => "is reserved for a row of the report",
            _ if !earlier.insert(name) => "is the name of another set",
            _ => continue,
        };
        return Err(Error::setting("set name", format!("`{}`", on_one_line(name)), reason));
    }
    Ok(())
}

/// The name of the unknown set made of the [unknown classes](KnownData) of the data set.
pub(crate) const OTHER_CLASSES: &str = "other-classes";

/// A split of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// The training images.
    Train,
    /// The test images.
    Test,
}

impl Split {
    /// The other split.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Train => Self::Test,
            Self::Test => Self::Train,
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "training",
            Self::Test => "test",
        })
    }
}

/// The seed for holding out test images, the same for all trainings so that they can be compared.
const HELD_OUT_TEST_SEED: u64 = 0;

/// Labelled images, all resized to one input. An image is decoded at every access unless it is
/// [kept](Dataset::keep).
#[derive(Debug, Clone)]
pub struct Dataset {
    pub(crate) origin: PathBuf,
    classes: Vec<String>,
    labels: Vec<i64>,
    input: Input,
    is_mirrored: bool,
    degradation: Option<Degradation>,
    source: Arc<Source>,
    left_out: Arc<LeftOut>,
    /// The index of each image in the source.
    positions: Vec<usize>,
    /// The decoded pixels of the first images, neither degraded nor mirrored, filled at first access.
    kept: Arc<[OnceLock<Box<[u8]>>]>,
}

#[derive(Debug)]
enum Source {
    Arrays(Arrays),
    Files(Vec<PathBuf>),
    #[cfg(feature = "parquet")]
    Rows(parquet::Rows),
    Noise(Noise),
}

impl Source {
    /// The number of images.
    fn len(&self) -> usize {
        match self {
            Self::Arrays(arrays) => arrays.len(),
            Self::Files(files) => files.len(),
            #[cfg(feature = "parquet")]
            Self::Rows(rows) => rows.len(),
            Self::Noise(noise) => noise.count,
        }
    }
}

impl Dataset {
    /// Opens a split of a data set of known classes, in one of the recognised [`layouts`]. Images in arrays
    /// are read into memory; those in files are decoded when they are needed. Data without splits counts as a
    /// test split.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::NoLayout`] and [`Error::NoImages`]; [`Error::Dataset`] if a file is missing or
    /// damaged, or the folder of a class has no images; [`Error::Undivided`] if training images are wanted
    /// from data without splits, or test images from data with only training images.
    pub fn known(path: &Path, split: Split, input: &Input) -> Result<Self> {
        Self::with_classes(path, Wanted::Known(split), input)
    }

    fn with_classes(path: &Path, wanted: Wanted, input: &Input) -> Result<Self> {
        let Part { classes, labels, source, left_out } = layout::open(path, wanted)?;
        // As a model has them.
        let classes: Vec<String> = classes.iter().map(|name| composed(name)).collect();
        let unusable = |reason| Err(Error::Dataset { path: path.to_owned(), reason });
        if classes.len() < 2 {
            return unusable(format!("it has {} classes, expected at least 2", classes.len()));
        }
        let mut indices = HashMap::new();
        for (index, name) in classes.iter().enumerate() {
            if let Some(before) = indices.insert(name, index) {
                return unusable(format!(
                    "its classes {before} and {index} are both called `{}`",
                    on_one_line(name)
                ));
            }
        }
        let dataset = Self::new(path, classes, labels, input, source);
        Ok(Self { left_out: Arc::new(left_out), ..dataset })
    }

    /// Opens unknown images: a split of a data set in one of the [`layouts`] that have splits, or all images
    /// in a folder and its subfolders.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoImages`], and [`Error::Dataset`] if a file is damaged.
    pub fn unknown(path: &Path, split: Split, input: &Input) -> Result<Self> {
        let Part { source, left_out, .. } = layout::open(path, Wanted::Unknown(split))?;
        let dataset = Self::without_classes(path, source.len(), input, source);
        Ok(Self { left_out: Arc::new(left_out), ..dataset })
    }

    /// Opens a data set of known classes that has no test split, and divides it into training and test
    /// images. The test images are a random share of all, stratified by class; each class keeps at least one
    /// image for training. Images of equal bytes are on the same side. The test images stay the same as long as
    /// the data does.
    ///
    /// # Errors
    /// Those of [`known`](Self::known); [`Error::Setting`] if the data has a test split of its own, or the
    /// share is not above 0 and below 1; [`Error::EmptiesClass`] if it is too large.
    pub fn divided(path: &Path, share: f64, input: &Input) -> Result<(Self, Self)> {
        Self::undivided(path, share, input)?.divide(share)
    }

    /// What [`divided`](Self::divided) divides.
    fn undivided(path: &Path, share: f64, input: &Input) -> Result<Self> {
        if !(share > 0.0 && share < 1.0) {
            return Err(Error::setting("held-out test", share, "must be a share above 0 and below 1"));
        }
        Self::with_classes(path, Wanted::Divided(share), input)
    }

    /// Training and test images; see [`divided`](Self::divided).
    fn divide(&self, share: f64) -> Result<(Self, Self)> {
        let copies = Copies::within(self)?;
        let distinct = copies.distinct();
        let count = ((share * distinct.len() as f64).round() as usize).max(1);
        let emptied = || Error::EmptiesClass { name: "held-out test", value: share.to_string() };
        let drawn = self.pick(&distinct).hold_out(count, HELD_OUT_TEST_SEED);
        let (test, _) = drawn.map_err(|_| emptied())?;
        let (test, training) = copies.divide(&test.into_iter().map(|index| distinct[index]).collect());
        let (training, test) = (self.pick(&training), self.pick(&test));
        // All images of a class may be copies of another's.
        if training.classes_without_images().count() > self.classes_without_images().count() {
            return Err(emptied());
        }
        Ok((training, test))
    }

    /// Generated noise as unknown images.
    #[must_use]
    pub fn noise(noise: Noise, input: &Input) -> Self {
        let origin = noise.to_string();
        Self::without_classes(Path::new(&origin), noise.count, input, Source::Noise(noise))
    }

    fn without_classes(origin: &Path, count: usize, input: &Input, source: Source) -> Self {
        Self::new(origin, Vec::new(), vec![UNKNOWN; count], input, source)
    }

    fn new(origin: &Path, classes: Vec<String>, labels: Vec<i64>, input: &Input, source: Source) -> Self {
        let (origin, positions) = (origin.to_owned(), (0..labels.len()).collect());
        Self {
            origin,
            classes,
            labels,
            input: *input,
            is_mirrored: false,
            degradation: None,
            source: Arc::new(source),
            left_out: Arc::default(),
            positions,
            kept: Arc::from([]),
        }
    }

    /// The number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The names of the classes; empty for unknown images.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The label of each image: an index into [`classes`](Self::classes), or [`UNKNOWN`].
    #[must_use]
    pub fn labels(&self) -> &[i64] {
        &self.labels
    }

    /// The number of files in its folders without an image extension, and of images next to the class
    /// folders, by extension.
    #[must_use]
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// The name of an image: its path; `FILE#NUMBER` in a file of several, counted from 0, or
    /// `FILE/ARRAY#NUMBER` if that has several arrays; or `gaussian-noise#NUMBER`.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    #[must_use]
    pub fn name(&self, index: usize) -> String {
        let position = self.positions[index];
        match &*self.source {
            Source::Arrays(arrays) => arrays.name(position),
            Source::Files(files) => path_text(&files[position]),
            #[cfg(feature = "parquet")]
            Source::Rows(rows) => rows.name(position),
            Source::Noise(noise) => format!("{}#{position}", noise.name()),
        }
    }

    /// SHA-256, in hexadecimal, of the names of all images in order, or of their positions in arrays. Paths are
    /// relative to the data set, so it may be moved.
    #[cfg(feature = "files")]
    #[must_use]
    pub fn names_checksum(&self) -> String {
        let mut sum = Sha256::new();
        for &position in &self.positions {
            let name = match &*self.source {
                Source::Files(files) => {
                    path_text(files[position].strip_prefix(&self.origin).unwrap_or(&files[position]))
                }
                _ => position.to_string(),
            };
            sum.update(name);
            sum.update([0]);
        }
        checksum::hexadecimal(sum)
    }

    /// The input that images are resized for.
    #[must_use]
    pub fn input(&self) -> &Input {
        &self.input
    }

    /// The folder or file that was opened.
    #[cfg(any(feature = "train", feature = "tract", feature = "onnxruntime"))]
    pub(crate) fn origin(&self) -> &Path {
        &self.origin
    }

    /// The names of the classes without images.
    pub fn classes_without_images(&self) -> impl Iterator<Item = &str> {
        let seen: HashSet<i64> = self.labels.iter().copied().collect();
        let named = self.classes.iter().zip(0..);
        named.filter(move |(_, class)| !seen.contains(class)).map(|(name, _)| name.as_str())
    }

    /// Renumbers the labels to index `classes`, the class names of a model.
    ///
    /// # Errors
    /// [`Error::Classes`] if the model lacks a class of the data set.
    pub fn align(mut self, classes: &[String]) -> Result<Self> {
        let class_indices: HashMap<&String, i64> = classes.iter().zip(0..).collect();
        let class_index = |class: &String| {
            class_indices.get(class).copied().ok_or_else(|| Error::Classes {
                path: self.origin.clone(),
                reason: format!(
                    "`{}` is not one of the known classes: {}",
                    on_one_line(class),
                    few(classes.iter().map(String::as_str))
                ),
            })
        };
        let class_indices = self.classes.iter().map(class_index).collect::<Result<Vec<i64>>>()?;
        for label in &mut self.labels {
            if let Ok(class) = usize::try_from(*label) {
                *label = class_indices[class];
            }
        }
        self.classes = classes.to_vec();
        Ok(self)
    }

    /// The images of these classes, renumbered from 0 in this order, and the others as unknown images.
    fn by_class(&self, known: &[usize]) -> (Self, Self) {
        let mut renumbered = vec![UNKNOWN; self.classes.len()];
        for (number, &class) in (0..).zip(known) {
            renumbered[class] = number;
        }
        let label =
            |index: &usize| usize::try_from(self.labels[*index]).map_or(UNKNOWN, |class| renumbered[class]);
        let (of_known, of_others): (Vec<usize>, Vec<usize>) =
            (0..self.len()).partition(|index| label(index) != UNKNOWN);
        let mut images = self.pick(&of_known);
        images.labels = of_known.iter().map(label).collect();
        images.classes = known.iter().map(|&class| self.classes[class].clone()).collect();
        let mut others = self.pick(&of_others);
        others.labels.fill(UNKNOWN);
        others.classes.clear();
        // The known images keep these counts.
        others.left_out = Arc::default();
        (images, others)
    }

    /// The images at these indices, in their order. No decoded image is kept.
    ///
    /// # Panics
    /// If an index is not below [`len`](Self::len).
    #[must_use]
    pub fn pick(&self, indices: &[usize]) -> Self {
        let (labels, positions) =
            indices.iter().map(|&index| (self.labels[index], self.positions[index])).unzip();
        Self { labels, positions, kept: Arc::from([]), ..self.clone() }
    }
}

/// Why no class may be called `unknown`, in any case.
pub const NO_CLASS: &str =
    "no class may be called `unknown`: that is the verdict on images of no known class";

/// Why a text cannot be the name of a known class, if it cannot.
pub(crate) fn fault_of_class(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("a class needs a name"),
        // A column of verdicts would have both, which look alike.
        _ if name.trim().eq_ignore_ascii_case("unknown") => Some(NO_CLASS),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        arrays::{Form, Piece},
        *,
    };

    /// 32x32 images whose bytes are all the image's index.
    pub(super) fn numbered(labels: &[i64], classes: &[&str]) -> Dataset {
        let records = (0..labels.len()).flat_map(|index| vec![index as u8; 3072]).collect();
        let classes = classes.iter().map(|&name| name.to_owned()).collect();
        let piece = Piece { file: "a.bin".into(), array: None, first: 0, count: labels.len() };
        let form = Form::planes(labels.len(), 32, 32).unwrap();
        let source = Source::Arrays(Arrays::new(vec![piece], form, records));
        Dataset::new(Path::new("numbered"), classes, labels.to_vec(), &Input::default(), source)
    }

    pub(super) fn first_bytes(dataset: &Dataset) -> Vec<u8> {
        (0..dataset.len()).map(|index| dataset.pixels(index).unwrap()[0]).collect()
    }

    #[test]
    fn labels_are_aligned_by_class_name() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let dataset = numbered(&[0, 1, 1, UNKNOWN], &["a", "b"]);
        let aligned = dataset.clone().align(&names(&["b", "c", "a"])).unwrap();
        assert_eq!(aligned.labels(), [2, 0, 0, UNKNOWN]);
        let error = dataset.align(&names(&["b", "c"])).unwrap_err();
        assert!(matches!(error, Error::Classes { .. }), "{error}");
        assert!(error.to_string().contains("`a` is not one of the known classes: `b`, `c`"), "{error}");
    }

    #[test]
    fn a_protocol_divides_ten_classes() {
        let dataset = numbered(&[9, 3, 0, 9, 8], &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
        let protocol: Protocol = "cac-2021/0".parse().unwrap();
        let (known, others) = dataset.by_class(&protocol.known_of(&dataset).unwrap());
        assert_eq!((known.labels(), known.classes()[5].as_str()), (&[5, 0, 5][..], "9"));
        assert_eq!((first_bytes(&known), first_bytes(&others)), (vec![0, 2, 3], vec![1, 4]));
        assert_eq!((others.labels(), others.classes().len()), (&[UNKNOWN; 2][..], 0));
        let error = protocol.known_of(&known).unwrap_err().to_string();
        assert!(error.contains("needs 10 classes, `numbered` has 6"), "{error}");
    }

    #[test]
    fn picked_images_keep_their_names_and_pixels() {
        let dataset = numbered(&[0; 5], &["a"]).pick(&[4, 1, 3]).pick(&[2, 0]);
        assert_eq!((dataset.name(0), dataset.name(1)), ("a.bin#3".to_owned(), "a.bin#4".to_owned()));
        assert_eq!((first_bytes(&dataset), dataset.encoded(1).unwrap()[0]), (vec![3, 4], 4));
        let noise = Dataset::noise(Noise::uniform(9), &Input::of_size(2, 2));
        let picked = noise.pick(&[7]);
        assert_eq!(
            (picked.name(0).as_str(), picked.pixels(0).unwrap()),
            ("uniform-noise#7", noise.pixels(7).unwrap())
        );
    }

    #[test]
    fn equal_images_are_held_out_together() {
        let folder = tempfile::tempdir().unwrap();
        for (class, shade) in [("ants", 0), ("bees", 100)] {
            let class = folder.path().join(class);
            std::fs::create_dir(&class).unwrap();
            for number in 0..40_u8 {
                // The last twenty are copies of the first ten, two of each.
                let value = shade + if number < 20 { number } else { (number - 20) / 2 };
                let image = ::image::RgbImage::from_pixel(8, 8, ::image::Rgb([value; 3]));
                image.save(class.join(format!("{number:02}.bmp"))).unwrap();
            }
        }
        let (training, test) = Dataset::divided(folder.path(), 0.3, &Input::of_size(8, 8)).unwrap();
        assert_eq!(training.len() + test.len(), 80);
        let [training, test] =
            [training, test].map(|set| first_bytes(&set).into_iter().collect::<HashSet<u8>>());
        assert_eq!((training.len(), test.len()), (28, 12), "30 % of the distinct images");
        assert!(training.is_disjoint(&test));

        // The bees have no image of their own.
        for number in 0..40 {
            let image = format!("{number:02}.bmp");
            std::fs::copy(folder.path().join("ants/00.bmp"), folder.path().join("bees").join(image)).unwrap();
        }
        let outcomes: HashSet<bool> = [0.1, 0.5, 0.9]
            .map(|share| match Dataset::divided(folder.path(), share, &Input::of_size(8, 8)) {
                Ok((training, _)) => training.classes_without_images().next().is_none(),
                Err(error) => {
                    assert!(matches!(error, Error::EmptiesClass { .. }), "{error}");
                    false
                }
            })
            .into();
        assert_eq!(outcomes.len(), 2, "refused or with both classes");
    }

    #[cfg(unix)]
    #[test]
    fn paths_that_are_not_utf_8_stay_distinct() {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
        let text = |bytes: &[u8]| path_text(Path::new(OsStr::from_bytes(bytes)));
        assert_eq!([text(b"a/\xea\xee.png"), text("ü\n".as_bytes())], [r"a/\xea\xee.png", "ü\n"]);
    }
}
