#!/usr/bin/env python3
"""Score a folder of pictures with Ray Data, into Parquet files with path, class, score, unknown and error.

pip install numpy onnxruntime pandas pillow pyarrow 'ray[data]'
python3 on_ray.py MODEL.onnx PICTURES OUT [--workers N] [--batch-size N]

Starts Ray on this machine (of two cores or more), or runs on the cluster that RAY_ADDRESS names. MODEL and PICTURES (a
folder, or a URL such as s3://...) must be readable on every machine of it, OUT writable and new. A file that is no
picture becomes a row with an error and nothing else.
"""

import pyarrow as pa
import ray
import scoring
from ray.data import ActorPoolStrategy, SaveMode

SCHEMA = pa.schema(
    {"path": pa.string(), "class": pa.string(), "score": pa.float32(), "unknown": pa.bool_(), "error": pa.string()}
)


class Scorer(scoring.Scorer):
    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = self.rows(batch["path"].to_pylist(), batch["bytes"].to_pylist())
        return pa.Table.from_pylist(rows, SCHEMA)


if __name__ == "__main__":
    args = scoring.arguments("Score a folder of pictures with Ray Data.")
    ray.init(runtime_env={"py_modules": [scoring]})
    pictures = ray.data.read_binary_files(args.pictures, include_paths=True)
    rows = pictures.map_batches(
        Scorer,
        fn_constructor_args=(args.model,),
        compute=ActorPoolStrategy(min_size=1, max_size=args.workers),
        batch_size=args.batch_size,
        batch_format="pyarrow",
    )
    rows.write_parquet(args.out, mode=SaveMode.CREATE)
