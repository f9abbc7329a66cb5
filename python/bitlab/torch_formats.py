"""Networks in PyTorch's own formats: TorchScript, for PyTorch without BitLab and for phones, and exported programs."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any, Optional, Union

from bitlab import _core, formats
from bitlab._extension import _torch, torch
from bitlab.convert import _as_parameter
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


class _Part(torch.nn.Module):
    """What parameters are in. Those in modules of PyTorch's own classes are taken for weights that these use themselves."""


def _of_others(call: Callable[..., Any], names: list[str], tensors: torch.nn.Module) -> torch.nn.Module:
    """A module with the parameters and buffers of another, under their paths, which calls a function of the names given."""

    def forward(self: torch.nn.Module, *inputs: Any) -> Any:
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined, no-untyped-call]  # which would fuse operators, where BitModel does not see them
            return call(*inputs)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    forward.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in ["self", *names]])  # type: ignore[attr-defined]
    network: torch.nn.Module = type("Network", (torch.nn.Module,), {"forward": forward})()
    entries = [(True, *entry) for entry in tensors.named_parameters()] + [(False, *entry) for entry in tensors.named_buffers()]
    for is_parameter, path, tensor in entries:
        *parents, name = path.split(".")
        owner = network
        for parent in parents:
            if not hasattr(owner, parent):
                owner.add_module(parent, _Part())
            owner = getattr(owner, parent)
        if is_parameter:
            owner.register_parameter(name, _as_parameter(tensor))
        else:
            owner.register_buffer(name, tensor)
    return network.eval()


def to_module(source: str | os.PathLike[str] | torch.jit.ScriptModule | torch.export.ExportedProgram) -> torch.nn.Module:
    """A network that others wrote as a plain module, in eval: to be made ternary by BitModel or quantize_for_deployment(), trained further, deployed.

    source: a file in any format that is read; TorchScript (torch.jit.load); an exported program (torch.export.load), which computes as it was exported,
    in training or eval. Its forward takes the inputs by place, and returns a tensor, a tuple, or a dict by name.

    Of a file, weights and biases of float layers and norms are parameters, under the names that they have there, with underscores; other constants are
    buffers, as are weights that are ternary already. Errors: those of reading; Unsupported, for networks with states and nodes that TorchScript has no form
    for."""
    if isinstance(source, torch.jit.ScriptModule):
        source.eval()
        arguments = source.forward.schema.arguments[1:]  # type: ignore[attr-defined]  # behind self
        names = [argument.name for argument in arguments if not argument.has_default_value()]
        return _of_others(source, names, source)
    if isinstance(source, torch.export.ExportedProgram):
        module = source.module()
        return _of_others(module, list(inspect.signature(module.forward).parameters), module)
    with _as_bit(source, None) as bit:
        network = _network(bit, "packed", trainable=True)
        _refuse_states(network, Model.load(bit))
    return network


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


def _network(bit: Path, variant: str, trainable: bool = False) -> torch.nn.Module:
    """The module of a .bit file's text in TorchScript, which is Python, too."""
    source, buffers, parameters = _torch.script_of(os.fspath(bit), variant)
    names = {"torch": _Aten(), "bitlab": torch.ops.bitlab, "Tensor": torch.Tensor, "List": list, "Optional": Optional, "Tuple": tuple}
    methods: dict[str, Callable[..., Any]] = {}
    exec(source, names, methods)  # written by to_script() of C++, whose names are identifiers
    assert all(isinstance(method, FunctionType) for method in methods.values())
    network = type("Network", (torch.nn.Module,), methods)()
    for name, tensor in buffers.items():
        if trainable and name in parameters:
            network.register_parameter(name, torch.nn.Parameter(tensor))
        else:
            network.register_buffer(name, tensor)
    return network.eval()


def _refuse_states(network: torch.nn.Module, model: Model) -> None:
    states = network.forward.__code__.co_argcount - 1 - len(model.inputs)
    if states != 0:
        raise _core.Unsupported(f"[torchscript] a network without states, got one with {states}")


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
        network = _network(bit, variant)
    _refuse_states(network, loaded)
    inputs, shapes = _dimensions(loaded)
    with torch.no_grad():
        exported = torch.export.export(network, inputs, dynamic_shapes=shapes)
    if path is not None:
        torch.export.save(exported, path)
    return exported
