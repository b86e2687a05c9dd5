#!/usr/bin/env python3
"""Measure the scorer as a separate program sees it, from outside this repository.

    python3 benches/embedding.py MODEL.onnx IMAGE [--profile plain|small]... [--feature tract|onnxruntime]...

Makes a new crate that depends on this one with a single feature, builds it from scratch, and scores IMAGE.
`small` is the profile of docs/embedding.md. Prints the processor time of the build, the size of the program,
and, as medians over processes run in turns: the milliseconds of a whole process, and, for further processes
that score twice, the milliseconds until the model is ready and of the second verdict, and resident memory
when the model is ready and after the first verdict. examples/python/score.py is run in the same turns.
Python needs onnxruntime and Pillow, the feature `onnxruntime` ORT_DYLIB_PATH (`make bench-embedding` provides
them).
"""

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = """[package]
name = "embedding"
version = "0.1.0"
edition = "2024"

[dependencies]
cac = {{ path = "{root}", default-features = false, features = ["{feature}"] }}

[workspace]

{profile}
"""
# Prints the verdict and, with a fourth argument, the measurements on a line of their own.
PROGRAM = """use std::time::Instant;

use cac::{Provider, Scorer, image};

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn main() -> cac::Result<()> {
    let start = Instant::now();
    let args: Vec<String> = std::env::args().collect();
    let scorer = Scorer::open(&args[1], args[3].parse::<Provider>()?)?;
    let (ready, at_rest) = (start.elapsed(), resident());
    let image = image::open(&args[2])?;
    let verdict = scorer.score_image(&image)?;
    let at_first = resident();
    println!("{} {}", if verdict.unknown { "unknown" } else { &verdict.class }, verdict.score);
    if args.len() > 4 {
        let again = Instant::now();
        scorer.score_image(&image)?;
        let [ready, again] = [ready, again.elapsed()].map(|time| 1e3 * time.as_secs_f64());
        println!("{ready} {again} {at_rest} {at_first}");
    }
    Ok(())
}
"""


def profile(name: str) -> str:
    """The lines of a profile in docs/embedding.md."""
    if name == "plain":
        return ""
    page = (ROOT / "docs/embedding.md").read_text()
    return re.search(r"```toml\n(\[profile\.release\]\n.*?)```", page, re.DOTALL)[1]


def built(folder: Path, feature: str, name: str) -> Path:
    """Builds the crate, and prints what it took."""
    (folder / "src").mkdir(parents=True)
    (folder / "Cargo.toml").write_text(MANIFEST.format(root=ROOT, feature=feature, profile=profile(name)))
    (folder / "Cargo.lock").write_bytes((ROOT / "Cargo.lock").read_bytes())
    (folder / "src/main.rs").write_text(PROGRAM)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "CARGO_TARGET_DIR": str(folder / "target")}
    subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=folder, env=environment, check=True)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    program = folder / "target/release/embedding"
    size = program.stat().st_size / 1e6
    print(f"{feature}, {name}: {used:.0f} s of processor time in {seconds:.0f} s, {size:.1f} MB", flush=True)
    return program


def measured(command: list, is_ours: bool) -> list[float]:
    """Milliseconds of a process, and, for ours, the figures that another one prints."""
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    took = 1e3 * (time.perf_counter() - start)
    if not is_ours:
        return [took]
    output = subprocess.run([*command, "again"], capture_output=True, text=True, check=True).stdout
    return [took, *(float(number) for number in output.splitlines()[-1].split(" "))]


def main() -> None:
    arguments = ArgumentParser()
    arguments.add_argument("model", type=Path)
    arguments.add_argument("image", type=Path)
    arguments.add_argument("--feature", action="append", choices=["tract", "onnxruntime"])
    arguments.add_argument("--profile", action="append", choices=["plain", "small"])
    arguments.add_argument("--rounds", type=int, default=21)
    options = arguments.parse_args()
    python = [sys.executable, ROOT / "examples/python/score.py", options.model, options.image]
    with tempfile.TemporaryDirectory() as folder:
        runs = {"Python": python}
        for feature in options.feature or ["tract", "onnxruntime"]:
            for name in options.profile or ["plain", "small"]:
                program = built(Path(folder) / f"{feature}-{name}", feature, name)
                provider = "cpu" if feature == "tract" else "onnxruntime"
                runs[f"{feature}, {name}"] = [program, options.model, options.image, provider]
        found = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, command in runs.items():
                found[name].append(measured(command, name != "Python"))
    for name, rows in found.items():
        first = [row[0] for row in rows]
        ratio = median(theirs[0] / ours for theirs, ours in zip(found["Python"], first))
        text = f"{name}: whole process {median(first):.1f} ms, {ratio:.2f} times as fast as Python"
        if len(rows[0]) > 1:
            ready, again, at_rest, at_first = (median(row[place] for row in rows) for place in range(1, 5))
            text += f"; model ready after {ready:.1f} ms, a second verdict {again:.1f} ms"
            text += f"; resident {at_rest / 1024:.0f} MiB, after a verdict {at_first / 1024:.0f} MiB"
        print(text)


if __name__ == "__main__":
    main()
