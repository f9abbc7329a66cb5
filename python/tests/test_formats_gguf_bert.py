"""Encoders as GGUF files: llama.cpp computes the embeddings of PyTorch's network and of the formula in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import decoders
import gguf
import numpy as np
import pytest
import torch
from bitlab.formats import convert
from gguf import GGMLQuantizationType as Type
from test_formats_gguf import ACTIVATIONS, ROUNDING, relative

import bitlab

HEADS, VOCABULARY, CONTEXT = 4, 50, 33
TOKENS = [7 * i % 47 + 3 for i in range(12)]
POOLINGS = {"none": 0, "mean": 1, "first": 2, "classifier": 4}
# Scales of groups are float16, as llama.cpp's blocks have them.
GROUPS = bitlab.BitQuantConfig(granularity="group", group_size=256)
# Of the formula with llama.cpp's activations, and its GELU by a table of float16: what is left is float32, and values that rounding moves to the next of 255 steps.
FORMULA = 2e-3
# Beside PyTorch: the same, where three numbers are left of all.
STEPS = 5e-3


class Network(torch.nn.Module):
    """An encoder of our layers."""

    def __init__(self, pooling: str = "none", dim: int = 256, hidden: int = 512, **options: object) -> None:
        super().__init__()
        self.pooling = pooling
        self.table, self.places = torch.nn.Embedding(VOCABULARY, dim), torch.nn.Embedding(CONTEXT, dim)
        self.norm = torch.nn.LayerNorm(dim, eps=1e-5)
        options = {"hidden_dim": hidden, "quant": GROUPS} | options
        self.blocks = torch.nn.Sequential(*(bitlab.nn.BitTransformerBlock(dim, HEADS, **options) for _ in range(2)))
        self.pooler, self.head = torch.nn.Linear(dim, dim), torch.nn.Linear(dim, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.norm(self.table(tokens) + self.places(torch.arange(tokens.shape[1]))))
        if self.pooling == "classifier":
            return self.head(torch.tanh(self.pooler(x[:, 0])))
        return x.mean(1) if self.pooling == "mean" else x[:, 0] if self.pooling == "first" else x


class Output(torch.nn.Module):
    """One output of a network of transformers."""

    def __init__(self, network: torch.nn.Module, name: str) -> None:
        super().__init__()
        self.network, self.name = network, name

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return getattr(self.network(tokens), self.name)


def bert(output: str = "last_hidden_state", attention: str = "eager", **options: object) -> torch.nn.Module:
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    sizes = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": 512}
    config = BertConfig(
        vocab_size=VOCABULARY,
        **sizes,
        max_position_embeddings=CONTEXT,
        num_labels=3,
        attn_implementation=attention,
        **options,
    )
    return Output(
        BertForSequenceClassification(config) if output == "logits" else BertModel(config, add_pooling_layer=False), output
    )


def deployed(network: torch.nn.Module, path: Path, variant: str = "tq2_0") -> np.ndarray:
    """Writes it, with norms and biases of random numbers, no two of which a file has once; returns its outputs for TOKENS."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.1 + ("norm" in name.lower() and name.endswith("weight")))
    tokens = torch.tensor([TOKENS])
    axes = {"input": {0: "batch", 1: "tokens"}}
    bitlab.deploy(network.eval(), tokens, path, variant=variant, dynamic_axes=axes, ranges={"tokens": (1, CONTEXT)})
    with torch.no_grad():
        return network(tokens)[0].numpy()


def run(path: Path) -> np.ndarray:
    return np.asarray(bitlab.runtime.Session(path)(np.array([TOKENS])))[0]


def gelu_of_llama_cpp(x: np.ndarray) -> np.ndarray:
    """A table of float16."""
    x = x.astype(np.float16).astype(np.float64)
    return (x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))).astype(np.float16).astype(np.float64)


def formula(
    path: Path, pooling: str, quantize: Callable[[np.ndarray], np.ndarray], gelu: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Of a .bit file that was read from a GGUF file, for TOKENS; eps 1e-5."""
    w, ternary = decoders.weights_of(path), decoders.ternary_of(path)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w[name + ".weight"] + w.get(name + ".bias", 0)

    def product(x: np.ndarray, name: str) -> np.ndarray:
        x = quantize(x) if name + ".weight" in ternary else x
        return x @ w[name + ".weight"].astype(np.float64).T + w.get(name + ".bias", 0)

    count = len(TOKENS)
    x = (
        w["embed_tokens.weight"].astype(np.float64)[TOKENS]
        + w.get("embed_types.weight", 0)
        + w["embed_positions.weight"][:count]
    )
    x = norm(x, "embed_norm")
    for i in range(2):
        at = f"layers.{i}."
        q, k, v = (product(x, f"{at}self_attn.{p}_proj").reshape(count, HEADS, -1) for p in "qkv")
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        y = np.einsum("hqk,khd->qhd", shares / shares.sum(-1, keepdims=True), v).reshape(count, -1)
        x = norm(x + product(y, at + "self_attn.o_proj"), at + "self_attn.norm")
        x = norm(x + product(gelu(product(x, at + "mlp.up_proj")), at + "mlp.down_proj"), at + "mlp.norm")
    if pooling == "classifier":
        return product(np.tanh(product(x[0], "pooler")), "classifier")
    return x.mean(0) if pooling == "mean" else x[0] if pooling == "first" else x


def check(path: Path, pooling: str, expected: np.ndarray, variant: str) -> None:
    """The file beside PyTorch's outputs: read by the runtime, run by llama.cpp, written again."""
    bit, again = path.with_suffix(".bit"), path.with_name("again.gguf")
    convert(path, bit)
    assert run(bit).shape == expected.shape
    assert relative(run(bit), expected) < STEPS
    convert(bit, again, variant=variant)
    assert again.read_bytes() == path.read_bytes()
    if variant.startswith("tq"):  # the gguf package knows no other type
        fields = gguf.GGUFReader(path).fields
        assert fields["bert.pooling_type"].contents() == POOLINGS[pooling]
        assert fields["bert.context_length"].contents() == CONTEXT
        pytest.importorskip("xllamacpp")
        import llama_cpp

        found = llama_cpp.Model(path, embeds=True).embeddings(TOKENS)
        assert relative(found, expected) < ACTIVATIONS
        assert relative(found, formula(bit, pooling, decoders.by_256, gelu_of_llama_cpp)) < FORMULA


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(("activation", "variant"), [("gelu", "tq2_0"), ("gelu_tanh", "tq1_0"), ("gelu", "q2_0")])
def test_networks_of_our_layers_are_encoders(tmp_path: Path, pooling: str, activation: str, variant: str) -> None:
    torch.manual_seed(1)
    expected = deployed(Network(pooling, activation=activation), tmp_path / "m.gguf", variant)
    check(tmp_path / "m.gguf", pooling, expected, variant)
    kinds = {t.name: t.tensor_type for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors} if variant != "q2_0" else {}
    assert sum(kind == Type[variant.upper()] for kind in kinds.values()) == (12 if kinds else 0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("output", "pooling"), [("last_hidden_state", "none"), ("logits", "classifier")])
def test_networks_of_transformers_are_encoders(tmp_path: Path, attention: str, output: str, pooling: str) -> None:
    """BERT made ternary: with its table, which becomes float32, its types, its pooler and its classifier."""
    torch.manual_seed(2)
    network = bitlab.BitModel(bert(output, attention, layer_norm_eps=1e-5), GROUPS)
    check(tmp_path / "m.gguf", pooling, deployed(network, tmp_path / "m.gguf"), "tq2_0")
    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert tensors["token_types.weight"].shape.tolist() == [256, 1]
    assert tensors["blk.1.ffn_down.weight"].tensor_type == Type.TQ2_0


def test_a_float_encoder_is_one_too(tmp_path: Path) -> None:
    """Of odd sizes: llama.cpp differs by its GELU alone."""
    torch.manual_seed(3)
    network = Network("mean", dim=36, hidden=50, quant=bitlab.BitQuantConfig.none())
    expected = deployed(network, tmp_path / "m.gguf")
    convert(tmp_path / "m.gguf", tmp_path / "m.bit")
    assert relative(run(tmp_path / "m.bit"), expected) < 1e-5
    pytest.importorskip("xllamacpp")
    import llama_cpp

    found = llama_cpp.Model(tmp_path / "m.gguf", embeds=True).embeddings(TOKENS)
    assert relative(found, formula(tmp_path / "m.bit", "mean", lambda x: x, gelu_of_llama_cpp)) < FORMULA


def write_model(path: Path, pooling: int, table: str = "F16") -> dict[str, np.ndarray]:
    """An encoder by the gguf package, with two types of tokens; returns the float values of each tensor."""
    dim, hidden = 256, 512
    random, truth = np.random.default_rng(5), {}
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(dim)
    writer.add_block_count(2)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-5)
    writer.add_causal_attention(False)
    writer.add_uint32("bert.pooling_type", pooling)
    writer.add_vocab_size(VOCABULARY)
    writer.add_token_type_count(2)
    writer.add_string("tokenizer.ggml.model", "none")

    def add(name: str, values: np.ndarray, kind: str = "F32") -> None:
        data = gguf.quants.quantize(values.astype(np.float32), Type[kind])
        truth[name] = gguf.quants.dequantize(data, Type[kind]) if kind != "F32" else values.astype(np.float32)
        writer.add_tensor(name, data, raw_dtype=Type[kind])

    def add_norm(name: str) -> None:
        add(name + ".weight", random.uniform(0.5, 1.5, dim))
        add(name + ".bias", random.normal(size=dim) * 0.1)

    add("token_embd.weight", random.normal(size=(VOCABULARY, dim)), table)
    add("position_embd.weight", random.normal(size=(CONTEXT, dim)), table)
    add("token_types.weight", random.normal(size=(2, dim)))
    add_norm("token_embd_norm")
    for i in range(2):
        for name, rows, depth in (
            *((f"attn_{part}", dim, dim) for part in ("q", "k", "v", "output")),
            ("ffn_up", hidden, dim),
            ("ffn_down", dim, hidden),
        ):
            add(f"blk.{i}.{name}.weight", random.integers(-1, 2, (rows, depth)) * 0.03125, "TQ2_0")
            add(f"blk.{i}.{name}.bias", random.normal(size=rows) * 0.1)
        add_norm(f"blk.{i}.attn_output_norm")
        add_norm(f"blk.{i}.layer_output_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return truth


@pytest.mark.parametrize("table", ["F32", "F16", "Q8_0"])
def test_files_of_the_gguf_package_are_read(tmp_path: Path, table: str) -> None:
    truth = write_model(tmp_path / "theirs.gguf", 2, table)
    convert(tmp_path / "theirs.gguf", tmp_path / "m.bit")
    convert(tmp_path / "m.bit", tmp_path / "mine.gguf")
    expected = formula(
        tmp_path / "m.bit",
        "first",
        decoders.by_token,
        lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / 2**0.5)),
    )
    assert relative(run(tmp_path / "m.bit"), expected) < ROUNDING
    truth["token_types.weight"] = truth["token_types.weight"][:1]  # the only one that llama.cpp gives
    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "mine.gguf").tensors}
    assert tensors.keys() == truth.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(gguf.quants.dequantize(tensor.data, tensor.tensor_type), truth[name], err_msg=name)
    pytest.importorskip("xllamacpp")
    import llama_cpp

    found = [llama_cpp.Model(tmp_path / name, embeds=True).embeddings(TOKENS) for name in ("theirs.gguf", "mine.gguf")]
    if table != "Q8_0":  # which is read as float32
        np.testing.assert_array_equal(*found)
    assert relative(found[1], expected) < ACTIVATIONS


class TwoInputs(Network):
    def forward(self, tokens: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
        return super().forward(tokens) + more


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"norm_first": True}, "a layer norm behind a sum, got add"),
        ({"sub_norm": True}, "a product as Down|GELU, got layer_norm"),
        ({"activation": "relu"}, "GELU, got relu"),
        ({"activation": "swiglu"}, "GELU, got mul"),
        ({"causal": True}, "attention to all tokens, without a mask, got attention"),
        ({"rope_theta": 1e4}, "tokens behind heads, got rotary"),
        ({"norm": "rms"}, "nothing|a product as Head, got"),
    ],
)
def test_what_llama_cpp_has_no_encoder_for_is_refused_by_its_node(tmp_path: Path, options: dict, sentence: str) -> None:
    with pytest.raises(bitlab.Unsupported, match=rf"\[gguf\] ({sentence}).*\(node="):
        deployed(Network(**options), tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_weights_and_inputs_that_it_has_no_place_for_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with pytest.raises(
        bitlab.Unsupported, match=r"a scale that float16 holds in TQ2_0 of bert, got .* \(tensor=blk.0.attn_q.weight\)"
    ):
        deployed(Network(quant=bitlab.BitQuantConfig()), path)
    with pytest.raises(
        bitlab.Unsupported, match=r"rows of whole blocks of 256 values in TQ2_0, got 128 \(tensor=blk.0.attn_q.weight\)"
    ):
        deployed(Network(dim=128), path)
    tokens = torch.tensor([TOKENS])
    with pytest.raises(bitlab.Unsupported, match="an encoder of one input and one output"):
        bitlab.deploy(TwoInputs().eval(), (tokens, torch.ones(1, 12, 256)), path)
    assert not path.exists()
