#!/usr/bin/env python3
"""Train the toolkit's networks on several GPUs or machines with PyTorch's DistributedDataParallel.

    torchrun --nproc-per-node 8 train.py --known DIR --backbone FILE --results DIR
    torchrun --nproc-per-node 8 train.py --known DIR --backbone FILE --results DIR --model tf_efficientnet_lite0
    toolkit import DIR/weights.pt model.onnx --known DIR --variant paper

The network is a WideResNet-40-2 for images of 32 pixels, or one of timm's ResNets and EfficientNet-Lites for
photographs. Data, weights, loss and recipe are those of
`toolkit train --freeze=false --held-out 0 --outliers none`, except that the last, smaller batch is dropped.
After every epoch, the results folder holds all that a job needs to resume with the same number of processes,
so torchrun's `--max-restarts` recovers from a lost machine. `weights.pt` is written at the end.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

import numpy as np
import timm
import torch
import torch.distributed as dist
from PIL import Image, ImageOps
from pytorch_ood.model import WideResNet
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset
from torchvision.transforms import InterpolationMode, RandomResizedCrop

WIDE_RESNET = "wide-resnet-40-2"
SIZE = 32
IMAGES = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Those of the toolkit. Pillow reads others, some by programs that it starts.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Folders that systems create.
OF_SYSTEMS = {"@eaDir", "#recycle", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
DECAY = 5e-4


def files(folder: Path) -> tuple[list[Path], list[int]]:
    """The images of train/CLASS/ folders, and their labels."""
    classes = [path for path in (folder / "train").iterdir() if path.is_dir() and is_shown(path.name)]
    # macOS decomposes letters such as ü, which would sort elsewhere.
    classes.sort(key=lambda path: normalize("NFC", path.name))
    images: list[Path] = []
    labels: list[int] = []
    for label, path in enumerate(classes):
        of_class = images_below(path)
        if not of_class:
            raise SystemExit(f"{path}: no images")
        images += of_class
        labels += [label] * len(of_class)
    return images, labels


def is_shown(name: str) -> bool:
    return not name.startswith(".") and name not in OF_SYSTEMS


def images_below(folder: Path) -> list[Path]:
    """The images in a folder, through links too."""
    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        # A link may lead back to a folder above it.
        is_new = os.path.realpath(place) not in seen
        seen.add(os.path.realpath(place))
        folders[:] = [name for name in folders if is_new and is_shown(name)]
        found += [Path(place, name) for name in names if is_new and is_shown(name)]
    # A broken link is an image that cannot be read.
    images = (file for file in found if file.suffix.lower() in IMAGES)
    return sorted(file for file in images if file.is_file() or not file.exists())


def opened(file: Path) -> Image.Image:
    """The image upright, in RGB without transparency."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            if max(image.size) > 65_535:
                raise ValueError("more than 65,535 pixels wide or high")
            # Pillow would clip grey values of 16 bits at 255.
            is_deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
            tags = image.tag_v2 if image.format == "TIFF" else {}
            if (is_deep and tags.get(258, (16,)) != (16,)) or (image.mode in ("I", "F") and not is_deep):
                raise ValueError("samples that are not of 8 or 16 bits")
            image = ImageOps.exif_transpose(image)
            if is_deep:
                grey = (np.asarray(image) >> 8).astype(np.uint8)
                # 0 is white in some TIFF.
                image = Image.fromarray(255 - grey if tags.get(262) == 0 else grey)
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"{file}: {error}") from error


def planes(image: Image.Image) -> Tensor:
    """The bytes [3, height, width]."""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


class Photographs(Dataset):
    """Bytes of a random crop of half the area or more, mirrored or not, and the label; decoded at each access."""

    def __init__(self, folder: Path, size: int, filter: str) -> None:
        self.files, self.labels = files(folder)
        self.crop = RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=InterpolationMode(filter))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = planes(self.crop(opened(self.files[index])))
        return pixels.flip(2) if torch.rand(()) < 0.5 else pixels, self.labels[index]


def small_images(folder: Path) -> TensorDataset:
    """Bytes [N, 3, 32, 32] and labels [N] of CIFAR-10's binary files or of train/CLASS/ folders."""
    batches = sorted(folder.glob("data_batch_*.bin")) or sorted(folder.glob("*/data_batch_*.bin"))
    if batches:
        rows = np.concatenate([np.fromfile(batch, np.uint8).reshape(-1, 3073) for batch in batches])
        return TensorDataset(
            torch.from_numpy(rows[:, 1:].reshape(-1, 3, SIZE, SIZE)), torch.from_numpy(rows[:, 0].astype(np.int64))
        )
    images, labels = files(folder)
    resized = [planes(opened(file).resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for file in images]
    return TensorDataset(torch.stack(resized), torch.tensor(labels))


def shifted(images: Tensor) -> Tensor:
    """Shift each image by up to four pixels, with black padding, and flip half of them horizontally."""
    count = len(images)
    padded = pad(images, (4, 4, 4, 4))
    right, down = torch.randint(0, 9, (2, count, 1, 1))
    columns = torch.arange(SIZE).expand(count, SIZE, SIZE)
    columns = torch.where(torch.rand(count, 1, 1) < 0.5, columns, columns.flip(2)) + right
    rows = torch.arange(SIZE)[:, None].expand(count, SIZE, SIZE) + down
    image = torch.arange(count)[:, None, None]
    return padded[image, :, rows, columns].permute(0, 3, 1, 2)


def cac_loss(logits: Tensor, labels: Tensor, magnitude: float = 10.0, weight: float = 0.1) -> Tensor:
    """The loss of the paper: logits [N, C], labels [N]."""
    anchors = magnitude * torch.eye(logits.shape[1], device=logits.device)
    distances = (logits[:, None] - anchors).square().sum(2).clamp_min(1e-12).sqrt()
    own = distances.gather(1, labels[:, None])
    return (own - distances).logsumexp(1).mean() + weight * own.mean()


def check_normalisation(backbone: Path, mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuses a backbone of the toolkit that was trained on images with another normalisation."""
    with safe_open(backbone, "pt") as file:
        note = json.loads((file.metadata() or {}).get("note", "{}")).get("input", {})
    for name, own in (("mean", mean), ("std", std)):
        if not np.allclose(note.get(name, own), own, atol=1e-3):
            raise SystemExit(f"{backbone}: its {name} is {note[name]}, here it is {list(own)}")


def train(args: argparse.Namespace) -> None:
    """One process of the training; the process group must exist."""
    rank, world = dist.get_rank(), dist.get_world_size()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        # Also for the thread that pins memory.
        torch.cuda.set_device(device)
    torch.manual_seed(args.seed)
    if args.model == WIDE_RESNET:
        data, mean, std = small_images(args.known), [0.5] * 3, [0.5] * 3
        network = WideResNet(num_classes=len(data.tensors[1].unique()), depth=40, widen_factor=2, drop_rate=0.0)
        augment, head = shifted, network.fc
        recipe = {"epochs": 10, "batch_size": 64, "learning_rate": 0.1, "backbone_rate": 1.0}
    else:
        trained = timm.get_pretrained_cfg(args.model)
        mean, std = trained.mean, trained.std
        data = Photographs(args.known, args.size or trained.input_size[1], trained.interpolation)
        network = timm.create_model(args.model, num_classes=len(set(data.labels)))
        augment, head = Tensor.contiguous, network.get_classifier()
        recipe = {"epochs": 6, "batch_size": 32, "learning_rate": 0.05, "backbone_rate": 0.2}
    for name, value in recipe.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.batch_size % world:
        raise SystemExit(f"--batch-size {args.batch_size} cannot be divided among {world} processes")
    last = next(name for name, module in network.named_modules() if module is head)
    if args.backbone:
        check_normalisation(args.backbone, mean, std)
        tensors = {name: tensor.float() for name, tensor in load_file(args.backbone).items()}
        weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{last}.")}
        missing, unexpected = network.load_state_dict(weights, strict=False)
        missing = [name for name in missing if not name.startswith(f"{last}.") and not name.endswith("tracked")]
        if unexpected or missing:
            raise SystemExit(f"{args.backbone}: unexpected tensors {unexpected[:3]}, missing tensors {missing[:3]}")
    of_head = [parameter for name, parameter in network.named_parameters() if name.startswith(f"{last}.")]
    of_backbone = [parameter for name, parameter in network.named_parameters() if not name.startswith(f"{last}.")]
    rates = [args.backbone_rate * args.learning_rate, args.learning_rate]
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std))
    network = network.to(device, memory_format=torch.channels_last)
    if cuda:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network = DistributedDataParallel(network, device_ids=[device.index] if cuda else None)

    sampler = DistributedSampler(data, seed=args.seed)
    loader = DataLoader(
        data, args.batch_size // world, sampler=sampler, num_workers=args.loaders, pin_memory=cuda, drop_last=True
    )
    if not len(loader):
        raise SystemExit(f"{args.known}: {len(data)} images, fewer than a batch of {args.batch_size}")
    groups = [{"params": of_backbone}, {"params": of_head}]
    optimizer = torch.optim.SGD(groups, args.learning_rate, 0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, args.epochs * len(loader))
    parts = {"network": network.module, "optimizer": optimizer, "schedule": schedule}
    # What a run depends on.
    names = ("model", "size", "epochs", "batch_size", "learning_rate", "backbone_rate", "seed")
    run = {name: getattr(args, name) for name in names} | {"processes": world, "images": len(data)}
    args.results.mkdir(parents=True, exist_ok=True)
    first, state = 0, args.results / "state.pt"
    if state.exists():
        saved = torch.load(state, map_location=device)
        for name, value in run.items():
            if (before := saved.get("run", {}).get(name)) != value:
                raise SystemExit(f"{state}: the run has {name} {before}, not {value}")
        first = saved["epochs"]
        for name, part in parts.items():
            part.load_state_dict(saved[name])

    for epoch in range(first, args.epochs):
        sampler.set_epoch(epoch)
        # A resumed run augments as a whole one would.
        torch.manual_seed(hash((args.seed, epoch, rank)))
        total = torch.zeros(1, device=device)
        for images, labels in loader:
            images = augment(images).to(device, memory_format=torch.channels_last, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16):
                logits = network((images.float() / 255 - mean) / std)
            loss = cac_loss(logits.float(), labels.to(device, non_blocking=True))
            optimizer.zero_grad()
            loss.backward()
            # Decoupled weight decay, on convolutions and the last layer only.
            with torch.no_grad():
                for group in optimizer.param_groups:
                    for weight in group["params"]:
                        if weight.dim() > 1:
                            weight *= 1 - group["lr"] * DECAY
            optimizer.step()
            schedule.step()
            total += loss.detach()
        dist.all_reduce(total)
        if rank == 0:
            print(f"epoch {epoch + 1}/{args.epochs}: loss {total.item() / world / len(loader):.4f}", flush=True)
            save({name: part.state_dict() for name, part in parts.items()} | {"epochs": epoch + 1, "run": run}, state)
        dist.barrier()
    if rank == 0:
        save(network.module.state_dict(), args.results / "weights.pt")


def save(what: dict, path: Path) -> None:
    """Save atomically."""
    beside = path.with_suffix(".unfinished")
    torch.save(what, beside)
    beside.replace(path)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--known", type=Path, required=True, help="CIFAR-10's binary folder, or one with train/CLASS/ folders"
    )
    parser.add_argument("--model", default=WIDE_RESNET, metavar="NAME", help=f"{WIDE_RESNET}, or a name of timm")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="of photographs; by default the model's")
    parser.add_argument("--backbone", type=Path, help="safetensors; the last layer is replaced")
    parser.add_argument("--results", type=Path, required=True, help="folder for the results")
    parser.add_argument("--epochs", type=int, help="by default 10, for photographs 6")
    parser.add_argument("--batch-size", type=int, help="over all processes; by default 64, for photographs 32")
    parser.add_argument("--learning-rate", type=float, help="by default 0.1, for photographs 0.05")
    parser.add_argument(
        "--backbone-rate", type=float, metavar="SHARE", help="of the rate; by default 1, for photographs 0.2"
    )
    parser.add_argument("--loaders", type=int, default=0, metavar="N", help="processes that decode, for each process")
    parser.add_argument("--seed", type=int, default=123)
    return parser


if __name__ == "__main__":
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    train(arguments().parse_args())
    dist.destroy_process_group()
