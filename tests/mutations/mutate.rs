//! Damages files: at random, and inside what a checksum or a length protects.

use std::{
    io::{Cursor, Read, Write},
    ops::Range,
};

use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha8Rng};
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

/// The place of the magic value in a tar header.
const USTAR: Range<usize> = 257..262;
/// The longest repetition, for recursive parsers.
const MAX_REPEATED: usize = 20_000;
/// The maximum number of bytes appended to a file.
const MAX_PADDING: usize = 1 << 16;

/// Values at which lengths, counts and offsets overflow or exceed a file.
const SIZES: [u64; 12] = [
    0,
    1,
    0x7f,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 40,
    1 << 60,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// The same as text.
const NUMBERS: [&str; 12] = [
    "0",
    "-1",
    "65536",
    "2147483648",
    "4294967296",
    "1099511627776",
    "4611686018427387904",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "1e-320",
];

/// One of the files with one to four faults. The seed and the number fix everything.
pub fn mutated(corpus: &[Vec<u8>], seed: u64, number: u64) -> Vec<u8> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(number);
    let at = random.random_range(0..corpus.len());
    inside(&corpus[at], corpus, &mut random)
}

/// Mutates a part of a file and repairs what protects it, or mutates the file as it is.
fn inside(bytes: &[u8], corpus: &[Vec<u8>], random: &mut ChaCha8Rng) -> Vec<u8> {
    let repaired = match bytes {
        _ if random.random_ratio(1, 4) => None,
        [b'P', b'K', 3, 4, ..] => archive(bytes, corpus, random),
        [0x1f, 0x8b, ..] => gzip(bytes, corpus, random),
        _ if bytes.get(USTAR).is_some_and(|magic| magic == b"ustar") => tar(bytes, corpus, random),
        [0x89, b'P', b'N', b'G', ..] => png(bytes, corpus, random),
        [0x93, b'N', b'U', b'M', b'P', b'Y', 1, ..] => with_header::<2>(bytes, 8, corpus, random),
        // A model begins with its version.
        [0x08, _, 0x12, ..] => message(bytes, corpus, random),
        [_, _, _, 0, 0, 0, 0, 0, b'{', ..] => with_header::<8>(bytes, 0, corpus, random),
        _ => None,
    };
    repaired.unwrap_or_else(|| damaged(bytes, corpus, random))
}

/// A ZIP archive with one entry mutated. Sizes and checksums are right.
fn archive(bytes: &[u8], corpus: &[Vec<u8>], random: &mut ChaCha8Rng) -> Option<Vec<u8>> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).ok()?;
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    // The pickle is the first entry, and the most interesting one.
    let chosen = if random.random() { 0 } else { random.random_range(0..archive.len().max(1)) };
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).ok()?;
        let (name, method) = (entry.name().to_owned(), entry.compression());
        let mut content = Vec::new();
        entry.read_to_end(&mut content).ok()?;
        if index == chosen {
            content = inside(&content, corpus, random);
        }
        let method = if random.random_ratio(1, 50) { CompressionMethod::Deflated } else { method };
        writer.start_file(name, SimpleFileOptions::default().compression_method(method)).ok()?;
        writer.write_all(&content).ok()?;
    }
    Some(writer.finish().ok()?.into_inner())
}

/// What was compressed with gzip, mutated, and compressed again.
fn gzip(bytes: &[u8], corpus: &[Vec<u8>], random: &mut ChaCha8Rng) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut content).ok()?;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&inside(&content, corpus, random)).ok()?;
    encoder.finish().ok()
}

/// A tar archive with one header mutated, whose checksum is right.
fn tar(bytes: &[u8], corpus: &[Vec<u8>], random: &mut ChaCha8Rng) -> Option<Vec<u8>> {
    const BLOCK: usize = 512;
    const SUM: Range<usize> = 148..156;
    let mut bytes = bytes.to_vec();
    let headers: Vec<usize> = (0..bytes.len() / BLOCK)
        .map(|block| block * BLOCK)
        .filter(|&at| bytes[at..at + BLOCK].get(USTAR).is_some_and(|magic| magic == b"ustar"))
        .collect();
    let at = *headers.get(random.random_range(0..headers.len().max(1)))?;
    let mut header = damaged(&bytes[at..at + BLOCK], corpus, random);
    header.resize(BLOCK, 0);
    header[SUM].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[SUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes[at..at + BLOCK].copy_from_slice(&header);
    Some(bytes)
}

/// A PNG with one chunk mutated. Lengths and checksums are right.
fn png(bytes: &[u8], corpus: &[Vec<u8>], random: &mut ChaCha8Rng) -> Option<Vec<u8>> {
    let (mut file, mut rest) = (bytes[..8].to_vec(), &bytes[8..]);
    let mut chunks = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes(*length) as usize;
        let (chunk, after) = after.split_at_checked(4 + length)?;
        chunks.push(chunk.to_vec());
        rest = after.get(4..)?;
    }
    let chosen = random.random_range(0..chunks.len().max(1));
    let chunk = chunks.get_mut(chosen)?;
    let content = damaged(&chunk[4..], corpus, random);
    chunk.splice(4.., content);
    for chunk in chunks {
        let mut sum = flate2::Crc::new();
        sum.update(&chunk);
        file.extend((chunk.len() as u32 - 4).to_be_bytes());
        file.extend(chunk);
        file.extend(sum.sum().to_be_bytes());
    }
    Some(file)
}

/// A file with its header mutated, whose length of `N` bytes at `at` is right.
fn with_header<const N: usize>(
    bytes: &[u8],
    at: usize,
    corpus: &[Vec<u8>],
    random: &mut ChaCha8Rng,
) -> Option<Vec<u8>> {
    let start = at + N;
    let mut length = [0; 8];
    length[..N].copy_from_slice(&bytes[at..start]);
    let end = start.checked_add(usize::try_from(u64::from_le_bytes(length)).ok()?)?;
    let header = damaged(bytes.get(start..end)?, corpus, random);
    let length = (header.len() as u64).to_le_bytes();
    Some([&bytes[..at], &length[..N], &header, &bytes[end..]].concat())
}

/// A protobuf message with a field mutated, at any depth. The lengths around it are right.
fn message(bytes: &[u8], corpus: &[Vec<u8>], random: &mut ChaCha8Rng) -> Option<Vec<u8>> {
    // For each length-delimited field: the starts of its length and of its content, and its end.
    let (mut fields, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let (tag, start) = varint(bytes, at)?;
        let (value, after) = varint(bytes, start)?;
        at = match tag & 7 {
            0 => after,
            1 => start + 8,
            2 => {
                let end = after.checked_add(usize::try_from(value).ok()?)?;
                fields.push((start, after, end));
                end
            }
            5 => start + 4,
            _ => return None,
        };
    }
    if at != bytes.len() || fields.is_empty() {
        return None;
    }
    let (length, start, end) = fields[random.random_range(0..fields.len())];
    let content = &bytes[start..end];
    let nested = if random.random_ratio(3, 4) { message(content, corpus, random) } else { None };
    let content = nested.unwrap_or_else(|| damaged(content, corpus, random));
    let mut message = bytes[..length].to_vec();
    push_varint(&mut message, content.len() as u64);
    message.extend(content);
    message.extend(&bytes[end..]);
    Some(message)
}

/// The number at a place, and the place after it.
fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let length = bytes.get(at..)?.iter().take(9).position(|byte| *byte < 0x80)? + 1;
    let value =
        bytes[at..at + length].iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
    Some((value, at + length))
}

fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// The bytes with one to four faults.
fn damaged(bytes: &[u8], corpus: &[Vec<u8>], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let faults = if random.random_ratio(2, 3) { 1 } else { random.random_range(2..=4) };
    for _ in 0..faults {
        damage(&mut bytes, corpus, random);
    }
    bytes
}

fn damage(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut ChaCha8Rng) {
    let at = random.random_range(0..=bytes.len());
    let part = at..(at + random.random_range(1..=32)).min(bytes.len());
    match random.random_range(0..12) {
        0 if random.random_ratio(1, 4) => {
            // A file that is long enough for what it claims.
            let more = random.random_range(0..MAX_PADDING);
            bytes.resize(bytes.len() + more, random.random());
        }
        0 => bytes.truncate(at),
        1 | 2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.random_range(0..8);
            }
        }
        3 => random.fill_bytes(&mut bytes[part]),
        4 => drop(bytes.drain(part)),
        5 => {
            let mut more = vec![0; part.len()];
            random.fill_bytes(&mut more);
            bytes.splice(at..at, more);
        }
        6 => {
            let part = bytes[part].to_vec();
            let times = match random.random_range(0..32) {
                0 if !part.is_empty() => random.random_range(0..=MAX_REPEATED / part.len()),
                _ => 1,
            };
            bytes.splice(at..at, part.repeat(times));
        }
        7 => {
            let other = &corpus[random.random_range(0..corpus.len())];
            let from = random.random_range(0..=other.len());
            let to = random.random_range(from..=other.len());
            let end = if random.random() { at } else { (at + to - from).min(bytes.len()) };
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        8 => {
            let size = SIZES[random.random_range(0..SIZES.len())];
            let width = [1, 2, 4, 8][random.random_range(0..4)];
            let size = if random.random() {
                size.to_le_bytes()[..width].to_vec()
            } else {
                // The low bytes, or the high ones of a value with bits there.
                size.to_be_bytes()[8 - width..].to_vec()
            };
            let end = (at + width).min(bytes.len());
            bytes[at..end].copy_from_slice(&size[..end - at]);
        }
        9 => {
            // A protobuf varint, in place of another.
            let end = (at..bytes.len()).find(|&end| bytes[end] < 0x80).map_or(bytes.len(), |end| end + 1);
            let mut varint = Vec::new();
            push_varint(&mut varint, SIZES[random.random_range(0..SIZES.len())]);
            bytes.splice(at..end, varint);
        }
        _ => {
            // A number as text, in place of another: the next one, or the first after the start.
            let is_digit = |&at: &usize| bytes[at].is_ascii_digit();
            let Some(at) = (at..bytes.len()).chain(0..at).find(is_digit) else { return };
            let end = (at..bytes.len()).find(|at| !is_digit(at)).unwrap_or(bytes.len());
            if random.random_ratio(1, 3) {
                bytes[at..end].fill(b'9');
            } else {
                bytes.splice(at..end, NUMBERS[random.random_range(0..NUMBERS.len())].bytes());
            }
        }
    }
}
