"""Shared by on_ray.py and on_spark.py: their flags, and a row for every file, images or not."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


class Scorer:
    """A model in a single-threaded session; a job has one Scorer per core."""

    def __init__(self, model: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.classes = json.loads(self.session.get_modelmeta().custom_metadata_map["cac.classes"])
        self.height, self.width = self.session.get_inputs()[0].shape[2:]

    def decode(self, content: bytes) -> np.ndarray:
        image = ImageOps.exif_transpose(Image.open(BytesIO(content))).convert("RGB")
        image = image.resize((self.width, self.height), Image.Resampling.BILINEAR)
        return np.asarray(image, np.float32).transpose(2, 0, 1) / 255

    def rows(self, paths: Iterable[str], contents: Iterable[bytes]) -> list[dict[str, Any]]:
        """One row per file, with class, score and unknown, or with an error."""
        rows: list[dict[str, Any]] = []
        images: dict[int, np.ndarray] = {}
        for path, content in zip(paths, contents, strict=True):
            row = dict.fromkeys(("path", "class", "score", "unknown", "error")) | {"path": path}
            try:
                images[len(rows)] = self.decode(content)
            except Exception as error:  # Pillow's decoders raise many kinds
                row["error"] = f"{type(error).__name__}: {error}"
            rows.append(row)
        if images:
            outputs = self.session.run(["score", "label", "unknown"], {"images": np.stack(list(images.values()))})
            for index, score, label, unknown in zip(images, *(output.tolist() for output in outputs), strict=True):
                rows[index] |= {"class": self.classes[label], "score": score, "unknown": unknown}
        return rows


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
