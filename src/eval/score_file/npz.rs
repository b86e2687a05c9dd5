//! Score files in NPZ.

use std::{
    fs::File,
    io::{self, BufReader},
    path::Path,
};

use zip::ZipArchive;

use super::{super::Evaluation, Entry, broken, whole};
use crate::{
    error::{Error, Result},
    files::{
        atomic::Unfinished,
        kind,
        npz::{self, Array, Numbers},
    },
    text::few,
};

/// Reads the entries, or only their scores if they are not labelled. Returns whether the scores are in single
/// precision.
pub(super) fn read(
    path: &Path,
    column: &str,
    is_labelled: bool,
    mut take: impl FnMut(Entry) -> Result<()>,
) -> Result<bool> {
    // An archive reads one entry at a time, but three arrays are read in lockstep.
    let open = || {
        let file = File::open(path).map_err(Error::io("read", path))?;
        ZipArchive::new(BufReader::new(file)).map_err(|error| broken(path, error))
    };
    let mut archives = [open()?, open()?, open()?];
    let names: Vec<&str> = archives[0].file_names().collect();
    let mut arrays: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix(".npy")).collect();
    if arrays.is_empty() {
        return Err(broken(path, format!("it is {}, expected CSV or NPZ", kind::of_archive(&names))));
    }
    arrays.sort_unstable();
    let found = few(arrays.into_iter());
    let [scores, labels, predictions] = &mut archives;
    let unreadable = |reason| broken(path, reason);
    let needed = |archive, name| {
        let array = Array::open(archive, name).map_err(unreadable)?;
        array.ok_or_else(|| broken(path, format!("it has no array `{name}`, only {found}")))
    };
    let scores = needed(scores, column)?;
    let (mut label, mut prediction) = (None, None);
    if is_labelled {
        label = Some(needed(labels, "label")?);
        prediction = Array::open(predictions, "prediction").map_err(unreadable)?;
    }
    let others = || label.iter().chain(&prediction);
    if let Some(other) = others().find(|other| other.shape != scores.shape) {
        let shapes = format!("`{column}` {:?}, `{}` {:?}", scores.shape, other.name, other.shape);
        return Err(broken(path, format!("its arrays differ in shape: {shapes}")));
    }
    let is_single = scores.is_single;
    // In the same order, all arrays have an image's values at the same place. Scores alone are in C order.
    let is_mixed = !is_labelled || others().any(|other| other.order != scores.order);
    let scores = scores.values(is_mixed).map_err(unreadable)?;
    let mut labels = label.map(|array| array.values(is_mixed)).transpose().map_err(unreadable)?;
    let mut predictions = prediction.map(|array| array.values(is_mixed)).transpose().map_err(unreadable)?;
    for (index, score) in scores.enumerate() {
        let class = |name: &str, values: &mut Option<Numbers>| {
            let value = values.as_mut().and_then(Iterator::next).transpose().map_err(unreadable)?;
            let wrong =
                |value| broken(path, format!("value {index} of `{name}`: `{value}` is not an integer"));
            value.map(|value| whole(value).ok_or_else(|| wrong(value))).transpose()
        };
        let score = score.map_err(unreadable)?;
        if score.is_nan() {
            return Err(broken(path, format!("value {index} of `{column}`: a score is NaN")));
        }
        let label = class("label", &mut labels)?.unwrap_or_default();
        let prediction = class("prediction", &mut predictions)?;
        take(Entry { set: "", image: "", label, prediction, score })?;
    }
    Ok(is_single)
}

/// Writes the scores with these names.
pub(super) fn write(file: &mut Unfinished, names: &[String], evaluation: &Evaluation) -> io::Result<()> {
    let mut archive = npz::Writer::new(file);
    let images: Vec<&String> = evaluation.sets().flat_map(|set| &set.images).collect();
    archive.add("image", &npz::texts(&images)?)?;
    let labels = evaluation.sets().flat_map(|set| set.truth.iter().copied());
    archive.add("label", &npz::vector(labels.collect::<Vec<i64>>())?)?;
    let predictions = evaluation.sets().flat_map(|set| set.predicted.iter().map(|&class| class as i64));
    archive.add("prediction", &npz::vector(predictions.collect::<Vec<i64>>())?)?;
    for (index, name) in names.iter().enumerate() {
        let scores = evaluation.sets().flat_map(|set| set.scores[index].iter().copied());
        archive.add(name, &npz::vector(scores.collect::<Vec<f32>>())?)?;
    }
    archive.finish()
}
