#!/usr/bin/env python3
"""Score pictures with a model file and nothing of this toolkit.

pip install numpy onnxruntime pillow
python3 score.py MODEL.onnx PICTURE...
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

model, *pictures = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
properties = session.get_modelmeta().custom_metadata_map
classes = json.loads(properties["cac.classes"])
height, width = session.get_inputs()[0].shape[2:]
for picture in pictures:
    image = Image.open(picture).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    images = np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255
    score, label, unknown = session.run(["score", "label", "unknown"], {"images": images})
    print(f"{picture}\t{'unknown' if unknown[0] else classes[label[0]]}\t{score[0]:.4f}")
