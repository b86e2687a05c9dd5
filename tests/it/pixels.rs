//! Decoded and resized images, compared with Pillow's.

use std::fs;

use cac::{
    Error,
    image::{self, Filter, Fit, Input, Resize},
    weights::Weights,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::golden;

#[test]
fn photographs_are_resized_as_in_pillow() {
    let expected = Weights::read(&golden("resize.safetensors")).unwrap();
    let mut compared = 0;
    for entry in golden("images").read_dir().unwrap() {
        let path = entry.unwrap().path();
        let image = image::open(&path).unwrap();
        for (height, width) in [(32, 32), (24, 40), (7, 5)] {
            let name = format!("{}.{height}x{width}", path.file_name().unwrap().to_str().unwrap());
            let theirs = expected.values(&name, &[3, height, width]).unwrap();
            let ours = image::pixels(&image, &Input::of_size(height, width));
            let difference = |(&ours, &theirs): (&u8, &f32)| (f32::from(ours) - theirs).abs();
            let greatest = ours.iter().zip(theirs).map(difference).fold(0.0, f32::max);
            assert!(greatest <= 1.0, "{name}: {greatest} of 255");
            compared += 1;
        }
    }
    assert!(compared >= 12, "{compared}");
}

#[test]
fn resizing_matches_pillow_byte_for_byte() {
    let expected = Weights::read(&golden("resize-exact.safetensors")).unwrap();
    let image = ::image::RgbImage::from_fn(97, 61, computed);
    for (height, width) in [(32, 32), (61, 97), (61, 40), (1, 1), (7, 5), (70, 120)] {
        let theirs = expected.values(&format!("{height}x{width}"), &[3, height, width]).unwrap();
        let ours = image::pixels(&image, &Input::of_size(height, width));
        assert!(
            ours.iter().zip(theirs).all(|(&ours, &theirs)| f32::from(ours) == theirs),
            "{height}x{width}"
        );
    }
}

/// The entries of a file that images.py made.
fn entries(name: &str) -> serde_json::Map<String, Value> {
    let Value::Object(entries) = serde_json::from_slice(&fs::read(golden(name)).unwrap()).unwrap() else {
        panic!("{name} is not an object");
    };
    entries
}

fn bytes(hexadecimal: &Value) -> Vec<u8> {
    let digits = hexadecimal.as_str().unwrap();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn every_kind_of_image_is_decoded_as_in_pillow() {
    let entries = entries("decode.json");
    assert!(entries.len() > 100);
    for (name, expected) in entries {
        let image =
            image::from_bytes(&bytes(&expected["file"])).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            [image.width(), image.height()].map(Value::from),
            [&expected["width"], &expected["height"]].map(Clone::clone),
            "{name}"
        );
        let theirs = bytes(&expected["rgb"]);
        // JPEG does not specify the last bits.
        let tolerance = if name.ends_with(".jpg") { 2 } else { 0 };
        let differs = |(ours, theirs): (&u8, &u8)| ours.abs_diff(*theirs) > tolerance;
        assert!(
            !image.as_raw().iter().zip(&theirs).any(differs),
            "{name}: {:?}, expected {theirs:?}",
            image.as_raw()
        );
    }
}

#[test]
fn every_shape_is_resized_byte_for_byte_as_in_pillow() {
    let mut compared = 0;
    for (shape, expected) in entries("shapes.json") {
        let (height, width) = shape.split_once('x').unwrap();
        let image = ::image::RgbImage::from_fn(width.parse().unwrap(), height.parse().unwrap(), computed);
        for (way, expected) in expected.as_object().unwrap() {
            let mut resized = Sha256::new();
            for (height, width) in [(1, 1), (32, 32), (7, 40), (40, 7), (24, 33), (224, 1)] {
                let input =
                    Input { height, width, mean: [0.485, 0.1, 0.5], std: [0.5; 3], resize: resize(way) };
                resized.update(image::pixels(&image, &input));
            }
            let hash = resized.finalize();
            let ours: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(expected, &ours, "{shape}, {way}");
            compared += 1;
        }
    }
    assert!(compared >= 600, "{compared}");
}

/// A way to resize as images.py writes it: `stretch bilinear`, `crop 0.875 bicubic`.
fn resize(way: &str) -> Resize {
    let (fit, filter) = way.rsplit_once(' ').unwrap();
    let fit = match fit.split_once(' ') {
        Some((_, share)) => Fit::Crop { share: share.parse().unwrap() },
        None if fit == "pad" => Fit::Pad,
        None => Fit::Stretch,
    };
    Resize { fit, filter: if filter == "bicubic" { Filter::Bicubic } else { Filter::Bilinear } }
}

/// A pixel of the images that images.py and make.py compute.
fn computed(x: u32, y: u32) -> ::image::Rgb<u8> {
    ::image::Rgb([0, 1, 2].map(|channel| ((7 * x * x + 13 * y * y + 5 * x * y + 101 * channel) % 256) as u8))
}

#[test]
fn unsupported_formats_are_named() {
    let jpeg = |marker, bits, components| {
        [
            &[0xff, 0xd8, 0xff, marker, 0, 8 + 3 * components, bits, 0, 8, 0, 8, components],
            &[1; 20][..],
            b"\xff\xda\xff\xd9",
        ]
        .concat()
    };
    let brands = |brands: &[u8]| [&[0, 0, 0, 8 + brands.len() as u8], b"ftyp", brands].concat();
    // A BigTIFF with an entry of 20 bytes.
    let tiff = [&b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\x01\x01\x03"[..], &[0; 16]].concat();
    let cases: [(Vec<u8>, &str); 22] = [
        (tiff, "its tag 256 is of the unknown type 769"),
        (jpeg(0xc2, 8, 2), "JPEG with 2 components is not supported"),
        (jpeg(0xc0, 12, 3), "JPEG of 12 bits is not supported"),
        (jpeg(0xc3, 8, 3), "lossless JPEG is not supported"),
        (jpeg(0xc9, 8, 3), "JPEG with arithmetic coding is not supported"),
        (jpeg(0xf7, 8, 3), "JPEG-LS is not supported"),
        (brands(b"heic\0\0\0\0mif1heic"), "HEIC is not supported"),
        (brands(b"mif1\0\0\0\0mif1heic"), "HEIC is not supported"),
        (brands(b"avif\0\0\0\0mif1miaf"), "AVIF is not supported"),
        (brands(b"mif1\0\0\0\0mif1avif"), "AVIF is not supported"),
        (brands(b"isom\0\0\0\0mp41"), "MP4 is not supported"),
        (b"\xff\x0a\x7f".to_vec(), "JPEG XL is not supported"),
        (b"\0\0\0\x0cJXL \r\n\x87\n".to_vec(), "JPEG XL is not supported"),
        (b"\0\0\0\x0cjP  \r\n\x87\n".to_vec(), "JPEG 2000 is not supported"),
        (b"%PDF-1.7".to_vec(), "it is a PDF document"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec(), "SVG is not supported"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg/>".to_vec(), "SVG is not supported"),
        (b"\n<!DOCTYPE html><html>".to_vec(), "it is an HTML page"),
        (
            b"version https://git-lfs.github.com/spec/v1".to_vec(),
            "it is a Git LFS pointer, not the file that it stands for",
        ),
        (b"\x1f\x8b\x08\0".to_vec(), "it is compressed with gzip"),
        (vec![], "it is empty"),
        (b"hello".to_vec(), "it is not BMP, GIF, JPEG, PNG, PNM, TIFF or WebP"),
    ];
    for (file, expected) in cases {
        match image::from_bytes(&file) {
            Err(Error::Image { reason, .. }) => assert_eq!(reason, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

/// A TIFF of these entries, each with its tag and two values of 32 bits or one of 16, followed by `data` at 200.
fn tiff(entries: &[(u16, &[u32])], data: &[u8]) -> Vec<u8> {
    let mut file = [&b"II*\0\x08\0\0\0"[..], &(entries.len() as u16).to_le_bytes()].concat();
    let mut values = Vec::new();
    for &(tag, of_tag) in entries {
        let is_long = of_tag.len() > 1;
        let value = if is_long { 150 + values.len() as u32 } else { of_tag[0] };
        file.extend(tag.to_le_bytes());
        file.extend(if is_long { 4_u16 } else { 3 }.to_le_bytes());
        file.extend((of_tag.len() as u32).to_le_bytes());
        file.extend(value.to_le_bytes());
        if is_long {
            values.extend(of_tag.iter().flat_map(|value| value.to_le_bytes()));
        }
    }
    file.resize(150, 0);
    file.extend(values);
    file.resize(200, 0);
    file.extend(data);
    file
}

#[test]
fn odd_tiffs_are_refused() {
    let mut jpeg = Vec::new();
    let grey = ::image::GrayImage::new(8, 8);
    grey.write_to(&mut std::io::Cursor::new(&mut jpeg), ::image::ImageFormat::Jpeg).unwrap();
    let of_strips = |offsets: [u32; 2]| {
        let length = jpeg.len() as u32;
        let entries: [(u16, &[u32]); 9] = [
            (256, &[8]),
            (257, &[16]),
            (258, &[8]),
            (259, &[7]),
            (262, &[1]),
            (273, &offsets),
            (277, &[1]),
            (278, &[8]),
            (279, &[length, length]),
        ];
        tiff(&entries, &jpeg.repeat(2))
    };
    let apart = of_strips([200, 200 + jpeg.len() as u32]);
    assert_eq!(image::from_bytes(&apart).unwrap().dimensions(), (8, 16));
    // Strips that overlap take quadratic time.
    let mut overlapping = of_strips([200, 200]);
    overlapping.truncate(200 + jpeg.len());
    let bits: [(u16, &[u32]); 8] = [
        (256, &[4]),
        (257, &[1]),
        (258, &[6]),
        (262, &[1]),
        (273, &[200]),
        (277, &[1]),
        (278, &[1]),
        (279, &[3]),
    ];
    for (file, expected) in [
        (overlapping, "its JPEGs overlap, or it is truncated"),
        (tiff(&bits, &[0; 3]), "TIFF with colours of the kind Gray(6) is not supported"),
    ] {
        match image::from_bytes(&file) {
            Err(Error::Image { reason, .. }) => assert_eq!(reason, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn a_short_file_cannot_claim_a_large_image() {
    const SIDE: u16 = 13_000;
    let [low, high] = SIDE.to_le_bytes();
    let gif = |[x, y, width, height]: [u16; 4], canvas: u16| {
        let [canvas, frame] = [vec![canvas, canvas], vec![x, y, width, height]]
            .map(|sides| sides.into_iter().flat_map(u16::to_le_bytes).collect::<Vec<_>>());
        [b"GIF89a", &canvas[..], &[0x80, 0, 0], &[0; 6], b",", &frame, &[0, 2, 2, 0x44, 1, 0], b";"].concat()
    };
    let sides = [high, low, high, low];
    let jpeg = |marker| {
        let mut file = Vec::new();
        let image = ::image::RgbImage::new(8, 8);
        image.write_to(&mut std::io::Cursor::new(&mut file), ::image::ImageFormat::Jpeg).unwrap();
        let frame = file.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
        file[frame + 1] = marker;
        file[frame + 5..frame + 9].copy_from_slice(&sides);
        file
    };
    let rle = |side: u32| {
        let header = [40, side, side, 0x8_0001, 1, 0, 0, 0, 0, 0].map(u32::to_le_bytes).concat();
        [b"BM\0\0\0\0\0\0\0\0\x36\x04\0\0", &header[..], &[0; 1024], &[0, 1]].concat()
    };
    let cases = [
        ("GIF's canvas", gif([0, 0, 1, 1], SIDE)),
        ("GIF's frame", gif([0, 0, SIDE, SIDE], 1)),
        ("GIF's place", gif([SIDE, SIDE, 1, 1], 1)),
        ("JPEG", jpeg(0xc0)),
        ("progressive JPEG", jpeg(0xc2)),
        ("BMP", rle(SIDE.into())),
        ("PNM", b"P6 13000 13000 255\n123".to_vec()),
    ];
    for (name, file) in cases {
        let error = image::from_bytes(&file).expect_err(name).to_string();
        assert!(error.contains("13000 x 13000") || error.contains("13001 x 13001"), "{name}: {error}");
    }
    // Long enough, but the coefficients of a progressive JPEG need 6 bytes per pixel.
    let mut long = jpeg(0xc2);
    long.splice(long.len() - 2..long.len() - 2, vec![0; 1 << 20]);
    let error = image::from_bytes(&long).unwrap_err().to_string();
    assert!(error.contains("13000 x 13000 pixels need too much memory"), "{error}");
    assert_eq!(image::from_bytes(&rle(10)).unwrap().dimensions(), (10, 10));
    assert_eq!(image::from_bytes(&gif([2, 2, 1, 1], 5)).unwrap().dimensions(), (5, 5));
}
