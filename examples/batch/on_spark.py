#!/usr/bin/env python3
"""Score a folder of images with Spark, into Parquet files with path, class, score, unknown, p_value and error.

pip install numpy onnxruntime 'pandas<3' pillow pyarrow pyspark
python3 on_spark.py MODEL.onnx IMAGES OUT [--workers N] [--batch-size N]

Needs Java 17 or later. Runs on this machine, or with `spark-submit --master URL on_spark.py ...` and the same arguments
on a cluster. MODEL and IMAGES (a folder, or a URL such as s3a://...) must be readable on every node; OUT must be
writable and new. A file that is not an image becomes a row with an error only. p_value is null if the
model has none. In a local folder, hidden files, folders that systems create, and files whose names are not UTF-8 are
skipped; from a URL, hidden files, empty ones, and those whose names begin with an underscore.
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
            # Spark would read names as patterns and URIs, so the workers read local files themselves.
            contents = batch["bytes"] if "bytes" in batch else map(scoring.content, batch["path"])
            yield pd.DataFrame(scorer.rows(batch["path"], contents))

    files = scoring.local_files(args.images)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = (
        SparkSession.builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", args.batch_size)
        .config("spark.sql.files.openCostInBytes", 4096)  # the default of 4 MB limits a partition to 32 images
        .getOrCreate()
    )
    spark.sparkContext.addPyFile(scoring.__file__)
    if files is None:
        images = spark.read.format("binaryFile").option("recursiveFileLookup", True).load(args.images)
        images = images.selectExpr("path", "content AS bytes").coalesce(args.workers)
    else:
        images = spark.createDataFrame([(str(file),) for file in files], "path string").repartition(args.workers)
    images.mapInPandas(score, SCHEMA).write.parquet(args.out)
