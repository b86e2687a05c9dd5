#!/usr/bin/env python3
"""Make small checkpoints in the layouts of published ones, with PyTorch and pytorch-ood: checkpoints/.

    python3 checkpoints.py

cac-zip.pth       the official CAC network, narrow, 6 classes: {net, acc, epoch} with `anchors` near 10 I
cac-legacy.pth    the same network before PyTorch 1.6: `means` 10 I, `covars` and `invcovars` for `anchors`
cac-zero.pth      the same network, whose anchors were never set
wrn.pt            the state dict of a WideResNet-10-1 with 3 classes
wrn-module.pt     the same from DataParallel, in {state_dict}, before PyTorch 1.6
wrn-pixmix.pt     the same in half precision with the shortcut's other name
strided.pt        tensors of many types, two of them views of one storage; strided.safetensors has their values
                  as contiguous float32
evil.pt           runs a command if its pickle is executed; evil-legacy.pt: the same, before PyTorch 1.6
expected.safetensors
    pictures [4, 3, 32, 32]            float32, 0..=1, before normalisation with mean = std = 0.5
    cac.logits [4, 6], wrn.logits, wrn-pixmix.logits [4, 3]
                                         float32, in evaluation mode; the last with weights rounded to half

Weights are `fill`ed from their names. All tensors are marked as saved from cuda:0, like published ones.
"""
import os
from pathlib import Path

import numpy as np
import torch
from pytorch_ood.model import WideResNet
from torch import Tensor, nn

from method import fill, image_bytes, normalised, save, signed

HERE = Path(__file__).resolve().parent / "checkpoints"
CLASSES = 6
WIDTHS = [3, 8, 8, 16, 16, 16, 16, 16, 16, 16]


class Encoder(nn.Module):
    """Registers every layer under two names, like the official one."""

    def __init__(self) -> None:
        super().__init__()
        for i in range(1, 10):
            self.add_module(f"bn{i}", nn.BatchNorm2d(WIDTHS[i]))
        for i in range(1, 10):
            stride = 2 if i % 3 == 0 else 1
            self.add_module(f"conv{i}", nn.Conv2d(WIDTHS[i - 1], WIDTHS[i], 3, stride, 1, bias=False))
        for group in range(3):
            layers = [
                layer
                for i in range(3 * group + 1, 3 * group + 4)
                for layer in (getattr(self, f"conv{i}"), getattr(self, f"bn{i}"), nn.LeakyReLU(0.2))
            ]
            self.add_module(f"encoder{group + 1}", nn.Sequential(*layers, nn.Dropout2d(0.2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder3(self.encoder2(self.encoder1(x)))


class Classifier(nn.Module):
    """The official network with these extra tensors in its state dict."""

    def __init__(self, **extra: Tensor) -> None:
        super().__init__()
        for name, tensor in extra.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
        self.encoder = Encoder()
        self.classify = nn.Linear(WIDTHS[-1] * 4 * 4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.encoder(x).flatten(1))


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/owned",)


def write(content: object, name: str, legacy: bool = False) -> None:
    torch.save(content, HERE / name, _use_new_zipfile_serialization=not legacy)


@torch.no_grad()
def main() -> None:
    HERE.mkdir(exist_ok=True)
    images = image_bytes(4) / 255
    expected = {"pictures": images}

    def logits(model: nn.Module) -> Tensor:
        return model.eval()(normalised(image_bytes(4)))

    identity = 10 * torch.eye(CLASSES, dtype=torch.float64)
    anchors = identity + signed("anchors", identity.shape)
    covariances = torch.eye(CLASSES, dtype=torch.float64).repeat(CLASSES, 1, 1)
    for name, acc, extra in (
        ("cac-zip", np.float64(93.75), {"anchors": anchors}),
        ("cac-legacy", 93.75, {"means": identity, "covars": 4 * covariances, "invcovars": covariances / 4}),
        ("cac-zero", np.float64(93.75), {"anchors": torch.zeros_like(identity)}),
    ):
        network = fill(Classifier(**extra))
        expected["cac.logits"] = logits(network)
        write({"net": network.state_dict(), "acc": acc, "epoch": 7}, f"{name}.pth", "legacy" in name)

    network = fill(WideResNet(num_classes=3, depth=10, widen_factor=1))
    expected["wrn.logits"] = logits(network)
    write(network.state_dict(), "wrn.pt")
    write({"state_dict": nn.DataParallel(network).state_dict()}, "wrn-module.pt", legacy=True)
    expected["wrn-pixmix.logits"] = logits(network.half().float())
    state = network.half().state_dict().items()
    write({name.replace("convShortcut", "conv_shortcut"): tensor for name, tensor in state}, "wrn-pixmix.pt")
    save(expected, HERE / "expected.safetensors")

    numbers = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "a": numbers.t(),
        "b": numbers[1:3, 2:5],
        "c": nn.Parameter(torch.tensor([0.5, -1.5])),
        "d": torch.tensor([1.0, -2.5, 3e38], dtype=torch.bfloat16),
        "e": torch.tensor([[-1, 7], [1 << 20, 0]]),
        "f": torch.tensor(0.25),
        "g": torch.empty(0, 3),
    }
    write(tensors, "strided.pt")
    save({name: tensor.detach().float() for name, tensor in tensors.items()}, HERE / "strided.safetensors")
    write({"state_dict": Evil()}, "evil.pt")
    write({"state_dict": Evil()}, "evil-legacy.pt", legacy=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.serialization.register_package(0, lambda storage: "cuda:0", lambda storage, location: None)
    main()
