#!/usr/bin/env python3
"""Write any classifier of PyTorch as a model file of the toolkit: the network, its energy as the rejection score, and
what the toolkit reads. `toolkit recalibrate` then gives it a threshold with a guarantee, from known images that had no
other use.

    pip install numpy onnx onnxscript timm torch
    python3 wrap.py vit_tiny_patch16_224.augreg_in21k_ft_in1k wrapped.onnx --classes names.txt
    toolkit recalibrate wrapped.onnx model.onnx --known PHOTOGRAPHS

The command takes networks of timm, with their weights. For others call `write`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

# The length of the anchors. It changes the distances alone: the nearest anchor is that of the largest logit.
MAGNITUDE = 10.0


class OpenSet(nn.Module):
    """Images in 0..=1, `[N, 3, H, W]`, to the outputs of a model file."""

    def __init__(self, network: nn.Module, classes: int, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.network = network
        # Until a threshold is chosen, every image is known.
        self.threshold = nn.Parameter(torch.tensor(torch.finfo(torch.float32).max))
        self.anchors = nn.Parameter(MAGNITUDE * torch.eye(classes))
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        logits = self.network((images - self.mean) / self.std)
        # |z - a|² = |z|² - 2 z·a + |a|²
        squared = (logits**2).sum(1, keepdim=True) - 2 * logits @ self.anchors.T + (self.anchors**2).sum(1)
        score = -torch.logsumexp(logits, 1)
        return logits, squared.relu().sqrt(), score, logits.argmax(1), torch.logical_not(score <= self.threshold)


def write(
    network: nn.Module,
    path: Path,
    classes: Sequence[str],
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    resize: dict[str, str | float],
) -> None:
    """Writes a network that maps normalised images, RGB `[N, 3, height, width]`, to logits `[N, C]`. `resize` is that
    of `cac.input`, for example `{"fit": "crop", "share": 0.875, "filter": "bicubic"}`."""
    wrapped = OpenSet(network, len(classes), mean, std).eval()
    height, width = size
    torch.onnx.export(
        wrapped,
        (torch.rand(2, 3, height, width),),
        path,
        input_names=["images"],
        output_names=["logits", "distances", "score", "label", "unknown"],
        dynamic_shapes={"images": {0: torch.export.Dim("N")}},
        opset_version=18,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    model = onnx.load(path)
    input = {"height": height, "width": width, "mean": list(mean), "std": list(std), "resize": resize}
    properties = {"format_version": 2, "classes": list(classes), "input": input, "score": "energy"}
    for name, value in properties.items():
        model.metadata_props.add(key=f"cac.{name}", value=json.dumps(value))
    onnx.save(model, path)


def main() -> None:
    import timm

    parser = argparse.ArgumentParser(description="Write a classifier of timm as a model file.")
    parser.add_argument("network", help="name of the network in timm, with that of its weights")
    parser.add_argument("model", type=Path, help="the file to write")
    parser.add_argument("--classes", type=Path, help="text file with the name of a class per line; by default numbers")
    parser.add_argument("--weights", type=Path, help="state dict of a fine-tuned network, in place of the published weights")
    parser.add_argument("--count", type=int, help="number of classes of --weights")
    args = parser.parse_args()
    network = timm.create_model(args.network, pretrained=args.weights is None, num_classes=args.count)
    if args.weights:
        network.load_state_dict(torch.load(args.weights, map_location="cpu", weights_only=True))
    data = timm.data.resolve_model_data_config(network)
    names = args.classes.read_text().splitlines() if args.classes else [str(k) for k in range(network.num_classes)]
    if len(names) != network.num_classes:
        raise SystemExit(f"{args.classes}: {len(names)} names for {network.num_classes} classes")
    match data["crop_mode"], data["crop_pct"]:
        case "center", share:
            resize = {"fit": "crop", "share": share, "filter": data["interpolation"]}
        case "squash", 1.0:
            resize = {"fit": "stretch", "filter": data["interpolation"]}
        case mode, share:
            raise SystemExit(f"{args.network}: its images are fitted by `{mode}` with {share}, which a model file cannot state")
    write(network, args.model, names, data["input_size"][1:], data["mean"], data["std"], resize)


if __name__ == "__main__":
    main()
