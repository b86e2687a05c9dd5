//! Images of one size as an array of bytes in memory, and the bounded reading of arrays from files.

use std::{
    borrow::Cow,
    io::Read,
    path::{Path, PathBuf},
};

use super::layout::Reasoned;
use crate::{
    image::{self, Input, MAX_BYTES, MAX_SIDE, RgbImage},
    text::path_text,
};

/// The most bytes that deflate expands one byte to.
pub(super) const MAX_INFLATED: u64 = 1032;
/// The bytes of an array to read first; each further piece doubles those read.
const FIRST_PIECE: usize = 1 << 20;

/// Images of one size, as bytes.
#[derive(Debug)]
pub(super) struct Arrays {
    pieces: Vec<Piece>,
    form: Form,
    bytes: Vec<u8>,
}

/// Images that come from one array of a file.
#[derive(Debug)]
pub(super) struct Piece {
    pub file: PathBuf,
    /// The name of the array, if a file has several.
    pub array: Option<String>,
    /// The index of the first of the images in that array.
    pub first: usize,
    pub count: usize,
}

/// The size of each image, and the strides in bytes between images, channels, rows and columns. Grey images
/// have a channel stride of 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub count: usize,
    pub height: usize,
    pub width: usize,
    pub image: usize,
    pub channel: usize,
    pub row: usize,
    pub column: usize,
}

impl Form {
    /// `count` images `[3, height, width]`, if there is at least one and their size is that of an image.
    pub fn planes(count: usize, height: usize, width: usize) -> Option<Self> {
        let channel = height.checked_mul(width)?;
        let form =
            Self { count, height, width, image: channel.checked_mul(3)?, channel, row: width, column: 1 };
        form.is_fit().then_some(form)
    }

    fn is_fit(&self) -> bool {
        let sides = 1..=MAX_SIDE as usize;
        let is_side = |side: usize| sides.contains(&side);
        let has_sides = is_side(self.height) && is_side(self.width);
        has_sides && 3 * self.height as u64 * self.width as u64 <= MAX_BYTES && self.count > 0
    }

    /// The form of images stored column by column.
    pub fn transposed(self) -> Self {
        Self { height: self.width, width: self.height, row: self.column, column: self.row, ..self }
    }

    /// The form of an array of images `[N, H, W]`, `[N, H, W, 1 or 3]` or `[N, 1 or 3, H, W]`.
    pub fn of(shape: &[usize], is_fortran: bool) -> Reasoned<Self> {
        let unfit = || {
            format!(
                "it has shape {shape:?}, expected [N, H, W], [N, H, W, 3] or [N, 3, H, W] with sides up to {MAX_SIDE}"
            )
        };
        let [channels, rows, columns] = match *shape {
            [_, _, _] => [None, Some(1), Some(2)],
            [_, _, _, 1 | 3] => [Some(3), Some(1), Some(2)],
            [_, 1 | 3, _, _] => [Some(1), Some(2), Some(3)],
            _ => return Err(unfit()),
        };
        let mut strides = vec![0; shape.len()];
        let mut size = 1_usize;
        let mut stride = |axis: usize| {
            strides[axis] = size;
            size = size.checked_mul(shape[axis])?;
            Some(())
        };
        let is_countable = if is_fortran {
            (0..shape.len()).try_for_each(&mut stride)
        } else {
            (0..shape.len()).rev().try_for_each(&mut stride)
        };
        let length = |axis: Option<usize>| axis.map_or(1, |axis| shape[axis]);
        let distance = |axis: Option<usize>| axis.map_or(0, |axis| strides[axis]);
        let form = Self {
            count: shape[0],
            height: length(rows),
            width: length(columns),
            image: strides[0],
            channel: if length(channels) == 1 { 0 } else { distance(channels) },
            row: distance(rows),
            column: distance(columns),
        };
        Some(form).filter(|form| is_countable.is_some() && form.is_fit()).ok_or_else(unfit)
    }

    fn channels(&self) -> usize {
        if self.channel == 0 { 1 } else { 3 }
    }

    /// The number of bytes of all images.
    pub fn bytes(&self) -> usize {
        self.count * self.channels() * self.height * self.width
    }
}

impl Arrays {
    /// The images in these bytes, whose number must match the form.
    pub fn new(pieces: Vec<Piece>, form: Form, bytes: Vec<u8>) -> Self {
        debug_assert_eq!(bytes.len(), form.bytes());
        Self { pieces, form, bytes }
    }

    pub fn len(&self) -> usize {
        self.form.count
    }

    /// The files, and the names of the arrays in them, that the images come from.
    pub fn places(&self) -> impl Iterator<Item = (&Path, Option<&str>)> {
        self.pieces.iter().map(|piece| (piece.file.as_path(), piece.array.as_deref()))
    }

    /// The name of an image: `FILE#NUMBER` or `FILE/ARRAY#NUMBER`.
    pub fn name(&self, index: usize) -> String {
        let mut number = index;
        for Piece { file, array, first, count } in &self.pieces {
            if number < *count {
                let (file, number) = (path_text(file), first + number);
                return match array {
                    Some(array) => format!("{file}/{array}#{number}"),
                    None => format!("{file}#{number}"),
                };
            }
            number -= count;
        }
        format!("#{index}")
    }

    /// Whether the images become an input unchanged.
    pub fn is_unchanged(&self, input: &Input) -> bool {
        image::is_unchanged((self.form.height, self.form.width), input)
    }

    /// The bytes `[3, height, width]` of an image, resized to an input.
    pub fn pixels(&self, index: usize, input: &Input) -> Cow<'_, [u8]> {
        if !self.is_unchanged(input) {
            return Cow::Owned(image::pixels(&self.image(index), input));
        }
        if Some(self.form) == Form::planes(self.form.count, input.height, input.width) {
            return Cow::Borrowed(&self.bytes[index * self.form.image..][..self.form.image]);
        }
        Cow::Owned(self.gathered(index, 3))
    }

    /// An image.
    pub fn image(&self, index: usize) -> RgbImage {
        RgbImage::from_fn(self.form.width as u32, self.form.height as u32, |x, y| {
            ::image::Rgb([0, 1, 2].map(|channel| self.byte(index, channel, y as usize, x as usize)))
        })
    }

    /// The bytes of an image, without repeated channels.
    pub fn record(&self, index: usize) -> Cow<'_, [u8]> {
        let Form { height, width, image, .. } = self.form;
        let (channels, length) = (self.form.channels(), self.form.channels() * height * width);
        if image == length {
            return Cow::Borrowed(&self.bytes[index * length..][..length]);
        }
        Cow::Owned(self.gathered(index, channels))
    }

    /// The bytes `[channels, height, width]` of an image.
    fn gathered(&self, index: usize, channels: usize) -> Vec<u8> {
        let Form { height, width, .. } = self.form;
        let mut bytes = Vec::with_capacity(channels * height * width);
        for channel in 0..channels {
            for row in 0..height {
                bytes.extend((0..width).map(|column| self.byte(index, channel, row, column)));
            }
        }
        bytes
    }

    fn byte(&self, index: usize, channel: usize, row: usize, column: usize) -> u8 {
        let form = &self.form;
        self.bytes[index * form.image + channel * form.channel + row * form.row + column * form.column]
    }
}

/// Reads the bytes of an array. `most` is an upper bound on their number. Memory is allocated as the bytes
/// arrive, so a small file that claims a large array takes little.
pub(super) fn read(reader: &mut impl Read, count: usize, most: u64) -> Reasoned<Vec<u8>> {
    if count as u64 > most {
        return Err(format!("it claims {count} bytes of values, its size allows at most {most}"));
    }
    let mut bytes = Vec::new();
    while bytes.len() < count {
        let piece = bytes.len().max(FIRST_PIECE).min(count - bytes.len());
        bytes
            .try_reserve_exact(piece)
            .map_err(|_| format!("there is no memory for {count} bytes of values"))?;
        let read =
            reader.by_ref().take(piece as u64).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        if read < piece {
            return Err(format!("it is truncated: it has {} of {count} bytes of values", bytes.len()));
        }
    }
    Ok(bytes)
}

/// Checks that nothing follows an array. A reader that compares a checksum does so at its end.
pub(super) fn check_end(reader: &mut impl Read) -> Reasoned<()> {
    match reader.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err("it is longer than its header says".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Numbers of a NumPy type as integers: `u`, `i`, `b` and `f` of `size` bytes; `None` for other types and for
/// numbers that are not integers.
pub(super) fn integers(bytes: &[u8], kind: &str, size: usize, is_big_endian: bool) -> Option<Vec<i64>> {
    let read = |item: &[u8]| {
        let mut word = [0; 8];
        if is_big_endian {
            item.iter().rev().zip(&mut word).for_each(|(byte, place)| *place = *byte)
        } else {
            word[..size].copy_from_slice(item)
        }
        let bits = u64::from_le_bytes(word);
        let unused = 64 - 8 * size as u32;
        let whole = |number: f64| (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64);
        match (kind, size) {
            ("u", _) | ("b", 1) => i64::try_from(bits).ok(),
            ("i", _) => Some((bits << unused) as i64 >> unused),
            ("f", 8) => whole(f64::from_bits(bits)),
            ("f", 4) => whole(f32::from_bits(bits as u32).into()),
            _ => None,
        }
    };
    if ![1, 2, 4, 8].contains(&size) || !bytes.len().is_multiple_of(size) {
        return None;
    }
    bytes.chunks_exact(size).map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_axis_order_gives_the_same_images() {
        // The byte of image n, channel c, row y and column x is n + 2c + 10y + 50x.
        let (count, height, width) = (2, 3, 4);
        let byte = |n: usize, c: usize, y: usize, x: usize| (n + 2 * c + 10 * y + 50 * x) as u8;
        let expected: Vec<u8> = (0..3 * height * width)
            .map(|at| byte(1, at / (height * width), at / width % height, at % width))
            .collect();
        let fill = |shape: &[usize], is_fortran: bool, channels: usize, value: &dyn Fn(&[usize]) -> u8| {
            let length: usize = shape.iter().product();
            let axes: Vec<usize> =
                if is_fortran { (0..shape.len()).collect() } else { (0..shape.len()).rev().collect() };
            let bytes = (0..length).map(|mut at| {
                let mut index = vec![0; shape.len()];
                for &axis in &axes {
                    index[axis] = at % shape[axis];
                    at /= shape[axis];
                }
                value(&index)
            });
            let form = Form::of(shape, is_fortran).unwrap();
            assert_eq!((form.count, form.channels()), (count, channels));
            Arrays::new(Vec::new(), form, bytes.collect())
        };
        for is_fortran in [false, true] {
            let last = fill(&[count, height, width, 3], is_fortran, 3, &|i| byte(i[0], i[3], i[1], i[2]));
            let first = fill(&[count, 3, height, width], is_fortran, 3, &|i| byte(i[0], i[1], i[2], i[3]));
            for arrays in [last, first] {
                assert_eq!(*arrays.pixels(1, &Input::of_size(height, width)), expected);
                assert_eq!(arrays.record(1).len(), expected.len());
            }
            for shape in [&[count, height, width][..], &[count, height, width, 1], &[count, 1, height, width]]
            {
                let grey = |i: &[usize]| {
                    let sides: Vec<usize> = i[1..]
                        .iter()
                        .zip(&shape[1..])
                        .filter(|side| *side.1 > 1)
                        .map(|side| *side.0)
                        .collect();
                    byte(i[0], 0, sides[0], sides[1])
                };
                let arrays = fill(shape, is_fortran, 1, &grey);
                assert_eq!(
                    *arrays.pixels(1, &Input::of_size(height, width)),
                    expected[..height * width].repeat(3)
                );
                assert_eq!(*arrays.record(1), expected[..height * width]);
            }
        }
    }

    #[test]
    fn shapes_that_are_not_images_are_refused() {
        for shape in [
            &[][..],
            &[2],
            &[2, 2],
            &[0, 2, 2],
            &[2, 0, 2],
            &[2, 2, 2, 2],
            &[2, 70_000, 2],
            &[1 << 40, 1 << 15, 1 << 15],
        ] {
            for is_fortran in [false, true] {
                let error = Form::of(shape, is_fortran).unwrap_err();
                assert!(error.contains(&format!("shape {shape:?}")), "{error}");
            }
        }
    }

    #[test]
    fn oversized_claims_are_refused_before_reading() {
        let error = read(&mut &b"abc"[..], 1 << 40, 3 * MAX_INFLATED).unwrap_err();
        assert!(
            error.contains("claims 1099511627776 bytes of values, its size allows at most 3096"),
            "{error}"
        );
        // More memory than any machine has, with a bound that allows it.
        let claimed = isize::MAX as usize / 2;
        let error = read(&mut &b"abc"[..], claimed, u64::MAX).unwrap_err();
        assert!(error.contains("truncated: it has 3 of"), "{error}");
        assert!(read(&mut &b"abc"[..], 4, 99).unwrap_err().contains("truncated: it has 3 of 4 bytes"));
        let mut whole = &b"abc"[..];
        assert_eq!(read(&mut whole, 2, 99).unwrap(), b"ab");
        assert!(check_end(&mut whole).unwrap_err().contains("longer"));
        check_end(&mut whole).unwrap();
        let long: Vec<u8> = (0..3 * FIRST_PIECE + 7).map(|at| (at % 251) as u8).collect();
        assert!(read(&mut &long[..], long.len(), u64::MAX).unwrap() == long);
    }

    #[test]
    fn numbers_of_every_type_become_integers() {
        for (bytes, kind, size, is_big_endian, expected) in [
            (&[7, 255][..], "u", 1, false, Some(vec![7, 255])),
            (&[7, 255], "i", 1, false, Some(vec![7, -1])),
            (&[1, 0], "b", 1, false, Some(vec![1, 0])),
            (&[1, 2], "u", 2, false, Some(vec![0x201])),
            (&[1, 2], "u", 2, true, Some(vec![0x102])),
            (&[255, 255, 255, 254], "i", 4, true, Some(vec![-2])),
            (&3.0_f64.to_le_bytes(), "f", 8, false, Some(vec![3])),
            (&(-4.0_f32).to_be_bytes(), "f", 4, true, Some(vec![-4])),
            (&0.5_f64.to_le_bytes(), "f", 8, false, None),
            (&[255; 8], "u", 8, false, None),
            (&[1, 2, 3], "u", 2, false, None),
            (&[1, 2, 3], "u", 3, false, None),
            (&[1, 2], "c", 2, false, None),
        ] {
            assert_eq!(integers(bytes, kind, size, is_big_endian), expected, "{kind}{size}");
        }
    }
}
