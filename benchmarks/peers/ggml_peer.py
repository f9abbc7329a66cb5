"""ggml's TQ2_0 product (ternary, 2.06 bits a weight), through the C functions that the xllamacpp wheel exports."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import xllamacpp

from . import Peer

F32, TQ2_0 = 0, 35  # enum ggml_type
LIBRARY = Path(xllamacpp.__file__).parent / "xllamacpp.abi3.so"


class InitParams(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


def library():
    c = ctypes.CDLL(str(LIBRARY))
    p, i64 = ctypes.c_void_p, ctypes.c_int64
    for name, result, arguments in (
        ("ggml_init", p, [InitParams]),
        ("ggml_new_tensor_2d", p, [p, ctypes.c_int, i64, i64]),
        ("ggml_mul_mat", p, [p, p, p]),
        ("ggml_new_graph", p, [p]),
        ("ggml_build_forward_expand", None, [p, p]),
        ("ggml_get_data", p, [p]),
        ("ggml_nbytes", ctypes.c_size_t, [p]),
        ("quantize_tq2_0", ctypes.c_size_t, [p, p, i64, i64, p]),
        ("ggml_backend_cpu_init", p, []),
        ("ggml_backend_cpu_set_n_threads", None, [p, ctypes.c_int]),
        ("ggml_backend_graph_compute", ctypes.c_int, [p, p]),
    ):
        function = getattr(c, name)
        function.restype, function.argtypes = result, arguments
    return c


def isa(c) -> str:
    for name in ("avx512_vnni", "avx512", "avx2"):
        if getattr(c, f"ggml_cpu_has_{name}")():
            return {"avx512_vnni": "avx512vnni"}.get(name, name)
    return "baseline"


def gemm(tokens, rows, depth, threads, _isa):
    c = library()
    context = c.ggml_init(InitParams(rows * depth + 16 * tokens * (rows + depth) + (64 << 20), None, False))
    w = c.ggml_new_tensor_2d(context, TQ2_0, depth, rows)
    x = c.ggml_new_tensor_2d(context, F32, depth, tokens)
    y = c.ggml_mul_mat(context, w, x)
    graph = c.ggml_new_graph(context)
    c.ggml_build_forward_expand(graph, y)
    rng = np.random.default_rng(3)
    values = rng.integers(-1, 2, (rows, depth)).astype(np.float32)
    c.quantize_tq2_0(values.ctypes.data, c.ggml_get_data(w), rows, depth, None)
    activations = rng.standard_normal((tokens, depth)).astype(np.float32)
    ctypes.memmove(c.ggml_get_data(x), activations.ctypes.data, activations.nbytes)
    backend = c.ggml_backend_cpu_init()
    c.ggml_backend_cpu_set_n_threads(backend, threads)

    def call():
        if c.ggml_backend_graph_compute(backend, graph) != 0:
            raise RuntimeError("ggml_backend_graph_compute failed")

    call()
    found = np.ctypeslib.as_array(ctypes.cast(c.ggml_get_data(y), ctypes.POINTER(ctypes.c_float)), (tokens, rows))
    expected = activations @ values.T
    error = np.abs(found - expected).max() / np.abs(expected).max()
    if not error < 0.05:
        raise RuntimeError(f"ggml's product differs from NumPy's by {error:.3f} of its largest value")
    return {"ggml TQ2_0": Peer(call, isa(c), xllamacpp.__version__ if hasattr(xllamacpp, "__version__") else "", "float in and out")}
