#!/usr/bin/env python3
"""Score the same images with one model file in every runtime, and write the table of docs/results.md.

    make conformance

tract, in this toolkit, is the reference. The other runtimes run in batches of 1, 7 and 64, ONNX's reference evaluator
in batches of 7. Fails if a runtime cannot run the model, or gives a different class or verdict for an image that is not
within 1e-4 of the threshold, or of a tie between two classes.
"""

import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx.reference import ReferenceEvaluator
from PIL import Image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DEMO = ROOT / "examples" / "demo"
SIZE = 32
BATCHES = (1, 7, 64)
NAMES = ("logits", "distances", "score", "label", "unknown")
MARGIN = 1e-4

Outputs = dict[str, np.ndarray]
Score = Callable[[np.ndarray], Outputs]


def test_images() -> np.ndarray:
    """[134, 3, 32, 32]: black, white, single pixels, two kinds of noise, known and unknown images."""
    random = np.random.default_rng(1)
    flat = [np.zeros((3, SIZE, SIZE)), np.ones((3, SIZE, SIZE))]
    pixels = np.zeros((16, 3, SIZE, SIZE))
    for image in pixels:
        image[tuple(random.integers(0, length) for length in image.shape)] = 1
    noise = random.uniform(size=(16, 3, SIZE, SIZE))
    gaussian = random.normal(0.5, 0.25, (8, 3, SIZE, SIZE)).clip(0, 1)
    rows = np.fromfile(DEMO / "cifar-10-batches-bin" / "test_batch.bin", np.uint8).reshape(-1, 3073)
    known = rows[::13, 1:][:46].reshape(-1, 3, SIZE, SIZE) / 255
    files = sorted((DEMO / "textures").rglob("*.png"))[::6][:46]
    textures = [np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1) / 255 for file in files]
    return np.concatenate([flat, pixels, noise, gaussian, known, textures]).astype(np.float32)


def golden_images() -> np.ndarray:
    """[6, 3, 32, 32]: the images of a model's golden batch, by the formula in docs/formats.md."""

    def byte(n: int, c: int, y: int, x: int, square: int) -> int:
        z = ((n << 48) + (c << 40) + (y // square << 20) + x // square + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return (z ^ z >> 31) >> 56

    squares = (4096, 16, 8, 4, 2, 1)
    pixels = [
        [[[byte(n, c, y, x, square) for x in range(SIZE)] for y in range(SIZE)] for c in range(3)]
        for n, square in enumerate(squares)
    ]
    return np.array(pixels, np.float32) / 255


def check_golden(model: Path) -> None:
    """Compare a model's golden batch with its outputs on ONNX Runtime, as `toolkit verify` does on tract."""
    properties = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    if "cac.golden" not in properties:
        print("the model has no golden batch", file=sys.stderr)
        return
    golden = json.loads(properties["cac.golden"])
    found = with_onnxruntime(model)(golden_images())
    np.testing.assert_allclose(np.linalg.norm(found["logits"], axis=1), golden["norm"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found["score"], golden["score"], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(found["label"], golden["label"])
    print("the golden batch is that of ONNX Runtime", file=sys.stderr)


def in_batches(score: Score, images: np.ndarray, batch: int) -> Outputs:
    parts = [score(images[at : at + batch]) for at in range(0, len(images), batch)]
    return {name: np.concatenate([part[name] for part in parts]) for name in NAMES}


def with_onnxruntime(model: Path) -> Score:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda images: dict(zip(NAMES, session.run(NAMES, {"images": images}), strict=True))


def with_openvino(model: Path) -> Score:
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: {name: compiled([images])[name] for name in NAMES}


def with_opencv(model: Path) -> Score:
    network = cv2.dnn.readNetFromONNX(str(model))

    def score(images: np.ndarray) -> Outputs:
        network.setInput(images, "images")
        outputs = dict(zip(NAMES, network.forward(NAMES), strict=True))
        return {
            name: np.asarray(output).reshape(len(images), *((-1,) if name in ("logits", "distances") else ()))
            for name, output in outputs.items()
        }

    return score


def with_reference(model: Path) -> Score:
    proto = onnx.load(model)
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    evaluator = ReferenceEvaluator(proto)
    return lambda images: dict(zip(NAMES, evaluator.run(list(NAMES), {"images": images}), strict=True))


def from_program(command: list[str], classes: int) -> Outputs:
    """Run a program and parse the outputs that it prints as JSON."""
    run = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(run.stderr.strip().splitlines()[-1] if run.stderr.strip() else "failed")
    said = {name: np.array(values) for name, values in json.loads(run.stdout).items()}
    return said | {name: said[name].reshape(-1, classes) for name in ("logits", "distances")}


def runtimes(
    folder: Path, program: Path, model: Path, images: np.ndarray, classes: int
) -> Iterator[tuple[str, tuple[int, ...], Callable[[int], Outputs]]]:
    """The name, the batch sizes and the scoring function of each runtime."""
    raw = folder / "images.f32"
    images.tofile(raw)
    node = ["node", "{}", str(model), str(raw), str(SIZE)]

    def programs(command: list[str]) -> Callable[[int], Outputs]:
        return lambda batch: from_program([*command, str(batch)], classes)

    def library(load: Callable[[Path], Score], images: np.ndarray = images) -> Callable[[int], Outputs]:
        loaded: list[Score] = []

        def outputs(batch: int) -> Outputs:
            loaded or loaded.append(load(model))
            return in_batches(loaded[0], images, batch)

        return outputs

    packages = json.loads((HERE / "package.json").read_text())["dependencies"]
    yield "tract, in this toolkit", BATCHES, programs([str(program), str(model), "cpu", str(raw)])
    yield "ONNX Runtime, in this toolkit", BATCHES, programs([str(program), str(model), "onnxruntime", str(raw)])
    yield f"onnxruntime {version('onnxruntime')} (Python)", BATCHES, library(with_onnxruntime)
    yield (
        f"onnxruntime-node {packages['onnxruntime-node']}",
        BATCHES,
        programs([part.format("node.mjs") for part in node]),
    )
    yield (
        f"onnxruntime-web {packages['onnxruntime-web']} (wasm, Chromium)",
        BATCHES,
        programs([part.format("web.mjs") for part in node]),
    )
    yield f"OpenVINO {openvino.__version__.split('-')[0]}", BATCHES, library(with_openvino)
    yield f"OpenCV {cv2.__version__} DNN", BATCHES, library(with_opencv)
    yield f"ONNX {onnx.__version__} reference, full check", (7,), library(with_reference, images[::10])


def compare(expected: Outputs, found: Outputs, threshold: float) -> tuple[float, int, int, bool]:
    """The largest relative difference of a score, the numbers of flips, and whether a flip is outside the margin."""
    step = len(expected["score"]) // len(found["score"]) if len(found["score"]) < len(expected["score"]) else 1
    expected = {name: values[::10] if step > 1 else values for name, values in expected.items()}
    scores = expected["score"]
    difference = np.abs(found["score"] - scores) / np.maximum(np.abs(scores), 1)
    labels, verdicts = (
        found["label"] != expected["label"],
        found["unknown"].astype(bool) != expected["unknown"].astype(bool),
    )
    nearest = np.sort(expected["distances"], axis=1)
    is_close = (nearest[:, 1] - nearest[:, 0] < MARGIN, np.abs(scores - threshold) < MARGIN)
    is_wrong = (labels & ~is_close[0]).any() or (verdicts & ~is_close[1]).any() or not np.isfinite(difference).all()
    return float(difference.max()), int(labels.sum()), int(verdicts.sum()), bool(is_wrong)


def main(model: Path, program: Path) -> int:
    check_golden(model)
    images = test_images()
    proto = onnx.load(model)
    threshold = next(float(onnx.numpy_helper.to_array(t)) for t in proto.graph.initializer if t.name == "threshold")
    classes = proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    lines = [
        "| runtime | batches | images | largest score difference | different classes | different verdicts |",
        "|---|---|---|---|---|---|",
    ]
    reference: Outputs | None = None
    failed = 0
    with TemporaryDirectory() as folder:
        for name, batches, outputs in runtimes(Path(folder), program, model, images, classes):
            print(name, file=sys.stderr, flush=True)
            results, reasons = [], []
            for batch in batches:
                try:
                    found = outputs(batch)
                except Exception as error:  # report the failure in the table
                    reasons.append(f"batch {batch}: {' '.join(str(error).split())[:160]}")
                    continue
                reference = reference or found
                results.append(compare(reference, found, threshold))
            taken = len(batches) - len(reasons)
            if results:
                difference, labels, verdicts, wrong = (max(column) for column in zip(*results, strict=True))
                failed += wrong
                count = len(found["score"])
                lines.append(
                    f"| {name} | {', '.join(map(str, batches[:taken]))} | {count} | {difference:.1e} | {labels} | {verdicts} |"
                )
            failed += bool(reasons)
            lines.extend(f"| {name} | failed: {reason.replace('|', '/')} | | | | |" for reason in reasons)
    table = "\n".join(lines)
    print(table)
    page = ROOT / "docs/results.md"
    text = page.read_text()
    begin, end = "<!-- conformance -->\n", "<!-- end -->"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    if tail:
        page.write_text(f"{head}{begin}{table}\n{end}{tail}")
    print(f"on {platform.machine()}, Python {platform.python_version()}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()))
