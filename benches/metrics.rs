//! Time and memory of the metrics: `metrics COUNT` prints one line of JSON. `metrics.py` compares it with
//! other toolkits.

use std::time::Instant;

use cac::metrics::{Kind, Metrics, Stream};

#[path = "../tests/golden/fill.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod fill;

/// A memory figure of this process in bytes: `VmRSS`, the current, or `VmHWM`, the peak.
fn memory(figure: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Runs `work` and returns its result, its seconds, and the peak of its additional memory in bytes.
fn measured<T>(work: impl FnOnce() -> T) -> (T, f64, u64) {
    // Resets the peak to the current memory.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let before = memory("VmRSS").unwrap_or(0);
    let start = Instant::now();
    let result = work();
    let seconds = start.elapsed().as_secs_f64();
    (result, seconds, memory("VmHWM").unwrap_or(0).saturating_sub(before))
}

fn main() {
    let count: u64 = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    let unit = |i: u64| fill::unit(fill::splitmix64(i));
    let known: Vec<f32> = (0..count / 10 * 9).map(|i| unit(i) as f32).collect();
    let unknown: Vec<f32> = (count / 10 * 9..count).map(|i| unit(i).sqrt() as f32).collect();
    let correct: Vec<bool> =
        (0..known.len() as u64).map(|i| !fill::splitmix64(i).is_multiple_of(10)).collect();
    let (metrics, seconds, bytes) = measured(|| Metrics::new(&known, Some(&correct), &unknown));
    let metrics = metrics.expect("scores of both sides");
    let (streamed, stream_seconds, stream_bytes) = measured(|| {
        let mut stream = Stream::new(1 << 18);
        for (&score, &correct) in known.iter().zip(&correct) {
            stream.push(score.into(), Kind::Known { correct }).expect("a number");
        }
        for &score in &unknown {
            stream.push(score.into(), Kind::Unknown).expect("a number");
        }
        stream.finish(true)
    });
    let bounds = streamed.expect("scores of both sides").bounds.auroc;
    println!(
        "{}",
        serde_json::json!({
            "count": count, "seconds": seconds, "bytes": bytes, "metrics": metrics,
            "stream": { "seconds": stream_seconds, "bytes": stream_bytes, "auroc": bounds },
        })
    );
}
