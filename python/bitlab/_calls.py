"""Networks as C++ calls them: a dict of tensors in, a dict of tensors out."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bitlab import _core
from bitlab._extension import torch

Distribution = torch.distributions.Distribution

Tensors = dict[str, torch.Tensor]
Forward = Callable[[Tensors], Tensors]

INPUT, OUTPUT = "input", "output"  # of a network of one tensor, as in C++


def parameter_names(function: Callable[..., Any]) -> list[str]:
    """The names of what a forward() takes by place."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return []
    return [p.name for p in signature.parameters.values() if p.kind in kinds]


def flatten(value: Any, name: str = "") -> Tensors:
    """The tensors that a network returned, by name: a tensor is called "output", entries by their keys or places ("output_0"), those of entries
    with a dot ("boxes.0"). None is left out. Error: TypeMismatch, for anything else."""
    if isinstance(value, torch.Tensor):
        return {name or OUTPUT: value}
    if value is None:
        return {}
    if isinstance(value, Mapping):
        items: Iterable[tuple[str, Any]] = ((str(key), item) for key, item in value.items())
    elif isinstance(value, (tuple, list)):
        keys = getattr(value, "_fields", None) or [str(i) if name else f"{OUTPUT}_{i}" for i in range(len(value))]
        items = zip(keys, value, strict=True)
    elif hasattr(value, "__dataclass_fields__"):
        items = ((key, getattr(value, key)) for key in value.__dataclass_fields__)
    else:
        where = f" (output={name})" if name else ""
        raise _core.TypeMismatch(f"[forward] tensors, or tuples and dicts of them, got {type(value).__name__}{where}")
    result: Tensors = {}
    for key, item in items:
        result.update(flatten(item, f"{name}.{key}" if name else key))
    return result


def named_inputs(module: torch.nn.Module, example: Any) -> tuple[Tensors, list[str]]:
    """An example's tensors by name, and the names of those that are passed by place. A tensor is called "input", those of a tuple as forward()
    calls them; a dict is keyword arguments."""
    if isinstance(example, torch.Tensor):
        return {INPUT: example}, [INPUT]
    if isinstance(example, Mapping):
        tensors = {key: value for key, value in example.items() if value is not None}
        names: list[str] = []
    elif isinstance(example, (tuple, list)):
        names = parameter_names(module.forward)[: len(example)]
        names += [f"{INPUT}_{i}" for i in range(len(names), len(example))]
        tensors = dict(zip(names, example, strict=True))
    else:
        raise _core.TypeMismatch(f"[forward] an example: a tensor, a tuple or a dict of tensors, got {type(example).__name__}")
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise _core.TypeMismatch(f"[forward] an example of tensors, got {type(value).__name__} (input={name})")
    return tensors, names


_recordings = 0


@contextmanager
def _recorded() -> Iterator[None]:
    """While a forward pass may be recorded. Networks that ask whether they are compiled are told so: those of transformers leave a mask out where this
    example's says nothing, which would not hold for the next one. What torch.compile() made runs as it was written; attention and the layers of
    encoders run operator by operator, rather than in one; distributions do not ask whether their arguments are valid, which is asked of values."""
    global _recordings
    flag, was = "_is_compiling_flag", torch.compiler.is_compiling()
    fused, validated = torch.backends.mha.get_fastpath_enabled(), Distribution._validate_args
    _recordings += 1
    torch.backends.mha.set_fastpath_enabled(False)
    Distribution.set_default_validate_args(False)
    try:
        with torch.compiler.set_stance("force_eager"):
            setattr(torch.compiler, flag, True)
            yield
    finally:
        setattr(torch.compiler, flag, was)
        Distribution.set_default_validate_args(validated)
        torch.backends.mha.set_fastpath_enabled(fused)
        _recordings -= 1


def is_compiled() -> bool:
    """Whether PyTorch makes a graph, which holds no Python: for the layers of bitlab."""
    return torch.compiler.is_compiling() and _recordings == 0


def forward_of(module: torch.nn.Module, by_place: list[str]) -> Forward:
    """Calls a module with some inputs by place, and the others by name, as one that is recorded."""

    def forward(inputs: Tensors) -> Tensors:
        rest = {name: value for name, value in inputs.items() if name not in by_place}
        try:
            with _recorded():
                outputs = flatten(module(*(inputs[name] for name in by_place if name in inputs), **rest))
        except Exception as error:
            if sys.version_info >= (3, 11):
                sizes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
                error.add_note(f"[forward] a forward pass that succeeds at every size of a symbol, got this at {sizes}")
            raise
        if not outputs:
            raise _core.TypeMismatch("[forward] one tensor or more, got none")
        return outputs

    return forward
