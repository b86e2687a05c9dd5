//! The speed of the loader alone and of training, in images per second at 32 and at 224 pixels.
//!
//!     cargo bench --features train --bench loader [-- FOLDER]
//!
//! At 32 pixels the images are the demo's, from memory. At 224 pixels they are photographs in
//! FOLDER/train/CLASS and FOLDER/test/CLASS, or generated JPEGs of 400 x 300 pixels. Both are augmented, with
//! one scrambled outlier per four images, which counts as an image. No decoded image is kept.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use cac::{
    arch::Architecture,
    image::Input,
    run::{Device, Recipe, RunFolder, TrainingPrecision},
    train::{Batch, Batches, Event, Images, TrainSettings, train},
};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

/// The number of training steps to time.
const STEPS: usize = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    // Cargo passes `--bench`.
    let given = std::env::args().skip(1).find(|arg| !arg.starts_with("--")).map(PathBuf::from);
    let photographs = match given {
        Some(folder) => folder,
        None => generated(folder.path())?,
    };
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo");
    println!("{} threads", rayon::current_num_threads());
    for (known, size, batch_size) in [(demo, 32, 64), (photographs, 224, 16)] {
        let settings = settings(known, size, batch_size);
        let (loads, consumes) = (loader(&settings)?, training(&settings, folder.path())?);
        println!(
            "{size} pixels: loader {loads:.0} images/s, training {consumes:.1} images/s, ratio {:.1}",
            loads / consumes
        );
    }
    Ok(())
}

fn settings(known: PathBuf, size: usize, batch_size: usize) -> TrainSettings {
    TrainSettings {
        input: Input { height: size, width: size, ..Input::default() },
        recipe: Recipe {
            batch_size,
            precision: TrainingPrecision::fastest_on(Device::Cpu),
            ..Recipe::default()
        },
        memory: 0,
        ..TrainSettings::new(known, Architecture::new("wide-resnet", &[]).expect("a family"))
    }
}

/// The loader's images per second in an epoch, outliers included.
fn loader(settings: &TrainSettings) -> cac::Result<f64> {
    let batches = Batches::open(settings, &AtomicBool::new(false), |_| {})?.expect("nothing asks to stop");
    let start = Instant::now();
    let count = |batch: Batch| match batch.images {
        Images::Pixels(pixels) => pixels.dim().0,
        Images::Features(features) => features.nrows(),
    };
    let counts: cac::Result<Vec<usize>> =
        batches.of_epoch(1, 0, |batches| batches.map(|batch| Ok(count(batch?))).collect());
    let count: usize = counts?.into_iter().sum();
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Training's images per second in the first steps, outliers included.
fn training(settings: &TrainSettings, folder: &Path) -> cac::Result<f64> {
    let run = RunFolder::new(folder.join(format!("run-{}", settings.input.height)));
    let stop = AtomicBool::new(false);
    let mut rate = 0.0;
    train(settings, None, &run, Duration::from_secs(1000), &stop, |event| {
        if let Event::Step { step, images_per_second, .. } = event {
            rate = *images_per_second;
            stop.store(*step >= STEPS, Ordering::Relaxed);
        }
    })?;
    Ok(rate * (1.0 + settings.recipe.outlier_share))
}

/// Generates photographs of two classes: colours that change slowly, with noise.
fn generated(folder: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let root = folder.join("photographs");
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for (split, count) in [("train", 200), ("test", 8)] {
        for class in ["a", "b"] {
            let folder = root.join(split).join(class);
            std::fs::create_dir_all(&folder)?;
            for number in 0..count {
                let waves: [f32; 3] = std::array::from_fn(|_| random.random_range(0.01..0.1));
                let photograph = image::RgbImage::from_fn(400, 300, |x, y| {
                    let noise: f32 = random.random_range(-12.0..12.0);
                    let value = |wave: f32| 128.0 + 90.0 * (wave * (x + 2 * y) as f32).sin() + noise;
                    image::Rgb(waves.map(|wave| value(wave) as u8))
                });
                photograph.save(folder.join(format!("{number}.jpg")))?;
            }
        }
    }
    Ok(root)
}
