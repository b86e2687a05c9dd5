//! Curves of a detector over all thresholds, with bootstrap bands.

use super::{Bootstrap, Counts, Interval, Ranked, RankedKnown, Resample, precision, steps};

/// The number of places at which a band is measured.
const PLACES: usize = 101;

/// A curve over all thresholds. Both coordinates are shares, and x ascends. The area under the polyline
/// through its points is the metric of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    /// The share of unknown images flagged against the share of known images flagged; its area is the AUROC.
    Roc,
    /// Precision against recall with *unknown* as the positive class; its area is AUPR-OUT.
    PrecisionOfUnknown,
    /// Precision against recall with *known* as the positive class; its area is AUPR-IN.
    PrecisionOfKnown,
    /// The share of known images accepted and correct against the share of unknown images accepted; its area
    /// is the OSCR.
    Oscr,
}

impl Curve {
    pub const ALL: [Self; 4] = [Self::Roc, Self::PrecisionOfUnknown, Self::PrecisionOfKnown, Self::Oscr];

    /// Whether x descends while the threshold descends.
    fn descends(self) -> bool {
        matches!(self, Self::PrecisionOfKnown | Self::Oscr)
    }

    /// The point of a threshold, given the flagged and total counts.
    fn point(self, flagged: Counts, total: Counts) -> [f64; 2] {
        let share = |count: u64, of: u64| count as f64 / of as f64;
        let (known, unknown) = (total.known - flagged.known, total.unknown - flagged.unknown);
        match self {
            Self::Roc => [share(flagged.known, total.known), share(flagged.unknown, total.unknown)],
            Self::PrecisionOfUnknown => {
                [share(flagged.unknown, total.unknown), precision(flagged.unknown, flagged.known)]
            }
            Self::PrecisionOfKnown => [share(known, total.known), precision(known, unknown)],
            Self::Oscr => {
                [share(unknown, total.unknown), share(total.correct - flagged.correct, total.known)]
            }
        }
    }

    /// The points from nothing flagged to everything flagged.
    fn walk(self, steps: impl Iterator<Item = Counts>, total: Counts) -> impl Iterator<Item = [f64; 2]> {
        let flagged = steps.scan(Counts::default(), |at, step| {
            *at = at.plus(step);
            Some(*at)
        });
        std::iter::once(Counts::default()).chain(flagged).map(move |flagged| self.point(flagged, total))
    }

    /// The points of known images against one set of unknown images.
    pub fn points(self, known: &RankedKnown, unknown: &Ranked) -> Vec<[f64; 2]> {
        let total = Counts {
            unknown: unknown.len() as u64,
            known: known.len() as u64,
            correct: known.correct.len() as u64,
        };
        let mut points: Vec<_> = self.walk(steps(known, unknown, |_| 1, |_| 1), total).collect();
        if self.descends() {
            points.reverse();
        }
        points
    }

    /// The heights of a resampled curve at the [`places`].
    fn heights(self, drawn: &Resample, known: &RankedKnown, set: usize, unknown: &Ranked) -> Vec<f64> {
        let points = self.walk(drawn.steps(known, set, unknown), drawn.total(known, unknown));
        if !self.descends() {
            return heights(points);
        }
        // The places are symmetric.
        let mut heights = heights(points.map(|[x, y]| [1.0 - x, y]));
        heights.reverse();
        heights
    }
}

/// Where bands are measured: from 0 to 1, closer at both ends, where curves are steep.
pub(crate) fn places() -> impl Iterator<Item = f64> {
    (0..PLACES).map(|place| (1.0 - (std::f64::consts::PI * place as f64 / (PLACES - 1) as f64).cos()) / 2.0)
}

/// The heights at the [`places`] of a polyline with ascending x. Where it is vertical, the height is that at
/// which it arrives; at its start, that at which it leaves.
fn heights(mut points: impl Iterator<Item = [f64; 2]>) -> Vec<f64> {
    let mut before = points.next().unwrap_or([0.0; 2]);
    let mut at = before;
    places()
        .map(|place| {
            while at[0] <= before[0] || at[0] < place - 1e-12 {
                let Some(next) = points.next() else { return at[1] };
                (before, at) = (at, next);
            }
            before[1] + (at[1] - before[1]) * ((place - before[0]) / (at[0] - before[0])).clamp(0.0, 1.0)
        })
        .collect()
}

/// The 95 % bands of some curves for each set of unknown images: an interval of the height at each of the
/// [`places`]. Empty without resamples.
pub(crate) fn bands(
    curves: &[Curve],
    known: &RankedKnown,
    sets: &[Ranked],
    bootstrap: Bootstrap,
) -> Vec<Vec<Vec<Interval>>> {
    let counts: Vec<usize> = sets.iter().map(Ranked::len).collect();
    let measure = |drawn: &Resample| -> Vec<f64> {
        let all = sets.iter().enumerate();
        all.flat_map(|(set, unknown)| {
            curves.iter().flat_map(move |curve| curve.heights(drawn, known, set, unknown))
        })
        .collect()
    };
    let draws = bootstrap.draws(known.len(), &counts, measure);
    let intervals: Vec<Interval> = draws.map(|draws| draws.middle()).collect();
    intervals
        .chunks(PLACES * curves.len().max(1))
        .map(|set| set.chunks(PLACES).map(<[Interval]>::to_vec).collect())
        .collect()
}

/// The area under a polyline.
#[cfg(test)]
pub(crate) fn area(points: &[[f64; 2]]) -> f64 {
    points.windows(2).map(|pair| (pair[1][0] - pair[0][0]) * (pair[0][1] + pair[1][1]) / 2.0).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    /// Scores with ties; one in four known images is misclassified.
    fn example() -> (RankedKnown, Ranked) {
        let known: Vec<f64> = (0..200).map(|i| f64::from(i * 37 % 101)).collect();
        let unknown: Vec<f64> = (0..90).map(|i| f64::from(i * 53 % 97) + 20.0).collect();
        let correct: Vec<bool> = (0..200).map(|i| i % 4 != 0).collect();
        (RankedKnown::new(&known, Some(&correct)).unwrap(), Ranked::new(&unknown).unwrap())
    }

    #[test]
    fn areas_match_the_metrics() {
        let (known, unknown) = example();
        let (metrics, _) = Metrics::with_balance(&known, &unknown);
        let metrics = [metrics.auroc, metrics.aupr_out, metrics.aupr_in, metrics.oscr.unwrap()];
        for (curve, metric) in Curve::ALL.into_iter().zip(metrics) {
            let points = curve.points(&known, &unknown);
            assert!((area(&points) - metric).abs() < 1e-12, "{curve:?}");
            assert!(points.is_sorted_by(|a, b| a[0] <= b[0]), "{curve:?}");
        }
    }

    #[test]
    fn heights_are_read_off_a_polyline() {
        // Vertical at the start, level, vertical in the middle.
        let read = heights([[0.0, 0.0], [0.0, 0.4], [0.5, 0.4], [0.5, 0.8], [1.0, 1.0]].into_iter());
        assert_eq!((read[0], read[PLACES / 2], read[PLACES - 1]), (0.4, 0.4, 1.0));
        let above = places().position(|place| place > 0.75).unwrap();
        assert!((read[above] - (0.8 + 0.2 * (places().nth(above).unwrap() - 0.5) / 0.5)).abs() < 1e-12);
        assert_eq!(heights([[0.0, 0.3]].into_iter()), vec![0.3; PLACES]);
    }

    #[test]
    fn bands_contain_the_curves_and_depend_only_on_the_seed() {
        let (known, unknown) = example();
        let sets = [unknown];
        let of = |seed| bands(&Curve::ALL, &known, &sets, Bootstrap { resamples: 200, seed });
        let bands_of_set = of(1);
        assert_eq!(bands_of_set, of(1));
        assert_ne!(bands_of_set, of(2));
        for (curve, band) in Curve::ALL.into_iter().zip(&bands_of_set[0]) {
            let mut points = curve.points(&known, &sets[0]);
            if curve.descends() {
                points.iter_mut().for_each(|point| point[0] = 1.0 - point[0]);
                points.reverse();
            }
            let mut drawn = heights(points.into_iter());
            if curve.descends() {
                drawn.reverse();
            }
            let within =
                band.iter().zip(drawn).filter(|(band, y)| band.low <= y + 0.02 && *y <= band.high + 0.02);
            assert_eq!(within.count(), PLACES, "{curve:?}");
        }
        assert!(bands(&Curve::ALL, &known, &sets, Bootstrap { resamples: 0, seed: 1 }).is_empty());
    }
}
