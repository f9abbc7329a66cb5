"""PyTorch's own database of operators, with the arguments that its tests give them: what is deployed computes the same on values that it was not
captured with, and the rest is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bitlab

pytest.importorskip("expecttest", reason="the database needs expecttest")
from torch.testing._internal.common_methods_invocations import op_db

DEPLOYED = Path(__file__).with_name("deployed_operators.txt")  # those of which every sample is, with PyTorch 2.13
DTYPES = (torch.float32, torch.int64, torch.bool, torch.int32)
MOST_SAMPLES = 3

Function = Callable[..., Any]


class Net(torch.nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(*inputs)


def tensors_in(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for item in value for tensor in tensors_in(item)] if isinstance(value, (list, tuple)) else []


def replaced(value: Any, tensors: Any) -> Any:
    """The value with its tensors taken from an iterator, one after the other."""
    if isinstance(value, torch.Tensor):
        return next(tensors)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)([replaced(item, tensors) for item in value])
    return value


def function_of(op: Any, sample: Any) -> tuple[Function, tuple[torch.Tensor, ...]]:
    """A function of all tensors of a sample, and these."""
    arguments, names = [sample.input, *sample.args, *sample.kwargs.values()], list(sample.kwargs)
    inputs = tuple(tensor.detach().clone().contiguous() for tensor in tensors_in(arguments))

    def function(*tensors: torch.Tensor) -> Any:
        values = replaced(arguments, iter(tensors))
        by_place = len(values) - len(names)
        return op.op(*values[:by_place], **dict(zip(names, values[by_place:], strict=True)))

    return function, inputs


def is_tested(function: Function, inputs: tuple[torch.Tensor, ...]) -> bool:
    """Real tensors with dimensions and values, in and out, which are the same each time."""

    def are_usual(tensors: list[torch.Tensor]) -> bool:
        return bool(tensors) and all(t.dtype in DTYPES and t.numel() > 0 for t in tensors)

    if not are_usual(list(inputs)) or any(t.dim() == 0 for t in inputs):
        return False
    first, again = (tensors_in(function(*(t.clone() for t in inputs))) for _ in range(2))
    return are_usual(first) and all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, again, strict=True))


def other_values(tensor: torch.Tensor) -> torch.Tensor:
    return tensor * 0.75 + 0.11 if tensor.is_floating_point() else tensor.flip(0)


def check(session: bitlab.runtime.Session, function: Function, inputs: tuple[torch.Tensor, ...]) -> None:
    named = {"input": inputs[0]} if "input" in [port.name for port in session.model.inputs] else {}
    named |= {f"input_{i}": tensor for i, tensor in enumerate(inputs)}
    wanted = tensors_in(function(*(t.clone() for t in inputs)))
    found = session.run({port.name: named[port.name].numpy() for port in session.model.inputs})
    for a, b in zip(found.values(), wanted, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.numpy().dtype
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-3, atol=1e-4)


def deployed_samples(op: Any, folder: Path) -> tuple[int, list[str]]:
    """How many samples of an operator were deployed, and why others were refused."""
    deployed, refused = 0, []
    path = folder / "net.bit"
    for sample in op.sample_inputs("cpu", torch.float32, requires_grad=False):
        function, inputs = function_of(op, sample)
        if not is_tested(function, inputs):
            continue
        try:
            bitlab.deploy(Net(function).eval(), inputs, path, dynamic_axes={})
        except bitlab.Error as error:
            refused.append(str(error))
        else:
            session = bitlab.runtime.Session(path)
            check(session, function, inputs)
            others = tuple(map(other_values, inputs))
            try:
                function(*(t.clone() for t in others))
            except (RuntimeError, ValueError, IndexError):
                pass  # outside of what it takes
            else:
                check(session, function, others)
            deployed += 1
        if deployed + len(refused) == MOST_SAMPLES:
            break
    return deployed, refused


@pytest.mark.parametrize("name", DEPLOYED.read_text().split())
@torch.no_grad()
def test_deployed(name: str, tmp_path: Path) -> None:
    found = [op for op in op_db if op.full_name == name]
    if not found:
        pytest.skip(f"PyTorch {torch.__version__} has no {name}")
    deployed, refused = deployed_samples(found[0], tmp_path)
    assert not refused, refused[0]
    assert deployed > 0


# Those that compute in a kernel of their own, or look at values beside PyTorch's dispatcher.
@pytest.mark.parametrize("name", ["linalg.qr", "linalg.eigh", "linalg.svd", "put", "renorm", "index_reduce.mean", "masked_select", "unique", "histc"])
@torch.no_grad()
def test_refused(name: str, tmp_path: Path) -> None:
    deployed, refused = deployed_samples(next(op for op in op_db if op.full_name == name), tmp_path)
    assert deployed == 0
    assert all("operator=" in reason for reason in refused), refused
    assert refused
