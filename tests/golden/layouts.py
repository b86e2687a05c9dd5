#!/usr/bin/env python3
"""Wrap one small CAC network in the layouts that people save, with PyTorch and NumPy: layouts/.

    python3 layouts.py

plain.pt          the state dict of an official CAC network of 2 and 4 channels with 6 classes
compiled.pt       of torch.compile, around DataParallel
parallel.pt       of DataParallel, around torch.compile
submodule.pt      with a compiled submodule
lightning.ckpt    as Lightning writes it: {epoch, ..., state_dict: model.*}, with hyperparameters and optimizer
tutorial.pt       {epoch, model_state_dict, optimizer_state_dict, loss} of PyTorch's tutorial
timm.pth.tar      {epoch, arch, state_dict, optimizer, args: Namespace, state_dict_ema}, averages negated
averaged.pt       {step, ema} with nothing else
params.pth        {params, params_ema}, averages negated
deep.pt           {trainer: {"learner": {"student": ..., "teacher": ...}}}, the teacher negated
objects.pt        {state_dict, args: Namespace, path: Path, seen: numpy array, when: datetime, counts: Counter, ...}
whole.pt          the module itself, pickled; whole-legacy.pt: the same, before PyTorch 1.6
pair.pt           (state dict, epoch)
protocol-1.pt     {state_dict} in pickle protocol 1, protocol-5.pt in protocol 5, where objects have slots
malicious.pt      {state_dict, hook: a command that is executed if the pickle is}
script.pt         a TorchScript archive
encoder.pt        a WideResNet-10-1 with 3 classes in half precision behind `encoder.`
resnet.pt         {state_dict} of an encoder that begins like a CAC network, but is not one
expected.safetensors
    logits [4, 6], encoder.logits [4, 3]   float32, in evaluation mode, of the images of ../checkpoints.py

Weights are `fill`ed from their names.
"""
import argparse
import collections
import datetime
import pathlib

import numpy as np
import torch
from pytorch_ood.model import WideResNet
from torch import Tensor, nn

import checkpoints
from checkpoints import Classifier, Evil
from method import fill, image_bytes, normalised, save

HERE = pathlib.Path(__file__).resolve().parent / "checkpoints" / "layouts"


class Slots:
    __slots__ = ("weights", "epoch")


def write(content: object, name: str, legacy: bool = False, **options: object) -> None:
    torch.save(content, HERE / name, _use_new_zipfile_serialization=not legacy, **options)


@torch.no_grad()
def main() -> None:
    HERE.mkdir(exist_ok=True)
    checkpoints.WIDTHS = [3, 2, 2, 4, 4, 4, 4, 4, 4, 4]
    images = normalised(image_bytes(4))
    network = fill(Classifier())
    network.classify = fill(nn.Linear(4 * 4 * 4, 6))
    network.eval()
    # Each layer once: the official code registers them twice.
    state = {name: value for name, value in network.state_dict().items() if ".encoder" not in name}
    expected = {"logits": network(images)}

    def behind(prefix: str, tensors: dict = state) -> dict:
        return collections.OrderedDict((prefix + name, value) for name, value in tensors.items())

    def optimizer() -> dict:
        weight = nn.Parameter(torch.ones(2, 3))
        adam = torch.optim.Adam([weight])
        weight.grad = torch.ones(2, 3)
        adam.step()
        return adam.state_dict()

    negated = {name: -value if value.is_floating_point() else value for name, value in state.items()}
    write(state, "plain.pt")
    write(behind("_orig_mod.module."), "compiled.pt")
    write(behind("module._orig_mod."), "parallel.pt")
    inside = {name.replace("encoder.", "encoder._orig_mod."): value for name, value in state.items()}
    write(inside, "submodule.pt")
    lightning = {
        "epoch": 3,
        "global_step": 99,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {**behind("model."), "loss.weight": torch.ones(6)},
        "loops": {"fit_loop": {"state_dict": {}}},
        "optimizer_states": [optimizer()],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1, "data": pathlib.PurePosixPath("/data")},
    }
    write(lightning, "lightning.ckpt")
    tutorial = {
        "epoch": 3,
        "model_state_dict": state,
        "optimizer_state_dict": optimizer(),
        "loss": torch.tensor(0.5),
    }
    write(tutorial, "tutorial.pt")
    timm = {
        "epoch": 3,
        "arch": "cac",
        "state_dict": state,
        "optimizer": optimizer(),
        "version": 2,
        "args": argparse.Namespace(lr=0.1, output=pathlib.PurePosixPath("/out")),
        "state_dict_ema": negated,
    }
    write(timm, "timm.pth.tar")
    write({"step": 3, "ema": state}, "averaged.pt")
    write({"params_ema": negated, "params": state}, "params.pth")
    write({"trainer": {"learner": {"teacher": negated, "student": behind("backbone.")}}}, "deep.pt")
    objects = {
        "args": argparse.Namespace(lr=0.1, inner=argparse.Namespace(path=pathlib.PurePosixPath("/x"))),
        "seen": np.arange(6.0).reshape(2, 3),
        "best": np.float32(0.5),
        "when": datetime.datetime(2026, 1, 2),
        "counts": collections.Counter("abc"),
        "groups": collections.defaultdict(list, a=[1]),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "size": torch.Size([2, 3]),
        "names": {"a", "b"},
        "frozen": frozenset("ab"),
        "raw": b"bytes",
        "complex": torch.zeros(2, dtype=torch.complex64),
        "random": np.random.RandomState(0).get_state(),
        "state_dict": state,
    }
    write(objects, "objects.pt")
    write(network, "whole.pt")
    write(network, "whole-legacy.pt", legacy=True)
    write((state, 3), "pair.pt")
    slots = Slots()
    slots.weights, slots.epoch = state, 3
    write({"state_dict": state, "more": [1.5, 1 << 70, True, None, "é"]}, "protocol-1.pt", pickle_protocol=1)
    write({"saved": slots}, "protocol-5.pt", legacy=True, pickle_protocol=5)
    write({"hook": Evil(), "state_dict": state}, "malicious.pt")
    torch.jit.trace(network, images).save(HERE / "script.pt")

    wrn = fill(WideResNet(num_classes=3, depth=10, widen_factor=1)).half()
    write(behind("encoder.", wrn.state_dict()), "encoder.pt")
    expected["encoder.logits"] = wrn.float().eval()(images)
    resnet = {
        "encoder.conv1.weight": torch.ones(4, 3, 3, 3),
        "encoder.bn1.weight": torch.ones(4),
        "encoder.layer1.0.conv1.weight": torch.ones(4, 4, 3, 3),
        **{f"encoder.layer{i}.0.bn1.weight": torch.ones(4) for i in range(2, 12)},
    }
    write({"state_dict": resnet}, "resnet.pt")
    save(expected, HERE / "expected.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
