#!/usr/bin/env python3
"""Write a classifier of PyTorch as a model file of the toolkit: the network, its energy as the rejection score, and
what the toolkit reads. `toolkit recalibrate` then gives it a threshold with a guarantee, from known images that had no
other use.

    pip install numpy onnx onnxscript timm torch
    python3 wrap.py vit_tiny_patch16_224.augreg_in21k_ft_in1k wrapped.onnx --classes names.txt
    toolkit recalibrate wrapped.onnx model.onnx --known PHOTOGRAPHS

The command takes networks of timm, with their weights or with those of `--weights`. For others call `write`. A network
maps RGB images to one tensor of logits, for two classes or more, without control flow that depends on the data.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import onnx
import torch
from torch import Tensor, nn

# The length of the anchors. It changes the distances alone: the nearest anchor is that of the largest logit.
MAGNITUDE = 10.0
FITS = ("crop", "pad", "stretch")
FILTERS = ("bilinear", "bicubic")
SIZES = range(8, 4097)


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
    """Writes a network that maps normalised images, RGB `[N, 3, height, width]`, to logits `[N, C]`. `classes` are in
    the order of the logits. `resize` is that of `cac.input`, for example
    `{"fit": "crop", "share": 0.875, "filter": "bicubic"}`. Raises ValueError if the toolkit would refuse the file."""
    check_settings(classes, size, mean, std, resize)
    height, width = size
    network = network.eval()
    with torch.no_grad():
        logits = network(torch.zeros(2, 3, height, width))
    if not isinstance(logits, Tensor) or logits.shape != (2, len(classes)):
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"for 2 images and {len(classes)} classes the network returns {found}, expected [2, {len(classes)}]")
    torch.onnx.export(
        OpenSet(network, len(classes), mean, std).eval(),
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
    properties = {"format_version": 2, "classes": list(classes), "input": input, "score": "energy", "producer": "wrap.py"}
    for name, value in properties.items():
        model.metadata_props.add(key=f"cac.{name}", value=json.dumps(value))
    onnx.save(model, path)


def check_settings(
    classes: Sequence[str],
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    resize: dict[str, str | float],
) -> None:
    """Raises ValueError for what the toolkit refuses in a model file."""
    if len(classes) < 2:
        raise ValueError(f"{len(classes)} classes, expected two or more")
    if len(set(classes)) < len(classes) or {name.strip().lower() for name in classes} & {"", "unknown"}:
        raise ValueError("the names of the classes must differ, and none may be empty or `unknown`")
    if not all(side in SIZES for side in size):
        raise ValueError(f"size {size[0]} x {size[1]}: must be {SIZES[0]} to {SIZES[-1]} pixels")
    is_rgb = len(mean) == len(std) == 3
    if not is_rgb or not all(0 <= value <= 1 for value in mean) or not all(0 < value <= 1 for value in std):
        raise ValueError(f"mean {list(mean)}, std {list(std)}: they are those of pixels in 0 to 1, for red, green and blue")
    if resize.get("fit") not in FITS or resize.get("filter") not in FILTERS:
        raise ValueError(f"resize {resize}: `fit` is one of {', '.join(FITS)}, `filter` one of {', '.join(FILTERS)}")
    if (resize["fit"] == "crop") != ("share" in resize) or not 0 < resize.get("share", 1) <= 1:
        raise ValueError(f"resize {resize}: `crop` alone has a `share`, above 0, at most 1")


def state_dict(path: Path) -> dict[str, Tensor]:
    """The weights in a file of PyTorch, also within a checkpoint or DataParallel."""
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        loaded = loaded.get(key, loaded)
    return {name.removeprefix("module."): value for name, value in loaded.items()}


def numbers(text: str) -> tuple[float, ...]:
    """Three numbers, for red, green and blue."""
    values = tuple(float(value) for value in text.split(","))
    if len(values) != 3:
        raise ValueError(text)
    return values


def main() -> None:
    import timm

    parser = argparse.ArgumentParser(description="Write a classifier of timm as a model file.")
    parser.add_argument("network", help="name of the network in timm, with that of its weights")
    parser.add_argument("model", type=Path, help="the file to write")
    parser.add_argument(
        "--classes", type=Path, help="names of the classes in the order of the outputs, one per line; by default numbers"
    )
    parser.add_argument("--weights", type=Path, help="state dict of a fine-tuned network, in place of the published weights")
    parser.add_argument("--count", type=int, help="number of classes of --weights")
    parser.add_argument("--size", type=int, help="height and width; by default those of the published weights, as the rest")
    parser.add_argument("--mean", type=numbers, help="mean of the pixels in 0 to 1: R,G,B")
    parser.add_argument("--std", type=numbers, help="standard deviation of the pixels: R,G,B")
    resize = '{"fit": "crop", "share": 0.875, "filter": "bicubic"}'
    parser.add_argument("--resize", type=json.loads, help=f"as in `cac.input`, such as {resize}")
    args = parser.parse_args()
    if (args.weights is None) != (args.count is None):
        parser.error("give both --weights and --count, or neither: the published weights have their own classes")
    settings = {"pretrained": args.weights is None, "num_classes": args.count}
    try:
        # Transformers are made for one size.
        network = timm.create_model(args.network, img_size=args.size, **settings)
    except TypeError:
        network = timm.create_model(args.network, **settings)
    if args.weights:
        try:
            network.load_state_dict(state_dict(args.weights))
        except UnpicklingError:
            parser.error(f"{args.weights}: it holds more than tensors, or is damaged: save the state dict alone")
        except (OSError, RuntimeError) as error:
            parser.error(f"{args.weights}: {' '.join(str(error).split())[:400]}")
    data = timm.data.resolve_model_data_config(network)
    names = [str(number) for number in range(network.num_classes)]
    if args.classes:
        try:
            names = args.classes.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            parser.error(f"{args.classes}: {error}")
    resize = args.resize
    if resize is None:
        match data["crop_mode"], data["crop_pct"]:
            case "center", share:
                resize = {"fit": "crop", "share": share, "filter": data["interpolation"]}
            case "squash", 1.0:
                resize = {"fit": "stretch", "filter": data["interpolation"]}
            case mode, share:
                cannot = f"fits images by `{mode}` with {share}, which a model file cannot state"
                parser.error(f"{args.network} {cannot}: give --resize")
    size = tuple(data["input_size"][1:]) if args.size is None else (args.size, args.size)
    mean, std = args.mean or data["mean"], args.std or data["std"]
    print(f"images: {size[0]} x {size[1]}, {json.dumps(resize)}, mean {list(mean)}, std {list(std)}")
    try:
        write(network, args.model, names, size, mean, std, resize)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
