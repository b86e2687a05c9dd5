#!/usr/bin/env python3
"""Run pytorch-ood's CAC tutorial unchanged, on any images and from any backbone.

    python3 benches/tutorial.py KNOWN UNKNOWN BACKBONE.pt OUT [--epochs 10] [--seed 123] [--tuned]

KNOWN has CIFAR-10's binary files, UNKNOWN images in any folders. BACKBONE is the state dict of a WideResNet-40-2.
Trains on all CPU threads: batch 64, Adam with cosine annealing, magnitude 5, alpha 2, dropout 0.3, no augmentation; in
float32, or with --tuned in bfloat16 autocast and channels-last. Writes OUT/scores.csv for `toolkit metrics`. Saves its
state every few minutes; a second call resumes from there, with the same order of images.
Needs PyTorch and pytorch-ood (benches/requirements.txt).
"""

import csv
import time
from argparse import ArgumentParser
from pathlib import Path

import torch
from images import Known, Unknown
from pytorch_ood.loss import CACLoss
from pytorch_ood.model import WideResNet
from torch.utils.data import ConcatDataset, DataLoader

BATCH = 64
SAVE_EVERY = 300


def main():
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("known", "unknown", "backbone", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=123)
    parser.add_argument("--tuned", action="store_true")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    data = Known(*sorted(args.known.glob("data_batch_*.bin")))
    model = WideResNet(num_classes=10, depth=40, widen_factor=2, drop_rate=0.3)
    backbone = torch.load(args.backbone, map_location="cpu")
    model.load_state_dict({k: v for k, v in backbone.items() if not k.startswith("fc.")}, strict=False)
    model.fc = torch.nn.Linear(model.fc.in_features, 10)
    layout = torch.channels_last if args.tuned else torch.contiguous_format
    model = model.to(memory_format=layout)
    criterion = CACLoss(n_classes=10, magnitude=5, alpha=2)
    optimizer = torch.optim.Adam(model.parameters())
    steps = -(-len(data) // BATCH)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs * steps)

    args.out.mkdir(parents=True, exist_ok=True)
    saved = args.out / "state.pt"
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    epoch, order = 0, []
    if saved.exists():
        state = torch.load(saved)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["random"])
        epoch, order = state["epoch"], state["order"]

    def save(epoch: int, order: list):
        state = {name: part.state_dict() for name, part in parts.items()}
        torch.save({**state, "random": torch.get_rng_state(), "epoch": epoch, "order": order}, f"{saved}.new")
        Path(f"{saved}.new").replace(saved)

    log = (args.out / "log.txt").open("a", buffering=1)
    last_save, average = time.monotonic(), None
    while epoch < args.epochs:
        order = order or torch.randperm(len(data)).tolist()
        model.train()
        for number, (x, y) in enumerate(DataLoader(data, batch_size=BATCH, sampler=order), 1):
            with torch.autocast("cpu", torch.bfloat16, enabled=args.tuned):
                z = model(x.to(memory_format=layout))
            loss = criterion(criterion.distance(z.float()), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            average = loss.item() if average is None else 0.99 * average + 0.01 * loss.item()
            if number % 50 == 0:
                print(f"epoch {epoch + 1} {number} steps, {len(order)} images, loss {average:.4f}", file=log)
            if time.monotonic() > last_save + SAVE_EVERY:
                save(epoch, order[number * BATCH :])
                last_save = time.monotonic()
        epoch, order = epoch + 1, []
        save(epoch, order)

    model.eval()
    tests = ConcatDataset([Known(args.known / "test_batch.bin"), Unknown(args.unknown)])
    with torch.no_grad(), open(args.out / "scores.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["score", "label", "prediction"])
        for x, y in DataLoader(tests, batch_size=BATCH):
            distances = criterion.distance(model(x))
            scores, classes = CACLoss.score(distances), distances.argmin(1)
            rows.writerows(zip(scores.tolist(), y.tolist(), classes.tolist(), strict=True))


if __name__ == "__main__":
    main()
