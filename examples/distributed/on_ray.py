#!/usr/bin/env python3
"""The same training as workers of a Ray cluster: python3 on_ray.py --workers N, then the flags of train.py.

Paths must be readable on every machine of the cluster, and train.py must lie beside this file on each. Needs
`pip install 'ray[train]'` besides.
"""

import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

import train

if __name__ == "__main__":
    parser = train.arguments()
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    for name in ("known", "backbone", "results"):
        if path := getattr(args, name):
            setattr(args, name, path.resolve())
    scaling = ScalingConfig(num_workers=args.workers, use_gpu=torch.cuda.is_available())
    # Ray makes the process group; a worker that is lost is replaced, and goes on from the last epoch.
    run = RunConfig(failure_config=FailureConfig(max_failures=3))
    TorchTrainer(train.train, train_loop_config=args, scaling_config=scaling, run_config=run).fit()
