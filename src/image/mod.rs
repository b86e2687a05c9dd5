//! Decodes image files and resizes them to a network's input. Training, evaluation and embedding programs
//! share this code.

mod decode;
mod difference_hash;
mod format;
mod gif;
mod jpeg;
mod orientation;
mod png;
mod resize;
mod tiff;
mod webp;

use std::{fmt, ops::RangeInclusive, path::Path, str::FromStr};

pub use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
#[cfg(feature = "train")]
pub(crate) use decode::of_file;
pub(crate) use decode::{MAX_BYTES, MAX_SIDE, read};
pub use decode::{from_bytes, open};
pub(crate) use difference_hash::DifferenceHash;
#[cfg(feature = "page")]
pub(crate) use resize::Placement;
#[cfg(feature = "train")]
pub(crate) use resize::cubic;
pub(crate) use resize::{Frame, Region, is_unchanged, region};
#[cfg(feature = "export")]
pub(crate) use resize::{WEIGHT_BITS, enlarged, fill};

/// Image file extensions, in lower case: those of torchvision's `ImageFolder`, GIF, and more for JPEG.
pub const EXTENSIONS: [&str; 12] =
    ["bmp", "gif", "jfif", "jpe", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp"];

/// Whether a path has the extension of an image file, in upper or lower case.
#[must_use]
pub fn has_extension(path: &Path) -> bool {
    path.extension().is_some_and(|end| EXTENSIONS.iter().any(|known| end.eq_ignore_ascii_case(known)))
}

/// The heights and widths that a network's input may have, in pixels.
pub const SIZES: RangeInclusive<usize> = 8..=4096;

/// The input of a network: RGB in 0..=1, which the network normalises to (x - mean) / std.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// The mean of each channel, 0 to 1.
    pub mean: [f32; 3],
    /// The standard deviation of each channel, above 0 and at most 1.
    pub std: [f32; 3],
    /// How images are brought to this size.
    #[serde(default, skip_serializing_if = "Resize::is_default")]
    pub resize: Resize,
}

impl Default for Input {
    fn default() -> Self {
        Self { height: 32, width: 32, mean: [0.5; 3], std: [0.5; 3], resize: Resize::default() }
    }
}

/// How an image of any size is fitted to a network's input; in JSON, an object with `fit`, `share` for a
/// crop, and `filter`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Resize {
    /// How the proportions are handled.
    #[serde(flatten)]
    pub fit: Fit,
    /// The filter, antialiased.
    #[serde(default)]
    pub filter: Filter,
}

/// How the proportions of an image are handled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fit", rename_all = "kebab-case")]
pub enum Fit {
    /// Each side is resized to that of the input; proportions are not kept.
    #[default]
    Stretch,
    /// The image is resized to just cover floor(side of the input / share) pixels in height and width, its
    /// other side truncated, and cropped at the centre. For a square input, this is what timm and torchvision
    /// do: `Resize(int)`, then `CenterCrop`.
    Crop {
        /// The share of the short side that is kept, above 0 and at most 1.
        share: f64,
    },
    /// The image is resized to fit, centred, and padded with the mean, rounded to a byte, as in Pillow's
    /// `ImageOps.pad`.
    Pad,
}

/// The filter of a resize.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// Pillow's `BILINEAR`.
    #[default]
    Bilinear,
    /// Pillow's `BICUBIC`.
    Bicubic,
}

/// The default share of a `crop`, that of timm and torchvision for most networks.
const SHARE: f64 = 0.875;

impl FromStr for Fit {
    type Err = Error;

    /// Parses `stretch`, `crop`, `crop:SHARE` or `pad`. The share is 0.875 by default.
    fn from_str(text: &str) -> Result<Self> {
        let share = match text {
            "stretch" => return Ok(Self::Stretch),
            "pad" => return Ok(Self::Pad),
            "crop" => Some(SHARE),
            _ => text.strip_prefix("crop:").and_then(|share| share.parse().ok()),
        };
        match share.filter(|share| is_share(*share)) {
            Some(share) => Ok(Self::Crop { share }),
            None => {
                let forms = "must be stretch, pad, crop or crop:SHARE with a share above 0 and at most 1";
                Err(Error::setting("fit", format!("`{text}`"), forms))
            }
        }
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stretch => f.write_str("stretch"),
            Self::Crop { share } => write!(f, "crop:{share}"),
            Self::Pad => f.write_str("pad"),
        }
    }
}

impl Filter {
    /// All filters.
    pub const ALL: [Self; 2] = [Self::Bilinear, Self::Bicubic];

    /// The distance from which a pixel has no weight, in pixels of the smaller image.
    pub(crate) fn radius(self) -> usize {
        match self {
            Self::Bilinear => 1,
            Self::Bicubic => 2,
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
        })
    }
}

fn is_share(share: f64) -> bool {
    share > 0.0 && share <= 1.0
}

impl Resize {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Input {
    /// The default input in another size.
    #[must_use]
    pub fn of_size(height: usize, width: usize) -> Self {
        Self { height, width, ..Self::default() }
    }

    /// Checks the size, the normalisation and the resize.
    ///
    /// # Errors
    /// [`Error::Setting`] if the size is out of range, a mean is not in 0..=1, a standard deviation is not
    /// above 0 and at most 1 (an input has values in 0..=1, not bytes), or the share of a crop is not above 0
    /// and at most 1.
    pub(crate) fn check(&self, sizes: &RangeInclusive<usize>) -> Result<()> {
        if let Some(size) = [self.height, self.width].into_iter().find(|size| !sizes.contains(size)) {
            let (least, most) = (sizes.start(), sizes.end());
            return Err(Error::setting("size", size, format!("must be {least} to {most} pixels")));
        }
        let refused = |name, values: [f32; 3], bounds| {
            Err(Error::setting(
                name,
                format!("{values:?}"),
                format!("must be {bounds}: values are from 0 to 1"),
            ))
        };
        if !self.mean.iter().all(|mean| (0.0..=1.0).contains(mean)) {
            return refused("mean", self.mean, "0 to 1");
        }
        if !self.std.iter().all(|&std| std > 0.0 && std <= 1.0) {
            return refused("std", self.std, "above 0 and at most 1");
        }
        if let Fit::Crop { share } = self.resize.fit
            && !is_share(share)
        {
            return Err(Error::setting("crop", share, "must be a share above 0 and at most 1"));
        }
        Ok(())
    }

    /// Whether an image becomes the same bytes for another input. The mean matters only if it pads.
    #[must_use]
    pub fn has_same_pixels(&self, other: &Self) -> bool {
        let is_same_mean = self.mean == other.mean || self.resize.fit != Fit::Pad;
        (self.height, self.width, self.resize) == (other.height, other.width, other.resize) && is_same_mean
    }

    /// How images are resized, in words.
    #[must_use]
    pub fn resizing(&self) -> String {
        let Self { height, width, resize: Resize { fit, filter }, .. } = self;
        match fit {
            Fit::Stretch => format!("{filter}, to {height} x {width} pixels; the aspect ratio is not kept"),
            Fit::Crop { share } => {
                let covered = match resize::enlarged(self, *share) {
                    [one, other] if one == other => format!("the short side to {one} pixels"),
                    [height, width] => format!("until it covers {height} x {width} pixels"),
                };
                format!("{filter}, {covered}, then the centre of {height} x {width} pixels")
            }
            Fit::Pad => format!("{filter}, to fit into {height} x {width} pixels, then padded with the mean"),
        }
    }

    /// The number of values of an image: 3 x height x width.
    #[must_use]
    pub fn values(&self) -> usize {
        3 * self.height * self.width
    }
}

/// Resizes an image to an input's RGB bytes `[3, height, width]`, according to its [`Resize`]. The result is
/// byte-identical to Pillow 13's, and so to torchvision's and timm's on a PIL image. An empty image becomes
/// black.
#[must_use]
pub fn pixels(image: &RgbImage, input: &Input) -> Vec<u8> {
    resize::planes(image, input)
}

/// The image of RGB bytes `[3, height, width]`.
pub(crate) fn of_planes(bytes: &[u8], height: usize, width: usize) -> RgbImage {
    let plane = height * width;
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let at = y as usize * width + x as usize;
        image::Rgb([bytes[at], bytes[plane + at], bytes[2 * plane + at]])
    })
}

/// [`pixels`] as the scorer's input: values `[3, height, width]` in 0..=1.
#[must_use]
pub fn tensor(image: &RgbImage, input: &Input) -> Vec<f32> {
    pixels(image, input).into_iter().map(unit).collect()
}

/// A byte as a value in 0..=1.
#[must_use]
pub fn unit(byte: u8) -> f32 {
    f32::from(byte) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_deviations_on_the_byte_scale_are_refused() {
        let check = |mean: [f32; 3], std: [f32; 3]| Input { mean, std, ..Input::default() }.check(&SIZES);
        assert!(check([0.0, 0.485, 1.0], [1.0, 0.229, 1.0 / 255.0]).is_ok());
        for (mean, std, at_fault) in [
            ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], "mean = [123.675, 116.28, 103.53]"),
            ([0.5, f32::NAN, 0.5], [0.5; 3], "mean"),
            ([0.5, -0.1, 0.5], [0.5; 3], "mean"),
            ([0.5; 3], [58.395, 0.5, 0.5], "std"),
            ([0.5; 3], [0.5, 0.0, 0.5], "std"),
            ([0.5; 3], [0.5, 0.5, f32::NAN], "std"),
        ] {
            let error = check(mean, std).unwrap_err().to_string();
            assert!(error.starts_with(at_fault) && error.ends_with("values are from 0 to 1"), "{error}");
        }
    }

    #[test]
    fn the_default_resize_is_not_written() {
        let json = |input: Input| serde_json::to_string(&input).unwrap();
        assert!(!json(Input::default()).contains("resize"));
        let resize = Resize { fit: Fit::Crop { share: 0.875 }, filter: Filter::Bicubic };
        let cropped = Input { resize, ..Input::default() };
        let text = json(cropped);
        assert!(text.ends_with(r#""resize":{"fit":"crop","share":0.875,"filter":"bicubic"}}"#), "{text}");
        assert_eq!(serde_json::from_str::<Input>(&text).unwrap(), cropped);
        let padded = text.replace(r#""fit":"crop","share":0.875,"filter":"bicubic""#, r#""fit":"pad""#);
        let resize = Resize { fit: Fit::Pad, filter: Filter::Bilinear };
        assert_eq!(serde_json::from_str::<Input>(&padded).unwrap().resize, resize);
        assert!(serde_json::from_str::<Input>(&text.replace("crop", "cut")).is_err());
    }

    #[test]
    fn a_resize_is_read_written_and_described() {
        for (text, expected) in [
            ("stretch", "bicubic, to 224 x 224 pixels; the aspect ratio is not kept"),
            ("crop:0.875", "bicubic, the short side to 256 pixels, then the centre of 224 x 224 pixels"),
            ("crop:1", "bicubic, the short side to 224 pixels, then the centre of 224 x 224 pixels"),
            ("pad", "bicubic, to fit into 224 x 224 pixels, then padded with the mean"),
        ] {
            let fit: Fit = text.parse().unwrap();
            assert_eq!(fit.to_string(), text);
            let resize = Resize { fit, filter: Filter::Bicubic };
            assert_eq!(Input { resize, ..Input::of_size(224, 224) }.resizing(), expected);
        }
        let crop: Fit = "crop".parse().unwrap();
        assert_eq!(crop, Fit::Crop { share: 0.875 });
        let oblong =
            Input { resize: Resize { fit: crop, filter: Filter::Bilinear }, ..Input::of_size(7, 14) };
        assert_eq!(
            oblong.resizing(),
            "bilinear, until it covers 8 x 16 pixels, then the centre of 7 x 14 pixels"
        );
        for wrong in ["", "cut", "crop:", "crop:0", "crop:1.1", "crop:-0.5", "crop:nan", "crop:x", "pad:1"] {
            let error = wrong.parse::<Fit>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("fit = `{wrong}`: must be stretch")), "{error}");
        }
        let input = Input { resize: Resize { fit: Fit::Crop { share: 1.5 }, ..Resize::default() }, ..oblong };
        let error = Input { height: 8, width: 8, ..input }.check(&SIZES).unwrap_err().to_string();
        assert_eq!(error, "crop = 1.5: must be a share above 0 and at most 1");
    }

    #[test]
    fn inputs_with_the_same_pixels_are_recognised() {
        let one = Input::default();
        let normalised = Input { mean: [0.1; 3], std: [0.2; 3], ..one };
        let resize = Resize { fit: Fit::Pad, filter: Filter::Bilinear };
        assert!(one.has_same_pixels(&normalised));
        assert!(!one.has_same_pixels(&Input { resize, ..one }));
        assert!(!one.has_same_pixels(&Input { height: 8, ..one }));
        assert!(!Input { resize, ..one }.has_same_pixels(&Input { resize, ..normalised }));
    }

    #[test]
    fn non_square_images_keep_their_layout() {
        let image = RgbImage::from_fn(3, 2, |x, y| image::Rgb([x as u8, y as u8, (10 * y + x) as u8]));
        assert_eq!(
            pixels(&image, &Input::of_size(2, 3)),
            [[0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 1, 1], [0, 1, 2, 10, 11, 12]].concat()
        );
        let shrunk = pixels(&image, &Input::of_size(1, 3));
        assert_eq!(shrunk[6..], [5, 6, 7], "height shrinks, width stays");
        assert_eq!(pixels(&RgbImage::new(0, 5), &Input::of_size(1, 2)), [0; 6]);
        assert_eq!(tensor(&image, &Input::of_size(2, 3))[12 + 3], 10.0 / 255.0);
    }
}
