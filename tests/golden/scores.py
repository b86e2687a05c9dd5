#!/usr/bin/env python3
"""Write score files as NumPy and spreadsheets do, with the AUROC and the accuracy of scikit-learn: scores/.

    python3 scores.py

fortran.npz       scores [30, 40] in Fortran order, labels and predictions in C order
both.npz          all three in Fortran order
column.npz        compressed, [1200, 1]: big-endian half-precision scores, 16-bit labels, 8-bit predictions
plain.npz         [1200] of single precision, with labels in double precision
semicolons.csv    UTF-8 with a byte order mark, CRLF, all fields quoted
tabs.tsv          tabs
expected.json     for each file `auroc` of the scores as they are stored, unknown positive, and `accuracy`
"""
import csv
import json
from pathlib import Path

import numpy as np
from sklearn.metrics import accuracy_score, roc_auc_score

HERE = Path(__file__).resolve().parent / "scores"


def main() -> None:
    HERE.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    labels = random.integers(-1, 5, (30, 40))
    scores = random.normal(size=labels.shape) + 1.4 * (labels < 0)
    predictions = np.where(random.random(labels.shape) < 0.8, labels, 2).clip(0)
    expected = {}

    def measure(name: str, scores: np.ndarray) -> None:
        known = labels.ravel() >= 0
        expected[name] = {
            "auroc": roc_auc_score(~known, scores.ravel().astype(float)),
            "accuracy": accuracy_score(labels.ravel()[known], predictions.ravel()[known]),
        }

    def fortran(array: np.ndarray) -> np.ndarray:
        return np.asfortranarray(array)

    np.savez(HERE / "fortran.npz", score=fortran(scores), label=labels, prediction=predictions)
    measure("fortran.npz", scores)
    np.savez(HERE / "both.npz", score=fortran(scores), label=fortran(labels), prediction=fortran(predictions))
    measure("both.npz", scores)
    half = scores.reshape(-1, 1).astype(">f2")
    column = {"label": labels.reshape(-1, 1).astype(">i2"), "prediction": predictions.reshape(-1, 1).astype("u1")}
    np.savez_compressed(HERE / "column.npz", score=half, **column)
    measure("column.npz", half)
    single = scores.ravel().astype("f4")
    np.savez(HERE / "plain.npz", score=single, label=labels.ravel().astype(float), prediction=predictions.ravel())
    measure("plain.npz", single)
    rows = list(zip(labels.ravel(), predictions.ravel(), scores.ravel()))
    for name, style, options in (
        ("semicolons.csv", {"delimiter": ";", "quoting": csv.QUOTE_ALL}, {"encoding": "utf-8-sig"}),
        ("tabs.tsv", {"delimiter": "\t", "lineterminator": "\n"}, {}),
    ):
        with (HERE / name).open("w", newline="", **options) as file:
            writer = csv.writer(file, **style)
            writer.writerow(["label", "prediction", "score"])
            writer.writerows(rows)
        measure(name, scores)
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
