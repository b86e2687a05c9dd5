//! Fractal flames: images without a class but with structure at every scale (Draves and Reckase, "The Fractal
//! Flame Algorithm", 2008).

use std::{array, f32::consts::PI};

use ::image::Rgb;
use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha8Rng};
use rayon::prelude::*;

use crate::image::{self, Filter, Region, RgbImage};

/// The maximum number of pictures, and of pixels in total.
const PICTURES: usize = 1024;
const PIXELS: usize = 1 << 22;
/// The longest side of a picture; up to it, twice the longer side of the images.
const LONGEST: usize = 256;
/// Points of an orbit per pixel, and those at its start not yet on the attractor.
const POINTS: usize = 15;
const WARM_UP: usize = 20;
/// An orbit this far out has escaped.
const FAR: f32 = 1e4;
/// The side of the picture on which maps are tried.
const TRIAL_SIDE: usize = 32;
/// The minimum share of an orbit in the picture, and of the picture visited by the orbit.
const LEAST_INSIDE: f64 = 0.25;
const LEAST_VISITED: f64 = 0.125;

/// Square pictures from which fractals are cut; on one platform the same ones in every run.
pub(super) struct Fractals {
    pictures: Vec<RgbImage>,
}

impl Fractals {
    /// Draws the pictures, on all threads: fewer of them for larger images.
    pub(super) fn for_images(height: usize, width: usize) -> Self {
        let side = (2 * height.max(width)).min(LONGEST);
        let count = (PIXELS / (side * side)).min(PICTURES);
        let drawn = |number| picture(side, &mut ChaCha8Rng::seed_from_u64(number));
        Self { pictures: (0..count as u64).into_par_iter().map(drawn).collect() }
    }

    /// Bytes `[3, height, width]`: a random square of a picture, at least half its side, resized.
    pub(super) fn draw(&self, height: usize, width: usize, random: &mut impl Rng) -> Vec<u8> {
        let picture = &self.pictures[random.random_range(0..self.pictures.len())];
        let whole = picture.width() as usize;
        let side = random.random_range(whole / 2..=whole);
        let [top, left] = array::from_fn(|_| random.random_range(0..=whole - side));
        let square = Region { left, top, width: side, height: side };
        image::region(picture, square, (height, width), Filter::default())
    }
}

/// A map of the plane.
type Variation = fn(f32, f32) -> (f32, f32);

/// One of the maps of a fractal, an affine one and then a variation, with its colour.
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

/// What an orbit leaves in a pixel.
#[derive(Clone, Copy, Default)]
struct Trace {
    visits: f32,
    /// The sum of the colours.
    colour: [f32; 3],
}

/// A fractal of random maps. Those whose orbit leaves the picture or shrinks to a few points are redrawn.
fn picture(side: usize, random: &mut impl Rng) -> RgbImage {
    loop {
        let maps: Vec<Map> = (0..random.random_range(2..=6)).map(|_| Map::draw(random)).collect();
        let zoom = random.random_range(0.3..0.7);
        if fills(&orbit(&maps, zoom, TRIAL_SIDE, random)) {
            let traces = orbit(&maps, zoom, side, random);
            if fills(&traces) {
                return developed(&traces, side, random);
            }
        }
    }
}

/// Whether enough of an orbit is in the picture, and in enough of its pixels.
fn fills(traces: &[Trace]) -> bool {
    let pixels = traces.len() as f64;
    let inside: f64 = traces.iter().map(|trace| f64::from(trace.visits)).sum();
    let visited = traces.iter().filter(|trace| trace.visits > 0.0).count() as f64;
    inside >= LEAST_INSIDE * POINTS as f64 * pixels && visited >= LEAST_VISITED * pixels
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

/// The picture of an orbit: its mean colours over a random one; opacity follows the logarithm of the visits.
fn developed(traces: &[Trace], side: usize, random: &mut impl Rng) -> RgbImage {
    let mut visits: Vec<f32> = traces.iter().map(|trace| trace.visits).collect();
    visits.sort_by(f32::total_cmp);
    // A few bright points do not darken the rest.
    let most = visits[visits.len() * 99 / 100].max(1.0).ln_1p();
    // Dark backgrounds are likelier.
    let behind: [f32; 3] = array::from_fn(|_| random.random::<f32>() * random.random::<f32>());
    RgbImage::from_fn(side as u32, side as u32, |x, y| {
        let trace = &traces[y as usize * side + x as usize];
        let opacity = (trace.visits.ln_1p() / most).min(1.0);
        let value = |channel: usize| {
            let colour = trace.colour[channel] / trace.visits.max(1.0);
            ((behind[channel] + (colour - behind[channel]) * opacity) * 255.0).round() as u8
        };
        Rgb(array::from_fn(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn pictures_have_structure_and_differ() {
        let pictures: Vec<RgbImage> =
            (0..20).map(|seed| picture(64, &mut ChaCha8Rng::seed_from_u64(seed))).collect();
        for picture in &pictures {
            let values = picture.as_raw();
            let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64;
            let squares = values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>();
            let deviation = (squares / values.len() as f64).sqrt();
            assert!(deviation > 10.0, "{deviation}");
        }
        let different: HashSet<_> = pictures.iter().map(|picture| picture.as_raw()).collect();
        assert_eq!(different.len(), pictures.len());
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
    fn fractals_are_squares_cut_from_the_pictures() {
        // The values grow by 2 per column and 3 per row.
        let picture =
            RgbImage::from_fn(32, 32, |x, y| Rgb([0, 50, 90].map(|least| least + (2 * x + 3 * y) as u8)));
        let fractals = Fractals { pictures: vec![picture] };
        let mut random = ChaCha8Rng::seed_from_u64(2);
        let mut sides = HashSet::new();
        for _ in 0..200 {
            let fractal = fractals.draw(8, 16, &mut random);
            assert_eq!(fractal.len(), 3 * 8 * 16);
            let at = |channel: usize, row: usize, column: usize| {
                i32::from(fractal[(8 * channel + row) * 16 + column])
            };
            assert_eq!((at(1, 3, 5) - at(0, 3, 5), at(2, 3, 5) - at(0, 3, 5)), (50, 90));
            // Ten of 16 columns, and four of 8 rows, away from the borders.
            let across = f64::from(at(0, 4, 13) - at(0, 4, 3)) / 2.0 * 1.6;
            let down = f64::from(at(0, 6, 8) - at(0, 2, 8)) / 3.0 * 2.0;
            assert!((across - down).abs() < 3.0 && (14.0..34.0).contains(&across), "{across} {down}");
            sides.insert(across.round() as i32);
        }
        assert!(sides.len() > 8, "{sides:?}");
    }

    #[test]
    fn large_images_have_fewer_pictures_of_bounded_size() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        for (height, width, side, count) in [(8, 6, 16, 1024), (100, 96, 200, 104), (20, 4096, 256, 64)] {
            let fractals = Fractals::for_images(height, width);
            let found = (fractals.pictures[0].width(), fractals.pictures.len());
            assert_eq!(found, (side, count), "{height} x {width}");
            assert_eq!(fractals.draw(height, width, &mut random).len(), 3 * height * width);
        }
    }
}
