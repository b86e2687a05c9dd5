#!/usr/bin/env python3
"""Make the golden numbers of the metrics with other toolkits and with exact fractions: metrics.json.

    python3 metrics.py ARPL

ARPL is a git directory of github.com/iCGY96/ARPL. Unknown is positive, a larger score is more likely unknown,
flagged is score >= t. Infinities are the strings "inf" and "-inf".

versions  of the packages used
cases     scores, all float32, and their metrics, rounded from fractions. `delong` is the normal 95 % interval
          [low, high] of the AUROC, not clipped; it and `auroc_variance` are null if a side has one score. The
          case with `generated` is made by formula, see `cases`, and scikit-learn
faults    scores or logits for which the result of a toolkit, run here, is not the exact value

Toolkits that share a definition must agree to a relative EXACT, or FLOAT32 if they compute in float32.
Needs PyTorch, NumPy, scikit-learn, torchmetrics, pytorch-ood, MLstatkit, oodeel and detectors.
"""
import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from importlib.metadata import version
from importlib.util import find_spec
from math import exp, inf, isclose, isinf, log1p, sqrt
from pathlib import Path
from statistics import variance

import numpy as np
import torch
from MLstatkit import Delong_test
from oodeel.eval.metrics import bench_metrics
from pytorch_ood.loss import CACLoss
from pytorch_ood.metrics import functional as ood
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve
from torchmetrics.functional import classification as tm

PACKAGES = "numpy torch scikit-learn torchmetrics pytorch-ood MLstatkit oodeel detectors".split()
EXACT, FLOAT32 = 1e-12, 1e-5


def random(start: int, count: int) -> np.ndarray:
    """splitmix64 of start, start + 1, ..."""
    z = np.arange(start, start + count, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(start: int, count: int) -> np.ndarray:
    """In [0, 1), float64."""
    return (random(start, count) >> np.uint64(11)) * 2.0**-53


def rights(count: int) -> np.ndarray:
    return random(0, count) % np.uint64(10) != 0


def float32(scores) -> np.ndarray:
    return np.array(scores, np.float32).astype(np.float64)


def small() -> Iterator[tuple]:
    """Names, known scores, unknown scores."""
    integers = lambda start, count, below: np.floor(uniform(start, count) * below)
    yield "separated", [0, 1, 2, 3, 4], [5, 6, 7]
    yield "inverted", [5, 6, 7], [0, 1, 2, 3, 4]
    yield "constant", [1.5] * 8, [1.5] * 3
    yield "all wrong", [0, 1, 1, 4], [1, 2, 3]
    for known, unknown in (1, 2), (2, 1), (1, 1):
        yield f"one each, {known} and {unknown}", [known], [unknown]
    yield "one known", [1], [0, 1, 2, 3]
    yield "one unknown", [0, 1, 2, 3], [2]
    yield "many ties", integers(0, 200, 8), integers(200, 150, 8) + 2
    yield "tied pairs", np.arange(20), np.arange(20)
    yield "infinities", [-inf, -inf, -1, 0, 3, inf], [-inf, 0, 2, inf, inf]
    yield "only infinities", [-inf, -inf, inf], [-inf, inf, inf]
    yield "float32", 10 * uniform(400, 90) - 12, 10 * uniform(500, 70) - 9
    least, normal = 2.0**-149, 2.0**-126
    yield "denormals and signed zeros", [-0.0, 0.0, -least, normal - least], [0.0, least, -0.0, normal, 2 * least]
    yield "neighbours and extremes", [1, 16777216, 1e30, -3e38], [1 + 2.0**-23, 16777214, 3e38, 1]
    yield "3 against 500", [0.25, 0.5, 0.75], np.sqrt(uniform(600, 500))
    yield "500 against 3", uniform(1100, 500), [0.5, 0.75, 1]
    for n in 18, 19, 20, 21, 39, 40, 41, 59, 60, 61:
        yield f"95 % of {n}", np.arange(n), np.arange(n) + n // 3 + 0.5
        yield f"95 % of {n}, ties", integers(2000, n, 9), integers(2000 + n, n, 9) + 1
    for n in 19, 20, 21:
        yield f"95 % of {n}, a known outlier", [*range(1, n), 99], [*range(50, 60)]
        yield f"95 % of {n}, an unknown outlier", [*range(50, 60)], [0, *range(80, 79 + n)]


def area(points: list[tuple]) -> Fraction:
    """Trapezoids under (x, y)."""
    return abs(sum((b[0] - a[0]) * (a[1] + b[1]) for a, b in zip(points, points[1:]))) / 2


def brute_force(known: list[float], right: list[bool], unknown: list[float]) -> dict[str, float]:
    """Every metric by its definition, in fractions."""
    n, p = len(known), len(unknown)
    correct = [score for score, good in zip(known, right) if good]
    # From nothing flagged, not even inf, to everything.
    flagged = lambda t: [sum(score >= t for score in side) for side in (known, unknown, correct)]
    curve = [[0, 0, 0], *map(flagged, sorted({*known, *unknown}, reverse=True))]
    rates = [(Fraction(k, n), Fraction(u, p)) for k, u, _ in curve]
    placed = [[Fraction((u > k) - (u < k) + 1, 2) for k in known] for u in unknown]
    exact = {
        "auroc": sum(map(sum, placed)) / n / p,
        "aupr_in": area([(Fraction(n - k, n), Fraction(n - k, n - k + p - u)) for k, u, _ in curve[:-1]] + [(0, 1)]),
        "aupr_out": area([(0, 1)] + [(Fraction(u, p), Fraction(u, u + k)) for k, u, _ in curve[1:]]),
        "fpr95_tpr": next(k for k, u in rates if u >= Fraction(95, 100)),
        "fpr_at_95_known_kept": next(1 - u for k, u in reversed(rates) if 1 - k >= Fraction(95, 100)),
        "oscr": area([(Fraction(p - u, p), Fraction(len(correct) - c, n)) for _, u, c in curve]),
        "detection_accuracy": max((u + 1 - k) / 2 for k, u in rates),
        "accuracy": Fraction(sum(right), n),
    }
    if min(n, p) > 1:
        sides = [sum(row) / n for row in placed], [sum(column) / p for column in zip(*placed)]
        exact["auroc_variance"] = sum(variance(side) / len(side) for side in sides)
    return {name: float(value) for name, value in exact.items()}


def at_95(fpr: np.ndarray, tpr: np.ndarray, *_) -> float:
    return fpr[np.argmax(tpr >= 0.95)]


def toolkits(known: np.ndarray, right: np.ndarray, unknown: np.ndarray) -> Iterator[tuple[str, float, float]]:
    """Each metric, the result of a toolkit, and its tolerance; the first result of a metric is float64."""
    scores, is_unknown = np.concatenate([known, unknown]), np.repeat([0, 1], [len(known), len(unknown)])
    chosen = np.concatenate([right, np.ones_like(unknown, bool)])
    rank = np.unique(scores, return_inverse=True)[1]  # scikit-learn, torchmetrics and MLstatkit refuse infinities
    fpr, tpr, _ = roc_curve(is_unknown, rank, drop_intermediate=False)
    aupr = lambda curve: auc(curve[1], curve[0])
    yield "auroc", roc_auc_score(is_unknown, rank), EXACT
    yield "aupr_in", aupr(precision_recall_curve(1 - is_unknown, -rank)), EXACT
    yield "aupr_out", aupr(precision_recall_curve(is_unknown, rank)), EXACT
    yield "fpr95_tpr", at_95(fpr, tpr), EXACT
    yield "fpr_at_95_known_kept", at_95(*roc_curve(1 - is_unknown, -rank, drop_intermediate=False)), EXACT
    # The AUROC of the correct known images, times their share.
    yield "oscr", right.mean() * roc_auc_score(is_unknown[chosen], rank[chosen]) if right.any() else 0.0, EXACT
    yield "detection_accuracy", ((tpr + 1 - fpr) / 2).max(), EXACT
    yield "accuracy", right.mean(), EXACT
    s, labels, classes = map(torch.from_numpy, (scores, -is_unknown, np.where(chosen, 0, 1)))
    yield "auroc", ood.auroc(s, labels).item(), EXACT
    yield "aupr_in", ood.aupr(s, labels, "id").item(), EXACT
    yield "aupr_out", ood.aupr(s, labels, "ood").item(), EXACT
    yield "fpr95_tpr", ood.fpr_at_tpr(s, labels).item(), EXACT
    yield "fpr_at_95_known_kept", ood.fpr_at_tpr(-s, -1 - labels).item(), EXACT
    yield "oscr", ood.oscr_score(s, classes, labels), EXACT
    yield "accuracy", ood.accuracy(classes, labels).item(), EXACT
    s, labels = torch.from_numpy(rank / max(1, rank.max())), -labels
    yield "auroc", tm.binary_auroc(s, labels).item(), FLOAT32
    yield "aupr_in", aupr(tm.binary_precision_recall_curve(1 - s, 1 - labels)), FLOAT32
    yield "aupr_out", aupr(tm.binary_precision_recall_curve(s, labels)), FLOAT32
    yield "fpr95_tpr", 1 - tm.binary_specificity_at_sensitivity(s, labels, 0.95)[0].item(), FLOAT32
    if min(len(known), len(unknown)) > 1:
        # Of the difference from a constant score, whose AUROC has no variance; None stands for 0.
        difference = Delong_test(is_unknown, rank, 0 * rank, n_boot=100, random_state=0)[-1]
        yield "auroc_variance", difference["var_diff"] or 0.0, EXACT


def expected(known: np.ndarray, right: np.ndarray, unknown: np.ndarray, exact: bool = True) -> dict:
    values = brute_force(known.tolist(), right.tolist(), unknown.tolist()) if exact else {}
    for name, value, bound in toolkits(known, right, unknown):
        wanted = values.setdefault(name, float(value))
        assert isclose(value, wanted, rel_tol=bound), (name, value, wanted)
    if "auroc_variance" not in values:
        return values | {"auroc_variance": None, "delong": None}
    reach = 1.959963984540054 * sqrt(values["auroc_variance"])
    return values | {"delong": [values["auroc"] - reach, values["auroc"] + reach]}


def cases() -> Iterator[dict]:
    listed = lambda side: [str(score) if isinf(score) else score for score in side.tolist()]
    for name, *sides in small():
        known, unknown = map(float32, sides)
        right = rights(len(known)) & (name != "all wrong")
        case = {"name": name, "known": listed(known), "right": right.tolist(), "unknown": listed(unknown)}
        yield case | {"expected": expected(known, right, unknown)}
    values = expected(float32(uniform(0, 700_000)), rights(700_000), float32(np.sqrt(uniform(700_000, 300_000))), False)
    yield {"name": "a million", "generated": {"known": 700_000, "unknown": 300_000}, "expected": values}


def metric_faults(arpl: dict, detectors: dict) -> Iterator[tuple]:
    """Toolkit, metric, case, its result, the exact value, and why they differ."""
    logits = lambda confidence: np.stack([confidence, confidence - 1], axis=1)
    oscr = lambda known, unknown: arpl["compute_oscr"](logits(-known), logits(-unknown), np.zeros(len(known)))
    metric_ood = lambda key: lambda *sides: arpl["metric_ood"](*map(np.negative, sides), ["s"], False)["s"][key] / 100
    accepted = lambda *sides: 1 - metric_ood("TNR")(*sides)
    bench = lambda key: lambda *sides: bench_metrics(sides, metrics=[key])[key]
    results = lambda key: lambda *sides: detectors["get_ood_results"](*map(np.negative, sides))[key]
    labelled = lambda *sides: (np.repeat([0, 1], [len(side) for side in sides]), np.concatenate(sides))
    roc = lambda *sides: at_95(*roc_curve(*labelled(*sides)))
    squashed = lambda *sides: tm.binary_auroc(*map(torch.from_numpy, labelled(*sides)[::-1]))
    apart, mixed, twenty = ([0, 1], [2, 3]), ([0, 1, 2, 4, 5], [3, 6, 7]), range(20)
    dropped = "roc_curve drops points on a line between others, here all but the ends"
    merged = "takes the sigmoid of all scores if one is not in 0..=1, which merges some"
    for toolkit, metric, sides, measure, why in [
        ("ARPL", "oscr", apart, oscr, "counts the unknown from the k-th score on, the known from the next one on"),
        ("ARPL", "auroc", ([0, 0], [0, 0]), metric_ood("AUROC"), "takes tied scores in turn, the known ones first"),
        ("ARPL", "aupr_in", apart, metric_ood("AUIN"), "has precision 0 at recall 0"),
        ("ARPL", "aupr_out", apart, metric_ood("AUOUT"), "has precision 0 at recall 0"),
        ("ARPL", "fpr_at_95_known_kept", (twenty, [18.5]), accepted, "takes the highest one that keeps 95 %"),
        ("oodeel", "auroc", mixed, bench("auroc"), "takes every fourth score alone as a threshold"),
        ("oodeel", "fpr95_tpr", (twenty, np.arange(10.5, 30)), bench("fpr95tpr"), "takes the first under 95 %"),
        ("oodeel", "detection_accuracy", (range(9), [-1]), bench("detect_acc"), "does not balance the two sides"),
        ("detectors", "aupr_out", mixed, results("aupr_out"), "swaps the labels without negating the score"),
        ("detectors", "fpr_at_95_known_kept", (twenty, twenty), results("fpr_at_0.95_tpr"), dropped),
        ("scikit-learn", "fpr95_tpr", (twenty, twenty), roc, dropped),
        ("torchmetrics", "auroc", ([100, 101], [200, 201]), squashed, merged),
        ("torchmetrics", "auroc", ([1e-20, 2e-20], [3e-20, 1.5]), squashed, merged),
    ]:
        known, unknown = map(float32, sides)
        case = {"known": known.tolist(), "right": [True] * len(known), "unknown": unknown.tolist()}
        yield toolkit, metric, case, float(measure(known, unknown)), brute_force(**case)[metric], why


def cac_faults() -> Iterator[tuple]:
    why = "sums over the classes 0 to C - 2, the true one too where it is among them: then at least log 2"
    for magnitude, logits, label in (1.0, [1.0, 0.0, 0.0], 0), (10.0, [0.0, 10.0, 0.0], 1), (1.0, [0.5, -1.0, 2.0], 1):
        criterion = CACLoss(n_classes=3, magnitude=magnitude, alpha=0.0).double()
        theirs = criterion(criterion.distance(torch.tensor([logits]).double()), torch.tensor([label])).item()
        squares = [sum((z - magnitude * (i == c)) ** 2 for i, z in enumerate(logits)) for c in range(3)]
        exact = log1p(sum(exp(squares[label] - squares[c]) for c in range(3) if c != label))
        case = {"logits": [logits], "labels": [label], "magnitude": magnitude, "weight": 0.0}
        yield "pytorch-ood", "cac loss", case, theirs, exact, why
    logits = torch.tensor([[10.0, 0.0, 0.0], [30.0, 0.0, 0.0]]).double()
    squares = CACLoss(n_classes=3, magnitude=10.0).double().distance(logits)
    exact = (squares.sqrt() * (1 - torch.softmax(-squares.sqrt(), 1))).min(1).values.tolist()
    case, why = {"logits": logits.tolist(), "magnitude": 10.0}, "takes three times the anchor for more known than it"
    yield "pytorch-ood", "score", case, CACLoss.score(squares).tolist(), exact, why


def main(arpl: str) -> None:
    git = lambda *words: subprocess.run(["git", f"--git-dir={arpl}", *words], check=True, capture_output=True).stdout
    versions = {name: version(name) for name in PACKAGES} | {"ARPL": git("rev-parse", "HEAD").decode().strip()}
    np.trapz = np.trapezoid  # as ARPL calls it
    exec(git("show", "HEAD:core/evaluation.py"), evaluation := {})
    detectors = runpy.run_path(f"{find_spec('detectors').submodule_search_locations[0]}/eval.py")
    names, faults = ["toolkit", "version", "metric", "case", "theirs", "exact", "why"], []
    for toolkit, *fault in [*metric_faults(evaluation, detectors), *cac_faults()]:
        faults.append(dict(zip(names, [toolkit, versions[toolkit], *fault])))
        assert not np.allclose(faults[-1]["theirs"], faults[-1]["exact"]), faults[-1]
    rows = lambda items: "[\n" + ",\n".join(json.dumps(item, allow_nan=False) for item in items) + "\n]"
    text = f'{{"versions": {json.dumps(versions)},\n"cases": {rows(cases())},\n"faults": {rows(faults)}}}\n'
    Path(__file__).with_name("metrics.json").write_text(text)


if __name__ == "__main__":
    main(sys.argv[1])
