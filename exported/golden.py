#!/usr/bin/env python3
"""Make golden.safetensors: eight images, and what ONNX Runtime makes of them with the model beside.

    pip install numpy onnxruntime pillow safetensors && python3 golden.py

Half of the images are of known classes (CIFAR-10's test images 0, 5, 10 and 15 of the demo), half are
textures. Any runtime can be checked with them: images [8, 3, 32, 32] go in, all else comes out, here all as float32.
"""

from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent
DEMO = HERE.parent / "examples" / "demo"

rows = np.fromfile(DEMO / "cifar-10-batches-bin" / "test_batch.bin", np.uint8).reshape(-1, 3073)
known = [rows[index, 1:].reshape(3, 32, 32) for index in (0, 5, 10, 15)]
# Some textures score hundreds, with few decimals in float32; these do not.
textures = sorted((DEMO / "textures").rglob("*.png"))[39::75]
unknown = [np.asarray(Image.open(texture).convert("RGB")).transpose(2, 0, 1) for texture in textures]
images = (np.stack(known + unknown) / 255).astype(np.float32)

session = onnxruntime.InferenceSession(HERE / "cifar10-cifar-net.onnx", providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
outputs = dict(zip(names, session.run(names, {"images": images}), strict=True))
tensors = {name: output.astype(np.float32) for name, output in outputs.items()}
versions = {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__}
save_file({"images": images, **tensors}, HERE / "golden.safetensors", metadata=versions)
