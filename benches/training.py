#!/usr/bin/env python3
"""Compare the training speed of the toolkit with PyTorch.

    python3 benches/training.py TOOLKIT [ROUNDS]

Each round trains, one after the other, a WideResNet-40-2 with pytorch-ood's CAC loss on the demo's images for one
epoch, batch 64, on all CPU threads, data loading included: the toolkit in float32 and in bfloat16 with the tutorial's
settings, and with its defaults, which add 25 % outliers to each step; pytorch-ood's tutorial unchanged (PyTorch eager),
and tuned with channels-last and bfloat16 autocast. Prints the known images per second of each, and the toolkit's ratios
to both tutorials in the same round. Needs PyTorch and pytorch-ood (`make bench-train` installs both).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from images import Known
from pytorch_ood.loss import CACLoss
from pytorch_ood.model import WideResNet
from torch.utils.data import DataLoader

DEMO = Path(__file__).resolve().parent.parent / "examples/demo"
TUTORIAL = DEMO.parent / "tutorial.toml"
BATCH = 64


def pytorch(tuned: bool) -> float:
    torch.manual_seed(123)
    data = Known(DEMO / "cifar-10-batches-bin/data_batch_1.bin")
    loader = DataLoader(data, batch_size=BATCH, shuffle=True)
    model = WideResNet(num_classes=10, depth=40, widen_factor=2, drop_rate=0.3).train()
    if tuned:
        model = model.to(memory_format=torch.channels_last)
    criterion = CACLoss(n_classes=10, magnitude=5, alpha=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(loader))
    average = None
    start = time.perf_counter()
    for x, y in loader:
        if tuned:
            x = x.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=tuned):
            z = model(x)
        loss = criterion(criterion.distance(z.float()), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        average = loss.item() if average is None else 0.99 * average + 0.01 * loss.item()
    return len(data) / (time.perf_counter() - start)


def toolkit(program: Path, *settings: str | Path) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "train", *settings, "--known", DEMO, "--epochs", "1"]
        command += ["--batch-size", str(BATCH), "--run", f"{folder}/run", "--json"]
        output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    events = map(json.loads, output.stdout.splitlines())
    return [event for event in events if event["event"] == "step"][-1]["images_per_second"]


def main(program: Path, rounds: int) -> None:
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {os.cpu_count()} processors")
    runs = {
        "f32": lambda: toolkit(program, "--config", TUTORIAL, "--precision", "f32"),
        "bf16": lambda: toolkit(program, "--config", TUTORIAL, "--precision", "bf16"),
        "default": lambda: toolkit(program, "--precision", "bf16"),
        "tutorial": lambda: pytorch(tuned=False),
        "tuned": lambda: pytorch(tuned=True),
    }
    speeds = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            speeds[name].append(run())
        print("images/s: " + ", ".join(f"{name} {of[-1]:.1f}" for name, of in speeds.items()), flush=True)
    pairs = [("f32", "tutorial"), ("bf16", "tutorial"), ("bf16", "tuned"), ("default", "tutorial"), ("default", "tuned")]
    for ours, theirs in pairs:
        ratios = [a / b for a, b in zip(speeds[ours], speeds[theirs])]
        print(f"{ours} against {theirs}: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 4)
