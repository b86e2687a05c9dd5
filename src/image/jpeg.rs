//! JPEG headers: the segments before the compressed data.

use super::{decode::MAX_BYTES, orientation};

/// The metadata of a JPEG that can be decoded.
#[derive(Default)]
pub(super) struct Header<'a> {
    exif: Option<&'a [u8]>,
    xmp: Option<&'a [u8]>,
}

impl<'a> Header<'a> {
    /// Reads the segments.
    ///
    /// # Errors
    /// If the JPEG is truncated (the decoder would fill in the rest) or of a kind that the decoder misreads.
    pub fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let truncated = || "it is truncated".to_owned();
        let mut header = Self::default();
        let mut at = 2;
        // A segment is a marker and a length, which counts itself.
        while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
            let length = match marker {
                0xff => 1,
                0x01 | 0xd0..=0xd8 => 2,
                _ => 2 + usize::from(u16::from_be_bytes([high, low])),
            };
            let body = bytes.get(at + 4..at + length).unwrap_or_default();
            match marker {
                0xda => {
                    let is_whole = bytes[at..].windows(2).rev().any(|pair| pair == [0xff, 0xd9]);
                    return is_whole.then_some(header).ok_or_else(truncated);
                }
                // Frame markers, except the table markers in their range.
                0xc0..=0xcf | 0xf7 if ![0xc4, 0xc8, 0xcc].contains(&marker) => {
                    check_frame(marker, body, bytes.len())?
                }
                0xe1 if body.starts_with(b"Exif\0\0") => header.exif = header.exif.or(Some(body)),
                0xe1 if body.starts_with(b"http://ns.adobe.com/xap/1.0/\0") => header.xmp = Some(body),
                _ => {}
            }
            at += length;
        }
        match bytes.get(at..at + 4) {
            Some(_) => Err("it has bytes that belong to no segment".to_owned()),
            None => Err(truncated()),
        }
    }

    /// The EXIF orientation, else that of XMP, else 1.
    pub fn orientation(&self) -> u16 {
        let of_exif = self.exif.and_then(orientation::of_exif);
        of_exif.or_else(|| self.xmp.and_then(orientation::of_xmp)).unwrap_or(1)
    }
}

/// Checks a frame header: precision, height, width, and the components with their sampling.
fn check_frame(marker: u8, body: &[u8], file_length: usize) -> Result<(), String> {
    let unsupported = |kind: &str| Err(format!("{kind} is not supported"));
    match marker {
        0xc0..=0xc2 => {}
        0xc3 => return unsupported("lossless JPEG"),
        0xc5..=0xc7 => return unsupported("hierarchical JPEG"),
        0xf7 => return unsupported("JPEG-LS"),
        _ => return unsupported("JPEG with arithmetic coding"),
    }
    let Some((&[bits, high, low, wide, narrow, count], components)) = body.split_first_chunk() else {
        return Err("its header is truncated".to_owned());
    };
    if bits != 8 {
        return unsupported(&format!("JPEG of {bits} bits"));
    }
    if ![1, 3, 4].contains(&count) {
        return unsupported(&format!("JPEG with {count} components"));
    }
    let sampling = components.chunks_exact(3).map(|component| (component[1] >> 4, component[1] & 15));
    let across = 8 * sampling.clone().map(|(across, _)| u64::from(across)).max().unwrap_or(0).max(1);
    let down = 8 * sampling.clone().map(|(_, down)| u64::from(down)).max().unwrap_or(0).max(1);
    let blocks: u64 = sampling.map(|(across, down)| u64::from(across) * u64::from(down)).sum();
    let [height, width] = [[high, low], [wide, narrow]].map(|side| u64::from(u16::from_be_bytes(side)));
    // Each block takes at least one bit.
    if (width / across) * (height / down) * blocks > 8 * file_length as u64 {
        return Err(format!("it claims {width} x {height} pixels in {file_length} bytes"));
    }
    // A progressive JPEG is held as 64 coefficients of 16 bits per block until its last scan.
    let coefficients = 128 * blocks * width.div_ceil(across) * height.div_ceil(down);
    if marker == 0xc2 && coefficients > MAX_BYTES {
        return Err(format!("its {width} x {height} pixels need too much memory"));
    }
    Ok(())
}
