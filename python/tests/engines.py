"""The programs that run each format, none of them BitLab's but for its own: a file in, a function from the network's inputs to its outputs out."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import bitlab.torch_formats  # adds PyTorch's formats to those of convert()
import numpy as np
import torch
from bitlab.formats import Conversion, available, convert
from sources import Arrays, Run, States, c_compiler

import bitlab
import bitlab.ops  # registers torch.ops.bitlab


def _with_states(inputs: Arrays, states: States) -> list[np.ndarray]:
    values = list(inputs.values())
    return values + [np.zeros((len(values[0]), heads, 0, depth), np.float32) for heads, depth in states]


def runtime(path: Path, states: States = ()) -> Run:
    session = bitlab.runtime.Session(path, threads=1)
    names = [port.name for port in session.model.inputs]

    def run(inputs: Arrays) -> list[np.ndarray]:
        session.reset()
        return list(session.run(dict(zip(names, inputs.values(), strict=True))).values())

    return run


def onnx_session(path: Path, optimized: bool = True) -> Any:
    """Of ONNX Runtime, of a file that ONNX's own checker takes."""
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnx_runtime(path: Path, states: States = ()) -> Run:
    session = onnx_session(path)
    names = [port.name for port in session.get_inputs()]
    outputs = [port.name for port in session.get_outputs() if not port.name.endswith(".next")]
    return lambda inputs: session.run(outputs, dict(zip(names, _with_states(inputs, states), strict=True)))


def _by_torch(module: Callable[..., Any], states: States) -> Run:
    def run(inputs: Arrays) -> list[np.ndarray]:
        with torch.inference_mode():
            results = module(*map(torch.from_numpy, _with_states(inputs, states)))
        if isinstance(results, dict):
            results = [y for name, y in results.items() if not name.endswith(".next")]
        return [y.numpy() for y in ((results,) if isinstance(results, torch.Tensor) else results)]

    return run


def torchscript(path: Path, states: States = ()) -> Run:
    return _by_torch(torch.jit.load(path), states)


def lite_interpreter(path: Path, states: States = ()) -> Run:
    from torch.jit.mobile import _load_for_lite_interpreter

    return _by_torch(_load_for_lite_interpreter(str(path)), states)


def exported_program(path: Path, states: States = ()) -> Run:
    return _by_torch(torch.export.load(path).module(), states)


def llama_cpp(path: Path, states: States = ()) -> Run:
    import llama_cpp

    model = llama_cpp.Model(path)
    return lambda inputs: [np.stack([model.logits(row.tolist()) for row in next(iter(inputs.values()))])]


def transformers(path: Path, states: States = ()) -> Run:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")

    def run(inputs: Arrays) -> list[np.ndarray]:
        # transformers compiles small functions of these layers, for half a minute.
        with torch.inference_mode(), torch._dynamo.config.patch(disable=True):
            return [model(torch.from_numpy(next(iter(inputs.values())))).logits.numpy()]

    return run


class Engine(NamedTuple):
    name: str
    load: Callable[..., Run]


ENGINES = {
    "bit": Engine("BitLab", runtime),
    "onnx": Engine("ONNX Runtime", onnx_runtime),
    "torchscript": Engine("TorchScript", torchscript),
    "ptl": Engine("TorchScript's lite interpreter", lite_interpreter),
    "pt2": Engine("torch.export", exported_program),
    "c": Engine("C compiler", c_compiler),
    "gguf": Engine("llama.cpp", llama_cpp),
    "hf": Engine("transformers", transformers),
}


def forms() -> list[str]:
    """What a network is written as: each format, and behind a dash each of its variants."""
    return [f"{f.name}-{variant}" if variant else f.name for f in available() for variant in f.variants or [""]]


def engine_of(form: str) -> Engine | None:
    """None where it is not installed, and of Q2_0 and I2_S, whose numbers are those of other types in the llama.cpp of the wheel."""
    if form.startswith("gguf") and (not form.startswith("gguf-tq") or importlib.util.find_spec("xllamacpp") is None):
        return None
    return ENGINES[form.partition("-")[0]]


def write(source: Path, folder: Path, form: str) -> tuple[Path, Conversion]:
    name, _, variant = form.partition("-")
    path = folder / f"{form.replace('-', '_')}{next(f.extension for f in available() if f.name == name)}"
    return path, convert(source, path, variant=variant or None)
