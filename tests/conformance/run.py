#!/usr/bin/env python3
"""Score the same images with the same model files in every runtime, and write the tables of docs/results.md.

    python tests/conformance/run.py TOOLKIT MODEL.onnx RUN PROGRAM

PROGRAM is the example score_raw. tract, in this toolkit, is the reference. With MODEL.onnx the other runtimes run in
batches of 1, 7 and 64, ONNX's reference evaluator in batches of 7. RUN, a run folder, is exported with each score of
SCORES; these models run in batches of 7.

Fails if a runtime cannot run a model, gives a different class or verdict for an image that is not within 1e-4 of the
threshold, or of a tie between two classes, or a number that differs by more than 1e-4, relative above 1. Verdicts and
p-values must follow exactly from the runtime's own scores.
"""

import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
MARGIN = 1e-4
# Together, these use every operator of the feature-based scores.
SCORES = ("energy+knn:10", "energy+unit-mahalanobis", "relative-mahalanobis", "fdbd", "vim")

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
        raise RuntimeError(f"{model} has no golden batch")
    golden = json.loads(properties["cac.golden"])
    found = with_onnxruntime(model)(golden_images())
    np.testing.assert_allclose(np.linalg.norm(found["logits"], axis=1), golden["norm"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found["score"], golden["score"], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(found["label"], golden["label"])
    print(f"the golden batch of {model.name} is that of ONNX Runtime", file=sys.stderr)


def columns(model: Path) -> dict[str, tuple[int, ...]]:
    """The outputs of a model, and the shape of each without the batch axis."""
    outputs = onnx.load(model).graph.output
    return {output.name: tuple(axis.dim_value for axis in output.type.tensor_type.shape.dim[1:]) for output in outputs}


def in_batches(score: Score, images: np.ndarray, batch: int) -> Outputs:
    parts = [score(images[at : at + batch]) for at in range(0, len(images), batch)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def with_onnxruntime(model: Path) -> Score:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = list(columns(model))
    return lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True))


def with_openvino(model: Path) -> Score:
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = list(columns(model))

    def score(images: np.ndarray) -> Outputs:
        outputs = compiled([images])
        return {name: outputs[name] for name in names}

    return score


def with_opencv(model: Path) -> Score:
    network = cv2.dnn.readNetFromONNX(str(model))
    shapes = columns(model)

    def score(images: np.ndarray) -> Outputs:
        network.setInput(images, "images")
        outputs = zip(shapes.items(), network.forward(list(shapes)), strict=True)
        return {name: np.asarray(output).reshape(len(images), *shape) for (name, shape), output in outputs}

    return score


def with_reference(model: Path) -> Score:
    proto = onnx.load(model)
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    evaluator = ReferenceEvaluator(proto)
    names = list(columns(model))
    return lambda images: dict(zip(names, evaluator.run(names, {"images": images}), strict=True))


def from_program(command: list[str], model: Path) -> Outputs:
    """Run a program and parse the outputs that it prints as JSON."""
    run = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(run.stderr.strip().splitlines()[-1] if run.stderr.strip() else "failed")
    outputs = json.loads(run.stdout)
    shapes = {name: shape for name, shape in columns(model).items() if name in outputs}
    return {name: np.array(outputs[name]).reshape(-1, *shape) for name, shape in shapes.items()}


def runtimes(
    folder: Path, program: Path, model: Path, images: np.ndarray, batches: tuple[int, ...]
) -> Iterator[tuple[str, tuple[int, ...], Callable[[int], Outputs]]]:
    """The name, the batch sizes and the scoring function of each runtime."""
    raw = folder / "images.f32"
    images.tofile(raw)
    node = ["node", "{}", str(model), str(raw), str(SIZE)]

    def programs(command: list[str]) -> Callable[[int], Outputs]:
        return lambda batch: from_program([*command, str(batch)], model)

    def library(load: Callable[[Path], Score], images: np.ndarray = images) -> Callable[[int], Outputs]:
        loaded: list[Score] = []

        def outputs(batch: int) -> Outputs:
            loaded or loaded.append(load(model))
            return in_batches(loaded[0], images, batch)

        return outputs

    packages = json.loads((HERE / "package.json").read_text())["dependencies"]
    yield "tract, in this toolkit", batches, programs([str(program), str(model), "cpu", str(raw)])
    yield "ONNX Runtime, in this toolkit", batches, programs([str(program), str(model), "onnxruntime", str(raw)])
    yield f"onnxruntime {version('onnxruntime')} (Python)", batches, library(with_onnxruntime)
    yield (
        f"onnxruntime-node {packages['onnxruntime-node']}",
        batches,
        programs([part.format("node.mjs") for part in node]),
    )
    yield (
        f"onnxruntime-web {packages['onnxruntime-web']} (wasm, Chromium)",
        batches,
        programs([part.format("web.mjs") for part in node]),
    )
    yield f"OpenVINO {openvino.__version__.split('-')[0]}", batches, library(with_openvino)
    yield f"OpenCV {cv2.__version__} DNN", batches, library(with_opencv)
    yield f"ONNX {onnx.__version__} reference, full check", (7,), library(with_reference, images[::10])


def differences(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return np.abs(found - expected) / np.maximum(np.abs(expected), 1)


def follows(found: Outputs, constants: Outputs) -> bool:
    """Whether verdicts and p-values follow from the runtime's own scores and the constants of the file."""
    scores = found["score"].astype(np.float32)
    expected = {"unknown": ~(scores <= constants["threshold"])}
    if "unknown_at" in found:
        expected["unknown_at"] = ~(scores[:, None] <= constants["operating_points"])
    if "p_value" in found:
        held_out = constants["held_out_scores"]
        expected["p_value"] = (1 + (held_out >= scores[:, None]).sum(axis=1)) / (len(held_out) + 1)
    return all(np.allclose(found[name], values, rtol=0, atol=1e-6) for name, values in expected.items())


@dataclass
class Result:
    """The results of a runtime for a model."""

    name: str
    batches: list[int] = field(default_factory=list)
    images: int = 0
    score: float = 0  # the largest difference, relative above 1
    classes: int = 0  # images with a different class
    verdicts: int = 0
    is_wrong: bool = False
    failures: list[str] = field(default_factory=list)

    def add(self, batch: int, found: Outputs, expected: Outputs, constants: Outputs) -> None:
        """Compares the outputs for batches of one size."""
        self.batches.append(batch)
        self.images = len(found["score"])
        step = 10 if self.images < len(expected["score"]) else 1
        expected = {name: values[::step] for name, values in expected.items() if name in found}
        numbers = expected.keys() - {"label", "unknown", "unknown_at", "p_value"}
        largest = {name: float(differences(found[name], expected[name]).max()) for name in numbers}
        classes = found["label"] != expected["label"]
        verdicts = found["unknown"].astype(bool) != expected["unknown"].astype(bool)
        nearest = np.sort(expected["distances"], axis=1)
        is_tie = nearest[:, 1] - nearest[:, 0] < MARGIN
        is_close = np.abs(expected["score"] - constants["threshold"]) < MARGIN
        self.score = max(self.score, largest["score"])
        self.classes = max(self.classes, int(classes.sum()))
        self.verdicts = max(self.verdicts, int(verdicts.sum()))
        is_near = all(difference <= MARGIN for difference in largest.values())
        is_same = not (classes & ~is_tie).any() and not (verdicts & ~is_close).any()
        self.is_wrong |= not (is_near and is_same and follows(found, constants))


def measure(folder: Path, program: Path, model: Path, images: np.ndarray, batches: tuple[int, ...]) -> list[Result]:
    """Scores the images in all runtimes."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(model).graph.initializer}
    reference: Outputs | None = None
    results = []
    for name, sizes, outputs in runtimes(folder, program, model, images, batches):
        print(f"{model.stem}: {name}", file=sys.stderr, flush=True)
        result = Result(name)
        for batch in sizes:
            try:
                found = outputs(batch)
                if missing := columns(model).keys() - found.keys():
                    raise RuntimeError(f"no {', '.join(sorted(missing))}")
            except Exception as error:  # report the failure in the table
                result.failures.append(f"batch {batch}: {' '.join(str(error).split())[:160].replace('|', '/')}")
                continue
            reference = reference or found
            result.add(batch, found, reference, constants)
        if result.is_wrong or result.failures:
            print(f"FAILED: {result}", file=sys.stderr)
        results.append(result)
    return results


def check_threshold_input(model: Path, images: np.ndarray) -> None:
    """Feed a different threshold to a model that accepts one."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = ["score", "unknown"]
    scores, _ = session.run(names, {"images": images})
    middle = np.median(scores).astype(np.float32)
    again, unknown = session.run(names, {"images": images, "threshold": np.array(middle)})
    np.testing.assert_array_equal(scores, again)
    np.testing.assert_array_equal(unknown, scores > middle)
    print("onnxruntime takes another threshold", file=sys.stderr)


def write_table(name: str, lines: list[str], is_failure: bool) -> None:
    """Prints a table and, unless something failed, puts it in its place in docs/results.md."""
    table = "\n".join(lines)
    print(table)
    if is_failure:
        return
    page = ROOT / "docs/results.md"
    head, begin, rest = page.read_text().partition(f"<!-- {name} -->\n")
    _, end, tail = rest.partition("<!-- end -->")
    page.write_text(f"{head}{begin}{table}\n{end}{tail}")


def main(toolkit: Path, model: Path, run: Path, program: Path) -> int:
    images = test_images()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        results = measure(folder, program, model, images, BATCHES)
        few = images[::3]
        of_scores = []
        for score in SCORES:
            file = folder / f"{score}.onnx"
            # An optional threshold input must not disturb a runtime that does not know about it.
            command = [toolkit, "export", "--run", run, file, "--score", score, "--threshold-input"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            check_golden(file)
            of_scores.append(measure(folder, program, file, few, (7,)))
        check_threshold_input(file, few)
    is_failure = any(result.is_wrong or result.failures for row in (results, *of_scores) for result in row)
    lines = [
        "| runtime | batches | images | largest score difference | different classes | different verdicts |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        figures = (f"{result.score:.1e}", result.classes, result.verdicts)
        cells = (result.name, ", ".join(map(str, result.batches)), result.images, *figures)
        lines.append(f"| {' | '.join(map(str, cells))} |")
        lines.extend(f"| {result.name} | failed: {reason} | | | | |" for reason in result.failures)
    write_table("conformance", lines, is_failure)
    lines = [f"| runtime | {' | '.join(f'`{score}`' for score in SCORES)} |", "|---" * (len(SCORES) + 1) + "|"]
    for row in zip(*of_scores, strict=True):
        cells = [f"{result.score:.1e}" if result.batches else "failed" for result in row]
        lines.append(f"| {' | '.join([row[0].name, *cells])} |")
    write_table("conformance of scores", lines, is_failure)
    print(f"on {platform.machine()}, Python {platform.python_version()}", file=sys.stderr)
    return int(is_failure)


if __name__ == "__main__":
    sys.exit(main(*(Path(argument).resolve() for argument in sys.argv[1:])))
