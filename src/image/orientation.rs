//! Orients an image by its EXIF or XMP metadata.

use image::{DynamicImage, RgbImage, metadata::Orientation};

/// The tag of the orientation.
const ORIENTATION: u16 = 0x112;

/// Applies an EXIF orientation to an image; values other than 2 to 8 change nothing.
pub(super) fn apply(image: RgbImage, orientation: u16) -> RgbImage {
    let orientation = u8::try_from(orientation).ok().and_then(Orientation::from_exif);
    let mut image = DynamicImage::from(image);
    image.apply_orientation(orientation.unwrap_or(Orientation::NoTransforms));
    image.into_rgb8()
}

/// The orientation in EXIF metadata. Damaged metadata have none.
pub(super) fn of_exif(exif: &[u8]) -> Option<u16> {
    let mut exif = exif;
    // Some programs write the header of JPEG's EXIF segment into other formats too, or twice.
    while let Some(rest) = exif.strip_prefix(b"Exif\0\0") {
        exif = rest;
    }
    let directory = Directory::of_tiff(exif)?;
    let is_orientation = |entry: &Entry| entry.tag == ORIENTATION && entry.count > 0;
    directory.entries().filter(is_orientation).find_map(|entry| match entry.format {
        SHORT | SIGNED_SHORT => directory.u16(entry.value),
        LONG | SIGNED_LONG => directory.u32(entry.value)?.try_into().ok(),
        _ => None,
    })
}

/// The orientation in XMP metadata, as an attribute or as an element.
pub(super) fn of_xmp(xmp: &[u8]) -> Option<u16> {
    let name = b"tiff:Orientation";
    xmp.windows(name.len() + 3).find_map(|text| match text.strip_prefix(name)? {
        [b'=', b'"', digit @ b'0'..=b'9'] | [b'>', digit @ b'0'..=b'9', _] => Some((digit - b'0').into()),
        _ => None,
    })
}

/// Formats of a value.
pub(super) const TEXT: u16 = 2;
const SHORT: u16 = 3;
const LONG: u16 = 4;
const SIGNED_SHORT: u16 = 8;
const SIGNED_LONG: u16 = 9;

/// The first directory of a TIFF; EXIF metadata is a TIFF, too.
pub(super) struct Directory<'a> {
    bytes: &'a [u8],
    is_little_endian: bool,
    pub is_big_tiff: bool,
}

/// An entry of a [`Directory`].
pub(super) struct Entry {
    pub tag: u16,
    pub format: u16,
    pub count: u64,
    /// The offset of the value, or of its own offset if the value is long.
    pub value: usize,
}

impl<'a> Directory<'a> {
    pub fn of_tiff(bytes: &'a [u8]) -> Option<Self> {
        let (is_little_endian, is_big_tiff) = match bytes.first_chunk()? {
            b"II*\0" => (true, false),
            b"MM\0*" => (false, false),
            b"II+\0" => (true, true),
            b"MM\0+" => (false, true),
            _ => return None,
        };
        Some(Self { bytes, is_little_endian, is_big_tiff })
    }

    /// The entries, up to the end of a truncated directory.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let (start, count, size) = if self.is_big_tiff {
            let start = self.offset(self.u64(8));
            (start.saturating_add(8), self.u64(start), 20)
        } else {
            let start = self.offset(self.u32(4).map(u64::from));
            (start.saturating_add(2), self.u16(start).map(u64::from), 12)
        };
        (0..count.unwrap_or(0)).map_while(move |index| {
            let at = start.checked_add(usize::try_from(index).ok()?.checked_mul(size)?)?;
            let (tag, format) = (self.u16(at)?, self.u16(at + 2)?);
            let count = if self.is_big_tiff { self.u64(at + 4)? } else { self.u32(at + 4)?.into() };
            Some(Entry { tag, format, count, value: at + if self.is_big_tiff { 12 } else { 8 } })
        })
    }

    /// A 16-bit number in the byte order of the directory.
    pub fn u16_bytes(&self, value: u16) -> [u8; 2] {
        if self.is_little_endian { value.to_le_bytes() } else { value.to_be_bytes() }
    }

    /// An offset, or one beyond the file if there is none.
    fn offset(&self, stated: Option<u64>) -> usize {
        stated.and_then(|offset| offset.try_into().ok()).unwrap_or(usize::MAX)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.number(at).map(if self.is_little_endian { u16::from_le_bytes } else { u16::from_be_bytes })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.number(at).map(if self.is_little_endian { u32::from_le_bytes } else { u32::from_be_bytes })
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.number(at).map(if self.is_little_endian { u64::from_le_bytes } else { u64::from_be_bytes })
    }

    fn number<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..)?.first_chunk().copied()
    }
}
