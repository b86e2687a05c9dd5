#!/usr/bin/env python3
"""Whether degradations that leave an image recognisable make it unknown.

    python3 benches/degraded.py TOOLKIT MODEL... --known DIR --unknown DIR [--provider NAME]

KNOWN is a folder of images of the model's classes, UNKNOWN of images of none, both at any depth; the model must not
have been trained on either. Every image is scored as it is; reduced to three quarters of its width and height and
enlarged again; as JPEG at quality 40; and with normal noise of a standard deviation of 8 of 255. Prints Markdown: for
each model and degradation the AUROC of the degraded known images against equally degraded unknown ones, and the
shares of the known images kept and of the unknown ones caught by the threshold in the file, in per cent. `toolkit eval
--degraded` does much the same; this one degrades files in their own size, with Pillow's code. Needs NumPy and Pillow.
"""

import json
import subprocess
import tempfile
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
from drift import jpeg
from PIL import Image


def reduced(image: Image.Image, _) -> Image.Image:
    small = image.resize([round(0.75 * size) for size in image.size], Image.Resampling.BILINEAR)
    return small.resize(image.size, Image.Resampling.BICUBIC)


def noise(image: Image.Image, random: np.random.Generator) -> Image.Image:
    values = np.asarray(image) + random.normal(0, 8, (image.height, image.width, 3))
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))


DEGRADATIONS = {
    "as they are": lambda image, _: image,
    "reduced": reduced,
    "JPEG": lambda image, _: jpeg(image, 40),
    "noise": noise,
}


def degrade(source: Path, target: Path, degradation):
    """Writes a degraded copy of every image below a folder."""
    target.mkdir()
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".bmp", ".jpeg", ".jpg", ".png"))
    assert paths, f"no images in {source}"
    for number, path in enumerate(paths):
        image = Image.open(path).convert("RGB")
        degradation(image, np.random.default_rng(number)).save(target / f"{number}.png", compress_level=1)


def output(*command) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def shares(args, model: Path, known: Path, unknown: Path, scores: Path) -> list[float]:
    """The AUROC, and what the threshold in the file keeps and catches of the images in two folders."""
    rows = ["label,score"]
    for label, folder in ((0, known), (-1, unknown)):
        lines = output(args.toolkit, "score", model, folder, "--provider", args.provider, "--json").splitlines()
        verdicts = [json.loads(line)["verdict"] for line in lines]
        rows += [f"{label},{verdict['score']}" for verdict in verdicts]
    scores.write_text("\n".join(rows))
    threshold = str(verdicts[0]["threshold"])
    report = json.loads(output(args.toolkit, "metrics", scores, "--threshold", threshold, "--resamples", "0", "--json"))
    return [report["rows"][0]["auroc"], report["known_kept"], report["rows"][0]["unknown_caught"]]


def main():
    parser = ArgumentParser()
    parser.add_argument("toolkit", type=Path)
    parser.add_argument("model", type=Path, nargs="+")
    parser.add_argument("--known", type=Path, required=True)
    parser.add_argument("--unknown", type=Path, required=True)
    parser.add_argument("--provider", default="cpu")
    args = parser.parse_args()
    print("| model | images | AUROC | kept | caught |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, degradation in DEGRADATIONS.items():
            places = [Path(folder) / f"{name} {part}" for part in ("known", "unknown")]
            for source, place in zip((args.known, args.unknown), places, strict=True):
                degrade(source, place, degradation)
            for model in args.model:
                found = shares(args, model, *places, Path(folder) / "scores.csv")
                cells = [model.name, name, *(f"{100 * share:.1f}" for share in found)]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
