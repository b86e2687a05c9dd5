"""Shared by on_ray.py and on_spark.py: their flags, and a row for every file, images or not."""

import json
import math
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Without this, ONNX Runtime sends data about the model and the machine to Microsoft.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime


# Those of the toolkit. Pillow reads others, some by programs that it starts.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def opened(content: bytes) -> Image.Image:
    """The image upright, in RGB without transparency."""
    with Image.open(BytesIO(content), formats=FORMATS) as image:
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


# Not every file has p-values.
OUTPUTS = ("score", "label", "unknown", "p_value")


class Scorer:
    """A model in a session of one thread, because a job has one Scorer per core; a service gives it more."""

    def __init__(self, model: str, threads: int = 1, provider: str = "CPUExecutionProvider") -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        if provider not in (available := onnxruntime.get_available_providers()):
            raise ValueError(f"{provider} is not in this onnxruntime, which has {', '.join(available)}")
        # By default CUDA rounds to TF32, and scores would differ in the third digit.
        settings = {"use_tf32": "0"} if provider == "CUDAExecutionProvider" else {}
        self.session = onnxruntime.InferenceSession(model, options, providers=[(provider, settings)])
        if (found := self.session.get_providers()[0]) != provider:
            raise RuntimeError(f"{provider} is not available: {found} would run the model")
        properties = self.session.get_modelmeta().custom_metadata_map
        if "cac.format_version" not in properties:
            raise ValueError(f"{model}: not a model file of this toolkit")
        if int(properties["cac.format_version"]) > 2:
            raise ValueError(f"{model}: its format is newer than this program")
        self.classes, self.input = json.loads(properties["cac.classes"]), json.loads(properties["cac.input"])
        self.resizes = json.loads(properties.get("cac.resizes", "false"))
        images = self.session.get_inputs()[0]
        self.takes_bytes = images.type == "tensor(uint8)"
        # The batch size of a file of `export --batch N`; None for any size.
        self.batch = images.shape[0] if isinstance(images.shape[0], int) else None
        self.outputs = [output.name for output in self.session.get_outputs() if output.name in OUTPUTS]

    def decode(self, content: bytes) -> np.ndarray:
        image = opened(content)
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

    def named(self, outputs: dict[str, Any]) -> dict[str, Any]:
        return {"class": self.classes[outputs.pop("label")], **outputs}

    def rows(self, paths: Iterable[str], contents: Iterable[bytes | OSError]) -> list[dict[str, Any]]:
        """One row per file, with class, score, unknown and p-value, or with an error. All images are one batch."""
        rows: list[dict[str, Any]] = []
        images: dict[int, np.ndarray] = {}
        failed: list[Exception] = []
        for path, content in zip(paths, contents, strict=True):
            row = dict.fromkeys(("path", "class", "score", "unknown", "p_value", "error")) | {"path": path}
            rows.append(row)
            try:
                if isinstance(content, OSError):
                    raise content
                image = self.decode(content)
            except UnidentifiedImageError:
                row["error"] = "not an image that can be read"
                continue
            except Exception as error:  # Pillow's decoders raise many kinds
                row["error"] = f"{type(error).__name__}: {error}"
                continue
            if not self.resizes:
                images[len(rows) - 1] = image
                continue
            try:
                # Photographs are large: one at a time.
                row |= self.named(next(self.run([image])))
            except Exception as error:  # it may be too large
                row["error"] = f"{type(error).__name__}: {error}"
                failed.append(error)
        if failed and not any(row["class"] for row in rows):
            raise failed[0]
        for index, found in zip(images, self.run(list(images.values())), strict=True):
            rows[index] |= self.named(found)
        return rows


def content(path: str) -> bytes | OSError:
    """The bytes of a local file, or why it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        return error


# Folders that systems create.
OF_SYSTEMS = {"@eaDir", "#recycle", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


def is_shown(name: str) -> bool:
    return not name.startswith(".") and name not in OF_SYSTEMS


def is_text(path: Path) -> bool:
    """Whether the path is text, which the names of files need not be."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def local_files(folder: str) -> list[Path] | None:
    """The files in a local folder, without hidden ones and those of systems; None for a URL."""
    root = Path(folder)
    if not root.is_dir():
        if "://" in folder:
            return None
        raise SystemExit(f"{folder}: no such folder")
    files, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        # A link may lead back to a folder above it.
        is_new = (place := os.path.realpath(folder)) not in seen
        seen.add(place)
        folders[:] = sorted(name for name in folders if is_new and is_shown(name))
        files += [Path(folder, name) for name in names if is_new and is_shown(name)]
    # A broken link is an image that cannot be read.
    found = sorted(file for file in files if file.is_file() or not file.exists())
    if broken := [file for file in found if not is_text(file)]:
        print(f"files skipped because their names are not UTF-8: {len(broken)}, such as {str(broken[0])!r}", file=sys.stderr)
    if not (found := [file for file in found if is_text(file)]):
        raise SystemExit(f"{root}: no files")
    return found


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
