//! `toolkit import`

use std::path::{Path, PathBuf};

use anyhow::bail;
use cac::{
    cac::{AnchorKind, Loss},
    dataset::{Dataset, open_training},
    import::{self, Calibration},
    manifest::Input,
    weights::{Published, Weights},
};

use super::{check_folder, export};
use crate::{
    cli::{ImportArgs, published_names},
    progress::{Progress, say},
};

/// Writes the model of weights that others have trained.
pub fn run(args: &ImportArgs) -> anyhow::Result<()> {
    check_folder(&args.model)?;
    let start = StartingWeights::find(&args.weights)?;
    let weights = Weights::read(&start.file)?;
    let size = weights.recognize()?.0.fixed_size().unwrap_or(args.size);
    let named = (!args.classes.is_empty()).then_some(&args.classes);
    let mut known = None;
    if let Some(folder) = &args.known {
        let pictures = open_training(folder, args.protocol.as_ref(), size, size)?;
        known = Some(match named {
            Some(classes) => pictures.align(classes)?,
            None => pictures,
        });
    }
    let defaults = Loss::new(args.variant);
    let settings = import::Settings {
        file: args.weights.clone(),
        classes: known.as_ref().map(Dataset::classes).or(named.map(Vec::as_slice)).map(<[String]>::to_vec),
        input: Input {
            height: size,
            width: size,
            mean: args.mean.unwrap_or(start.mean),
            std: args.std.unwrap_or(start.std),
        },
        loss: Loss { magnitude: args.magnitude.unwrap_or(defaults.magnitude), ..defaults },
    };
    let mut checkpoint = import::checkpoint(&weights, &settings)?;
    let calibration = match (&args.file.calibrate, &args.known) {
        (Some(folder), _) | (None, Some(folder)) => {
            export::calibration(&args.file, folder, args.protocol, &checkpoint.manifest)?
        }
        (None, None) => None,
    };
    if let Some(known) = known {
        let count = if args.pictures == 0 { known.len() } else { args.pictures };
        let known = known.pick(&known.draw(count, 0).0)?;
        let means = Calibration {
            pictures: &known,
            class_means: args.variant.anchor_kind() == AnchorKind::ClassMeans && !args.keep_anchors,
            mirrored: !args.no_mirror,
            provider: args.provider,
        };
        let passes = if means.class_means && means.mirrored { 2 } else { 1 };
        let mut bar = Progress::new("calibrating".to_owned(), passes * known.len());
        let mut done = 0;
        let right = import::calibrate(&mut checkpoint, &means, |more| {
            done += more;
            bar.update(done, "pictures");
        })?;
        bar.finish();
        say(format_args!(
            "{:.2} % of {} training pictures are given their class",
            100.0 * right,
            known.len()
        ));
    }
    export::write(&checkpoint, &args.file, calibration, &args.model, &args.weights)
}

/// The weights that a user means, with the mean and the standard deviation of their pictures.
pub struct StartingWeights {
    pub file: PathBuf,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

impl StartingWeights {
    /// The file at a path, with the usual mean and deviation or, where there is none, the published weights of this
    /// name, which are fetched once.
    pub fn find(text: &Path) -> anyhow::Result<Self> {
        let published = text.to_str().filter(|_| !text.is_file()).and_then(Published::named);
        let Some(published) = published else {
            if !text.exists() && text.extension().is_none() {
                bail!(
                    "`{}` is neither a file nor the name of published weights: {}",
                    text.display(),
                    published_names()
                );
            }
            let Input { mean, std, .. } = Input::default();
            return Ok(Self { file: text.to_owned(), mean, std });
        };
        let &Published { name, mean, std, .. } = published;
        let mut bar: Option<Progress> = None;
        let file = published.fetch(|done, total| {
            let bar = bar.get_or_insert_with(|| Progress::new(format!("fetching {name}"), total));
            bar.update(done, "bytes");
        })?;
        if let Some(bar) = bar {
            bar.finish();
        }
        Ok(Self { file, mean, std })
    }
}
