//! Features of sets of images in an NPZ file, from which scores are computed without the model.
//!
//! `last_layer/weight` is `[C, F]`, `last_layer/bias` `[C]`, `anchors` `[C, C]`. Each set has `NAME/features`
//! `[N, F]`, `NAME/logits` `[N, C]` and `NAME/label` `[N]`. The sets are `training`, to which scores are fitted,
//! `known`, and the unknown ones.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufRead, BufReader, Seek, Write},
    path::Path,
};

use ndarray::{Array2, Axis};
use zip::ZipArchive;

use super::{Evaluation, ScoredSet};
use crate::{
    data::{KNOWN, leaving_classes},
    error::{Error, Result},
    files::{
        atomic, kind,
        npz::{self, Archive, Array},
    },
    fit::{Examples, Fitter, Sample},
    method::{Anchors, FittedScore, LastLayer, RejectionScore, nearest},
};

/// The name of the training images.
const TRAINING: &str = "training";
/// One training image in this many is set aside to standardise sums.
const STANDARDISING: usize = 5;

/// Features of sets of images, and what follows them in the network.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureFile {
    /// The layer that computes logits.
    pub last_layer: LastLayer,
    /// The anchors.
    pub anchors: Anchors,
    /// Training images, to which scores are fitted; none if that is not needed.
    pub training: FeatureSet,
    /// The known images.
    pub known: FeatureSet,
    /// The unknown sets.
    pub unknown: Vec<FeatureSet>,
}

/// The features of a set of images.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FeatureSet {
    /// Its name.
    pub name: String,
    /// `[N, F]`.
    pub features: Array2<f32>,
    /// The true classes `[N]`; negative for unknown images.
    pub labels: Vec<i64>,
}

/// Checks that a file can have unknown sets with these names.
///
/// # Errors
/// [`Error::Setting`] if a name is that of another set of the file.
pub fn check_names(unknown: &[&str]) -> Result<()> {
    match unknown.iter().find(|&&name| [TRAINING, KNOWN].contains(&name)) {
        Some(name) => Err(Error::setting("set name", format!("`{name}`"), "is reserved in feature files")),
        None => Ok(()),
    }
}

impl FeatureFile {
    /// A score, fitted to the training images with the limit of [`fit`](crate::fit::fit). One image in five,
    /// unless it is the last of its class, is set aside to standardise a sum.
    ///
    /// # Errors
    /// Those of [`fit`](crate::fit::fit), and [`Error::Unstandardised`] if a term is the same for all images.
    pub fn fit(&self, score: RejectionScore, limit: Option<usize>) -> Result<FittedScore> {
        let (standardising, fitting) = self.divided();
        let rows = |indices: &[usize]| self.training.features.select(Axis(0), indices);
        let (known, features) = (rows(&standardising), rows(&fitting));
        let labels: Vec<i64> = fitting.iter().map(|&index| self.training.labels[index]).collect();
        let examples = Examples { features: features.view(), labels: &labels, last_layer: &self.last_layer };
        Fitter { examples, known: &known, anchors: &self.anchors, limit }.fit(score)
    }

    /// The training images that standardise, and those that constants are fitted to.
    fn divided(&self) -> (Vec<usize>, Vec<usize>) {
        let labels = &self.training.labels;
        let all = 0..labels.len();
        let standardising: HashSet<usize> =
            leaving_classes(labels, all.clone().step_by(STANDARDISING)).collect();
        all.partition(|index| standardising.contains(index))
    }

    /// The predictions and scores of all sets.
    ///
    /// # Panics
    /// If a score was fitted to other features.
    #[must_use]
    pub fn evaluation(&self, scores: &[FittedScore]) -> Evaluation {
        let scored = |set: &FeatureSet| {
            let sample = Sample::new(&set.features, &self.last_layer, &self.anchors);
            let activations = sample.activations();
            ScoredSet {
                name: set.name.clone(),
                truth: set.labels.clone(),
                predicted: nearest(activations.distances),
                scores: scores.iter().map(|score| score.rejection(&activations).to_vec()).collect(),
                ..ScoredSet::default()
            }
        };
        Evaluation {
            scores: scores.iter().map(FittedScore::score).collect(),
            decision: None,
            known: scored(&self.known),
            unknown: self.unknown.iter().map(scored).collect(),
            skipped: 0,
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::FeatureFile`] if it is not such a file, or its arrays do not fit together.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        let mut file = BufReader::with_capacity(kind::START, file);
        let start = file.fill_buf().map_err(Error::io("read", path))?;
        if !kind::is_zip(start) {
            let what = kind::of(start)
                .map_or("it is not an NPZ file".to_owned(), |what| format!("it is {what}, expected NPZ"));
            return Err(broken(path, what));
        }
        let mut archive = ZipArchive::new(file).map_err(|error| broken(path, error))?;
        let weight = matrix(path, &mut archive, "last_layer/weight")?;
        let (classes, width) = weight.dim();
        let bias = matrix(path, &mut archive, "last_layer/bias")?;
        let anchors = matrix(path, &mut archive, "anchors")?;
        let unfit = |name: &str| broken(path, format!("array `{name}` does not fit the others"));
        if bias.len() != classes {
            return Err(unfit("last_layer/bias"));
        }
        if width == 0 {
            return Err(unfit("last_layer/weight"));
        }
        if anchors.dim() != (classes, classes) || classes < 2 {
            return Err(unfit("anchors"));
        }
        let mut sets = Vec::new();
        let names = archive.file_names().filter_map(|name| name.strip_suffix("/features.npy"));
        for name in names.map(str::to_owned).collect::<Vec<_>>() {
            let features = matrix(path, &mut archive, &format!("{name}/features"))?;
            let labels = matrix(path, &mut archive, &format!("{name}/label"))?;
            let features = if features.nrows() == 0 { Array2::zeros((0, width)) } else { features };
            if features.ncols() != width {
                return Err(unfit(&format!("{name}/features")));
            }
            let is_known = [TRAINING, KNOWN].contains(&&*name);
            let fits =
                |label: &f32| label.fract() == 0.0 && *label < classes as f32 && (*label >= 0.0) == is_known;
            if labels.len() != features.nrows() {
                return Err(unfit(&format!("{name}/label")));
            }
            if !labels.iter().all(fits) {
                let expected = if is_known { "classes" } else { "negative integers" };
                return Err(broken(path, format!("array `{name}/label` must hold {expected}")));
            }
            let labels = labels.iter().map(|&label| label as i64).collect();
            sets.push(FeatureSet { name, features, labels });
        }
        let mut take = |name: &str| match sets.iter().position(|set: &FeatureSet| set.name == name) {
            Some(index) => Ok(sets.remove(index)),
            None => Err(broken(path, format!("it has no set `{name}`"))),
        };
        let (training, known) = (take(TRAINING)?, take(KNOWN)?);
        let last_layer = LastLayer { weight, bias: bias.into_iter().collect() };
        Ok(Self { last_layer, anchors: Anchors::from_rows(anchors), training, known, unknown: sets })
    }

    /// Writes a file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        atomic::stream(path, |file| self.write_to(file))
    }

    fn write_to(&self, file: impl Write + Seek) -> io::Result<()> {
        let mut archive = npz::Writer::new(file);
        archive.add_matrix("last_layer/weight", self.last_layer.weight.view())?;
        archive.add("last_layer/bias", &npz::vector(self.last_layer.bias.clone())?)?;
        archive.add_matrix("anchors", self.anchors.to_rows().view())?;
        let unknown = self.unknown.iter().map(|set| (set.name.as_str(), set));
        for (name, set) in [(TRAINING, &self.training), (KNOWN, &self.known)].into_iter().chain(unknown) {
            archive.add_matrix(&format!("{name}/features"), set.features.view())?;
            let logits = self.last_layer.logits(set.features.view());
            archive.add_matrix(&format!("{name}/logits"), logits.view())?;
            archive.add(&format!("{name}/label"), &npz::vector(set.labels.clone())?)?;
        }
        archive.finish()
    }
}

fn broken(path: &Path, reason: impl ToString) -> Error {
    Error::FeatureFile { path: path.to_owned(), reason: reason.to_string() }
}

/// A matrix of finite numbers; a vector is one row.
fn matrix(path: &Path, archive: &mut Archive, name: &str) -> Result<Array2<f32>> {
    let missing = || broken(path, format!("it has no array `{name}`: it is not a feature file"));
    let unreadable = |reason| broken(path, reason);
    let array = Array::open(archive, name).map_err(unreadable)?.ok_or_else(missing)?;
    let shape = match array.shape[..] {
        [columns] => [1, columns as usize],
        [rows, columns] => [rows as usize, columns as usize],
        _ => return Err(broken(path, format!("array `{name}` has shape {:?}", array.shape))),
    };
    let values = array.values(true).and_then(|values| {
        values.map(|value| value.map(|value| value as f32)).collect::<Result<Vec<f32>, _>>()
    });
    let values = values.map_err(unreadable)?;
    if values.iter().any(|value| !value.is_finite()) {
        return Err(broken(
            path,
            format!("array `{name}` holds NaN, an infinity or a number that float32 cannot hold"),
        ));
    }
    Array2::from_shape_vec(shape, values).map_err(|error| broken(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr2;

    fn example() -> FeatureFile {
        let set = |name: &str, count: usize, labels: Vec<i64>| FeatureSet {
            name: name.to_owned(),
            features: Array2::from_shape_fn((count, 3), |(row, column)| (row * 3 + column) as f32 / 8.0),
            labels,
        };
        FeatureFile {
            last_layer: LastLayer {
                weight: arr2(&[[1.0, 0.0, 0.5], [0.0, 1.0, -0.5]]),
                bias: vec![0.25, -1.0],
            },
            anchors: Anchors::from_rows(arr2(&[[5.0, 1.0], [0.0, 5.0]])),
            training: set(TRAINING, 4, vec![0, 1, 0, 1]),
            known: set(KNOWN, 2, vec![1, 0]),
            unknown: vec![set("b/c", 1, vec![-1]), set("a", 2, vec![-1, -1])],
        }
    }

    #[test]
    fn features_survive_a_round_trip_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features.npz");
        let file = example();
        file.write(&path).unwrap();
        assert_eq!(FeatureFile::read(&path).unwrap(), file);
    }

    #[test]
    fn scores_follow_from_features() {
        let file = example();
        let evaluation = file.evaluation(&[crate::method::LogitScore::MaxLogit.into()]);
        let logits = file.last_layer.logits(file.unknown[1].features.view());
        let greatest: Vec<f32> = logits.rows().into_iter().map(|row| -row[0].max(row[1])).collect();
        assert_eq!(evaluation.unknown[1].scores, [greatest]);
        assert_eq!(evaluation.known.truth, [1, 0]);
        assert_eq!(file.training.labels, [0, 1, 0, 1]);
        assert_eq!(file.divided(), (vec![0], vec![1, 2, 3]));
        let alone = FeatureSet { labels: vec![0, 1, 1, 1], ..file.training.clone() };
        let alone = FeatureFile { training: alone, ..file };
        assert_eq!(alone.divided(), (vec![], vec![0, 1, 2, 3]), "an image of each class");
    }

    #[test]
    fn files_with_invalid_arrays_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features.npz");
        let refused = |change: &dyn Fn(&mut FeatureFile)| {
            let mut file = example();
            change(&mut file);
            file.write(&path).unwrap();
            FeatureFile::read(&path).unwrap_err().to_string()
        };
        assert!(refused(&|file| file.last_layer.bias[0] = f32::NAN).contains("`last_layer/bias` holds NaN"));
        assert!(
            refused(&|file| file.training.features[[0, 0]] = f32::INFINITY)
                .contains("`training/features` holds")
        );
        assert!(refused(&|file| file.known.labels[0] = 2).contains("`known/label` must hold classes"));
        assert!(refused(&|file| file.unknown[0].labels.clear()).contains("`b/c/label` does not fit"));
        assert!(refused(&|file| file.training.labels[0] = -1).contains("`training/label` must hold classes"));
        assert!(
            refused(&|file| file.unknown[0].labels[0] = 1)
                .contains("`b/c/label` must hold negative integers")
        );
        assert!(check_names(&["near", "far"]).is_ok());
        for name in [TRAINING, KNOWN] {
            assert!(check_names(&["near", name]).unwrap_err().to_string().contains(name));
        }
        // Files that this writer never writes.
        let replaced = |name: &str, array: Option<Vec<u8>>| {
            let (mut old, mut written) = (io::Cursor::new(Vec::new()), io::Cursor::new(Vec::new()));
            example().write_to(&mut old).unwrap();
            let mut old = ZipArchive::new(old).unwrap();
            let mut new = npz::Writer::new(&mut written);
            for index in 0..old.len() {
                let mut entry = old.by_index(index).unwrap();
                let old_name = entry.name().trim_end_matches(".npy").to_owned();
                let mut bytes = Vec::new();
                io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
                match &array {
                    Some(array) if old_name == name => new.add(&old_name, array).unwrap(),
                    None if old_name.starts_with(name) => {}
                    _ => new.add(&old_name, &bytes).unwrap(),
                }
            }
            new.finish().unwrap();
            std::fs::write(&path, written.into_inner()).unwrap();
            FeatureFile::read(&path).unwrap_err().to_string()
        };
        for set in [TRAINING, KNOWN] {
            assert!(replaced(set, None).contains(&format!("it has no set `{set}`")));
        }
        let none = |rows: usize| {
            let mut bytes = Vec::new();
            npz::write::<f32>(&mut bytes, &[rows as u64, 0], []).unwrap();
            Some(bytes)
        };
        assert!(replaced("last_layer/weight", none(2)).contains("`last_layer/weight` does not fit"));
        assert!(replaced("known/features", none(2)).contains("`known/features` does not fit"));
        assert!(
            replaced("known/label", Some(npz::vector(vec![0.0, 0.5]).unwrap()))
                .contains("`known/label` must hold classes")
        );
        std::fs::write(&path, b"label,score\n").unwrap();
        let error = FeatureFile::read(&path).unwrap_err();
        assert!(
            matches!(error, Error::FeatureFile { .. })
                && error.to_string().ends_with(": it is not an NPZ file"),
            "{error}"
        );
    }
}
