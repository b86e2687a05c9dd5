#!/usr/bin/env python3
"""Score images with a model file, without this toolkit.

pip install numpy onnxruntime pillow
python3 score.py MODEL.onnx IMAGE...
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, *paths = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
properties = session.get_modelmeta().custom_metadata_map
classes = json.loads(properties["cac.classes"])
height, width = session.get_inputs()[0].shape[2:]
for path in paths:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    images = np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255
    score, label, unknown = session.run(["score", "label", "unknown"], {"images": images})
    print(f"{path}\t{'unknown' if unknown[0] else classes[label[0]]}\t{score[0]:.4f}")
