#!/usr/bin/env python3
"""Compare the training speed of the toolkit with PyTorch.

    python3 benches/training.py TOOLKIT [--known DIR] [--device cuda] [--batch-size N] [--rounds N]

Each round trains, one after the other, a WideResNet-40-2 with pytorch-ood's CAC loss for one epoch, on all CPU threads
or a GPU, data loading included: the toolkit in float32 and in bfloat16 with the tutorial's settings, and with its
defaults, which add 25 % outliers to each step; pytorch-ood's tutorial unchanged (PyTorch eager), and tuned with
channels-last and bfloat16 autocast. The images are the demo's, or those of CIFAR-10's binary files in DIR. Prints the
known images per second of each, and the toolkit's ratios to both tutorials in the same round. Needs PyTorch and
pytorch-ood (`make bench-train` installs both).
"""

import json
import os
import subprocess
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path
from statistics import median

import torch
from images import Known
from pytorch_ood.loss import CACLoss
from pytorch_ood.model import WideResNet
from torch.utils.data import DataLoader

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TUTORIAL = EXAMPLES / "tutorial.toml"


def pytorch(args, tuned: bool) -> float:
    torch.manual_seed(123)
    data = Known(*sorted(args.known.glob("data_batch_*.bin")))
    loader = DataLoader(data, batch_size=args.batch_size, shuffle=True)
    model = WideResNet(num_classes=10, depth=40, widen_factor=2, drop_rate=0.3).train().to(args.device)
    if tuned:
        model = model.to(memory_format=torch.channels_last)
    criterion = CACLoss(n_classes=10, magnitude=5, alpha=2).to(args.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(loader))
    average = None
    start = time.perf_counter()
    for x, y in loader:
        x, y = x.to(args.device), y.to(args.device)
        if tuned:
            x = x.to(memory_format=torch.channels_last)
        with torch.autocast(args.device, torch.bfloat16, enabled=tuned):
            z = model(x)
        loss = criterion(criterion.distance(z.float()), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        average = loss.item() if average is None else 0.99 * average + 0.01 * loss.item()
    return len(data) / (time.perf_counter() - start)


def toolkit(args, *settings: str | Path) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [args.toolkit, "train", *settings, "--known", args.known, "--epochs", "1", "--device", args.device]
        command += ["--batch-size", str(args.batch_size), "--run", f"{folder}/run", "--json"]
        output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    events = map(json.loads, output.stdout.splitlines())
    return [event for event in events if event["event"] == "step"][-1]["images_per_second"]


def main() -> None:
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("toolkit", type=lambda path: Path(path).resolve())
    parser.add_argument("--known", type=Path, default=EXAMPLES / "demo/cifar-10-batches-bin")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()

    device = torch.cuda.get_device_name() if args.device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{device}, torch {torch.__version__}, {os.cpu_count()} processors, batch {args.batch_size}")
    runs = {
        "f32": lambda: toolkit(args, "--config", TUTORIAL, "--precision", "f32"),
        "bf16": lambda: toolkit(args, "--config", TUTORIAL, "--precision", "bf16"),
        "default": lambda: toolkit(args, "--precision", "bf16"),
        "tutorial": lambda: pytorch(args, tuned=False),
        "tuned": lambda: pytorch(args, tuned=True),
    }
    speeds = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            speeds[name].append(run())
        print("images/s: " + ", ".join(f"{name} {of[-1]:.1f}" for name, of in speeds.items()), flush=True)
    pairs = [("f32", "tutorial"), ("bf16", "tutorial"), ("bf16", "tuned"), ("default", "tutorial"), ("default", "tuned")]
    for ours, theirs in pairs:
        ratios = [a / b for a, b in zip(speeds[ours], speeds[theirs])]
        print(f"{ours} against {theirs}: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
