"""Every format that is read into every format that is written: codes and scales stay as they are, and the program of the target's format computes the same."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import decoders
import numpy as np
import pytest
import torch
from bitlab.formats import convert
from conftest import ROOT
from decoders import KV_HEADS, VOCABULARY
from engines import ENGINES, Arrays, States, engine_of, forms, write
from products import BEHIND_QUANTIZERS, apart

import bitlab

if sys.version_info < (3, 11):
    pytest.skip("no ONNX Runtime that knows INT2 for this Python", allow_module_level=True)


class Network(NamedTuple):
    path: Path  # a .bit file
    inputs: Arrays
    exact: set[str]  # formats whose programs compute the runtime's bits of it
    states: States = ()  # of what is read of a format of language models


def pictures(folder: Path) -> Network:
    inputs = {"input": np.random.default_rng(0).standard_normal((3, 1, 28, 28), dtype=np.float32)}
    return Network(ROOT / "tests/golden/lenet5.bit", inputs, {"bit", "c", "onnx", "ptl", "torchscript"})


def decoder(folder: Path) -> Network:
    """What every format of language models can say: sub-norms, scales by tensor, widths that are multiples of 256."""
    model, tokens = decoders.Network("swiglu", True).eval(), torch.randint(0, VOCABULARY, (2, 9))
    axes = {"input": {0: "batch", 1: "tokens"}}
    bitlab.deploy(model, tokens, folder / "decoder.bit", dynamic_axes=axes, ranges={"tokens": (1, 64)})
    return Network(folder / "decoder.bit", {"input": tokens.numpy()}, {"bit"}, [(KV_HEADS, 64)] * 4)


NETWORKS = {"pictures": pictures, "decoder": decoder}
READ = ["bit", "onnx-float", "onnx-matmulnbits", "onnx-int2", "onnx-int8", "gguf-tq2_0", "gguf-tq1_0", "gguf-q2_0", "gguf-i2_s", "hf"]
LANGUAGE = {"gguf", "hf"}


def refusal(network: str, source: str, form: str) -> str | None:
    """The words that say why a pair is refused."""
    target = form.partition("-")[0]
    if network == "pictures":
        return "activations of int8" if form.startswith("c-integer") else "an RMS norm" if target in LANGUAGE else None
    if target == "c":
        return "sizes that do not change"
    return "an RMS norm" if source == "onnx" and target in LANGUAGE else None  # attention comes back as the operations that it consists of


def products(path: Path) -> list[bytes]:
    """Codes by scales of every ternary weight, in no order: each format has its own, and its own names."""
    bit = path if path.suffix == ".bit" else path.with_suffix(".products.bit")
    if bit != path:
        convert(path, bit)
    weights = decoders.weights_of(bit)
    return sorted(w.tobytes() for name, w in weights.items() if name in decoders.ternary_of(bit))


@pytest.mark.parametrize(("network", "source"), [(n, s) for n in NETWORKS for s in READ if n == "decoder" or s.partition("-")[0] not in LANGUAGE])
def test_from_every_format_into_every_other(network: str, source: str, tmp_path: Path) -> None:
    net = NETWORKS[network](tmp_path)
    kind = source.partition("-")[0]
    folder = tmp_path / "to"
    folder.mkdir()
    read, _ = write(net.path, tmp_path, source)
    (expected,) = ENGINES["bit"].load(net.path)(net.inputs)
    weights = products(net.path)
    assert len(weights) == len(set(weights)) > 3
    for form in forms():
        target = form.partition("-")[0]
        if words := refusal(network, kind, form):
            with pytest.raises(bitlab.Unsupported, match=words):
                write(read, folder, form)
            continue
        path, _ = write(read, folder, form)
        if form in READ:
            assert products(path) == weights, form
        if engine := engine_of(form):
            (found,) = engine.load(path, net.states if kind in LANGUAGE else ())(net.inputs)
            difference = apart({"y": found.reshape(expected.shape)}, {"y": expected})
            assert difference <= (0 if {kind, target} <= net.exact else BEHIND_QUANTIZERS), form
