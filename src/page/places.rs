//! The picture of the places of an image.

use std::path::Path;

use ::image::{ExtendedColorType, ImageEncoder, Rgb, codecs::png::PngEncoder, imageops};
use ndarray::Array2;

use super::PlotFile;
use crate::{
    error::Result,
    files::atomic,
    image::{self, Filter, Input, Placement, Region, RgbImage},
    scorer::Places,
};

/// Bounds on the longer side of the photograph in a picture, in pixels.
const SIDES: [u32; 2] = [384, 1024];
/// The space between photographs.
const GAP: u32 = 8;
/// The share of the colour in the overlay; the rest is the photograph in grey.
const OPACITY: f32 = 0.6;
/// The brightness of what the network does not see.
const DIMMED: f32 = 0.35;

/// The ends of the ramp in Oklab, which is perceptually uniform: near white, and a red.
const AS_KNOWN: [f32; 3] = [0.97, 0.0, 0.0];
const UNKNOWN: [f32; 3] = [0.48, 0.155, 0.09];

impl Places {
    /// A picture: the photograph, next to it the same in grey under the colours of its places, and the scale
    /// below. The colours go from near white, where every held-out known image scores higher, to red, where
    /// none does. What the network does not see is dimmed.
    #[must_use]
    pub fn picture(&self, photograph: &RgbImage, input: &Input) -> RgbImage {
        let shown = shown(photograph);
        let (width, height) = shown.dimensions();
        let legend = self.legend();
        let mut picture = RgbImage::from_pixel(
            (2 * width + GAP).max(legend.width()),
            height + GAP + legend.height(),
            Rgb([255; 3]),
        );
        imageops::replace(&mut picture, &shown, 0, 0);
        imageops::replace(&mut picture, &self.overlay(&shown, photograph, input), (width + GAP).into(), 0);
        imageops::replace(&mut picture, &legend, 0, (height + GAP).into());
        picture
    }

    /// Writes the [picture](Self::picture) as PNG.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io); `path` is then unchanged.
    pub fn write(&self, path: &Path, photograph: &RgbImage, input: &Input) -> Result<()> {
        let picture = self.picture(photograph, input);
        let mut bytes = Vec::new();
        PngEncoder::new(&mut bytes)
            .write_image(&picture, picture.width(), picture.height(), ExtendedColorType::Rgb8)
            .expect("memory can be written");
        atomic::write(path, &bytes)
    }

    /// The photograph as shown, under the colours of its places.
    fn overlay(&self, shown: &RgbImage, photograph: &RgbImage, input: &Input) -> RgbImage {
        let size = [photograph.height(), photograph.width()].map(|side| side as usize);
        let placement = Placement::of(size, input);
        let share = |at: u32, length: u32| (f64::from(at) + 0.5) / f64::from(length);
        RgbImage::from_fn(shown.width(), shown.height(), |x, y| {
            let Rgb([red, green, blue]) = *shown.get_pixel(x, y);
            let grey = 0.299 * f32::from(red) + 0.587 * f32::from(green) + 0.114 * f32::from(blue);
            match placement.at([share(y, shown.height()), share(x, shown.width())]) {
                None => Rgb([(DIMMED * grey) as u8; 3]),
                Some(at) => {
                    let colour = ramp(1.0 - interpolated(&self.p_values, at));
                    Rgb(colour.map(|channel| (OPACITY * channel + (1.0 - OPACITY) * grey) as u8))
                }
            }
        })
    }

    /// The scale, with a mark for the image as a whole.
    fn legend(&self) -> RgbImage {
        let (left, length) = (70, 220);
        let steps: String = (0..length)
            .map(|step| {
                let [red, green, blue] = ramp(step as f32 / (length - 1) as f32).map(|channel| channel as u8);
                let x = left + step;
                format!(r#"<rect x="{x}" y="14" width="1.5" height="12" fill="rgb({red},{green},{blue})"/>"#)
            })
            .collect();
        let (mark, right) = (left as f32 + (1.0 - self.whole_p_value) * length as f32, left + length);
        let svg = format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 384 58" font-size="10"><rect width="384" height="58" fill="#fff"/>{steps}
            <path d="M{mark} 13l-4 -8h8z"/><text x="4" y="24">known</text><text x="{}" y="24">unknown</text>
            <text x="4" y="40">Share of {} held-out known images with a lower score</text>
            <text x="4" y="53">({}), from 0 to 100 %; the mark is the image as a whole</text></svg>"##,
            right + 6,
            self.held_out,
            self.score,
        );
        let png = PlotFile { name: "legend".to_owned(), svg }.png();
        ::image::load_from_memory(&png).expect("a PNG").into_rgb8()
    }
}

/// The photograph at the size of the picture.
fn shown(photograph: &RgbImage) -> RgbImage {
    let longer = photograph.width().max(photograph.height()).max(1);
    let to = longer.clamp(SIDES[0], SIDES[1]);
    let side = |side: u32| (u64::from(side) * u64::from(to)).div_ceil(longer.into()) as usize;
    let (height, width) = (side(photograph.height()), side(photograph.width()));
    let whole = Region::whole(photograph);
    image::of_planes(&image::region(photograph, whole, (height, width), Filter::Bilinear), height, width)
}

/// The value at a place, given as shares of height and width, interpolated between the nearest centres.
fn interpolated(values: &Array2<f32>, at: [f64; 2]) -> f32 {
    let [(top, bottom, down), (left, right, across)] = [(at[0], values.nrows()), (at[1], values.ncols())]
        .map(|(share, count)| {
            let place = (share * count as f64 - 0.5).clamp(0.0, (count - 1) as f64);
            let first = place as usize;
            (first, (first + 1).min(count - 1), (place - first as f64) as f32)
        });
    let row = |row: usize| values[[row, left]] * (1.0 - across) + values[[row, right]] * across;
    row(top) * (1.0 - down) + row(bottom) * down
}

/// The colour, channels from 0 to 255, of a share from 0 to 1.
fn ramp(share: f32) -> [f32; 3] {
    let [lightness, a, b] =
        [0, 1, 2].map(|part| AS_KNOWN[part] + share.clamp(0.0, 1.0) * (UNKNOWN[part] - AS_KNOWN[part]));
    // Oklab to linear sRGB, https://bottosson.github.io/posts/oklab/.
    let [l, m, s] = [
        lightness + 0.396_337_78 * a + 0.215_803_76 * b,
        lightness - 0.105_561_346 * a - 0.063_854_17 * b,
        lightness - 0.089_484_18 * a - 1.291_485_5 * b,
    ]
    .map(|root| root.powi(3));
    [
        4.076_741_7 * l - 3.307_711_6 * m + 0.230_969_94 * s,
        -1.268_438 * l + 2.609_757_4 * m - 0.341_319_4 * s,
        -0.004_196_086_3 * l - 0.703_418_6 * m + 1.707_614_7 * s,
    ]
    .map(|linear| {
        let linear = linear.clamp(0.0, 1.0);
        255.0 * if linear <= 0.003_130_8 { 12.92 * linear } else { 1.055 * linear.powf(1.0 / 2.4) - 0.055 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        image::{Fit, Resize},
        method::LogitScore,
    };
    use ndarray::arr2;

    #[test]
    fn the_ramp_darkens_steadily_from_near_white_to_red() {
        let luma = |[red, green, blue]: [f32; 3]| 0.2126 * red + 0.7152 * green + 0.0722 * blue;
        let colours: Vec<[f32; 3]> = (0..=20).map(|step| ramp(step as f32 / 20.0)).collect();
        assert!(colours.is_sorted_by(|one, next| luma(*one) > luma(*next)), "{colours:?}");
        let ([red, green, blue], last) = (colours[0], colours[20]);
        assert!(red.min(green).min(blue) > 240.0 && (red - blue).abs() < 1.0, "{colours:?}");
        assert!(last[0] > 150.0 && last[1] < 40.0 && last[2] < 60.0, "{last:?}");
        // As integers: a power computed at compile time differs from one at run time in its last digits.
        assert_eq!(ramp(1.5).map(|channel| channel as u8), last.map(|channel| channel as u8));
    }

    #[test]
    fn values_are_interpolated_between_the_centres_of_places() {
        let values = arr2(&[[0.0, 1.0], [2.0, 3.0]]);
        for (at, expected) in [([0.0, 0.0], 0.0), ([0.25, 0.75], 1.0), ([0.5, 0.5], 1.5), ([1.0, 0.5], 2.5)] {
            assert_eq!(interpolated(&values, at), expected, "{at:?}");
        }
    }

    #[test]
    fn a_picture_shows_the_photograph_the_places_and_what_is_left_out() {
        let places = Places {
            score: LogitScore::ENERGY,
            scores: arr2(&[[0.0, 1.0]]),
            p_values: arr2(&[[1.0, 0.01]]),
            labels: arr2(&[[0, 1]]),
            whole_p_value: 0.5,
            held_out: 99,
        };
        let grey = Rgb([120; 3]);
        let photograph = RgbImage::from_pixel(800, 400, grey);
        let input = |fit| Input { resize: Resize { fit, ..Resize::default() }, ..Input::of_size(32, 32) };
        let of = |fit| places.picture(&photograph, &input(fit));
        let picture = of(Fit::Stretch);
        assert_eq!(picture.width(), 2 * 800 + GAP);
        assert_eq!(*picture.get_pixel(400, 200), grey);
        let at = |picture: &RgbImage, x: u32| picture.get_pixel(800 + GAP + x, 200).0;
        let pale = |[red, green, blue]: [u8; 3]| red.abs_diff(blue) < 3 && green > 150;
        let red = |[red, green, blue]: [u8; 3]| red > green + 60 && red > blue + 60;
        assert!(pale(at(&picture, 10)) && red(at(&picture, 790)));
        // A crop sees the square in the middle.
        let cropped = of(Fit::Crop { share: 1.0 });
        for outside in [10, 790] {
            assert_eq!(at(&cropped, outside), [(DIMMED * 120.0) as u8; 3]);
        }
        assert!(pale(at(&cropped, 220)) && red(at(&cropped, 580)));
        // A padded image is seen whole.
        assert!(pale(at(&of(Fit::Pad), 10)) && red(at(&of(Fit::Pad), 790)));
        // A small image is enlarged so that the scale fits below.
        let small = places.picture(&RgbImage::new(8, 4), &Input::of_size(8, 8));
        assert_eq!(small.width(), 2 * 384 + GAP);
        assert_eq!(places.picture(&RgbImage::new(0, 5), &Input::of_size(8, 8)).width(), 768);
    }
}
