"""Every layer: beside its twin in torch.nn, and beside the formulas of docs/numerics.md, computed in float64 by NumPy."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bitlab
from bitlab import nn as bnn

Quant = bitlab.BitQuantConfig
ops = torch.ops.bitlab


# --- the oracle


def encode(matrix: np.ndarray, quant: Quant, learned: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """t, and s for t > 0 and for t < 0, of a weight [N, K]: each of its shape."""
    w = matrix.astype(np.float64)
    rows, depth = w.shape
    group = {"tensor": None, "channel": depth, "group": quant.group_size}[quant.granularity]
    parts = [(slice(None), slice(None))] if group is None else [
        (slice(n, n + 1), slice(k, min(k + group, depth))) for n in range(rows) for k in range(0, depth, group)
    ]  # fmt: skip
    kept = np.ones_like(w, dtype=bool)
    if quant.sparsity != "dense":
        n_kept, of = (int(number) for number in quant.sparsity.split(":"))
        for row in range(rows):
            for k in range(0, depth, of):
                block = np.abs(w[row, k : k + of])
                kept[row, k : k + of] = np.isin(np.arange(len(block)), np.argsort(-block, kind="stable")[:n_kept])
    t, up, down = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    for i, part in enumerate(parts):
        values, size, row = w[part], np.abs(w[part]), i if quant.granularity == "channel" else 0
        own = {name: float(tensor.reshape(-1)[row if tensor.size > 1 else 0]) for name, tensor in learned.items()}
        c = quant.threshold or {"ttq": 0.05, "fixed": 0.05}.get(quant.method, 0.7)
        best = {"absmean": size.mean(), "absmedian": np.sort(size, axis=None)[(size.size - 1) // 2]}
        if quant.method in ("absmean", "absmedian", "lsq"):
            scale = max(best[quant.method] if quant.method in best else abs(own["weight_scale"]), 1e-5)
            threshold = scale / 2
        else:
            threshold = {
                "ttq": c * size.max(),
                "fixed": c,
                "tga": abs(own.get("weight_threshold", 0.0)),
            }.get(quant.method, c * size.mean())
        code = np.where(size > threshold, np.sign(values), 0.0) * kept[part]
        if quant.method == "ttq":
            scales = own["weight_scale"], own["weight_scale_neg"]
        elif quant.method == "twn_asymmetric":
            scales = tuple(size[code == sign].mean() if (code == sign).any() else 0.0 for sign in (1, -1))
        elif quant.method in ("absmean", "absmedian", "lsq"):
            scales = scale, scale
        else:
            scales = (size[code != 0].mean() if (code != 0).any() else 0.0,) * 2
        if quant.granularity == "group":
            scales = tuple(float(np.float16(s)) for s in scales)
        t[part], up[part], down[part] = code, *scales
    return t, up, down


def weight_value(layer: Any) -> torch.Tensor:
    """w' = t s in float64, in the weight's shape."""
    w = layer.weight.detach()
    learned = {name: p.detach().numpy() for name, p in layer.named_parameters() if name.startswith("weight_")}
    if w.dim() <= 2:
        matrix = w.reshape(1, -1) if w.dim() == 1 or isinstance(layer, nn.LayerNorm | nn.RMSNorm) else w
        t, up, down = encode(matrix.numpy(), layer.quant, learned)
        return torch.from_numpy(np.where(t > 0, t * up, t * down)).view(w.shape)
    grouped = w
    if layer.transposed:  # [C, N / groups, kernel...] to [N, C / groups, kernel...]
        grouped = w.view(layer.groups, -1, *w.shape[1:]).transpose(1, 2).flatten(0, 1)
    last = grouped.movedim(1, -1)
    t, up, down = encode(last.reshape(last.shape[0], -1).numpy(), layer.quant, learned)
    value = torch.from_numpy(np.where(t > 0, t * up, t * down)).view(last.shape).movedim(-1, 1)
    if layer.transposed:
        value = value.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
    return value


def activated(x: torch.Tensor, kind: str, start: int, step: float | None) -> torch.Tensor:
    """x' = q a in float64."""
    if kind == "none":
        return x.double()
    limit = np.float32(7 if kind.startswith("int4") else 127)
    flat = x.numpy().reshape(*x.shape[: start % x.dim()], -1)
    if step is None:
        inv = limit / np.maximum(np.abs(flat).max(-1, keepdims=True), np.float32(1e-5))
    else:
        inv = np.full((*flat.shape[:-1], 1), np.float32(1) / np.float32(step))
    q = np.clip(np.rint(flat * inv.astype(np.float32)), -limit, limit)
    return torch.from_numpy((q.astype(np.float64) / inv).reshape(x.shape))


def twin_of(layer: Any) -> Any:
    """The layer of torch.nn in float64 whose weight is what the layer computes with."""
    twin = copy.deepcopy(layer).double()
    twin.__class__ = type(layer)._twin
    twin._parameters["weight"] = nn.Parameter(weight_value(layer))
    return twin


def expected(layer: Any, x: torch.Tensor, *rest: Any) -> torch.Tensor:
    twin = twin_of(layer)
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        return twin(x, *(r.double() if r.is_floating_point() else r for r in rest))
    if not layer._is_product:
        return twin(x.double())
    step = layer.act_scale.item() if hasattr(layer, "act_scale") else None
    if isinstance(layer, nn.Linear):
        return twin(activated(x, layer.quant.activation, -1, step))
    if layer._around:  # activations are quantized with what lies around them
        x = F.pad(x, layer._around, layer._around_mode)
        twin.padding, twin.padding_mode = tuple(layer._both), "zeros"
    is_sample = x.dim() == layer.weight.dim() - 1
    return twin(activated(x, layer.quant.activation, 0 if is_sample else 1, step))


# --- the cases


@dataclass
class Case:
    name: str
    make: Callable[..., Any]  # of torch's class or ours, with its arguments
    input: tuple[int, ...] = ()
    indices: int = 0  # of a table; 0: numbers
    rest: list[torch.Tensor] = field(default_factory=list)

    def inputs(self) -> torch.Tensor:
        return torch.randint(0, self.indices, self.input) if self.indices else torch.randn(self.input)

    def ours(self, quant: Quant | None = None, **options: Any) -> Any:
        return self.make(getattr(bnn, f"Bit{self.name}"), quant=quant, **options)

    def twin(self, **options: Any) -> Any:
        return self.make(getattr(nn, self.name), **options)


def case(name: str, *arguments: Any, input: tuple[int, ...], indices: int = 0, rest: Any = (), **options: Any) -> Case:
    return Case(name, lambda cls, **more: cls(*arguments, **options, **more), input, indices, list(rest))


PRODUCTS = [
    case("Linear", 70, 9, input=(5, 3, 70)),
    case("Linear", 70, 9, bias=False, input=(70,)),
    case("Conv1d", 6, 9, 5, stride=2, padding=2, dilation=2, groups=3, input=(2, 6, 23)),
    case("Conv1d", 6, 3, 3, padding=2, padding_mode="circular", input=(2, 6, 9)),
    case("Conv1d", 6, 3, 4, padding="same", input=(2, 6, 9)),
    case("Conv2d", 6, 9, (3, 2), stride=2, padding=(1, 0), groups=3, bias=False, input=(3, 6, 9, 7)),
    case("Conv2d", 6, 9, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2), input=(4, 6, 12, 17)),
    case("Conv2d", 6, 3, 3, padding=(1, 2), padding_mode="reflect", input=(6, 6, 7)),
    case("Conv2d", 6, 3, (4, 3), padding="same", dilation=(1, 2), input=(2, 6, 6, 7)),
    case("Conv2d", 6, 3, 3, padding="same", padding_mode="replicate", input=(2, 6, 6, 7)),
    case("Conv2d", 6, 3, 3, padding="valid", input=(2, 6, 6, 7)),
    case("Conv3d", 6, 9, (1, 3, 2), stride=2, padding=1, groups=3, input=(2, 6, 3, 5, 6)),
    case("Conv3d", 6, 3, 3, padding=1, padding_mode="replicate", input=(2, 6, 4, 3, 3)),
    case("ConvTranspose1d", 6, 9, 4, stride=2, padding=1, output_padding=1, groups=3, input=(2, 6, 7)),
    case("ConvTranspose2d", 6, 9, (3, 4), stride=2, output_padding=1, groups=3, input=(1, 6, 5, 6)),
    case("ConvTranspose2d", 6, 9, 3, dilation=2, bias=False, input=(6, 4, 5)),
    case("ConvTranspose3d", 6, 9, 2, stride=2, groups=3, input=(2, 6, 2, 3, 4)),
]
VALUES = [
    case("Embedding", 9, 70, input=(4, 5), indices=9),
    case("Embedding", 9, 70, padding_idx=-1, scale_grad_by_freq=True, input=(6,), indices=9),
    case("EmbeddingBag", 9, 16, input=(8, 2), indices=9),
    case("EmbeddingBag", 9, 16, mode="sum", padding_idx=3, input=(8, 2), indices=9),
    case("EmbeddingBag", 9, 16, mode="max", input=(8, 2), indices=9),
    case(
        "EmbeddingBag",
        9,
        16,
        mode="sum",
        include_last_offset=True,
        input=(7,),
        indices=9,
        rest=[torch.tensor([0, 2, 2, 7]), torch.tensor([0.5, -1.0, 2.0, 0.25, 1.0, 3.0, -0.5])],
    ),  # fmt: skip
    case("LayerNorm", (5, 7), input=(2, 4, 5, 7)),
    case("LayerNorm", 11, bias=False, input=(3, 11)),
    case("RMSNorm", 37, eps=1e-6, input=(3, 4, 37)),
    case("GroupNorm", 3, 33, input=(3, 33, 4)),
]
PLAIN = [
    case("LayerNorm", 11, elementwise_affine=False, input=(3, 11)),
    case("Embedding", 9, 6, max_norm=1.0, input=(4,), indices=9),
]
BATCH_NORMS = [
    case("BatchNorm1d", 5, input=(7, 5)),
    case("BatchNorm1d", 5, momentum=None, input=(3, 5, 4)),
    case("BatchNorm2d", 3, eps=1e-3, affine=False, input=(4, 3, 5, 2)),
    case("BatchNorm3d", 3, track_running_stats=False, input=(2, 3, 2, 3, 4)),
]


def ids(cases: list[Case]) -> list[str]:
    return [f"{c.name}-{i}" for i, c in enumerate(cases)]


def each(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=ids(cases))


METHODS = ["absmean", "absmedian", "twn", "twn_asymmetric", "ttq", "lsq", "tga", "fixed"]
CONFIGS = [Quant(method=method, granularity="tensor" if i % 2 else "channel") for i, method in enumerate(METHODS)]
CONFIGS += [
    Quant(method="absmean", granularity="tensor", gradient="clipped", activation="int4"),
    Quant(method="twn", granularity="channel", gradient="tanh", sparsity="2:4"),
    Quant(method="lsq", granularity="channel", activation="int8_static"),
    Quant(method="absmean", granularity="tensor", activation="int4_static", sparsity="1:4"),
    Quant(method="ttq", granularity="channel", threshold=0.1),
    Quant(method="fixed", granularity="tensor", threshold=0.02),
    Quant(method="absmean", granularity="channel", activation="none"),
]


def config_id(quant: Quant) -> str:
    return bitlab.nn.layer._torch.describe(quant).replace("/", "-")


def randomize(layer: nn.Module) -> nn.Module:
    """Weights and biases that are not ones and zeros, as if trained; what is learned begins from them."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name in ("weight", "bias") and not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
                parameter.normal_()
    if isinstance(layer, bnn.TernaryLayer):
        layer.initialize_scales()
    return layer


@pytest.fixture(autouse=True)
def one_thread(seeded: None) -> None:
    torch.set_num_threads(1)  # for small shapes


def gradients(y: torch.Tensor, *of: torch.Tensor) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(7)
    g = torch.randn(y.shape, generator=generator, dtype=torch.float32).to(y.dtype)
    return torch.autograd.grad(y, of, g)


# --- beside torch.nn


@each(PRODUCTS + VALUES + PLAIN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_quantization_it_is_its_twin(case: Case, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    ours = case.ours(Quant.none(), dtype=dtype)
    torch.manual_seed(1)
    twin = case.twin(dtype=dtype)
    assert ours.state_dict().keys() == twin.state_dict().keys()
    for name, tensor in twin.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), "the same seed makes the same layer"
    x, rest = case.inputs(), [r.to(dtype) if r.is_floating_point() else r for r in case.rest]
    if not case.indices:
        x = x.to(dtype).requires_grad_()
    for training in (True, False):
        y, z = ours.train(training)(x, *rest), twin.train(training)(x, *rest)
        assert torch.equal(y, z)
    wanted = [x] if x.requires_grad else []
    for a, b in zip(gradients(y, *wanted, *ours.parameters()), gradients(z, *wanted, *twin.parameters()), strict=True):
        assert torch.equal(a, b)


@each(BATCH_NORMS)
def test_batch_norms(case: Case) -> None:
    ours, twin = case.make(getattr(bnn, f"Bit{case.name}")), case.twin()
    twin.load_state_dict(randomize(ours).state_dict())
    for _ in range(2):
        x = case.inputs() * 3 + 1
        assert torch.equal(ours(x), twin(x))
    for name, tensor in twin.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor)
    y, z = ours.eval()(x), twin.eval()(x)
    assert torch.allclose(y, z, rtol=1e-5, atol=1e-5)
    if ours.running_mean is None:
        assert torch.equal(y, z)
        return
    mean, variance = ours.running_mean.double(), ours.running_var.double()
    alpha = 1 / torch.sqrt(variance + ours.eps)
    alpha = alpha * ours.weight.double() if ours.affine else alpha
    beta = (ours.bias.double() if ours.affine else 0) - mean * alpha
    shape = [1, -1] + [1] * (x.dim() - 2)
    assert torch.equal(y, x * alpha.float().view(shape) + beta.float().view(shape)), "two roundings, from float64"


def test_attention_is_its_twin() -> None:
    for options in ({}, {"kdim": 10, "vdim": 14}, {"bias": False}):
        twin = nn.MultiheadAttention(12, 3, batch_first=True, **options)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.normal_(std=0.4)
        ours = bnn.BitMultiheadAttention.from_float(twin, Quant.none())
        assert ours.out_proj.weight is twin.out_proj.weight
        query, key = torch.randn(2, 7, 12), torch.randn(2, 5, options.get("kdim", 12))
        value = torch.randn(2, 5, options.get("vdim", 12))
        blocked = torch.rand(7, 5) < 0.3
        blocked[:, 0] = False
        assert torch.allclose(ours(query, key, value), twin(query, key, value, need_weights=False)[0], atol=1e-5)
        y, z = ours(query, key, value, ~blocked), twin(query, key, value, attn_mask=blocked, need_weights=False)[0]
        assert torch.allclose(y, z, atol=1e-5), "True means the opposite"


def test_feed_forward_is_its_formula() -> None:
    formulas: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
        "gelu": lambda up, _: up * (1 + torch.erf(up / math.sqrt(2))) / 2,
        "gelu_tanh": lambda up, _: F.gelu(up, approximate="tanh"),
        "relu": lambda up, _: up.clamp_min(0),
        "squared_relu": lambda up, _: up.clamp_min(0) ** 2,
        "silu": lambda up, _: up / (1 + torch.exp(-up)),
        "swiglu": lambda up, gate: gate / (1 + torch.exp(-gate)) * up,
        "squared_relu_glu": lambda up, gate: gate.clamp_min(0) ** 2 * up,
    }
    x = torch.randn(3, 5, 10, dtype=torch.float64)
    for activation, formula in formulas.items():
        for sub_norm in (None, "layer", "rms"):
            layer = bnn.BitFeedForward(
                10, 7, activation=activation, sub_norm=sub_norm, quant=Quant.none(), dtype=torch.float64
            )
            assert (layer.gate_proj is not None) == activation.endswith("glu")
            hidden = formula(layer.up_proj(x), x if layer.gate_proj is None else layer.gate_proj(x))
            if sub_norm == "layer":
                hidden = (hidden - hidden.mean(-1, keepdim=True)) / (
                    hidden.var(-1, unbiased=False, keepdim=True) + 1e-5
                ).sqrt()
            elif sub_norm == "rms":
                hidden = hidden / (hidden.square().mean(-1, keepdim=True) + 1e-5).sqrt()
            assert torch.allclose(layer(x), layer.down_proj(hidden), rtol=1e-10, atol=1e-12)
    assert bnn.BitFeedForward(10).hidden_dim == 40


def test_transformer_blocks_are_their_twins() -> None:
    names = {
        "linear1": "feed_forward.up_proj",
        "linear2": "feed_forward.down_proj",
        "norm1": "self_attn_norm",
        "multihead_attn": "cross_attn",
    }
    x, memory = torch.randn(2, 5, 12), torch.randn(2, 3, 12)
    for decoder in (False, True):
        for norm_first in (False, True):
            make = nn.TransformerDecoderLayer if decoder else nn.TransformerEncoderLayer
            twin = make(12, 3, 17, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first)
            for parameter in twin.parameters():
                nn.init.normal_(parameter, std=0.3)
            ours = bnn.BitTransformerBlock(
                12, 3, hidden_dim=17, norm_first=norm_first, cross_attention=decoder, quant=Quant.none()
            )
            more = names | (
                {"norm2": "cross_attn_norm", "norm3": "feed_forward_norm"} if decoder else {"norm2": "feed_forward_norm"}
            )
            state = {}
            for name, tensor in twin.state_dict().items():
                for theirs, own in more.items():
                    name = name.replace(theirs, own)
                if "in_proj_" in name:
                    for projection, part in zip("qkv", tensor.chunk(3), strict=True):
                        state[name.replace("in_proj_", f"{projection}_proj.")] = part
                else:
                    state[name] = tensor
            ours.load_state_dict(state)
            y, z = (ours(x, memory), twin(x, memory)) if decoder else (ours(x), twin(x))
            assert torch.allclose(y, z, atol=1e-5)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return scores.masked_fill(~allowed, -math.inf).softmax(-1) @ value


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attention_with_all_that_it_has_is_its_formula(kv_heads: int) -> None:
    layer = bnn.BitMultiheadAttention(
        32, 4, num_kv_heads=kv_heads, causal=True, rope_theta=100.0, sub_norm="rms", quant=Quant.none(), dtype=torch.float64
    )
    x, mask = torch.randn(2, 6, 32, dtype=torch.float64), torch.rand(2, 1, 6, 6) < 0.7
    mask[..., 0] = True

    def heads(projected: torch.Tensor) -> torch.Tensor:
        return projected.view(2, 6, -1, 8).transpose(1, 2)

    def turned(x: torch.Tensor) -> torch.Tensor:
        angles = torch.arange(6, dtype=torch.float64)[:, None] * 100.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
        pairs = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([pairs.real, pairs.imag], -1)

    q, k, v = turned(heads(layer.q_proj(x))), turned(heads(layer.k_proj(x))), heads(layer.v_proj(x))
    k, v = (part.repeat_interleave(4 // kv_heads, 1) for part in (k, v))
    y = attention(q, k, v, mask & torch.ones(6, 6, dtype=torch.bool).tril()).transpose(1, 2).flatten(2)
    y = layer.out_proj(y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt())
    assert torch.allclose(layer(x, attn_mask=mask), y, rtol=1e-6, atol=1e-6), "the table of angles is float32"
    added = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -math.inf)
    assert torch.allclose(layer(x, attn_mask=added), y, rtol=1e-6, atol=1e-6)


def test_generation_in_steps_is_the_whole_sequence() -> None:
    block = bnn.BitTransformerBlock(
        32,
        4,
        num_kv_heads=2,
        causal=True,
        rope_theta=1e4,
        norm="rms",
        norm_first=True,
        activation="swiglu",
        sub_norm=True,
        bias=False,
    )
    x = torch.randn(2, 90, 32)
    with torch.no_grad():
        whole, state = block.eval()(x), bnn.KvState()
        begin = 0
        for count in (1, 5, 60, 24):
            y = block(x[:, begin : begin + count], state=state)
            assert torch.allclose(y, whole[:, begin : begin + count], atol=1e-5)
            begin += count
        assert state.position == 90 and state.key is not None and state.key.shape == (2, 2, 90, 8)
        state.truncate(7)
        assert torch.allclose(block(x[:, 7:9], state=state), whole[:, 7:9], atol=1e-5)
        with pytest.raises(bitlab.ShapeMismatch, match=r"keys \[2, 2, tokens, 8\]"):
            block(x[:1], state=state)
        with pytest.raises(bitlab.InvalidArgument, match=r"\[0, 9\], got 10"):
            state.truncate(10)
        state.clear()
        assert state.position == 0 and state.key is None and state.value is None


# --- beside the formulas


@each(PRODUCTS + VALUES)
@pytest.mark.parametrize("quant", CONFIGS, ids=config_id)
def test_it_is_its_formula(case: Case, quant: Quant) -> None:
    layer = randomize(case.ours(quant))
    x = case.inputs()
    if not case.indices:
        x.requires_grad_()
    trained = layer(x, *case.rest)
    trained.square().sum().backward()
    for name, tensor in [*layer.named_parameters(), *([] if case.indices else [("x", x)])]:
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.count_nonzero() > 0, name
    x = x.detach()
    with torch.no_grad():
        evaluated = layer.eval()(x, *case.rest)
    # Where the operands are integers, both have the same bits; elsewhere a sum has another order.
    exact = layer._is_product and quant.activation != "none"
    if exact or isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        assert torch.equal(trained, evaluated)
    wanted = expected(layer, x, *case.rest)
    assert trained.dtype == torch.float32 and trained.shape == wanted.shape
    for y in (trained, evaluated):
        assert torch.allclose(y.double(), wanted, rtol=2e-5, atol=2e-5), (y.double() - wanted).abs().max()


@pytest.mark.parametrize("method", METHODS)
def test_scales_of_groups(method: str) -> None:
    quant = Quant(method=method, granularity="group", group_size=64)
    if method in ("twn_asymmetric", "ttq", "lsq", "tga"):
        with pytest.raises(bitlab.Unsupported, match="tensor or channel scales"):
            bnn.BitLinear(130, 3, quant=quant)
        return
    for layer, x in (
        (bnn.BitLinear(130, 5, quant=quant), torch.randn(3, 130)),
        (bnn.BitConv2d(64, 5, 3, padding=1, quant=quant), torch.randn(2, 64, 5, 4)),
        (bnn.BitEmbedding(7, 130, quant=quant), torch.randint(0, 7, (9,))),
    ):
        wanted = expected(layer, x)
        with torch.no_grad():
            for y in (layer(x), layer.eval()(x)):
                assert torch.allclose(y.double(), wanted, rtol=1e-4, atol=1e-4)


def test_a_layer_in_int8() -> None:
    layer, x = bnn.BitLinear(33, 5, quant=Quant.int8()), torch.randn(4, 33)
    scale = (layer.weight.abs().amax(1, keepdim=True) / 127).double()
    w = torch.round(layer.weight.double() / scale).clamp(-127, 127) * scale
    wanted = F.linear(activated(x, "int8", -1, None), w, layer.bias.double())
    trained = layer(x)
    with torch.no_grad():
        assert torch.equal(layer.eval()(x), trained)
    assert torch.allclose(trained.double(), wanted, rtol=1e-5, atol=1e-5)


@each(PRODUCTS[:3] + PRODUCTS[5:6] + PRODUCTS[13:14])
def test_the_straight_through_gradients_are_those_of_the_quantized_operands(case: Case) -> None:
    layer, x = case.ours(Quant(granularity="channel")), case.inputs().requires_grad_()
    y = layer(x)
    found = gradients(y, x, *layer.parameters())
    twin = twin_of(layer)
    is_sample = x.dim() == layer.weight.dim() - 1
    start = -1 if isinstance(layer, nn.Linear) else 0 if is_sample else 1
    z = activated(x.detach(), "int8", start, None).requires_grad_()
    wanted = gradients(twin(z), z, *twin.parameters())
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a.double(), b, rtol=1e-4, atol=1e-4), (a.double() - b).abs().max()


@pytest.mark.parametrize("name", ["BitMultiheadAttention", "BitFeedForward", "BitTransformerBlock"])
@pytest.mark.parametrize("quant", [*CONFIGS, Quant(rounding="stochastic")], ids=config_id)
def test_composite_layers_train_and_evaluate(name: str, quant: Quant) -> None:
    make: dict[str, Callable[[], nn.Module]] = {
        "BitMultiheadAttention": lambda: bnn.BitMultiheadAttention(16, 4, quant=quant),
        "BitFeedForward": lambda: bnn.BitFeedForward(16, sub_norm="layer", quant=quant),
        "BitTransformerBlock": lambda: bnn.BitTransformerBlock(16, 4, ternary_norms=True, quant=quant),
    }
    layer, x = make[name](), torch.randn(2, 5, 16)
    trained = layer(x)
    trained.square().sum().backward()
    for key, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    if quant.rounding == "nearest":
        with torch.no_grad():
            assert torch.allclose(layer.eval()(x), trained, rtol=1e-3, atol=1e-4)
    kinds = {type(part).__name__ for part in layer.modules() if isinstance(part, bnn.TernaryLayer) and part.quant.enabled}
    assert kinds == ({"BitLinear", "BitLayerNorm"} if name == "BitTransformerBlock" else {"BitLinear"})


# --- the state


def names_of(quant: Quant, is_product: bool = True) -> dict[str, tuple[tuple[int, ...], torch.dtype, bool]]:
    """Shape, dtype and whether it is a parameter: quantizer.h. Of BitLinear(6, 5)."""
    scales = (1,) if quant.granularity == "tensor" else (5,)
    learned = {"ttq": ["scale", "scale_neg"], "lsq": ["scale"], "tga": ["threshold"]}.get(quant.method, [])
    names = {f"weight_{name}": (scales, torch.float32, True) for name in learned}
    if is_product and quant.activation.endswith("static"):
        names["act_scale"] = ((1,), torch.float32, True)
    names["blend"] = ((), torch.float64, False)
    if quant.rounding == "stochastic":
        names["draw"] = ((), torch.int64, False)
    if is_product and quant.smoothing != 0:
        names["input_scale"] = ((6,), torch.float32, False)
    return names


STATES = [*CONFIGS, Quant(rounding="stochastic"), Quant(smoothing=0.5, activation="int8_static")]


@pytest.mark.parametrize("quant", STATES, ids=config_id)
def test_the_state_has_the_names_of_cpp_and_goes_round(quant: Quant) -> None:
    layer, x = bnn.BitLinear(6, 5, quant=quant), torch.randn(3, 6)
    found = {
        name: (tuple(tensor.shape), tensor.dtype, name in layer._parameters)
        for name, tensor in layer.state_dict().items()
        if name not in ("weight", "bias")
    }
    assert found == names_of(quant)
    layer.set_blend(0.625)
    layer(x).sum().backward()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.01)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other = bnn.BitLinear(6, 5, quant=quant)
    for assign in (False, True):
        other.load_state_dict(torch.load(buffer, weights_only=True), assign=assign)
        buffer.seek(0)
        assert other.blend == 0.625
        assert torch.equal(copy.deepcopy(other)(x), copy.deepcopy(layer)(x)), "in training: with that blend, draw and step"
        with torch.no_grad():
            assert torch.equal(other.eval()(x), layer.eval()(x))
        other.train(), layer.train()


def test_convolutions_and_tables_have_state_of_their_shape() -> None:
    quant = Quant(method="lsq", granularity="channel", smoothing=0.5, activation="int8_static")
    shapes = {name: tuple(t.shape) for name, t in bnn.BitConv2d(4, 6, 3, groups=2, quant=quant).state_dict().items()}
    assert shapes["input_scale"] == (4, 1, 1) and shapes["weight_scale"] == (6,)
    shapes = {
        name: tuple(t.shape) for name, t in bnn.BitConvTranspose1d(4, 6, 3, groups=2, quant=quant).state_dict().items()
    }
    assert shapes["input_scale"] == (4, 1) and shapes["weight_scale"] == (6,)
    assert set(bnn.BitEmbedding(4, 6, quant=quant).state_dict()) == {"weight", "weight_scale", "blend"}
    assert bnn.BitLayerNorm((2, 3), quant=quant).weight_scale.shape == (1,)
    assert not bnn.BitLayerNorm(3, elementwise_affine=False, quant=quant).state_dict()


def test_files_of_float_networks_load() -> None:
    state = nn.Linear(6, 5).state_dict()
    layer = bnn.BitLinear(6, 5, quant=Quant(method="lsq", activation="int8_static"))
    layer.load_state_dict(state)
    assert torch.allclose(layer.weight_scale, 2 * state["weight"].abs().mean()), "begins from the weight that was loaded"
    with pytest.raises(RuntimeError, match="Missing key.*weight"):
        layer.load_state_dict({"bias": state["bias"]})
    with pytest.raises(RuntimeError, match="Unexpected key.*weight_scale"):
        bnn.BitLinear(6, 5).load_state_dict(layer.state_dict())


@each(PRODUCTS[:1] + PRODUCTS[6:7] + PRODUCTS[14:15] + VALUES[:1] + VALUES[2:3] + VALUES[6:7] + VALUES[8:])
@pytest.mark.parametrize("quant", [Quant(), CONFIGS[10], Quant(rounding="stochastic")], ids=config_id)
def test_copies_are_equal_and_independent(case: Case, quant: Quant) -> None:
    layer, x = randomize(case.ours(quant)), case.inputs()
    layer.set_blend(0.5)
    layer(x).sum().backward()
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(buffer, weights_only=False)]
    wanted = copy.deepcopy(layer)(x)
    for other in copies:
        assert torch.equal(other(x), wanted) and other.quant == layer.quant
        assert {name: t.dtype for name, t in other.state_dict().items()} == {
            name: t.dtype for name, t in layer.state_dict().items()
        }
    with torch.no_grad():
        wanted = layer.eval()(x)
        for other in copies:
            assert torch.equal(other.eval()(x), wanted)
            for parameter in other.parameters():
                parameter.neg_()
        assert torch.equal(layer(x), wanted)


# --- what changes in training


@each(PRODUCTS[:1] + PRODUCTS[6:7] + VALUES[:1] + VALUES[2:3] + VALUES[6:7])
def test_blend_goes_from_float_to_ternary_in_training(case: Case) -> None:
    layer, x = randomize(case.ours(Quant(granularity="channel"))), case.inputs()
    ternary = layer(x)
    twin = twin_of(layer)
    w, quantized = layer.weight.detach().double(), weight_value(layer)
    for share in (0.0, 0.25, 1.0):
        bnn.set_blend(nn.Sequential(layer), share)
        assert layer.blend == share
        twin.weight = nn.Parameter(w + share * (quantized - w))
        if case.indices:
            wanted = twin(x)
        else:
            y = x.double()
            if layer._is_product:
                y = y + share * (activated(x, "int8", -1 if isinstance(layer, nn.Linear) else 1, None) - y)
            wanted = twin(y)
        assert torch.allclose(layer(x).double(), wanted, rtol=1e-5, atol=2e-5)
        with torch.no_grad():
            assert torch.allclose(layer.eval()(x), ternary, rtol=1e-5, atol=1e-5), "in eval it is ternary"
        layer.train()


def test_blend_is_the_buffer() -> None:
    """Whoever writes it: a file, an average of networks, DistributedDataParallel."""
    layer, x = bnn.BitLinear(8, 4), torch.randn(2, 8)
    ternary = layer(x)
    layer.blend.fill_(0.0)
    assert torch.allclose(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-6)
    layer.blend.fill_(1.0)
    assert torch.equal(layer(x), ternary)
    bnn.BitLinear(8, 4, quant=Quant.none()).set_blend(0.5)  # nothing


@pytest.mark.parametrize("kind, limit", [("int8_static", 127), ("int4_static", 7)])
def test_a_static_step_begins_with_the_first_batch(kind: str, limit: int) -> None:
    layer, x = bnn.BitConv1d(3, 4, 3, quant=Quant(activation=kind)), torch.randn(2, 3, 9)
    with torch.no_grad(), pytest.raises(RuntimeError, match="act_scale 0"):
        layer.eval()(x)
    layer.train()(x)
    begun = layer.act_scale.item()
    assert begun == pytest.approx(2 * x.abs().mean().item() / math.sqrt(limit), rel=1e-6)
    layer(10 * x)
    assert layer.act_scale.item() == begun
    layer.reset_parameters()
    layer(10 * x)
    assert layer.act_scale.item() == pytest.approx(10 * begun, rel=1e-5)


def test_stochastic_rounding_draws_in_training() -> None:
    quant = Quant(granularity="channel", rounding="stochastic")
    layer, x = bnn.BitLinear(300, 8, quant=quant), torch.randn(4, 300)
    before, state = layer.draw.item(), copy.deepcopy(layer.state_dict())
    first, second = layer(x), layer(x)
    assert layer.draw.item() == before + 2 and not torch.equal(first, second)
    spec = f"absmean/channel/stochastic={before + 1}"
    assert torch.equal(first, ops.bit_linear(x, layer.weight, layer.bias, spec, "int8", []))
    layer.load_state_dict(state)
    assert torch.equal(layer(x), first), "a checkpoint gives the same bits again"
    with torch.no_grad():
        nearest = bnn.BitLinear.from_float(nn.Linear(300, 8), Quant(granularity="channel"))
        nearest.weight, nearest.bias = layer.weight, layer.bias
        assert torch.equal(layer.eval()(x), nearest.eval()(x)), "to the nearest in eval"
    torch.manual_seed(5)
    one = bnn.BitEmbedding(4, 8, quant=quant).draw
    torch.manual_seed(5)
    assert torch.equal(one, bnn.BitEmbedding(4, 8, quant=quant).draw), "from a seed"


def test_smoothed_layers_multiply_their_input() -> None:
    for layer, x in ((bnn.BitLinear(6, 5, quant=Quant(smoothing=0.5)), torch.randn(3, 6)),
                     (bnn.BitConv2d(6, 5, 3, padding=1, padding_mode="reflect", quant=Quant(smoothing=0.5)), torch.randn(2, 6, 4, 4))):  # fmt: skip
        layer.input_scale.copy_(torch.tensor([1.0, 2.0, 0.5, 4.0, 1.0, 0.25]).view(layer.input_scale.shape))
        scaled = x * layer.input_scale
        for training in (True, False):
            with torch.no_grad():
                y = layer.train(training)(x)
                wanted = layer._twin.forward  # the same layer without smoothing
                plain = type(layer).from_float(_float_of(layer), Quant()).train(training)
                assert wanted is not None and torch.equal(y, plain(scaled))


def _float_of(layer: Any) -> Any:
    """The layer of torch.nn with the same parameters."""
    twin = copy.copy(layer)
    twin.__class__ = type(layer)._twin
    twin._buffers = {}
    return twin


def test_evaluation_sees_changes_of_the_weight() -> None:
    """Packed codes are kept as long as a weight stays as it is."""
    layer, x = bnn.BitLinear(16, 4, quant=Quant(method="lsq")), torch.randn(3, 16)
    with torch.no_grad():
        first = layer.eval()(x)
        assert torch.equal(layer(x), first)
        layer.weight.neg_()
        assert torch.allclose(layer(x) - layer.bias, layer.bias - first, atol=1e-6)
        layer.weight_scale.mul_(0.5)
        assert torch.equal(layer(x), layer.train()(x))
        kept = layer.eval()(x)
        layer.weight.data.neg_()  # leaves no trace
        assert not torch.equal(layer.eval()(x), kept), "train() and eval() forget codes"
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    layer.train()(x).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        assert torch.equal(layer(x), layer.eval()(x))


def test_parametrized_weights() -> None:
    layer, x = bnn.BitLinear(16, 4), torch.randn(3, 16)
    plain = layer(x)
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", _Negative())
    assert torch.allclose(layer(x) - layer.bias, layer.bias - plain, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(layer.eval()(x), layer.train()(x))


class _Negative(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -x


# --- from layers of torch.nn


@each(PRODUCTS + VALUES)
def test_from_float_takes_the_parameters_over(case: Case) -> None:
    source = randomize(case.twin()).eval()
    next(iter(source.parameters())).requires_grad_(False)
    layer = getattr(bnn, f"Bit{case.name}").from_float(source, Quant(method="lsq", granularity="channel"))
    assert not layer.training
    for name, parameter in source.named_parameters():
        assert layer.get_parameter(name) is parameter
    assert not next(iter(layer.parameters())).requires_grad
    x = case.inputs()
    with torch.no_grad():
        assert torch.allclose(layer(x, *case.rest).double(), expected(layer, x, *case.rest), rtol=2e-5, atol=2e-5)
    assert case.ours(Quant()).extra_repr().replace("absmean/tensor/int8", "") == layer.extra_repr().replace(
        "lsq/channel/int8", ""
    )
    again = getattr(bnn, f"Bit{case.name}").from_float(case.ours(Quant.none()), Quant())
    assert again.quant == Quant(), "a layer of ours that is float is one, too"


def test_the_table_of_conversion() -> None:
    assert {(a.__name__, b.__name__) for a, b in bnn.LAYERS.items()} == {
        (c.name, f"Bit{c.name}") for c in PRODUCTS + VALUES if "Norm" not in c.name
    } | {("LSTM", "BitLSTM"), ("GRU", "BitGRU")}
    for source, layer in bnn.LAYERS.items():
        assert issubclass(layer, source) and issubclass(layer, bnn.TernaryLayer)


def test_attention_from_float_in_ternary() -> None:
    twin = nn.MultiheadAttention(16, 4, batch_first=True, dropout=0.25).eval()
    layer = bnn.BitMultiheadAttention.from_float(twin, Quant(method="lsq"))
    assert layer.dropout == 0.25 and not layer.training and layer.quant.method == "lsq"
    assert torch.equal(layer.k_proj.weight, twin.in_proj_weight[16:32]) and layer.out_proj.bias is twin.out_proj.bias
    assert torch.allclose(layer.v_proj.weight_scale, 2 * twin.in_proj_weight[32:].abs().mean())
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in layer.parameters())


def test_devices_and_dtypes_as_in_torch() -> None:
    quant = Quant(method="lsq", activation="int8_static", rounding="stochastic", smoothing=0.5)
    layer = bnn.BitLinear(6, 5, device="meta", quant=quant)
    assert all(tensor.is_meta for tensor in layer.state_dict().values())
    layer.to_empty(device="cpu")
    for tensor in layer.state_dict().values():
        tensor.zero_()
    layer.reset_parameters()
    assert layer.blend == 1 and layer.draw > 0 and (layer.input_scale == 1).all() and layer.weight_scale > 0
    assert layer(torch.randn(2, 6)).isfinite().all()
    assert bnn.BitTransformerBlock(8, 2, device="meta", quant=quant).feed_forward.up_proj.weight.is_meta
    assert bnn.BitRMSNorm(4, dtype=torch.float64, quant=Quant.none()).weight.dtype == torch.float64


def test_it_says_what_it_is() -> None:
    assert repr(bnn.BitLinear(6, 5)) == "BitLinear(in_features=6, out_features=5, bias=True, quant=absmean/tensor/int8)"
    assert "padding=(1, 1), quant=twn/channel/int4)" in repr(
        bnn.BitConv2d(3, 4, 3, padding=1, quant=Quant(method="twn", granularity="channel", activation="int4"))
    )
    assert "quant=none" in repr(bnn.BitEmbedding(3, 4, quant=Quant.none()))
    for layer in (bnn.BitMultiheadAttention(8, 2), bnn.BitFeedForward(8), bnn.BitTransformerBlock(8, 2)):
        assert repr(layer).startswith(type(layer).__name__) and "quant=absmean/tensor/int8" in layer.extra_repr()


# --- errors

X = torch.randn(2, 6)
REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: bnn.BitConv2d(6, 4, 3, groups=4), bitlab.InvalidArgument, r"channels in 4 groups, got 6 to 4"),
    (lambda: bnn.BitConv2d(6, 4, 3, stride=2, padding="same"), bitlab.InvalidArgument, r"stride of 1 .* got \[2\]"),
    (lambda: bnn.BitConvTranspose1d(6, 4, 3, padding_mode="reflect"), bitlab.InvalidArgument, "padding_mode reflect"),
    (lambda: bnn.BitConvTranspose1d(6, 4, 3, padding="same"), bitlab.InvalidArgument, "as numbers"),  # type: ignore[arg-type]
    (lambda: bnn.BitEmbedding(6, 4, padding_idx=6), bitlab.InvalidArgument, r"\[-6, 6\), got 6"),
    (lambda: bnn.BitEmbedding(6, 4, max_norm=1.0), bitlab.Unsupported, "embedding without max_norm, got max_norm 1.0"),
    (
        lambda: bnn.BitEmbeddingBag(6, 4, sparse=True),
        bitlab.Unsupported,
        "embedding_bag with dense gradients, got sparse true",
    ),
    (lambda: bnn.BitGroupNorm(4, 6), bitlab.InvalidArgument, "channels in 4 groups, got 6"),
    (
        lambda: bnn.BitBatchNorm2d(6)(torch.randn(2, 5, 3, 3)),
        bitlab.ShapeMismatch,
        r"rank 4 with 6 channels, got \[2, 5, 3, 3\]",
    ),
    (lambda: bnn.BitBatchNorm1d(6).eval()(torch.randn(6)), bitlab.ShapeMismatch, r"rank 3 or 2 with 6"),
    (lambda: bnn.BitEmbeddingBag(6, 4)(torch.tensor([1, 2])), bitlab.ShapeMismatch, "rank 1 without offsets"),
    (
        lambda: bnn.BitEmbeddingBag(6, 4)(torch.tensor([[1]]), None, torch.ones(2)),
        bitlab.ShapeMismatch,
        r"\[1, 1\], got \[2\]",
    ),
    (lambda: bnn.BitMultiheadAttention(6, 4), bitlab.InvalidArgument, "embed_dim in 4 heads, got 6"),
    (lambda: bnn.BitMultiheadAttention(8, 4, num_kv_heads=3), bitlab.InvalidArgument, "divides 4 heads, got 3"),
    (lambda: bnn.BitMultiheadAttention(6, 2, rope_theta=1e4), bitlab.InvalidArgument, "even size of a head .* got 3"),
    (lambda: bnn.BitMultiheadAttention(6, 2)(X), bitlab.ShapeMismatch, r"query of shape \[-1, -1, 6\] .* got \[2, 6\]"),
    (
        lambda: bnn.BitMultiheadAttention(6, 2)(torch.randn(1, 3, 6), attn_mask=torch.ones(3, 2, dtype=torch.bool)),
        bitlab.ShapeMismatch,
        r"broadcasts to \[1, 2, 3, 3\], got \[3, 2\]",
    ),
    (
        lambda: bnn.BitMultiheadAttention(6, 2)(torch.randn(1, 3, 6), attn_mask=torch.ones(3, 3, dtype=torch.float64)),
        bitlab.TypeMismatch,
        "bool or float32, got float64",
    ),
    (
        lambda: bnn.BitMultiheadAttention(6, 2)(X[None], X[None], state=bnn.KvState()),
        bitlab.InvalidArgument,
        "a state, or keys",
    ),
    (lambda: bnn.BitFeedForward(0), bitlab.InvalidArgument, "dim of 1 or more"),
    (lambda: bnn.BitFeedForward(4, activation="tanh"), bitlab.UnknownName, "squared_relu_glu, got tanh"),
    (lambda: bnn.BitFeedForward(4, sub_norm="batch"), bitlab.UnknownName, "layer or rms, got batch"),
    (lambda: bnn.BitTransformerBlock(4, 2)(X[None, :, :4], X[None, :, :4]), bitlab.InvalidArgument, "no memory .* got one"),
    (
        lambda: bnn.BitTransformerBlock(4, 2, cross_attention=True)(X[None, :, :4]),
        bitlab.InvalidArgument,
        "a memory .* got none",
    ),
    (
        lambda: bnn.BitLinear(6, 5, quant=Quant(method="int8", activation="none")),
        bitlab.Unsupported,
        "int8 or int4 activations",
    ),
    (lambda: bnn.BitLinear(6, 5, quant=Quant(smoothing=2.0)), bitlab.InvalidArgument, "for 'smoothing', got 2.0"),
    (lambda: bnn.BitLinear.from_float(nn.Linear(6, 5).double()), bitlab.TypeMismatch, "float32 weights, got float64"),
    (lambda: bnn.BitLinear.from_float(nn.Conv1d(6, 5, 1)), bitlab.Unsupported, "a Linear of torch.nn, got Conv1d"),
    (lambda: bnn.BitLinear.from_float(bnn.BitLinear(6, 5)), bitlab.Unsupported, "a Linear of torch.nn, got BitLinear"),
    (lambda: bnn.BitLinear.from_float(nn.LazyLinear(5)), bitlab.Unsupported, "made later"),
    (
        lambda: bnn.BitLinear.from_float(nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))),
        bitlab.Unsupported,
        "one that is computed",
    ),
    (lambda: bnn.BitEmbedding.from_float(nn.Embedding(6, 5, sparse=True)), bitlab.Unsupported, "dense gradients"),
    (
        lambda: bnn.BitMultiheadAttention.from_float(nn.MultiheadAttention(6, 2)),
        bitlab.Unsupported,
        "batch_first=True, got False",
    ),
    (
        lambda: bnn.BitMultiheadAttention.from_float(nn.MultiheadAttention(6, 2, batch_first=True, add_zero_attn=True)),
        bitlab.Unsupported,
        "add_zero_attn",
    ),
    # What crosses PyTorch's dispatcher is the RuntimeError that every bitlab.Error is, with the same message.
    (
        lambda: bnn.BitLinear(6, 5)(torch.randn(2, 7)),
        RuntimeError,
        r"\[bit_linear\] x \[..., K\].* got \[2, 7\] and \[5, 6\]",
    ),
    (lambda: bnn.BitLinear(6, 5)(X.double()), RuntimeError, "float32, got Double"),
    (lambda: bnn.BitConv1d(6, 5, 3)(torch.randn(2, 4, 9)), RuntimeError, "x of 6 channels, got"),
    (lambda: bnn.BitLinear(6, 5)(X * math.nan), RuntimeError, "finite"),
    (lambda: bnn.BitEmbedding(6, 5).eval()(torch.tensor([6])), (RuntimeError, IndexError), "6|range"),  # type: ignore[list-item]
]


@pytest.mark.parametrize("call, error, text", REFUSED)
def test_it_says_what_it_expected(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


def test_a_picture_may_be_viewed_as_a_vector_behind_a_convolution() -> None:
    layer, pool = bnn.BitConv2d(3, 8, 3, padding=1), nn.MaxPool2d(2)
    x = torch.randn(4, 3, 8, 8)
    for training in (True, False):
        layer.train(training)
        with torch.set_grad_enabled(training):
            assert pool(layer(x)).view(x.size(0), -1).shape == (4, 128)
            last = layer(x.to(memory_format=torch.channels_last))
            assert last.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(last, layer(x))


def test_set_blend_takes_a_share() -> None:
    layer = bnn.BitLinear(6, 5)
    layer.set_blend(1.5)
    with pytest.raises(RuntimeError, match="a blend from 0 to 1, got 1.5"):
        layer(X)
