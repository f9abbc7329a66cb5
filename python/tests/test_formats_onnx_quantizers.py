"""Models that ONNX Runtime's quantizers wrote in forms of their own, beside ONNX Runtime without optimizations."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitlab

if sys.version_info < (3, 11):
    pytest.skip("no ONNX Runtime for this Python", allow_module_level=True)
import onnx  # noqa: E402
from onnx import numpy_helper, parser  # noqa: E402
from onnxruntime import quantization  # noqa: E402
from test_formats_onnx import onnx_outputs  # noqa: E402
from test_formats_onnx_import import Arrays, read  # noqa: E402


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model_of(graph: str, **tensors: np.ndarray) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["": 21]> g {graph}')
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in tensors.items())
    return model


def apart(path: Path, inputs: Arrays) -> float:
    """The largest difference, as a part of the largest output."""
    expected = onnx_outputs(path, inputs, optimized=False)
    found = bitlab.runtime.Session(read(path)).run(inputs)
    return max(float(np.abs(found[name] - y).max() / np.abs(y).max()) for name, y in expected.items())


class Samples(quantization.CalibrationDataReader):  # type: ignore[name-defined, misc]
    def __init__(self, *inputs: Arrays) -> None:
        self.left = list(inputs)

    def get_next(self) -> Any:
        return self.left.pop() if self.left else None


@pytest.mark.parametrize("kind", ["QUInt16", "QInt16"])
def test_activations_of_16_bits(kind: str, tmp_path: Path) -> None:
    graph = "(float[batch, 24] x) => (float[a, b] y) { h = MatMul(x, w) r = Relu(h) s = Add(r, b) y = MatMul(s, v) }"
    model = model_of(graph, w=floats(24, 16), b=floats(16, seed=1), v=floats(16, 5, seed=2))
    onnx.save(model, tmp_path / "float.onnx")
    x = {"x": floats(4, 24, seed=3)}
    quantization.quantize_static(
        str(tmp_path / "float.onnx"), str(tmp_path / "m.onnx"), Samples(x), quant_format=quantization.QuantFormat.QDQ,
        activation_type=getattr(quantization.QuantType, kind), weight_type=quantization.QuantType.QInt8,
        extra_options={"ActivationSymmetric": kind == "QInt16"},
    )  # fmt: skip
    assert apart(tmp_path / "m.onnx", x) <= 1e-4


@pytest.mark.parametrize("is_symmetric", [True, False], ids=["symmetric", "zeros"])
@pytest.mark.parametrize("block", [16, 32])
def test_tables_in_blocks(block: int, is_symmetric: bool, tmp_path: Path) -> None:
    """GatherBlockQuantized, and MatMulNBits behind it."""
    pytest.importorskip("onnx_ir", reason="the quantizer needs onnx-ir, which is not installed")
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    graph = "(int64[batch, tokens] ids) => (float[a, b, c] y) { x = Gather(table, ids) y = MatMul(x, w) }"
    model = model_of(graph, table=floats(30, 80), w=floats(80, 32, seed=1))
    quantizer = MatMulNBitsQuantizer(
        model, block_size=block, is_symmetric=is_symmetric, op_types_to_quantize=("MatMul", "Gather")
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(tmp_path / "m.onnx"))
    types = {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}
    assert types == {"GatherBlockQuantized", "MatMulNBits"}
    assert apart(tmp_path / "m.onnx", {"ids": np.array([[0, 29, 7], [3, 11, 12]])}) <= 5e-6
