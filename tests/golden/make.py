#!/usr/bin/env python3
"""Make the golden data of the tests with PyTorch and Pillow.

    python3 make.py IMAGE...

wrn-10-K.safetensors  small WideResNets (depth 10, widen factor K) with random weights and random batch-norm
                      statistics, four images, and the logits that PyTorch computes for them
resize.safetensors    the images in images/, resized by Pillow to several sizes
resize-exact.safetensors  a computed image, resized by Pillow to several sizes
images/             the IMAGEs given, copied

Needs PyTorch, NumPy, Pillow, safetensors and pytorch-ood. versions.txt lists the versions used.
"""
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from pytorch_ood.model import WideResNet
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
SIZES = [(32, 32), (24, 40), (7, 5)]
EXACT_SIZES = [(32, 32), (61, 97), (61, 40), (1, 1), (7, 5), (70, 120)]


def network(widen_factor: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(widen_factor)
    model = WideResNet(num_classes=3, depth=10, widen_factor=widen_factor, drop_rate=0.3).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.2, 3.0)
    images = torch.randint(0, 256, (4, 3, 32, 32)) / 255
    with torch.no_grad():
        logits = model((images - 0.5) / 0.5)
    state = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    tensors = state | {
        "check.images": images,
        "check.logits": logits,
        "held_out.logits": torch.randn(40, 3) * 4,
        "anchors": torch.eye(3) * 10 + torch.randn(3, 3),
    }
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def exact() -> dict[str, torch.Tensor]:
    """A computed image of 97 x 61 pixels, independent of decoders, at several sizes."""
    y, x, channel = np.ogrid[:61, :97, :3]
    image = Image.fromarray(((7 * x * x + 13 * y * y + 5 * x * y + 101 * channel) % 256).astype(np.uint8))
    resized = {}
    for height, width in EXACT_SIZES:
        planes = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        resized[f"{height}x{width}"] = torch.from_numpy(planes.astype(np.float32)).half().contiguous()
    return resized


def main(images: list[Path]) -> None:
    for widen_factor in (1, 2):
        save_file(network(widen_factor), HERE / f"wrn-10-{widen_factor}.safetensors")
    (HERE / "images").mkdir(exist_ok=True)
    resized = {}
    for path in images:
        copy = HERE / "images" / path.name
        if copy != path.resolve():
            shutil.copyfile(path, copy)
        for height, width in SIZES:
            image = ImageOps.exif_transpose(Image.open(copy)).convert("RGB")
            image = image.resize((width, height), Image.Resampling.BILINEAR)
            planes = np.asarray(image).transpose(2, 0, 1).astype(np.float32)
            resized[f"{path.name}.{height}x{width}"] = torch.from_numpy(planes.copy())
    save_file({name: tensor.half() for name, tensor in resized.items()}, HERE / "resize.safetensors")
    save_file(exact(), HERE / "resize-exact.safetensors")
    packages = ["torch", "pillow", "numpy", "pytorch-ood", "safetensors"]
    # The lines of other scripts, and of packages that they need, stay.
    lines = (HERE / "versions.txt").read_text().splitlines()
    others = [line for line in lines if line.partition(" ")[0] not in packages]
    own = [f"{name} {version(name)}" for name in packages]
    (HERE / "versions.txt").write_text("".join(f"{line}\n" for line in own + others))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
