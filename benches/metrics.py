#!/usr/bin/env python3
"""Compare time and memory of the metrics with scikit-learn, torchmetrics and pytorch-ood.

    python3 benches/metrics.py BENCH [ROUNDS] [COUNT...]

BENCH is the program built from metrics.rs. For each number of scores (1e4, 1e6, 1e8 by default), the toolkits
run in turn, each in its own process, for ROUNDS rounds. All get the same scores, nine in ten known. The other
toolkits compute AUROC, AUPR-IN, AUPR-OUT and FPR at 95 % TPR; ours also computes OSCR, the other FPR and
detection accuracy. Prints median seconds, peak memory beyond that of the scores, and the ratios to ours. Needs
scikit-learn, torchmetrics and pytorch-ood (`make bench-metrics` installs them).
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

OTHERS = ["scikit-learn", "torchmetrics", "pytorch-ood"]


def memory(figure: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(figure))


def scores(count: int):
    import numpy as np

    z = np.arange(count, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    unit = (z >> np.uint64(11)) * 2.0**-53
    known = count // 10 * 9
    unit[known:] **= 0.5
    return unit.astype(np.float32), np.arange(count) >= known


def scikit_learn(values, unknown):
    from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve

    def aupr(positive, values):
        precision, recall, _ = precision_recall_curve(positive, values)
        return auc(recall, precision)

    false, true, _ = roc_curve(unknown, values, drop_intermediate=False)
    return [
        roc_auc_score(unknown, values),
        aupr(~unknown, -values),
        aupr(unknown, values),
        false[(true >= 0.95).argmax()],
    ]


def torchmetrics(values, unknown):
    import torch
    from torchmetrics.functional.classification import binary_auroc, binary_precision_recall_curve, binary_roc
    from torchmetrics.utilities.compute import auc

    values, unknown = torch.from_numpy(values), torch.from_numpy(unknown).int()

    def aupr(positive, values):
        precision, recall, _ = binary_precision_recall_curve(values, positive)
        return auc(recall, precision, reorder=False)

    false, true, _ = binary_roc(values, unknown)
    figures = [binary_auroc(values, unknown), aupr(1 - unknown, 1 - values), aupr(unknown, values)]
    return [float(figure) for figure in [*figures, false[(true >= 0.95).int().argmax()]]]


def pytorch_ood(values, unknown):
    import torch
    from pytorch_ood.metrics import OODMetrics

    table = OODMetrics()
    table.update(torch.from_numpy(values), -torch.from_numpy(unknown).long())
    figures = table.compute()
    return [figures[name] for name in ("AUROC", "AUPR-IN", "AUPR-OUT", "FPR95TPR")]


def other(toolkit: str, count: int) -> None:
    """Print one measurement as a line of JSON."""
    measure = globals()[toolkit.replace("-", "_")]
    measure(*scores(1000))  # warm up imports and threads
    values, unknown = scores(count)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    start = time.perf_counter()
    figures = [float(figure) for figure in measure(values, unknown)]
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "bytes": memory("VmHWM") - before, "metrics": figures}))


def run(command: list) -> dict:
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def main(bench: str, rounds: int, counts: list[int]) -> None:
    for count in counts:
        runs = {name: [] for name in ["ours", "ours, streamed", *OTHERS]}
        for _ in range(rounds):
            ours = run([bench, str(count)])
            runs["ours"].append(ours)
            runs["ours, streamed"].append(ours["stream"])
            for name in OTHERS:
                theirs = run([sys.executable, __file__, name, str(count)])
                runs[name].append(theirs)
                fields = ["auroc", "aupr_in", "aupr_out", "fpr95_tpr"]
                # torchmetrics computes in single precision.
                for field, figure in zip(fields, theirs["metrics"]):
                    assert abs(ours["metrics"][field] - figure) < 1e-3, (name, field, figure)
        middle = {name: [median(run[of] for run in runs[name]) for of in ("seconds", "bytes")] for name in runs}
        print(f"{count:,} scores, medians of {rounds} rounds")
        for name, (seconds, size) in middle.items():
            times, memory_times = seconds / middle["ours"][0], size / middle["ours"][1]
            print(f"  {name:15} {seconds:10.4f} s {times:7.1f} x {size / 1e6:10.1f} MB {memory_times:6.1f} x")


if __name__ == "__main__":
    if sys.argv[1] in OTHERS:
        other(sys.argv[1], int(sys.argv[2]))
    else:
        counts = [int(float(count)) for count in sys.argv[3:]] or [10**4, 10**6, 10**8]
        main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3, counts)
