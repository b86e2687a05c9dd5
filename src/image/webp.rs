//! The metadata of a WebP. The image crate's decoder reserves whatever memory a chunk claims.

/// The body of the first chunk of this kind, in a file that may have metadata: `RIFF`, length and `WEBP`,
/// then chunks, the first of which is `VP8X`.
pub(super) fn chunk<'a>(bytes: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    let mut rest = bytes.get(12..).filter(|rest| rest.starts_with(b"VP8X"))?;
    loop {
        let (found, after) = rest.split_first_chunk()?;
        let (length, after) = after.split_first_chunk()?;
        let length = u32::from_le_bytes(*length) as usize;
        let body = after.get(..length)?;
        if found == kind {
            return Some(body);
        }
        // Bodies are padded to an even length.
        rest = after.get(length + length % 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_found_by_kind_and_never_exceed_the_file() {
        let file = b"RIFF\0\0\0\0WEBPVP8X\x01\0\0\0a\0EXIF\x02\0\0\0bcXMP \xff\xff\xff\xffd";
        assert_eq!(chunk(file, b"EXIF"), Some(&b"bc"[..]));
        assert_eq!(chunk(file, b"XMP "), None, "it claims 4 GiB");
        assert_eq!(chunk(file, b"ICCP"), None);
        assert_eq!(chunk(b"RIFF\0\0\0\0WEBPVP8 \x02\0\0\0bcEXIF\x02\0\0\0bc", b"EXIF"), None);
        assert_eq!(chunk(b"RIFF", b"EXIF"), None);
    }
}
