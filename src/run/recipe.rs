//! The training recipe as plain data, which a model file records, and the schedule that follows from it.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

#[cfg(feature = "train")]
use super::Device;
use crate::{
    arch::Architecture,
    error::{Error, Result},
    method::Variant,
};

/// A training recipe. The defaults were chosen with `benches/recipes.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Passes over the training images, at least 1.
    pub epochs: usize,
    /// Known images per step, at least 1.
    pub batch_size: usize,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// The peak learning rate, positive.
    pub learning_rate: f64,
    /// Whether only the last layer is trained. The layers below keep the weights of the backbone, and compute
    /// the features of each image once.
    pub freeze: bool,
    /// The learning rate of all layers but the last, as a share of `learning_rate`; 0 to 1. With 0 their
    /// parameters stay unchanged.
    pub backbone_rate: f64,
    /// The statistics of batch normalisation in training.
    pub batch_norm: BatchNorm,
    /// The learning-rate schedule.
    pub schedule: Schedule,
    /// Warm-up length in epochs, 0 to below `epochs`. With [`Schedule::OneCycle`] 0 means 30 % of the run.
    pub warm_up: f64,
    /// Decoupled weight decay of convolutions and the last layer (Loshchilov and Hutter, arXiv 1711.05101),
    /// at least 0. A step multiplies them by 1 - learning rate * weight decay.
    pub weight_decay: f64,
    /// The augmentation of training images.
    pub augment: Augment,
    /// Whether the augmentation mirrors half of the images. A mirrored digit or text belongs to no class.
    #[serde(default = "yes")]
    pub mirror: bool,
    /// Probability of each of three degradations of an image of a step, known or an outlier, after its
    /// augmentation: reduced and enlarged again, noise, JPEG compression; 0 to 1. None of them makes a known
    /// image unknown (full-spectrum OOD detection; Yang et al., arXiv 2204.05306).
    #[serde(default)]
    pub degrade: f64,
    /// Probability that an image of a step, known or an outlier, is mixed with fractals after all that (PixMix;
    /// Hendrycks et al., arXiv 2112.05135); 0 to 1.
    #[serde(default)]
    pub pixmix: f64,
    /// Share of the known images of a step, those with the largest loss, to leave out as mislabelled; 0 to
    /// below 1.
    pub trim: f64,
    /// Decay of the exponential moving average (EMA) of the weights, which is tested and saved; 0 to below 1,
    /// 0 for no EMA.
    pub ema: f64,
    /// Unknown images that training keeps away from the anchors.
    pub outliers: Outliers,
    /// Outliers per known image in a step, 0 to 16.
    pub outlier_share: f64,
    /// Weight of the outlier term in the loss; positive if there are outliers.
    pub outlier_weight: f64,
    /// Share of the known training images held out to choose the threshold, the score and the best epoch, 0
    /// to below 1; 0 holds out none. A small share is raised to 58 images, or to 19 if 58 exceed a fifth of all.
    pub held_out: f64,
    /// Number of training images for the class means, drawn at random, at least one of each class; 0 for all.
    pub anchor_images: usize,
    /// Seed of the initial weights, the data order, augmentation, dropout and the choice of held-out images.
    pub seed: u64,
    /// The precision of activations in training.
    pub precision: TrainingPrecision,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            epochs: 10,
            batch_size: 64,
            optimizer: Optimizer::Sgd,
            learning_rate: Optimizer::Sgd.learning_rate(Variant::Paper),
            freeze: false,
            backbone_rate: 1.0,
            batch_norm: BatchNorm::Batch,
            schedule: Schedule::OneCycle,
            warm_up: 0.0,
            weight_decay: 5e-4,
            augment: Augment::Crop,
            mirror: true,
            degrade: 0.0,
            pixmix: 0.0,
            trim: 0.0,
            ema: 0.0,
            outliers: Outliers::Scrambled,
            outlier_share: 0.25,
            outlier_weight: 0.5,
            held_out: 0.02,
            anchor_images: 5000,
            seed: 123,
            precision: TrainingPrecision::F32,
        }
    }
}

/// Recipes of earlier runs do not say that they mirror images.
fn yes() -> bool {
    true
}

/// The number of training images up to which [`Recipe::of_last_layer`] is used for photographs. On 120, 300
/// and 900 photographs of clothes the network is as good or better; on 2,359 it is worse.
pub const FEW_IMAGES: usize = 1000;

/// The momentum if the schedule does not set it.
const MOMENTUM: f64 = 0.9;

impl Recipe {
    /// A network's own recipe, if it has one.
    #[must_use]
    pub fn of_network(network: &Architecture) -> Option<Self> {
        (network.family().name == "cifar-net").then(Self::of_cifar_net)
    }

    /// The recipe that trains the last layer alone, on features of the other layers.
    #[must_use]
    pub fn of_last_layer() -> Self {
        Self {
            epochs: 60,
            learning_rate: 0.02,
            weight_decay: 1.0,
            freeze: true,
            backbone_rate: 0.0,
            batch_norm: BatchNorm::Running,
            augment: Augment::Flip,
            outliers: Outliers::None,
            ..Self::default()
        }
    }

    /// The recipe that trains a `cifar-net`, from random weights or others.
    #[must_use]
    pub fn of_cifar_net() -> Self {
        Self {
            epochs: 8,
            batch_size: 128,
            optimizer: Optimizer::Muon,
            learning_rate: 0.3,
            augment: Augment::Shift,
            degrade: 0.15,
            outlier_share: 0.125,
            ..Self::default()
        }
    }

    /// The recipe that trains all layers of a backbone trained on photographs.
    #[must_use]
    pub fn fine_tuning() -> Self {
        Self {
            epochs: 6,
            batch_size: 32,
            learning_rate: 0.05,
            backbone_rate: 0.2,
            augment: Augment::ResizedCrop,
            outliers: Outliers::None,
            ..Self::default()
        }
    }
}

/// The statistics that batch normalisation uses in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BatchNorm {
    /// Those of the batch, which update the running ones.
    Batch,
    /// The running ones, which stay as they are. Scale and shift are trained.
    Running,
}

impl BatchNorm {
    /// All choices.
    pub const ALL: [Self; 2] = [Self::Batch, Self::Running];
}

/// The precision of activations in training. Weights, optimizer state and evaluation are in single precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainingPrecision {
    /// Single precision. On CUDA cuDNN computes the convolutions of a training in TF32 (10-bit mantissa), as
    /// in PyTorch; the environment variable `NVIDIA_TF32_OVERRIDE=0` turns TF32 off.
    F32,
    /// bfloat16 (7-bit mantissa): half the memory traffic.
    Bf16,
}

impl TrainingPrecision {
    /// All precisions.
    pub const ALL: [Self; 2] = [Self::F32, Self::Bf16];

    /// The faster precision; see [`Device::is_faster_in_bf16`].
    #[cfg(feature = "train")]
    #[must_use]
    pub fn fastest_on(device: Device) -> Self {
        if device.is_faster_in_bf16() { Self::Bf16 } else { Self::F32 }
    }
}

/// The optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// Adam with PyTorch's defaults (Kingma and Ba, arXiv 1412.6980).
    Adam,
    /// Stochastic gradient descent with Nesterov momentum, 0.9 unless the schedule sets it.
    Sgd,
    /// Like [`Sgd`](Self::Sgd), but the steps of all but depthwise convolutions, as matrices with a row per
    /// output, are orthogonalised: their singular values become about a fifth of the learning rate, or ten
    /// times the smaller rate of [`Variant::PytorchOod`], and more if there are more rows than columns
    /// (Muon; Jordan et al., 2024, <https://kellerjordan.github.io/posts/muon>).
    Muon,
}

impl Optimizer {
    /// All optimizers.
    pub const ALL: [Self; 3] = [Self::Adam, Self::Sgd, Self::Muon];

    /// Default peak learning rate. Gradients of pytorch-ood's squared distances are about 50 times as large.
    /// SGD, and Muon for the parameters that it does not make orthogonal, take a smaller rate for them; Adam
    /// is invariant to their scale.
    #[must_use]
    pub fn learning_rate(self, variant: Variant) -> f64 {
        match (self, variant) {
            (Self::Adam, _) => 1e-3,
            (Self::Sgd | Self::Muon, Variant::PytorchOod) => 2e-3,
            (Self::Sgd | Self::Muon, _) => 0.1,
        }
    }
}

/// The factor on Muon's orthogonal steps. Their length does not depend on the scale of the gradients, so the
/// factor undoes the smaller learning rate of pytorch-ood's loss.
#[cfg(feature = "train")]
pub(crate) fn orthogonal_share(variant: Variant) -> f64 {
    let rate = |variant| Optimizer::Muon.learning_rate(variant);
    rate(Variant::Paper) / rate(variant)
}

/// The learning-rate schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Cosine decay to 0.
    Cosine,
    /// Cosine rise from 1/25 of the peak, then cosine decay to 1/250000; the momentum goes from 0.95 to 0.85
    /// and back (Smith and Topin, arXiv 1708.07120; PyTorch's `OneCycleLR`).
    OneCycle,
}

impl Schedule {
    /// All schedules.
    pub const ALL: [Self; 2] = [Self::Cosine, Self::OneCycle];
}

/// Random augmentation of training images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Augment {
    /// No augmentation.
    None,
    /// Random horizontal flip, as in all that follow, unless [`mirror`](Recipe::mirror) is off.
    Flip,
    /// A shift by up to an eighth of the size with black padding.
    Crop,
    /// A shift by up to a sixteenth of the size, with the image reflected at its borders: no edge appears
    /// that a whitening convolution would enhance.
    Shift,
    /// As in the official CAC code: random crop of 80 to 100 % of the area, rotation by up to 10 degrees.
    Affine,
    /// For photographs, as in torchvision's `RandomResizedCrop`: a random box of 50 to 100 % of the area of
    /// the original image, resized to the input.
    ResizedCrop,
}

impl Augment {
    /// All augmentations.
    pub const ALL: [Self; 6] =
        [Self::None, Self::Flip, Self::Crop, Self::Shift, Self::Affine, Self::ResizedCrop];
}

/// Unknown images for training; as text `none`, `scrambled`, a folder or the name of a published data set,
/// or `scrambled,` followed by either.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Outliers {
    /// No outliers.
    #[default]
    None,
    /// Known training images, scrambled anew for every step, or once if the backbone is frozen: pieces shuffled,
    /// one piece repeated, blended into a texture, or warped (negative data augmentation; Sinha et al., arXiv
    /// 2102.05113). For classes that differ in shape.
    Scrambled,
    /// The images of a folder, or the training images of a data set with splits or of a
    /// [published one](crate::data::PublishedSet) by name.
    Folder(PathBuf),
    /// Both in turn.
    ScrambledAndFolder(PathBuf),
}

/// Before a folder, for [`Outliers::ScrambledAndFolder`].
const SCRAMBLED_AND: &str = "scrambled,";

impl Outliers {
    /// Whether some outliers are scrambled training images.
    #[must_use]
    pub fn are_scrambled(&self) -> bool {
        matches!(self, Self::Scrambled | Self::ScrambledAndFolder(_))
    }

    /// The same kinds of outliers, from another folder.
    #[must_use]
    pub fn with_folder(&self, folder: &Path) -> Self {
        match self {
            Self::None | Self::Scrambled => self.clone(),
            Self::Folder(_) => Self::Folder(folder.to_owned()),
            Self::ScrambledAndFolder(_) => Self::ScrambledAndFolder(folder.to_owned()),
        }
    }

    /// The folder that the outliers are read from, or the name of the published data set, if any.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(folder) | Self::ScrambledAndFolder(folder) => Some(folder),
            Self::None | Self::Scrambled => None,
        }
    }
}

impl From<&str> for Outliers {
    fn from(text: &str) -> Self {
        match text {
            "none" => Self::None,
            "scrambled" => Self::Scrambled,
            _ => match text.strip_prefix(SCRAMBLED_AND) {
                Some(folder) => Self::ScrambledAndFolder(folder.into()),
                None => Self::Folder(text.into()),
            },
        }
    }
}

impl From<String> for Outliers {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<Outliers> for String {
    fn from(outliers: Outliers) -> Self {
        outliers.to_string()
    }
}

impl fmt::Display for Outliers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Scrambled => f.write_str("scrambled"),
            Self::Folder(folder) => folder.display().fmt(f),
            Self::ScrambledAndFolder(folder) => write!(f, "{SCRAMBLED_AND}{}", folder.display()),
        }
    }
}

/// Learning rate and momentum of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScheduledRates {
    /// The learning rate.
    pub learning_rate: f64,
    /// The momentum of SGD and Muon, the beta1 of Adam.
    pub momentum: f64,
}

impl Recipe {
    /// Number of outliers in a step of `known` known images.
    #[must_use]
    pub fn outliers_per_step(&self, known: usize) -> usize {
        if self.has_outliers() { (self.outlier_share * known as f64).round() as usize } else { 0 }
    }

    /// Whether training mirrors images.
    #[must_use]
    pub fn mirrors(&self) -> bool {
        self.mirror && self.augment != Augment::None
    }

    /// Whether training uses outliers.
    #[must_use]
    pub fn has_outliers(&self) -> bool {
        self.outliers != Outliers::None
    }

    /// Checks that all values are in range and consistent.
    ///
    /// # Errors
    /// [`Error::Setting`] for a value out of range, or one that does not fit another.
    pub fn check(&self) -> Result<()> {
        let at_least_1 = |name, value: usize| match value {
            0 => Err(Error::setting(name, value, "must be at least 1")),
            _ => Ok(()),
        };
        at_least_1("epochs", self.epochs)?;
        at_least_1("batch size", self.batch_size)?;
        for (name, value) in
            [("backbone rate", self.backbone_rate), ("degrade", self.degrade), ("pixmix", self.pixmix)]
        {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::setting(name, value, "must be a share from 0 to 1"));
            }
        }
        if self.freeze {
            self.check_frozen()?;
        }
        if self.optimizer == Optimizer::Muon && self.backbone_rate == 0.0 {
            let reason = "must be sgd or adam when only the last layer is trained";
            return Err(Error::setting("optimizer", "muon", reason));
        }
        for (name, value) in [("held-out", self.held_out), ("trim", self.trim), ("EMA", self.ema)] {
            if !(0.0..1.0).contains(&value) {
                return Err(Error::setting(name, value, "must be a share from 0 to below 1"));
            }
        }
        if !(0.0..=16.0).contains(&self.outlier_share) {
            return Err(Error::setting("outlier share", self.outlier_share, "must be from 0 to 16"));
        }
        // The variance of a map of one pixel is undefined for a single image.
        let in_step = self.batch_size + self.outliers_per_step(self.batch_size);
        if in_step < 2 && self.batch_norm == BatchNorm::Batch {
            return Err(Error::setting("batch size", 1, "must be at least 2 for batch norm = batch"));
        }
        self.check_step(self.batch_size)?;
        if self.has_outliers() && self.outlier_weight == 0.0 {
            return Err(Error::setting("outlier weight", 0, "must be positive if there are outliers"));
        }
        // The warm-up must leave room for the decay.
        if !(0.0..self.epochs as f64).contains(&self.warm_up) {
            return Err(Error::setting(
                "warm-up",
                self.warm_up,
                "must be at least 0 and less than the epochs",
            ));
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return Err(Error::setting("learning rate", self.learning_rate, "must be positive"));
        }
        for (name, value) in [("weight decay", self.weight_decay), ("outlier weight", self.outlier_weight)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::setting(name, value, "must be at least 0, and finite"));
            }
        }
        Ok(())
    }

    /// Checks that shares of the known images in a step are at least one image.
    pub(crate) fn check_step(&self, images: usize) -> Result<()> {
        if self.trim > 0.0 && self.trimmed_of(images) == 0 {
            let reason = format!("removes less than one of the {images} images in a step");
            return Err(Error::setting("trim", self.trim, reason));
        }
        if self.has_outliers() && self.outliers_per_step(images) == 0 {
            let reason = format!("adds less than one outlier to a step of {images} images");
            return Err(Error::setting("outlier share", self.outlier_share, reason));
        }
        Ok(())
    }

    /// Checks for what is incompatible with features computed once.
    fn check_frozen(&self) -> Result<()> {
        let refused = |name, value: &dyn fmt::Display, must: &str| {
            Err(Error::setting(name, value, format!("must be {must} when only the last layer is trained")))
        };
        if self.backbone_rate > 0.0 {
            return refused("backbone rate", &self.backbone_rate, "0");
        }
        if self.batch_norm != BatchNorm::Running {
            return refused("batch norm", &"batch", "running");
        }
        if !matches!(self.augment, Augment::None | Augment::Flip) {
            let name = serde_json::json!(self.augment);
            return refused("augment", &name.as_str().unwrap_or_default(), "flip or none");
        }
        for (name, value) in [("degrade", self.degrade), ("pixmix", self.pixmix)] {
            if value > 0.0 {
                return refused(name, &value, "0");
            }
        }
        if self.precision != TrainingPrecision::F32 {
            return refused("precision", &"bf16", "f32");
        }
        Ok(())
    }

    /// Number of images to leave out of a step of `known` known images.
    #[must_use]
    pub fn trimmed_of(&self, known: usize) -> usize {
        // 0.29 of 100 are 29, but 28.999... in binary.
        (self.trim * known as f64 + 1e-9) as usize
    }

    /// The decay of the moving average of the weights after a step, counted from 0 over the whole run: smaller
    /// in early steps, which start from random weights.
    #[must_use]
    pub fn ema_decay(&self, step: usize) -> f64 {
        self.ema.min((1.0 + step as f64) / (10.0 + step as f64))
    }

    /// Learning rate and momentum of a step, counted from 0 over the whole run.
    #[must_use]
    pub fn rates(&self, step: usize, steps_per_epoch: usize) -> ScheduledRates {
        /// Interpolates along half a cosine; `progress` is 0 to 1.
        fn between(from: f64, to: f64, progress: f64) -> f64 {
            to + (from - to) * (1.0 + (std::f64::consts::PI * progress).cos()) / 2.0
        }
        let warm_up = self.warm_up * steps_per_epoch as f64;
        let (step, steps) = (step as f64, self.epochs as f64 * steps_per_epoch as f64);
        let peak = self.learning_rate;
        match self.schedule {
            Schedule::Cosine if step < warm_up => {
                ScheduledRates { learning_rate: peak * (step + 1.0) / (warm_up + 1.0), momentum: MOMENTUM }
            }
            Schedule::Cosine => {
                let progress = (step - warm_up) / (steps - warm_up);
                ScheduledRates { learning_rate: between(peak, 0.0, progress), momentum: MOMENTUM }
            }
            // One step is a whole cycle.
            Schedule::OneCycle if steps <= 1.0 => ScheduledRates { learning_rate: peak, momentum: 0.85 },
            Schedule::OneCycle => {
                let top = if self.warm_up > 0.0 { warm_up } else { 0.3 * steps } - 1.0;
                let least = peak / 25.0;
                if step <= top {
                    // A warm-up of one step starts at the peak.
                    let progress = if top > 0.0 { step / top } else { 1.0 };
                    let learning_rate = between(least, peak, progress);
                    ScheduledRates { learning_rate, momentum: between(0.95, 0.85, progress) }
                } else {
                    let progress = (step - top) / (steps - 1.0 - top);
                    let learning_rate = between(peak, least / 1e4, progress);
                    ScheduledRates { learning_rate, momentum: between(0.85, 0.95, progress) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frozen_layers_rule_out_settings_that_need_images() {
        Recipe::of_last_layer().check().unwrap();
        Recipe::fine_tuning().check().unwrap();
        Recipe::of_cifar_net().check().unwrap();
        let refused = |recipe: Recipe| recipe.check().unwrap_err().to_string();
        let frozen = Recipe::of_last_layer;
        assert_eq!(
            refused(Recipe { augment: Augment::ResizedCrop, ..frozen() }),
            "augment = resized-crop: must be flip or none when only the last layer is trained"
        );
        assert!(refused(Recipe { backbone_rate: 0.1, ..frozen() }).starts_with("backbone rate = 0.1"));
        assert!(
            refused(Recipe { batch_norm: BatchNorm::Batch, ..frozen() }).starts_with("batch norm = batch")
        );
        assert!(refused(Recipe { precision: TrainingPrecision::Bf16, ..frozen() }).starts_with("precision"));
        assert!(refused(Recipe { degrade: 0.1, ..frozen() }).starts_with("degrade = 0.1: must be 0 when"));
        assert!(refused(Recipe { pixmix: 0.5, ..frozen() }).starts_with("pixmix = 0.5: must be 0 when"));
        assert!(
            refused(Recipe { backbone_rate: 1.5, ..Recipe::default() }).starts_with("backbone rate = 1.5")
        );
    }

    #[test]
    fn the_moving_average_of_the_weights_begins_with_a_small_decay() {
        for (ema, step, decay) in
            [(0.9, 0, 0.1), (0.9, 1, 2.0 / 11.0), (0.9, 80, 0.9), (0.9, 1000, 0.9), (0.5, 8, 0.5)]
        {
            assert_eq!(Recipe { ema, ..Recipe::default() }.ema_decay(step), decay, "{ema} {step}");
        }
    }

    #[test]
    fn outliers_survive_a_round_trip_through_text() {
        for text in ["none", "scrambled", "./scrambled", "scrambled,./others", "scrambled,scrambled"] {
            let outliers = Outliers::from(text);
            assert_eq!(outliers.to_string(), text);
            assert_eq!(
                serde_json::from_str::<Outliers>(&serde_json::to_string(&outliers).unwrap()).unwrap(),
                outliers
            );
        }
        assert_eq!(Outliers::from("./scrambled"), Outliers::Folder("./scrambled".into()));
        let both = Outliers::from("scrambled,others");
        assert!(both.are_scrambled() && both.folder() == Some(Path::new("others")));
        assert_eq!(both.with_folder(Path::new("more")).to_string(), "scrambled,more");
    }

    #[test]
    fn the_cosine_decays_after_the_warm_up() {
        let recipe = Recipe {
            schedule: Schedule::Cosine,
            warm_up: 2.0,
            epochs: 5,
            learning_rate: 1.0,
            ..Recipe::default()
        };
        let rates: Vec<f64> = (0..20).map(|step| recipe.rates(step, 4).learning_rate).collect();
        for (step, rate) in rates[..8].iter().enumerate() {
            assert!((rate - (step + 1) as f64 / 9.0).abs() < 1e-15, "{rate}");
        }
        assert!((rates[8] - 1.0).abs() < 1e-15 && (rates[14] - 0.5).abs() < 1e-15, "{rates:?}");
        assert!(rates[8..].windows(2).all(|pair| pair[1] < pair[0]) && rates[19] > 0.0);
    }

    #[test]
    fn a_single_step_is_at_the_peak() {
        let recipe = Recipe { epochs: 1, ..Recipe::default() };
        assert_eq!(recipe.rates(0, 1).learning_rate, recipe.learning_rate);
    }

    #[test]
    fn one_cycle_can_warm_up_in_a_single_step() {
        let recipe = Recipe { warm_up: 1.0, epochs: 3, learning_rate: 1.0, ..Recipe::default() };
        let rates: Vec<f64> = (0..3).map(|step| recipe.rates(step, 1).learning_rate).collect();
        assert!(rates[0] == 1.0 && rates[0] > rates[1] && rates[1] > rates[2], "{rates:?}");
    }

    #[test]
    fn a_run_that_never_ends_keeps_its_first_rates() {
        let least = |epochs| Recipe { epochs, ..Recipe::default() }.rates(0, 10).learning_rate;
        assert!((least(usize::MAX) - least(10)).abs() < 1e-9);
    }

    #[test]
    fn one_cycle_matches_pytorch() {
        let recipe = Recipe { epochs: 2, learning_rate: 0.1, ..Recipe::default() };
        for (step, (rate, momentum)) in ONE_CYCLE.into_iter().enumerate() {
            let found = recipe.rates(step, 5);
            assert!((found.learning_rate - rate).abs() < 1e-12, "step {step}: {found:?}");
            assert!((found.momentum - momentum).abs() < 1e-12, "step {step}: {found:?}");
        }
    }

    /// `torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)` of PyTorch 2.13: learning
    /// rate and momentum of each step.
    const ONE_CYCLE: [(f64, f64); 10] = [
        (0.0040000000000000036, 0.95),
        (0.052000000000000005, 0.8999999999999999),
        (0.1, 0.85),
        (0.09504846320134738, 0.854951556604879),
        (0.0811745653949763, 0.8688255099070633),
        (0.06112620219362893, 0.8888739533021842),
        (0.03887419780637107, 0.9111260466978157),
        (0.0188258346050237, 0.9311744900929366),
        (0.004951936798652629, 0.945048443395121),
        (4e-07, 0.95),
    ];
}
