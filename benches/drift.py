#!/usr/bin/env python3
"""How soon drift detects a change.

    python3 benches/drift.py TOOLKIT BENCH KNOWN NAME=DIR... [--streams N] [--provider NAME] [--scores DIR]

BENCH is the program built from drift.rs, KNOWN CIFAR-10 in its binary layout, NAME=DIR a folder with images of a new kind.
The WideResNet in exported/ scores the test images, changed copies of every sixth of them, and the new images. Each stream is 500
or 5,000 unchanged images, and then changed copies of other images; or more unchanged images, a share of which
is new. All are drawn without replacement. The delay is the number of images from the change to the alarm.
Prints Markdown: the median and the 90 % quantile of the delays over the streams, `>N` if too few streams
raised the alarm before they ended after N images, and the share of streams that raised it. An alarm before
the change is counted as false, and has no delay. --scores keeps the scores in a folder, and uses those
already there. Needs NumPy and Pillow.
"""

import csv
import io
import json
import shutil
import subprocess
import tempfile
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

MODEL = Path(__file__).resolve().parent.parent / "exported/cifar10-wrn-40-2.onnx"
BEFORE = [500, 5000]
EVERY = 6
SHARES = [0.01, 0.05, 0.2]
RECORD = 3073
# Those of drift.rs.
ALPHAS = [0.05, 0.01]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


CHANGES = {
    "blur, radius": (lambda image, radius: image.filter(ImageFilter.GaussianBlur(radius)), [0.5, 0.75, 1.0]),
    "darker, times": (lambda image, factor: ImageEnhance.Brightness(image).enhance(factor), [0.7, 0.5, 0.3]),
    "JPEG, quality": (jpeg, [50, 25, 10]),
}


def changed(record: bytes, change, strength) -> bytes:
    planes = np.frombuffer(record[1:], np.uint8).reshape(3, 32, 32)
    image = change(Image.fromarray(planes.transpose(1, 2, 0)), strength)
    return record[:1] + np.asarray(image).transpose(2, 0, 1).tobytes()


class Bench:
    def __init__(self, args, folder: Path):
        self.toolkit, self.provider, self.streams = args.toolkit, args.provider, args.streams
        self.kept = args.scores or folder
        self.folder = folder
        self.bench, self.held_out = args.bench, folder / "held-out.txt"
        shown = subprocess.run([self.toolkit, "inspect", MODEL, "--json"], capture_output=True, check=True)
        scores = json.loads(shown.stdout)["manifest"]["threshold"]["held_out_scores"]
        self.held_out.write_text("\n".join(map(str, scores)))

    def scores(self, name: str, known: Path, unknown: list[str]) -> dict[str, np.ndarray]:
        """The scores of each set of images, kept under this name."""
        file = self.kept / f"{name}.csv"
        command = [self.toolkit, "eval", MODEL, "--known", known, "--scores", file, "--resamples", "0"]
        command += ["--provider", self.provider] + [part for named in unknown for part in ("--unknown", named)]
        if not file.exists():
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        sets = {}
        with open(file) as lines:
            for row in csv.DictReader(lines):
                sets.setdefault(row["set"], []).append(float(row["score"]))
        return {name: np.array(scores) for name, scores in sets.items()}

    def alarms(self, make) -> np.ndarray:
        """The images of the alarms, [streams, alphas]; `make` makes a stream from a generator."""
        streams = [make(np.random.default_rng(seed)) for seed in range(self.streams)]
        lines = "".join(" ".join(map(str, stream.astype(np.float32))) + "\n" for stream in streams)
        found = subprocess.run([self.bench, self.held_out], input=lines, capture_output=True, text=True, check=True)
        alarms = [[np.inf if cell == "-" else float(cell) for cell in line.split()] for line in found.stdout.splitlines()]
        assert len(alarms) == self.streams
        return np.array(alarms)

    def row(self, what: str, before: int, longest: int, make):
        cells = [what, str(before)]
        for alarms in self.alarms(make).T:
            delays = np.sort(alarms[alarms > before] - before)
            for share in (0.5, 0.9):
                delay = delays[int(np.ceil(share * len(delays))) - 1]
                cells.append(f">{longest}" if np.isinf(delay) else f"{delay:.0f}")
            cells += [f"{100 * np.isfinite(delays).mean():.1f} %", str((alarms <= before).sum())]
        print(f"| {' | '.join(cells)} |", flush=True)


def placed(named: str) -> str:
    name, folder = named.split("=", 1)
    return f"{name}={Path(folder).resolve()}"


def main():
    parser = ArgumentParser()
    parser.add_argument("toolkit", type=lambda path: Path(path).resolve())
    parser.add_argument("bench", type=lambda path: Path(path).resolve())
    parser.add_argument("known", type=lambda path: Path(path).resolve())
    parser.add_argument("new", nargs="*", type=placed)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--scores", type=lambda path: Path(path).resolve())
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        run(bench, args)


def run(bench: Bench, args):
    sets = bench.scores("unchanged", args.known, args.new)
    known = sets.pop("known")
    data = (args.known / "test_batch.bin").read_bytes()
    records = [data[start : start + RECORD] for start in range(0, len(data), RECORD)]
    places = np.arange(len(records)) % EVERY == 0
    unchanged = known[~places]

    after = {}
    for what, (change, strengths) in CHANGES.items():
        for strength in strengths:
            copy = bench.folder / "changed"
            copy.mkdir()
            shutil.copy(args.known / "batches.meta.txt", copy)
            copies = [changed(records[place], change, strength) for place in np.flatnonzero(places)]
            (copy / "test_batch.bin").write_bytes(b"".join(copies))
            after[what, strength] = bench.scores(f"{what} {strength}", copy, [])["known"]
            shutil.rmtree(copy)

    alarms = np.isfinite(bench.alarms(lambda random: random.permutation(known))).sum(axis=0)
    for alpha, count in zip(ALPHAS, alarms):
        print(f"unchanged, alpha {alpha}: {count} of {bench.streams} streams of {len(known)} images alarm")
    heads = ["change", "after"]
    heads += [f"{what}, alpha {alpha}" for alpha in ALPHAS for what in ("median", "90 %", "noticed", "false alarms")]
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for before in BEFORE:
        if before > len(unchanged):
            continue
        for (what, strength), scores in after.items():

            def make(random):
                return np.concatenate([random.choice(unchanged, before, replace=False), random.permutation(scores)])

            bench.row(f"{what} {strength}", before, len(scores), make)
        for name, new in sets.items():
            for share in SHARES:
                longest = int(min(len(known) - before, len(new) / share))

                def make(random):
                    stream = random.permutation(known)[: before + longest]
                    is_new = np.flatnonzero(random.random(longest) < share)[: len(new)] + before
                    stream[is_new] = random.permutation(new)[: len(is_new)]
                    return stream

                bench.row(f"{name}, {100 * share:.0f} %", before, longest, make)


if __name__ == "__main__":
    main()
