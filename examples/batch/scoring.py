"""Shared by on_ray.py and on_spark.py: their flags, and a row for every file, images or not."""

import json
import math
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

# Without this, ONNX Runtime sends data about the model and the machine to Microsoft.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime


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


# Not every file has p-values.
OUTPUTS = ("score", "label", "unknown", "p_value")


class Scorer:
    """A model in a single-threaded session; a job has one Scorer per core."""

    def __init__(self, model: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        properties = self.session.get_modelmeta().custom_metadata_map
        self.classes, self.input = json.loads(properties["cac.classes"]), json.loads(properties["cac.input"])
        self.resizes = json.loads(properties.get("cac.resizes", "false"))
        images = self.session.get_inputs()[0]
        self.takes_bytes = images.type == "tensor(uint8)"
        # The batch size of a file of `export --batch N`; None for any size.
        self.batch = images.shape[0] if isinstance(images.shape[0], int) else None
        self.outputs = [output.name for output in self.session.get_outputs() if output.name in OUTPUTS]

    def decode(self, content: bytes) -> np.ndarray:
        image = ImageOps.exif_transpose(Image.open(BytesIO(content))).convert("RGB")
        pixels = np.asarray(image if self.resizes else resized(image, self.input))
        return pixels if self.takes_bytes else pixels.astype(np.float32).transpose(2, 0, 1) / 255

    def run(self, images: list[np.ndarray]) -> Iterator[dict[str, Any]]:
        """The outputs for each image; those that the graph resizes may differ in size, and run alone."""
        size = 1 if self.resizes else self.batch or max(1, len(images))
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            filled = batch + batch[-1:] * ((self.batch or size) - len(batch))
            outputs = self.session.run(self.outputs, {"images": np.stack(filled)})
            for values in zip(*(output[: len(batch)].tolist() for output in outputs), strict=True):
                yield dict(zip(self.outputs, values, strict=True))

    def rows(self, paths: Iterable[str], contents: Iterable[bytes]) -> list[dict[str, Any]]:
        """One row per file, with class, score, unknown and p-value, or with an error."""
        rows: list[dict[str, Any]] = []
        images: dict[int, np.ndarray] = {}
        for path, content in zip(paths, contents, strict=True):
            row = dict.fromkeys(("path", "class", "score", "unknown", "p_value", "error")) | {"path": path}
            try:
                images[len(rows)] = self.decode(content)
            except Exception as error:  # Pillow's decoders raise many kinds
                row["error"] = f"{type(error).__name__}: {error}"
            rows.append(row)
        for index, found in zip(images, self.run(list(images.values())), strict=True):
            label = found.pop("label")
            rows[index] |= {"class": self.classes[label], **found}
        return rows


def local_files(folder: str) -> list[Path] | None:
    """The files in a local folder, without hidden ones; None for a URL."""
    root = Path(folder)
    if not root.is_dir():
        return None
    files, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        # A link may lead back to a folder above it.
        is_new = (place := os.path.realpath(folder)) not in seen
        seen.add(place)
        folders[:] = sorted(name for name in folders if is_new and not name.startswith("."))
        files += [Path(folder, name) for name in names if is_new and not name.startswith(".")]
    return sorted(file for file in files if file.is_file())


def arguments(description: str) -> Namespace:
    def place(path: str) -> str:
        return path if "://" in path else str(Path(path).resolve())

    parser = ArgumentParser(description=description)
    parser.add_argument("model", metavar="MODEL", type=place)
    parser.add_argument("images", metavar="IMAGES", type=place)
    parser.add_argument("out", metavar="OUT", type=place)
    parser.add_argument("--workers", metavar="N", type=int, default=2, help="maximum number of cores that score")
    parser.add_argument("--batch-size", metavar="N", type=int, default=64, help="images scored together")
    return parser.parse_args()
