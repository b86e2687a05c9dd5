//! The EXIF metadata of a PNG. The image crate's decoder finds it only before the pixels and not in text.

use std::{borrow::Cow, io::Read};

/// ImageMagick's name for EXIF metadata as text.
const RAW_PROFILE: &[u8] = b"Raw profile type exif\0";

/// The maximum unpacked size of a compressed text.
const MAX_TEXT: u64 = 1 << 20;

/// The EXIF metadata of a PNG.
pub(super) fn exif(bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
    let chunk = chunks(bytes).find(|(kind, _)| *kind == b"eXIf").map(|(_, body)| body.into());
    chunk.or_else(|| {
        chunks(bytes).find_map(|(kind, body)| {
            let body = body.strip_prefix(RAW_PROFILE)?;
            match kind {
                b"tEXt" => raw_profile(body),
                // A byte names the compression.
                b"zTXt" => {
                    let mut text = Vec::new();
                    let unpacked = flate2::read::ZlibDecoder::new(body.get(1..)?);
                    unpacked.take(MAX_TEXT).read_to_end(&mut text).ok()?;
                    raw_profile(&text)
                }
                _ => None,
            }
            .map(Cow::from)
        })
    })
}

/// The kind and the body of each chunk. A chunk is length, kind, body and checksum.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    let mut rest = bytes.get(8..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk()?;
        let (kind, after) = after.split_first_chunk()?;
        let (body, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        rest = after.get(4..)?;
        Some((kind, body))
    })
}

/// The bytes of a profile: an empty line, its name, its length, and the bytes in hexadecimal.
fn raw_profile(text: &[u8]) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.split(|&byte| byte == b'\n').skip(3).flatten().copied().collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(pair).collect()
}
