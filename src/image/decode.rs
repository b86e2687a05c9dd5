//! Decodes image files to RGB.

use std::{io::Cursor, path::Path};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use crate::error::{Error, Result};

/// Reads an image file in the format of its content, whatever its name. Transparency is dropped and EXIF
/// rotation is not applied, as in torchvision's loader.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Image`] if its format is unknown, it is truncated, it
/// needs more than 512 MiB, or its width or height exceeds 65,535 pixels.
pub fn open(path: impl AsRef<Path>) -> Result<RgbImage> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    decode(&bytes).map_err(|reason| Error::Image { path: path.to_owned(), reason })
}

/// [`open`] for an image file in memory.
///
/// # Errors
/// [`Error::Image`], with the path `memory`.
pub fn from_bytes(bytes: &[u8]) -> Result<RgbImage> {
    decode(bytes).map_err(|reason| Error::Image { path: "memory".into(), reason })
}

/// The maximum width and height in pixels.
const MAX_SIDE: u32 = 65_535;

/// The maximum memory for an image in bytes.
const MAX_BYTES: u64 = 512 << 20;

fn decode(bytes: &[u8]) -> std::result::Result<RgbImage, String> {
    let format = image::guess_format(bytes)
        .map_err(|_| "it is not BMP, GIF, JPEG, PNG, PNM, TIFF or WebP".to_owned())?;
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
    // The decoder's own limit does not count its output.
    if decoder.total_bytes().max(3 * u64::from(width) * u64::from(height)) > MAX_BYTES {
        return Err(format!("its {width} x {height} pixels need too much memory"));
    }
    let image = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    Ok(image.into_rgb8())
}

/// Whether the compressed data of a JPEG has its end marker; the decoder would fill in missing data.
fn is_whole_jpeg(bytes: &[u8]) -> bool {
    // Skips the segments up to the compressed data. A segment is a marker and a length, which counts itself.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transparency_is_dropped_and_grey_becomes_rgb() {
        let read = |image: DynamicImage| {
            let mut bytes = Cursor::new(Vec::new());
            image.write_to(&mut bytes, ImageFormat::Png).unwrap();
            from_bytes(bytes.get_ref()).unwrap().into_raw()
        };
        let clear = image::RgbaImage::from_pixel(1, 1, image::Rgba([255, 51, 0, 0]));
        assert_eq!(read(clear.into()), [255, 51, 0]);
        let grey = image::GrayImage::from_pixel(1, 1, image::Luma([51]));
        assert_eq!(read(grey.into()), [51; 3]);
    }
}
