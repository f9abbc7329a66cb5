"""ONNX models that others wrote, read as programs: the outputs are those of ONNX's own tests and of ONNX Runtime."""

from __future__ import annotations

import collections
import importlib
import pkgutil
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import nn
from torch.nn import functional as F

import bitlab

if sys.version_info < (3, 11):
    pytest.skip("no ONNX Runtime for this Python", allow_module_level=True)
import onnx  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from test_formats_onnx import QUANTIZATIONS, VARIANTS, Products, deployed, examples, onnx_outputs  # noqa: E402

# Of float networks beside ONNX Runtime, relative to the largest output: both round, in orders of their own.
ROUNDING = 5e-6
Arrays = dict[str, np.ndarray]


def read(path: Path) -> Path:
    bitlab.formats.convert(path, path.with_suffix(".bit"))
    return path.with_suffix(".bit")


def check(path: Path, inputs: Arrays, bound: float = ROUNDING) -> None:
    expected = onnx_outputs(path, inputs)
    found = bitlab.runtime.Session(read(path)).run(inputs)
    assert list(found) == list(expected)
    for name, y in expected.items():
        assert found[name].shape == y.shape and found[name].dtype == y.dtype, name
        apart = np.abs(found[name].astype(np.float64) - y).max() / max(np.abs(y.astype(np.float64)).max(), 1e-30)
        assert apart <= bound, (name, apart)


def ops_of(path: Path) -> set[str]:
    return set(re.findall(r" = (\w+)\(", str(bitlab.runtime.Model.load(path))))


# --- ONNX's own tests of its operators

# Whose references loop in Python for seconds; pools stand below, beside ONNX Runtime.
SLOW = {"averagepool", "maxpool", "lppool"}
# What was read when this was written, of all; less is a step back. Others are refused.
LEAST_READ = 1113
# ONNX rounds float32 where its tests have other numbers of their own.
NODE_ROUNDING = {"rtol": 1e-4, "atol": 1e-5}


def node_cases() -> list[Any]:
    from onnx.backend.test.case import node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.iter_modules(node.__path__):
            if module.name not in SLOW:
                importlib.import_module(f"{node.__name__}.{module.name}")
    return [case for case in node._NodeTestCases if case.model is not None]


def array_of(value: Any) -> np.ndarray:
    return np.asarray(numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value, order="C")


def frozen(model: Any, inputs: list[Any]) -> Any:
    """The model with all inputs but the first as tensors: tests give weights, axes and shapes as inputs, which models seldom do."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for port, value in list(zip(copy.graph.input, inputs, strict=True))[1:]:
        copy.graph.initializer.append(numpy_helper.from_array(np.asarray(value), port.name))
    del copy.graph.input[1:]
    return copy


def read_case(case: Any, path: Path) -> int | None:
    """How many of the inputs the program that was read has; nothing where it is refused."""
    inputs = case.data_sets[0][0]
    models = [case.model]
    if (
        1 < len(case.model.graph.input) == len(inputs)
        and len(case.data_sets) == 1
        and all(isinstance(v, np.ndarray) for v in inputs)
    ):
        models.append(frozen(case.model, inputs))
    for model in models:
        path.write_bytes(model.SerializeToString())
        try:
            read(path)
        except bitlab.Unsupported as refused:
            assert "[onnx]" in str(refused)
            continue
        return len(model.graph.input)
    return None


def test_operators_as_onnx_tests_them(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    counts: collections.Counter[str] = collections.Counter()
    for case in node_cases():
        given = read_case(case, path)
        counts["refused" if given is None else "read"] += 1
        if given is None:
            counts[f"{case.model.graph.node[0].op_type} refused"] += 1
            continue
        for inputs, outputs in case.data_sets:
            inputs, outputs = [array_of(v) for v in inputs], [array_of(v) for v in outputs]
            if any(str(v.dtype) in ("float16", "bfloat16") for v in [*inputs, *outputs]):
                continue  # no arrays of these types go into a session, nor come out
            names = [port.name for port in case.model.graph.input][:given]
            arrays = dict(zip(names, inputs, strict=False))
            found = bitlab.runtime.Session(path.with_suffix(".bit")).run(arrays)
            for port, expected in zip(case.model.graph.output, outputs, strict=True):
                y = found[port.name]
                assert y.shape == expected.shape and y.dtype == expected.dtype, case.name
                np.testing.assert_allclose(y, expected, **NODE_ROUNDING, err_msg=case.name)
    print(dict(counts.most_common()))
    assert counts["read"] >= LEAST_READ, counts


POOLS = [
    {"kernel_shape": [3, 3], "strides": [2, 2]},
    {"kernel_shape": [3, 2], "strides": [1, 2], "pads": [1, 0, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [2, 4], "strides": [2, 1], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
]


def one_node(
    path: Path,
    type: str,
    opset: int = 17,
    tensors: dict[str, np.ndarray] | None = None,
    sizes: Any = None,
    **attributes: Any,
) -> Path:
    tensors = tensors or {}
    node = helper.make_node(type, ["x", *tensors], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes or ["batch", 3, 9, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b", "c", "d"])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("attributes", POOLS, ids=str)
def test_pools(attributes: dict[str, Any], tmp_path: Path) -> None:
    x = {"x": np.random.default_rng(0).standard_normal((2, 3, 9, 8)).astype(np.float32)}
    check(one_node(tmp_path / "max.onnx", "MaxPool", **attributes), x)
    for counts in (0, 1):
        if counts and attributes.get("ceil_mode"):
            continue  # ONNX Runtime's kernel counts what lies beyond the padding, too
        check(one_node(tmp_path / "mean.onnx", "AveragePool", count_include_pad=counts, **attributes), x)


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 0, 2, 1], "strides": [2, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER"},
        {"group": 3, "pads": [1, 1, 1, 1]},
    ],
    ids=str,
)
def test_convolutions(attributes: dict[str, Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x = {"x": rng.standard_normal((2, 3, 9, 8)).astype(np.float32)}
    groups = attributes.get("group", 1)
    w = rng.standard_normal((6, 3 // groups, 3, 2)).astype(np.float32)
    check(one_node(tmp_path / "conv.onnx", "Conv", tensors={"w": w, "b": w[:, 0, 0, 0]}, **attributes), x)
    w = rng.standard_normal((3, 6 // groups, 3, 2)).astype(np.float32)
    check(one_node(tmp_path / "up.onnx", "ConvTranspose", tensors={"w": w}, **attributes), x)


@pytest.mark.parametrize("opset", [11, 12, 13, 18, 22])
def test_softmax_of_each_opset(opset: int, tmp_path: Path) -> None:
    x = {"x": np.random.default_rng(2).standard_normal((2, 3, 9, 8)).astype(np.float32)}
    for type in ("Softmax", "LogSoftmax"):
        check(one_node(tmp_path / "m.onnx", type, opset, axis=1), x)


# --- networks that exporters wrote


class Block(nn.Module):
    """A residual block, and MobileNet's inverted one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.up, self.down = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(3 * channels, channels, 1)
        self.depthwise = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels)
        self.squeeze = nn.Conv2d(3 * channels, 3 * channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(x + self.b(self.a(x)))
        y = F.hardswish(self.depthwise(F.relu6(self.up(x))))
        return x + self.down(y * F.hardsigmoid(self.squeeze(F.adaptive_avg_pool2d(y, 1))))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 12, 7, stride=2, padding=3), nn.BatchNorm2d(12), nn.SiLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.blocks = nn.Sequential(Block(12), nn.GroupNorm(3, 12), Block(12), nn.InstanceNorm2d(12))
        self.head = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.blocks(self.stem(x))
        wide = F.interpolate(F.pad(x, (1, 2, 0, 1), mode="reflect"), scale_factor=2, mode="bilinear")
        left, right = x.view(x.shape[0], 2, -1, *x.shape[2:]).transpose(1, 2).flatten(1, 2).chunk(2, 1)
        return self.head(x.mean((2, 3))).log_softmax(1), wide.argmax(1), torch.cat([right, left], 1)[:, 1::2, :, -1]


def exported(
    model: nn.Module, inputs: tuple[torch.Tensor, ...], names: list[str], axes: dict[int, str], path: Path, opset: int = 17
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            inputs,
            str(path),
            input_names=names,
            dynamic_axes=dict.fromkeys(names, axes),
            opset_version=opset,
            dynamo=False,
        )


@pytest.mark.parametrize("opset", [11, 13, 17, 20])
def test_a_convolutional_network(opset: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "m.onnx"
    exported(Network(), (torch.randn(2, 3, 32, 32),), ["x"], {0: "batch"}, path, opset)
    for batch in (2, 5):
        check(path, {"x": torch.randn(batch, 3, 32, 32).numpy()})
    model = bitlab.runtime.Model.load(path.with_suffix(".bit"))
    assert model.inputs[0].shape == ["batch", 3, 32, 32]


def transformer(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...], list[str], dict[int, str]]:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    if name == "vit":
        model = transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **sizes))
        return model, (torch.randn(2, 3, 32, 32),), ["pixels"], {0: "batch"}

    class Bert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = transformers.BertConfig(vocab_size=90, max_position_embeddings=64, **sizes)
            self.bert = transformers.BertModel(config)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.bert(input_ids=ids, attention_mask=mask)[0]

    ids = torch.randint(0, 90, (2, 7))
    return Bert(), (ids, torch.ones_like(ids)), ["ids", "mask"], {0: "batch", 1: "tokens"}


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_transformers(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs, names, axes = transformer(name)
    exported(model, inputs, names, axes, tmp_path / "m.onnx")
    arrays = {key: value.numpy() for key, value in zip(names, inputs, strict=True)}
    if name == "bert":
        arrays["mask"][1, 5:] = 0
    check(tmp_path / "m.onnx", arrays)
    # Other sizes than the exporter saw.
    check(
        tmp_path / "m.onnx",
        {key: np.concatenate([v, v[:1]])[:, : 4 if name == "bert" else None] for key, v in arrays.items()},
    )


def test_a_table_bounds_the_tokens(tmp_path: Path) -> None:
    model, inputs, names, axes = transformer("bert")
    exported(model, inputs, names, axes, tmp_path / "m.onnx")
    session = bitlab.runtime.Session(read(tmp_path / "m.onnx"))
    long = np.ones((1, 65), np.int64)
    with pytest.raises(bitlab.Error, match="tokens"):
        session.run({"ids": long, "mask": long})


def test_quantized_with_qdq(tmp_path: Path) -> None:
    """A model that ONNX Runtime's tools quantized, to int8 and uint8."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 16, 10))
    exported(net, (torch.randn(2, 3, 8, 8),), ["x"], {0: "batch"}, tmp_path / "float.onnx")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            self.left = [{"x": torch.randn(4, 3, 8, 8).numpy()} for _ in range(4)]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    for kind in (quantization.QuantType.QInt8, quantization.QuantType.QUInt8):
        quantization.quantize_static(
            str(tmp_path / "float.onnx"), str(tmp_path / "m.onnx"), Reader(), quant_format=quantization.QuantFormat.QDQ,
            activation_type=kind, weight_type=quantization.QuantType.QInt8, per_channel=True,
        )  # fmt: skip
        x = {"x": torch.randn(3, 3, 8, 8).numpy()}
        expected = onnx_outputs(tmp_path / "m.onnx", x, optimized=False)
        found = bitlab.runtime.Session(read(tmp_path / "m.onnx")).run(x)
        for name, y in expected.items():  # a step of a quantizer, where a rounding in front of it fell on the other side
            assert np.abs(found[name] - y).max() <= 2e-2 * np.abs(y).max()
            assert np.mean(found[name] == y) > 0.5


# --- our own files


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "quantization",
    [q for q in QUANTIZATIONS if q["granularity"] == "channel"]
    + [{"method": "absmean", "granularity": "tensor", "activation": a} for a in ("none", "int8_static")],
    ids=lambda q: "-".join(q.values()),
)
def test_what_we_write_comes_back(quantization: dict[str, str], variant: str, tmp_path: Path) -> None:
    model = bitlab.BitModel(Products(), bitlab.BitQuantConfig(**quantization))
    if quantization["activation"] == "int8_static":
        model.train()(*examples())
    inputs = deployed(model, examples(), tmp_path / "m.bit")
    bitlab.formats.convert(tmp_path / "m.bit", tmp_path / "m.onnx", variant=variant)
    comparison = bitlab.formats.verify(tmp_path / "m.bit", tmp_path / "m.onnx", samples=3)
    assert comparison.is_equal(), comparison
    bitlab.formats.convert(tmp_path / "m.onnx", tmp_path / "again.bit")
    assert ops_of(tmp_path / "again.bit") == ops_of(tmp_path / "m.bit")
    expected = bitlab.runtime.Session(tmp_path / "m.bit").run(inputs)
    found = bitlab.runtime.Session(tmp_path / "again.bit").run(inputs)
    assert all(np.array_equal(found[name], y) for name, y in expected.items())


def test_verify_names_the_first_difference(tmp_path: Path) -> None:
    def net(seed: int, width: int = 7) -> bitlab.BitModel:
        torch.manual_seed(seed)
        return bitlab.BitModel(nn.Sequential(nn.Linear(12, width), nn.ReLU(), nn.Linear(width, 3)))

    for name, model in {"a": net(0), "b": net(1), "wide": net(0, 8)}.items():
        deployed(model, torch.randn(2, 12), tmp_path / f"{name}.bit")
    verify = bitlab.formats.verify
    same = verify(tmp_path / "a.bit", tmp_path / "a.bit")
    assert same.is_equal() and same.first() == "" and same.outputs[0].count == 64 * 3 and same.outputs[0].different == 0
    other = verify(tmp_path / "a.bit", tmp_path / "b.bit")
    assert "'model.0.weight': codes" in other.weight and not other.is_equal(1.0) and other.outputs[0].different > 0
    assert "'model.0.weight': [7, 12] and [8, 12]" in verify(tmp_path / "a.bit", tmp_path / "wide.bit").weight
    picture = verify(tmp_path / "a.bit", ROOT / "tests/golden/lenet5.bit")
    assert "float32[batch, 12]" in picture.first() and picture.outputs == []
