#!/usr/bin/env python3
"""Measure the effect of each switch of `toolkit train`, alone and in some combinations.

    python3 benches/recipes.py TOOLKIT OUT --known DIR --unknown NAME=DIR --backbone FILE [--outliers DIR]
        [--images 5000] [--epochs 10] [--seed 123] [--precision f32] [RECIPE...]

Trains each recipe below, or each RECIPE given, on the first --images images of CIFAR-10's binary files in DIR, and
tests after the last epoch on all of its test images against the unknown images. Results stay in OUT: a second call
with the same settings resumes. Prints the final metrics as one table, in percent with 95 % intervals over images.
"""

import json
import shutil
import subprocess
from argparse import ArgumentParser
from pathlib import Path

RECORD = 1 + 3 * 32 * 32
TOGETHER = "--optimizer sgd --schedule one-cycle --augment crop --weight-decay 5e-4 --dropout 0"
# The settings that a recipe starts from.
NONE = "--optimizer adam --schedule cosine --weight-decay 0 --augment none --dropout 0.3 --outliers none"
RECIPES = {
    "none": "",
    "pytorch-ood": "--variant pytorch-ood",
    "crop": "--augment crop",
    "affine": "--augment affine",
    "sgd": "--optimizer sgd",
    "one-cycle": "--schedule one-cycle",
    "warm-up": "--warm-up 1",
    "weight-decay": "--weight-decay 0.05",
    "ema": "--ema 0.99",
    "trim": "--trim 0.05",
    "batch": "--batch-size 128 --learning-rate 0.002",
    "dropout": "--dropout 0",
    "outliers": "--outliers {outliers}",
    "backbone-rate": "--backbone-rate 0.2",
    "batch-norm": "--batch-norm running",
    "flip": "--augment flip",
    "degrade": "--degrade 0.15",
    "pixmix": "--pixmix 0.5",
    "together": TOGETHER,
    "together+decay": TOGETHER.replace("5e-4", "5e-3"),
    "together-crop": TOGETHER.replace("crop", "none"),
    "together+dropout": TOGETHER.replace("--dropout 0", "--dropout 0.3"),
    "together+weight": f"{TOGETHER} --weight 1",
    "together+pytorch-ood": f"{TOGETHER} --variant pytorch-ood",
    "together+scrambled": f"{TOGETHER} --outliers scrambled",
    "together+outliers": f"{TOGETHER} --outliers {{outliers}}",
}


def subset(known: Path, out: Path, images: int) -> Path:
    """CIFAR-10's files with the first `images` training images and all test images."""
    if not (out / "test_batch.bin").exists():
        out.mkdir(parents=True, exist_ok=True)
        records = b"".join((known / f"data_batch_{i}.bin").read_bytes() for i in range(1, 6))
        per_file = images // 5 * RECORD
        for i in range(5):
            (out / f"data_batch_{i + 1}.bin").write_bytes(records[i * per_file : (i + 1) * per_file])
        for name in ("batches.meta.txt", "test_batch.bin"):
            shutil.copy(known / name, out / name)
    return out


def result(run: Path) -> dict | None:
    """The final report of a finished run."""
    log = run / "log.jsonl"
    events = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return events[-1]["report"] if events and events[-1]["event"] == "finished" else None


def cell(value: float, interval: list) -> str:
    return f"{100 * value:.1f} ({100 * interval[0]:.1f}-{100 * interval[1]:.1f})"


def main():
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("toolkit")
    parser.add_argument("out", type=Path)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=", ".join(RECIPES))
    parser.add_argument("--known", type=Path, required=True)
    parser.add_argument("--unknown", required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--outliers")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=123)
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32")
    args = parser.parse_intermixed_args()
    if unheard := set(args.recipes) - set(RECIPES):
        parser.error(f"no such recipe: {', '.join(sorted(unheard))}")

    # Recipes are comparable only with the same settings.
    given = vars(args)
    same = ("known", "unknown", "backbone", "outliers", "images", "epochs", "seed", "precision")
    settings = {name: str(given[name]) for name in same}
    noted = args.out / "settings.json"
    args.out.mkdir(parents=True, exist_ok=True)
    if noted.exists() and json.loads(noted.read_text()) != settings:
        parser.error(f"{args.out} holds the results of other settings: {noted.read_text()}")
    noted.write_text(json.dumps(settings))
    known = subset(args.known, args.out / "images", args.images)
    print("| recipe | flags | accuracy | AUROC | AUPR-OUT | FPR95TPR | OSCR |", "|---" * 7 + "|", sep="\n", flush=True)
    for name in args.recipes or RECIPES:
        flags = RECIPES[name].replace("{outliers}", args.outliers or "")
        if "{outliers}" in RECIPES[name] and not args.outliers:
            continue
        run = args.out / name
        if result(run) is None:
            command = ["--resume", run] if any(run.glob("state-*")) else [
                "--known", known, "--unknown", args.unknown, "--backbone", args.backbone,
                "--held-out", "0.04", "--precision", args.precision,
                "--epochs", str(args.epochs), "--test-every", str(args.epochs), "--seed", str(args.seed),
                "--run", run, *NONE.split(), *flags.split(),
            ]  # fmt: skip
            with open(args.out / f"{name}.log", "a") as log:
                done = subprocess.run([args.toolkit, "train", *command], check=False, stdout=log, stderr=log)
            if done.returncode != 0:
                print(f"| {name} | `{flags}` | failed: {log.name} |", flush=True)
                continue
        report = result(run)
        row = report["rows"][0]
        cells = [cell(report["accuracy"], report["intervals"]["accuracy"])]
        cells += [cell(row[key], row["intervals"][key]) for key in ("auroc", "aupr_out", "fpr95_tpr", "oscr")]
        print(f"| {name} | `{RECIPES[name]}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
