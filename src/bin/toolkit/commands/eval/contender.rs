//! What is evaluated: a model on a provider.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::bail;
use cac::{
    Scorer,
    data::{Dataset, TestImages},
    eval::{
        self, DatasetOutputs, EvaluateOptions, Evaluated, Evaluation, evaluate,
        feature_file::{FeatureFile, FeatureSet},
    },
    method::{Anchors, LastLayer, RejectionScore},
    model::{Decision, Inspection, with_features},
    text::shown,
};

use super::{
    super::{read_model, with_threshold},
    fits_scores, fitted, is_measured,
};
use crate::{
    cli::{self, EvaluationArgs, ScoreArg, SignatureArgs},
    terminal::{Progress, say},
};

/// A model on a provider.
pub struct Contender<'a> {
    pub name: String,
    /// `None` for the built-in model.
    pub model: Option<&'a Path>,
    /// SHA-256 of the model file.
    pub sha256: String,
    /// The anchors and the last layer in the file.
    pub anchors: Option<Anchors>,
    last_layer: Option<LastLayer>,
    pub scorer: Scorer,
}

impl<'a> Contender<'a> {
    /// Opens every model on every provider, and checks that they can be compared. Models without the output
    /// `features` get it if needed.
    pub fn open_all(models: &'a [PathBuf], args: &EvaluationArgs) -> anyhow::Result<Vec<Self>> {
        let models: Vec<Option<&Path>> = match models {
            [] => vec![None],
            models => models.iter().map(|model| Some(model.as_path())).collect(),
        };
        let mut contenders: Vec<Self> = Vec::new();
        for &model in &models {
            let (bytes, origin) = read_model(model, &SignatureArgs::default())?;
            let Inspection { sha256, anchors, last_layer, manifest, .. } = Inspection::of(&bytes, &origin)?;
            // `--keep-features` keeps those of the first.
            let needs_features = (args.keep_features.is_some() && contenders.is_empty())
                || fits_scores(&args.score, manifest.decision.score);
            let bytes = if needs_features { with_features(bytes, &origin)? } else { bytes };
            for &provider in &args.provider {
                let name = match model {
                    Some(model) if models.len() > 1 => format!("{} on {provider}", shown(model)),
                    _ => provider.to_string(),
                };
                let scorer =
                    with_threshold(Scorer::profiled(bytes.clone(), &origin, provider)?, &args.scorer)?;
                if let Some(first) = contenders.first() {
                    let (one, other) = (first.scorer.decision(), scorer.decision());
                    if let Some(what) = difference(one, other) {
                        bail!("{name} cannot be compared with {}: {what}", first.name);
                    }
                    // The score that is relative to per-class thresholds.
                    let relative = |decision: &Decision| decision.is_per_class().then_some(decision.score);
                    let is_compared =
                        |score| [one, other].iter().all(|model| is_measured(score, model.score, &args.score));
                    let either = [relative(one), relative(other)].into_iter().flatten();
                    if relative(one) != relative(other) && either.into_iter().any(is_compared) {
                        bail!(
                            "only one of {name} and {} has scores relative to a threshold for each class",
                            first.name
                        );
                    }
                }
                let (sha256, anchors, last_layer) = (sha256.clone(), anchors.clone(), last_layer.clone());
                contenders.push(Self { name, model, sha256, anchors, last_layer, scorer });
            }
        }
        Ok(contenders)
    }

    /// The score that the model decides by.
    pub fn own_score(&self) -> RejectionScore {
        self.scorer.decision().score
    }

    /// The last layer and the anchors of a model, and the features of training images.
    pub fn features(&self, images: &Dataset, skip_broken: bool) -> anyhow::Result<FeatureFile> {
        let Self { name, anchors, last_layer, scorer, .. } = self;
        let (Some(anchors), Some(last_layer)) = (anchors, last_layer) else {
            bail!("the anchors or the last layer of {name} do not have the form that this toolkit writes");
        };
        let mut bar = Progress::new("training images".to_owned(), images.len());
        let options = EvaluateOptions { skip_broken, keep_features: true };
        let outputs = eval::outputs(scorer, images, options, |more| bar.advance(more, ""));
        bar.finish();
        let DatasetOutputs { indices, features, .. } = outputs?;
        if indices.len() < images.len() {
            say(format_args!(
                "left out training images that cannot be read: {}",
                images.len() - indices.len()
            ));
        }
        let features = features.expect("the features are an output");
        let labels = indices.iter().map(|&index| images.labels()[index]).collect();
        let training = FeatureSet { features, labels, ..FeatureSet::default() };
        Ok(FeatureFile {
            last_layer: last_layer.clone(),
            anchors: anchors.clone(),
            training,
            known: FeatureSet::default(),
            unknown: Vec::new(),
        })
    }

    /// The scores to evaluate; those with constants are fitted to the features of training images.
    pub fn scores(
        &self,
        args: &[ScoreArg],
        features: Option<&FeatureFile>,
    ) -> anyhow::Result<Vec<Evaluated>> {
        let own = self.own_score();
        let is_all = args.contains(&ScoreArg::All);
        let mut scores = cli::scores(args, Some(own));
        if scores.is_empty() {
            scores.push(own);
        }
        let mut evaluated = Vec::new();
        for score in scores {
            if score == own {
                evaluated.push(Evaluated::Own);
            } else {
                evaluated.extend(fitted(features, score, is_all)?.map(Evaluated::Other));
            }
        }
        Ok(evaluated)
    }

    /// Scores all images behind a progress bar. Also returns the seconds that this took.
    pub fn evaluate(
        &self,
        images: &TestImages,
        scores: &[Evaluated],
        options: EvaluateOptions,
    ) -> cac::Result<(Evaluation, f64)> {
        let start = Instant::now();
        let (mut bar, mut done) = (Progress::new(format!("scoring with {}", self.name), images.len()), 0);
        let evaluation = evaluate(&self.scorer, images, scores, options, |more| {
            done += more;
            let rate = done as f64 / start.elapsed().as_secs_f64();
            bar.update(done, &format!("{rate:.0} images/s"));
        });
        bar.finish();
        Ok((evaluation?, start.elapsed().as_secs_f64()))
    }
}

/// Why two models cannot be compared, if they cannot.
fn difference(one: &Decision, other: &Decision) -> Option<String> {
    if one.classes != other.classes {
        return Some("their classes differ".to_owned());
    }
    if !one.input.has_same_pixels(&other.input) {
        let [one, other] = [one, other].map(|decision| decision.input.resizing());
        return Some(format!("they resize images differently: {other}; {one}"));
    }
    None
}
