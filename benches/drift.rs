//! False alarms and delays of the drift monitor.
//!
//! `drift [STREAMS]` prints how often it raises an alarm without a change, with separate held-out scores for
//! each stream, and how fast it is. `drift HELD_OUT` reads streams of scores, one per line of standard input,
//! and prints for each the image at which it raises the alarm, or `-`, for each alpha. The file has one
//! held-out score per line. `drift.py` makes both.

use std::{
    io::{BufRead, stdin},
    time::Instant,
};

use cac::drift::Monitor;
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use rayon::prelude::*;

const IMAGES: usize = 10_000;
const HELD_OUT: [usize; 3] = [100, 300, 1000];
const ALPHAS: [f64; 2] = [0.05, 0.01];

fn main() {
    let argument = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    match argument.map(|argument| argument.parse::<u64>().map_err(|_| argument)) {
        Some(Err(held_out)) => delays(&scores(&std::fs::read_to_string(held_out).expect("held-out scores"))),
        Some(Ok(streams)) => false_alarms(streams),
        None => false_alarms(1000),
    }
}

fn scores(text: &str) -> Vec<f32> {
    text.split_whitespace().map(|score| score.parse().expect("a score")).collect()
}

/// The image at which a stream raises the alarm, for each alpha.
fn alarms(held_out: &[f32], stream: &[f32], seed: u64) -> [Option<usize>; ALPHAS.len()] {
    ALPHAS.map(|alpha| {
        let mut monitor = Monitor::new(held_out, alpha, seed).expect("held-out scores");
        stream.iter().for_each(|&score| monitor.push(score));
        monitor.status().alarm
    })
}

fn delays(held_out: &[f32]) {
    for (seed, line) in (0..).zip(stdin().lock().lines()) {
        let stream = scores(&line.expect("a line of scores"));
        let found = alarms(held_out, &stream, seed);
        println!("{}", found.map(|alarm| alarm.map_or("-".to_owned(), |alarm| alarm.to_string())).join(" "));
    }
}

fn false_alarms(streams: u64) {
    println!(
        "share of {streams} streams of {IMAGES} images that alarm; bound: alpha and three standard errors"
    );
    println!("{:>8}  {:>5}  {:>6}  {:>6}", "held out", "alpha", "share", "bound");
    for held_out in HELD_OUT {
        let has_alarm = |seed: u64| {
            // Only the ranks of scores count, so any distribution will do.
            let mut random = ChaCha8Rng::seed_from_u64(1 << 32 | seed);
            let mut draw = |count: usize| -> Vec<f32> { (0..count).map(|_| random.random()).collect() };
            alarms(&draw(held_out), &draw(IMAGES), seed)
        };
        let found: Vec<_> = (0..streams).into_par_iter().map(has_alarm).collect();
        for (place, alpha) in ALPHAS.into_iter().enumerate() {
            let share = found.iter().filter(|alarms| alarms[place].is_some()).count() as f64 / streams as f64;
            let bound = alpha + 3.0 * (alpha * (1.0 - alpha) / streams as f64).sqrt();
            println!("{held_out:>8}  {alpha:>5}  {share:>6.3}  {bound:>6.4}");
            assert!(share <= bound, "the promise is broken");
        }
    }
    for images in [10_000, 100_000, 1_000_000] {
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let start = Instant::now();
        let mut monitor = Monitor::new(&[0.0; 1000], ALPHAS[0], 0).expect("held-out scores");
        (0..images).for_each(|_| monitor.push(random.random()));
        let seconds = start.elapsed().as_secs_f64();
        println!("{images} images in {seconds:.2} s, {:.2} us each", 1e6 * seconds / f64::from(images));
    }
}
