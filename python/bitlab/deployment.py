"""From a module of Python to a .bit file that runs without Python, or one of another format, with the proof that both compute the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bitlab import _core
from bitlab._calls import Arguments, forward_of, line_of_call, named_inputs
from bitlab._core import BitQuantConfig, DeploymentConfig, MixedPrecisionConfig
from bitlab._extension import _torch, torch
from bitlab.convert import BitModel, native_of

Deployment = _torch.Deployment
NodeDifference = _torch.NodeDifference
PostTrainingReport = _torch.PostTrainingReport

Axes = Mapping[str, Mapping[int, str]]
Ranges = Mapping[str, tuple[int, int]]
Inputs = list[tuple[str, str, list[int | tuple[str, int]]]]


# Types of inputs that programs have not.
_TAKEN_AS = {"uint8": "int32", "int8": "int32", "int16": "int32", "float64": "float32"}


def _multiple(symbol: str) -> tuple[str, int]:
    """A symbol's name, and what it is multiplied by: "32*height"."""
    factor, star, name = symbol.partition("*")
    if star and factor.strip().isdecimal() and int(factor) > 0:
        return name.strip(), int(factor)
    return symbol, 1


def _signature(example: Mapping[str, torch.Tensor], axes: Axes | None) -> Inputs | None:
    """An example's names, dtypes and sizes as C++ takes them."""
    if axes is None:
        return None
    for name in axes:
        if name not in example:
            raise _core.UnknownName(f"[deploy] dynamic_axes of inputs {', '.join(example)}, got {name!r}")
    inputs: Inputs = []
    for name, tensor in example.items():
        named = {axis % max(tensor.dim(), 1): _multiple(symbol) for axis, symbol in axes.get(name, {}).items()}
        sizes: list[int | tuple[str, int]] = [named.get(i, size) for i, size in enumerate(tensor.shape)]
        dtype = str(tensor.dtype).removeprefix("torch.")
        inputs.append((name, _TAKEN_AS.get(dtype, dtype), sizes))
    return inputs


# How networks of transformers are recorded. Mixtures of experts choose tokens for each expert, as many as there happen to be: gathering weights for each
# token is the same in sizes that are known. Keys and values that are kept for the next token are no outputs.
_RECORDED_AS = {"_experts_implementation": "batched_mm", "use_cache": False}


@contextmanager
def _for_recording(model: torch.nn.Module) -> Iterator[None]:
    configs: dict[int, Any] = {id(config): config for config in (getattr(part, "config", None) for part in model.modules()) if config is not None}
    before = [(config, key, getattr(config, key)) for config in configs.values() for key in _RECORDED_AS if getattr(config, key, None)]
    try:
        for config, key, _ in before:
            setattr(config, key, _RECORDED_AS[key])
        yield
    finally:
        for config, key, value in before:
            setattr(config, key, value)


def deploy(
    model: torch.nn.Module,
    example: Any,
    path: str | os.PathLike[str],
    *,
    dynamic_axes: Axes | None = None,
    ranges: Ranges | None = None,
    metadata: Mapping[str, str] | None = None,
    format: str | None = None,
    variant: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
) -> Deployment:
    """Records the model's forward pass in eval, checks that the runtime computes the same on `example`, and writes a .bit file, or one of another
    format.

    example: a tensor, a tuple (by place) or a dict (by name) of tensors on the CPU; an argument may be a tuple, a list, a dict or a dataclass of them, whose
    inputs have names with a dot ("batch.mask"). Numbers, texts, flags and None are what they are in the example. What is of uint8, int8 or int16 enters the file as int32, float64 as
    float32; a session takes arrays of either.
    dynamic_axes: sizes that differ from run to run, by input and axis: {"input_ids": {0: "batch", 1: "tokens"}}. Without it the first size of every
    input is the batch, and the others are the example's. A multiple of a name, {2: "32*height"}, is a size in steps.
    ranges: the smallest and the largest size of such a name: {"tokens": (1, 128)}.
    metadata: texts for the file.
    format, variant: of bitlab.formats.available(); without them what the path's ending says, and its first variant.
    tokenizer: for gguf and hf, the path of a tokenizer.json, or of a file or folder that has one.

    A model whose forward is all ternary and exact has the same bits in the runtime; where a float operation may round otherwise, `parity` says
    how much. Errors: Unsupported, naming an operation that has no form in the file."""
    inputs, arguments = named_inputs(model, example)
    mode = model.training
    try:
        with _for_recording(model):
            return _torch.save(
                native_of(model),
                forward_of(model, arguments),
                line_of_call,
                inputs,
                os.fspath(path),
                _signature(inputs, dynamic_axes),
                dict(ranges or {}),
                dict(metadata or {}),
                format or "",
                variant or "",
                os.fspath(tokenizer or ""),
            )
    finally:
        model.train(mode)


def verify(
    path: str | os.PathLike[str],
    model: torch.nn.Module,
    example: Any,
    *,
    dynamic_axes: Axes | None = None,
    ranges: Ranges | None = None,
) -> list[NodeDifference]:
    """Runs a file and its model on the example, and compares node by node."""
    inputs, arguments = named_inputs(model, example)
    mode = model.training
    try:
        with _for_recording(model):
            return _torch.compare(
                os.fspath(path), native_of(model), forward_of(model, arguments), inputs, _signature(inputs, dynamic_axes), dict(ranges or {})
            )
    finally:
        model.train(mode)


def quantize_for_deployment(
    model: torch.nn.Module,
    samples: Iterable[Any],
    config: MixedPrecisionConfig | BitQuantConfig | None = None,
    deployment: DeploymentConfig | None = None,
    *,
    evaluate: Callable[[torch.nn.Module], float] | None = None,
) -> tuple[BitModel, PostTrainingReport]:
    """Makes a float network ternary without training: codes, scales, steps and biases are fitted to a few samples, one layer after the other, and are
    the layers' own from then on. Returns the model, ready for deploy(), and what fitting did. Weights and BatchNorms of `model` change.

    samples: inputs with a batch in front, each as deploy()'s example. evaluate(model): measures it in eval, for the report."""
    wrapped = model if isinstance(model, BitModel) else BitModel(model, config)
    named: list[dict[str, torch.Tensor]] = []
    arguments = Arguments([], {})
    for sample in samples:
        inputs, arguments = named_inputs(wrapped.model, sample)
        named.append(inputs)
    measure = None if evaluate is None else lambda: float(evaluate(wrapped))
    report = _torch.fit_samples(wrapped._native, forward_of(wrapped, arguments), named, deployment or DeploymentConfig(), measure)
    wrapped.eval()
    wrapped._register()  # fitted layers have parameters of their own
    return wrapped, report
