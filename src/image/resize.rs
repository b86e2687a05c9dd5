//! Antialiased bilinear resizing, byte-identical to Pillow and therefore to torchvision: integer arithmetic,
//! rounded after each of the two passes, in Pillow's order. Other rounding changes a model's scores.

use image::RgbImage;

/// The number of fractional bits of a weight.
const BITS: u32 = 22;

/// The source pixels of a resized pixel along one axis.
struct Window {
    /// The index of the first source pixel.
    first: usize,
    /// The weights of the source pixels from there on.
    weights: Vec<i32>,
}

/// The resized image as bytes `[3, height, width]`; black if the image is empty.
pub(super) fn planes(image: &RgbImage, height: usize, width: usize) -> Vec<u8> {
    if image.is_empty() || height * width == 0 {
        return vec![0; 3 * height * width];
    }
    let (old_width, old_height) = (image.width() as usize, image.height() as usize);
    let pixels = if is_vertical_first((old_height, old_width), (height, width)) {
        across(&down(image.as_raw(), 3 * old_width, old_height, height), old_width, width)
    } else {
        down(&across(image.as_raw(), old_width, width), 3 * width, old_height, height)
    };
    let mut planes = vec![0; 3 * height * width];
    for (at, pixel) in pixels.chunks_exact(3).enumerate() {
        for (channel, &value) in pixel.iter().enumerate() {
            planes[channel * height * width + at] = value;
        }
    }
    planes
}

/// Whether Pillow 13 changes the height first: where it shrinks by more than twice as many pixels as the width.
/// Earlier versions always change the width first.
fn is_vertical_first((old_height, old_width): (usize, usize), (height, width): (usize, usize)) -> bool {
    let shrinks = |old: usize, new: usize| old as i64 - new as i64;
    shrinks(old_height, height) > (2 * shrinks(old_width, width)).max(0)
}

/// Changes the width of rows of pixels.
fn across(pixels: &[u8], old_width: usize, width: usize) -> Vec<u8> {
    let windows = windows(old_width, width);
    let mut resized = Vec::with_capacity(pixels.len() / old_width * width);
    for row in pixels.chunks_exact(3 * old_width) {
        for Window { first, weights } in &windows {
            let mut sums = [HALF; 3];
            for (pixel, weight) in row[3 * first..].chunks_exact(3).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            resized.extend(sums.map(byte));
        }
    }
    resized
}

/// Changes the number of rows, each of `length` bytes.
fn down(rows: &[u8], length: usize, old_height: usize, height: usize) -> Vec<u8> {
    let mut resized = Vec::with_capacity(length * height);
    let mut sums = vec![0; length];
    for Window { first, weights } in windows(old_height, height) {
        sums.fill(HALF);
        for (row, weight) in rows[length * first..].chunks_exact(length).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        resized.extend(sums.iter().copied().map(byte));
    }
    resized
}

const HALF: i32 = 1 << (BITS - 1);

/// Rounds a sum that started at [`HALF`].
fn byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// The windows of `to` pixels over `from` pixels: triangle filters with a radius of at least one pixel.
fn windows(from: usize, to: usize) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    let reach = scale.max(1.0);
    let window = |place| {
        let middle = (place as f64 + 0.5) * scale;
        // A negative number saturates to 0.
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
