"""Images as pytorch-ood's tutorial loads them: torchvision's CIFAR10, pytorch-ood's Textures."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

TRANSFORM = Compose([Resize((32, 32)), ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])


class Known(Dataset):
    """CIFAR-10's binary files in memory; each item is a PIL image that is transformed."""

    def __init__(self, *files: Path):
        records = np.concatenate([np.fromfile(file, np.uint8).reshape(-1, 3073) for file in files])
        self.labels = records[:, 0].astype(int)
        self.pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return TRANSFORM(Image.fromarray(self.pixels[index])), int(self.labels[index])


class Unknown(Dataset):
    """Image files; each item opens one."""

    def __init__(self, folder: Path):
        self.files = sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg"))

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return TRANSFORM(Image.open(self.files[index]).convert("RGB")), -1
