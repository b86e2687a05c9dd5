#!/usr/bin/env python3
"""Make the golden logits of large networks with timm: families.safetensors.

    python3 families.py

NAME.HEIGHTxWIDTH [2, 5]    float64, of timm's NAME with 5 classes in evaluation mode, for 2 images of this size

No weights are stored: `fill` makes them from names, as fill.rs does with `Scale::Inputs`. The script prints how much the
logits depend on the images, on the padding and on the epsilon of batch normalisation: a network that is built
differently must not pass.
"""
import math
from importlib.metadata import version
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn

from fill import random
from method import save, signed, uniform

HERE = Path(__file__).resolve().parent
CASES = [
    ("resnet18", 97, 129),
    ("resnet50", 65, 97),
    ("wide_resnet50_2", 64, 64),
    ("tf_efficientnet_lite0", 224, 224),
    ("tf_efficientnet_lite1", 97, 130),
    ("tf_efficientnet_lite2", 97, 97),
    ("tf_efficientnet_lite3", 129, 64),
    ("tf_efficientnet_lite4", 99, 81),
]


@torch.no_grad()
def fill(model: nn.Module) -> nn.Module:
    """Fills weights and statistics from their names, in float64."""
    for name, module in model.named_modules():
        match module:
            case nn.Conv2d(weight=weight):
                scale = math.sqrt(6 / weight[0].numel())
                weight.copy_((signed(f"{name}.weight", weight.shape) * scale).float())
            case nn.BatchNorm2d(weight=weight):
                module.weight.copy_((0.5 + uniform(f"{name}.weight", weight.shape)).float())
                module.bias.copy_((signed(f"{name}.bias", weight.shape) * 0.5).float())
                module.running_mean.copy_((signed(f"{name}.running_mean", weight.shape) * 0.5).float())
                module.running_var.copy_((0.5 + 1.5 * uniform(f"{name}.running_var", weight.shape)).float())
            case nn.Linear(weight=weight, bias=bias):
                weight.copy_((signed(f"{name}.weight", weight.shape) / math.sqrt(weight.shape[1])).float())
                bias.copy_((signed(f"{name}.bias", bias.shape) * 0.1).float())
    return model


def images(height: int, width: int) -> Tensor:
    """Two images of bytes from a formula, in 0..=1 as float32 rounds them."""
    pictures = random("pictures", 2 * 3 * height * width) % 256
    return (torch.from_numpy(pictures.astype(np.float32)).reshape(2, 3, height, width) / 255).double()


@torch.no_grad()
def main() -> None:
    tensors = {}
    for name, height, width in CASES:
        model = fill(timm.create_model(name, num_classes=5).double()).eval()
        mean, std = (torch.tensor(model.pretrained_cfg[key]).float().double().view(3, 1, 1) for key in ("mean", "std"))
        x = (images(height, width) - mean) / std
        logits = model(x)
        tensors[f"{name}.{height}x{width}"] = logits
        shifted = model(x.roll((1, 1), (2, 3)))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps *= 1.1
        changes = [logits[0] - logits[1], logits - shifted, logits - model(x)]
        largest = [f"{(change.abs() / logits.abs().clamp(min=1)).max():.1e}" for change in changes]
        print(name, f"{logits.abs().max():.1f}", *largest)
    save(tensors, HERE / "families.safetensors")


if __name__ == "__main__":
    main()
