#!/usr/bin/env python3
"""Writes the checkpoints of this folder with PyTorch, for state_dict_test.cc and tests/integration/checkpoint_test.py.

  python make_fixtures.py          (needs torch and numpy)

Element i of the tensor made by values(shape, k) is (((7 i + k) mod 23) - 11) / 8, which every floating type holds exactly but float8; the
tests compute the same.
"""

import argparse
import copyreg
import datetime
import io
import json
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.testing._internal.two_tensor import TwoTensor

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
    return {
        "encoder": {"weight": values((2, 2), 6), "layers": {0: values((1,), 7)}},
        "adam": optimizer.state_dict(),
        "epoch": -300,
    }


class Made:
    """Pickled as the call function(*arguments)."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def flags():
    """Values that PyTorch negates or conjugates only when they are read, and other ways of a dense tensor into a file."""
    w, z = values((2, 3), 1), torch.complex(values((2, 3), 1), values((2, 3), 2))
    negative = torch._neg_view(-w)
    attributed = nn.Parameter(negative)
    attributed.note = "with an attribute"
    function, arguments = w._reduce_ex_internal(2)
    return {
        "plain": w,
        "negative": negative,
        "transposed": torch._neg_view(-values((3, 2), 1)).t(),
        "conjugate": z.conj(),
        "imaginary": z.clone().conj().imag,
        "both": torch._neg_view(z.conj()),
        "integers": torch._neg_view(-values((4,), 3, torch.int64)),
        "parameter": nn.Parameter(negative),
        "attributed": attributed,
        "subclass": negative.as_subclass(Marked),
        "buffer": nn.Buffer(negative),
        "old_subclass": Made(torch._tensor._rebuild_from_type, function, Marked, arguments, {}),
        "device": Made(torch._utils._rebuild_device_tensor_from_cpu_tensor, w.double(), torch.float32, "cpu", False),
    }


def unreadable():
    """Tensors without dense values, each of its own kind."""
    w = values((4, 4), 1)
    return {
        "sparse": torch.eye(2).to_sparse(),
        "compressed": torch.eye(2).to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
        "channels": torch.quantize_per_channel(w, torch.ones(4), torch.zeros(4), 0, torch.qint8),
        "meta": torch.empty(2, device="meta"),
        "nested": torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
        "jagged": torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.jagged),
        "wrapper": TwoTensor(torch.ones(2), torch.ones(2)),
        "numpy": Made(torch._utils._rebuild_device_tensor_from_numpy, numpy.ones(2), torch.float32, "cpu", False),
        "lazy": nn.UninitializedParameter(),
        "stateful": Made(torch._utils._rebuild_parameter, Stateful(w), False, OrderedDict()),
        "dense": w,
    }


class Stateful:
    """A tensor that is set anew after it was made, as files of PyTorch before 0.4 do."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        return (*self.tensor._reduce_ex_internal(2), (False, False, OrderedDict()))


class Settings:
    """An object with attributes."""


def odd():
    """A state_dict among and with values of every kind, under keys that are no names."""
    settings = Settings()
    settings.width = 3
    cyclic = {"weight": values((2,), 5)}
    cyclic["itself"] = [cyclic]
    deep = values((2,), 5)
    for _ in range(100):
        deep = {"deeper": [deep]}
    anything = {
        0.5: 1,
        None: [2],
        True: {3},
        (1, "a"): {4: 5},
        b"bytes": frozenset([6]),
        -(1 << 200): 1 << 200,
        "values": [1.5, 2j, slice(1, 2), range(3), ..., datetime.date(2020, 1, 2), bytearray(b"7"), len, int],
        "more": [settings, io.BytesIO(b"8"), numpy.arange(3), numpy.float32(1), torch.float16, torch.Size([1])],
        "containers": [defaultdict(list, {1.5: [2]}), OrderedDict([((), 1)]), set(), [[[]]]],
        "a\nline": values((2,), 5),
        "long" * 200: values((2,), 5),
        "cyclic": cyclic,
        "deep": deep,
        "storage": torch.ones(2).untyped_storage(),
        "sparse": torch.eye(2).to_sparse(),
    }
    state = OrderedDict(weight=values((2, 3), 3), bias=values((2,), 4))
    state["_extra_state"] = anything
    state["act._extra_state"] = values((2,), 5)
    return {**anything, "anything": anything, "state_dict": state}


class Ordered(OrderedDict):
    """A dictionary of one's own."""


class Attributes(dict):
    """A dictionary whose keys are attributes, too."""

    def __init__(self, other):
        super().__init__(other)
        self.__dict__.update(other)


class Reconstructed(dict):
    """A dictionary that is pickled in the way of protocol 0."""

    def __reduce_ex__(self, protocol):
        return copyreg._reduce_ex(self, 0)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(2, 1, bias=False)


def parts():
    """Checkpoints of Small that differ in where its weights are. Those of small(1) are the ones to be found, unless a choice must be made."""

    def small(k, prefix="", columns=3):
        shapes = {"a.weight": (2, columns), "a.bias": (2,), "b.weight": (1, 2)}
        return {prefix + name: values(shape, k + i) for i, (name, shape) in enumerate(shapes.items())}

    module = Small()
    module.load_state_dict(small(1))
    optimizer = torch.optim.Adam(module.parameters())
    module.b(module.a(torch.ones(1, 3))).sum().backward()
    optimizer.step()
    module.load_state_dict(small(1))
    shared = small(1)
    inner = {"a.module.weight": shared["a.weight"], "a._orig_mod.bias": shared["a.bias"], "b.weight": shared["b.weight"]}
    return {
        "plain": small(1),
        "student_teacher": {"student": small(1), "teacher": small(2), "epoch": 3},
        "timm": {"state_dict": small(1), "state_dict_ema": small(2), "epoch": 3},
        "ema_only": {"epoch": 3, "state_dict_ema": small(1), "optimizer": optimizer.state_dict()},
        "settings": {"model": {"hidden": 5, "layers": [1, 2]}, "net": small(1)},
        "ordered": {"state_dict": Ordered(small(1))},
        "attributes": {"state_dict": Attributes(small(1))},
        "default": {"state_dict": defaultdict(list, small(1))},
        "reconstructed": {"state_dict": Reconstructed(small(1))},
        "wrapped": {"model": small(1, "_orig_mod.module.")},
        "inner": {"model": inner},
        "both": {"model": {**small(1), **small(2, "module.")}},
        "averaged": {"model": small(2), "best": AveragedModel(module).state_dict()},
        "lightning": {
            "state_dict": {**small(1, "model."), "criterion.weight": values((2,), 5)},
            "hyper_parameters": {"lr": 0.1},
        },
        "flat": {"state_dict": {**small(1, "student."), **small(2, "teacher.")}},
        "sequence": (small(2, columns=5), [small(1)], "a tuple"),
        "shapes": {"state_dict": small(2, columns=5), "net": small(1)},
        "same": {"net": shared, "best": shared},
        "nested": {
            "model": {"a": {"weight": shared["a.weight"], "bias": shared["a.bias"]}, "b": {"weight": shared["b.weight"]}}
        },
        "two": {"model": small(1), "state_dict": small(2)},
        "deepspeed": {"module": small(1), "module_ema": small(2)},
        "gradients": {"model": small(1), "grads": small(2), "exp_avg": small(2)},
        "partial": {
            "net": {"a.weight": values((2, 3), 1), "c.weight": values((1,), 2)},
            "ema": {"d": {"c": values((1,), 2)}},
        },
        "other": {"state_dict": {"c.weight": values((1,), 2)}, "teacher": {"d": values((1,), 2)}},
        "whole": {"model": module, "epoch": 3},
    }


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


def lenet5_state(base, k=0):
    """430,000 weights in a few KB: overlapping windows of one storage."""
    strides = {"conv1.weight": (25, 25, 5, 1), "conv2.weight": (61, 7, 5, 1), "fc1.weight": (5, 1), "fc2.weight": (311, 1)}
    state = {}
    for i, (name, tensor) in enumerate(LeNet5().state_dict().items()):
        state[name] = base.as_strided(tensor.shape, strides.get(name, (1,)), k + 3 * i)
    return state


def lenet5():
    """The weights in several files. Beside them the logits of a picture, which checkpoint_test.py draws."""
    torch.manual_seed(1)
    base = torch.randn(4096) * 0.05
    state = lenet5_state(base)
    model = LeNet5()
    model.load_state_dict(state)
    y, x = torch.meshgrid(torch.arange(28), torch.arange(28), indexing="ij")
    picture = (37 * y + 91 * x + 5 * x * y) % 256
    with torch.no_grad():
        logits = model(((picture / 255 - 0.2) / 0.35).view(1, 1, 28, 28))
    (FOLDER / "lenet5_logits.json").write_text(json.dumps(logits[0].tolist()) + "\n")
    torch.save(state, FOLDER / "lenet5.pth")
    negative = {"module." + name: torch._neg_view(tensor) for name, tensor in lenet5_state(-base).items()}
    torch.save({"model": {"name": "lenet5"}, "epoch": 3, "state_dict_ema": negative}, FOLDER / "lenet5_ema.pth")
    torch.save({"student": state, "teacher": lenet5_state(base, 100)}, FOLDER / "lenet5_student.pth")
    state["conv1.weight"] = state["conv1.weight"].clone()
    state["conv1.weight"][3, 0, 2, 1] = state["conv1.weight"][7, 0, 4, 4] = float("nan")
    torch.save(state, FOLDER / "lenet5_nan.pth")


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
    torch.save(flags(), FOLDER / "flags.pth")
    torch.save(unreadable(), FOLDER / "unreadable.pth")
    torch.save(odd(), FOLDER / "odd.pth")
    torch.save(parts(), FOLDER / "parts.pth")
    lenet5()


if __name__ == "__main__":
    main()
