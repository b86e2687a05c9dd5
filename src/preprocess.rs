//! From a picture to the pixels that a network takes: the only pixel code, shared by training, evaluation and
//! programs that embed the scorer.

mod resize;

use std::{io::Cursor, path::Path};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use crate::error::{Error, Result};

/// Reads a picture file, by its content and not by its name. Transparency is dropped and a rotation stated in
/// EXIF is not applied, as in torchvision's loader.
///
/// # Errors
/// [`Error::Io`] where the file cannot be read, [`Error::Picture`] where it is not a picture of a known
/// format, is truncated, would need more than 512 MiB, or has more than 65,535 pixels in a row or a column.
pub fn open(path: impl AsRef<Path>) -> Result<RgbImage> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    decode(&bytes).map_err(|reason| Error::Picture { path: path.to_owned(), reason })
}

/// [`open`] for a picture file in memory.
///
/// # Errors
/// [`Error::Picture`], with the path `memory`.
pub fn from_bytes(bytes: &[u8]) -> Result<RgbImage> {
    decode(bytes).map_err(|reason| Error::Picture { path: "memory".into(), reason })
}

/// The most pixels in a row or a column.
const MAX_SIDE: u32 = 65_535;

/// The most memory for a picture.
const MAX_BYTES: u64 = 512 << 20;

fn decode(bytes: &[u8]) -> std::result::Result<RgbImage, String> {
    let format = image::guess_format(bytes)
        .map_err(|_| "it is none of BMP, GIF, JPEG, PNG, PNM, TIFF and WebP".to_owned())?;
    if format == ImageFormat::Jpeg && !is_whole_jpeg(bytes) {
        return Err("it is truncated".to_owned());
    }
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MAX_SIDE), Some(MAX_SIDE));
    limits.max_alloc = Some(MAX_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions();
    // The decoder's own limit does not count what it decodes to.
    if decoder.total_bytes().max(3 * u64::from(width) * u64::from(height)) > MAX_BYTES {
        return Err(format!("it has {width} x {height} pixels, too many"));
    }
    let picture = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    Ok(picture.into_rgb8())
}

/// Whether the compressed data of a JPEG has its end marker; the decoder would fill up what is missing.
fn is_whole_jpeg(bytes: &[u8]) -> bool {
    // Segments of a marker, a length and that many bytes less two, up to the start of the compressed data.
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        at += match marker {
            0xff => 1,
            0x01 | 0xd0..=0xd8 => 2,
            0xda => return bytes[at..].windows(2).any(|pair| pair == [0xff, 0xd9]),
            _ => 2 + usize::from(u16::from_be_bytes([high, low])),
        };
    }
    false
}

/// Resizes a picture to `height` x `width`, to the byte as torchvision's `Resize((height, width))` does with a PIL
/// picture: bilinear, antialiased, whatever the shape. Lays it out as the network takes it: bytes `[3, height, width]`,
/// red, green, blue.
#[must_use]
pub fn pixels(picture: &RgbImage, height: usize, width: usize) -> Vec<u8> {
    resize::planes(picture, height, width)
}

/// [`pixels`] as the scorer takes them: values `[3, height, width]` in 0..=1.
#[must_use]
pub fn tensor(picture: &RgbImage, height: usize, width: usize) -> Vec<f32> {
    pixels(picture, height, width).into_iter().map(unit).collect()
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
    fn layout_of_a_picture_that_is_not_square() {
        let picture = RgbImage::from_fn(3, 2, |x, y| image::Rgb([x as u8, y as u8, (10 * y + x) as u8]));
        assert_eq!(
            pixels(&picture, 2, 3),
            [[0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 1, 1], [0, 1, 2, 10, 11, 12]].concat()
        );
        let shrunk = pixels(&picture, 1, 3);
        assert_eq!(shrunk[6..], [5, 6, 7], "height shrinks, width stays");
        assert_eq!(pixels(&RgbImage::new(0, 5), 1, 2), [0; 6]);
    }

    #[test]
    fn transparency_is_dropped_and_grey_is_spread() {
        let read = |picture: DynamicImage| {
            let mut bytes = Cursor::new(Vec::new());
            picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
            tensor(&from_bytes(bytes.get_ref()).unwrap(), 1, 1)
        };
        let clear = image::RgbaImage::from_pixel(1, 1, image::Rgba([255, 51, 0, 0]));
        assert_eq!(read(clear.into()), [1.0, 0.2, 0.0]);
        let grey = image::GrayImage::from_pixel(1, 1, image::Luma([51]));
        assert_eq!(read(grey.into()), [0.2; 3]);
    }
}
