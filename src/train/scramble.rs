//! Outliers made from known images, on bytes `[3, height, width]`: local texture is kept, global shape is
//! destroyed (negative data augmentation; Sinha et al., arXiv 2102.05113).

use rand::{Rng, RngExt, seq::SliceRandom};

/// Pieces along each side of a shuffled image.
const PIECES: usize = 4;
/// Number of copies of an image summed into a texture.
const COPIES: usize = 16;

/// Scrambles an image in one of three equally likely ways.
pub(super) fn scramble(pixels: &mut [u8], height: usize, width: usize, random: &mut impl Rng) {
    match random.random_range(0..3) {
        0 => shuffle(pixels, height, width, random),
        1 => repeat(pixels, height, width, random),
        _ => blend(pixels, height, width, random),
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
    let copies: [(usize, usize, f32); COPIES] = std::array::from_fn(|_| {
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
    fn all_three_ways_occur_on_the_smallest_images() {
        let old: Vec<u8> = (0..3 * 8 * 8).collect();
        let mut ways: Vec<&str> = (0..30)
            .map(|seed| {
                let mut new = old.clone();
                scramble(&mut new, 8, 8, &mut ChaCha8Rng::seed_from_u64(seed));
                assert_ne!(new, old);
                let is_of = |channel: usize| {
                    let plane = channel * 64..(channel + 1) * 64;
                    new[plane.clone()].iter().all(|&value| plane.contains(&usize::from(value)))
                };
                let is_part = (0..3).all(is_of);
                new.sort_unstable();
                match (new == old, is_part) {
                    (true, _) => "shuffled",
                    (_, true) => "repeated",
                    _ => "blended",
                }
            })
            .collect();
        ways.sort_unstable();
        ways.dedup();
        assert_eq!(ways, ["blended", "repeated", "shuffled"]);
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
}
