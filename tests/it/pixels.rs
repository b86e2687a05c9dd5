//! Resized images, compared with Pillow's.

use cac::{image, weights::Weights};

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
            let ours = image::pixels(&image, height, width);
            let difference = |(&ours, &theirs): (&u8, &f32)| (f32::from(ours) - theirs).abs();
            let greatest = ours.iter().zip(theirs).map(difference).fold(0.0, f32::max);
            assert!(greatest <= 1.0, "{name}: {greatest} of 255");
            compared += 1;
        }
    }
    assert!(compared >= 12, "{compared}");
}

#[test]
fn an_image_is_resized_to_the_byte_as_in_pillow() {
    let expected = Weights::read(&golden("resize-exact.safetensors")).unwrap();
    let image = ::image::RgbImage::from_fn(97, 61, |x, y| {
        ::image::Rgb(
            [0, 1, 2].map(|channel| ((7 * x * x + 13 * y * y + 5 * x * y + 101 * channel) % 256) as u8),
        )
    });
    for (height, width) in [(32, 32), (61, 97), (61, 40), (1, 1), (7, 5), (70, 120)] {
        let theirs = expected.values(&format!("{height}x{width}"), &[3, height, width]).unwrap();
        let ours = image::pixels(&image, height, width);
        assert!(
            ours.iter().zip(theirs).all(|(&ours, &theirs)| f32::from(ours) == theirs),
            "{height}x{width}"
        );
    }
}
