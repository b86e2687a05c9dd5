//! Difference hashes, by which changed copies of an image are found.

use rayon::prelude::*;

use super::{Filter, Region, RgbImage, of_planes, region};

/// The rows of a hash, and the neighbours that are compared in each.
const SIDE: usize = 16;
/// The most bits in which the hashes of two images differ that look alike.
const ALIKE: u32 = 20;
/// Neighbours differ if one is brighter by more than this, in thousandths of a level of 0 to 255: less is noise.
const NOISE: u32 = 3000;
/// If a reduced pixel covers at least this many pixels on each side, their plain mean is as good as a filter, and
/// faster. In smaller images the filter, which smooths more, finds three times as many compressed copies.
const LARGE: usize = 4;
/// Hashes with fewer bits of one kind are of images with little structure, such as digits, which often look alike.
const LEAST: u32 = 64;

/// The maximum number of pairs of images that are compared.
const MAX_PAIRS: usize = 1 << 30;

/// In which of the pairs of neighbours in an image of 16 rows the right one is brighter (dHash; Krawetz, 2013).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DifferenceHash([u64; SIDE * SIDE / 64]);

impl DifferenceHash {
    /// The hash of an image; `None` if it has too little structure.
    pub fn of(image: &RgbImage) -> Option<Self> {
        let luminances = reduced(image);
        let mut bits = [0; SIDE * SIDE / 64];
        for (y, row) in luminances.chunks_exact(SIDE + 1).enumerate() {
            for (x, pair) in row.windows(2).enumerate() {
                let place = y * SIDE + x;
                bits[place / 64] |= u64::from(pair[1] > pair[0] + NOISE) << (place % 64);
            }
        }
        let hash = Self(bits);
        (LEAST..=(SIDE * SIDE) as u32 - LEAST).contains(&hash.ones()).then_some(hash)
    }

    /// The number of bits that are set.
    fn ones(&self) -> u32 {
        self.0.iter().map(|bits| bits.count_ones()).sum()
    }

    /// Whether two images look alike.
    fn is_alike(&self, other: &Self) -> bool {
        let mut left = ALIKE;
        // Most hashes differ by more in the first bits already.
        self.0.iter().zip(&other.0).all(|(a, b)| match left.checked_sub((a ^ b).count_ones()) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        })
    }

    /// Whether so many images can be compared with so many others in seconds.
    pub fn can_compare(images: usize, others: usize) -> bool {
        images.saturating_mul(others) <= MAX_PAIRS
    }

    /// How many images look like one of the others; `None` if they are too many to
    /// [compare](Self::can_compare).
    #[cfg(any(feature = "train", test))]
    pub fn alike(images: &[Option<Self>], others: &[Option<Self>]) -> Option<usize> {
        Self::can_compare(images.len(), others.len()).then(|| {
            let others = ByOnes::new(others);
            images.par_iter().flatten().filter(|image| others.alike(image).next().is_some()).count()
        })
    }

    /// How many images, from the one at `first` on, look like an earlier one.
    pub fn repeated(images: &[Option<Self>], first: usize) -> usize {
        let all = ByOnes::new(images);
        let is_repeated = |&(place, image): &(usize, &Option<Self>)| {
            image.as_ref().is_some_and(|image| all.alike(image).any(|other| other < place))
        };
        images.par_iter().enumerate().skip(first).filter(is_repeated).count()
    }
}

/// Hashes with their numbers of set bits and their places, sorted.
struct ByOnes(Vec<(u32, usize, DifferenceHash)>);

impl ByOnes {
    fn new(images: &[Option<DifferenceHash>]) -> Self {
        let hashes = images.iter().enumerate().filter_map(|(place, hash)| Some((place, (*hash)?)));
        let mut hashes: Vec<_> = hashes.map(|(place, hash)| (hash.ones(), place, hash)).collect();
        hashes.sort_unstable_by_key(|&(ones, place, _)| (ones, place));
        Self(hashes)
    }

    /// The places of the images that look like this one.
    fn alike<'a>(&'a self, image: &'a DifferenceHash) -> impl Iterator<Item = usize> + 'a {
        // Each bit that differs changes the number of set bits by one.
        let ones = image.ones();
        let start = self.0.partition_point(|&(other, ..)| other + ALIKE < ones);
        let near = self.0[start..].iter().take_while(move |&&(other, ..)| other <= ones + ALIKE);
        near.filter(|(.., other)| image.is_alike(other)).map(|&(_, place, _)| place)
    }
}

/// The luminance of an image of 16 rows and 17 columns, in thousandths of a level of 0 to 255 (ITU-R BT.601).
fn reduced(image: &RgbImage) -> Vec<u32> {
    let luminance = |[red, green, blue]: &[u8; 3]| {
        299 * u32::from(*red) + 587 * u32::from(*green) + 114 * u32::from(*blue)
    };
    let (height, width) = (image.height() as usize, image.width() as usize);
    if height < LARGE * SIDE || width < LARGE * (SIDE + 1) {
        let planes = region(image, Region::whole(image), (SIDE, SIDE + 1), Filter::Bilinear);
        return of_planes(&planes, SIDE, SIDE + 1).as_raw().as_chunks().0.iter().map(luminance).collect();
    }
    let rows = image.as_raw().chunks_exact(3 * width);
    let mut reduced = Vec::with_capacity(SIDE * (SIDE + 1));
    for y in 0..SIDE {
        let part = y * height / SIDE..(y + 1) * height / SIDE;
        let mut columns = vec![0_u32; width];
        for row in rows.clone().skip(part.start).take(part.len()) {
            for (sum, pixel) in columns.iter_mut().zip(row.as_chunks().0) {
                *sum += luminance(pixel);
            }
        }
        for x in 0..=SIDE {
            let columns = &columns[x * width / (SIDE + 1)..(x + 1) * width / (SIDE + 1)];
            let sum: u64 = columns.iter().map(|&sum| u64::from(sum)).sum();
            reduced.push((sum / (columns.len() * part.len()) as u64) as u32);
        }
    }
    reduced
}

#[cfg(test)]
mod tests {
    use image::{Rgb, imageops};

    use super::*;

    /// An image of soft blobs.
    fn image(seed: u32) -> RgbImage {
        RgbImage::from_fn(120, 90, |x, y| {
            let wave = |k: u32| ((x * (seed + k) + y * (3 * k + seed)) as f32 / 60.0).sin();
            Rgb([0, 1, 2].map(|k| (127.0 + 100.0 * wave(k)) as u8))
        })
    }

    #[test]
    fn changed_copies_look_alike_and_other_images_do_not() {
        let hash = |image: &RgbImage| DifferenceHash::of(image);
        let whole = image(1);
        let halved = imageops::resize(&whole, 60, 45, imageops::FilterType::Triangle);
        let mut brightened = whole.clone();
        brightened.iter_mut().for_each(|value| *value = value.saturating_add(10));
        let others: Vec<_> = (2..9).map(|seed| hash(&image(seed))).collect();
        for copy in [&whole, &halved, &brightened] {
            assert_eq!(DifferenceHash::alike(&[hash(copy)], &[others[0], hash(&whole)]), Some(1));
            assert_eq!(DifferenceHash::alike(&[hash(copy)], &others), Some(0));
        }
        let all = [&whole, &halved, &image(2), &brightened].map(hash);
        let repeated = |images: &[_]| [0, 1, 2].map(|first| DifferenceHash::repeated(images, first));
        assert_eq!((repeated(&all), repeated(&all[1..3])), ([2, 2, 1], [0; 3]));
        // Small images are reduced by a filter, large ones by plain means.
        let large = imageops::resize(&whole, 600, 450, imageops::FilterType::Triangle);
        assert_eq!(DifferenceHash::alike(&[hash(&large)], &[others[0], hash(&whole)]), Some(1));
        let mirrored = imageops::flip_horizontal(&whole);
        assert_eq!(DifferenceHash::alike(&[hash(&mirrored)], &[hash(&whole)]), Some(0));
    }

    #[test]
    fn images_without_structure_look_like_no_other() {
        let plain = DifferenceHash::of(&RgbImage::from_pixel(40, 30, Rgb([9, 8, 7])));
        assert_eq!(plain, None);
        assert_eq!(DifferenceHash::alike(&[plain, plain], &[plain]), Some(0));
    }

    #[test]
    fn at_most_twenty_bits_may_differ() {
        let of = |bits: [u64; 4]| DifferenceHash(bits);
        let one = of([0, u64::MAX, 0, 7]);
        assert!(one.is_alike(&of([0xffff, u64::MAX, 0xf, 7])));
        assert!(!one.is_alike(&of([0xffff, u64::MAX, 0xf, 6])));
        assert!(!one.is_alike(&of([0x1f_ffff, u64::MAX, 0, 7])));
    }
}
