//! Resizing, byte-identical to Pillow and therefore to torchvision and timm: antialiased, in integer
//! arithmetic, rounded after each of the two passes, in Pillow's order. Other rounding changes a model's
//! scores.

use std::ops::Range;

use image::RgbImage;

use super::{Filter, Fit, Input, MAX_BYTES, MAX_SIDE};

/// A rectangle of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    /// The first column.
    pub left: usize,
    /// The first row.
    pub top: usize,
    /// The number of columns.
    pub width: usize,
    /// The number of rows.
    pub height: usize,
}

impl Region {
    /// All of an image.
    pub fn whole(image: &RgbImage) -> Self {
        Self { left: 0, top: 0, width: image.width() as usize, height: image.height() as usize }
    }
}

/// A resize along one axis: `from` pixels become `to`. Those from `skipped` on are kept and put at `place`,
/// as many as there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Axis {
    from: usize,
    to: usize,
    skipped: usize,
    place: usize,
}

impl Axis {
    fn stretched(from: usize, to: usize) -> Self {
        Self { from, to, skipped: 0, place: 0 }
    }

    /// Keeps the centre if there is too little room, else leaves equal space on both sides.
    fn centred(from: usize, to: usize, room: usize) -> Self {
        Self { from, to, skipped: half(to.saturating_sub(room)), place: half(room.saturating_sub(to)) }
    }

    /// The resized pixels that are kept.
    fn kept(&self, room: usize) -> Range<usize> {
        self.skipped..self.to.min(self.skipped + room)
    }
}

/// Half of a number, with ties rounded to even, as Python's `round` does.
fn half(spare: usize) -> usize {
    let half = spare / 2;
    half + (spare & half & 1)
}

/// How images of a height and width are resized to an input, along both axes.
fn axes((height, width): (usize, usize), input: &Input) -> [Axis; 2] {
    let room = (input.height, input.width);
    let centred = |(to_height, to_width)| {
        [Axis::centred(height, to_height, room.0), Axis::centred(width, to_width, room.1)]
    };
    match input.resize.fit {
        Fit::Stretch => [Axis::stretched(height, room.0), Axis::stretched(width, room.1)],
        Fit::Crop { share } => centred(covering((height, width), enlarged(input, share))),
        Fit::Pad => centred(fitting((height, width), room)),
    }
}

/// The size of an input divided by the share of its crop, (height, width).
pub(crate) fn enlarged(input: &Input, share: f64) -> [usize; 2] {
    [input.height, input.width].map(|side| (side as f64 / share).floor() as usize)
}

/// The height and width of the smallest resized image that covers a rectangle; truncated, not rounded, as
/// torchvision's `Resize` does for the short side of a square.
fn covering((height, width): (usize, usize), [to_height, to_width]: [usize; 2]) -> (usize, usize) {
    if height.saturating_mul(to_width) <= width.saturating_mul(to_height) {
        (to_height, to_height.saturating_mul(width) / height)
    } else {
        (to_width.saturating_mul(height) / width, to_width)
    }
}

/// The height and width of an image resized to fit into an input: those of Pillow's `ImageOps.contain`.
fn fitting((height, width): (usize, usize), room: (usize, usize)) -> (usize, usize) {
    let ratio = |a: usize, b: usize| a as f64 / b as f64;
    let side = |ratio: f64, side: usize| (ratio * side as f64).round_ties_even() as usize;
    if ratio(width, height) > ratio(room.1, room.0) {
        (side(ratio(height, width), room.1), room.1)
    } else {
        (room.0, side(ratio(width, height), room.0))
    }
}

/// Whether images of a height and width become an input unchanged.
pub(crate) fn is_unchanged((height, width): (usize, usize), input: &Input) -> bool {
    let is_same = |axis: Axis, room| (axis.from, axis.to) == (room, room);
    let [vertical, horizontal] = axes((height, width), input);
    is_same(vertical, input.height) && is_same(horizontal, input.width)
}

/// Where an image lies in an input.
#[cfg(feature = "page")]
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Placement {
    axes: [Axis; 2],
    room: [usize; 2],
}

#[cfg(feature = "page")]
impl Placement {
    /// The placement of an image of a height and width, which may be empty.
    pub fn of([height, width]: [usize; 2], input: &Input) -> Self {
        let axes = axes((height.max(1), width.max(1)), input);
        Self { axes, room: [input.height, input.width] }
    }

    /// The place in the input of one in the image, as shares of height and width; `None` outside the input.
    pub fn at(&self, place: [f64; 2]) -> Option<[f64; 2]> {
        let along = |axis: usize| {
            let Axis { to, skipped, place: free, .. } = self.axes[axis];
            let share = (place[axis] * to as f64 - skipped as f64 + free as f64) / self.room[axis] as f64;
            (0.0..=1.0).contains(&share).then_some(share)
        };
        Some([along(0)?, along(1)?])
    }
}

/// The colour of padding.
pub(crate) fn fill(input: &Input) -> [u8; 3] {
    input.mean.map(|mean| (255.0 * mean).round_ties_even() as u8)
}

/// Where the pixels of an input lie in an image that becomes this input without resampling. The image has
/// the size that a crop enlarges to, or else that of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The height of the image.
    pub height: usize,
    /// The width of the image.
    pub width: usize,
    /// The row of the first pixel.
    pub top: usize,
    /// The column of the first pixel.
    pub left: usize,
}

impl Frame {
    /// The frame of an input; `None` if the image would exceed the size limits.
    pub fn of(input: &Input) -> Option<Self> {
        let [height, width] = match input.resize.fit {
            Fit::Crop { share } => enlarged(input, share),
            Fit::Stretch | Fit::Pad => [input.height, input.width],
        };
        let most = MAX_SIDE as usize;
        let has_room = height <= most && width <= most && 3 * height as u64 * width as u64 <= MAX_BYTES;
        let [vertical, horizontal] = axes((height, width), input);
        has_room.then_some(Self { height, width, top: vertical.skipped, left: horizontal.skipped })
    }

    /// An image around pixels of the input's size; its input is these pixels.
    pub fn around(&self, pixels: &RgbImage) -> RgbImage {
        let mut framed = RgbImage::new(self.width as u32, self.height as u32);
        image::imageops::replace(&mut framed, pixels, self.left as i64, self.top as i64);
        framed
    }
}

/// The image as an input, in bytes `[3, height, width]`; black if the image is empty.
pub(super) fn planes(image: &RgbImage, input: &Input) -> Vec<u8> {
    let (height, width) = (input.height, input.width);
    if image.is_empty() {
        return vec![0; 3 * height * width];
    }
    let region = Region::whole(image);
    if is_unchanged((region.height, region.width), input) {
        return (0..3).flat_map(|channel| image.pixels().map(move |pixel| pixel[channel])).collect();
    }
    let axes = axes((region.height, region.width), input);
    // Only padding stays visible.
    let mut planes = fill(input).map(|byte| vec![byte; height * width]).concat();
    resample(image, region, axes, input.resize.filter, (height, width), &mut planes);
    planes
}

/// A region of an image, resampled once to bytes `[3, height, width]`; black if it is empty. The result is
/// that of Pillow's `image.crop(box).resize((width, height), filter)`.
///
/// # Panics
/// If the region is not inside the image.
pub(crate) fn region(
    image: &RgbImage,
    region: Region,
    (height, width): (usize, usize),
    filter: Filter,
) -> Vec<u8> {
    let mut planes = vec![0; 3 * height * width];
    if region.height * region.width * planes.len() > 0 {
        let axes = [Axis::stretched(region.height, height), Axis::stretched(region.width, width)];
        resample(image, region, axes, filter, (height, width), &mut planes);
    }
    planes
}

/// Resizes a region and writes the kept pixels into planes of a height and width.
fn resample(
    image: &RgbImage,
    region: Region,
    [vertical, horizontal]: [Axis; 2],
    filter: Filter,
    (height, width): (usize, usize),
    planes: &mut [u8],
) {
    let (down, across) = (windows(vertical, height, filter), windows(horizontal, width, filter));
    let (Some(source_rows), Some(source_columns)) = (span(&down), span(&across)) else { return };
    let stride = 3 * image.width() as usize;
    let row = |row: usize| {
        let start = stride * (region.top + row) + 3 * (region.left + source_columns.start);
        &image.as_raw()[start..start + 3 * source_columns.len()]
    };
    let rows: Vec<&[u8]> = source_rows.clone().map(row).collect();
    let change_height = |rows: &[&[u8]]| resized_height(rows, &down, source_rows.start);
    let change_width = |rows: &[&[u8]]| resized_width(rows, &across, source_columns.start);
    let pixels = if is_vertical_first(vertical, horizontal) {
        let low = change_height(&rows);
        change_width(&low.chunks_exact(3 * source_columns.len()).collect::<Vec<_>>())
    } else {
        let narrow = change_width(&rows);
        change_height(&narrow.chunks_exact(3 * across.len()).collect::<Vec<_>>())
    };
    let first = vertical.place * width + horizontal.place;
    for (channel, plane) in planes.chunks_exact_mut(height * width).enumerate() {
        let rows = pixels.chunks_exact(3 * across.len());
        for (row, to) in rows.zip(plane[first..].chunks_mut(width)) {
            for (pixel, to) in row.chunks_exact(3).zip(to) {
                *to = pixel[channel];
            }
        }
    }
}

/// Whether Pillow 13 resizes the height first: if it shrinks by more than twice as many pixels as the width.
/// Earlier versions always resize the width first.
fn is_vertical_first(vertical: Axis, horizontal: Axis) -> bool {
    let shrinks = |axis: Axis| axis.from as i64 - axis.to as i64;
    shrinks(vertical) > (2 * shrinks(horizontal)).max(0)
}

/// The number of fractional bits of a weight.
pub(crate) const WEIGHT_BITS: u32 = 22;

/// The source pixels of a resized pixel along one axis.
struct Window {
    /// The index of the first source pixel.
    first: usize,
    /// The weights of the source pixels from `first` on.
    weights: Vec<i32>,
}

/// The windows of the pixels that are kept.
fn windows(axis: Axis, room: usize, filter: Filter) -> Vec<Window> {
    let scale = axis.from as f64 / axis.to as f64;
    let stretch = scale.max(1.0);
    let kernel = match filter {
        Filter::Bilinear => triangle,
        Filter::Bicubic => cubic,
    };
    let reach = filter.radius() as f64 * stretch;
    let window = |place| {
        let middle = (place as f64 + 0.5) * scale;
        // A negative number saturates to 0.
        let first = (middle - reach + 0.5) as usize;
        let last = ((middle + reach + 0.5) as usize).min(axis.from);
        let distance = |x| (x as f64 - middle + 0.5) * stretch.recip();
        let weights: Vec<f64> = (first..last).map(|x| kernel(distance(x))).collect();
        let sum: f64 = weights.iter().sum();
        let whole = |weight: f64| (weight / sum * f64::from(1 << WEIGHT_BITS)).round() as i32;
        Window { first, weights: weights.into_iter().map(whole).collect() }
    };
    axis.kept(room).map(window).collect()
}

/// The source pixels of all windows; `None` if there are none.
fn span(windows: &[Window]) -> Option<Range<usize>> {
    let (first, last) = (windows.first()?, windows.last()?);
    Some(first.first..last.first + last.weights.len())
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// The weight of a pixel at a distance, in pixels, in cubic convolution with a = -0.5 (Keys, 1981), in
/// Pillow's order of operations.
pub(crate) fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Resizes the width of rows whose first pixel is in source column `start`.
fn resized_width(rows: &[&[u8]], windows: &[Window], start: usize) -> Vec<u8> {
    let mut resized = Vec::with_capacity(3 * rows.len() * windows.len());
    for row in rows {
        for Window { first, weights } in windows {
            let mut sums = [HALF; 3];
            for (pixel, weight) in row[3 * (first - start)..].chunks_exact(3).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            resized.extend(sums.map(byte));
        }
    }
    resized
}

/// Resizes the height of rows, the first of which is source row `start`.
fn resized_height(rows: &[&[u8]], windows: &[Window], start: usize) -> Vec<u8> {
    let length = rows.first().map_or(0, |row| row.len());
    let mut resized = Vec::with_capacity(length * windows.len());
    let mut sums = vec![0; length];
    for Window { first, weights } in windows {
        sums.fill(HALF);
        for (row, weight) in rows[first - start..].iter().zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(*row) {
                *sum += i32::from(value) * weight;
            }
        }
        resized.extend(sums.iter().copied().map(byte));
    }
    resized
}

const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// Rounds a sum that started at [`HALF`].
fn byte(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Resize;

    #[test]
    fn a_region_is_resized_like_an_image_of_its_own() {
        let image = RgbImage::from_fn(61, 47, |x, y| {
            image::Rgb([0, 1, 2].map(|channel| (7 * x * x + 13 * y * y + 5 * x * y + 101 * channel) as u8))
        });
        for part in [
            Region::whole(&image),
            Region { left: 10, top: 7, width: 40, height: 33 },
            Region { left: 60, top: 0, width: 1, height: 47 },
            Region { left: 0, top: 46, width: 61, height: 1 },
        ] {
            let [left, top, width, height] =
                [part.left, part.top, part.width, part.height].map(|side| side as u32);
            let cropped = image::imageops::crop_imm(&image, left, top, width, height).to_image();
            for filter in [Filter::Bilinear, Filter::Bicubic] {
                for (height, width) in [(32, 32), (5, 60), (47, 9), (33, 40)] {
                    let resize = Resize { fit: Fit::Stretch, filter };
                    let input = Input { resize, ..Input::of_size(height, width) };
                    assert_eq!(
                        region(&image, part, (height, width), filter),
                        planes(&cropped, &input),
                        "{part:?}"
                    );
                }
            }
        }
        let empty = Region { left: 5, top: 5, width: 0, height: 3 };
        assert_eq!(region(&image, empty, (1, 2), Filter::Bicubic), [0; 6]);
    }

    #[test]
    fn images_of_the_right_size_are_unchanged() {
        let crop = |share| Fit::Crop { share };
        for (fit, size, expected) in [
            (Fit::Stretch, (8, 9), true),
            (Fit::Stretch, (9, 8), false),
            (Fit::Pad, (8, 9), true),
            (Fit::Pad, (8, 8), false),
            (crop(1.0), (8, 9), true),
            (crop(0.9), (8, 9), false),
        ] {
            let input = Input { resize: Resize { fit, filter: Filter::Bicubic }, ..Input::of_size(8, 9) };
            assert_eq!(is_unchanged(size, &input), expected, "{fit:?} {size:?}");
            let image = RgbImage::from_fn(size.1 as u32, size.0 as u32, |x, y| {
                image::Rgb([x as u8, (9 * y) as u8, 255])
            });
            let bytes: Vec<u8> = (0..3).flat_map(|at| image.pixels().map(move |pixel| pixel[at])).collect();
            assert_eq!(planes(&image, &input) == bytes, expected, "{fit:?} {size:?}");
            let mut resampled = fill(&input).map(|byte| vec![byte; 8 * 9]).concat();
            let axes = axes(size, &input);
            resample(&image, Region::whole(&image), axes, Filter::Bicubic, (8, 9), &mut resampled);
            assert_eq!(planes(&image, &input), resampled, "{fit:?} {size:?}");
        }
    }

    #[test]
    fn any_crop_share_is_handled() {
        let image = RgbImage::from_pixel(3, 2, image::Rgb([7; 3]));
        for share in [f64::MIN_POSITIVE, 1e-9, 0.0, -1.0, 2.0, f64::NAN] {
            let input = Input {
                resize: Resize { fit: Fit::Crop { share }, filter: Filter::Bicubic },
                ..Input::of_size(4, 4)
            };
            let planes = planes(&image, &input);
            let (pads, kept) = (!(0.0..=1.0).contains(&share), [7, fill(&input)[0]]);
            assert!(
                planes.iter().all(|byte| *byte == 7 || pads && kept.contains(byte)),
                "{share} {planes:?}"
            );
            assert_eq!(planes.len(), 48, "{share}");
        }
    }

    #[test]
    fn a_mean_is_rounded_to_a_byte_as_in_python() {
        let image = RgbImage::from_pixel(1, 100, image::Rgb([7; 3]));
        for (mean, byte) in
            [(0.1, 26), (0.3, 76), (0.5, 128), (0.7, 178), (0.9, 230), (0.485, 124), (0.0, 0), (1.0, 255)]
        {
            let resize = Resize { fit: Fit::Pad, filter: Filter::Bilinear };
            let input = Input { mean: [mean; 3], resize, ..Input::of_size(1, 5) };
            assert_eq!(planes(&image, &input)[0], byte, "{mean}");
        }
    }
}
