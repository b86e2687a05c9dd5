#!/usr/bin/env python3
"""Make the golden numbers of PixMix: pixmix.json.

    python3 pixmix.py

image, other                       bytes of two images of one channel, 20 x 20
stretch, equalize                  Pillow's `autocontrast` and `equalize` of the first
posterize, solarize                its `posterize` to 3 bits, and its `solarize` from 180 on
mixtures                           which image is first and which second, weights a and b, and the sum and the product
                                   by the formulas of the paper's code in float64: values 0 to 1, rounded to bytes
"""
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
WEIGHTS = [(0.8, 0.25), (1.25, -0.5)]


def total(first: np.ndarray, second: np.ndarray, a: float, b: float) -> np.ndarray:
    return (a * (first * 2 - 1) + b * (second * 2 - 1) + 1) / 2


def product(first: np.ndarray, second: np.ndarray, a: float, b: float) -> np.ndarray:
    return (first * 2) ** a * (second * 2).clip(1e-37) ** b / 2


def numbers(image: np.ndarray | Image.Image) -> list[int]:
    return np.asarray(image).ravel().tolist()


def main() -> None:
    y, x = np.mgrid[:20, :20]
    first = (40 + 150 * np.sin(0.11 * x + 0.07 * y) ** 2 + (x * y) % 7).astype(np.uint8)
    second = ((7 * x * x + 13 * y * y + 5 * x * y) % 256).astype(np.uint8)
    image = Image.fromarray(first)
    mixtures = []
    images = {"image": first, "other": second}
    for a, b in WEIGHTS:
        for one, two in [("image", "other"), ("other", "image")]:
            mixed = {}
            for name, mix in [("sum", total), ("product", product)]:
                values = mix(images[one] / 255, images[two] / 255, a, b).clip(0, 1)
                mixed[name] = numbers(np.rint(values * 255).astype(int))
            mixtures.append({"first": one, "second": two, "a": a, "b": b, **mixed})
    golden = {
        "image": numbers(first),
        "other": numbers(second),
        "stretch": numbers(ImageOps.autocontrast(image)),
        "equalize": numbers(ImageOps.equalize(image)),
        "posterize": numbers(ImageOps.posterize(image, 3)),
        "solarize": numbers(ImageOps.solarize(image, 180)),
        "mixtures": mixtures,
    }
    (HERE / "pixmix.json").write_text(json.dumps(golden) + "\n")
    print(f"pixmix.py: numpy {version('numpy')}, pillow {version('pillow')}")


if __name__ == "__main__":
    main()
