//! Rejection scores: one score, or the sum of two.

use std::{fmt, str::FromStr};

use ndarray::{Array1, ArrayView2};
use serde::{Deserialize, Serialize};

use super::{Constants, FeatureScore, LogitScore};
use crate::error::{Error, Result};

/// A rejection score. Larger = more likely unknown. As text the name of a score, or `A+B` for a sum, such as
/// `fdbd+knn:10`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RejectionScore {
    /// One score as it is.
    Single(Term),
    /// The sum of two scores, each minus its mean and divided by its standard deviation over known images
    /// that it was not fitted to: held-out ones at an export. [`sum`](Self::sum) makes one.
    Sum(Term, Term),
}

/// A score that a [`RejectionScore`] consists of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Term {
    /// Of logits and distances; it has no constants.
    Logits(LogitScore),
    /// Of features, with constants that were fitted to training images.
    Features(FeatureScore),
}

impl From<LogitScore> for Term {
    fn from(score: LogitScore) -> Self {
        Self::Logits(score)
    }
}

impl From<FeatureScore> for Term {
    fn from(score: FeatureScore) -> Self {
        Self::Features(score)
    }
}

impl<T: Into<Term>> From<T> for RejectionScore {
    fn from(score: T) -> Self {
        Self::Single(score.into())
    }
}

impl Term {
    fn named(text: &str) -> Option<Self> {
        LogitScore::named(text).map(Self::from).or_else(|| FeatureScore::named(text).map(Self::from))
    }

    /// The formula as text.
    #[must_use]
    pub fn formula(self) -> String {
        match self {
            Self::Logits(score) => score.formula(),
            Self::Features(score) => score.formula(),
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Logits(score) => score.fmt(f),
            Self::Features(score) => score.fmt(f),
        }
    }
}

impl fmt::Display for RejectionScore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single(term) => term.fmt(f),
            Self::Sum(one, other) => write!(f, "{one}+{other}"),
        }
    }
}

impl FromStr for RejectionScore {
    type Err = Error;

    /// Parses what `Display` writes, and the sum of two terms in either [order](Self::sum).
    fn from_str(text: &str) -> Result<Self> {
        let score = match text.split_once('+') {
            None => Term::named(text).map(Self::Single),
            Some((one, other)) => Term::named(one)
                .zip(Term::named(other))
                .filter(|(one, other)| one != other)
                .map(|(one, other)| Self::sum(one, other)),
        };
        let reason = || {
            format!(
                "must be {}, or the sum A+B of two; T from 0.001 to 1000000, K from 1 to 1000",
                Self::names()
            )
        };
        score.ok_or_else(|| Error::setting("score", format!("`{text}`"), reason()))
    }
}

impl TryFrom<String> for RejectionScore {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<RejectionScore> for String {
    fn from(score: RejectionScore) -> Self {
        score.to_string()
    }
}

impl RejectionScore {
    /// The sum of two different terms. They are in the order of their names, so equal sums are the same score.
    #[must_use]
    pub fn sum(one: Term, other: Term) -> Self {
        if one.to_string() <= other.to_string() { Self::Sum(one, other) } else { Self::Sum(other, one) }
    }

    /// The names of single scores that [`FromStr`] accepts, for messages and help texts.
    #[must_use]
    pub fn names() -> String {
        let of_logits = LogitScore::ALL.map(|score| score.to_string());
        let of_features = FeatureScore::ALL.map(|score| match score {
            FeatureScore::Knn { .. } => "knn, knn:K".to_owned(),
            other => other.to_string(),
        });
        let [first @ .., last] = &of_features;
        format!("{}, energy:T, {} or {last}", of_logits.join(", "), first.join(", "))
    }

    /// The score or the two scores that it consists of.
    pub fn terms(self) -> impl Iterator<Item = Term> {
        let (one, other) = match self {
            Self::Single(term) => (term, None),
            Self::Sum(one, other) => (one, Some(other)),
        };
        [one].into_iter().chain(other)
    }

    /// The feature scores that it consists of.
    pub fn of_features(self) -> impl Iterator<Item = FeatureScore> {
        self.terms().filter_map(|term| match term {
            Term::Features(score) => Some(score),
            Term::Logits(_) => None,
        })
    }

    /// Whether it reads features.
    #[must_use]
    pub fn reads_features(self) -> bool {
        self.of_features().next().is_some()
    }

    /// The formula as text, of the logits z, their distances d to the anchors, and the features f.
    #[must_use]
    pub fn formula(self) -> String {
        match self {
            Self::Single(term) => term.formula(),
            Self::Sum(one, other) => {
                format!("standardised ({}) + standardised ({})", one.formula(), other.formula())
            }
        }
    }
}

/// The outputs of a network for N images.
#[derive(Debug, Clone, Copy)]
pub struct Activations<'a> {
    /// The vectors that the last layer reads, `[N, F]`. Feature scores need them.
    pub features: Option<ArrayView2<'a, f32>>,
    /// `[N, C]`.
    pub logits: ArrayView2<'a, f32>,
    /// Euclidean distances to the anchors, `[N, C]`.
    pub distances: ArrayView2<'a, f32>,
}

impl<'a> Activations<'a> {
    /// The features, for a score that needs them.
    ///
    /// # Panics
    /// If there are none.
    pub(crate) fn features(&self) -> ArrayView2<'a, f32> {
        self.features.expect("a feature score needs features")
    }
}

/// A [`RejectionScore`] with its constants.
#[derive(Debug, Clone, PartialEq)]
pub enum FittedScore {
    /// One score.
    Single(FittedTerm),
    /// The sum of two standardised scores.
    Sum([(FittedTerm, Standardisation); 2]),
}

/// A [`Term`] with its constants.
#[derive(Debug, Clone, PartialEq)]
pub enum FittedTerm {
    /// Of logits.
    Logits(LogitScore),
    /// Of features.
    Features(Box<Constants>),
}

/// Mean and standard deviation of a score among known images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standardisation {
    /// The mean.
    pub mean: f32,
    /// The standard deviation, above 0.
    pub deviation: f32,
}

impl From<LogitScore> for FittedScore {
    fn from(score: LogitScore) -> Self {
        Self::Single(FittedTerm::Logits(score))
    }
}

impl FittedTerm {
    /// The score without its constants.
    #[must_use]
    pub fn term(&self) -> Term {
        match *self {
            Self::Logits(score) => Term::Logits(score),
            Self::Features(ref constants) => Term::Features(constants.score()),
        }
    }

    /// The scores `[N]`.
    ///
    /// # Panics
    /// If the shapes do not match the constants, or required features are missing.
    #[must_use]
    pub fn rejection(&self, activations: &Activations) -> Array1<f32> {
        match self {
            Self::Logits(score) => score.rejection(activations.logits, activations.distances),
            Self::Features(constants) => constants.rejection(activations.features(), activations.logits),
        }
    }
}

impl Standardisation {
    /// Mean and deviation of scores; `None` if they do not vary or are not finite.
    #[must_use]
    pub fn of(scores: &Array1<f32>) -> Option<Self> {
        let scores = scores.mapv(f64::from);
        let (mean, deviation) = (scores.mean()? as f32, scores.std(0.0) as f32);
        (mean.is_finite() && deviation.is_normal()).then_some(Self { mean, deviation })
    }

    /// Standardised scores.
    #[must_use]
    pub fn applied_to(self, scores: Array1<f32>) -> Array1<f32> {
        (scores - self.mean) / self.deviation
    }
}

impl FittedScore {
    /// The score without its constants.
    #[must_use]
    pub fn score(&self) -> RejectionScore {
        match self {
            Self::Single(term) => RejectionScore::Single(term.term()),
            Self::Sum([(one, _), (other, _)]) => RejectionScore::sum(one.term(), other.term()),
        }
    }

    /// The scores `[N]`; larger = more likely unknown.
    ///
    /// # Panics
    /// If the shapes do not match the constants, or required features are missing.
    #[must_use]
    pub fn rejection(&self, activations: &Activations) -> Array1<f32> {
        match self {
            Self::Single(term) => term.rejection(activations),
            Self::Sum(terms) => {
                let [one, other] =
                    terms.each_ref().map(|(term, standard)| standard.applied_to(term.rejection(activations)));
                one + other
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_round_trip_through_text() {
        for text in [
            "cac",
            "min-distance",
            "pytorch-ood",
            "msp",
            "max-logit",
            "energy",
            "energy:5",
            "energy:0.25",
            "knn:1",
            "knn:50",
            "mahalanobis",
            "unit-mahalanobis",
            "relative-mahalanobis",
            "fdbd",
            "vim",
            "fdbd+knn:10",
            "cac+energy:5",
        ] {
            let score: RejectionScore = text.parse().unwrap();
            assert_eq!(score.to_string(), text);
            let json = serde_json::to_string(&score).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<RejectionScore>(&json).unwrap(), score);
            assert_eq!(score.terms().count(), 1 + text.matches('+').count());
        }
        assert_eq!("vim+cac".parse::<RejectionScore>().unwrap().to_string(), "cac+vim");
        assert_eq!("energy:1".parse::<RejectionScore>().unwrap(), LogitScore::ENERGY.into());
        assert_eq!("knn".parse::<RejectionScore>().unwrap(), FeatureScore::KNN.into());
        for text in [
            "",
            "CAC",
            "energy:",
            "energy:0",
            "energy:1e-9",
            "energy:1e9",
            "energy:-1",
            "energy:nan",
            "energy:inf",
            "msp:2",
            "knn:0",
            "knn:1001",
            "knn:x",
            "vim:2",
            "+",
            "cac+",
            "+cac",
            "cac+cac",
            "cac+vim+msp",
        ] {
            let error = text.parse::<RejectionScore>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("score = `{text}`: must be cac, ")), "{error}");
        }
    }

    #[test]
    fn feature_scores_are_distinguished_from_logit_scores() {
        let of = |text: &str| -> Vec<String> {
            let score: RejectionScore = text.parse().unwrap();
            score.of_features().map(|score| score.to_string()).collect()
        };
        assert!(of("cac+msp").is_empty());
        assert_eq!(of("fdbd+knn:10"), ["fdbd", "knn:10"]);
        assert_eq!(of("cac+vim"), ["vim"]);
    }
}
