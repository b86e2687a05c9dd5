//! Decodes image files to RGB.

use std::{borrow::Cow, fmt::Display, io::Cursor, path::Path};

use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageFormat, ImageReader, Limits, Pixel, RgbImage};

use super::{format, gif, jpeg, orientation, png, tiff, webp};
use crate::{
    error::{Error, Result},
    files::read_at_most,
    panics::caught,
};

/// Reads an image file, in the format detected from its content, not its name, and applies its EXIF or XMP
/// orientation. The result is that of Pillow's `ImageOps.exif_transpose(image).convert("RGB")`: transparency
/// is dropped, and only the first of several images is read.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Image`] if its format is not supported, it is damaged,
/// it is longer than 2 GiB, its pixels need more than 512 MiB, or its width or height exceeds 65,535 pixels.
pub fn open(path: impl AsRef<Path>) -> Result<RgbImage> {
    let path = path.as_ref();
    decode(&read(path)?).map_err(|reason| Error::Image { path: path.to_owned(), reason })
}

/// The bytes of an image file.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Image`] if it is longer than an image can be.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = read_at_most(path, MAX_FILE).map_err(Error::io("read", path))?;
    let reason = || format!("it is longer than {MAX_FILE} bytes");
    bytes.ok_or_else(|| Error::Image { path: path.to_owned(), reason: reason() })
}

/// [`open`] for an image file that has been read.
#[cfg(feature = "train")]
pub(crate) fn of_file(path: &Path, bytes: &[u8]) -> Result<RgbImage> {
    decode(bytes).map_err(|reason| Error::Image { path: path.to_owned(), reason })
}

/// [`open`] for an image file in memory.
///
/// # Errors
/// [`Error::Image`], with the path `memory`.
pub fn from_bytes(bytes: &[u8]) -> Result<RgbImage> {
    decode(bytes).map_err(|reason| Error::Image { path: "memory".into(), reason })
}

/// The maximum width and height in pixels.
pub(crate) const MAX_SIDE: u32 = 65_535;

/// The maximum memory for the pixels of an image, in bytes. A decoder's buffers and copies come on top.
pub(crate) const MAX_BYTES: u64 = 512 << 20;

/// The maximum length of an image file in bytes: it is read as a whole.
pub(crate) const MAX_FILE: u64 = 2 << 30;

/// Why an image cannot be read.
pub(super) type Reason = String;

/// What a decoder reports.
pub(super) fn reason(error: impl Display) -> Reason {
    error.to_string()
}

/// Checks the size of an image before memory is reserved for it.
pub(super) fn check_size((width, height): (u32, u32), bytes_per_pixel: u64) -> Result<(), Reason> {
    if width == 0 || height == 0 {
        return Err("it has no pixels".to_owned());
    }
    if width > MAX_SIDE || height > MAX_SIDE {
        return Err(format!("its {width} x {height} pixels are more than {MAX_SIDE} a side"));
    }
    if u64::from(width) * u64::from(height) * bytes_per_pixel > MAX_BYTES {
        return Err(format!("its {width} x {height} pixels take more than {} MiB", MAX_BYTES >> 20));
    }
    Ok(())
}

/// The pixels that a file of any length may hold, and those per byte of its length. Deflate, the best
/// compression except for single-coloured images, expands one byte to 1,032: 8,256 pixels of one bit.
const FREE_PIXELS: u64 = 1 << 24;
const PIXELS_PER_BYTE: u64 = 8192;

/// Checks that a file is long enough for its pixels: a decoder would fill in missing data.
pub(super) fn check_length((width, height): (u32, u32), length: usize) -> Result<(), Reason> {
    if u64::from(width) * u64::from(height) > FREE_PIXELS + PIXELS_PER_BYTE * length as u64 {
        return Err(format!("it claims {width} x {height} pixels in {length} bytes"));
    }
    Ok(())
}

fn decode(bytes: &[u8]) -> Result<RgbImage, Reason> {
    let format = format::of(bytes)?;
    let (image, orientation) = unpanicked(|| match format {
        ImageFormat::Gif => Ok((gif::decode(bytes)?, 1)),
        ImageFormat::Tiff => tiff::decode(bytes),
        ImageFormat::Jpeg => {
            let header = jpeg::Header::read(bytes)?;
            Ok((rgb(decoder(format, bytes)?)?, header.orientation()))
        }
        _ => {
            let mut decoder = decoder(format, bytes)?;
            // Damaged metadata are no reason to refuse an image.
            let (exif, xmp) = match format {
                ImageFormat::Png => (png::exif(bytes), decoder.xmp_metadata().ok().flatten().map(Cow::from)),
                ImageFormat::WebP => {
                    (webp::chunk(bytes, b"EXIF").map(Cow::from), webp::chunk(bytes, b"XMP ").map(Cow::from))
                }
                // Other formats have none.
                _ => (None, None),
            };
            let of_exif = exif.and_then(|exif| orientation::of_exif(&exif));
            let of_xmp = || orientation::of_xmp(&xmp?);
            let orientation = of_exif.or_else(of_xmp).unwrap_or(1);
            Ok((rgb(decoder)?, orientation))
        }
    })?;
    Ok(orientation::apply(image, orientation))
}

/// Turns a panic into an error: decoders panic on some damaged files.
fn unpanicked<T>(decode: impl FnOnce() -> Result<T, Reason>) -> Result<T, Reason> {
    caught(decode).unwrap_or_else(|| Err("its decoder panicked".to_owned()))
}

/// The decoder of a format, which knows the size of the image.
fn decoder(format: ImageFormat, bytes: &[u8]) -> Result<impl ImageDecoder, Reason> {
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MAX_SIDE), Some(MAX_SIDE));
    limits.max_alloc = Some(MAX_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(reason)?;
    // The decoder's own limit does not count its output. That of WebP holds four bytes of each pixel besides.
    let fewest = if format == ImageFormat::WebP { 4 } else { 3 };
    let bytes_per_pixel = u64::from(decoder.color_type().bytes_per_pixel()).max(fewest);
    check_size(decoder.dimensions(), bytes_per_pixel)?;
    check_length(decoder.dimensions(), bytes.len())?;
    Ok(decoder)
}

fn rgb(decoder: impl ImageDecoder) -> Result<RgbImage, Reason> {
    let image = DynamicImage::from_decoder(decoder).map_err(reason)?;
    // The crate would round 16-bit values; Pillow and browsers' decoders keep the upper byte.
    Ok(match image {
        DynamicImage::ImageLuma16(image) => upper_bytes(&image, |pixel| [pixel[0]; 3]),
        DynamicImage::ImageLumaA16(image) => upper_bytes(&image, |pixel| [pixel[0]; 3]),
        DynamicImage::ImageRgb16(image) => upper_bytes(&image, |pixel| [pixel[0], pixel[1], pixel[2]]),
        DynamicImage::ImageRgba16(image) => upper_bytes(&image, |pixel| [pixel[0], pixel[1], pixel[2]]),
        image => image.into_rgb8(),
    })
}

fn upper_bytes<P: Pixel<Subpixel = u16>>(
    image: &ImageBuffer<P, Vec<u16>>,
    colours: impl Fn(&[u16]) -> [u16; 3],
) -> RgbImage {
    let mut upper = RgbImage::new(image.width(), image.height());
    for (pixel, to) in image.pixels().zip(upper.pixels_mut()) {
        to.0 = colours(pixel.channels()).map(|value| (value >> 8) as u8);
    }
    upper
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_panic_becomes_an_error() {
        assert_eq!(
            unpanicked(|| -> Result<(), Reason> { panic!("out of bounds") }),
            Err("its decoder panicked".to_owned())
        );
        assert_eq!(unpanicked(|| Ok(1)), Ok(1));
    }

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
