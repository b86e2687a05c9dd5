#!/usr/bin/env python3
"""Score a folder of images with Ray Data, into Parquet files with path, class, score, unknown, p_value and error.

pip install numpy onnxruntime pandas pillow pyarrow 'ray[data]'
python3 on_ray.py MODEL.onnx IMAGES OUT [--workers N] [--batch-size N]

Starts Ray on this machine (two cores or more), or uses the cluster at RAY_ADDRESS. MODEL and IMAGES (a folder, or a URL
such as s3://...) must be readable on every node; OUT must be writable and new. A file that is not an image becomes a
row with an error only. p_value is null if the model has none. In a local folder, hidden files, folders that systems
create, and files whose names are not UTF-8 are skipped; from a URL, hidden files and those whose names begin with an
underscore.
"""

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
        paths = batch["path"].to_pylist()
        contents = batch["bytes"].to_pylist() if "bytes" in batch.column_names else map(scoring.content, paths)
        rows = self.rows(paths, contents)
        return pa.Table.from_pylist(rows, SCHEMA)


if __name__ == "__main__":
    args = scoring.arguments("Score a folder of images with Ray Data.")
    ray.init(runtime_env={"py_modules": [scoring]})
    files = scoring.local_files(args.images)
    if files is None:
        images = ray.data.read_binary_files(args.images, include_paths=True)
    else:
        # Ray would change some names, so the workers read local files themselves.
        images = ray.data.from_items([{"path": str(file)} for file in files])
    rows = images.map_batches(
        Scorer,
        fn_constructor_args=(args.model,),
        compute=ActorPoolStrategy(min_size=1, max_size=args.workers),
        batch_size=args.batch_size,
        batch_format="pyarrow",
    )
    rows.write_parquet(args.out, mode=SaveMode.CREATE)
