#!/usr/bin/env python3
"""Compare a model's rejection score with pytorch-ood's detectors on the same features.

    python3 benches/detectors.py TOOLKIT MODEL.onnx FEATURES.npz [--score NAME]... [--rounds N]

FEATURES.npz is what `toolkit eval MODEL.onnx --keep-features` wrote. All detectors are fitted to its training images,
with pytorch-ood's default settings where it has them, and score its known and unknown images; `toolkit metrics` computes
the figures of all. Ours are the score of the model and each --score, by `toolkit metrics --features`, which fits them to the
same training images.

Each detector runs in its own process, on all CPU threads. Its time is that of fitting and scoring, its memory the peak
beyond that of the features. Time and memory of ours are those of the whole process, which reads the file and computes
the metrics. Prints a Markdown table: AUROC and the share of the unknown images caught when 95 % of the known
ones are kept, in per cent with 95 % intervals, and medians of seconds and MB; the others in the order of
their mean AUROC. Needs pytorch-ood (`make bench-detectors` installs it).
"""

import csv
import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from metrics import memory

OF_LOGITS = "MaxSoftmax MaxLogit EnergyBased Entropy GEN TemperatureScaling KLMatching OpenMax".split()
OF_FEATURES = "Mahalanobis RMD KNN ViM SHE NNGuide fDBD NCI GMM PNML DICE LTS ReAct VRA ASH SCALE".split()


def detector(name: str, head):
    """A detector of pytorch-ood for features and the last layer that reads them."""
    from pytorch_ood import detector

    kind = getattr(detector, name)
    if name == "ViM":
        # There is no default. The paper's values, and half of the features if there are fewer.
        width = head.in_features
        principal = 1000 if width >= 1500 else 512 if width >= 768 else width // 2
        return kind(None, d=principal, w=head.weight, b=head.bias)
    if name == "DICE":
        return kind(None, w=head.weight, b=head.bias, p=0.9)
    if name in ("ReAct", "VRA", "ASH", "SCALE"):
        return kind(None, head=lambda maps: head(maps.flatten(1)))
    if name in ("SHE", "NNGuide", "fDBD", "NCI", "PNML", "LTS"):
        return kind(None, head=head)
    return kind(None)


def score_images(name: str, features: str, scores: str) -> None:
    """Writes a detector's scores, and prints its seconds and bytes."""
    import numpy as np
    import scipy.stats  # noqa: F401  imported by some detectors on use
    import sklearn.neighbors  # noqa: F401
    import torch

    arrays = {key: torch.from_numpy(array) for key, array in np.load(features).items()}
    weight, bias = arrays["last_layer/weight"].float(), arrays["last_layer/bias"].float()
    head = torch.nn.Linear(weight.shape[1], weight.shape[0])
    head.weight.data, head.bias.data = weight, bias
    inputs = {key.removesuffix("/features"): value.float() for key, value in arrays.items() if key.endswith("/features")}
    made, form = detector(name, head), "features"
    if name in OF_LOGITS:
        form, inputs = "logits", {key: head(value).detach() for key, value in inputs.items()}
    elif hasattr(made, "predict_feature_maps"):
        # Of one pixel: the features that these detectors clip and scale are pooled already.
        form, inputs = "feature_maps", {key: value[:, :, None, None] for key, value in inputs.items()}
    training = inputs.pop("training")
    before, start = memory("VmRSS"), time.perf_counter()
    if hasattr(made, f"fit_{form}"):
        getattr(made, f"fit_{form}")(training, arrays["training/label"])
    with torch.no_grad():
        found = {key: getattr(made, f"predict_{form}")(value) for key, value in inputs.items()}
    cost = time.perf_counter() - start, max(0, memory("VmHWM") - before)
    with open(scores, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["set", "label", "score"])
        for key, values in found.items():
            rows.writerows(zip([key] * len(values), arrays[f"{key}/label"].tolist(), values.tolist()))
    print(json.dumps(cost))


def output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def cost_of(*command: str) -> tuple[float, int]:
    """Seconds and peak memory of a process."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return seconds, used.ru_maxrss * 1024


def line(name: str, rows: list, costs: list) -> str:
    cells = [name]
    for row in rows:
        low, high = row["intervals"]["auroc"]
        least, most = row["intervals"]["fpr_at_95_known_kept"]
        cells.append(f"{100 * row['auroc']:.1f} ({100 * low:.1f}-{100 * high:.1f})")
        cells.append(f"{100 * (1 - row['fpr_at_95_known_kept']):.1f} ({100 * (1 - most):.1f}-{100 * (1 - least):.1f})")
    seconds, most = zip(*costs)
    return "| " + " | ".join([*cells, f"{median(seconds):.2f}", f"{median(most) / 1e6:.0f}"]) + " |"


def main() -> None:
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("toolkit")
    parser.add_argument("model")
    parser.add_argument("features")
    parser.add_argument("--score", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    toolkit, features = str(Path(args.toolkit).resolve()), args.features
    ours = list(dict.fromkeys([json.loads(output(toolkit, "inspect", args.model, "--json"))["manifest"]["score"], *args.score]))
    names = ours + OF_LOGITS + OF_FEATURES
    costs, rows = {name: [] for name in names}, {}
    with TemporaryDirectory() as folder:
        scores = str(Path(folder) / "scores.csv")
        for round in range(args.rounds):
            for name in names:
                if name in ours:
                    table = [toolkit, "metrics", "--features", features, "--score", name]
                    costs[name].append(cost_of(*table, "--resamples", "0"))
                else:
                    table = [toolkit, "metrics", scores]
                    costs[name].append(json.loads(output(sys.executable, __file__, "--of", name, features, scores)))
                if round == 0:
                    found = json.loads(output(*table, "--json"))["rows"]
                    rows[name] = [row for row in found if row["name"] not in ("mean", "all")]
                print(f"round {round + 1}: {name}", file=sys.stderr)
    heads = [part for row in rows[ours[0]] for part in (f"{row['name']}, AUROC", "caught")]
    print("| " + " | ".join(["score", *heads, "s", "MB"]) + " |")
    print("|---" * (len(heads) + 3) + "|")
    others = sorted(names[len(ours) :], key=lambda name: -sum(row["auroc"] for row in rows[name]))
    for name in ours + others:
        print(line(name, rows[name], costs[name]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--of"]:
        score_images(*sys.argv[2:])
    else:
        main()
