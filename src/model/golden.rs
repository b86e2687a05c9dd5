//! The golden batch: a model's outputs, when its file was written, for images from a formula. They travel in the file, so
//! every runtime can be checked without further data.

use ndarray::{Array4, ArrayView2};
use serde::{Deserialize, Serialize};

use crate::image::Input;

/// The side of the single-coloured squares of each golden image, in pixels; 4096 is the whole image.
const SQUARES: [usize; 6] = [4096, 16, 8, 4, 2, 1];

/// The outputs of a model for the [golden images](images).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GoldenBatch {
    /// The Euclidean norm of the logits of each image.
    pub norm: Vec<f32>,
    /// The rejection score of each image.
    pub score: Vec<f32>,
    /// The class of each image.
    pub label: Vec<usize>,
}

impl GoldenBatch {
    /// Whether it has all outputs of all golden images.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        [self.norm.len(), self.score.len(), self.label.len()] == [SQUARES.len(); 3]
    }

    /// The outputs of a model from its logits `[N, C]`, scores and classes.
    #[must_use]
    pub fn new<'a>(
        logits: ArrayView2<f32>,
        score: impl IntoIterator<Item = &'a f32>,
        label: impl IntoIterator<Item = &'a usize>,
    ) -> Self {
        let norm = |z: ndarray::ArrayView1<f32>| {
            z.fold(0.0, |sum, &z| sum + f64::from(z) * f64::from(z)).sqrt() as f32
        };
        Self {
            norm: logits.rows().into_iter().map(norm).collect(),
            score: score.into_iter().copied().collect(),
            label: label.into_iter().copied().collect(),
        }
    }
}

/// The golden images, bytes `[6, 3, H, W]`. Image n has squares of a random colour: the byte of channel c at
/// row y and column x is the highest byte of `splitmix64(n 2^48 + c 2^40 + (y / s) 2^20 + x / s)`, where s is
/// the side of a square.
#[must_use]
pub fn images(input: &Input) -> Array4<u8> {
    Array4::from_shape_fn((SQUARES.len(), 3, input.height, input.width), |(n, c, y, x)| {
        let [n, c, y, x] = [n, c, y / SQUARES[n], x / SQUARES[n]].map(|part| part as u64);
        (splitmix64((n << 48) + (c << 40) + (y << 20) + x) >> 56) as u8
    })
}

/// The output of splitmix64 (Steele et al., OOPSLA 2014) for a state.
fn splitmix64(state: u64) -> u64 {
    let z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_images_do_not_change() {
        let images = images(&Input { height: 4, width: 6, ..Input::default() });
        assert_eq!(images.dim(), (6, 3, 4, 6));
        // The first output of splitmix64 is published: 0xe220a8397b1dcdaf for the state 0.
        assert_eq!((splitmix64(0), images[[0, 0, 3, 5]]), (0xe220_a839_7b1d_cdaf, 0xe2));
        let image = |n: usize| -> u64 {
            images.index_axis(ndarray::Axis(0), n).iter().map(|&byte| u64::from(byte)).sum()
        };
        // The sums from an independent implementation.
        assert_eq!([0, 4, 5].map(image), [7440, 9028, 9719]);
    }
}
