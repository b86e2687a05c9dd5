#!/usr/bin/env python3
"""Add the golden logits of a cifar-net, computed with NumPy alone, to families.safetensors.

    python3 families.py && python3 cifar_net.py

cifar-net.33x40 [2, 5]    float64, of the network of airbench94 (Jordan, arXiv 2404.00498) with 5 classes in evaluation
                          mode, with ReLU, means over the image and a bias in the last layer, for 2 images of this size

Weights and images are those of families.py. The script prints how much the logits depend on the images, on
their position and on the epsilon of batch normalisation: a network that is built differently must not pass.
"""
import math
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from fill import random

FILE = Path(__file__).resolve().parent / "families.safetensors"
CLASSES, HEIGHT, WIDTH = 5, 33, 40


def uniform(name: str, *shape: int) -> np.ndarray:
    """In [0, 1)."""
    return ((random(name, math.prod(shape)) >> np.uint64(11)) * 2.0**-53).reshape(shape)


def signed(name: str, *shape: int) -> np.ndarray:
    """In [-1, 1)."""
    return 2 * uniform(name, *shape) - 1


def single(values: np.ndarray) -> np.ndarray:
    """Weights are stored in single precision."""
    return values.astype(np.float32).astype(np.float64)


def convolution(x: np.ndarray, name: str, outputs: int, kernel: int, padding: int) -> np.ndarray:
    inputs = x.shape[1]
    weight = single(signed(f"{name}.weight", outputs, inputs, kernel, kernel) * math.sqrt(6 / (inputs * kernel**2)))
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True)


def pool(x: np.ndarray) -> np.ndarray:
    """Maxima of 2 x 2 windows; a remainder at the right or at the bottom is dropped."""
    count, channels, height, width = x.shape
    x = x[:, :, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(count, channels, height // 2, 2, width // 2, 2).max((3, 5))


def normalise(x: np.ndarray, name: str, epsilon: float) -> np.ndarray:
    channels = x.shape[1]
    weight = single(0.5 + uniform(f"{name}.weight", channels))
    bias = single(signed(f"{name}.bias", channels) * 0.5)
    mean = single(signed(f"{name}.running_mean", channels) * 0.5)
    variance = single(0.5 + 1.5 * uniform(f"{name}.running_var", channels))
    scale = weight / np.sqrt(variance + epsilon)
    return x * scale[:, None, None] + (bias - mean * scale)[:, None, None]


def rectified(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def logits(images: np.ndarray, epsilon: float = 1e-5) -> np.ndarray:
    x = (images - 0.5) / 0.5
    bias = single(signed("whiten.bias", 24) * 0.5)
    x = rectified(convolution(x, "whiten", 24, 2, 0) + bias[:, None, None])
    for group, channels in enumerate([64, 256, 256], start=1):
        at = f"layers.{group}"
        x = pool(convolution(x, f"{at}.conv1", channels, 3, 1))
        x = rectified(normalise(x, f"{at}.norm1", epsilon))
        x = convolution(x, f"{at}.conv2", channels, 3, 1)
        x = rectified(normalise(x, f"{at}.norm2", epsilon))
    features = x.mean((2, 3))
    weight = single(signed("head.weight", CLASSES, 256) / math.sqrt(256))
    return features @ weight.T + single(signed("head.bias", CLASSES) * 0.1)


def main() -> None:
    pictures = (random("pictures", 2 * 3 * HEIGHT * WIDTH) % np.uint64(256)).astype(np.float32)
    images = (pictures.reshape(2, 3, HEIGHT, WIDTH) / np.float32(255)).astype(np.float64)
    found = logits(images)
    shifted = logits(np.roll(images, (1, 1), (2, 3)))
    changes = [found[0] - found[1], found - shifted, found - logits(images, 1.1e-5)]
    largest = [f"{np.max(np.abs(change) / np.maximum(np.abs(found), 1)):.1e}" for change in changes]
    print(f"{np.abs(found).max():.1f}", *largest)
    with safe_open(FILE, "numpy") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    save_file(tensors | {f"cifar-net.{HEIGHT}x{WIDTH}": found}, FILE, metadata)


if __name__ == "__main__":
    main()
