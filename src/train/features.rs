//! Features of frozen layers: the last layer's input, computed once per image, in a file of the run folder.
//!
//! The file is a NumPy array, `[rows, features]` in float32, and the SHA-256 of that. Its name has a checksum of
//! everything that the features depend on, so an intact file with the name of a run's features holds them.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    ops::ControlFlow::{self, Break, Continue},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use ndarray::{Array2, Array4};
use npyz::{DType, WriterBuilder};
use rayon::prelude::*;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    Batches, Event,
    batches::{Purpose, Set},
    scramble::{self, scramble},
};
use crate::{
    data::prefetch,
    error::{Error, Result},
    files::{atomic, checksum, npy},
    run::{Device, RunFolder},
    weights::Weights,
};

/// The version of the layout of the file, and of what its name's checksum covers.
const VERSION: u32 = 2;
/// The length of the SHA-256 at the end of the file, in bytes.
const SUM: usize = 32;
/// Images evaluated at once.
const BATCH: usize = 16;
/// Rows read at once.
const READ: usize = 256;
/// The smallest standard deviation to divide by, as a share of that of all features: a feature that hardly
/// varies among training images must not dominate in other images.
const MIN_DEVIATION: f64 = 1e-3;

/// The view of an image from which features are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// As it is.
    Plain,
    /// Flipped horizontally.
    Mirrored,
    /// As an outlier.
    Scrambled,
}

/// The rows of a set; those of an image are adjacent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    set: Set,
    images: usize,
    views: Vec<View>,
    /// The first row.
    start: usize,
}

/// The features of all sets, on disk, and their mean and standard deviation in training.
pub(super) struct FrozenFeatures {
    path: PathBuf,
    file: Mutex<File>,
    /// The offset of the first value in the file.
    start: u64,
    blocks: Vec<Block>,
    mean: Vec<f32>,
    deviation: Vec<f32>,
}

/// The frozen layers of a network.
pub(super) struct FrozenLayers<'a, Open> {
    /// Their tensors.
    pub weights: &'a Weights,
    /// The number of features.
    pub width: usize,
    /// Makes the function from images `[N, 3, H, W]` to features `[N, width]`; called only if there are
    /// none.
    pub open: Open,
}

/// The rows that a run needs.
fn blocks(batches: &Batches) -> Vec<Block> {
    let recipe = &batches.settings.recipe;
    let mirrored = recipe.mirrors().then_some(View::Mirrored);
    let scrambled = recipe.outliers.are_scrambled().then_some(View::Scrambled);
    let mut start = 0;
    let block = |set: Set| {
        let views: Vec<View> = match set {
            Set::Known => [Some(View::Plain), mirrored, scrambled].into_iter().flatten().collect(),
            Set::Outliers => [Some(View::Plain), mirrored].into_iter().flatten().collect(),
            Set::Test | Set::Unknown(_) => vec![View::Plain],
        };
        let images = batches.dataset(set).len();
        let block = Block { set, images, start, views };
        start += images * block.views.len();
        block
    };
    batches.sets().map(block).collect()
}

/// The checksum of everything that the features depend on.
fn key(batches: &Batches, blocks: &[Block], weights: &Weights) -> String {
    let settings = batches.settings;
    let is_scrambled = settings.recipe.outliers.are_scrambled();
    let facts = json!({
        "version": VERSION,
        // Decoding and resizing may differ between releases.
        "toolkit": env!("CARGO_PKG_VERSION"),
        "architecture": settings.architecture,
        "input": settings.input,
        "device": if settings.device == Device::Cpu { "cpu" } else { "cuda" },
        "libtorch": option_env!("CAC_LIBTORCH"),
        "views": blocks.iter().map(|block| block.views.len()).collect::<Vec<_>>(),
        "scrambled": is_scrambled.then_some((scramble::VERSION, settings.recipe.seed)),
        "training": batches.contents.checksum,
        "tests": batches.contents.tests_checksum,
    });
    let mut sum = Sha256::new_with_prefix(facts.to_string());
    for name in weights.names() {
        sum.update(name);
        let values = &weights.get(name).expect("a tensor of this name").values;
        values.iter().for_each(|value| sum.update(value.to_le_bytes()));
    }
    checksum::hexadecimal(sum)
}

impl FrozenFeatures {
    /// The features of a run: read from its folder or a sibling folder, or else computed. `None` if asked to
    /// stop.
    ///
    /// # Errors
    /// [`Error::Io`], and those of reading images and of the layers.
    pub fn of_run<Evaluate: Fn(&Array4<u8>) -> Result<Vec<f32>>>(
        batches: &Batches,
        layers: &FrozenLayers<impl Fn() -> Result<Evaluate>>,
        run: &RunFolder,
        stop: &AtomicBool,
        observe: &mut dyn FnMut(&Event),
    ) -> Result<Option<Self>> {
        let (blocks, width) = (blocks(batches), layers.width);
        let path = run.features(&key(batches, &blocks, layers.weights));
        let open = |path: &Path| Self::open(path, blocks.clone(), width);
        let intact = |path: &Path| match open(path)? {
            Some(features) if features.is_intact()? => Ok(Some(features)),
            _ => Result::Ok(None),
        };
        let mut found = intact(&path)?;
        if found.is_none() {
            // Those of another run may be damaged or out of reach.
            let is_whole = |file: &PathBuf| matches!(intact(file), Ok(Some(_)));
            let linked = run
                .beside(&path)
                .into_iter()
                .find(|file| is_whole(file) && atomic::link(file, &path).is_ok());
            if let Some(file) = linked {
                observe(&Event::FeaturesFound { file });
                found = open(&path)?;
            }
        }
        if let Some(features) = found {
            return features.measured(batches).map(Some);
        }
        let evaluate = (layers.open)()?;
        let written = atomic::write_with(&path, |file| {
            let mut summed = Summed { file, sum: Sha256::new() };
            let array = Array { path: &path, file: &mut summed };
            let computed = array.compute(batches, &blocks, width, evaluate, stop, observe)?;
            let Summed { file, sum } = summed;
            file.write_all(&sum.finalize()).map_err(Error::io("write", &path))?;
            Ok(computed)
        })?;
        if written.is_break() {
            return Ok(None);
        }
        let damaged = || Error::io("read", &path)(io::ErrorKind::InvalidData.into());
        open(&path)?.ok_or_else(damaged)?.measured(batches).map(Some)
    }

    /// Opens a complete file, whose checksum is not compared; `None` if it is missing, or damaged otherwise.
    fn open(path: &Path, blocks: Vec<Block>, width: usize) -> Result<Option<Self>> {
        let unreadable = Error::io("read", path);
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        let Ok(array) = npy::open(&mut file) else { return Ok(None) };
        let rows = blocks.last().map_or(0, |block| block.start + block.images * block.views.len());
        let is_meant = npy::kind(&array.dtype()) == ("f", 4) && array.shape() == [rows as u64, width as u64];
        let start = file.stream_position().map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let is_whole = length == start + (4 * rows * width + SUM) as u64;
        if !is_meant || !is_whole {
            return Ok(None);
        }
        let (path, file) = (path.to_owned(), Mutex::new(file));
        Ok(Some(Self { path, file, start, blocks, mean: vec![0.0; width], deviation: vec![1.0; width] }))
    }

    /// Whether the file ends in the SHA-256 of all bytes before it.
    fn is_intact(&self) -> Result<bool> {
        let compare = || {
            let mut file = self.file.lock().expect("no reader panics");
            let length = file.metadata()?.len().saturating_sub(SUM as u64);
            file.seek(SeekFrom::Start(0))?;
            let mut nowhere = io::sink();
            let mut summed = Summed { file: &mut nowhere, sum: Sha256::new() };
            io::copy(&mut Read::by_ref(&mut *file).take(length), &mut summed)?;
            let mut stated = [0; SUM];
            file.read_exact(&mut stated)?;
            Ok(summed.sum.finalize()[..] == stated)
        };
        compare().map_err(Error::io("read", &self.path))
    }

    /// The row of an image in a set; `None` if it was not computed in this view.
    pub fn find(&self, set: Set, index: usize, view: View) -> Option<usize> {
        let block = self.blocks.iter().find(|block| block.set == set)?;
        let view_index = block.views.iter().position(|&other| other == view)?;
        Some(block.start + index * block.views.len() + view_index)
    }

    /// The row of an image in a set and a view of the run.
    pub fn row(&self, set: Set, index: usize, view: View) -> usize {
        self.find(set, index, view).expect("a set and a view of the run")
    }

    /// Rows `[N, features]`, standardised.
    pub fn rows(&self, rows: &[usize]) -> Result<Array2<f32>> {
        let mut values = self.raw_rows(rows)?;
        for mut row in values.rows_mut() {
            let scale = self.mean.iter().zip(&self.deviation);
            row.iter_mut()
                .zip(scale)
                .for_each(|(value, (mean, deviation))| *value = (*value - mean) / deviation);
        }
        Ok(values)
    }

    /// Rows `[N, features]` as the layers compute them.
    pub fn raw_rows(&self, rows: &[usize]) -> Result<Array2<f32>> {
        let width = self.mean.len();
        let mut values = Vec::with_capacity(rows.len() * width);
        let mut file = self.file.lock().expect("no reader panics");
        let mut bytes = vec![0; 4 * width];
        for &row in rows {
            let offset = self.start + (4 * row * width) as u64;
            file.seek(SeekFrom::Start(offset))
                .and_then(|_| file.read_exact(&mut bytes))
                .map_err(Error::io("read", &self.path))?;
            values.extend(bytes.as_chunks().0.iter().map(|&chunk| f32::from_le_bytes(chunk)));
        }
        Ok(Array2::from_shape_vec((rows.len(), width), values).expect("the values match the shape"))
    }

    /// Sets mean and standard deviation to those of the training images.
    fn measured(mut self, batches: &Batches) -> Result<Self> {
        let known = &self.blocks[0];
        let views = known.views.iter().filter(|&&view| view != View::Scrambled);
        let rows: Vec<usize> = batches
            .training
            .iter()
            .flat_map(|&index| views.clone().map(move |&view| (index, view)))
            .map(|(index, view)| self.row(Set::Known, index, view))
            .collect();
        let width = self.mean.len();
        let (mut sums, mut squares) = (vec![0.0; width], vec![0.0; width]);
        for rows in rows.chunks(READ) {
            for row in self.rows(rows)?.rows() {
                for ((&value, sum), square) in row.iter().zip(&mut sums).zip(&mut squares) {
                    *sum += f64::from(value);
                    *square += f64::from(value).powi(2);
                }
            }
        }
        let count = rows.len() as f64;
        let variance = |(sum, square): (&f64, &f64)| (square / count - (sum / count).powi(2)).max(0.0);
        let variances: Vec<f64> = sums.iter().zip(&squares).map(variance).collect();
        let usual = (variances.iter().sum::<f64>() / width as f64).sqrt();
        // All features may be constant.
        let least = if usual > 0.0 { MIN_DEVIATION * usual } else { 1.0 };
        self.mean = sums.iter().map(|sum| (sum / count) as f32).collect();
        self.deviation = variances.iter().map(|variance| variance.sqrt().max(least) as f32).collect();
        Ok(self)
    }

    /// Turns a last layer for standardised features, weight `[C, features]` and bias `[C]`, into one for raw
    /// features.
    pub fn fold(&self, weight: &mut [f32], bias: &mut [f32]) {
        for (weights, bias) in weight.chunks_exact_mut(self.mean.len()).zip(bias) {
            let mut shift = 0.0;
            for ((weight, &mean), &deviation) in weights.iter_mut().zip(&self.mean).zip(&self.deviation) {
                let scaled = f64::from(*weight) / f64::from(deviation);
                shift += scaled * f64::from(mean);
                *weight = scaled as f32;
            }
            *bias = (f64::from(*bias) - shift) as f32;
        }
    }
}

/// A file and the checksum of what is written to it.
struct Summed<'a> {
    file: &'a mut dyn Write,
    sum: Sha256,
}

impl Write for Summed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A features file being written.
struct Array<'a> {
    path: &'a Path,
    file: &'a mut dyn Write,
}

impl Array<'_> {
    /// Writes the features of all blocks; breaks if asked to stop.
    fn compute(
        self,
        batches: &Batches,
        blocks: &[Block],
        width: usize,
        evaluate: impl Fn(&Array4<u8>) -> Result<Vec<f32>>,
        stop: &AtomicBool,
        observe: &mut dyn FnMut(&Event),
    ) -> Result<ControlFlow<()>> {
        let of_file = Error::io("write", self.path);
        let views = |block: &Block| block.images * block.views.len();
        let images: usize = blocks.iter().map(views).sum();
        let dtype = DType::Plain("<f4".parse().expect("a NumPy type"));
        let shape = [images as u64, width as u64];
        let options = npyz::WriteOptions::<f32>::new().dtype(dtype).shape(&shape);
        let mut writer = options.writer(self.file).begin_nd().map_err(of_file)?;
        let mut done = 0;
        for block in blocks {
            let indices: Vec<usize> = (0..block.images).collect();
            let make = |indices: &[usize]| seen(batches, block, indices);
            let computed = prefetch(indices.chunks(BATCH), make, |made| {
                for images_of_views in made {
                    if stop.load(Ordering::Relaxed) {
                        return Ok(Break(()));
                    }
                    let of_views =
                        images_of_views?.iter().map(&evaluate).collect::<Result<Vec<Vec<f32>>>>()?;
                    for image in 0..of_views[0].len() / width {
                        for features in &of_views {
                            let row = &features[image * width..][..width];
                            writer.extend(row.iter().copied()).map_err(of_file)?;
                            done += 1;
                        }
                    }
                    observe(&Event::Features { done, images });
                }
                Ok(Continue(()))
            })?;
            if computed.is_break() {
                return Ok(Break(()));
            }
        }
        writer.finish().map_err(of_file)?;
        Ok(Continue(()))
    }
}

/// Flips images horizontally.
pub(super) fn mirror(images: &mut Array4<u8>) {
    let width = images.dim().3;
    let pixels = images.as_slice_mut().expect("a batch is contiguous");
    pixels.par_chunks_exact_mut(width).for_each(<[u8]>::reverse);
}

/// Images of a block in each of its views.
fn seen(batches: &Batches, block: &Block, indices: &[usize]) -> Result<Vec<Array4<u8>>> {
    let dataset = batches.dataset(block.set);
    let plain = dataset.batch(indices)?;
    let (_, _, height, width) = plain.dim();
    let in_view = |view: &View| {
        let mut images = plain.clone();
        match view {
            View::Plain => {}
            View::Mirrored => mirror(&mut images),
            View::Scrambled => {
                let pixels = images.as_slice_mut().expect("a batch is contiguous");
                let images = pixels.par_chunks_exact_mut(dataset.image_len()).zip(indices);
                images.for_each(|(image, &index)| {
                    // No epoch has the number 0.
                    scramble(image, height, width, &mut batches.random(0, &Purpose::Outlier(index)));
                });
            }
        }
        images
    };
    Ok(block.views.iter().map(in_view).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{arch::FAMILIES, image::Input, run::Outliers, train::TrainSettings};
    use std::{path::Path, sync::atomic::AtomicBool};

    #[test]
    fn features_are_those_of_the_same_weights_images_and_seed() {
        let key = |change: &dyn Fn(&mut TrainSettings), weight: f32| {
            let mut settings = TrainSettings {
                input: Input { height: 16, width: 16, ..Input::default() },
                ..TrainSettings::new(
                    concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo"),
                    FAMILIES[0].default_member(),
                )
            };
            settings.recipe.outliers = Outliers::None;
            change(&mut settings);
            let batches = Batches::open(&settings, &AtomicBool::new(false), |_| {}).unwrap().unwrap();
            let mut weights = Weights::new(Path::new("backbone"));
            weights.insert("conv.weight", &[1], vec![weight]);
            super::key(&batches, &blocks(&batches), &weights)
        };
        let same = key(&|_| (), 0.5);
        assert_eq!(same, key(&|settings| settings.recipe.seed = 9, 0.5), "nothing is random");
        assert_ne!(same, key(&|_| (), 0.25), "another backbone");
        assert_ne!(same, key(&|settings| settings.input.mean[1] = 0.25, 0.5), "another normalisation");
        let scrambled = |seed| {
            key(
                &|settings| {
                    settings.recipe.outliers = Outliers::Scrambled;
                    settings.recipe.seed = seed;
                },
                0.5,
            )
        };
        assert_ne!(same, scrambled(0));
        assert_ne!(scrambled(0), scrambled(1), "other outliers");
    }

    #[test]
    fn a_folded_layer_takes_unstandardised_features() {
        let features = FrozenFeatures {
            path: PathBuf::new(),
            file: Mutex::new(tempfile::tempfile().unwrap()),
            start: 0,
            blocks: Vec::new(),
            mean: vec![2.0, -1.0, 0.5],
            deviation: vec![0.5, 4.0, 1.0],
        };
        let layer = |weight: &[f32], bias: &[f32], row: [f32; 3]| -> Vec<f32> {
            let product = |weights: &[f32]| weights.iter().zip(row).map(|(w, x)| w * x).sum::<f32>();
            weight.chunks_exact(3).zip(bias).map(|(weights, bias)| product(weights) + bias).collect()
        };
        let (mut weight, mut bias) = (vec![1.0, -2.0, 0.25, 0.5, 3.0, -1.0], vec![0.125, -4.0]);
        let row = [3.0, 7.0, -1.5];
        let standardised = [(3.0 - 2.0) / 0.5, (7.0 + 1.0) / 4.0, -1.5 - 0.5];
        let expected = layer(&weight, &bias, standardised);
        features.fold(&mut weight, &mut bias);
        assert_eq!(layer(&weight, &bias, row), expected);
    }
}
