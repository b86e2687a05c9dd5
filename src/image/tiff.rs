//! The first image of a TIFF or BigTIFF, as Pillow converts it to RGB.

use std::io::Cursor;

use image::RgbImage;
use tiff::{
    ColorType,
    decoder::{BufferLayoutPreference, ChunkType, Decoder, DecodingResult, Limits},
    tags::{Tag, Type},
};

use super::{
    decode::{MAX_BYTES, Reason, check_size, reason},
    jpeg,
    orientation::{self, Directory},
};

/// XMP metadata, which may hold the orientation.
const XMP: Tag = Tag::Unknown(700);
/// Values of PhotometricInterpretation.
const BLACK_IS_ZERO: u16 = 1;
const PALETTE: u16 = 3;
/// The value of Compression for JPEG.
const JPEG: u16 = 7;
/// The value of ExtraSamples for colours premultiplied by alpha.
const ASSOCIATED_ALPHA: u16 = 1;

/// Decodes the first image and its EXIF orientation.
pub(super) fn decode(bytes: &[u8]) -> Result<(RgbImage, u16), Reason> {
    check_directory(bytes)?;
    let indexes = palette_as_grey(bytes);
    let mut decoder = Decoder::new(Cursor::new(indexes.as_deref().unwrap_or(bytes))).map_err(reason)?;
    let (width, height) = decoder.dimensions().map_err(reason)?;
    check_size((width, height), 3)?;
    check_jpegs(&mut decoder, bytes)?;
    let colour = decoder.colortype().map_err(reason)?;
    if decoder.find_tag_unsigned::<u16>(Tag::FillOrder).map_err(reason)? == Some(2) {
        return Err("TIFF with reversed bits is not supported".into());
    }
    let mut limits = Limits::unlimited();
    limits.decoding_buffer_size = MAX_BYTES as usize;
    limits.intermediate_buffer_size = MAX_BYTES as usize;
    limits.ifd_value_size = bytes.len();
    let mut decoder = decoder.with_limits(limits);
    let mut read = DecodingResult::U8(vec![]);
    let layout = decoder.read_image_to_buffer(&mut read).map_err(reason)?;
    if read.as_buffer(0).as_bytes().len() < layout.complete_len {
        return Err(format!("its {width} x {height} pixels need too much memory"));
    }
    let unsupported = || format!("TIFF with colours of the kind {colour:?} is not supported");
    let (bits, is_palette) = (colour.bit_depth(), indexes.is_some());
    // Samples of fewer than 8 bits are packed.
    if ![1, 2, 4, 8, 16].contains(&bits) || (bits < 8 && colour.num_samples() > 1) {
        return Err(unsupported());
    }
    let values = match read {
        DecodingResult::U8(values) if bits < 8 => unpack(&values, width as usize, bits, is_palette),
        DecodingResult::U8(values) => values,
        // The upper bytes.
        DecodingResult::U16(values) if !is_palette => {
            values.iter().map(|&value| (value >> 8) as u8).collect()
        }
        _ => return Err(unsupported()),
    };
    let values = interleave(values, &layout);
    let samples = usize::from(colour.num_samples());
    let pixels = values.chunks_exact(samples);
    let extra = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).map_err(reason)?;
    let is_multiplied = extra.is_some_and(|extra| extra.first() == Some(&ASSOCIATED_ALPHA));
    let rgb: Vec<u8> = match colour {
        ColorType::Gray(_) | ColorType::Multiband { .. } if is_palette => {
            let palette = palette(&decoder.get_tag_u16_vec(Tag::ColorMap).map_err(reason)?);
            pixels.flat_map(|pixel| palette.get(usize::from(pixel[0])).copied().unwrap_or_default()).collect()
        }
        ColorType::Gray(_) | ColorType::Multiband { .. } => {
            if is_multiplied && samples > 1 {
                pixels.flat_map(|pixel| [divided(pixel[0], pixel[1]); 3]).collect()
            } else {
                pixels.flat_map(|pixel| [pixel[0]; 3]).collect()
            }
        }
        ColorType::RGBA(_) if is_multiplied => {
            pixels.flat_map(|pixel| [0, 1, 2].map(|at| divided(pixel[at], pixel[3]))).collect()
        }
        ColorType::RGBA(_) => pixels.flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
        ColorType::RGB(_) => values,
        ColorType::CMYK(_) | ColorType::CMYKA(_) => {
            pixels.flat_map(|pixel| [0, 1, 2].map(|at| from_cmyk(pixel[at], pixel[3]))).collect()
        }
        ColorType::YCbCr(_) => pixels.flat_map(|pixel| from_ycbcr(pixel[0], pixel[1], pixel[2])).collect(),
        _ => return Err(unsupported()),
    };
    let stated = decoder.find_tag(Tag::Orientation).ok().flatten().and_then(|value| value.into_u16().ok());
    let xmp = || decoder.get_tag_u8_vec(XMP).ok().and_then(|xmp| orientation::of_xmp(&xmp));
    let orientation = stated.or_else(xmp).unwrap_or(1);
    Ok((RgbImage::from_raw(width, height, rgb).ok_or("it is truncated")?, orientation))
}

/// Checks that the decoder reads the directory correctly. It prints to stderr if it refuses a text longer
/// than the file in place of a number that it needs. In a BigTIFF, it loses its place after a value of an
/// unknown type.
fn check_directory(bytes: &[u8]) -> Result<(), Reason> {
    let Some(directory) = Directory::of_tiff(bytes) else { return Ok(()) };
    let is_needed = |tag| matches!(tag, 256..=268 | 273..=284 | 317..=347 | 530 | 700);
    for entry in directory.entries() {
        if entry.format == orientation::TEXT && entry.count > bytes.len() as u64 && is_needed(entry.tag) {
            return Err("it is truncated".to_owned());
        }
        if directory.is_big_tiff && Type::from_u16(entry.format).is_none() {
            return Err(format!("its tag {} is of the unknown type {}", entry.tag, entry.format));
        }
    }
    Ok(())
}

/// Checks the JPEGs in a TIFF: the decoder trusts their sizes.
fn check_jpegs(decoder: &mut Decoder<Cursor<&[u8]>>, bytes: &[u8]) -> Result<(), Reason> {
    if decoder.find_tag_unsigned(Tag::Compression).map_err(reason)? != Some(JPEG) {
        return Ok(());
    }
    let (offsets, lengths) = match decoder.get_chunk_type() {
        ChunkType::Strip => (Tag::StripOffsets, Tag::StripByteCounts),
        ChunkType::Tile => (Tag::TileOffsets, Tag::TileByteCounts),
    };
    let offsets = decoder.get_tag_u64_vec(offsets).map_err(reason)?;
    let lengths = decoder.get_tag_u64_vec(lengths).map_err(reason)?;
    // Each is scanned and copied, so overlapping ones would take quadratic time.
    if lengths.iter().fold(0, |sum: u64, &length| sum.saturating_add(length)) > bytes.len() as u64 {
        return Err("its JPEGs overlap, or it is truncated".to_owned());
    }
    for (offset, length) in offsets.into_iter().zip(lengths) {
        let range = usize::try_from(offset).ok().zip(usize::try_from(offset.saturating_add(length)).ok());
        let jpeg = range.and_then(|(start, end)| bytes.get(start..end)).ok_or("it is truncated")?;
        jpeg::Header::read(jpeg)?;
    }
    Ok(())
}

/// A palette image as the grey image of its indexes, which the decoder can read. `None` for other images.
fn palette_as_grey(bytes: &[u8]) -> Option<Vec<u8>> {
    let directory = Directory::of_tiff(bytes)?;
    let entry = directory.entries().find(|entry| entry.tag == Tag::PhotometricInterpretation.to_u16())?;
    let stated = bytes.get(entry.value..entry.value + 2)?;
    if stated != directory.u16_bytes(PALETTE) {
        return None;
    }
    let mut indexes = bytes.to_vec();
    indexes[entry.value..entry.value + 2].copy_from_slice(&directory.u16_bytes(BLACK_IS_ZERO));
    Some(indexes)
}

/// The colours of a ColorMap: first all red values, then green, then blue, of 16 bits.
fn palette(map: &[u16]) -> Vec<[u8; 3]> {
    let size = map.len() / 3;
    let colour = |index| [0, 1, 2].map(|channel| (map[channel * size + index] >> 8) as u8);
    (0..size).map(colour).collect()
}

/// Unpacks samples of 1, 2 or 4 bits, in rows of whole bytes: indexes unchanged, others scaled to 0 to 255.
fn unpack(packed: &[u8], width: usize, bits: u8, are_indexes: bool) -> Vec<u8> {
    let most = (1_u8 << bits) - 1;
    let scale = if are_indexes { 1 } else { 255 / most };
    let per_byte = usize::from(8 / bits);
    let row = |row: &[u8]| -> Vec<u8> {
        (0..width)
            .map(|x| (row[x / per_byte] >> (8 - bits - bits * (x % per_byte) as u8) & most) * scale)
            .collect()
    };
    packed.chunks_exact(width.div_ceil(per_byte)).flat_map(row).collect()
}

/// Interleaves the samples if they are stored plane by plane.
fn interleave(values: Vec<u8>, layout: &BufferLayoutPreference) -> Vec<u8> {
    if layout.planes < 2 {
        return values;
    }
    let size = (values.len() / layout.planes).max(1);
    let mut interleaved = vec![0; values.len()];
    for (plane, samples) in values.chunks_exact(size).enumerate() {
        for (pixel, &sample) in interleaved.chunks_exact_mut(layout.planes).zip(samples) {
            pixel[plane] = sample;
        }
    }
    interleaved
}

/// A colour value with premultiplied alpha divided out.
fn divided(value: u8, alpha: u8) -> u8 {
    match u32::from(alpha) {
        0 => 0,
        alpha => (u32::from(value) * 255 / alpha).min(255) as u8,
    }
}

fn from_cmyk(ink: u8, black: u8) -> u8 {
    let light = 255 - black;
    let product = u32::from(ink) * u32::from(light) + 128;
    light.saturating_sub(((product + (product >> 8)) >> 8) as u8)
}

fn from_ycbcr(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let [y, cb, cr] = [f32::from(y), f32::from(cb) - 128.0, f32::from(cr) - 128.0];
    [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb].map(|value| value.round() as u8)
}
