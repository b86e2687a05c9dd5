#!/usr/bin/env python3
"""Compare the toolkit with timm in PyTorch eager on photographs, from JPEG files to features, weights and metrics.

    python3 benches/photographs.py TOOLKIT KNOWN UNKNOWN BACKBONE [--rounds N] [--size N] [--task NAME]

KNOWN has folders train/CLASS and test/CLASS, BACKBONE are weights of an EfficientNet-Lite0. Each round runs, one after
the other on all CPU threads:

features    those of the frozen layers: `toolkit train --freeze`, timm with a DataLoader
training    a step of all layers, with resized crops: `toolkit train --freeze=false`, timm with a DataLoader
evaluation  the test images and UNKNOWN: `toolkit eval --provider onnxruntime` as a whole process, timm without its imports

timm runs contiguous and channels-last, without and with two processes that decode; the ratio is to the fastest of them in
the same round. Prints images per second and ratios. Needs PyTorch, torchvision and timm (`make bench-photographs`
installs them).
"""

import json
import subprocess
import tempfile
import time
from argparse import ArgumentParser
from itertools import product
from pathlib import Path
from statistics import median

import timm
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, RandomHorizontalFlip
from torchvision.transforms import RandomResizedCrop, Resize, ToTensor

BATCH = 32
HALF = Normalize([0.5] * 3, [0.5] * 3)
CUBIC = InterpolationMode.BICUBIC


class Files(Dataset):
    """Image files in folders; each item opens one. The label is the number of its folder."""

    def __init__(self, folder: Path, transform) -> None:
        self.files = sorted(folder.rglob("*.jpg"))
        folders = sorted({file.parent for file in self.files})
        self.labels = [folders.index(file.parent) for file in self.files]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int):
        return self.transform(Image.open(self.files[index]).convert("RGB")), self.labels[index]


def network(classes: int, is_last: bool) -> torch.nn.Module:
    model = timm.create_model("tf_efficientnet_lite0", num_classes=classes)
    return model.to(memory_format=torch.channels_last) if is_last else model


def batches(data: Dataset, workers: int, is_last: bool, shuffle: bool = False):
    for images, labels in DataLoader(data, BATCH, num_workers=workers, shuffle=shuffle, drop_last=shuffle):
        yield images.to(memory_format=torch.channels_last) if is_last else images, labels


def timm_features(folders: list[Path], size: int, workers: int, is_last: bool) -> float:
    cropped = Compose([Resize(int(size / 0.875), CUBIC), CenterCrop(size), ToTensor(), HALF])
    model, count, start = network(0, is_last).eval(), 0, time.perf_counter()
    with torch.no_grad():
        for folder in folders:
            for images, _ in batches(Files(folder, cropped), workers, is_last):
                count += len(model(images))
    return count / (time.perf_counter() - start)


def timm_training(folder: Path, size: int, workers: int, is_last: bool) -> float:
    crops = Compose([RandomResizedCrop(size, (0.5, 1.0), interpolation=CUBIC), RandomHorizontalFlip(), ToTensor(), HALF])
    data = Files(folder, crops)
    model = network(max(data.labels) + 1, is_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, 0.9, nesterov=True)
    count, start = 0, time.perf_counter()
    for images, labels in batches(data, workers, is_last, shuffle=True):
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        count += len(labels)
    return count / (time.perf_counter() - start)


def events(command: list) -> list[tuple[float, dict]]:
    """The events of a training, each with the time at which it was printed."""
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        found = [(time.perf_counter(), json.loads(line)) for line in process.stdout]
    assert process.returncode == 0, command
    return found


def toolkit_features(train: list) -> float:
    # Without mirror images each image is one view. Without memory each is decoded anew, as timm does.
    flags = ["--freeze", "--augment", "none", "--epochs", "1", "--memory", "0"]
    of_features = [(at, event) for at, event in events([*train, *flags]) if event["event"] == "features"]
    (first, begun), (last, ended) = of_features[0], of_features[-1]
    return (ended["done"] - begun["done"]) / (last - first)


def toolkit_training(train: list) -> float:
    steps = [event for _, event in events([*train, "--freeze=false", "--epochs", "1", "--precision", "f32"])
             if event["event"] == "step"]
    return steps[-1]["images_per_second"]


def toolkit_evaluation(command: list, count: int) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("toolkit", "known", "unknown", "backbone"):
        parser.add_argument(name, type=lambda path: Path(path).resolve())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--task", action="append", choices=["features", "training", "evaluation"])
    args = parser.parse_args()

    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, timm {timm.__version__}, {args.size} pixels")
    tests = [args.known / "test", args.unknown]
    count = sum(len(Files(folder, None)) for folder in tests)
    with tempfile.TemporaryDirectory() as folder:
        train = [args.toolkit, "train", "--known", args.known, "--backbone", args.backbone, "--size", str(args.size)]
        train += ["--held-out", "0.15", "--run"]
        model = f"{folder}/model.onnx"
        subprocess.run([*train, f"{folder}/run", "--freeze"], capture_output=True, check=True)
        subprocess.run([args.toolkit, "export", "--run", f"{folder}/run", model], capture_output=True, check=True)
        evaluate = [args.toolkit, "eval", model, "--known", args.known, "--unknown", f"unknown={args.unknown}"]
        evaluate += ["--provider", "onnxruntime", "--resamples", "0"]
        ours = {
            "features": lambda number: toolkit_features([*train, f"{folder}/{number}/features"]),
            "training": lambda number: toolkit_training([*train, f"{folder}/{number}/training"]),
            "evaluation": lambda _: toolkit_evaluation(evaluate, count),
        }
        theirs = {
            "features": lambda *how: timm_features([args.known / "train"], args.size, *how),
            "training": lambda *how: timm_training(args.known / "train", args.size, *how),
            "evaluation": lambda *how: timm_features(tests, args.size, *how),
        }
        for task in args.task or ours:
            ratios = []
            for number in range(args.rounds):
                speed = ours[task](number)
                others = {how: theirs[task](*how) for how in product((0, 2), (False, True))}
                ratios.append(speed / max(others.values()))
                named = ", ".join(
                    f"{'channels-last' if is_last else 'contiguous'} with {workers} processes {of:.1f}"
                    for (workers, is_last), of in others.items()
                )
                print(f"{task}, images/s: toolkit {speed:.1f}; timm {named}", flush=True)
            print(f"{task}: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times timm", flush=True)


if __name__ == "__main__":
    main()
