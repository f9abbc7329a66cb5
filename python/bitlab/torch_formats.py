"""Networks in PyTorch's own formats: TorchScript, for PyTorch without BitLab and for phones, exported programs, and what ExecuTorch makes of these."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Optional, Union

from bitlab import _core, formats
from bitlab._extension import _torch, torch
from bitlab.convert import _as_parameter
from bitlab.deployment import Axes, Ranges, deploy
from bitlab.runtime import Model

if TYPE_CHECKING:
    from executorch.exir import ExecutorchProgramManager

UNBOUNDED = 1 << 40  # the largest size of a symbol that has none

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

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in ["self", *names]])

    def forward(self: torch.nn.Module, *inputs: Any, **by_name: Any) -> Any:
        _, *given = signature.bind(self, *inputs, **by_name).args
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined, no-untyped-call]  # which would fuse operators, where BitModel does not see them
            return call(*given)

    forward.__signature__ = signature  # type: ignore[attr-defined]
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


@contextmanager
def _whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Where a file is written that comes to its path once it is whole."""
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        part = Path(folder) / path.name
        yield part
        part.replace(path)


class _Aten:
    """What `torch` is in TorchScript: the operators of ATen by their names."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.ops.aten, name)


def _network(bit: Path, variant: str, trainable: bool = False) -> torch.nn.Module:
    """The module of a .bit file's text in TorchScript, which is Python, too."""
    source, buffers, parameters = _torch.script_of(os.fspath(bit), variant, trainable)
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


def _dimensions(model: Model, symbols: Ranges) -> tuple[tuple[torch.Tensor, ...], tuple[dict[int, Any], ...]]:
    """Zeros of sizes within these bounds, and which of them differ from run to run. Sizes of 0 and 1 would be kept as they are."""
    primes = iter((2, 3, 5, 7, 11, 13, 17, 19))
    sizes = {name: min(max(next(primes), least), most) for name, (least, most) in symbols.items()}
    free = {
        name: torch.export.Dim(name, min=least, max=most if most < UNBOUNDED else None)
        for name, (least, most) in symbols.items()
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


def _exported(bit: Path, variant: str, symbols: Ranges) -> torch.export.ExportedProgram:
    model, network = Model.load(bit), _network(bit, variant)
    _refuse_states(network, model)
    inputs, shapes = _dimensions(model, symbols)
    try:
        with torch.no_grad():
            return torch.export.export(network, inputs, dynamic_shapes=shapes)
    except torch._dynamo.exc.UserError as error:  # as for the tokens of a recurrent layer, whose loop has a number of rounds
        raise _core.Unsupported(f"[deploy] sizes that may differ in an exported program, got: {str(error).splitlines()[0]}") from error


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
        exported = _exported(bit, variant, Model.load(bit).symbols)
    if path is not None:
        with _whole(path) as part:
            torch.export.save(exported, part)
    return exported


def _planned(model: Model, ranges: Ranges) -> Ranges:
    """A model's symbols within bounds, for the largest of which memory is planned."""
    for name in ranges:
        if name not in model.symbols:
            raise _core.UnknownName(f"[executorch] ranges of {', '.join(model.symbols)}, got one of {name!r}")
    planned = {}
    for place, (name, (least, most)) in enumerate(model.symbols.items()):
        low, high = ranges.get(name, (1, 1) if place == 0 and most == UNBOUNDED else (least, most))  # the batch comes first
        if not least <= low <= high <= most or high == 0:
            raise _core.InvalidArgument(f"[executorch] a range of {name} within {max(least, 1)} to {most}, got {low} to {high}")
        if high == UNBOUNDED:
            raise _core.InvalidArgument(f"[executorch] a largest size of {name}, such as ranges={{{name!r}: ({low}, 128)}}, got none")
        planned[name] = (max(low, 1), high)  # where a tensor is empty, its kernels end the process
    return planned


def to_executorch(
    model: Source,
    example: Any = None,
    path: str | os.PathLike[str] | None = None,
    *,
    dynamic_axes: Axes | None = None,
    ranges: Ranges | None = None,
) -> ExecutorchProgramManager:
    """A module, or a file that has one, as a program of ExecuTorch, PyTorch's runtime for phones and boards, written as .pte where a path is given; its bytes
    are the result's `buffer`.

    It is the exported program of the variant "portable" for ExecuTorch's own kernels, no backend of others: ternary weights have two bits in the file, and
    are float32 in memory while their layer runs.
    example, dynamic_axes: as to_torchscript(). ranges: bounds of symbols, of those of a file, too, for whose largest sizes memory is planned; a batch
    without bounds is 1.

    Its method "forward" takes the inputs by place, and returns the outputs in their order. Errors: ImportError, without ExecuTorch; InvalidArgument, for a
    size without a largest one; Unsupported, for networks with states and nodes without a form, and naming operators that ExecuTorch has no kernel of."""
    try:
        from executorch import exir
        from executorch.runtime import Runtime
    except ImportError as error:
        raise ImportError(f"to_executorch() expects ExecuTorch: pip install 'bitlab[executorch]' ({error})") from error

    with _as_bit(model, example, dynamic_axes=dynamic_axes, ranges=ranges) as bit:
        exported = _exported(bit, "portable", _planned(Model.load(bit), ranges or {}))
    # Shifts are not in ATen's core. Whether there are kernels is looked up below.
    program = exir.to_edge(exported, compile_config=exir.EdgeCompileConfig(_check_ir_validity=False)).to_executorch()
    called = {f"{operator.name}.{operator.overload}".rstrip(".") for operator in program.executorch_program.execution_plan[0].operators}
    if missing := sorted(called - Runtime.get().operator_registry.operator_names):
        raise _core.Unsupported(f"[executorch] operators with a kernel, got {', '.join(missing)}")
    if path is not None:
        with _whole(path) as part:
            part.write_bytes(program.buffer)
    return program
