#!/usr/bin/env python3
"""Score a folder of images with Ray Data, into Parquet files with path, class, score, unknown, p_value and error.

pip install numpy onnxruntime pandas pillow pyarrow 'ray[data]'
python3 on_ray.py MODEL.onnx IMAGES OUT [--workers N] [--batch-size N]

Starts Ray on this machine (two cores or more), or uses the cluster at RAY_ADDRESS. MODEL and IMAGES (a folder, or a URL
such as s3://...) must be readable on every node; OUT must be writable and new. A file that is not an image becomes a
row with an error only. p_value is null if the model has none. Hidden files are left out; for a URL,
also those whose name begins with an underscore.
"""

import sys

import pyarrow as pa
import ray
import scoring
from ray.data import ActorPoolStrategy, SaveMode

SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "class": pa.string(),
        "score": pa.float32(),
        "unknown": pa.bool_(),
        "p_value": pa.float32(),
        "error": pa.string(),
    }
)


class Scorer(scoring.Scorer):
    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = self.rows(batch["path"].to_pylist(), batch["bytes"].to_pylist())
        return pa.Table.from_pylist(rows, SCHEMA)


if __name__ == "__main__":
    args = scoring.arguments("Score a folder of images with Ray Data.")
    ray.init(runtime_env={"py_modules": [scoring]})
    # Ray skips files in a folder whose names begin with an underscore, as a camera's may.
    files = scoring.local_files(args.images)
    if files and (broken := [file for file in files if "\n" in str(file)]):
        print(f"Ray skips {len(broken)} files with a line break in their path: {broken[0]!r}, ...", file=sys.stderr)
        files = [file for file in files if "\n" not in str(file)]
    images = ray.data.read_binary_files(args.images if files is None else [str(file) for file in files], include_paths=True)
    rows = images.map_batches(
        Scorer,
        fn_constructor_args=(args.model,),
        compute=ActorPoolStrategy(min_size=1, max_size=args.workers),
        batch_size=args.batch_size,
        batch_format="pyarrow",
    )
    rows.write_parquet(args.out, mode=SaveMode.CREATE)
