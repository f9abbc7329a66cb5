"""Folders of Hugging Face's BitNet models beside transformers, which loads, runs and makes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import decoders
import numpy as np
import pytest
import torch
from bitlab.formats import convert
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitNetConfig, BitNetForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.integrations.bitnet import AutoBitLinear, BitLinear, pack_weights

import bitlab

TOKENS = [[7 * i % 96 for i in range(11)]]
SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": None,
    "eos_token_id": None,
}
# Of the logits: roundings, and activations that they move to the next of 255 steps.
BOUND = 2e-3


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """transformers compiles small functions of these layers, for a minute each."""
    with torch._dynamo.config.patch(disable=True):
        yield


def save_model(folder: Path, arch: str, linear_class: str, mode: str = "offline", **config: object) -> None:
    """A random model as transformers stores it: its float layers replaced by packed ones, or by the master weights of training."""
    kind, model_class = (BitNetConfig, BitNetForCausalLM) if arch == "bitnet" else (LlamaConfig, LlamaForCausalLM)
    model = model_class(kind(**{**SIZES, **config})).float()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [n for n in tensors if n.endswith("proj.weight")]:
        if mode == "online":
            tensors[name] = tensors[name].bfloat16()
            continue
        scale = tensors[name].abs().mean()
        t = (tensors[name] / scale).round().clamp(-1, 1)
        tensors[name] = pack_weights(t)
        tensors[name + "_scale"] = (1 / scale if linear_class == "bitlinear" else scale).reshape(1)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    stored = json.loads((folder / "config.json").read_text())
    stored["quantization_config"] = {"quant_method": "bitnet", "linear_class": linear_class, "quantization_mode": mode}
    (folder / "config.json").write_text(json.dumps(stored))


def their_logits(folder: Path) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    assert isinstance(model.model.layers[1].mlp.down_proj, (BitLinear, AutoBitLinear))
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits[0].numpy()


def our_logits(path: Path) -> np.ndarray:
    return np.asarray(bitlab.runtime.Session(path)(np.array(TOKENS)))[0]


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("arch", ["bitnet", "llama"])
@pytest.mark.parametrize(
    ("linear_class", "mode"), [("bitlinear", "offline"), ("autobitlinear", "offline"), ("autobitlinear", "online")]
)
@pytest.mark.parametrize("tied", [False, True])
def test_what_transformers_stores_is_read(tmp_path: Path, arch: str, linear_class: str, mode: str, tied: bool) -> None:
    folder, bit = tmp_path / "theirs.hf", tmp_path / "m.bit"
    save_model(folder, arch, linear_class, mode, tie_word_embeddings=tied)
    convert(folder, bit)
    assert relative(our_logits(bit), their_logits(folder)) < BOUND


@pytest.mark.parametrize("arch", ["bitnet", "llama"])
@pytest.mark.parametrize(
    "config", [{}, {"tie_word_embeddings": True}, {"hidden_act": "silu"}, {"attention_bias": True, "rope_theta": 500.0}]
)
def test_transformers_loads_what_is_written(tmp_path: Path, arch: str, config: dict[str, object]) -> None:
    theirs, bit, mine, back = (tmp_path / name for name in ("theirs.hf", "m.bit", "mine.hf", "back.bit"))
    save_model(theirs, arch, "autobitlinear", **config)
    convert(theirs, bit)
    convert(bit, mine)
    ours, expected = load_file(mine / "model.safetensors"), load_file(theirs / "model.safetensors")
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(ours[name], tensor), name
    assert relative(our_logits(bit), their_logits(mine)) < BOUND
    convert(mine, back)
    assert back.read_bytes() == bit.read_bytes()


def test_the_network_is_the_formula(tmp_path: Path) -> None:
    """In double precision, without transformers."""
    save_model(tmp_path / "m.hf", "bitnet", "autobitlinear", rms_norm_eps=1e-5, rope_theta=10000.0)
    convert(tmp_path / "m.hf", tmp_path / "m.bit")
    weights = decoders.weights_of(tmp_path / "m.bit")
    expected = decoders.logits(weights, TOKENS[0], 4, 2, "relu2", decoders.by_token)
    assert relative(our_logits(tmp_path / "m.bit"), expected) < BOUND


def test_a_folder_becomes_a_gguf_file(tmp_path: Path) -> None:
    """Of a BitNet model, with codes and scales as they were."""
    save_model(
        tmp_path / "m.hf", "bitnet", "autobitlinear", tie_word_embeddings=True, hidden_size=128, intermediate_size=256
    )
    convert(tmp_path / "m.hf", tmp_path / "m.bit")
    convert(tmp_path / "m.hf", tmp_path / "m.gguf", variant="i2_s")
    convert(tmp_path / "m.gguf", tmp_path / "back.bit")
    before, after = (decoders.weights_of(tmp_path / name) for name in ("m.bit", "back.bit"))
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values, err_msg=name)
