"""Decoders of language models for the tests of formats: a network of our layers, the weights of a .bit file, and the forward pass in double precision."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

import bitlab

Weights = dict[str, np.ndarray]
HEADS, KV_HEADS, VOCABULARY = 4, 2, 320


class Network(torch.nn.Module):
    """A decoder of BitLab's layers, with a float table and head, which are one where there are sub-norms."""

    def __init__(
        self,
        activation: str,
        sub_norm: bool,
        *,
        dim: int = 256,
        hidden: int = 512,
        layers: int = 2,
        heads: int = HEADS,
        kv_heads: int = KV_HEADS,
        vocabulary: int = VOCABULARY,
    ) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(vocabulary, dim)
        options = {"num_kv_heads": kv_heads, "hidden_dim": hidden, "activation": activation, "sub_norm": sub_norm, "bias": False}
        shape = {"norm": "rms", "norm_first": True, "causal": True, "rope_theta": 10000.0}
        self.blocks = torch.nn.Sequential(*(bitlab.nn.BitTransformerBlock(dim, heads, **options, **shape) for _ in range(layers)))
        self.norm = torch.nn.RMSNorm(dim, eps=1e-5)
        self.head = torch.nn.Linear(dim, vocabulary, bias=False)
        if sub_norm:
            self.head.weight = self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.table(tokens))))


def ternary_of(path: Path) -> set[str]:
    """The names of its ternary weights."""
    with safe_open(path, "pt") as file:
        return {name.removesuffix(".trits") for name in file.keys() if name.endswith(".trits")}  # noqa: SIM118  no dict


def weights_of(path: Path) -> Weights:
    """t s of every ternary weight, and the floats, by name, as the safetensors library reads them. Trits: five to a byte, the lowest first."""
    weights: Weights = {}
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        shapes = {c["name"]: c["shape"] for c in json.loads(file.metadata()["bitlab.program"])["constants"]}
        for name in names:
            if name.endswith(".trits"):
                weight = name.removesuffix(".trits")
                rows, depth = shapes[weight][0], math.prod(shapes[weight][1:])
                digits = file.get_tensor(name).numpy()[:, :, None] // 3 ** np.arange(5) % 3
                t = (digits.reshape(rows, -1)[:, :depth].astype(np.float32)) - 1
                if weight + ".group_scale" in names:
                    scale = file.get_tensor(weight + ".group_scale").float().numpy()
                    weights[weight] = t * np.repeat(scale, depth // scale.shape[1], axis=1)
                else:
                    weights[weight] = t * file.get_tensor(weight + ".scale").numpy()[:, None]
            elif not name.startswith("_pad.") and not name.endswith("scale"):
                weights[name] = file.get_tensor(name).float().numpy()
    return weights


def by_token(x: np.ndarray) -> np.ndarray:
    """int8 activations with a scale a token: BitLab's and BitNet's."""
    scale = 127 / np.maximum(np.abs(x).max(-1, keepdims=True), 1e-5)
    return np.clip(np.rint(x * scale), -127, 127) / scale


def by_256(x: np.ndarray) -> np.ndarray:
    """int8 activations with a scale for 256 values of a token: llama.cpp's beside TQ1_0 and TQ2_0."""
    blocks = x.reshape(*x.shape[:-1], -1, 256)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)
    scale = -127 / np.where(largest == 0, 1, largest)
    return (np.minimum(np.rint(blocks * scale), 127) / scale).reshape(x.shape)


def logits(
    w: Weights, tokens: list[int], heads: int, kv_heads: int, act: str, quantize: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """[tokens, vocabulary], of weights by their names in .bit files; eps 1e-5, theta 10000."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w[name + ".weight"]

    def product(x: np.ndarray, name: str) -> np.ndarray:
        return quantize(x) @ w[name + ".weight"].astype(np.float64).T

    def rotated(x: np.ndarray) -> np.ndarray:
        half = x.shape[-1] // 2
        angles = np.arange(x.shape[0])[:, None] * 10000.0 ** (-np.arange(half) / half)
        cos, sin, a, b = np.cos(angles)[:, None], np.sin(angles)[:, None], x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    table = w["embed_tokens.weight"].astype(np.float64)
    x, count = table[tokens], len(tokens)
    layers = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("layers."))
    for i in range(layers):
        at, sub_norms = f"layers.{i}.", f"layers.{i}.self_attn.attn_sub_norm.weight" in w
        n = norm(x, at + "input_layernorm")
        q, k, v = (product(n, f"{at}self_attn.{p}_proj") for p in "qkv")
        q = rotated(q.reshape(count, heads, -1))
        k, v = (np.repeat(y.reshape(count, kv_heads, -1), heads // kv_heads, axis=1) for y in (k, v))
        k = rotated(k)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
        scores = np.where(np.tri(count) == 1, scores, -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        y = np.einsum("hqk,khd->qhd", shares / shares.sum(-1, keepdims=True), v).reshape(count, -1)
        y = norm(y, at + "self_attn.attn_sub_norm") if sub_norms else y
        x = x + product(y, at + "self_attn.o_proj")
        n = norm(x, at + "post_attention_layernorm")
        gate, up = product(n, at + "mlp.gate_proj"), product(n, at + "mlp.up_proj")
        y = (gate / (1 + np.exp(-gate)) if act == "silu" else np.maximum(gate, 0) ** 2) * up
        y = norm(y, at + "mlp.ffn_sub_norm") if sub_norms else y
        x = x + product(y, at + "mlp.down_proj")
    return norm(x, "norm") @ w.get("lm_head.weight", table).astype(np.float64).T
