"""ONNX Runtime: MatMulInteger (int8), MatMulNBits (2 bits, blocks of 128, int8 arithmetic), QLinearConv."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from . import Peer


def session(nodes, inputs, outputs, initializers, threads, extra_domains=()):
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 17)] + [helper.make_opsetid(d, 1) for d in extra_domains]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def bound(s, feeds):
    """A call without copies: inputs and outputs are bound once."""
    binding = s.io_binding()
    values = [ort.OrtValue.ortvalue_from_numpy(v) for v in feeds.values()]
    for name, value in zip(feeds, values, strict=True):
        binding.bind_ortvalue_input(name, value)
    outputs = [ort.OrtValue.ortvalue_from_numpy(v) for v in s.run(None, feeds)]
    for meta, value in zip(s.get_outputs(), outputs, strict=True):
        binding.bind_ortvalue_output(meta.name, value)

    def call():
        s.run_with_iobinding(binding)

    call.keep = (values, outputs, binding, s)
    return call


def initializer(name, array):
    return onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)


def gemm(tokens, rows, depth, threads, isa):
    rng = np.random.default_rng(1)
    w = rng.integers(-1, 2, (depth, rows)).astype(np.int8)
    info = helper.make_tensor_value_info
    peers = {}
    s = session(
        [helper.make_node("MatMulInteger", ["a", "w"], ["y"])],
        [info("a", TensorProto.UINT8, [tokens, depth])],
        [info("y", TensorProto.INT32, [tokens, rows])],
        [initializer("w", w)],
        threads,
    )
    a = rng.integers(0, 255, (tokens, depth)).astype(np.uint8)
    peers["onnxruntime MatMulInteger"] = Peer(bound(s, {"a": a}), isa, ort.__version__, "int8 in, int32 out")
    block = 128
    packed = rng.integers(0, 255, (rows, depth // block, block // 4)).astype(np.uint8)
    scales = np.full((rows, depth // block), 0.1, np.float32)
    s = session(
        [
            helper.make_node(
                "MatMulNBits", ["a", "w", "s"], ["y"], domain="com.microsoft", K=depth, N=rows, bits=2, block_size=block, accuracy_level=4
            )
        ],
        [info("a", TensorProto.FLOAT, [tokens, depth])],
        [info("y", TensorProto.FLOAT, [tokens, rows])],
        [initializer("w", packed), initializer("s", scales)],
        threads,
        ["com.microsoft"],
    )
    x = rng.standard_normal((tokens, depth)).astype(np.float32)
    peers["onnxruntime MatMulNBits 2-bit"] = Peer(bound(s, {"a": x}), isa, ort.__version__, "float in and out")
    return peers


def conv(batch, channels, side, filters, threads, isa):
    rng = np.random.default_rng(2)
    info = helper.make_tensor_value_info
    scale, zero = np.float32(0.05), np.uint8(128)
    w = rng.integers(-1, 2, (filters, channels, 3, 3)).astype(np.int8)
    s = session(
        [
            helper.make_node(
                "QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]
            )
        ],
        [info("x", TensorProto.UINT8, [batch, channels, side, side])],
        [info("y", TensorProto.UINT8, [batch, filters, side, side])],
        [
            initializer("xs", np.array(scale)),
            initializer("xz", np.array(zero)),
            initializer("w", w),
            initializer("ws", np.full(filters, 0.1, np.float32)),
            initializer("wz", np.zeros(filters, np.int8)),
            initializer("ys", np.array(scale)),
            initializer("yz", np.array(zero)),
            initializer("b", np.zeros(filters, np.int32)),
        ],
        threads,
    )
    x = rng.integers(0, 255, (batch, channels, side, side)).astype(np.uint8)
    return {"onnxruntime QLinearConv": Peer(bound(s, {"x": x}), isa, ort.__version__, "int8 in and out, static scales")}
