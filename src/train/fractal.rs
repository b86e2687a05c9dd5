//! Fractal flames: images without a class but with structure of every scale (Draves and Reckase, "The Fractal
//! Flame Algorithm", 2008).

use std::{array, f32::consts::PI};

use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha8Rng};
use rayon::prelude::*;

/// The most pictures, and the most pixels of all together.
const PICTURES: usize = 1024;
const PIXELS: usize = 1 << 22;
/// The side of a fractal, in sides of the images for which it is.
const SIDES: usize = 2;
/// Points of an orbit per pixel, and those at its start that are not on the attractor yet.
const POINTS: usize = 15;
const WARM_UP: usize = 20;
/// An orbit this far out has escaped.
const FAR: f32 = 1e4;
/// The side of the picture on which maps are tried.
const TRIAL_SIDE: usize = 32;
/// The least share of an orbit that is in the picture, and of the picture that the orbit visits.
const LEAST_INSIDE: f64 = 0.25;
const LEAST_VISITED: f64 = 0.125;

/// Square pictures from which fractals of one size are cut; the same ones in every run.
pub(super) struct Fractals {
    side: usize,
    height: usize,
    width: usize,
    /// Bytes `[3, side, side]`.
    pictures: Vec<Vec<u8>>,
}

impl Fractals {
    /// Draws the pictures, on all threads: fewer of them for larger images.
    pub(super) fn for_images(height: usize, width: usize) -> Self {
        let side = SIDES * height.max(width);
        let count = (PIXELS / (side * side)).clamp(1, PICTURES);
        let drawn = |number| picture(side, &mut ChaCha8Rng::seed_from_u64(number));
        let pictures = (0..count as u64).into_par_iter().map(drawn).collect();
        Self { side, height, width, pictures }
    }

    /// Bytes `[3, height, width]`: a random part of a picture, turned and mirrored at random.
    pub(super) fn draw(&self, random: &mut impl Rng) -> Vec<u8> {
        let Self { side, height, width, .. } = *self;
        let picture = &self.pictures[random.random_range(0..self.pictures.len())];
        let [top, left] = [height, width].map(|size| random.random_range(0..=side - size));
        let [is_turned, is_flipped, is_mirrored]: [bool; 3] = random.random();
        let mut pixels = Vec::with_capacity(3 * height * width);
        for channel in picture.chunks_exact(side * side) {
            for row in top..top + height {
                for column in left..left + width {
                    let row = if is_flipped { side - 1 - row } else { row };
                    let column = if is_mirrored { side - 1 - column } else { column };
                    pixels.push(channel[if is_turned { column * side + row } else { row * side + column }]);
                }
            }
        }
        pixels
    }
}

/// A map of the plane.
type Variation = fn(f32, f32) -> (f32, f32);

/// One of the maps of a fractal: an affine one, then a variation of Draves's, which give the colour.
struct Map {
    affine: [[f32; 3]; 2],
    variation: Variation,
    colour: [f32; 3],
}

/// Draves's linear, sinusoidal, spherical, swirl, polar and hyperbolic maps.
const VARIATIONS: [Variation; 6] = [
    |x, y| (x, y),
    |x, y| (x.sin(), y.sin()),
    |x, y| (x / square(x, y), y / square(x, y)),
    |x, y| {
        let (sine, cosine) = square(x, y).sin_cos();
        (x * sine - y * cosine, x * cosine + y * sine)
    },
    |x, y| (x.atan2(y) / PI, square(x, y).sqrt() - 1.0),
    |x, y| (x / square(x, y), y),
];

/// The squared distance from the origin, not 0.
fn square(x: f32, y: f32) -> f32 {
    (x * x + y * y).max(1e-6)
}

impl Map {
    fn draw(random: &mut impl Rng) -> Self {
        Self {
            affine: array::from_fn(|_| array::from_fn(|_| random.random_range(-1.0..1.0))),
            variation: VARIATIONS[random.random_range(0..VARIATIONS.len())],
            colour: random.random(),
        }
    }

    fn at(&self, (x, y): (f32, f32)) -> (f32, f32) {
        let [x, y] = self.affine.map(|[a, b, c]| a * x + b * y + c);
        (self.variation)(x, y)
    }
}

/// What an orbit has left in a pixel.
#[derive(Clone, Copy, Default)]
struct Trace {
    visits: f32,
    /// The sum of the colours.
    colour: [f32; 3],
}

/// A fractal, bytes `[3, side, side]`, of random maps. Those whose orbit leaves the picture or shrinks to a
/// few points are drawn anew.
fn picture(side: usize, random: &mut impl Rng) -> Vec<u8> {
    loop {
        let maps: Vec<Map> = (0..random.random_range(2..=6)).map(|_| Map::draw(random)).collect();
        let zoom = random.random_range(0.3..0.7);
        let trial = orbit(&maps, zoom, TRIAL_SIDE, random);
        let pixels = trial.len() as f64;
        let inside: f64 = trial.iter().map(|trace| f64::from(trace.visits)).sum();
        let visited = trial.iter().filter(|trace| trace.visits > 0.0).count() as f64;
        if inside >= LEAST_INSIDE * POINTS as f64 * pixels && visited >= LEAST_VISITED * pixels {
            return developed(&orbit(&maps, zoom, side, random), random);
        }
    }
}

/// Follows a random orbit of the maps; the picture shows a square of 1 / `zoom` about the origin.
fn orbit(maps: &[Map], zoom: f32, side: usize, random: &mut impl Rng) -> Vec<Trace> {
    let mut traces = vec![Trace::default(); side * side];
    let (mut point, mut colour) = ((0.1, 0.2), [0.5; 3]);
    for step in 0..POINTS * side * side {
        let map = &maps[random.random_range(0..maps.len())];
        point = map.at(point);
        if !(point.0.abs() < FAR && point.1.abs() < FAR) {
            point = random.random();
        }
        for (value, of_map) in colour.iter_mut().zip(map.colour) {
            *value = (*value + of_map) / 2.0;
        }
        let place = |value: f32| (value * zoom + 0.5) * side as f32;
        let (x, y) = (place(point.0), place(point.1));
        let is_inside = |place| (0.0..side as f32).contains(place);
        if step >= WARM_UP && is_inside(&x) && is_inside(&y) {
            let trace = &mut traces[y as usize * side + x as usize];
            trace.visits += 1.0;
            trace.colour.iter_mut().zip(colour).for_each(|(sum, value)| *sum += value);
        }
    }
    traces
}

/// The picture of an orbit: its mean colours over a dark one, as opaque as the logarithm of the visits.
fn developed(traces: &[Trace], random: &mut impl Rng) -> Vec<u8> {
    let mut visits: Vec<f32> = traces.iter().map(|trace| trace.visits).collect();
    visits.sort_by(f32::total_cmp);
    // A few bright points do not darken the rest.
    let most = visits[visits.len() * 99 / 100].max(1.0).ln_1p();
    let mut pixels = Vec::with_capacity(3 * traces.len());
    for channel in 0..3 {
        let behind = random.random::<f32>() * random.random::<f32>();
        pixels.extend(traces.iter().map(|trace| {
            let opacity = (trace.visits.ln_1p() / most).min(1.0);
            let colour = trace.colour[channel] / trace.visits.max(1.0);
            ((behind + (colour - behind) * opacity) * 255.0).round() as u8
        }));
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn pictures_have_structure_and_are_different() {
        let pictures: Vec<Vec<u8>> =
            (0..20).map(|seed| picture(32, &mut ChaCha8Rng::seed_from_u64(seed))).collect();
        for picture in &pictures {
            assert_eq!(picture.len(), 3 * 32 * 32);
            let mean = picture.iter().map(|&value| f64::from(value)).sum::<f64>() / picture.len() as f64;
            let squares = picture.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>();
            let deviation = (squares / picture.len() as f64).sqrt();
            assert!(deviation > 10.0, "{deviation}");
        }
        assert_eq!(pictures.iter().collect::<HashSet<_>>().len(), pictures.len());
        assert_eq!(pictures[7], picture(32, &mut ChaCha8Rng::seed_from_u64(7)));
    }

    #[test]
    fn an_orbit_stays_on_its_attractor() {
        // Both maps halve the distance to a corner of a square: the attractor is its diagonal.
        let to = |corner: f32| Map {
            affine: [[0.5, 0.0, corner / 2.0], [0.0, 0.5, corner / 2.0]],
            variation: VARIATIONS[0],
            colour: [corner; 3],
        };
        let traces = orbit(&[to(0.0), to(0.5)], 0.5, 64, &mut ChaCha8Rng::seed_from_u64(1));
        let visited: Vec<usize> = (0..64 * 64).filter(|&place| traces[place].visits > 0.0).collect();
        assert!(visited.len() > 9, "{}", visited.len());
        assert!(visited.iter().all(|place| place / 64 == place % 64));
        // The colour follows the maps: dark at one corner, bright at the other.
        let mean = |place: &usize| traces[*place].colour[0] / traces[*place].visits;
        assert!(mean(&visited[0]) < 0.05 && mean(&visited[visited.len() - 1]) > 0.45);
    }

    #[test]
    fn a_part_may_be_turned_and_mirrored() {
        let picture = (0..3 * 36).collect();
        let fractals = Fractals { side: 6, height: 2, width: 3, pictures: vec![picture] };
        let mut random = ChaCha8Rng::seed_from_u64(2);
        let mut steps = HashSet::new();
        for _ in 0..200 {
            let part = fractals.draw(&mut random);
            assert_eq!(part.len(), 18);
            let at = |place: usize| i32::from(part[place]);
            // From a pixel to its right and lower neighbours, and to the next channel.
            assert_eq!((at(6) - at(0), at(17) - at(5)), (36, 72));
            assert_eq!((at(2) - at(1), at(5) - at(2)), (at(1) - at(0), at(3) - at(0)));
            steps.insert((at(1) - at(0), at(3) - at(0)));
        }
        let all = [(1, 6), (1, -6), (-1, 6), (-1, -6), (6, 1), (6, -1), (-6, 1), (-6, -1)];
        assert_eq!(steps, HashSet::from(all));
    }

    #[test]
    fn large_images_have_fewer_fractals() {
        let fractals = Fractals::for_images(256, 100);
        assert_eq!((fractals.side, fractals.pictures.len()), (512, 16));
        assert_eq!(fractals.draw(&mut ChaCha8Rng::seed_from_u64(3)).len(), 3 * 256 * 100);
    }
}
