"""Networks as C++ calls them: a dict of tensors in, a dict of tensors out."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from dataclasses import replace as dataclass_replace
from typing import Any

from bitlab import _core
from bitlab._extension import torch

Distribution = torch.distributions.Distribution

Tensors = dict[str, torch.Tensor]
Forward = Callable[[Tensors], Tensors]

INPUT, OUTPUT = "input", "output"  # of a network of one tensor, as in C++
_FIND_SEQUENCES = "find_packed_sequence_indices"  # of transformers
_OWN_FILES = tuple(os.path.dirname(file) + os.sep for file in (__file__, torch.__file__) if file)


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


@dataclass(frozen=True)
class _Input:
    """The place of a tensor in an argument."""

    name: str


@dataclass(frozen=True)
class Arguments:
    """What a network is called with: arguments by place and by name, with an _Input where each tensor goes."""

    by_place: Sequence[Any]
    by_name: Mapping[str, Any]


def _mapped(value: Any, leaf: Callable[[Any, str], Any], name: str = "") -> Any:
    """A tuple, a list, a dict or a dataclass with other leaves, each made of it and its name: "batch.mask" in a dict, "images.0" in a list; of a leaf that."""
    if isinstance(value, Mapping):
        return {key: _mapped(item, leaf, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        keys = getattr(value, "_fields", None) or range(len(value))
        items = [_mapped(item, leaf, f"{name}.{key}") for key, item in zip(keys, value, strict=True)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if is_dataclass(value) and not isinstance(value, (type, _Input)):
        names = [field.name for field in fields(value) if field.init]
        return dataclass_replace(value, **{key: _mapped(getattr(value, key), leaf, f"{name}.{key}") for key in names})
    return leaf(value, name)


def _of_structure(value: Any, name: str, tensors: Tensors) -> Any:
    """An argument with an _Input in place of each tensor, which `tensors` gets."""

    def leaf(item: Any, name: str) -> Any:
        if isinstance(item, torch.Tensor):
            tensors[name] = item
            return _Input(name)
        if item is None or isinstance(item, (bool, int, float, str)):
            return item
        raise _core.TypeMismatch(f"[forward] an example of tensors, and of tuples and dicts of them, got {type(item).__name__} (input={name})")

    return _mapped(value, leaf, name)


def named_inputs(module: torch.nn.Module, example: Any) -> tuple[Tensors, Arguments]:
    """An example's tensors by name, and how the network takes them. A tensor is called "input", those of a tuple as forward() calls them; a dict is
    keyword arguments. An argument may be a tuple, a list, a dict or a dataclass of tensors ("batch.mask"); numbers, texts, flags and None stay what they are."""
    tensors: Tensors = {}
    if isinstance(example, torch.Tensor):
        return {INPUT: example}, Arguments([_Input(INPUT)], {})
    if isinstance(example, Mapping):
        return tensors, Arguments([], {key: _of_structure(value, key, tensors) for key, value in example.items()})
    if not isinstance(example, (tuple, list)):
        raise _core.TypeMismatch(f"[forward] an example: a tensor, a tuple or a dict of tensors, got {type(example).__name__}")
    names = parameter_names(module.forward)[: len(example)]
    names += [f"{INPUT}_{i}" for i in range(len(names), len(example))]
    return tensors, Arguments([_of_structure(value, name, tensors) for name, value in zip(names, example, strict=True)], {})


_recordings = 0


@contextmanager
def _one_sequence_a_row(inputs: Tensors) -> Iterator[None]:
    """Decoders of transformers that are compiled look for the sequences that share a row of tokens, by positions, and hide them from each other by a mask. Only
    positions that are an input can say so: without that, attention is as causal as it is where they are not compiled."""
    masks = sys.modules.get("transformers.masking_utils")
    find = getattr(masks, _FIND_SEQUENCES, None)
    if find is None or any(name.rpartition(".")[2] == "position_ids" for name in inputs):
        yield
        return
    setattr(masks, _FIND_SEQUENCES, lambda position_ids: None)
    try:
        yield
    finally:
        setattr(masks, _FIND_SEQUENCES, find)


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


def line_of_call() -> str:
    """The line of a network that is under way, "net.py:12": the innermost one that is neither PyTorch's nor BitLab's. Empty where there is none."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_OWN_FILES):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def forward_of(module: torch.nn.Module, arguments: Arguments) -> Forward:
    """Calls a module with inputs where they go, as one that is recorded."""

    def forward(inputs: Tensors) -> Tensors:
        def given(value: Any) -> Any:
            return _mapped(value, lambda leaf, _: inputs[leaf.name] if isinstance(leaf, _Input) else leaf)

        try:
            with _recorded(), _one_sequence_a_row(inputs):
                outputs = flatten(module(*map(given, arguments.by_place), **{name: given(value) for name, value in arguments.by_name.items()}))
        except Exception as error:
            if sys.version_info >= (3, 11):
                sizes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
                error.add_note(f"[forward] a forward pass that succeeds at every size of a symbol, got this at {sizes}")
            raise
        if not outputs:
            raise _core.TypeMismatch("[forward] one tensor or more, got none")
        return outputs

    return forward
