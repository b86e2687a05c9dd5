#!/usr/bin/env python3
"""Write images of odd shapes, and photographs with an EXIF orientation, made from the golden photographs.

    python tests/conformance/photographs.py FOLDER

Needs NumPy and Pillow.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

SOURCES = Path(__file__).resolve().parents[1] / "golden" / "images"
# Width and height of the images, most of which are wider or higher than a model's input.
SHAPES = [(300, 60), (40, 320), (97, 61), (61, 97), (5, 7), (1, 90), (200, 3), (36, 36), (32, 32)]


def write(folder: Path) -> list[Path]:
    paths = []
    for number, source in enumerate(sorted(SOURCES.glob("*.jpg"))):
        photograph = Image.open(source).convert("RGB")
        exif = Image.Exif()
        exif[0x112] = 5 + number % 4
        paths.append(folder / f"turned-{number}.jpg")
        photograph.crop((0, 0, photograph.width, photograph.height // 2)).save(paths[-1], quality=95, exif=exif)
    for width, height in SHAPES:
        paths.append(folder / f"shape-{width}x{height}.png")
        photograph.resize((width, height)).save(paths[-1])
    paths.append(folder / "grey-of-16-bits.png")
    grey = np.asarray(photograph.convert("L")).astype(np.uint16)
    Image.fromarray((grey << 8) | 0xFF).save(paths[-1])
    return paths


if __name__ == "__main__":
    for path in write(Path(sys.argv[1])):
        print(path)
