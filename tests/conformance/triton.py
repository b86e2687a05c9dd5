#!/usr/bin/env python3
"""Check the model repositories that the toolkit writes, and their KServe services, against Triton's own schema.

    python tests/conformance/triton.py TOOLKIT WEIGHTS RUN

WEIGHTS is a checkpoint for `toolkit import`, whose model has no p-values; RUN is a run folder for `toolkit export`,
whose model has all outputs. Every tensor of the configuration must match the model file in name, type
and, with Triton's batch axis in front, shape. No server is started.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import yaml
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

TYPES = {
    "FLOAT": DataType.TYPE_FP32,
    "UINT8": DataType.TYPE_UINT8,
    "INT64": DataType.TYPE_INT64,
    "BOOL": DataType.TYPE_BOOL,
}


def tensors(values: list[onnx.ValueInfoProto]) -> dict[str, tuple[int, list[int | None]]]:
    """The type and shape of each value; None stands for a dynamic axis."""
    found = {}
    for value in values:
        tensor = value.type.tensor_type
        shape = [axis.dim_value if axis.HasField("dim_value") else None for axis in tensor.shape.dim]
        found[value.name] = (TYPES[onnx.TensorProto.DataType.Name(tensor.elem_type)], shape)
    return found


def check(folder: Path) -> None:
    config = text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())
    assert config.name == folder.name and config.backend == "onnxruntime", config
    versions = sorted(path.name for path in folder.iterdir() if path.is_dir())
    model = onnx.load(folder / versions[-1] / "model.onnx")
    labels = (folder / "labels.txt").read_text().splitlines()
    batch = [None] if config.max_batch_size else []
    # Triton leaves out inputs that have a value in the file.
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    for stated, held in ((config.input, tensors(inputs)), (config.output, tensors(model.graph.output))):
        assert [tensor.name for tensor in stated] == list(held), stated
        for tensor in stated:
            dims = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
            dims = [None if length == -1 else length for length in dims]
            assert (tensor.data_type, [*batch, *dims]) == held[tensor.name], tensor
    logits = next(tensor for tensor in config.output if tensor.name == "logits")
    assert logits.label_filename == "labels.txt" and logits.dims[-1] == len(labels), labels
    assert bool(config.max_batch_size) == config.HasField("dynamic_batching"), config

    service = yaml.safe_load(folder.with_suffix(".yaml").read_text())
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService"), service
    assert service["metadata"]["name"] == folder.name, service
    predictor = service["spec"]["predictor"]["model"]
    assert predictor["runtime"] == "kserve-tritonserver" and predictor["storageUri"], predictor


def main(toolkit: Path, weights: Path, run: Path) -> None:
    forms: list[list[str]] = [
        [],
        ["--input", "u8"],
        ["--batch", "4"],
        ["--input", "u8", "--batch", "2"],
        ["--no-features"],
        ["--threshold-input"],
        ["--resize"],
    ]
    with TemporaryDirectory() as temporary:
        repository = Path(temporary) / "models"
        for number, form in enumerate(forms):
            for name, source in (("import", [weights, "--threshold", "1"]), ("export", ["--run", run])):
                file = Path(temporary) / f"{name}-{number}.onnx"
                command = [toolkit, name, *source, file, "--triton", repository, *form]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                check(repository / file.stem)
    print(f"{2 * len(forms)} model repositories match Triton's schema and their files")


if __name__ == "__main__":
    main(*(Path(argument).resolve() for argument in sys.argv[1:]))
