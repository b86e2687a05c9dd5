//! Recognises formats by the first bytes of a file.

use image::ImageFormat;

use crate::files::kind;

/// The format of a file.
///
/// # Errors
/// What the file is, if it is not an image that can be read.
pub(super) fn of(bytes: &[u8]) -> Result<ImageFormat, String> {
    let supported = [
        ImageFormat::Bmp,
        ImageFormat::Gif,
        ImageFormat::Jpeg,
        ImageFormat::Png,
        ImageFormat::Pnm,
        ImageFormat::Tiff,
        ImageFormat::WebP,
    ];
    match image::guess_format(bytes) {
        Ok(format) if supported.contains(&format) => Ok(format),
        _ if bytes.starts_with(b"II+\0") || bytes.starts_with(b"MM\0+") => Ok(ImageFormat::Tiff),
        _ => Err(match (other(bytes), kind::of(&bytes[..bytes.len().min(kind::START)])) {
            (Some(name), _) => format!("{name} is not supported"),
            // Its first bytes are, but not all of them.
            (None, Some(what)) if what.ends_with(" image") => {
                format!("it is {what} with a damaged signature")
            }
            (None, Some(what)) => format!("it is {what}"),
            (None, None) => "it is not BMP, GIF, JPEG, PNG, PNM, TIFF or WebP".to_owned(),
        }),
    }
}

/// The name of another image format, or one that is taken for one.
fn other(bytes: &[u8]) -> Option<&'static str> {
    let start = &bytes[..bytes.len().min(1024)];
    let contains = |text: &[u8]| start.windows(text.len()).any(|part| part.eq_ignore_ascii_case(text));
    if start.get(4..8) == Some(b"ftyp") {
        // Major brand, version, compatible brands.
        let length = start.first_chunk().map_or(0, |&size| u32::from_be_bytes(size) as usize);
        let brands = &start[8..length.clamp(8, start.len())];
        let has = |brand: &[u8]| brands.chunks_exact(4).any(|other| other == brand);
        return Some(match () {
            () if has(b"avif") || has(b"avis") => "AVIF",
            () if has(b"mif1") || brands.starts_with(b"hei") || brands.starts_with(b"hev") => "HEIC",
            () => "MP4",
        });
    }
    let magics: [(&[u8], &str); 15] = [
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL ", "JPEG XL"),
        (b"\0\0\0\x0cjP  ", "JPEG 2000"),
        (b"\xff\x4f\xff\x51", "JPEG 2000"),
        (b"II\xbc", "JPEG XR"),
        (b"%!PS", "PostScript"),
        (b"8BPS", "Photoshop's PSD"),
        (b"\0\0\x01\0", "ICO"),
        (b"DDS ", "DDS"),
        (b"qoif", "QOI"),
        (b"\x76\x2f\x31\x01", "OpenEXR"),
        (b"#?RADIANCE", "Radiance HDR"),
        (b"Pf", "PFM"),
        (b"PF", "PFM"),
        (b"farbfeld", "farbfeld"),
    ];
    let magic = magics.iter().find(|(magic, _)| start.starts_with(magic)).map(|&(_, name)| name);
    magic.or_else(|| {
        let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
        let is_text = text.trim_ascii_start().starts_with(b"<");
        (is_text && contains(b"<svg")).then_some("SVG")
    })
}
