"""llama.cpp itself, as the library that the wheel of xllamacpp has: logits and embeddings of a GGUF file, its tokenizer, and the float values of a row of blocks."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import numpy as np
import xllamacpp

_PACKAGE = Path(xllamacpp.__file__).parent
_lib = ctypes.CDLL(str(next(_PACKAGE.glob("xllamacpp*.so"))))


class _ModelParams(ctypes.Structure):
    """llama_model_params of this version: 80 bytes, of which the defaults serve."""

    _fields_ = [("words", ctypes.c_uint64 * 10)]


class _ContextParams(ctypes.Structure):
    """llama_context_params: what is set here, with the fields between as numbers."""

    _fields_ = [
        ("n_ctx", ctypes.c_uint32),
        ("n_batch", ctypes.c_uint32),
        ("n_ubatch", ctypes.c_uint32),
        ("counts", ctypes.c_uint32 * 4),
        ("n_threads", ctypes.c_int32),
        ("n_threads_batch", ctypes.c_int32),
        ("context_type", ctypes.c_int32),
        ("rope_scaling_type", ctypes.c_int32),
        ("pooling_type", ctypes.c_int32),
        ("attention_type", ctypes.c_int32),
        ("flash_attn_type", ctypes.c_int32),
        ("rope", ctypes.c_float * 6),
        ("yarn_context", ctypes.c_uint32),
        ("defrag", ctypes.c_float),
        ("callbacks", ctypes.c_void_p * 2),
        ("type_k", ctypes.c_int32),
        ("type_v", ctypes.c_int32),
        ("rest", ctypes.c_uint64 * 7),
    ]


class _Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


_Log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
messages: list[str] = []
_log = _Log(lambda level, text, data: messages.append(text.decode(errors="replace")) if level >= 3 else None)


def _function(name: str, result: type | None, *arguments: type) -> ctypes._CFuncPtr:
    function = getattr(_lib, name)
    function.restype, function.argtypes = result, arguments
    return function


_function("llama_log_set", None, _Log, ctypes.c_void_p)(_log, None)
_model_params = _function("llama_model_default_params", _ModelParams)
_context_params = _function("llama_context_default_params", _ContextParams)
_load = _function("llama_model_load_from_file", ctypes.c_void_p, ctypes.c_char_p, _ModelParams)
_free_model = _function("llama_model_free", None, ctypes.c_void_p)
_init = _function("llama_init_from_model", ctypes.c_void_p, ctypes.c_void_p, _ContextParams)
_free = _function("llama_free", None, ctypes.c_void_p)
_batch_init = _function("llama_batch_init", _Batch, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32)
_batch_free = _function("llama_batch_free", None, _Batch)
_decode = _function("llama_decode", ctypes.c_int32, ctypes.c_void_p, _Batch)
_logits = _function("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), ctypes.c_void_p, ctypes.c_int32)
_memory = _function("llama_get_memory", ctypes.c_void_p, ctypes.c_void_p)
_memory_clear = _function("llama_memory_clear", None, ctypes.c_void_p, ctypes.c_bool)
_set_embeddings = _function("llama_set_embeddings", None, ctypes.c_void_p, ctypes.c_bool)
_embeddings = _function("llama_get_embeddings_ith", ctypes.POINTER(ctypes.c_float), ctypes.c_void_p, ctypes.c_int32)
_pooled = _function("llama_get_embeddings_seq", ctypes.POINTER(ctypes.c_float), ctypes.c_void_p, ctypes.c_int32)
_pooling = _function("llama_pooling_type", ctypes.c_int32, ctypes.c_void_p)
_width = _function("llama_model_n_embd", ctypes.c_int32, ctypes.c_void_p)
_classes = _function("llama_model_n_cls_out", ctypes.c_uint32, ctypes.c_void_p)
_tokenize = _function(
    "llama_tokenize",
    ctypes.c_int32,
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_int32,
    ctypes.POINTER(ctypes.c_int32),
    ctypes.c_int32,
    ctypes.c_bool,
    ctypes.c_bool,
)
_vocabulary = _function("llama_model_get_vocab", ctypes.c_void_p, ctypes.c_void_p)
_vocabulary_size = _function("llama_vocab_n_tokens", ctypes.c_int32, ctypes.c_void_p)
_F32 = 0


class Model:
    """A GGUF file on the CPU, without flash attention, with keys and values in float32, and one thread."""

    def __init__(self, path: str | os.PathLike[str], context: int = 64, embeds: bool = False) -> None:
        messages.clear()
        self._model = _load(os.fsencode(path), _model_params())
        assert self._model, "".join(messages)
        params = _context_params()
        assert (params.n_threads, params.rope_scaling_type, params.type_k, params.type_v) == (4, -1, 1, 1), (
            "another layout of llama_context_params"
        )
        params.n_ctx = params.n_batch = params.n_ubatch = context
        params.n_threads = params.n_threads_batch = 1
        params.flash_attn_type = 0
        params.type_k = params.type_v = _F32
        self._context = _init(self._model, params)
        assert self._context, "".join(messages)
        _set_embeddings(self._context, embeds)
        self._vocabulary = _vocabulary_size(_vocabulary(self._model))

    def __del__(self) -> None:
        if getattr(self, "_context", None):
            _free(self._context)
        if getattr(self, "_model", None):
            _free_model(self._model)

    def tokens(self, text: str, around: bool = False) -> list[int]:
        """Of a text, in which special tokens are found; `around`: with those that stand around it."""
        data = text.encode()
        found = (ctypes.c_int32 * (len(data) + 8))()
        count = _tokenize(_vocabulary(self._model), data, len(data), found, len(found), around, True)
        assert count >= 0
        return found[:count]

    def _run(self, tokens: list[int]) -> None:
        batch = _batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, 1
        assert _decode(self._context, batch) == 0, "".join(messages)
        _batch_free(batch)

    def logits(self, tokens: list[int]) -> np.ndarray:
        """[tokens, vocabulary] of a text of its own."""
        _memory_clear(_memory(self._context), True)
        self._run(tokens)
        return np.stack([_copied(_logits(self._context, i), self._vocabulary) for i in range(len(tokens))])

    def embeddings(self, tokens: list[int]) -> np.ndarray:
        """What an encoder makes of a text: [tokens, width], or where the file says how they are pooled [width] or [classes]."""
        self._run(tokens)
        if _pooling(self._context) == 0:
            return np.stack([_copied(_embeddings(self._context, i), _width(self._model)) for i in range(len(tokens))])
        return _copied(
            _pooled(self._context, 0), _classes(self._model) if _pooling(self._context) == 4 else _width(self._model)
        )


def _copied(values: ctypes._Pointer, count: int) -> np.ndarray:
    return np.ctypeslib.as_array(values, shape=(count,)).copy()


def dequantized(kind: str, blocks: bytes, count: int) -> np.ndarray:
    """dequantize_row_<kind>: `count` float32 values."""
    values = np.empty(count, np.float32)
    function = _function(f"dequantize_row_{kind}", None, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64)
    function(blocks, values.ctypes.data, count)
    return values
