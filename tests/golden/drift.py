#!/usr/bin/env python3
"""Make the golden numbers of drift with other packages: drift.json.

    python3 drift.py

versions            of the packages used
martingales         p-values and log10 of online-cp's simple jumper after each, with the epsilons -1, 0, 1 and jump rate
                    0.01: uniform ones; uniform, then small, then large ones; ends of the range; 200 small ones
kolmogorov_smirnov  two samples with ties, the statistic of SciPy's ks_2samp, and the p-value of scipy.special.kolmogorov
wilson              count, total, and Wilson's 95 % interval of SciPy's binomtest

Needs online-cp, NumPy and SciPy.
"""
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from online_cp.martingale import SimpleJumper
from scipy.special import kolmogorov
from scipy.stats import binomtest, ks_2samp

random = np.random.default_rng(1)


def martingale(p_values: list[float]) -> dict:
    jumper = SimpleJumper(J=0.01, E=[-1, 0, 1])
    for p in p_values:
        jumper.update(p)
    log10 = [value / np.log(10) for value in jumper.log_martingale_values[-len(p_values):]]
    return {"p_values": p_values, "log10": [float(value) for value in log10]}


def comparison(a: np.ndarray, b: np.ndarray) -> dict:
    a, b = [np.sort(side).astype(np.float32) for side in (a, b)]
    statistic = float(ks_2samp(a, b).statistic)
    p_value = float(kolmogorov(np.sqrt(len(a) * len(b) / (len(a) + len(b))) * statistic))
    return {"a": a.tolist(), "b": b.tolist(), "statistic": statistic, "p_value": p_value}


def normal(count: int, shift: float = 0.0) -> np.ndarray:
    return random.normal(shift, 1, count).round(2)


def interval(count: int, total: int) -> list:
    low, high = binomtest(count, total).proportion_ci(0.95, "wilson")
    return [count, total, float(low), float(high)]


uniform = random.random(200).round(4)
changed = np.concatenate([random.random(50), random.random(100) ** 3, 1 - random.random(50) ** 2]).round(4)
golden = {
    "versions": {name: version(name) for name in ["online-cp", "numpy", "scipy"]},
    "martingales": [
        martingale(uniform.tolist()),
        martingale(changed.tolist()),
        martingale([0.0, 1.0, 0.5, 0.0, 0.0, 1.0]),
        martingale([1e-6] * 200),
    ],
    "kolmogorov_smirnov": [
        comparison(normal(100), normal(80)),
        comparison(normal(100), normal(150, 0.3)),
        comparison(normal(40), normal(30, 1)),
        comparison(normal(7), normal(5)),
        comparison(np.zeros(3), np.zeros(2)),
        comparison(np.zeros(3), np.ones(2)),
    ],
    "wilson": [interval(*pair) for pair in [(0, 1), (1, 1), (0, 100), (5, 100), (100, 100), (731, 14000)]],
}
Path(__file__).with_suffix(".json").write_text(json.dumps(golden) + "\n")
