#!/usr/bin/env python3
"""Compare the training speed of the toolkit with PyTorch eager running pytorch-ood's tutorial.

    python3 benches/training.py TOOLKIT [PAIRS]

Both train a WideResNet-40-2 with the CAC loss in float32 on the demo's pictures for one epoch, batch 64, on
the processor with all threads, data loading included, in turn: A B A B ... Prints pictures per second of
each run and the ratio of each pair. Needs PyTorch and pytorch-ood (`make bench` sets both up).
"""
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from pytorch_ood.loss import CACLoss
from pytorch_ood.model import WideResNet
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

DEMO = Path(__file__).resolve().parent.parent / "examples/demo"
BATCH = 64


class Cifar(Dataset):
    """As torchvision's CIFAR10: pixels in memory, a PIL picture and its transform for each item."""

    def __init__(self):
        records = np.fromfile(DEMO / "cifar-10-batches-bin/data_batch_1.bin", np.uint8).reshape(-1, 3073)
        self.labels = records[:, 0].astype(int)
        self.pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        self.transform = Compose([Resize((32, 32)), ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.pixels[index])), int(self.labels[index])


def pytorch() -> float:
    torch.manual_seed(123)
    data = Cifar()
    loader = DataLoader(data, batch_size=BATCH, shuffle=True)
    model = WideResNet(num_classes=10, depth=40, widen_factor=2, drop_rate=0.3).train()
    criterion = CACLoss(n_classes=10, magnitude=5, alpha=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(loader))
    average = None
    start = time.perf_counter()
    for x, y in loader:
        loss = criterion(criterion.distance(model(x)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        average = loss.item() if average is None else 0.99 * average + 0.01 * loss.item()
    return len(data) / (time.perf_counter() - start)


def toolkit(program: Path) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "train", "--known", DEMO, "--variant", "pytorch-ood", "--epochs", "1"]
        command += ["--batch-size", str(BATCH), "--held-out", "0", "--run", f"{folder}/run", "--json"]
        output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    events = map(json.loads, output.stdout.splitlines())
    return [event for event in events if event["event"] == "step"][-1]["pictures_per_second"]


def main(program: Path, pairs: int) -> None:
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {os.cpu_count()} processors")
    ratios = []
    for _ in range(pairs):
        ours, theirs = toolkit(program), pytorch()
        ratios.append(ours / theirs)
        print(f"toolkit {ours:.1f} pictures/s, pytorch {theirs:.1f} pictures/s, ratio {ratios[-1]:.3f}")
    print(f"ratio: median {median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 5)
