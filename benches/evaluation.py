#!/usr/bin/env python3
"""Compare the speed of evaluation, and the time to a first score, with PyTorch and ONNX Runtime in Python.

    python3 benches/evaluation.py TOOLKIT KNOWN UNKNOWN [MODEL.onnx...] [--provider NAME]... [--rounds N]

KNOWN is a folder with CIFAR-10's test_batch.bin, UNKNOWN a folder of images. Each round runs, one after the other on
all CPU threads, pytorch-ood's evaluation loop as in its tutorial (WideResNet-40-2, float32, DataLoader, OODMetrics),
and `toolkit eval` with each model on each provider, by default tract and ONNX Runtime. The toolkit's time includes
process start; PyTorch's excludes its imports. Then it scores one image with `toolkit score` and
examples/python/score.py, each as a whole process. Prints images per second, milliseconds, and ratios within a
round. Needs PyTorch, pytorch-ood and onnxruntime (`make bench-eval` installs them).
"""

import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from statistics import median

import onnxruntime
import torch
from images import Known, Unknown
from pytorch_ood.loss import CACLoss
from pytorch_ood.metrics import OODMetrics
from pytorch_ood.model import WideResNet
from torch.utils.data import ConcatDataset, DataLoader

ROOT = Path(__file__).resolve().parent.parent
EXPORTED = ROOT / "exported/cifar10-wrn-40-2.onnx"


def pytorch(known: Path, unknown: Path) -> float:
    model = WideResNet(num_classes=10, depth=40, widen_factor=2, drop_rate=0.3).eval()
    criterion = CACLoss(n_classes=10, magnitude=5, alpha=2)
    start = time.perf_counter()
    loader = DataLoader(ConcatDataset([Known(known / "test_batch.bin"), Unknown(unknown)]), batch_size=64)
    metrics = OODMetrics()
    with torch.no_grad():
        for x, y in loader:
            metrics.update(CACLoss.score(criterion.distance(model(x))), y)
    metrics.compute()
    return time.perf_counter() - start


def seconds(command: list) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def compare(runs: dict, base: str, rounds: int, show) -> None:
    """Time every run in every round; print the medians and their ratios to the base."""
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(run())
            print(f"{name}: {show(times[name][-1])}", file=sys.stderr, flush=True)
    for name, of in times.items():
        ratios = [theirs / ours for theirs, ours in zip(times[base], of)]
        ratio = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:40} {show(median(of)):>20}   {ratio} times {base}", flush=True)


def main(program: Path, known: Path, unknown: Path, models: list[Path], providers: list[str], rounds: int) -> None:
    count = len(Known(known / "test_batch.bin")) + len(Unknown(unknown))
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}")
    evaluate = [program, "eval", "--known", known, "--unknown", f"unknown={unknown}", "--resamples", "0"]
    runs = {"pytorch-ood": lambda: pytorch(known, unknown)}
    for model in models:
        for provider in providers:
            command = [*evaluate, "--provider", provider, model]
            runs[f"{model.stem} on {provider}"] = lambda command=command: seconds(command)
    compare(runs, "pytorch-ood", rounds, lambda time: f"{count / time:.0f} images/s")

    image = next(iter(Unknown(unknown).files))
    score = [program, "score", image]
    runs = {
        "Python": lambda: seconds([sys.executable, ROOT / "examples/python/score.py", EXPORTED, image]),
        "toolkit on cpu": lambda: seconds([*score, "--provider", "cpu"]),
        "toolkit on onnxruntime": lambda: seconds([*score, "--provider", "onnxruntime"]),
    }
    compare(runs, "Python", rounds, lambda time: f"{1000 * time:.0f} ms")


if __name__ == "__main__":
    parser = ArgumentParser()
    for name in ("toolkit", "known", "unknown"):
        parser.add_argument(name, type=Path)
    parser.add_argument("models", type=Path, nargs="*", default=[EXPORTED])
    parser.add_argument("--provider", action="append")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    providers = args.provider or ["cpu", "onnxruntime"]
    main(args.toolkit.resolve(), args.known, args.unknown, args.models, providers, args.rounds)
