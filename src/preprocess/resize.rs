//! Bilinear resizing with antialiasing, to the byte as Pillow does it (and so torchvision): whole numbers, rounded after
//! each of the two passes. A model's scores are as sensitive as its pixels are to a library's own way of rounding.

use image::RgbImage;

/// Weights are whole numbers, in parts of 2 to this power.
const BITS: u32 = 22;

/// What one place of a resized line is made of.
struct Window {
    /// The first place of the source's line.
    first: usize,
    /// Of the places from there on.
    weights: Vec<i32>,
}

/// The picture as bytes `[3, height, width]`; black where it has no pixels.
pub(super) fn planes(picture: &RgbImage, height: usize, width: usize) -> Vec<u8> {
    if picture.is_empty() || height * width == 0 {
        return vec![0; 3 * height * width];
    }
    let (old_width, old_height) = (picture.width() as usize, picture.height() as usize);
    let across = windows(old_width, width);
    let mut narrowed = Vec::with_capacity(old_height * width * 3);
    for row in picture.as_raw().chunks_exact(3 * old_width) {
        for Window { first, weights } in &across {
            let mut sums = [HALF; 3];
            for (pixel, weight) in row[3 * first..].chunks_exact(3).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            narrowed.extend(sums.map(byte));
        }
    }
    let mut planes = vec![0; 3 * height * width];
    let mut sums = vec![0; 3 * width];
    for (y, Window { first, weights }) in windows(old_height, height).iter().enumerate() {
        sums.fill(HALF);
        for (row, weight) in narrowed[3 * width * first..].chunks_exact(3 * width).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        for (x, pixel) in sums.chunks_exact(3).enumerate() {
            for (channel, &sum) in pixel.iter().enumerate() {
                planes[(channel * height + y) * width + x] = byte(sum);
            }
        }
    }
    planes
}

const HALF: i32 = 1 << (BITS - 1);

/// A sum that began with [`HALF`], rounded.
fn byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// For each place of a line of `to` pixels: a triangle over the places of a line of `from` pixels, at least one wide to
/// both sides.
fn windows(from: usize, to: usize) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    let reach = scale.max(1.0);
    let window = |place| {
        let middle = (place as f64 + 0.5) * scale;
        // A negative number becomes 0.
        let first = (middle - reach + 0.5) as usize;
        let last = ((middle + reach + 0.5) as usize).min(from);
        let distance = |x| (x as f64 - middle + 0.5) * reach.recip();
        let weights: Vec<f64> = (first..last).map(|x| (1.0 - f64::abs(distance(x))).max(0.0)).collect();
        let sum: f64 = weights.iter().sum();
        let whole = |weight: f64| (weight / sum * f64::from(1 << BITS)).round() as i32;
        Window { first, weights: weights.into_iter().map(whole).collect() }
    };
    (0..to).map(window).collect()
}
