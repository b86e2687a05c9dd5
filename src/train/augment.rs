//! Random augmentation of training images, on bytes `[3, height, width]`.

use std::ops::RangeInclusive;

use rand::{Rng, RngExt};

use crate::{
    image::{self, Input, Region, RgbImage},
    run::{Augment, Recipe},
};

/// Augments an image in place; for [`Augment::ResizedCrop`], after [`resized_crop`].
pub(super) fn augment<R: Rng>(
    recipe: &Recipe,
    pixels: &mut [u8],
    height: usize,
    width: usize,
    random: &mut R,
) {
    let flip = |random: &mut R| random.random::<bool>() && recipe.mirror;
    match recipe.augment {
        Augment::None => {}
        Augment::Flip | Augment::ResizedCrop => {
            if flip(random) {
                pixels.chunks_exact_mut(width).for_each(<[u8]>::reverse);
            }
        }
        Augment::Crop => {
            let [down, right] = [height, width].map(|size| shift(size / 8, random) as f32);
            let warp = Warp { matrix: [[1.0, 0.0], [0.0, 1.0]], offset: [right, down] };
            warp.mirrored(flip(random)).take(pixels, height, width);
        }
        Augment::Shift => {
            let shifts = [height, width].map(|size| shift(size / 16, random));
            reflected_shift(pixels, height, width, shifts, flip(random));
        }
        Augment::Affine => {
            let (height_f, width_f) = (height as f32, width as f32);
            let share: f32 = random.random_range(0.8..=1.0);
            let aspect = random.random_range((0.75_f32).ln()..=(4.0_f32 / 3.0).ln()).exp();
            // Size of the crop, relative to the width and height of the image.
            let across = (share * aspect).sqrt().min(1.0);
            let along = (share / aspect).sqrt().min(1.0);
            let right = random.random_range(-0.5..=0.5) * (1.0 - across) * width_f;
            let down = random.random_range(-0.5..=0.5) * (1.0 - along) * height_f;
            let (sine, cosine) = random.random_range(-10.0_f32..=10.0).to_radians().sin_cos();
            let matrix = [[across * cosine, -across * sine], [along * sine, along * cosine]];
            Warp { matrix, offset: [right, down] }.mirrored(flip(random)).take(pixels, height, width);
        }
    }
}

/// A random shift by at most this many pixels.
fn shift(most: usize, random: &mut impl Rng) -> i32 {
    let most = most as i32;
    random.random_range(-most..=most)
}

/// The pixel at a place on an axis of this size, at least 2, that is continued by reflection at its ends.
pub(super) fn reflected(place: i32, size: usize) -> usize {
    let last = size as i32 - 1;
    let place = place.rem_euclid(2 * last);
    place.min(2 * last - place) as usize
}

/// Moves the view down and to the right by less than the size. Beyond its borders the image is reflected.
fn reflected_shift(
    pixels: &mut [u8],
    height: usize,
    width: usize,
    [down, right]: [i32; 2],
    is_mirrored: bool,
) {
    let rows: Vec<usize> = (0..height as i32).map(|row| reflected(row + down, height)).collect();
    let mut columns: Vec<usize> = (0..width as i32).map(|column| reflected(column + right, width)).collect();
    if is_mirrored {
        columns.reverse();
    }
    let old = pixels.to_vec();
    for (new, old) in pixels.chunks_exact_mut(height * width).zip(old.chunks_exact(height * width)) {
        for (new, &row) in new.chunks_exact_mut(width).zip(&rows) {
            for (new, column) in new.iter_mut().zip(&columns) {
                *new = old[row * width + column];
            }
        }
    }
}

/// The shares of the area and the aspect ratios (width / height) of a random box.
const AREAS: RangeInclusive<f64> = 0.5..=1.0;
const RATIOS: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];
/// The maximum number of boxes drawn until one fits.
const TRIES: usize = 10;

/// The bytes `[3, height, width]` of a random box of an image.
pub(super) fn resized_crop(image: &RgbImage, input: &Input, random: &mut impl Rng) -> Vec<u8> {
    let drawn = random_region((image.height() as usize, image.width() as usize), random);
    image::region(image, drawn, (input.height, input.width), input.resize.filter)
}

/// Draws a box as torchvision's `RandomResizedCrop` does: if none of ten fits, it is the largest one at the
/// centre with an allowed aspect ratio.
fn random_region((height, width): (usize, usize), random: &mut impl Rng) -> Region {
    let area = height as f64 * width as f64;
    let [least, most] = RATIOS.map(f64::ln);
    for _ in 0..TRIES {
        let target = area * random.random_range(AREAS);
        let ratio = random.random_range(least..=most).exp();
        let [across, along] = [target * ratio, target / ratio].map(|square| square.sqrt().round() as usize);
        if (1..=width).contains(&across) && (1..=height).contains(&along) {
            let top = random.random_range(0..=height - along);
            let left = random.random_range(0..=width - across);
            return Region { left, top, width: across, height: along };
        }
    }
    let longest = |side: usize, ratio: f64| (side as f64 * ratio).round() as usize;
    let (across, along) =
        (width.min(longest(height, RATIOS[1])), height.min(longest(width, 1.0 / RATIOS[0])));
    Region { left: (width - across) / 2, top: (height - along) / 2, width: across, height: along }
}

/// An affine map from new to old coordinates, relative to the centre: the new pixel (x, y) is sampled at
/// `matrix` (x, y) + `offset`.
pub(super) struct Warp {
    pub(super) matrix: [[f32; 2]; 2],
    pub(super) offset: [f32; 2],
}

impl Warp {
    fn mirrored(mut self, is_mirrored: bool) -> Self {
        if is_mirrored {
            for row in &mut self.matrix {
                row[0] = -row[0];
            }
        }
        self
    }

    /// Resamples the image: bilinear, black outside.
    pub(super) fn take(&self, pixels: &mut [u8], height: usize, width: usize) {
        let old = pixels.to_vec();
        let (middle_x, middle_y) = ((width - 1) as f32 / 2.0, (height - 1) as f32 / 2.0);
        let plane = height * width;
        for row in 0..height {
            for column in 0..width {
                let (x, y) = (column as f32 - middle_x, row as f32 - middle_y);
                let place = |[a, b]: [f32; 2], offset, middle| a * x + b * y + offset + middle;
                let x = place(self.matrix[0], self.offset[0], middle_x);
                let y = place(self.matrix[1], self.offset[1], middle_y);
                let (left, top) = (x.floor(), y.floor());
                let corners = [
                    (left, top, (left + 1.0 - x) * (top + 1.0 - y)),
                    (left + 1.0, top, (x - left) * (top + 1.0 - y)),
                    (left, top + 1.0, (left + 1.0 - x) * (y - top)),
                    (left + 1.0, top + 1.0, (x - left) * (y - top)),
                ];
                let mut sums = [0.0; 3];
                for (x, y, weight) in corners {
                    let is_inside = x >= 0.0 && y >= 0.0 && x < width as f32 && y < height as f32;
                    if is_inside && weight > 0.0 {
                        let at = y as usize * width + x as usize;
                        for (channel, sum) in sums.iter_mut().enumerate() {
                            *sum += weight * f32::from(old[channel * plane + at]);
                        }
                    }
                }
                for (channel, sum) in sums.into_iter().enumerate() {
                    pixels[channel * plane + row * width + column] = sum.round() as u8;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::ChaCha8Rng};
    use std::collections::HashSet;

    /// A non-square image with three different channels.
    fn image() -> Vec<u8> {
        (0..3 * 16 * 24).map(|i| (i * 7 % 251 + 1) as u8).collect()
    }

    fn by(augment: Augment) -> Recipe {
        Recipe { augment, ..Recipe::default() }
    }

    fn seen(matrix: [[f32; 2]; 2], offset: [f32; 2]) -> Vec<u8> {
        let mut pixels = image();
        Warp { matrix, offset }.take(&mut pixels, 16, 24);
        pixels
    }

    fn at(pixels: &[u8], channel: usize, row: usize, column: usize) -> u8 {
        pixels[(channel * 16 + row) * 24 + column]
    }

    #[test]
    fn views_mirror_shift_rotate_and_interpolate() {
        let old = image();
        assert_eq!(seen([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]), old);
        let mirrored = seen([[-1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]);
        assert_eq!(at(&mirrored, 2, 5, 3), at(&old, 2, 5, 20));
        let shifted = seen([[1.0, 0.0], [0.0, 1.0]], [2.0, -1.0]);
        assert_eq!((at(&shifted, 1, 5, 3), at(&shifted, 1, 0, 3)), (at(&old, 1, 4, 5), 0));
        assert_eq!((at(&shifted, 1, 5, 22), at(&shifted, 1, 5, 21)), (0, at(&old, 1, 4, 23)));
        // A rotation by 90 degrees about the centre, and a shift by half a pixel.
        let turned = seen([[0.0, -1.0], [1.0, 0.0]], [0.0, 0.0]);
        assert_eq!(at(&turned, 0, 7, 12), at(&old, 0, 8, 12));
        let between = seen([[1.0, 0.0], [0.0, 1.0]], [0.5, 0.0]);
        let mean = (f32::from(at(&old, 2, 5, 3)) + f32::from(at(&old, 2, 5, 4))) / 2.0;
        assert_eq!(at(&between, 2, 5, 3), mean.round() as u8);
    }

    #[test]
    fn crops_shift_by_at_most_an_eighth_and_half_of_them_are_mirrored() {
        let old = image();
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let shifts: Vec<[i32; 2]> =
            (-3..=3).flat_map(|right| (-2..=2).map(move |down| [right, down])).collect();
        let (mut mirrored, mut found) = (0, HashSet::new());
        for _ in 0..400 {
            let mut pixels = old.clone();
            augment(&by(Augment::Crop), &mut pixels, 16, 24, &mut random);
            let view = |mirror: f32| {
                shifts
                    .iter()
                    .find(|shift| pixels == seen([[mirror, 0.0], [0.0, 1.0]], shift.map(|by| by as f32)))
            };
            found.insert(view(1.0).or_else(|| view(-1.0)).expect("an allowed shift"));
            mirrored += u32::from(view(-1.0).is_some());
        }
        assert!((150..250).contains(&mirrored), "{mirrored}");
        assert_eq!(found.len(), 35, "every shift occurs");
    }

    #[test]
    fn affine_augmentation_keeps_most_of_an_image() {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        for _ in 0..100 {
            // In an image of one colour only the corners can become dark.
            let mut pixels = vec![200; 3 * 16 * 24];
            augment(&by(Augment::Affine), &mut pixels, 16, 24, &mut random);
            let dark = pixels.iter().filter(|&&value| value < 200).count();
            assert!(dark < pixels.len() / 5, "{dark}");
            assert_eq!(at(&pixels, 0, 8, 12), 200);
        }
        // The value rises by 4 from column to column: at least by 2.9 in the smallest crop, turned by 10 degrees.
        let ramp: Vec<u8> = (0..3 * 16 * 24).map(|index| (54 + 4 * (index % 24)) as u8).collect();
        let (mut across, mut along) = (Vec::new(), Vec::new());
        for _ in 0..100 {
            let mut pixels = ramp.clone();
            augment(&by(Augment::Affine), &mut pixels, 16, 24, &mut random);
            let value = |row, column| i32::from(at(&pixels, 0, row, column));
            across.push((value(8, 16) - value(8, 8)).abs());
            along.push((value(11, 12) - value(5, 12)).abs());
        }
        assert!(across.iter().all(|rise| (23..=33).contains(rise)), "{across:?}");
        assert!(across.iter().any(|&rise| rise < 29), "some are enlarged: {across:?}");
        assert!(along.iter().all(|&rise| rise <= 5), "{along:?}");
        assert!(along.iter().any(|&rise| rise >= 2), "some are turned: {along:?}");
        let mut pixels = image();
        augment(&by(Augment::None), &mut pixels, 16, 24, &mut random);
        assert_eq!(pixels, image());
    }

    #[test]
    fn boxes_are_drawn_as_in_torchvision() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let (mut shares, mut places) = (Vec::new(), Vec::new());
        for _ in 0..2_000 {
            let Region { left, top, width, height } = random_region((300, 400), &mut random);
            assert!(left + width <= 400 && top + height <= 300, "{left} {top} {width} {height}");
            let ratio = width as f64 / height as f64;
            assert!(ratio > 0.745 && ratio < 1.343, "{ratio}");
            shares.push((width * height) as f64 / 120_000.0);
            places.push(left as f64 / (400 - width).max(1) as f64);
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let least = shares.iter().copied().fold(1.0, f64::min);
        let most = shares.iter().copied().fold(0.0, f64::max);
        assert!(least > 0.495 && least < 0.51 && most > 0.95, "{least} {most}");
        assert!((mean(&places) - 0.5).abs() < 0.03, "{}", mean(&places));
        // If no box fits, the largest central one is taken.
        let region = |left, top, width, height| Region { left, top, width, height };
        assert_eq!(random_region((30, 1000), &mut random), region(480, 0, 40, 30));
        assert_eq!(random_region((1000, 30), &mut random), region(0, 480, 30, 40));
        assert_eq!(random_region((1, 1), &mut random), region(0, 0, 1, 1));
    }

    #[test]
    fn a_flip_mirrors_half_of_the_images() {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        let (old, mirrored) = (image(), seen([[-1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]));
        let flipped = (0..200).filter(|_| {
            let mut pixels = old.clone();
            augment(&by(Augment::Flip), &mut pixels, 16, 24, &mut random);
            assert!(pixels == old || pixels == mirrored);
            pixels == mirrored
        });
        let flipped = flipped.count();
        assert!((70..130).contains(&flipped), "{flipped}");
    }

    #[test]
    fn shifts_reflect_the_image_at_its_borders() {
        let old = image();
        let shifted = |shift: [i32; 2], is_mirrored: bool| {
            let mut pixels = old.clone();
            reflected_shift(&mut pixels, 16, 24, shift, is_mirrored);
            pixels
        };
        assert_eq!(shifted([0, 0], false), old);
        assert_eq!(shifted([0, 0], true), seen([[-1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]));
        let moved = shifted([-1, 2], false);
        for (row, column, old_row, old_column) in
            [(0, 0, 1, 2), (1, 0, 0, 2), (15, 21, 14, 23), (15, 22, 14, 22), (8, 23, 7, 21)]
        {
            assert_eq!(at(&moved, 1, row, column), at(&old, 1, old_row, old_column), "{row} {column}");
        }

        let (mut random, mut mirrored, mut found) = (ChaCha8Rng::seed_from_u64(6), 0, HashSet::new());
        for _ in 0..200 {
            let mut pixels = old.clone();
            augment(&by(Augment::Shift), &mut pixels, 16, 24, &mut random);
            let view = |is_mirrored: bool| {
                let mut shifts = (-1..=1).flat_map(|right| (-1..=1).map(move |down| [down, right]));
                shifts.find(|&shift| pixels == shifted(shift, is_mirrored))
            };
            found.insert(view(false).or_else(|| view(true)).expect("an allowed shift"));
            mirrored += u32::from(view(true).is_some());
        }
        assert!((70..130).contains(&mirrored), "{mirrored}");
        assert_eq!(found.len(), 9, "every shift occurs");
    }

    #[test]
    fn digits_are_not_mirrored() {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let shifted = |right: i32, down: i32| seen([[1.0, 0.0], [0.0, 1.0]], [right as f32, down as f32]);
        for augmentation in [Augment::Flip, Augment::Crop] {
            for _ in 0..20 {
                let mut pixels = image();
                augment(&Recipe { mirror: false, ..by(augmentation) }, &mut pixels, 16, 24, &mut random);
                let is_view = (-3..=3).any(|right| (-2..=2).any(|down| pixels == shifted(right, down)));
                assert!(is_view && (augmentation == Augment::Crop || pixels == image()));
            }
        }
    }
}
