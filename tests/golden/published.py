#!/usr/bin/env python3
"""List the published weights of pytorch-ood, timm and torchvision, as in these packages: published.jsonl.

    python3 published.py

One line for each file, with what its package states: the address, the SHA-256 or its first digits, how images are
resized and normalised, the classes, the licence and the source. `bytes` is that of all tensors, from a network of the
package with random weights, or the size that torchvision states in MiB with three decimals. Needs pytorch-ood, timm and
torchvision.
"""
import json
import math
import pathlib
import re

import timm
import torch
from pytorch_ood.model import registry
from timm.models import get_pretrained_cfg
from torchvision.models import get_model_weights

RESNETS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
WIDE = ["wide_resnet50_2", "wide_resnet101_2"]
TIMM = [
    *(f"{name}.a1_in1k" for name in RESNETS),
    *(f"{name}.tv2_in1k" for name in WIDE),
    *(f"tf_efficientnet_lite{member}.in1k" for member in range(5)),
]


def tensor_bytes(network: torch.nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())


def of_pytorch_ood(entry: registry.ModelEntry) -> dict[str, object]:
    images = entry.preprocessing
    network = registry._resolve_class(entry.arch_class)(**entry.arch_kwargs)
    crop = images.crop_size or images.size
    return {
        "name": entry.key,
        "url": entry.url,
        "sha256": entry.sha256,
        "size": crop[0],
        "resized": images.size[0],
        "fit": "crop" if images.crop_size else "stretch",
        "filter": "bilinear",
        "mean": images.mean,
        "std": images.std,
        "classes": entry.arch_kwargs["num_classes"],
        "source": entry.source,
        "bytes": tensor_bytes(network),
    }


def of_timm(name: str) -> dict[str, object]:
    cfg = get_pretrained_cfg(name)
    size = cfg.input_size[1]
    assert cfg.crop_mode == "center"
    return {
        "name": cfg.hf_hub_id,
        # As timm does if an entry names no revision.
        "url": f"https://huggingface.co/{cfg.hf_hub_id}/resolve/main/{cfg.hf_hub_filename or 'model.safetensors'}",
        "size": size,
        "resized": math.floor(size / cfg.crop_pct),
        "share": cfg.crop_pct,
        "fit": "crop",
        "filter": cfg.interpolation,
        "mean": cfg.mean,
        "std": cfg.std,
        "classes": cfg.num_classes,
        "licence": cfg.license,
        "bytes": tensor_bytes(timm.create_model(name, pretrained=False)),
    }


def of_torchvision(name: str, weights: object) -> dict[str, object]:
    transform = weights.transforms()
    assert transform.antialias
    return {
        "name": f"torchvision/{name}/{weights.name.lower().replace('_', '-')}",
        "url": weights.url,
        "sha256": re.search("-([0-9a-f]{8})[.]pth$", weights.url)[1],
        "size": transform.crop_size[0],
        "resized": transform.resize_size[0],
        "fit": "crop",
        "filter": transform.interpolation.value,
        "mean": transform.mean,
        "std": transform.std,
        "classes": len(weights.meta["categories"]),
        "mebibytes": weights.meta["_file_size"],
    }


def main() -> None:
    entries = [
        *map(of_pytorch_ood, registry._ENTRIES),
        *map(of_timm, TIMM),
        *(of_torchvision(name, weights) for name in RESNETS + WIDE for weights in get_model_weights(name)),
    ]
    lines = [json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries]
    (pathlib.Path(__file__).parent / "published.jsonl").write_text("".join(lines))


main()
