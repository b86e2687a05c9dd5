#!/usr/bin/env python3
"""Score the same images with the toolkit and the examples in languages other than Rust; compare the results.

    python tests/conformance/examples.py TOOLKIT MODEL.onnx...

Two more models, imported here, crop and pad images, with the bicubic filter; two others do so in the graph, and are
also run on OpenVINO and on ONNX's reference evaluator; two take three images at once, which only the Python examples do. The images have many shapes, and some are turned by EXIF. The
batch jobs also get a broken image, which must become a row with an error. C needs the folder of onnxruntime_c_api.h in
ORT_INCLUDE, Spark needs Java; an example is skipped, with a message, if its requirement is missing. Fails if an example
gives a different class or verdict, a score that differs by more than TOLERANCE, or a p-value that differs by more than
P_TOLERANCE or is present for a model without p-values.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import onnx
import openvino
import photographs
import pyarrow.parquet
from onnx.reference import ReferenceEvaluator
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
WEIGHTS = ROOT / "tests" / "golden" / "checkpoints" / "wrn.pt"
sys.path.append(str(EXAMPLES / "batch"))
import scoring  # noqa: E402
LIBRARY = ROOT / ".native" / "onnxruntime" / "lib"
BROKEN = "broken.jpg"
# Models that take three images.
THREE = ("three-as-bytes.onnx", "three-in-the-graph.onnx")
NAMES = ["score", "label", "unknown"]
# JPEG decoders differ by 1 of 255 in some pixels, which changes the scores of these models, and may change the nearest
# class of an unknown image.
TOLERANCE = {".png": 1e-4, ".jpg": 0.3}
P_TOLERANCE = {".png": 0.01, ".jpg": 0.1}
# Everything stays on this machine.
ENVIRONMENT = {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0", "SPARK_LOCAL_IP": "127.0.0.1"}


class Verdict(NamedTuple):
    name: str | None  # of the class; None if the example prints "unknown" instead
    score: float
    unknown: bool
    p_value: float | None


Verdicts = dict[str, Verdict]


class LeftOut(Exception):
    pass


def output(*command: str | Path) -> str:
    environment = os.environ | ENVIRONMENT
    run = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=300)
    if run.returncode:
        print(run.stderr, file=sys.stderr, flush=True)
        raise RuntimeError(f"{Path(command[0]).name} exited with status {run.returncode}")
    return run.stdout


def properties(model: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(model).metadata_props}


def upright(image: Path) -> Image.Image:
    return scoring.opened(image.read_bytes())


def on_runtime(run: Callable[[np.ndarray], list[np.ndarray]], model: Path, images: list[Path]) -> Verdicts:
    """Score decoded images one by one with a function that returns score, label and verdict."""
    classes = json.loads(properties(model)["cac.classes"])
    verdicts = {}
    for image in images:
        score, label, unknown = run(np.asarray(upright(image))[None])
        verdicts[image.stem] = Verdict(classes[int(label[0])], float(score[0]), bool(unknown[0]), None)
    return verdicts


def on_openvino(model: Path, images: list[Path]) -> Verdicts:
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return on_runtime(lambda image: [compiled([image])[name] for name in NAMES], model, images)


def on_reference(model: Path, images: list[Path]) -> Verdicts:
    proto = onnx.load(model)
    onnx.checker.check_model(proto, full_check=True)
    evaluator = ReferenceEvaluator(proto)
    return on_runtime(lambda image: evaluator.run(NAMES, {"images": image}), model, images)


def from_toolkit(toolkit: Path, model: Path, images: list[Path]) -> Verdicts:
    printed = map(json.loads, output(toolkit, "score", "--json", model, *images).splitlines())
    verdicts = ((line["image"], line["verdict"]) for line in printed)
    return {
        Path(path).stem: Verdict(found["class"], found["score"], found["unknown"], found.get("p_value"))
        for path, found in verdicts
    }


def from_lines(text: str) -> Verdicts:
    """Parse the output of python/score.py and c/score.c."""
    rows = (line.split("\t") for line in text.splitlines())
    return {
        Path(path).stem: Verdict(None if name == "unknown" else name, score, name == "unknown", next(iter(rest), None))
        for path, name, (score, *rest) in ((path, name, map(float, numbers)) for path, name, *numbers in rows)
    }


def from_job(script: str, model: Path, folder: Path, out: Path) -> Verdicts:
    """Run batch/on_ray.py or batch/on_spark.py, and read the rows that it writes."""
    output(sys.executable, EXAMPLES / "batch" / script, model, folder, out, "--batch-size", "4")
    rows = {row.pop("path"): row for row in pyarrow.parquet.read_table(out).to_pylist()}
    broken = rows.pop(str(folder / BROKEN))
    if not broken.pop("error") or any(value is not None for value in broken.values()):
        raise RuntimeError(f"the broken image gave {broken}")
    if errors := [row["error"] for row in rows.values() if row["error"]]:
        raise RuntimeError(errors[0])
    return {
        Path(path).stem: Verdict(row["class"], row["score"], row["unknown"], row["p_value"])
        for path, row in rows.items()
    }


def with_spark(model: Path, folder: Path, out: Path) -> Verdicts:
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        raise LeftOut("Java is not installed")
    return from_job("on_spark.py", model, folder, out)


def with_c(model: Path, images: list[Path], folder: Path) -> Verdicts:
    include = os.environ.get("ORT_INCLUDE")
    if not include:
        raise LeftOut("ORT_INCLUDE does not name the folder of onnxruntime_c_api.h")
    folder.mkdir()
    # Programs load the library by the name with its major version, which a wheel does not have.
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to((LIBRARY / "libonnxruntime.so").resolve(strict=True))
    strict = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-isystem", include]
    link = ["-L", folder, "-lonnxruntime", f"-Wl,-rpath,{folder}"]
    output(os.environ.get("CC", "cc"), *strict, EXAMPLES / "c" / "score.c", "-o", folder / "score", *link)
    input = json.loads(properties(model)["cac.input"])
    converted = [folder / f"{image.stem}.ppm" for image in images]
    for image, path in zip(images, converted, strict=True):
        scoring.resized(upright(image), input).save(path)
    return from_lines(output(folder / "score", model, *converted))


def examples(
    folder: Path, model: Path, images: list[Path]
) -> Iterator[tuple[str, list[Path], Callable[[], Verdicts]]]:
    """The name, the images and the scoring function of each example."""
    given, script = images[0].parent, EXAMPLES / "python" / "score.py"
    yield "python/score.py", images, lambda: from_lines(output(sys.executable, script, model, *images))
    yield "batch/on_ray.py", images, lambda: from_job("on_ray.py", model, given, folder / "ray")
    yield "batch/on_spark.py", images, lambda: with_spark(model, given, folder / "spark")
    if model.name in THREE:
        return
    if properties(model).get("cac.resizes") == "true":
        yield "OpenVINO", images, lambda: on_openvino(model, images)
        yield "ONNX reference", images, lambda: on_reference(model, images)
    else:
        small = [image for image in images if image.suffix == ".png"]
        yield "c/score.c", small, lambda: with_c(model, small, folder / "c")


def compare(expected: Verdicts, found: Verdicts, images: list[Path]) -> str:
    """The largest difference of a score for each image format; raises an error if the results differ."""
    if found.keys() != {image.stem for image in images}:
        raise RuntimeError(f"{len(found)} images scored, expected {len(images)}")
    greatest: dict[str, float] = {}
    for image in images:
        one, other = expected[image.stem], found[image.stem]
        difference = abs(one.score - other.score)
        may_differ = one.unknown and image.suffix == ".jpg"
        is_same = one.unknown == other.unknown and (other.name in (one.name, None) or may_differ)
        if one.p_value is None or other.p_value is None:
            is_same &= one.p_value is other.p_value
        else:
            is_same &= abs(one.p_value - other.p_value) <= P_TOLERANCE[image.suffix]
        if not is_same or not difference <= TOLERANCE[image.suffix]:
            raise RuntimeError(f"{image.name}: {other}, expected {one}")
        greatest[image.suffix] = max(difference, greatest.get(image.suffix, 0))
    return ", ".join(f"{suffix} scores within {difference:.1e}" for suffix, difference in greatest.items())


def check(toolkit: Path, model: Path, images: list[Path], folder: Path) -> int:
    """Compares all examples on a model; returns how many fail."""
    failed = 0
    expected = from_toolkit(toolkit, model, images)
    folder.mkdir()
    print(f"{model.name}:", flush=True)
    for name, about, score in examples(folder, model, images):
        try:
            differences = compare(expected, score(), about)
        except LeftOut as reason:
            print(f"{name}: skipped, {reason}", flush=True)
        except Exception as error:  # report the failure and run the other examples
            failed += 1
            print(f"{name}: FAILED, {error}", flush=True)
        else:
            count = f"{len(about)} images{' and a broken one' if name.startswith('batch') else ''}"
            print(f"{name}: {count}, same classes and verdicts, {differences}", flush=True)
    return failed


def check_newer(model: Path, image: Path, newer: Path) -> int:
    """Writes a model of a later format, which the Python examples must refuse; returns how many do not."""
    changed = onnx.load(model)
    for entry in changed.metadata_props:
        if entry.key == "cac.format_version":
            entry.value = "99"
    onnx.save(changed, newer)
    scripts = {
        "python/score.py": [EXAMPLES / "python" / "score.py", newer, image],
        "batch/scoring.py": ["-c", "import scoring, sys; scoring.Scorer(sys.argv[1])", newer],
    }
    failed = 0
    for name, arguments in scripts.items():
        run = subprocess.run([sys.executable, *arguments], cwd=EXAMPLES / "batch", capture_output=True, text=True)
        is_refused = run.returncode != 0 and "its format is newer than this program" in run.stderr
        failed += not is_refused
        print(f"{name}: a newer format is {'refused' if is_refused else 'NOT REFUSED'}", flush=True)
    return failed


def main(toolkit: Path, *given_models: Path) -> int:
    with TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        given = folder / "images"
        given.mkdir()
        textures = sorted((EXAMPLES / "demo" / "textures").rglob("*.png"))[::20]
        originals = sorted((ROOT / "tests" / "golden" / "images").glob("*.jpg"))
        images = [Path(shutil.copy(path, given)) for path in textures + originals] + photographs.write(given)
        whole = originals[0].read_bytes()
        (given / BROKEN).write_bytes(whole[: len(whole) // 2])
        models = list(given_models)
        for fit in ("crop", "pad"):
            rule = ["--threshold", "1", "--fit", fit, "--filter", "bicubic", "--mean", "0.485,0.456,0.406"]
            for name, more in ((fit, []), (f"{fit}-in-the-graph", ["--resize"])):
                models.append(folder / f"{name}.onnx")
                output(toolkit, "import", WEIGHTS, models[-1], *rule, *more)
        for name, form in zip(THREE, (["--input", "u8"], ["--resize"]), strict=True):
            models.append(folder / name)
            output(toolkit, "import", WEIGHTS, models[-1], "--threshold", "1", "--batch", "3", *form)
        failed = sum(check(toolkit, model, images, folder / model.stem) for model in models)
        failed += check_newer(given_models[0], images[0], folder / "newer.onnx")
        return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*(Path(argument).resolve() for argument in sys.argv[1:])))
