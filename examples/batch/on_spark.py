#!/usr/bin/env python3
"""Score a folder of images with Spark, into Parquet files with path, class, score, unknown, p_value and error.

pip install numpy onnxruntime 'pandas<3' pillow pyarrow pyspark
python3 on_spark.py MODEL.onnx IMAGES OUT [--workers N] [--batch-size N]

Needs Java 17 or later. Runs on this machine, or with `spark-submit --master URL on_spark.py ...` and the same arguments
on a cluster. MODEL and IMAGES (a folder, or a URL such as s3a://...) must be readable on every node; OUT must be
writable and new. A file that is not an image becomes a row with an error only. p_value is null if the
model has none. Spark skips empty files, and those with a name that begins with a dot or an underscore in
their path below IMAGES.
"""

import os
import sys
from collections.abc import Iterator

import pandas as pd
import scoring
from pyspark.sql import SparkSession

SCHEMA = "path string, class string, score float, unknown boolean, p_value float, error string"

if __name__ == "__main__":
    args = scoring.arguments("Score a folder of images with Spark.")

    def score(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """Runs once per partition, so the model is opened once."""
        scorer = scoring.Scorer(args.model)
        for batch in batches:
            yield pd.DataFrame(scorer.rows(batch["path"], batch["bytes"]))

    files = scoring.local_files(args.images) or []
    underscored = [file for file in files if "/_" in f"/{file.relative_to(args.images).as_posix()}"]
    empty = [file for file in files if not file.stat().st_size]
    for skipped, what in [(underscored, "whose names begin with an underscore"), (empty, "that are empty")]:
        if skipped:
            print(f"Spark skips {len(skipped)} files {what}: {skipped[0]}, ...", file=sys.stderr)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = (
        SparkSession.builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", args.batch_size)
        .config("spark.sql.files.openCostInBytes", 4096)  # the default of 4 MB limits a partition to 32 images
        .getOrCreate()
    )
    spark.sparkContext.addPyFile(scoring.__file__)
    images = spark.read.format("binaryFile").option("recursiveFileLookup", True).load(args.images)
    images = images.selectExpr("regexp_replace(path, '^file:', '') AS path", "content AS bytes")
    images.coalesce(args.workers).mapInPandas(score, SCHEMA).write.parquet(args.out)
