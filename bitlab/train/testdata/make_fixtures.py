#!/usr/bin/env python3
"""Writes the checkpoints of this folder with PyTorch, for state_dict_test.cc and tests/integration/checkpoint_test.py.

  python make_fixtures.py          (needs torch)

Element i of the tensor made by values(shape, k) is (((7 i + k) mod 23) - 11) / 8, which every floating type holds exactly but float8; the
tests compute the same.
"""

import argparse
import json
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

FOLDER = Path(__file__).resolve().parent


def values(shape, k, dtype=torch.float32):
    count = torch.Size(shape).numel()
    numbers = (torch.arange(count) * 7 + k) % 23 - 11
    floating = dtype.is_floating_point or dtype.is_complex
    return (numbers / 8 if floating else numbers).reshape(shape).to(dtype)


def plain():
    """The usual file: an OrderedDict with _metadata, from a module with a batch norm."""
    model = nn.Sequential(OrderedDict(fc=nn.Linear(3, 4), bn=nn.BatchNorm1d(4)))
    state = model.state_dict()
    for k, name in enumerate(state):
        state[name].copy_(torch.tensor(5) if name.endswith("tracked") else values(state[name].shape, k))
    return state


def dtypes():
    names = "float16 bfloat16 float32 float64 int64 int32 int16 int8 complex64"
    made = {name: values((2, 3), 1, getattr(torch, name)) for name in names.split()}
    made["uint8"] = torch.arange(6, dtype=torch.uint8).reshape(2, 3) * 50
    made["uint16"] = (torch.arange(6) * 13000).to(torch.uint16).reshape(2, 3)
    made["bool"] = torch.tensor([True, False, True])
    made["float8"] = torch.tensor([0.5, -1.75, 448.0]).to(torch.float8_e4m3fn)
    made["large"] = torch.tensor([1e300, 0.1], dtype=torch.float64)
    return made


def views():
    base = values((4, 6), 2)
    return {
        "base": base,
        "transposed": base.t(),
        "corner": base[1:3, 2:5],
        "every_second": base[:, ::2],
        "expanded": base[0].expand(3, 6),
        "scalar": base[3, 5],
        "empty": base[:0],
        "tied": base,
    }


class Marked(torch.Tensor):
    """A tensor subclass."""


def wrapped():
    """A Lightning-like checkpoint: the state_dict under its key, other things beside it."""
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = OrderedDict()
    state["module.weight"] = nn.Parameter(values((2, 3), 3))
    state["module.bias"] = values((2,), 4).requires_grad_()
    state["module.marked"] = nn.Parameter(values((2,), 5))
    state["module.marked"].note = "with an attribute"
    state["module.version"] = 7
    return {
        "epoch": 3,
        "lr": 0.1,
        "best": None,
        "big": 1 << 80,
        "raw": b"bytes",
        "classes": ["cat", "dog"],
        "state_dict": state,
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(width=3),
    }


def nested():
    """Nested dictionaries and numbers as keys; written with protocol 4."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    return {"encoder": {"weight": values((2, 2), 6), "layers": {0: values((1,), 7)}}, "adam": optimizer.state_dict(), "epoch": -300}


class LeNet5(nn.Module):
    """bitlab's lenet5."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2 = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        return self.fc2(self.fc1(x.flatten(1)).relu())


def lenet5():
    """430,000 weights in a few KB: overlapping windows of one storage. Beside them the logits of a picture, which checkpoint_test.py draws."""
    model = LeNet5()
    torch.manual_seed(1)
    base = torch.randn(4096) * 0.05
    strides = {"conv1.weight": (25, 25, 5, 1), "conv2.weight": (61, 7, 5, 1), "fc1.weight": (5, 1), "fc2.weight": (311, 1)}
    state = {}
    for k, (name, tensor) in enumerate(model.state_dict().items()):
        state[name] = base.as_strided(tensor.shape, strides.get(name, (1,)), 3 * k)
    model.load_state_dict(state)
    y, x = torch.meshgrid(torch.arange(28), torch.arange(28), indexing="ij")
    picture = (37 * y + 91 * x + 5 * x * y) % 256
    with torch.no_grad():
        logits = model(((picture / 255 - 0.2) / 0.35).view(1, 1, 28, 28))
    (FOLDER / "lenet5_logits.json").write_text(json.dumps(logits[0].tolist()) + "\n")
    return state


def main():
    torch.manual_seed(0)
    torch.save(plain(), FOLDER / "plain.pth")
    torch.save(dtypes(), FOLDER / "dtypes.pth")
    torch.save(views(), FOLDER / "views.pth")
    torch.save(wrapped(), FOLDER / "wrapped.pth")
    torch.save(nested(), FOLDER / "nested.pth", pickle_protocol=4)
    torch.save({"weight": values((4,), 8).as_subclass(Marked)}, FOLDER / "subclass.pth")
    torch.save({"weight": torch.eye(2).to_sparse()}, FOLDER / "sparse.pth")
    torch.save(nn.Linear(2, 2), FOLDER / "module.pth")
    torch.save({"weight": values((2,), 0)}, FOLDER / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.jit.script(nn.Linear(1, 1)).save(FOLDER / "script.pt")
    torch.save(lenet5(), FOLDER / "lenet5.pth")


if __name__ == "__main__":
    main()
