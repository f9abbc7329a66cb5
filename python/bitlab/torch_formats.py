"""Networks in PyTorch's own formats: TorchScript, for PyTorch without BitLab and for phones, and exported programs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any, Optional, Union

from bitlab import _core, formats
from bitlab._extension import _torch, torch
from bitlab.deployment import Axes, Ranges, deploy
from bitlab.runtime import Model

Source = Union[torch.nn.Module, str, "os.PathLike[str]"]


@contextmanager
def _as_bit(model: Source, example: Any, **options: Any) -> Iterator[Path]:
    """A .bit file of a module, or of a file of another format, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.bit"
        if isinstance(model, torch.nn.Module):
            if example is None:
                raise _core.InvalidArgument("[deploy] an example for a module, got none")
            deploy(model, example, path, **options)
        elif Path(model).suffix == ".bit":
            path = Path(model)
        else:
            formats.convert(model, path)
        yield path


@contextmanager
def _written(path: str | os.PathLike[str] | None, bit: Path, format: str, variant: str) -> Iterator[Path]:
    """The network in a format, at a path or for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "network" if path is None else Path(path)
        formats.convert(bit, target, format=format, variant=variant)
        yield target


def to_torchscript(
    model: Source,
    example: Any = None,
    path: str | os.PathLike[str] | None = None,
    *,
    variant: str = "packed",
    dynamic_axes: Axes | None = None,
    ranges: Ranges | None = None,
) -> torch.jit.ScriptModule:
    """A module, or a file that has one, as TorchScript, written where a path is given.

    variant: "packed" computes with torch.ops.bitlab, which `import bitlab.ops` registers; "portable" with PyTorch's operators alone.
    example, dynamic_axes, ranges: of a module, as deploy() takes them.

    Its forward takes the inputs by place, and returns a tensor, a tuple, or a dict by name. Errors: Unsupported, naming a node without a form."""
    with (
        _as_bit(model, example, dynamic_axes=dynamic_axes, ranges=ranges) as bit,
        _written(path, bit, "torchscript", variant) as file,
    ):
        return torch.jit.load(file)  # type: ignore[no-untyped-call]


def to_mobile(
    model: Source,
    example: Any = None,
    path: str | os.PathLike[str] | None = None,
    *,
    variant: str = "portable",
    dynamic_axes: Axes | None = None,
    ranges: Ranges | None = None,
) -> Any:
    """The same for PyTorch's interpreter on phones (.ptl), which the result runs in, too."""
    from torch.jit.mobile import _load_for_lite_interpreter

    with (
        _as_bit(model, example, dynamic_axes=dynamic_axes, ranges=ranges) as bit,
        _written(path, bit, "ptl", variant) as file,
    ):
        return _load_for_lite_interpreter(os.fspath(file))  # type: ignore[no-untyped-call]


class _Aten:
    """What `torch` is in TorchScript: the operators of ATen by their names."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.ops.aten, name)


def _network(source: str, buffers: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """The module of a text in TorchScript that is Python, too."""
    names = {"torch": _Aten(), "bitlab": torch.ops.bitlab, "Tensor": torch.Tensor, "List": list, "Optional": Optional, "Tuple": tuple}
    methods: dict[str, Callable[..., Any]] = {}
    exec(source, names, methods)  # written by to_script() of C++, whose names are identifiers
    assert all(isinstance(method, FunctionType) for method in methods.values())
    network = type("Network", (torch.nn.Module,), methods)()
    for name, tensor in buffers.items():
        network.register_buffer(name, tensor)
    return network.eval()


def _dimensions(model: Model) -> tuple[tuple[torch.Tensor, ...], tuple[dict[int, Any], ...]]:
    """Zeros of sizes that fit, and which of them differ from run to run. Sizes of 0 and 1 would be kept as they are."""
    primes = iter((2, 3, 5, 7, 11, 13, 17, 19))
    sizes = {name: min(max(next(primes), least), most) for name, (least, most) in model.symbols.items()}
    free = {
        name: torch.export.Dim(name, min=least, max=most if most < 1 << 40 else None)
        for name, (least, most) in model.symbols.items()
        if least < most
    }

    def size(text: int | str) -> tuple[int, Any]:
        """A size such as 3 or "2*batch*tokens^2", and as a dimension; None where it is the same in every run."""
        number = 1
        names: list[str] = []
        for part in str(text).split("*"):
            name, _, power = part.partition("^")
            number *= int(part) if part.isdigit() else sizes[name] ** int(power or 1)
            names += [name] * int(power or 1) if name in free else []
        if len(names) != 1:
            return number, torch.export.Dim.AUTO if names else None
        factor = number // sizes[names[0]]
        return number, free[names[0]] if factor == 1 else factor * free[names[0]]

    zeros = tuple(torch.zeros([size(text)[0] for text in port.shape], dtype=getattr(torch, port.dtype)) for port in model.inputs)
    return zeros, tuple({axis: size(text)[1] for axis, text in enumerate(port.shape)} for port in model.inputs)


def to_exported_program(
    model: Source,
    example: Any = None,
    path: str | os.PathLike[str] | None = None,
    *,
    variant: str = "packed",
    dynamic_axes: Axes | None = None,
    ranges: Ranges | None = None,
) -> torch.export.ExportedProgram:
    """A module, or a file that has one, as a program of torch.export, written as .pt2 where a path is given. Sizes that differ from run to run do there,
    too.

    variant, example, dynamic_axes, ranges: as to_torchscript(). A process that loads the variant "packed" imports bitlab.ops before. Errors: Unsupported, for
    networks with states and nodes without a form."""
    with _as_bit(model, example, dynamic_axes=dynamic_axes, ranges=ranges) as bit:
        loaded = Model.load(bit)
        network = _network(*_torch.script_of(os.fspath(bit), variant))
    inputs, shapes = _dimensions(loaded)
    if network.forward.__code__.co_argcount != len(inputs) + 1:
        raise _core.Unsupported("[deploy] a network without states as an exported program, got one with some")
    with torch.no_grad():
        exported = torch.export.export(network, inputs, dynamic_shapes=shapes)
    if path is not None:
        torch.export.save(exported, path)
    return exported
