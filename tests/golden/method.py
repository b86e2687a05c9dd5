#!/usr/bin/env python3
"""Make the golden numbers of the method with PyTorch and pytorch-ood: method.safetensors.

    python3 method.py

float64 unless stated. C is 2 or 5. V is `paper` (magnitude 10, lambda 0.1) or `pytorch_ood` (magnitude 5,
alpha 2).

cC.logits [N, C], cC.labels [N] int64    values that float32 can represent; negative labels are unknown
cC.distances [N, C]                      Euclidean, to the anchors of magnitude 10
cC.V.loss, .losses [N], .gradient [N, C] of the batch; of each row alone (unknown: 0); of the batch loss
cC.score.cac, .min_distance [N]          rejection scores with the anchors of magnitude 10
cC.score.pytorch_ood [N]                 the same of pytorch-ood, with the anchors of magnitude 5
cC.score.msp, .max_logit, .energy [N]    rejection scores of the logits alone, temperature 1
cC.score.energy_5 [N]                    the energy at temperature 5
wrn.logits.eval, .train [4, 10]          float32, of the filled WideResNet-40-2 for 4 images with running and
                                         with batch statistics; the names ending in 64 are computed in float64
wrn.running_mean.after, _var.after [16]  of block1.layer.0.bn1 after that pass in train mode, in both types
trajectory.V.losses [20]                 float32, before each of 20 steps of 8 images with Adam and cosine annealing;
                                         trajectory.V.losses64 computed in float64
trajectory.learning_rates [20]           of each step

No weights are stored: `fill` makes them from names. The script prints how far rounding alone drives the float32
trajectories apart; in float64 the order of summation changes the losses by 1e-14.
"""
import math
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from pytorch_ood.detector import EnergyBased, MaxLogit, MaxSoftmax
from pytorch_ood.loss import CACLoss
from pytorch_ood.model import WideResNet
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import one_hot, softmin

from fill import random

HERE = Path(__file__).resolve().parent
STEPS, BATCH, CLASSES = 20, 8, 10


def uniform(name: str, shape: tuple[int, ...]) -> Tensor:
    """In [0, 1), float64."""
    return torch.from_numpy((random(name, math.prod(shape)) >> np.uint64(11)) * 2.0**-53).reshape(shape)


def signed(name: str, shape: tuple[int, ...]) -> Tensor:
    """In [-1, 1), float64."""
    return 2 * uniform(name, shape) - 1


@torch.no_grad()
def fill(model: nn.Module) -> nn.Module:
    """Fills weights and statistics from their names, in float64 rounded to the model's type."""
    for name, module in model.named_modules():
        match module:
            case nn.Conv2d(weight=weight):
                scale = math.sqrt(6 / (weight.shape[2] * weight.shape[3] * weight.shape[0]))
                weight.copy_(signed(f"{name}.weight", weight.shape) * scale)
            case nn.BatchNorm2d(weight=weight):
                module.weight.copy_(0.5 + uniform(f"{name}.weight", weight.shape))
                module.bias.copy_(signed(f"{name}.bias", weight.shape) * 0.5)
                module.running_mean.copy_(signed(f"{name}.running_mean", weight.shape) * 0.5)
                module.running_var.copy_(0.5 + 1.5 * uniform(f"{name}.running_var", weight.shape))
            case nn.Linear(weight=weight, bias=bias):
                weight.copy_(signed(f"{name}.weight", weight.shape) / math.sqrt(weight.shape[1]))
                bias.copy_(signed(f"{name}.bias", bias.shape) * 0.1)
    return model


def image_bytes(count: int) -> Tensor:
    """Bytes [N, 3, 32, 32]."""
    return torch.from_numpy((random("pictures", count * 3072) % 256).astype(np.uint8)).reshape(-1, 3, 32, 32)


def normalised(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The input of a network."""
    return (images.to(dtype) / 255 - 0.5) / 0.5


def distances(logits: Tensor) -> Tensor:
    anchors = 10 * torch.eye(logits.shape[1], dtype=logits.dtype)
    return torch.linalg.vector_norm(logits[:, None] - anchors, dim=2)


def paper(logits: Tensor, labels: Tensor) -> Tensor:
    if not (labels >= 0).any():
        return logits.sum() * 0
    d, labels = distances(logits[labels >= 0]), labels[labels >= 0]
    true = d.gather(1, labels[:, None])
    others = (true - d).exp() * (1 - one_hot(labels, d.shape[1]))
    return others.sum(1).log1p().mean() + 0.1 * true.mean()


def pytorch_ood(logits: Tensor, labels: Tensor) -> Tensor:
    criterion = CACLoss(n_classes=logits.shape[1], magnitude=5, alpha=2).to(logits.dtype)
    return criterion(criterion.distance(logits), labels)


LOSSES = {"paper": paper, "pytorch_ood": pytorch_ood}


def cases(classes: int) -> tuple[Tensor, Tensor]:
    """Logits and labels."""
    noise, unit, ones = signed(f"c{classes}.logits", (12, classes)), torch.eye(classes), torch.ones(classes)
    last, ends = classes - 1, (0, classes - 1)
    rows = [
        *((8 * noise[i], i % classes) for i in range(5)),
        *((magnitude * unit[c], c) for magnitude in (5, 10) for c in ends),  # on their own anchor
        *((magnitude * unit[c], last - c) for magnitude in (5, 10) for c in ends),  # on a wrong one
        *((norm * noise[5 + i] / noise[5 + i].norm(), i % classes) for i, norm in enumerate((1e2, 1e3, 1e4))),
        *((scale * unit[0], c) for scale in (30, 1e4, -1e4) for c in ends),
        *((scale * ones, c) for scale in (0, 3, -100) for c in ends),  # equidistant, and first the origin
        *((5 * (unit[0] + unit[last]), c) for c in ends),  # halfway between two anchors
        (8 * noise[8], -1), (10 * unit[0], -2), (1e3 * noise[9], -7),  # unknown
    ]
    return torch.stack([row for row, _ in rows]).float().double(), torch.tensor([label for _, label in rows])


def method(classes: int) -> Iterator[tuple[str, Tensor]]:
    logits, labels = cases(classes)
    d = distances(logits)
    criterion = CACLoss(n_classes=classes, magnitude=5).double()
    yield from {"logits": logits, "labels": labels, "distances": d}.items()
    for variant, loss in LOSSES.items():
        z = logits.clone().requires_grad_()
        value = loss(z, labels)
        value.backward()
        yield f"{variant}.loss", value.detach()
        yield f"{variant}.losses", torch.stack([loss(*row) for row in zip(logits.split(1), labels.split(1))])
        yield f"{variant}.gradient", z.grad
    yield "score.cac", (d * (1 - softmin(d, dim=1))).min(1).values
    yield "score.min_distance", d.min(1).values
    yield "score.pytorch_ood", CACLoss.score(criterion.distance(logits))
    yield "score.msp", MaxSoftmax.score(logits)
    yield "score.max_logit", MaxLogit.score(logits)
    yield "score.energy", EnergyBased.score(logits)
    yield "score.energy_5", EnergyBased.score(logits, t=5.0)


def network(dtype: torch.dtype) -> nn.Module:
    return fill(WideResNet(num_classes=CLASSES, depth=40, widen_factor=2, drop_rate=0.0)).to(dtype)


@torch.no_grad()
def forward(dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    model, images = network(dtype), normalised(image_bytes(4), dtype)
    yield "logits.eval", model.eval()(images)
    yield "logits.train", model.train()(images)
    yield "running_mean.after", model.block1.layer[0].bn1.running_mean
    yield "running_var.after", model.block1.layer[0].bn1.running_var


def trajectory(loss, dtype=torch.float32, memory_format=torch.contiguous_format) -> tuple[Tensor, Tensor]:
    """The losses before each step, and the learning rates."""
    model = network(dtype).to(memory_format=memory_format).train()
    images = normalised(image_bytes(STEPS * BATCH), dtype).contiguous(memory_format=memory_format)
    labels = torch.arange(STEPS * BATCH) % CLASSES
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
    losses, rates = [], []
    for batch in zip(images.split(BATCH), labels.split(BATCH)):
        value = loss(model(batch[0]), batch[1])
        optimizer.zero_grad()
        value.backward()
        losses.append(value.detach())
        rates += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    return torch.stack(losses), torch.tensor(rates, dtype=torch.float64)


def save(tensors: dict[str, Tensor], path: Path) -> None:
    """Save with the package versions, under one key because the order of several varies."""
    packages = ["torch", "numpy", "pytorch-ood", "safetensors"]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"versions": versions})


def main() -> None:
    tensors = {f"c{c}.{name}": tensor for c in (2, 5) for name, tensor in method(c)}
    for suffix, dtype in (("", torch.float32), ("64", torch.float64)):
        tensors |= {f"wrn.{name}{suffix}": tensor.clone() for name, tensor in forward(dtype)}
    for variant, loss in LOSSES.items():
        single, tensors["trajectory.learning_rates"] = trajectory(loss)
        double, _ = trajectory(loss, torch.float64)
        channels_last, _ = trajectory(loss, memory_format=torch.channels_last)
        tensors |= {f"trajectory.{variant}.losses": single, f"trajectory.{variant}.losses64": double}
        print(f"{variant}: loss; relative differences of float64 and of channels-last from float32")
        for step, (s, d, c) in enumerate(zip(single.tolist(), double.tolist(), channels_last.tolist())):
            print(f"{step:2} {s:12.6f} {abs(d - s) / s:8.1e} {abs(c - s) / s:8.1e}")
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    save(tensors, HERE / "method.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    main()
