"""Layers of ONNX models that others wrote: recurrent, quantized, attention, control flow; the outputs are those of ONNX Runtime."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bitlab

if sys.version_info < (3, 11):
    pytest.skip("no ONNX Runtime for this Python", allow_module_level=True)
import onnx  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from products import deployed, ops_of  # noqa: E402
from test_formats_onnx import VARIANTS, onnx_outputs  # noqa: E402
from test_formats_onnx_import import ROUNDING, Arrays, Network, check, exported, read, transformer  # noqa: E402

quantization = pytest.importorskip("onnxruntime.quantization")
MICROSOFT = "com.microsoft"


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def written(
    path: Path,
    nodes: list[Any],
    inputs: dict[str, np.ndarray],
    outputs: dict[str, int],
    tensors: Arrays | None = None,
    opset: int = 17,
    functions: list[Any] | None = None,
    counts: str = "",
) -> Path:
    """A model whose inputs have a batch in front, and whose outputs are floats of so many sizes, but for `counts`."""
    types = {np.dtype(k): v for k, v in [("f4", 1), ("i4", 6), ("i8", 7), ("?", 9)]}
    ports = [
        helper.make_tensor_value_info(name, types[value.dtype], ["batch", *value.shape[1:]])
        for name, value in inputs.items()
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        ports,
        [
            helper.make_tensor_value_info(name, 6 if name == counts else 1, [f"{name}_{i}" for i in range(rank)])
            for name, rank in outputs.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in (tensors or {}).items()],
    )
    domains = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=10, functions=functions or [])
    path.write_bytes(model.SerializeToString())
    return path


def op_types(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


# --- recurrent layers


class Tagger(nn.Module):
    def __init__(self, kind: str, both: bool, **more: Any) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 12)
        self.layers = getattr(nn, kind)(12, 7, 2, batch_first=True, bidirectional=both, **more)
        self.head = nn.Linear(14 if both else 7, 5)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y, state = self.layers(self.words(ids))
        return self.head(y), *(state if isinstance(state, tuple) else (state,))


@pytest.mark.parametrize("both", [False, True], ids=["forward", "bidirectional"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_taggers(kind: str, both: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    more = {"nonlinearity": "relu"} if kind == "RNN" and both else {}
    ids = torch.randint(0, 50, (3, 6))
    exported(Tagger(kind, both, **more), (ids,), ["ids"], {0: "batch"}, tmp_path / "m.onnx")
    for batch in (1, 5):
        check(tmp_path / "m.onnx", {"ids": torch.randint(0, 50, (batch, 6)).numpy()})


@pytest.mark.parametrize("both", [False, True], ids=["forward", "bidirectional"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_taggers_of_any_number_of_tokens(kind: str, both: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    exported(Tagger(kind, both), (torch.randint(0, 50, (3, 6)),), ["ids"], {0: "batch", 1: "tokens"}, tmp_path / "m.onnx")
    for batch, tokens in [(1, 1), (5, 13), (2, 60)]:
        check(tmp_path / "m.onnx", {"ids": torch.randint(0, 50, (batch, tokens)).numpy()})
    bitlab.formats.convert(tmp_path / "m.onnx", tmp_path / "m.bit")
    assert "recurrent" in ops_of(tmp_path / "m.bit")


def test_the_number_of_tokens_of_other_layers_must_be_known(tmp_path: Path) -> None:
    exported(Tagger("RNN", False), (torch.randint(0, 50, (3, 6)),), ["ids"], {0: "batch", 1: "tokens"}, tmp_path / "m.onnx")
    with pytest.raises(bitlab.Unsupported, match=r"a number of tokens that is known, up to 1024, .* got \[tokens\].*RNN"):
        read(tmp_path / "m.onnx")


RECURRENT = [
    ("LSTM", {}),
    ("LSTM", {"direction": "bidirectional", "peepholes": 0}),
    ("LSTM", {"direction": "reverse", "clip": 0.4}),
    ("LSTM", {"direction": "bidirectional", "activations": ["Tanh", "Relu", "Sigmoid", "Sigmoid", "Tanh", "Relu"]}),
    ("GRU", {"direction": "reverse", "linear_before_reset": 1}),
    ("GRU", {"direction": "bidirectional", "linear_before_reset": 0}),
    ("GRU", {"activations": ["Tanh", "Relu"], "clip": 0.7}),
    ("RNN", {"direction": "bidirectional", "activations": ["Relu", "Tanh"]}),
]


@pytest.mark.parametrize("lengths", [False, True], ids=["all", "lengths"])
@pytest.mark.parametrize(("kind", "attributes"), RECURRENT, ids=str)
def test_recurrent_operators(kind: str, attributes: dict[str, Any], lengths: bool, tmp_path: Path) -> None:
    """By themselves: initial states, peepholes, samples that end earlier."""
    attributes = dict(attributes)
    peepholes = ["p"] if kind == "LSTM" and attributes.pop("peepholes", 1) else []
    gates, tokens, batch, width, hidden = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 5, 3, 4, 6
    sides = 2 if attributes.get("direction") == "bidirectional" else 1
    tensors = {
        "w": floats(sides, gates * hidden, width, seed=1),
        "r": floats(sides, gates * hidden, hidden, seed=2),
        "b": floats(sides, 2 * gates * hidden, seed=3),
    }
    if peepholes:
        tensors["p"] = floats(sides, 3 * hidden, seed=4)
    states = ["h0", "c0"] if kind == "LSTM" else ["h0"]
    x = {"x": floats(batch, tokens, width)} | {name: floats(batch, sides, hidden, seed=5) for name in states}
    if lengths:
        x["n"] = np.array([2, 5, 4], np.int32)
    nodes = [helper.make_node("Transpose", [name], [f"{name}t"], perm=[1, 0, 2]) for name in ["x", *states]]
    inputs = ["xt", "w", "r", "b", "n" if lengths else "", "h0t"] + (["c0t", *peepholes] if kind == "LSTM" else [])
    outputs = ["y", "h"] + (["c"] if kind == "LSTM" else [])
    nodes.append(helper.make_node(kind, inputs, outputs, hidden_size=hidden, **attributes))
    nodes += [helper.make_node("Identity", [name], [f"{name}_out"]) for name in outputs]
    ranks = {f"{name}_out": 4 if name == "y" else 3 for name in outputs}
    check(written(tmp_path / "m.onnx", nodes, x, ranks, tensors), x)


def test_what_a_cell_cannot_say_is_named(tmp_path: Path) -> None:
    tensors = {"w": floats(1, 24, 4), "r": floats(1, 24, 6)}
    x = {"x": floats(3, 5, 4)}
    for attributes, message in [
        ({"activations": ["HardSigmoid", "Tanh", "Tanh"]}, "activations of Sigmoid, Tanh, Relu, got HardSigmoid"),
        ({"input_forget": 1}, "gates apart, got input_forget"),
    ]:
        nodes = [
            helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
            helper.make_node("LSTM", ["xt", "w", "r"], ["y"], hidden_size=6, **attributes),
        ]
        with pytest.raises(bitlab.Unsupported, match=message):
            read(written(tmp_path / "m.onnx", nodes, x, {"y": 4}, tensors))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layer", [bitlab.nn.BitLSTM, bitlab.nn.BitGRU])
def test_our_recurrent_layers_come_back(layer: type[nn.Module], variant: str, tmp_path: Path) -> None:
    """A Scan of a known number of tokens, step by step: the same bits."""
    model = layer(4, 6, batch_first=True, bidirectional=True, quant=bitlab.BitQuantConfig())
    inputs = deployed(model, torch.randn(2, 5, 4), tmp_path / "m.bit")
    bitlab.formats.convert(tmp_path / "m.bit", tmp_path / "m.onnx", variant=variant)
    bitlab.formats.convert(tmp_path / "m.onnx", tmp_path / "again.bit")
    assert "ternary_linear" in ops_of(tmp_path / "again.bit") and "linear" not in ops_of(tmp_path / "again.bit")
    expected = bitlab.runtime.Session(tmp_path / "m.bit").run(inputs)
    found = bitlab.runtime.Session(tmp_path / "again.bit").run(inputs)
    assert all(np.array_equal(found[name], y) for name, y in expected.items())


# --- quantized networks


class Pictures(nn.Module):
    """What ONNX Runtime's quantizer has operators for."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.c, self.head = nn.Conv2d(16, 6, 1), nn.Linear(6 * 16, 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = F.relu(self.a(x))
        z = F.leaky_relu(self.b(y) + y, 0.1)
        y = self.c(F.max_pool2d(torch.cat([y * torch.sigmoid(z), z], 1), 2))
        return self.head(y.flatten(1)).softmax(1), y.mean((2, 3)), F.adaptive_avg_pool2d(y, 1), F.avg_pool2d(y, 2)


class Samples(quantization.CalibrationDataReader):  # type: ignore[name-defined, misc]
    def __init__(self) -> None:
        self.left = [{"x": floats(4, 3, 8, 8, seed=i)} for i in range(4)]

    def get_next(self) -> Any:
        return self.left.pop() if self.left else None


# Weights of seven bits (reduce_range): on an x86 CPU without VNNI ONNX Runtime's sums of two products of eight bits saturate.


@pytest.mark.parametrize("channels", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("kind", ["QInt8", "QUInt8"])
def test_quantized_operators(kind: str, channels: bool, tmp_path: Path) -> None:
    """QLinearConv and its like: the same steps as ONNX Runtime's."""
    torch.manual_seed(0)
    exported(Pictures(), (torch.randn(2, 3, 8, 8),), ["x"], {0: "batch"}, tmp_path / "float.onnx")
    quantization.quantize_static(
        str(tmp_path / "float.onnx"), str(tmp_path / "m.onnx"), Samples(), per_channel=channels,
        quant_format=quantization.QuantFormat.QOperator, activation_type=getattr(quantization.QuantType, kind),
        weight_type=quantization.QuantType.QInt8, reduce_range=True,
    )  # fmt: skip
    written_types = {"QLinearConv", "QGemm", "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearSigmoid"}
    assert written_types | {"QLinearAveragePool", "QLinearSoftmax", "QLinearLeakyRelu"} <= op_types(tmp_path / "m.onnx")
    x = {"x": floats(3, 3, 8, 8, seed=9)}
    expected = onnx_outputs(tmp_path / "m.onnx", x, optimized=False)
    found = bitlab.runtime.Session(read(tmp_path / "m.onnx")).run(x)
    for name, y in expected.items():  # a step, where a rounding in front of it fell on the other side
        assert np.mean(found[name] == y) > 0.98
        assert np.abs(found[name] - y).max() <= 2e-2 * np.abs(y).max()


@pytest.mark.parametrize("kind", ["QInt8", "QUInt8"])
@pytest.mark.parametrize("name", ["pictures", "bert", "vit"])
def test_dynamically_quantized(name: str, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    if name == "pictures":
        model, inputs, names, axes = Pictures(), (torch.randn(2, 3, 8, 8),), ["x"], {0: "batch"}
    else:
        model, inputs, names, axes = transformer(name)
    exported(model, inputs, names, axes, tmp_path / "float.onnx")
    weights = getattr(quantization.QuantType, kind)
    quantization.quantize_dynamic(str(tmp_path / "float.onnx"), str(tmp_path / "m.onnx"), weight_type=weights, reduce_range=True)
    assert {"DynamicQuantizeLinear", "MatMulInteger"} <= op_types(tmp_path / "m.onnx")
    arrays = {key: value.numpy() for key, value in zip(names, inputs, strict=True)}
    check(tmp_path / "m.onnx", arrays, 1e-2)  # steps of quantizers


@pytest.mark.parametrize("bias", [False, True])
def test_dynamically_quantized_and_optimized(bias: bool, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32, bias=bias), nn.ReLU(), nn.Linear(32, 4, bias=bias))
    exported(net, (torch.randn(2, 3, 16),), ["x"], {0: "batch"}, tmp_path / "float.onnx")
    quantization.quantize_dynamic(str(tmp_path / "float.onnx"), str(tmp_path / "q.onnx"), reduce_range=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "m.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "q.onnx"), options, providers=["CPUExecutionProvider"])
    assert op_types(tmp_path / "m.onnx") & {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
    check(tmp_path / "m.onnx", {"x": floats(2, 3, 16)})


# --- halves


@pytest.mark.parametrize("kind", [np.float16, "bfloat16"], ids=["float16", "bfloat16"])
def test_weights_in_halves(kind: Any, tmp_path: Path) -> None:
    """A network in 16 bits between two casts runs in float32: as far from ONNX Runtime's as halves are."""
    torch.manual_seed(0)
    exported(Pictures(), (torch.randn(2, 3, 8, 8),), ["x"], {0: "batch"}, tmp_path / "float.onnx")
    model = onnx.load(tmp_path / "float.onnx")
    target = TensorProto.FLOAT16 if kind == np.float16 else TensorProto.BFLOAT16
    halves = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            rounded = torch.from_numpy(values.copy()).to(torch.float16 if kind == np.float16 else torch.bfloat16)
            tensor.CopyFrom(
                helper.make_tensor(tensor.name, target, values.shape, rounded.view(torch.int16).numpy().tobytes(), raw=True)
            )
            halves.append((tensor.name, rounded.float().numpy()))
    assert len(halves) == 8
    for node in model.graph.node:
        node.input[:] = ["x_half" if name == "x" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["x_half"], to=target))
    for port in model.graph.output:
        for node in model.graph.node:
            node.output[:] = [f"{name}_half" if name == port.name else name for name in node.output]
            node.input[:] = [f"{name}_half" if name == port.name else name for name in node.input]
        model.graph.node.append(helper.make_node("Cast", [f"{port.name}_half"], [port.name], to=TensorProto.FLOAT))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    # The same network with the rounded weights in float32, its input and outputs rounded, is what is computed.
    reference = onnx.load(tmp_path / "float.onnx")
    for tensor in reference.graph.initializer:
        for name, values in halves:
            if tensor.name == name:
                tensor.CopyFrom(numpy_helper.from_array(values, name))
    (tmp_path / "reference.onnx").write_bytes(reference.SerializeToString())
    as_half = torch.float16 if kind == np.float16 else torch.bfloat16
    x = torch.from_numpy(floats(3, 3, 8, 8)).to(as_half).float().numpy()
    expected = onnx_outputs(tmp_path / "reference.onnx", {"x": x})
    found = bitlab.runtime.Session(read(tmp_path / "m.onnx")).run({"x": floats(3, 3, 8, 8)})
    for name, y in expected.items():
        np.testing.assert_allclose(found[name], y, rtol=ROUNDING, atol=ROUNDING * np.abs(y).max())
    if kind == np.float16:
        halved = onnx_outputs(tmp_path / "m.onnx", {"x": floats(3, 3, 8, 8)})
        for name, y in halved.items():
            np.testing.assert_allclose(found[name], y, atol=2e-3 * np.abs(y).max(), rtol=0)


# --- attention

ATTENTION = [
    {},
    {"is_causal": 1},
    {"mask": (1, 1, 5, 7)},
    {"mask": (5, 7), "is_causal": 1},
    {"mask": (1, 4, 5, 7), "bool": True},
    {"groups": 2, "softcap": 3.0, "scale": 0.2},
    {"groups": 1, "mask": (5, 7), "flat": True},
    {"groups": 2, "flat": True, "past": 3, "is_causal": 1},
]


@pytest.mark.parametrize("case", ATTENTION, ids=str)
def test_attention(case: dict[str, Any], tmp_path: Path) -> None:
    """Opset 23. Queries of 5 tokens, keys of 7, four heads, values as wide as keys."""
    heads, groups, past = 4, case.get("groups", 4), case.get("past", 0)
    keys = 5 if case.get("is_causal") and "mask" not in case else 7
    x = {"q": floats(2, heads, 5, 8), "k": floats(2, groups, keys, 8, seed=1), "v": floats(2, groups, keys, 8, seed=2)}
    attributes = {key: case[key] for key in ("is_causal", "scale", "softcap") if key in case}
    if case.get("flat"):
        x = {name: np.ascontiguousarray(v.transpose(0, 2, 1, 3)).reshape(2, v.shape[2], -1) for name, v in x.items()}
        attributes |= {"q_num_heads": heads, "kv_num_heads": groups}
    tensors, inputs, outputs = {}, ["q", "k", "v", "", "", ""], ["y"]
    if "mask" in case:
        mask = floats(*case["mask"], seed=3)
        tensors["mask"], inputs[3] = (mask > -0.5) if case.get("bool") else mask, "mask"
    if past:
        x |= {name: floats(2, groups, past, 8, seed=4) for name in ("pk", "pv")}
        inputs[4:], outputs = ["pk", "pv"], ["y", "k_all", "v_all"]
    node = helper.make_node("Attention", inputs, outputs, **attributes)
    ends = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in outputs]
    ranks = {f"{name}_out": x["q"].ndim if name == "y" else 4 for name in outputs}
    path = written(tmp_path / "m.onnx", [node, *ends], x, ranks, tensors, opset=23)
    check(path, x)


class Heads(nn.Module):
    """Attention by Einsum, with a trace and an ellipsis, as some write it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).view(x.shape[0], x.shape[1], 3, 4, 4).unbind(2)
        weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
        y = torch.einsum("bhqk,bkhd->bqhd", weights, v)
        return torch.einsum("...hd,hd->...", y, torch.ones(4, 4)) + torch.einsum("bqii->bq", y)


def test_attention_by_einsum(tmp_path: Path) -> None:
    torch.manual_seed(0)
    exported(Heads(), (torch.randn(2, 5, 16),), ["x"], {0: "batch", 1: "tokens"}, tmp_path / "m.onnx")
    assert "Einsum" in op_types(tmp_path / "m.onnx")
    for batch, tokens in ((2, 5), (3, 4)):
        check(tmp_path / "m.onnx", {"x": floats(batch, tokens, 16)})


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
        ("bij, bkj -> bki", [(2, 3, 4), (2, 5, 4)]),
        ("bi,bj", [(2, 3), (2, 4)]),
        ("b...j,...j->b...", [(2, 3, 4, 5), (3, 4, 5)]),
        ("bij->b", [(2, 3, 4)]),
        ("bijj->bji", [(2, 3, 4, 4)]),
        ("bi,ij,bjk,bk->bk", [(2, 3), (3, 4), (2, 4, 5), (2, 5)]),
        ("b...,b...->...b", [(2, 3, 1), (2, 1, 4)]),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]], tmp_path: Path) -> None:
    x = {f"x{i}": floats(*shape, seed=i) for i, shape in enumerate(shapes)}
    rank = np.einsum(equation, *x.values()).ndim
    tensors = {name: x.pop(name) for name in [n for n, v in x.items() if v.shape[0] != 2]}
    names = [f"x{i}" for i in range(len(shapes))]
    check(
        written(tmp_path / "m.onnx", [helper.make_node("Einsum", names, ["y"], equation=equation)], x, {"y": rank}, tensors),
        x,
    )


class Causal(nn.Module):
    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def test_causal_attention_of_any_number_of_tokens(tmp_path: Path) -> None:
    x = {"q": floats(2, 4, 5, 8), "k": floats(2, 4, 5, 8, seed=1), "v": floats(2, 4, 5, 8, seed=2)}
    exported(Causal(), tuple(map(torch.from_numpy, x.values())), list(x), {0: "batch", 2: "tokens"}, tmp_path / "m.onnx")
    check(tmp_path / "m.onnx", x)
    check(tmp_path / "m.onnx", {name: np.concatenate([v, v[:1]])[:, :, :4] for name, v in x.items()})


# --- what ONNX Runtime's optimizers write


@pytest.mark.parametrize("name", ["network", "bert", "vit"])
def test_optimized_by_onnx_runtime(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    if name == "network":
        model, inputs, names, axes = Network(), (torch.randn(2, 3, 32, 32),), ["x"], {0: "batch"}
    else:
        model, inputs, names, axes = transformer(name)
    exported(model, inputs, names, axes, tmp_path / "plain.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "m.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(tmp_path / "plain.onnx"), options, providers=["CPUExecutionProvider"])
    assert {"FusedConv", "QuickGelu"} <= op_types(tmp_path / "m.onnx") or "BiasGelu" in op_types(tmp_path / "m.onnx")
    check(tmp_path / "m.onnx", {key: value.numpy() for key, value in zip(names, inputs, strict=True)})


def fused_cases() -> dict[str, tuple[list[str], list[str], Arrays, Arrays, dict[str, Any]]]:
    x, skip = {"x": floats(2, 5, 16), "s": floats(2, 5, 16, seed=1)}, {"g": floats(16, seed=2), "b": floats(16, seed=3)}
    q = {name: floats(2, n, 16, seed=i) for i, (name, n) in enumerate([("q", 5), ("k", 7), ("v", 7)])}
    ids = {"ids": np.array([[1, 2, 3], [4, 0, 9]], np.int32), "segments": np.array([[0, 0, 1], [1, 0, 1]], np.int32)}
    tables = {"words": floats(10, 16), "places": floats(6, 16, seed=1), "kinds": floats(2, 16, seed=2)}
    turns = {"cos": floats(12, 4, seed=4), "sin": floats(12, 4, seed=5)}
    packed = {"w": floats(16, 48, seed=6), "b3": floats(48, seed=7)}
    padding = {"m": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)}
    lengths = {"m": np.array([3, 5], np.int32)}
    added = {"a": floats(1, 4, 5, 7, seed=8)}
    places = {"p": np.array([[0, 1, 2, 3, 4], [7, 6, 5, 3, 2]])}
    heads = {"num_heads": 4}
    return {
        "SkipLayerNormalization": (["x", "s", "g", "b", "b"], ["y", "", "", "sum"], x, skip, {"epsilon": 1e-5}),
        "SkipSimplifiedLayerNormalization": (["x", "s", "g"], ["y", "", "", "sum"], x, skip, {"epsilon": 1e-6}),
        "EmbedLayerNormalization": (["ids", "segments", "words", "places", "kinds", "g", "b", "mask"], ["y", "n"],
                                    ids | {"mask": np.array([[1, 1, 0], [1, 1, 1]], np.int32)}, tables | skip, {}),
        "FastGelu": (["x", "b"], ["y"], {"x": x["x"]}, skip, {}),
        "BiasGelu": (["x", "b"], ["y"], {"x": x["x"]}, skip, {}),
        "QuickGelu": (["x"], ["y"], {"x": x["x"]}, {}, {"alpha": 1.3}),
        "Attention": (["x", "w", "b3"], ["y"], {"x": x["x"]}, packed, heads),
        "Attention causal": (["x", "w", "b3"], ["y"], {"x": x["x"]}, packed, heads | {"unidirectional": 1}),
        "Attention padding": (["x", "w", "b3", "m"], ["y"], {"x": x["x"]} | padding, packed, heads | {"scale": 0.3}),
        "Attention lengths": (["x", "w", "b3", "m"], ["y"], {"x": x["x"]} | lengths, packed, heads),
        "MultiHeadAttention": (["q", "k", "v", "b3", "", "a"], ["y"], q, packed | added, heads),
        "MultiHeadAttention padding": (["q", "k", "v", "", "m"], ["y"],
                                       q | {"m": np.array([[1] * 6 + [0], [1] * 7], np.int32)}, {}, heads),
        "RotaryEmbedding": (["x", "p", "cos", "sin"], ["y"], {"x": x["x"].reshape(2, 5, 2, 8).reshape(2, 5, 16)} | places, turns,
                            {"num_heads": 0}),
        "RotaryEmbedding pairs": (["x", "first", "cos", "sin"], ["y"], {"x": x["x"]}, turns | {"first": np.array([3])},
                                  {"interleaved": 1}),
        "FusedMatMul": (["x", "s"], ["y"], x, {}, {"transB": 1, "alpha": 0.5}),
    }  # fmt: skip


@pytest.mark.parametrize("name", fused_cases())
def test_fused_operators(name: str, tmp_path: Path) -> None:
    inputs, outputs, x, tensors, attributes = fused_cases()[name]
    node = helper.make_node(name.split()[0], inputs, outputs, domain=MICROSOFT, **attributes)
    tensors = {key: value for key, value in tensors.items() if key in inputs}
    ends = [helper.make_node("Identity", [output], [f"{output}_out"]) for output in outputs if output]
    path = written(
        tmp_path / "m.onnx",
        [node, *ends],
        x,
        {f"{name}_out": 1 if name == "n" else 3 for name in outputs if name},
        tensors,
        counts="n_out",
    )
    check(path, x, 2e-5 if "Gelu" in name else ROUNDING)  # whose formulas in ONNX Runtime are approximations


# --- indices and images


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "min", "max"])
@pytest.mark.parametrize("places", [(4, 1), (2, 3, 2), (3,)], ids=str)
def test_scatter_nd(places: tuple[int, ...], reduction: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = {"x": floats(5, 4, 3)}
    count = int(np.prod(places[:-1]))
    order = rng.permutation(5 if places[-1] == 1 else 20 if places[-1] == 2 else 60)[:count]  # each place once
    indices = np.stack(np.unravel_index(order, (5, 4, 3)[: places[-1]]), -1).reshape(places)
    indices[..., 0] -= 5  # from the end
    tensors = {"i": indices, "u": floats(*places[:-1], *(5, 4, 3)[places[-1] :], seed=1)}
    node = helper.make_node("ScatterND", ["x", "i", "u"], ["y"], reduction=reduction)
    path = written(tmp_path / "m.onnx", [node], x, {"y": 3}, tensors, opset=18)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 5
    path.write_bytes(model.SerializeToString())
    check(path, x)


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_gather_nd(batches: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = {"x": floats(2, 4, 3), "i": rng.integers(-2, 2, (2, 4, 1 if batches == 2 else 2))}
    node = helper.make_node("GatherND", ["x", "i"], ["y"], batch_dims=batches)
    rank = 2 + 3 - batches - x["i"].shape[-1]
    check(written(tmp_path / "m.onnx", [node], x, {"y": rank}), x)


PLACES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
RESIZES = (
    [{"mode": "nearest", "nearest_mode": n, "coordinate_transformation_mode": p}
     for p in PLACES for n in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")]
    + [{"mode": mode, "coordinate_transformation_mode": p} for mode in ("linear", "cubic") for p in PLACES]
    + [{"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1}, {"mode": "linear", "antialias": 1},
       {"mode": "cubic", "antialias": 1, "exclude_outside": 1}]
)  # fmt: skip


@pytest.mark.parametrize("attributes", RESIZES, ids=lambda a: "-".join(map(str, a.values())))
def test_resizes(attributes: dict[str, Any], tmp_path: Path) -> None:
    x = {"x": floats(2, 3, 9, 7)}
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], axes=[2, 3], **attributes)
    for sizes in [(9, 7), (13, 20), (6, 5)]:
        check(written(tmp_path / "m.onnx", [node], x, {"y": 4}, {"sizes": np.array(sizes)}, opset=18), x)


@pytest.mark.parametrize("opset", [7, 9, 10])
def test_networks_of_old_opsets(opset: int, tmp_path: Path) -> None:
    """Bounds, parts, padding and scales as attributes; Upsample."""
    x = {"x": floats(2, 3, 9, 8)}
    tensors = {"w": floats(5, 3, 3, 3, seed=1), "slope": floats(5, 1, 1, seed=2)}
    nodes = [
        helper.make_node("Pad", ["x"], ["p"], pads=[0, 0, 1, 2, 0, 0, 0, 1], value=0.5),
        helper.make_node("Conv", ["p", "w"], ["c"], strides=[1, 2]),
        helper.make_node("Clip", ["c"], ["l"], min=-1.0, max=2.0),
        helper.make_node("PRelu", ["l", "slope"], ["r"]),
    ]
    if opset < 10:
        nodes.append(helper.make_node("Slice", ["r"], ["s"], axes=[1, 2], starts=[1, -5], ends=[9999, -1]))
        scales = {"scales": [1.0, 1.0, 2.0, 3.0]} if opset == 7 else {}
        nodes.append(helper.make_node("Upsample", ["s"] if scales else ["s", "k"], ["u"], mode="nearest", **scales))
    else:
        tensors |= {"from": np.array([1, -5]), "to": np.array([9999, -1]), "axes": np.array([1, 2])}
        nodes.append(helper.make_node("Slice", ["r", "from", "to", "axes"], ["s"]))
        nodes.append(helper.make_node("Resize", ["s", "k"], ["u"], mode="nearest"))
    if opset > 7:
        tensors["k"] = np.array([1, 1, 2, 3], np.float32)
    nodes.append(helper.make_node("Softmax", ["u"], ["y"], axis=1))
    check(written(tmp_path / "m.onnx", nodes, x, {"y": 4}, tensors, opset), x)


@pytest.mark.parametrize(("opset", "inverse", "half"), [(17, 0, 0), (17, 0, 1), (20, 1, 0)])
def test_fourier_transforms(opset: int, inverse: int, half: int, tmp_path: Path) -> None:
    x = {"x": floats(2, 12, 3, 2 if inverse or not half else 1)}
    tensors = {"n": np.array(10), "axis": np.array(1)}
    by_input = ["x", "n", "axis"] if opset == 20 else ["x", "n"]
    attributes = {} if opset == 20 else {"axis": 1}
    tensors = {name: tensors[name] for name in by_input[1:]}
    node = helper.make_node("DFT", by_input, ["y"], inverse=inverse, onesided=half, **attributes)
    check(written(tmp_path / "m.onnx", [node], x, {"y": 4}, tensors, opset), x)


@pytest.mark.parametrize("window", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("half", [0, 1])
def test_spectrograms(window: str, half: int, tmp_path: Path) -> None:
    x = {"x": floats(2, 50, 1)}
    nodes = [
        helper.make_node(window, ["size"], ["w"], periodic=half),
        helper.make_node("STFT", ["x", "step", "w", "size"], ["y"], onesided=half),
    ]
    check(written(tmp_path / "m.onnx", nodes, x, {"y": 4}, {"size": np.array(14), "step": np.array(4)}), x, 2e-5)


# --- control flow


def branch(name: str, nodes: list[Any], output: str) -> Any:
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["rows", 4])])


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("way", [0, 1])
def test_branches(way: int, known: bool, tmp_path: Path) -> None:
    """Of a condition that is folded, and of one that is computed; both see names around them."""
    x = {"x": floats(2, 4), "c": np.array([[way]])}
    then = branch("then", [helper.make_node("Mul", ["x", "two"], ["a"])], "a")
    otherwise = branch("otherwise", [helper.make_node("Neg", ["x"], ["m"]), helper.make_node("Exp", ["m"], ["b"])], "b")
    tensors = {"two": np.full(1, 2, np.float32), "one": np.ones((1, 1), np.int64), "way": np.full((1, 1), way)}
    nodes = [
        helper.make_node("Equal", ["way" if known else "c", "one"], ["is"]),
        helper.make_node("Squeeze", ["is"], ["flag"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=otherwise),
        helper.make_node("Add", ["y", "y"], ["z"]),
    ]
    path = written(tmp_path / "m.onnx", nodes, x, {"z": 2}, tensors)
    model = onnx.load(path)
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 1
    path.write_bytes(model.SerializeToString())
    x["c"] = x["c"][:1]
    check(path, x)
    assert ("where" in str(bitlab.runtime.Model.load(path.with_suffix(".bit")))) == (not known)


def test_functions_of_a_model(tmp_path: Path) -> None:
    """A function in another, with attributes of the call, a default, and names that stand outside, too."""
    inner = helper.make_function(
        "own", "Scaled", ["x"], ["y"],
        [helper.make_node("LeakyRelu", ["x"], ["t"]), helper.make_node("Elu", ["t"], ["y"])],
        [helper.make_opsetid("", 17)], ["slope"],
    )  # fmt: skip
    refers = inner.node[0].attribute.add()
    refers.name, refers.ref_attr_name, refers.type = "alpha", "slope", onnx.AttributeProto.FLOAT
    refers = inner.node[1].attribute.add()
    refers.name, refers.ref_attr_name, refers.type = "alpha", "size", onnx.AttributeProto.FLOAT
    inner.attribute_proto.append(helper.make_attribute("size", 0.7))
    outer = helper.make_function(
        "own", "Twice", ["a", "b"], ["t"],
        [helper.make_node("Scaled", ["a"], ["u"], domain="own", slope=0.3), helper.make_node("Scaled", ["b"], ["v"], domain="own", slope=0.1, size=2.0),
         helper.make_node("Sub", ["u", "v"], ["t"])],
        [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)],
    )  # fmt: skip
    x = {"x": floats(3, 4)}
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node("Twice", ["x", "t"], ["u"], domain="own"),
        helper.make_node("Twice", ["u", "t"], ["y"], domain="own"),
    ]
    check(written(tmp_path / "m.onnx", nodes, x, {"y": 2}, functions=[inner, outer]), x)


def test_loops_of_known_steps(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["s", "f"], ["t"]),
            helper.make_node("Mul", ["t", "x"], ["s_out"]),
            helper.make_node("Identity", ["on"], ["on_out"]),
            helper.make_node("Tanh", ["s_out"], ["seen"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, ["rows", 4]),
        ],
        [
            helper.make_tensor_value_info(n, t, sizes)
            for n, t, sizes in [("on_out", 9, []), ("s_out", 1, ["rows", 4]), ("seen", 1, ["rows", 4])]
        ],
    )
    x = {"x": floats(3, 4)}
    node = helper.make_node("Loop", ["n", "", "x"], ["last", "all"], body=body)
    ends = [helper.make_node("Identity", ["last"], ["y"]), helper.make_node("Transpose", ["all"], ["z"], perm=[1, 0, 2])]
    check(written(tmp_path / "m.onnx", [node, *ends], x, {"y": 2, "z": 3}, {"n": np.array(3)}), x)


def test_a_scan_back_and_forth(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "a"], ["t"]), helper.make_node("Tanh", ["t"], ["s_out"]), helper.make_node("Mul", ["s_out", "b"], ["y"])],
        "body",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", 3]) for n in ("s", "a", "b")],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", 3]) for n in ("s_out", "y")],
    )  # fmt: skip
    x = {"s": floats(2, 3), "a": floats(2, 4, 3, seed=1), "b": floats(2, 4, 3, seed=2)}
    node = helper.make_node(
        "Scan", ["s", "a", "b"], ["last", "all"], body=body, num_scan_inputs=2, scan_input_axes=[1, -2],
        scan_input_directions=[0, 1], scan_output_axes=[-1], scan_output_directions=[1],
    )  # fmt: skip
    ends = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in ("last", "all")]
    check(written(tmp_path / "m.onnx", [node, *ends], x, {"last_out": 2, "all_out": 3}), x)


@pytest.mark.parametrize("operator", ["And", "BitwiseXor", "BitShift"])
def test_floats_for_operators_of_integers(operator: str, tmp_path: Path) -> None:
    """As a broken file may have them: an error, not the end of the program."""
    known = [numpy_helper.from_array(np.ones(2, np.float32), name) for name in ("a", "b")]
    nodes = [
        helper.make_node(operator, ["a", "b"], ["c"], **({"direction": "LEFT"} if operator == "BitShift" else {})),
        helper.make_node("Cast", ["c"], ["d"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "d"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y"))
    graph = helper.make_graph(nodes, "broken", [x], [y], known)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "m.onnx")
    with pytest.raises(bitlab.Corrupt, match="integers for an operator of integers, got float32 and float32"):
        read(tmp_path / "m.onnx")
