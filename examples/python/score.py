#!/usr/bin/env python3
"""Score images with a model file, without this toolkit.

pip install numpy onnxruntime pillow
python3 score.py MODEL.onnx IMAGE...
"""

import json
import math
import os
import sys
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Without this, ONNX Runtime sends data about the model and the machine to Microsoft.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime


# Those of the toolkit. Pillow reads others, some by programs that it starts.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def opened(path: str) -> Image.Image:
    """The image upright, in RGB without transparency."""
    with Image.open(path, formats=FORMATS) as image:
        if max(image.size) > 65_535:
            raise ValueError("more than 65,535 pixels wide or high")
        # Pillow would clip grey values of 16 bits at 255.
        is_deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
        tags = image.tag_v2 if image.format == "TIFF" else {}
        if (is_deep and tags.get(258, (16,)) != (16,)) or (image.mode in ("I", "F") and not is_deep):
            raise ValueError("samples that are not of 8 or 16 bits")
        image = ImageOps.exif_transpose(image)
        if is_deep:
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            # 0 is white in some TIFF.
            image = Image.fromarray(255 - grey if tags.get(262) == 0 else grey)
        return image.convert("RGB")


def resized(image: Image.Image, input: dict[str, Any]) -> Image.Image:
    """The image at the size of the model's input, by the rule in its cac.input."""
    size = width, height = input["width"], input["height"]
    rule = input.get("resize", {"fit": "stretch"})
    filter = Image.Resampling[rule.get("filter", "bilinear").upper()]
    match rule["fit"]:
        case "stretch":
            return image.resize(size, filter)
        case "pad":
            # In float32, as in the toolkit.
            color = np.rint(np.float32(255) * np.float32(input["mean"])).astype(int)
            return ImageOps.pad(image, size, filter, color=tuple(color.tolist()))
        case "crop":
            scale = max(Fraction(math.floor(to / rule["share"]), side) for to, side in zip(size, image.size, strict=True))
            image = image.resize([int(side * scale) for side in image.size], filter)
            left, top = round((image.width - width) / 2), round((image.height - height) / 2)
            return image.crop((left, top, left + width, top + height))
        case other:
            raise ValueError(f"the rule {other} is not known")


if len(sys.argv) < 3:
    sys.exit("usage: score.py MODEL.onnx IMAGE...")
model, *paths = sys.argv[1:]
try:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    if "cac.format_version" not in properties:
        raise ValueError("not a model file of this toolkit")
    if int(properties["cac.format_version"]) > 2:
        raise ValueError("its format is newer than this program")
    classes, input = json.loads(properties["cac.classes"]), json.loads(properties["cac.input"])
except Exception as error:  # ONNX Runtime raises many kinds
    sys.exit(f"{model}: {error}")
resizes = json.loads(properties.get("cac.resizes", "false"))
images_input = session.get_inputs()[0]
outputs = [output.name for output in session.get_outputs()]
failed = False
for path in paths:
    try:
        image = opened(path)
        images = np.asarray(image if resizes else resized(image, input))[None]
        if images_input.type == "tensor(float)":
            images = images.astype(np.float32).transpose(0, 3, 1, 2) / 255
        # A file of `export --batch N` takes N images.
        if isinstance(images_input.shape[0], int):
            images = images.repeat(images_input.shape[0], axis=0)
        found = dict(zip(outputs, session.run(outputs, {"images": images}), strict=True))
    except Exception as error:  # Pillow's decoders raise many kinds
        reason = "not an image that can be read" if isinstance(error, UnidentifiedImageError) else error
        print(f"{path}: {getattr(error, 'strerror', None) or reason}", file=sys.stderr)
        failed = True
        continue
    name = "unknown" if found["unknown"][0] else classes[found["label"][0]]
    # Not every file has p-values.
    p_value = [f"{found['p_value'][0]:.4f}"] if "p_value" in found else []
    # A score of `cac` may be tiny.
    print(path, name, f"{found['score'][0]:.6g}", *p_value, sep="\t")
sys.exit(failed)
