#!/usr/bin/env python3
"""Run train.py on the workers of a Ray cluster: python3 on_ray.py --workers N, then the flags of train.py.

Paths must be readable on every node, and train.py must be next to this file on each. Also needs
`pip install 'ray[train]'`.
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
    # Ray creates the process group. It replaces a lost worker, and training resumes from the last epoch.
    run = RunConfig(failure_config=FailureConfig(max_failures=3))
    TorchTrainer(train.train, train_loop_config=args, scaling_config=scaling, run_config=run).fit()
