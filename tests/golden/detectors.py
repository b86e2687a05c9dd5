#!/usr/bin/env python3
"""Make the golden numbers of the feature-based scores with pytorch-ood: detectors.safetensors.

    python3 detectors.py

training [N, F], labels [N], test [M, F]     float64 of values that float32 can represent
weight [C, F], bias [C]                      of the last layer
knn:1, knn:10, mahalanobis, unit-mahalanobis, relative-mahalanobis [M]    computed in float64
vim, fdbd [M]                                computed in float32
"""

from pathlib import Path

import torch
from pytorch_ood.detector import KNN, RMD, Mahalanobis, ViM, fDBD
from safetensors.torch import save_file

# 120 training images of 4 classes, and 12 others at growing distances.
TRAINING, TEST, WIDTH, CLASSES = 120, 12, 10, 4


def main() -> None:
    torch.set_default_dtype(torch.float64)
    random = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random)

    centres = 2 * normal(CLASSES, WIDTH)
    spread = normal(WIDTH, WIDTH) / 3 + torch.eye(WIDTH)
    labels = torch.arange(TRAINING) % CLASSES
    # float32 values, like those of networks, in float64 for the detectors.
    training = (centres[labels] + normal(TRAINING, WIDTH) @ spread + 1).float().double()
    test = (centres[torch.arange(TEST) % CLASSES] + normal(TEST, WIDTH) * torch.arange(TEST)[:, None] / 3).float().double()
    head = torch.nn.Linear(WIDTH, CLASSES)
    head.weight.data = (centres / 2 + normal(CLASSES, WIDTH) / 10).float().double()
    head.bias.data = normal(CLASSES).float().double()

    tensors = {"training": training, "labels": labels, "test": test, "weight": head.weight.data, "bias": head.bias.data}
    detectors = {
        "knn:1": KNN(None, k=1),
        "knn:10": KNN(None, k=10),
        "mahalanobis": Mahalanobis(None),
        "relative-mahalanobis": RMD(None),
    }
    for name, detector in detectors.items():
        tensors[name] = detector.fit_features(training, labels).predict_features(test)
    unit = torch.nn.functional.normalize
    tensors["unit-mahalanobis"] = Mahalanobis(None).fit_features(unit(training), labels).predict_features(unit(test))
    # These two compute in float32.
    torch.set_default_dtype(torch.float32)
    vim = ViM(None, WIDTH // 2, head.weight.data, head.bias.data)
    tensors["vim"] = vim.fit_features(training, labels).predict_features(test).double()
    fdbd = fDBD(None, head.float())
    tensors["fdbd"] = fdbd.fit_features(training).predict_features(test).double()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, Path(__file__).with_name("detectors.safetensors"))


if __name__ == "__main__":
    main()
