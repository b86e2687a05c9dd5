//! How often a monitor of drift alarms without a change, and how fast it is: `drift [STREAMS]` prints a table. Each
//! stream has held-out scores of its own.

use std::time::Instant;

use cac::drift::Monitor;
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use rayon::prelude::*;

const IMAGES: usize = 10_000;
const HELD_OUT: [usize; 3] = [100, 300, 1000];
const ALPHAS: [f64; 2] = [0.05, 0.01];

fn main() {
    let streams: u64 = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1000);
    println!(
        "share of {streams} streams of {IMAGES} images with a false alarm; at most alpha plus three standard errors"
    );
    println!("{:>8}  {:>6}  {:>6}  {:>8}", "held out", "alpha", "alarms", "at most");
    for held_out in HELD_OUT {
        let greatest: Vec<f64> = (0..streams)
            .into_par_iter()
            .map(|seed| {
                // Only the ranks of scores count, so that any distribution does.
                let mut random = ChaCha8Rng::seed_from_u64(1 << 32 | seed);
                let mut draw = |count: usize| -> Vec<f32> { (0..count).map(|_| random.random()).collect() };
                let mut monitor = Monitor::new(&draw(held_out), ALPHAS[0], seed).expect("held-out scores");
                draw(IMAGES).into_iter().for_each(|score| monitor.push(score));
                monitor.status().greatest_log10_martingale
            })
            .collect();
        for alpha in ALPHAS {
            let alarms = greatest.iter().filter(|&&greatest| greatest >= -alpha.log10()).count();
            let share = alarms as f64 / streams as f64;
            let bound = alpha + 3.0 * (alpha * (1.0 - alpha) / streams as f64).sqrt();
            println!("{held_out:>8}  {alpha:>6}  {share:>6.3}  {bound:>8.4}");
            assert!(share <= bound, "the promise is broken");
        }
    }
    for images in [10_000, 100_000, 1_000_000] {
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let start = Instant::now();
        let mut monitor = Monitor::new(&[0.0; 1000], ALPHAS[0], 0).expect("held-out scores");
        (0..images).for_each(|_| monitor.push(random.random()));
        let seconds = start.elapsed().as_secs_f64();
        println!("{images} images: {seconds:.2} s, {:.2} us each", 1e6 * seconds / f64::from(images));
    }
}
