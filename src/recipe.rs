//! How weights are learned, as pure data: what a run is told, what a model file records, and the schedule that
//! follows from it.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::cac::{AnchorKind, Loss, Score, Variant};

/// The recipe of a training. The default has what helped in `benches/recipes.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The optimiser.
    pub optimizer: Optimizer,
    /// The learning-rate schedule.
    pub schedule: Schedule,
    /// Over so many epochs the rate rises linearly to its peak. With [`Schedule::OneCycle`] over so many as
    /// are given, or over three tenths of the run where 0 are.
    pub warm_up: f64,
    /// A step shrinks convolutions and the last layer by this share times the learning rate, decoupled from
    /// the gradient (Loshchilov and Hutter, arXiv 1711.05101); not negative.
    pub weight_decay: f64,
    /// What is done to training pictures.
    pub augment: Augment,
    /// This share of a step, the pictures of the greatest loss, is passed over as mislabelled; 0 to below 1.
    pub trim: f64,
    /// The weight of the past in a moving average of the weights, which is what is tested and kept; 0 for none.
    pub average: f64,
    /// Unknown pictures to be kept away from the anchors in training.
    #[serde(default)]
    pub outliers: Outliers,
    /// Outliers in a step for each known picture.
    pub outlier_share: f64,
    /// The weight of their term in the loss.
    pub outlier_weight: f64,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            optimizer: Optimizer::Sgd,
            schedule: Schedule::OneCycle,
            warm_up: 0.0,
            weight_decay: 5e-4,
            augment: Augment::Crop,
            trim: 0.0,
            average: 0.0,
            outliers: Outliers::Scrambled,
            outlier_share: 0.25,
            outlier_weight: 0.5,
        }
    }
}

/// The optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Optimizer {
    /// Adam with PyTorch's defaults (Kingma and Ba, arXiv 1412.6980).
    Adam,
    /// Stochastic gradient descent with Nesterov's momentum, 0.9.
    Sgd,
}

impl Optimizer {
    /// The peak learning rate unless told otherwise. The gradients of pytorch-ood's squared distances
    /// are some fifty times those of the others, which only Adam does not mind.
    #[must_use]
    pub fn learning_rate(self, variant: Variant) -> f64 {
        match (self, variant) {
            (Self::Adam, _) => 1e-3,
            (Self::Sgd, Variant::PytorchOod) => 2e-3,
            (Self::Sgd, _) => 0.1,
        }
    }

    /// The weight of past gradients, where the schedule does not say.
    fn momentum(self) -> f64 {
        0.9
    }
}

/// The learning-rate schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Schedule {
    /// Down to 0 along a cosine.
    Cosine,
    /// Up along a cosine from 1/25 and down to 1/250000 along another, the momentum in the opposite direction
    /// between 0.95 and 0.85 (Smith and Topin, arXiv 1708.07120; PyTorch's `OneCycleLR`).
    OneCycle,
}

/// What is done at random to training pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Augment {
    /// Nothing.
    None,
    /// Mirrored, and shifted by up to an eighth of the size, black behind the edge.
    Crop,
    /// As in the official CAC code: a part of 80 to 100 % of the area, mirrored, turned by up to 10 degrees.
    Affine,
}

/// Unknown pictures to learn from; as text `none`, `scrambled` or the folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Outliers {
    /// None.
    #[default]
    None,
    /// The known training pictures, each time scrambled anew: their pieces shuffled, one piece repeated, or made a
    /// texture of (negative data augmentation; Sinha et al., arXiv 2102.05113). For classes that are known by their
    /// shapes.
    Scrambled,
    /// The pictures of a folder, or CIFAR-10's training files.
    Folder(PathBuf),
}

impl Outliers {
    /// Where they are read from, if they are not made.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(folder) => Some(folder),
            Self::None | Self::Scrambled => None,
        }
    }
}

impl From<&str> for Outliers {
    fn from(text: &str) -> Self {
        match text {
            "none" => Self::None,
            "scrambled" => Self::Scrambled,
            folder => Self::Folder(folder.into()),
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
        }
    }
}

/// What the optimiser is to do in a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// The learning rate.
    pub rate: f64,
    /// The weight of past gradients.
    pub momentum: f64,
}

impl Recipe {
    /// Outliers in a step of so many known pictures.
    #[must_use]
    pub fn outliers_beside(&self, known: usize) -> usize {
        if self.outliers == Outliers::None { 0 } else { (self.outlier_share * known as f64).round() as usize }
    }

    /// The rejection score that goes with what was learned: the variant's own, or where outliers were kept away from
    /// all anchors, which makes all their logits low and not only the greatest, the energy at a temperature of half
    /// the anchors' length.
    #[must_use]
    pub fn score(&self, loss: &Loss) -> Score {
        match loss.variant {
            Variant::Paper | Variant::PytorchOod if self.outliers != Outliers::None => {
                Score::Energy { temperature: (loss.magnitude / 2.0) as f32 }
            }
            variant => variant.score(),
        }
    }

    /// The anchors that go with that score: the variant's own where the score is, or else fixed ones, which the energy
    /// does not look at and which name the class at least as often.
    #[must_use]
    pub fn anchors(&self, loss: &Loss) -> AnchorKind {
        if self.score(loss) == loss.variant.score() { loss.variant.anchor_kind() } else { AnchorKind::Fixed }
    }

    /// Pictures that are passed over in a step of so many.
    #[must_use]
    pub fn trimmed_of(&self, known: usize) -> usize {
        (self.trim * known as f64) as usize
    }

    /// The pace of a step, counted from 0, of a run of so many, where an epoch has `steps_per_epoch` and the
    /// learning rate peaks at `peak`.
    #[must_use]
    pub fn pace(&self, peak: f64, step: usize, steps: usize, steps_per_epoch: usize) -> Pace {
        /// Half a cosine from one value to the other.
        fn between(from: f64, to: f64, progress: f64) -> f64 {
            to + (from - to) * (1.0 + (std::f64::consts::PI * progress).cos()) / 2.0
        }
        let warm_up = self.warm_up * steps_per_epoch as f64;
        let momentum = self.optimizer.momentum();
        let (step, steps) = (step as f64, steps as f64);
        match self.schedule {
            Schedule::Cosine if step < warm_up => {
                Pace { rate: peak * (step + 1.0) / (warm_up + 1.0), momentum }
            }
            Schedule::Cosine => {
                Pace { rate: between(peak, 0.0, (step - warm_up) / (steps - warm_up)), momentum }
            }
            Schedule::OneCycle => {
                let top = if self.warm_up > 0.0 { warm_up } else { 0.3 * steps } - 1.0;
                let least = peak / 25.0;
                if step <= top {
                    // Of a warm-up of one step that step is the top.
                    let progress = if top > 0.0 { step / top } else { 1.0 };
                    let rate = between(least, peak, progress);
                    Pace { rate, momentum: between(0.95, 0.85, progress) }
                } else {
                    let progress = (step - top) / (steps - 1.0 - top);
                    let rate = between(peak, least / 1e4, progress);
                    Pace { rate, momentum: between(0.85, 0.95, progress) }
                }
            }
        }
    }
}

impl fmt::Display for Recipe {
    /// What is done, in a line; not what is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.optimizer {
            Optimizer::Adam => "adam",
            Optimizer::Sgd => "sgd",
        })?;
        f.write_str(match self.schedule {
            Schedule::Cosine => ", cosine",
            Schedule::OneCycle => ", one-cycle",
        })?;
        f.write_str(match self.augment {
            Augment::None => "",
            Augment::Crop => ", crop",
            Augment::Affine => ", affine",
        })?;
        let numbers = [
            ("warm-up", self.warm_up),
            ("weight decay", self.weight_decay),
            ("trim", self.trim),
            ("average", self.average),
        ];
        for (name, value) in numbers.into_iter().filter(|&(_, value)| value > 0.0) {
            write!(f, ", {name} {value}")?;
        }
        if self.outliers != Outliers::None {
            let (share, weight) = (self.outlier_share, self.outlier_weight);
            write!(f, ", outliers {} (share {share}, weight {weight})", self.outliers)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_in_words() {
        let plain = Recipe { outliers: Outliers::None, ..Recipe::default() };
        assert_eq!(plain.to_string(), "sgd, one-cycle, crop, weight decay 0.0005");
        let all = Recipe {
            optimizer: Optimizer::Adam,
            weight_decay: 0.0,
            augment: Augment::Affine,
            trim: 0.1,
            outliers: "there".into(),
            ..Recipe::default()
        };
        let words = "adam, one-cycle, affine, trim 0.1, outliers there (share 0.25, weight 0.5)";
        assert_eq!(all.to_string(), words);
    }

    #[test]
    fn outliers_as_text() {
        for text in ["none", "scrambled", "./scrambled"] {
            let outliers = Outliers::from(text);
            assert_eq!(outliers.to_string(), text);
            assert_eq!(
                serde_json::from_str::<Outliers>(&serde_json::to_string(&outliers).unwrap()).unwrap(),
                outliers
            );
        }
        assert_eq!(Outliers::from("./scrambled"), Outliers::Folder("./scrambled".into()));
        // A file from before there were scrambled ones.
        let mut recipe = serde_json::to_value(Recipe::default()).unwrap();
        recipe.as_object_mut().unwrap().remove("outliers");
        assert_eq!(serde_json::from_value::<Recipe>(recipe).unwrap().outliers, Outliers::None);
    }

    #[test]
    fn score_and_anchors_go_with_the_outliers() {
        use AnchorKind::{ClassMeans, Fixed};
        for (outliers, variant, score, anchors) in [
            (Outliers::Scrambled, Variant::Paper, "energy:5", Fixed),
            ("somewhere".into(), Variant::PytorchOod, "energy:2.5", Fixed),
            (Outliers::Scrambled, Variant::CrossEntropy, "energy", Fixed),
            (Outliers::None, Variant::Paper, "cac", ClassMeans),
            (Outliers::None, Variant::PytorchOod, "pytorch-ood", Fixed),
        ] {
            let (recipe, loss) = (Recipe { outliers, ..Recipe::default() }, Loss::new(variant));
            assert_eq!(
                (&*recipe.score(&loss).to_string(), recipe.anchors(&loss)),
                (score, anchors),
                "{variant:?}"
            );
        }
    }

    #[test]
    fn a_cosine_after_warming_up() {
        let recipe = Recipe { schedule: Schedule::Cosine, warm_up: 2.0, ..Recipe::default() };
        let rates: Vec<f64> = (0..20).map(|step| recipe.pace(1.0, step, 20, 4).rate).collect();
        for (step, rate) in rates[..8].iter().enumerate() {
            assert!((rate - (step + 1) as f64 / 9.0).abs() < 1e-15, "{rate}");
        }
        assert!((rates[8] - 1.0).abs() < 1e-15 && (rates[14] - 0.5).abs() < 1e-15, "{rates:?}");
        assert!(rates[8..].windows(2).all(|pair| pair[1] < pair[0]) && rates[19] > 0.0);
    }

    #[test]
    fn a_cycle_may_warm_up_in_a_single_step() {
        let recipe = Recipe { warm_up: 1.0, ..Recipe::default() };
        let rates: Vec<f64> = (0..3).map(|step| recipe.pace(1.0, step, 3, 1).rate).collect();
        assert!(rates[0] == 1.0 && rates[0] > rates[1] && rates[1] > rates[2], "{rates:?}");
    }

    /// `torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)` of PyTorch 2.13: the rate
    /// and `momentum` of each step.
    #[test]
    fn one_cycle_is_that_of_pytorch() {
        let recipe = Recipe::default();
        for (step, (rate, momentum)) in ONE_CYCLE.into_iter().enumerate() {
            let found = recipe.pace(0.1, step, 10, 5);
            assert!((found.rate - rate).abs() < 1e-12, "step {step}: {found:?}");
            assert!((found.momentum - momentum).abs() < 1e-12, "step {step}: {found:?}");
        }
    }

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
