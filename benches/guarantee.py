#!/usr/bin/env python3
"""Test the guarantee of thresholds on real scores.

    python3 benches/guarantee.py SCORES.csv... [--keep SHARE] [--calibrating N] [--splits N]

SCORES.csv is what `toolkit eval --scores` writes. Its known images are divided at random, many times, into N that calibrate
and the rest, which are new. Prints, for each file: the mean share of the new images that the conformal threshold keeps, its
Monte-Carlo error, and the share of the splits in which it keeps less than the 5 % quantile of the beta-binomial
distribution of that number. The promise is a mean of at least SHARE, and at most 5 % of the splits below the quantile. For
comparison, the same for the threshold that keeps SHARE of the calibrating images themselves. Needs NumPy and
SciPy.
"""

import csv
import math
from argparse import ArgumentParser

import numpy as np
from scipy.stats import betabinom


def main() -> None:
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scores", nargs="+")
    parser.add_argument("--keep", type=float, default=0.95)
    parser.add_argument("--calibrating", type=int, help="by default two fifths of the known images, at most 1000")
    parser.add_argument("--splits", type=int, default=1000)
    args = parser.parse_args()

    print("file, known images, calibrating, new, mean kept (error), splits below, the same of the plain quantile")
    for path in args.scores:
        with open(path, newline="") as file:
            scores = np.array([float(row["score"]) for row in csv.DictReader(file) if int(row["label"]) >= 0])
        n = args.calibrating or min(1000, 2 * len(scores) // 5)
        new = len(scores) - n
        conformal, plain = math.ceil((n + 1) * args.keep - 1e-9), math.ceil(n * args.keep - 1e-9)
        if conformal > n:
            raise SystemExit(f"{path}: {n} images are too few to keep {args.keep}")
        bound = betabinom.ppf(0.05, new, conformal, n + 1 - conformal)
        random = np.random.default_rng(0)
        kept = np.empty((args.splits, 2))
        for split in range(args.splits):
            order = random.permutation(scores)
            calibrating = np.sort(order[:n])
            kept[split] = [np.count_nonzero(order[n:] <= calibrating[rank - 1]) for rank in (conformal, plain)]
        shares = kept / new
        errors = shares.std(axis=0) / math.sqrt(args.splits)
        below = (kept < bound).mean(axis=0)
        (mean, other), (error, _), (few, others) = shares.mean(axis=0), errors, below
        print(
            f"{path}, {len(scores)}, {n}, {new}, {100 * mean:.2f} % ({100 * error:.2f}), {100 * few:.1f} %, "
            f"{100 * other:.2f} %, {100 * others:.1f} %"
        )


if __name__ == "__main__":
    main()
