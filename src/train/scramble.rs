//! Outliers made from known images, on bytes `[3, height, width]`: local texture is kept, global shape is
//! destroyed or distorted (negative data augmentation; Sinha et al., arXiv 2102.05113).

use std::array;

use rand::{Rng, RngExt, seq::SliceRandom};
use rand_distr::{Distribution, StandardNormal};

use super::augment::reflected;
use crate::image::cubic;

/// The version of these methods; cached features of scrambled images depend on it.
pub(super) const VERSION: u32 = 2;
/// Pieces along each side of a shuffled image.
const PIECES: usize = 4;
/// Number of copies of an image summed into a texture.
const COPIES: usize = 16;
/// Cells along each side of the grid of a warp.
const CELLS: usize = 4;
/// Standard deviation of the displacements at the corners of a warp's cells, as a share of the height or width.
const DISPLACEMENT: f64 = 0.2;

/// Scrambles an image in one of four equally likely ways.
pub(super) fn scramble(pixels: &mut [u8], height: usize, width: usize, random: &mut impl Rng) {
    match random.random_range(0..4) {
        0 => shuffle(pixels, height, width, random),
        1 => repeat(pixels, height, width, random),
        2 => blend(pixels, height, width, random),
        _ => warp(pixels, height, width, random),
    }
}

/// Cuts the image into pieces and shuffles them; a remainder below and to the right stays in place.
fn shuffle(pixels: &mut [u8], height: usize, width: usize, random: &mut impl Rng) {
    let (piece_height, piece_width) = (height / PIECES, width / PIECES);
    let mut order: Vec<usize> = (0..PIECES * PIECES).collect();
    order.shuffle(random);
    take(pixels, height, width, |row, column| {
        let (down, right) = (row / piece_height, column / piece_width);
        if down >= PIECES || right >= PIECES {
            return (row, column);
        }
        let piece = order[down * PIECES + right];
        (
            piece / PIECES * piece_height + row % piece_height,
            piece % PIECES * piece_width + column % piece_width,
        )
    });
}

/// Repeats a random piece of a quarter or half of the height and width, mirrored at each of its edges.
fn repeat(pixels: &mut [u8], height: usize, width: usize, random: &mut impl Rng) {
    let parts = if random.random() { 2 } else { 4 };
    let (piece_height, piece_width) = (height / parts, width / parts);
    let top = random.random_range(0..=height - piece_height);
    let left = random.random_range(0..=width - piece_width);
    let mirrored = |index: usize, length: usize| {
        let index = index % (2 * length);
        index.min(2 * length - 1 - index)
    };
    take(pixels, height, width, |row, column| {
        (top + mirrored(row, piece_height), left + mirrored(column, piece_width))
    });
}

/// Makes a texture with the image's colours and much of its spectrum: the sum of copies that are shifted
/// cyclically and inverted about the mean of each channel at random (spot noise; van Wijk, SIGGRAPH 1991).
fn blend(pixels: &mut [u8], height: usize, width: usize, random: &mut impl Rng) {
    let copies: [(usize, usize, f32); COPIES] = array::from_fn(|_| {
        let sign = if random.random() { 1.0 } else { -1.0 };
        (random.random_range(0..height), random.random_range(0..width), sign)
    });
    for channel in pixels.chunks_exact_mut(height * width) {
        let mean = channel.iter().map(|&value| f32::from(value)).sum::<f32>() / channel.len() as f32;
        let mut sums = vec![0.0; channel.len()];
        for (down, right, sign) in copies {
            for (row, sums) in sums.chunks_exact_mut(width).enumerate() {
                let from = (row + down) % height * width;
                let (left, rest) = channel[from..from + width].split_at(right);
                for (sum, &value) in sums.iter_mut().zip(rest.iter().chain(left)) {
                    *sum += sign * (f32::from(value) - mean);
                }
            }
        }
        for (value, sum) in channel.iter_mut().zip(sums) {
            // `as` saturates to 0..=255.
            *value = (mean + sum / (COPIES as f32).sqrt()).round() as u8;
        }
    }
}

/// Displaces the pixels by smooth random fields, and reflects the image at its borders (elastic distortion;
/// Simard et al., ICDAR 2003). Interpolation is cubic: bilinear interpolation blurs, and a network would
/// learn that blurred images are outliers.
fn warp(pixels: &mut [u8], height: usize, width: usize, random: &mut impl Rng) {
    let [down, right] = [height, width].map(|size| field(height, width, DISPLACEMENT * size as f64, random));
    let old = pixels.to_vec();
    let plane = height * width;
    for index in 0..plane {
        let (row, column) = (index / width, index % width);
        let rows = taps(row as f64 + down(row, column), height);
        let columns = taps(column as f64 + right(row, column), width);
        for (new, old) in pixels.chunks_exact_mut(plane).zip(old.chunks_exact(plane)) {
            let of_row = |row: usize| -> f64 {
                columns.iter().map(|&(column, weight)| weight * f64::from(old[row * width + column])).sum()
            };
            let value: f64 = rows.iter().map(|&(row, weight)| weight * of_row(row)).sum();
            // `as` saturates to 0..=255.
            new[index] = value.round() as u8;
        }
    }
}

/// A smooth field as a function of the row and the column: normally distributed with this standard deviation
/// at the corners of the grid, interpolated smoothly between.
fn field<R: Rng>(
    height: usize,
    width: usize,
    deviation: f64,
    random: &mut R,
) -> impl Fn(usize, usize) -> f64 + use<R> {
    let corners: [[f64; CELLS + 1]; CELLS + 1] = array::from_fn(|_| {
        array::from_fn(|_| {
            let normal: f64 = StandardNormal.sample(random);
            deviation * normal
        })
    });
    // The cell of a row or column, and how far it is between the cell's corners, 0 to 1.
    let cell = |index: usize, size: usize| {
        let position = (index * CELLS) as f64 / size as f64;
        let share = position.fract();
        (position as usize, share * share * (3.0 - 2.0 * share))
    };
    move |row, column| {
        let ((top, down), (left, right)) = (cell(row, height), cell(column, width));
        let [above, below] = [top, top + 1].map(|row| {
            let [from, to] = [corners[row][left], corners[row][left + 1]];
            from + right * (to - from)
        });
        above + down * (below - above)
    }
}

/// The four pixels around a position on an axis, reflected at the borders, with their weights.
fn taps(position: f64, size: usize) -> [(usize, f64); 4] {
    let first = position.floor() as i32 - 1;
    array::from_fn(|tap| {
        let pixel = first + tap as i32;
        (reflected(pixel, size), cubic(position - f64::from(pixel)))
    })
}

/// Fills each pixel from the (row, column) that `from` maps it to.
fn take(pixels: &mut [u8], height: usize, width: usize, from: impl Fn(usize, usize) -> (usize, usize)) {
    for channel in pixels.chunks_exact_mut(height * width) {
        let old = channel.to_vec();
        for (index, value) in channel.iter_mut().enumerate() {
            let (row, column) = from(index / width, index % width);
            *value = old[row * width + column];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::ChaCha8Rng};

    // Not square, and with a remainder next to the pieces.
    const HEIGHT: usize = 17;
    const WIDTH: usize = 26;

    /// Where each pixel (row, column) of a scrambled image comes from.
    fn sources(how: fn(&mut [u8], usize, usize, &mut ChaCha8Rng), seed: u64) -> Vec<Vec<(usize, usize)>> {
        let positions = (0..HEIGHT).flat_map(|row| (0..WIDTH).map(move |column| (row as u8, column as u8)));
        let (rows, columns): (Vec<u8>, Vec<u8>) = positions.unzip();
        let mut pixels = [rows.clone(), columns, rows].concat();
        how(&mut pixels, HEIGHT, WIDTH, &mut ChaCha8Rng::seed_from_u64(seed));
        let at = |channel, index| usize::from(pixels[channel * HEIGHT * WIDTH + index]);
        let source = |index| {
            assert_eq!(at(0, index), at(2, index));
            (at(0, index), at(1, index))
        };
        (0..HEIGHT).map(|row| (0..WIDTH).map(|column| source(row * WIDTH + column)).collect()).collect()
    }

    #[test]
    fn the_four_ways_are_equally_frequent_on_the_smallest_images() {
        let old: Vec<u8> = (0..3 * 8 * 8).collect();
        let ways = [shuffle, repeat, blend, warp];
        let mut counts = [0; 4];
        for seed in 0..400 {
            let random = || ChaCha8Rng::seed_from_u64(seed);
            let mut new = old.clone();
            scramble(&mut new, 8, 8, &mut random());
            assert_ne!(new, old);
            let is_by = |way: &fn(&mut [u8], usize, usize, &mut ChaCha8Rng)| {
                // The first number chooses the way.
                let (mut pixels, mut random) = (old.clone(), random());
                let _: u32 = random.random_range(0..4);
                way(&mut pixels, 8, 8, &mut random);
                pixels == new
            };
            counts[ways.iter().position(is_by).expect("one of the four ways")] += 1;
        }
        assert!(counts.iter().all(|count| (70..130).contains(count)), "{counts:?}");
    }

    #[test]
    fn shuffling_keeps_all_pieces_whole() {
        let sources = sources(shuffle, 1);
        let mut pieces = Vec::new();
        for (row, sources_of_row) in sources.iter().enumerate() {
            for (column, &(from_row, from_column)) in sources_of_row.iter().enumerate() {
                if row >= 16 || column >= 24 {
                    assert_eq!((from_row, from_column), (row, column));
                } else if (row % 4, column % 6) == (0, 0) {
                    assert_eq!((from_row % 4, from_column % 6), (0, 0));
                    pieces.push((from_row, from_column));
                } else {
                    let (down, right) = (row % 4, column % 6);
                    let corner = sources[row - down][column - right];
                    assert_eq!((from_row, from_column), (corner.0 + down, corner.1 + right));
                }
            }
        }
        assert!(!pieces.is_sorted());
        pieces.sort_unstable();
        pieces.dedup();
        assert_eq!(pieces.len(), 16);
    }

    #[test]
    fn repeated_pieces_are_mirrored() {
        let mut sizes = Vec::new();
        for seed in 0..20 {
            let sources = sources(repeat, seed);
            let (rows, columns): (Vec<usize>, Vec<usize>) = (
                sources.iter().map(|row| row[0].0).collect(),
                sources[0].iter().map(|source| source.1).collect(),
            );
            for (row, sources) in sources.iter().enumerate() {
                let expected: Vec<(usize, usize)> =
                    columns.iter().map(|&column| (rows[row], column)).collect();
                assert_eq!(*sources, expected);
            }
            let length =
                |positions: &[usize]| positions.iter().max().unwrap() - positions.iter().min().unwrap() + 1;
            for positions in [&rows, &columns] {
                let length = length(positions);
                for (index, &from) in positions.iter().enumerate() {
                    let back = index % (2 * length);
                    assert_eq!(from, positions[0] + back.min(2 * length - 1 - back));
                }
            }
            sizes.push((length(&rows), length(&columns)));
        }
        sizes.sort_unstable();
        sizes.dedup();
        assert_eq!(sizes, [(4, 6), (8, 13)]);
    }

    #[test]
    fn a_blend_keeps_colours_and_contrast_but_not_positions() {
        let side = 32;
        // Grey, with a bright square in a corner.
        let mut image = vec![40; 3 * side * side];
        for channel in image.chunks_exact_mut(side * side) {
            (0..8).for_each(|row| channel[row * side..][..8].fill(200));
        }
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let (mut corner, mut rest, mut square) = (0.0, 0.0, 0.0);
        for _ in 0..500 {
            let mut pixels = image.clone();
            blend(&mut pixels, side, side, &mut random);
            let (red, others) = pixels.split_at(side * side);
            assert!(others.chunks_exact(side * side).all(|channel| channel == red));
            corner += f64::from(red[4 * side + 4]) / 500.0;
            rest += f64::from(red[20 * side + 20]) / 500.0;
            square += (f64::from(red[20 * side + 20]) - 50.0).powi(2) / 500.0;
        }
        // The mean is 50 and the standard deviation 38.7; values below 0 are clipped.
        assert!((corner - rest).abs() < 8.0 && (rest - 50.0).abs() < 8.0, "{corner} {rest}");
        assert!((square.sqrt() - 38.7).abs() < 8.0, "{}", square.sqrt());
        let mut even = vec![77; 3 * side * side];
        blend(&mut even, side, side, &mut random);
        assert!(even.iter().all(|&value| value == 77));
    }

    #[test]
    fn a_warp_differs_between_axes_and_places_and_is_smooth() {
        // Eight steps of a byte for each pixel, so that the sources are known to an eighth of a pixel.
        let places = |of: fn(usize) -> usize| (0..HEIGHT * WIDTH).map(move |index| 8 * of(index) as u8);
        let rows = places(|index| index / WIDTH).collect::<Vec<u8>>();
        let original = [&rows[..], &places(|index| index % WIDTH).collect::<Vec<u8>>(), &rows].concat();
        let (mut products, mut apart, mut steps, mut between) = ([[0.0; 2]; 2], 0.0, Vec::new(), 0);
        let repetitions = 400;
        for seed in 0..repetitions {
            let mut pixels = original.clone();
            warp(&mut pixels, HEIGHT, WIDTH, &mut ChaCha8Rng::seed_from_u64(seed));
            let source = |row: usize, column: usize| {
                [0, 1].map(|axis| f64::from(pixels[(axis * HEIGHT + row) * WIDTH + column]) / 8.0)
            };
            // The displacements, as shares of the size. The source of the central pixel is rarely reflected.
            let displacement = |row: usize, column: usize| {
                let [from_row, from_column] = source(row, column);
                [(from_row - row as f64) / HEIGHT as f64, (from_column - column as f64) / WIDTH as f64]
            };
            let centre = displacement(HEIGHT / 2, WIDTH / 2);
            let other = displacement(HEIGHT / 4, WIDTH / 4);
            for (products, a) in products.iter_mut().zip(centre) {
                for (product, b) in products.iter_mut().zip(centre) {
                    *product += a * b / repetitions as f64;
                }
            }
            apart += (centre[0] - other[0]).powi(2) / repetitions as f64;
            assert!(pixels[..HEIGHT * WIDTH] == pixels[2 * HEIGHT * WIDTH..], "channels move together");
            for row in 1..HEIGHT {
                for column in 1..WIDTH {
                    let here = source(row, column);
                    for beside in [source(row, column - 1), source(row - 1, column)] {
                        steps.push((here[0] - beside[0]).abs().max((here[1] - beside[1]).abs()));
                    }
                    between += usize::from((here[0] - here[0].round()).abs() > 0.2);
                }
            }
        }
        for (axis, other) in [(0, 1), (1, 0)] {
            assert!((products[axis][axis].sqrt() - DISPLACEMENT).abs() < 0.03, "{products:?}");
            assert!(products[axis][other].abs() < 0.01, "{products:?}");
        }
        // Of independent displacements twice 0.04, less where they are reflected; of a translation 0.
        assert!(apart > 0.04, "{apart}");
        assert!(between > steps.len() / 6, "pixels are interpolated: {between}, {} steps", steps.len());
        steps.sort_by(f64::total_cmp);
        let [median, largest] = [steps[steps.len() / 2], steps[steps.len() - 1]];
        assert!(median < 2.0 && largest < 10.0, "{median} {largest}");
    }

    #[test]
    fn interpolation_is_cubic_and_reflects_at_the_borders() {
        assert_eq!(taps(2.5, 8), [(1, -0.0625), (2, 0.5625), (3, 0.5625), (4, -0.0625)]);
        assert_eq!(taps(-0.5, 8).map(|(pixel, _)| pixel), [2, 1, 0, 1]);
        assert_eq!(taps(7.5, 8).map(|(pixel, _)| pixel), [6, 7, 6, 5]);
        // A whole number takes one pixel; 20 is 6 after 14, twice the 7 steps between the borders.
        for (position, pixel) in [(0.0, 0), (7.0, 7), (-3.0, 3), (8.0, 6), (20.0, 6), (-20.0, 6)] {
            assert_eq!(taps(position, 8)[1], (pixel, 1.0), "{position}");
            assert!(taps(position, 8).iter().filter(|(_, weight)| *weight != 0.0).count() == 1);
        }
    }
}
