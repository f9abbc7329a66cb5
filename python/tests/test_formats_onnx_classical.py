"""The operators of ai.onnx.ml around networks of scikit-learn, as skl2onnx writes them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import bitlab

if sys.version_info < (3, 11):
    pytest.skip("no ONNX Runtime for this Python", allow_module_level=True)
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from test_formats_onnx_import import check, read  # noqa: E402


def saved(path: Path, nodes: list[object], outputs: str, **tensors: np.ndarray) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    types = {"matrix": (TensorProto.FLOAT, ["a", "b"]), "labels": (TensorProto.INT64, ["c"])}
    ports = [helper.make_tensor_value_info(f"y{i}", *types[name]) for i, name in enumerate(outputs.split())]
    graph = helper.make_graph(nodes, "g", [x], ports, [numpy_helper.from_array(v, k) for k, v in tensors.items()])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
    return path


def ml(type: str, inputs: list[str], outputs: list[str], **attributes: object) -> object:
    return helper.make_node(type, inputs, outputs, domain="ai.onnx.ml", **attributes)


X = {"x": np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)}
WEIGHTS = [0.5, -1.0, 0.25, 1.5, 0.75, -0.5, -0.25, 1.0, 2.0]


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC"])
def test_a_classifier_of_scaled_rows(transform: str, tmp_path: Path) -> None:
    nodes = [
        ml("Scaler", ["x"], ["s"], offset=[0.5, -1.0, 0.0], scale=[2.0, 1.0, 0.5]),
        ml("LinearClassifier", ["s"], ["y0", "p"], coefficients=WEIGHTS, intercepts=[0.1, -0.2, 0.3],
           classlabels_ints=[4, 7, 9], post_transform=transform, multi_class=1),
        ml("Normalizer", ["p"], ["y1"], norm="L1"),
    ]  # fmt: skip
    path = saved(tmp_path / "m.onnx", nodes, "labels matrix")
    check(path, X)
    assert "symbol batch from 0" in str(bitlab.runtime.Model.load(path.with_suffix(".bit")))


def test_a_regression_and_a_label(tmp_path: Path) -> None:
    nodes = [
        ml("LinearRegressor", ["x"], ["y0"], coefficients=WEIGHTS, intercepts=[0.1, -0.2, 0.3], targets=3),
        helper.make_node("ArgMax", ["y0"], ["most"], axis=1),
        ml("ArrayFeatureExtractor", ["labels", "most"], ["label"]),
        helper.make_node("Reshape", ["label", "flat"], ["y1"]),
        ml("ArrayFeatureExtractor", ["x", "columns"], ["y2"]),
    ]
    tensors = {"labels": np.array([5, 3, 8]), "flat": np.array([-1]), "columns": np.array([2, 0])}
    check(saved(tmp_path / "m.onnx", nodes, "matrix labels matrix", **tensors), X)


def test_what_is_refused(tmp_path: Path) -> None:
    one = ml("LinearClassifier", ["x"], ["y0", "y1"], coefficients=WEIGHTS[:3], intercepts=[0.1], classlabels_ints=[0, 1])
    with pytest.raises(bitlab.Unsupported, match="a score for each label"):
        read(saved(tmp_path / "m.onnx", [one], "labels matrix"))
    short = ml("LinearRegressor", ["x"], ["y0"], coefficients=[1.0])
    with pytest.raises(bitlab.Corrupt, match="3 numbers as coefficients, got 1"):
        read(saved(tmp_path / "m.onnx", [short], "matrix"))
