#!/usr/bin/env python3
"""Make the demo's data: a small part of CIFAR-10, some textures, and the backbone as float16.

    python3 make.py CIFAR_DIR TEXTURES_DIR BACKBONE

CIFAR_DIR     CIFAR-10 in its official binary layout
TEXTURES_DIR  images of the Describable Textures Dataset at 32x32, in class folders
BACKBONE      a WideResNet-40-2 as `toolkit export weights.safetensors` writes it

Needs NumPy and safetensors. Writes its output next to this file.
"""
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).resolve().parent
RECORD = 3073
TRAIN_PER_CLASS, TEST_PER_CLASS, TEXTURES_PER_CLASS = 160, 60, 30


def first_of_each_class(source: Path, count: int) -> bytes:
    records = np.fromfile(source, np.uint8).reshape(-1, RECORD)
    chosen = np.concatenate([np.flatnonzero(records[:, 0] == label)[:count] for label in range(10)])
    return records[np.sort(chosen)].tobytes()


def main(cifar: Path, textures: Path, backbone: Path) -> None:
    target = HERE / "cifar-10-batches-bin"
    target.mkdir(exist_ok=True)
    train = first_of_each_class(cifar / "data_batch_1.bin", TRAIN_PER_CLASS)
    (target / "data_batch_1.bin").write_bytes(train)
    test = first_of_each_class(cifar / "test_batch.bin", TEST_PER_CLASS)
    (target / "test_batch.bin").write_bytes(test)
    shutil.copyfile(cifar / "batches.meta.txt", target / "batches.meta.txt")

    for folder in sorted(path for path in textures.iterdir() if path.is_dir()):
        copy = HERE / "textures" / folder.name
        copy.mkdir(parents=True, exist_ok=True)
        for image in sorted(folder.iterdir())[:TEXTURES_PER_CLASS]:
            shutil.copyfile(image, copy / image.name)

    # Leave out the last layer, and what a run stores besides the network.
    network = ("conv1.", "block", "bn1.")
    state = {name: tensor for name, tensor in load_file(backbone).items() if name.startswith(network)}
    save_file({name: tensor.astype(np.float16) for name, tensor in state.items()}, HERE / "backbone.safetensors")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
