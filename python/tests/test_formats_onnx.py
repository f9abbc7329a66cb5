"""ONNX files: ONNX's own checker takes them, and ONNX Runtime computes what the runtime does."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from engines import onnx_session
from products import BEHIND_QUANTIZERS, QUANTIZATIONS, ROUNDING, Arrays, Products, apart, deployed, examples, ops_of
from test_formats_gguf import write_model
from torch import nn
from torch.nn import functional as F

import bitlab

if sys.version_info < (3, 11):
    pytest.skip("no ONNX Runtime that knows INT2 for this Python", allow_module_level=True)
import onnx  # noqa: E402
import onnxruntime  # noqa: E402

VARIANTS = ["float", "matmulnbits", "int2", "int8"]


def onnx_outputs(path: Path, inputs: Arrays, optimized: bool = True) -> Arrays:
    session = onnx_session(path, optimized)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def difference(bit: Path, inputs: Arrays, variant: str, optimized: bool = True) -> float:
    """Of ONNX Runtime's outputs and the runtime's: the largest, relative to the largest output; 0 for equal bits."""
    path = bit.with_suffix(f".{variant}.onnx")
    bitlab.formats.convert(bit, path, variant=variant)
    expected = bitlab.runtime.Session(bit).run(inputs)
    return apart(onnx_outputs(path, inputs, optimized), expected)


# --- ternary products


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=lambda q: "-".join(q.values()))
def test_products_have_the_bits_of_the_runtime(quantization: dict[str, str], variant: str, tmp_path: Path) -> None:
    model = bitlab.BitModel(Products(), bitlab.BitQuantConfig(**quantization))
    inputs = deployed(model, examples(), tmp_path / "m.bit")
    assert bitlab.runtime.Model.load(tmp_path / "m.bit").is_exact
    assert difference(tmp_path / "m.bit", inputs, variant, optimized=False) == 0
    assert difference(tmp_path / "m.bit", inputs, variant) == 0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("activation", ["none", "int8_static"])
def test_products_whose_scales_may_be_folded(activation: str, variant: str, tmp_path: Path) -> None:
    """Sums of floats have an order, and constants in front of and behind a product may become part of its weights."""
    model = bitlab.BitModel(Products(), bitlab.BitQuantConfig(activation=activation))
    model.train()
    for _ in range(2):
        model(*examples())  # steps of static activations
    inputs = deployed(model, examples(), tmp_path / "m.bit")
    assert difference(tmp_path / "m.bit", inputs, variant) < (ROUNDING if activation == "none" else BEHIND_QUANTIZERS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_scales_of_groups(variant: str, tmp_path: Path) -> None:
    model = bitlab.BitModel(nn.Sequential(nn.Linear(200, 7)), bitlab.BitQuantConfig(granularity="group", group_size=64))
    inputs = deployed(model, torch.randn(2, 3, 200), tmp_path / "m.bit")
    assert difference(tmp_path / "m.bit", inputs, variant) < ROUNDING


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_largest_sums(variant: str, tmp_path: Path) -> None:
    layer = nn.Linear(4096, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [-1.0], [1.0]]).expand(3, 4096))
    inputs = deployed(bitlab.BitModel(nn.Sequential(layer)), torch.full((2, 4096), 3.7), tmp_path / "m.bit")
    assert difference(tmp_path / "m.bit", inputs, variant) == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_tables(variant: str, tmp_path: Path) -> None:
    for config in (bitlab.BitQuantConfig(granularity="channel"), bitlab.BitQuantConfig(method="twn_asymmetric")):
        model = bitlab.nn.BitEmbedding(11, 6, quant=config)
        inputs = deployed(model, torch.randint(0, 11, (2, 5)), tmp_path / "m.bit")
        assert "ternary_embedding" in ops_of(tmp_path / "m.bit")
        assert difference(tmp_path / "m.bit", inputs, variant) == 0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layer", [bitlab.nn.BitLSTM, bitlab.nn.BitGRU])
def test_recurrent_layers(layer: type[nn.Module], variant: str, tmp_path: Path) -> None:
    model = layer(4, 6, batch_first=True, bidirectional=True, quant=bitlab.BitQuantConfig())
    inputs = deployed(model, torch.randn(2, 5, 4), tmp_path / "m.bit")
    assert "ternary_recurrent" in ops_of(tmp_path / "m.bit")
    assert difference(tmp_path / "m.bit", inputs, variant) < BEHIND_QUANTIZERS


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_float_recurrent_layers(layer: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = layer(4, 6, num_layers=2, batch_first=True, bidirectional=True)
    inputs = deployed(model, torch.randn(2, 5, 4), tmp_path / "m.bit")
    assert "recurrent" in ops_of(tmp_path / "m.bit")
    assert difference(tmp_path / "m.bit", inputs, "float") < ROUNDING


def test_bytes_of_weights(tmp_path: Path) -> None:
    model = bitlab.BitModel(nn.Sequential(nn.Linear(1024, 1024, bias=False), nn.Linear(1024, 512, bias=False)))
    deployed(model, torch.randn(1, 1024), tmp_path / "m.bit")
    smaller = {}
    for variant in VARIANTS:
        done = bitlab.formats.convert(tmp_path / "m.bit", tmp_path / "m.onnx", variant=variant)
        smaller[variant] = 4 * 1024 * (1024 + 512) / done.file_bytes
    assert smaller["int2"] > 15.5 and smaller["matmulnbits"] > 14 and smaller["int8"] > 3.9 and smaller["float"] > 0.99


def test_what_has_no_form_is_refused_by_name(tmp_path: Path) -> None:
    deployed(Function(torch.erfinv), torch.rand(2, 5), tmp_path / "m.bit")
    with pytest.raises(bitlab.Unsupported, match=r"erfinv \(node="):
        bitlab.formats.convert(tmp_path / "m.bit", tmp_path / "m.onnx")
    grouped = bitlab.BitModel(nn.Sequential(nn.Conv2d(64, 2, 1)), bitlab.BitQuantConfig(granularity="group", group_size=64))
    deployed(grouped, torch.randn(1, 64, 2, 2), tmp_path / "g.bit")
    with pytest.raises(bitlab.Unsupported, match=r"groups in a convolution .* \(node="):
        bitlab.formats.convert(tmp_path / "g.bit", tmp_path / "g.onnx", variant="int2")
    assert not (tmp_path / "m.onnx").exists() and not (tmp_path / "g.onnx").exists()


# --- each operation


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.parameter = nn.Parameter(torch.randn(6))

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def floats(*sizes: int) -> torch.Tensor:
    return torch.randn(*sizes)


def positive(*sizes: int) -> torch.Tensor:
    return torch.rand(*sizes) + 0.1


def integers(*sizes: int) -> torch.Tensor:
    return torch.randint(-9, 9, sizes)


torch.manual_seed(0)
WEIGHT, FILTERS, TABLE, PLACES = (
    torch.randn(4, 6) * 0.3,
    torch.randn(4, 3, 3, 3) * 0.3,
    torch.randn(9, 5),
    torch.tensor([[3, 0, 5, 5, 1, 2]]),
)
CASES: dict[str, tuple[Callable[..., Any], torch.Tensor]] = {
    **{name: (getattr(torch, name), floats(3, 6)) for name in ("relu", "sigmoid", "tanh", "exp", "erf", "sin", "cos", "abs", "floor", "ceil", "round")},
    **{name: (getattr(torch, name), positive(3, 6)) for name in ("log", "rsqrt", "log1p")},
    "sqrt": (torch.sqrt, integers(3, 6).float().square()),  # LibTorch's own is MKL's, whose other roots may be a bit off
    "expm1": (lambda x: torch.expm1(torch.cat([x, x * 1e-6], 1)), floats(3, 6)),
    "gelu": (F.gelu, floats(3, 6)),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), floats(3, 6)),
    "silu": (F.silu, floats(3, 6)),
    "add": (lambda x: x + x[:, :1], floats(3, 6)),
    "sub": (lambda x: 1 - x, floats(3, 6)),
    "mul": (lambda x: x * x[:, 2:3], integers(3, 6)),
    "div": (lambda x: x / (x.abs() + 1), floats(3, 6)),
    "minimum": (lambda x: (torch.minimum(x, x.flip(1)), (x > 0) & (x < 3)), integers(3, 6)),
    "maximum": (lambda x: (torch.maximum(x, x.flip(1)), (x < 0) | (x > 3)), floats(3, 6)),
    "equal": (lambda x: x == x.flip(1), integers(3, 6)),
    "not_equal": (lambda x: x != x.flip(1), integers(3, 6)),
    "less": (lambda x: (x < 0.5, (x < 0) < (x < 1)), floats(3, 6)),
    "less_equal": (lambda x: x <= x.flip(1), integers(3, 6)),
    "floor_divide": (lambda x: torch.div(x, 4, rounding_mode="floor"), integers(3, 6)),
    "bitwise_and": (lambda x: x & 5, integers(3, 6)),
    "bitwise_or": (lambda x: x | 5, integers(3, 6)),
    "bitwise_xor": (lambda x: x ^ 5, integers(3, 6)),
    "where": (lambda x: torch.where(x > 0, x, -x * 2), floats(3, 6)),
    "matmul": (lambda x: x @ x.transpose(1, 2), floats(3, 4, 6)),
    "softmax": (lambda x: torch.softmax(x, -1), floats(3, 6)),
    "layer_norm": (lambda x: F.layer_norm(x, (4, 6)), floats(3, 4, 6)),
    "rms_norm": (lambda x: F.rms_norm(x, (6,), WEIGHT[0]), floats(3, 4, 6)),
    "batch_norm": (lambda x: F.batch_norm(x, WEIGHT[0], WEIGHT[1].abs() + 0.1, WEIGHT[2], WEIGHT[3]), floats(3, 6, 4)),
    "mean": (lambda x: x.mean(-1), floats(3, 6)),
    "sum": (lambda x: x.sum(-1), integers(3, 6)),
    "prod": (lambda x: x.prod(-1), floats(3, 6)),
    "max": (lambda x: x.amax(-1), floats(3, 6)),
    "min": (lambda x: x.amin(-1), floats(3, 6)),
    "argmax": (lambda x: x.argmax(-1), floats(3, 6)),
    "cumsum": (lambda x: x.cumsum(-1), floats(3, 6)),
    "sort": (lambda x: (torch.topk(x, 4).values, torch.sort(x.round()).values), floats(3, 6)),
    "max_pool": (lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), floats(2, 3, 8, 9)),
    "avg_pool": (
        lambda x: (F.avg_pool2d(x, (3, 2), 2, (1, 0)), F.avg_pool2d(x, 3, 2, 1, True, False), F.avg_pool2d(x, 2, divisor_override=3)),
        floats(2, 3, 8, 9),
    ),
    "adaptive_max_pool": (lambda x: F.adaptive_max_pool2d(x, (3, 5)), floats(2, 3, 8, 9)),
    "adaptive_avg_pool": (lambda x: (F.adaptive_avg_pool2d(x, (3, 5)), F.adaptive_avg_pool2d(x, 1)), floats(2, 3, 8, 9)),
    "resample": (
        lambda x: [
            F.interpolate(x, size=(7, 12), mode=mode, **({} if mode.startswith("nearest") else {"align_corners": aligned}), antialias=smooth)
            for mode, aligned, smooth in [("nearest", False, False), ("nearest-exact", False, False), ("bilinear", False, False)]
            + [("bilinear", True, False), ("bicubic", False, False), ("bilinear", False, True)]
        ],
        floats(2, 3, 5, 9),
    ),
    "grid_sample": (lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), align_corners=False, padding_mode="border"), floats(2, 3, 4, 5)),
    "reshape": (lambda x: x.reshape(-1, 2, 12), floats(3, 4, 6)),
    "permute": (lambda x: x.permute(0, 2, 1), floats(3, 4, 6)),
    "slice": (lambda x: (x[:, 1:6:2], x[:, -2:]), floats(3, 6)),
    "slice_scatter": (lambda x: torch.slice_scatter(x, x[:, :2] * 2, 1, 3, 5), floats(3, 6)),
    "gather": (lambda x: torch.gather(x, 1, PLACES.expand(x.shape[0], -1)), floats(3, 6)),
    "scatter": (lambda x: torch.scatter_add(x, 1, PLACES.expand(x.shape[0], -1), x), floats(3, 6)),
    "flip": (lambda x: x.flip(1, 2), floats(3, 4, 6)),
    "take": (lambda x: x[:, torch.tensor([2, 0, 2])], floats(3, 6)),
    "cat": (lambda x: torch.cat([x, x * 2], 1), floats(3, 6)),
    "split": (lambda x: x.split([1, 2, 3], 1), floats(3, 6)),
    "expand": (lambda x: x[:, :1].expand(-1, 6) + 0, floats(3, 6)),
    "cast": (lambda x: (x.to(torch.int64), (x * 3).to(torch.float16), x.to(torch.bool)), floats(3, 6)),
    "attention": (
        lambda x: (
            F.scaled_dot_product_attention(x, x, x, is_causal=True),
            F.scaled_dot_product_attention(x, x, x, attn_mask=torch.arange(5)[:, None].expand(5, 5) != 2),  # a query that sees nothing
        ),
        floats(2, 3, 5, 4),
    ),
    "linear": (lambda x: F.linear(x, WEIGHT, WEIGHT[:, 0]), floats(3, 2, 6)),
    "conv": (lambda x: (F.conv2d(x, FILTERS, stride=2, padding=1), F.conv_transpose2d(x, FILTERS.transpose(0, 1), stride=2)), floats(2, 3, 7, 8)),
    "embedding": (lambda x: F.embedding(x, TABLE), torch.randint(0, 9, (2, 5))),
}  # fmt: skip
ELSEWHERE = {"positions", "rotary", "ternary_linear", "ternary_conv", "ternary_embedding", "ternary_recurrent", "recurrent"}


@pytest.mark.parametrize("op", CASES)
def test_an_operation(op: str, tmp_path: Path) -> None:
    function, example = CASES[op]
    inputs = deployed(Function(function), example, tmp_path / "m.bit")
    assert op in ops_of(tmp_path / "m.bit")
    assert difference(tmp_path / "m.bit", inputs, "float") < ROUNDING


def test_every_row_has_a_case() -> None:
    rows = re.findall(r"^BITLAB_ONNX(?:_NODE)?\((\w+)", (ROOT / "bitlab/format/onnx/ops.def").read_text(), re.MULTILINE)
    assert set(rows) - {"BITLAB_ONNX"} == set(CASES) | ELSEWHERE


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(300, 64), nn.Linear(64, 300, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.table(tokens)))


def test_a_tied_table_is_there_once(tmp_path: Path) -> None:
    inputs = deployed(Tied(), torch.randint(0, 300, (2, 5)), tmp_path / "m.bit")
    assert difference(tmp_path / "m.bit", inputs, "float") < ROUNDING
    assert (tmp_path / "m.float.onnx").stat().st_size < 1.1 * 300 * 64 * 4


# --- networks


def bert(symbols: dict[str, Any]) -> tuple[nn.Module, Any]:
    from transformers import BertConfig, BertForSequenceClassification

    symbols.update(dynamic_axes={"input_ids": {0: "batch", 1: "tokens"}}, ranges={"tokens": (1, 32)})
    config = BertConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=3
    )
    return BertForSequenceClassification(config), {"input_ids": torch.randint(3, 90, (2, 12))}


def gpt(symbols: dict[str, Any]) -> tuple[nn.Module, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    symbols.update(dynamic_axes={"input_ids": {0: "batch", 1: "tokens"}}, ranges={"tokens": (1, 32)})
    config = LlamaConfig(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        use_cache=False,
    )
    return LlamaForCausalLM(config), {"input_ids": torch.randint(3, 90, (2, 12))}


def vit(symbols: dict[str, Any]) -> tuple[nn.Module, Any]:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        num_labels=5,
    )
    return ViTForImageClassification(config), torch.randn(2, 3, 32, 32)


def resnet(symbols: dict[str, Any]) -> tuple[nn.Module, Any]:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], num_labels=5)
    return ResNetForImageClassification(config), torch.randn(2, 3, 32, 32)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("make", [bert, gpt, vit, resnet])
def test_a_network(make: Callable[..., tuple[nn.Module, Any]], variant: str, tmp_path: Path) -> None:
    symbols: dict[str, Any] = {}
    model, example = make(symbols)
    inputs = deployed(bitlab.BitModel(model), example, tmp_path / "m.bit", **symbols)
    assert difference(tmp_path / "m.bit", inputs, variant) < BEHIND_QUANTIZERS
    for sizes in [(1, 1), (3, 7)] if symbols else []:  # other sizes than the example's
        other = {name: np.random.default_rng(1).integers(3, 90, sizes) for name in inputs}
        assert difference(tmp_path / "m.bit", other, variant) < BEHIND_QUANTIZERS


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_decoder_goes_on_from_its_states(variant: str, tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf", "llama")
    bitlab.formats.convert(tmp_path / "m.gguf", tmp_path / "m.bit")
    bitlab.formats.convert(tmp_path / "m.bit", tmp_path / "m.onnx", variant=variant)
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    session = bitlab.runtime.Session(tmp_path / "m.bit")
    (ids,), (logits,) = (port.name for port in session.model.inputs), (port.name for port in session.model.outputs)
    other = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    past: Arrays = {}
    for port in other.get_inputs():
        if port.name != ids:
            past[port.name] = np.zeros(
                [0 if str(size).startswith("past_") else 1 if size == "batch" else size for size in port.shape], np.float32
            )
    assert len(past) == 4, "keys and values of two layers"
    names = [port.name for port in other.get_outputs()]
    for count in (5, 1, 3):
        tokens = {ids: np.random.default_rng(count).integers(0, 300, (1, count))}
        expected = session.run(tokens)[logits]
        found = dict(zip(names, other.run(names, tokens | past), strict=True))
        past = {name: found[name + ".next"] for name in past}
        assert np.abs(found[logits] - expected).max() < BEHIND_QUANTIZERS * np.abs(expected).max()
        assert all(state.shape[2] == session.position for state in past.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_lenet5_has_the_bits_of_the_runtime(variant: str, tmp_path: Path) -> None:
    bit = tmp_path / "lenet5.bit"
    bit.write_bytes((ROOT / "tests/golden/lenet5.bit").read_bytes())
    images = np.random.default_rng(0).standard_normal((5, 1, 28, 28), dtype=np.float32)
    assert difference(bit, {"input": images}, variant) == 0


def test_deploy_writes_a_format(tmp_path: Path) -> None:
    model, x = bitlab.BitModel(nn.Sequential(nn.Linear(12, 3))), torch.randn(2, 12)
    done = bitlab.deploy(model.eval(), x, tmp_path / "m.onnx", variant="int2")
    assert done.file_bytes == (tmp_path / "m.onnx").stat().st_size
    bitlab.deploy(model, x, tmp_path / "model", format="onnx", variant="int2")
    assert (tmp_path / "model").read_bytes() == (tmp_path / "m.onnx").read_bytes()
    with torch.no_grad():
        expected = model(x).numpy()
    assert onnx_outputs(tmp_path / "m.onnx", {"input": x.numpy()})["output"].tobytes() == expected.tobytes()
    with pytest.raises(bitlab.UnknownName, match="a variant of onnx of"):
        bitlab.deploy(model, x, tmp_path / "m.onnx", variant="int3")


def test_formats_are_listed() -> None:
    formats = {f.name: f for f in bitlab.formats.available()}
    assert formats["onnx"].extension == ".onnx" and formats["onnx"].variants == VARIANTS and formats["bit"].variants == []
