"""LiteRT (TensorFlow Lite): fully connected layers with int8 activations and int8 or 2-bit weights, scales per channel."""

from __future__ import annotations

from importlib.metadata import version

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from . import Peer


def quantization(scales):
    q = schema.QuantizationParametersT()
    q.scale = list(scales)
    q.zeroPoint = [0] * len(scales)
    return q


def tensor(name, shape, kind, scales, buffer):
    t = schema.TensorT()
    t.name, t.shape, t.type, t.buffer, t.quantization = name, list(shape), kind, buffer, quantization(scales)
    return t


def model(tokens, rows, depth, kind, data) -> bytes:
    m = schema.ModelT()
    m.version = 3
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 4
    m.operatorCodes = [code]
    empty, weights = schema.BufferT(), schema.BufferT()
    weights.data = data
    m.buffers = [empty, weights]
    graph = schema.SubGraphT()
    graph.tensors = [
        tensor("x", (tokens, depth), schema.TensorType.INT8, [0.05], 0),
        tensor("w", (rows, depth), kind, [0.1] * rows, 1),
        tensor("y", (tokens, rows), schema.TensorType.INT8, [1.0], 0),
    ]
    graph.inputs, graph.outputs = [0], [2]
    op = schema.OperatorT()
    op.opcodeIndex, op.inputs, op.outputs = 0, [0, 1, -1], [2]
    op.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    op.builtinOptions = schema.FullyConnectedOptionsT()
    graph.operators = [op]
    m.subgraphs = [graph]
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(m.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def peer(content, w, tokens, depth, threads, isa, note):
    interpreter = Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    x = np.random.default_rng(4).integers(-127, 128, (tokens, depth)).astype(np.int8)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).astype(np.float64)
    expected = np.clip(np.rint((x.astype(np.int64) @ w.T.astype(np.int64)) * 0.05 * 0.1), -128, 127)
    if np.abs(found - expected).max() > 1:
        raise RuntimeError(f"LiteRT's {note} product differs from NumPy's by {np.abs(found - expected).max():.0f}")
    return Peer(interpreter.invoke, isa, version("ai-edge-litert"), note)


def gemm(tokens, rows, depth, threads, isa):
    w = np.random.default_rng(5).integers(-1, 2, (rows, depth)).astype(np.int8)
    peers = {"LiteRT INT8": peer(model(tokens, rows, depth, schema.TensorType.INT8, w.tobytes()), w, tokens, depth, threads, isa, "int8 in and out")}
    fields = (w.reshape(rows, depth // 4, 4) & 3).astype(np.uint8)
    packed = fields[..., 0] | fields[..., 1] << 2 | fields[..., 2] << 4 | fields[..., 3] << 6
    content = model(tokens, rows, depth, schema.TensorType.INT2, packed.astype(np.uint8).tobytes())
    peers["LiteRT INT2"] = peer(content, w, tokens, depth, threads, isa, "int8 in and out, 2-bit weights")
    return peers
