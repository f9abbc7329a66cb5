"""Attention with ternary projections, and the state of generation."""

from __future__ import annotations

import functools
from typing import Any

from bitlab import _core
from bitlab._core import BitQuantConfig
from bitlab._extension import _torch, torch
from bitlab.nn.linear import BitLinear
from bitlab.nn.norm import make_norm

_rotary = torch.ops.bitlab.rotary.default


@functools.lru_cache(maxsize=4)
def _kept_positions(first: int, count: int, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):  # whose tensors nothing can be kept with
        return torch.arange(first, first + count, device=device)


def _positions(first: int, count: int, x: torch.Tensor) -> torch.Tensor:
    """Those of a device are kept: the table of their angles, which the host makes, is kept with them."""
    if x.is_cuda and not torch.compiler.is_compiling():
        return _kept_positions(first, count, x.device)
    return torch.arange(first, first + count, device=x.device)


_FIRST_CAPACITY = 64  # tokens that a state has room for at first


class KvState:
    """Keys and values of the tokens so far, of one attention layer, keys after the rotary embedding. For generation: what is appended is copied into
    memory with room for more, and no gradient goes through it."""

    def __init__(self) -> None:
        self._keys: torch.Tensor | None = None  # [B, num_kv_heads, capacity, head_dim]
        self._values: torch.Tensor | None = None
        self.position = 0
        """Tokens so far."""

    @property
    def key(self) -> torch.Tensor | None:
        """[B, num_kv_heads, position, head_dim], a view of the state; None to begin with."""
        return None if self._keys is None else self._keys.narrow(2, 0, self.position)

    @property
    def value(self) -> torch.Tensor | None:
        return None if self._values is None else self._values.narrow(2, 0, self.position)

    @torch.no_grad()
    def append(self, new_key: torch.Tensor, new_value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns all keys and values. Error: ShapeMismatch: another batch, or other heads, than the tokens so far have."""
        keys, values = self._keys, self._values
        if keys is not None and values is not None:
            batch, heads, _, size = keys.shape
            sizes = (new_key.shape[0], new_key.shape[1], new_key.shape[3], new_value.shape[3])
            if sizes != (batch, heads, size, values.shape[3]):
                raise _core.ShapeMismatch(f"[KvState] keys [{batch}, {heads}, tokens, {size}], got {list(new_key.shape)}")
        count = new_key.shape[2]
        needed, room = self.position + count, 0 if keys is None else keys.shape[2]
        if keys is None or values is None or needed > room:
            capacity = max(needed, 2 * room, _FIRST_CAPACITY)
            keys = self._keys = self._with_capacity(keys, new_key, capacity)
            values = self._values = self._with_capacity(values, new_value, capacity)
        keys.narrow(2, self.position, count).copy_(new_key)
        values.narrow(2, self.position, count).copy_(new_value)
        self.position = needed
        return keys.narrow(2, 0, needed), values.narrow(2, 0, needed)

    def _with_capacity(self, tokens: torch.Tensor | None, like: torch.Tensor, capacity: int) -> torch.Tensor:
        buffer = like.new_empty(like.shape[0], like.shape[1], capacity, like.shape[3])
        if tokens is not None:
            buffer.narrow(2, 0, self.position).copy_(tokens.narrow(2, 0, self.position))
        return buffer

    def truncate(self, length: int) -> None:
        """Forgets all but the first `length` tokens. Error: InvalidArgument: there are fewer."""
        if not 0 <= length <= self.position:
            raise _core.InvalidArgument(f"[KvState] a length in [0, {self.position}], got {length}")
        if length == 0:
            self.clear()
        self.position = length

    def clear(self) -> None:
        self._keys = self._values = None
        self.position = 0


class BitMultiheadAttention(torch.nn.Module):
    """Attention with ternary projections, always with the batch first, without its weights as a second result; arXiv:1706.03762.

    query [B, T, embed_dim], key [B, S, kdim], value [B, S, vdim]  ->  [B, T, embed_dim]
    out_proj(sub_norm(concat over heads of softmax(q k^T / sqrt(head_dim) + mask) v)),  q = q_proj(query), k = ..., v = ...

    attn_mask broadcasts to [B, num_heads, T, S]: bool, True where a query may attend (torch.nn.MultiheadAttention means the opposite), or added, of the
    query's type. Under `causal`, where a token attends to itself and to those before it, it is restricted further.

    num_kv_heads: heads of keys and values, each of which serves num_heads / num_kv_heads of the queries' (arXiv:2305.13245); none: num_heads.
    kdim, vdim: last sizes of keys and values; none: embed_dim. dropout: of the attention weights, in training. rope_theta: base of the rotary position
    embedding (torch.ops.bitlab.rotary), 10000 as a rule; 0: none. sub_norm: a norm of the heads' output before out_proj, "layer" or "rms" (SubLN,
    arXiv:2310.11453). quant: of the projections; the products of queries, keys and values, and the norm, stay float.

    Children: q_proj, k_proj, v_proj, out_proj (BitLinear), sub_norm. Errors: InvalidArgument (sizes that do not divide), ShapeMismatch, TypeMismatch (a
    mask)."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        kdim: int | None = None,
        vdim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        causal: bool = False,
        rope_theta: float = 0.0,
        sub_norm: str | None = None,
        norm_eps: float = 1e-5,
        quant: BitQuantConfig | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim < 1 or embed_dim % num_heads != 0:
            raise _refusal(f"embed_dim in {num_heads} heads, got {embed_dim}")
        kv_heads = num_kv_heads or num_heads
        if kv_heads < 0 or num_heads % kv_heads != 0:
            raise _refusal(f"num_kv_heads that divides {num_heads} heads, got {num_kv_heads}")
        if rope_theta != 0 and embed_dim // num_heads % 2 != 0:
            raise _refusal(f"an even size of a head under rope_theta, got {embed_dim // num_heads}")
        self.embed_dim, self.num_heads, self.num_kv_heads = embed_dim, num_heads, kv_heads
        self.kdim, self.vdim = kdim or embed_dim, vdim or embed_dim
        self.dropout, self.causal, self.rope_theta = dropout, causal, rope_theta
        self.quant = BitQuantConfig() if quant is None else quant

        def projection(size: int, out: int) -> BitLinear:
            return BitLinear(size, out, bias, device, dtype, quant=quant)

        kv_size = embed_dim // num_heads * kv_heads
        self.q_proj = projection(embed_dim, embed_dim)
        self.k_proj = projection(self.kdim, kv_size)
        self.v_proj = projection(self.vdim, kv_size)
        self.out_proj = projection(embed_dim, embed_dim)
        self.sub_norm = (
            None if sub_norm is None else make_norm(embed_dim, sub_norm, norm_eps, bias, device=device, dtype=dtype)
        )

    @classmethod
    def from_float(cls, layer: torch.nn.MultiheadAttention, quant: BitQuantConfig | None = None) -> BitMultiheadAttention:
        """The same attention: in_proj_weight becomes three projections with copies of its parts, out_proj keeps its parameters. Calls differ: no weights are
        returned, and masks mean what forward() says. Error: Unsupported, for batch_first=False, add_bias_kv and add_zero_attn."""
        if not layer.batch_first:
            raise _core.Unsupported(
                "[convert] attention with batch_first=True, got False: transpose its inputs and its output"
            )
        if layer.bias_k is not None or layer.add_zero_attn:
            raise _core.Unsupported("[convert] attention without add_bias_kv and add_zero_attn, got one of them")
        has_bias = layer.in_proj_bias is not None
        new = cls(
            layer.embed_dim, layer.num_heads, kdim=layer.kdim, vdim=layer.vdim, bias=has_bias, dropout=layer.dropout,
            quant=BitQuantConfig.none(), device="meta",
        )  # fmt: skip
        packed = layer.in_proj_weight
        weights = packed.chunk(3) if packed is not None else (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
        for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
            part: BitLinear = getattr(new, name)
            part.weight = _copy(weights[i], packed if packed is not None else weights[i])
            if has_bias:
                part.bias = _copy(layer.in_proj_bias.chunk(3)[i], layer.in_proj_bias)
            setattr(new, name, BitLinear.from_float(part, quant))
        new.out_proj = BitLinear.from_float(layer.out_proj, quant)
        new.quant = new.out_proj.quant
        return new.train(layer.training)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor | None = None,
        value: torch.Tensor | None = None,
        attn_mask: torch.Tensor | None = None,
        *,
        state: KvState | None = None,
    ) -> torch.Tensor:
        """Self-attention where key and value are left out. state: causal self-attention to its tokens and to the query, which follows them and is
        appended: generation in steps of any length equals the whole sequence at once."""
        if state is not None and not (key is None and value is None and attn_mask is None):
            raise _refusal("a state, or keys, values and a mask, got both")
        key = query if key is None else key
        value = key if value is None else value
        q, k, v = self._project(query, key, value, 0 if state is None else state.position)
        if state is None:
            return self._attend(q, k, v, attn_mask, self.causal)
        return self._attend(q, *state.append(k, v), None, True)

    def _project(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, position: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        _check_input("query", query, (-1, -1, self.embed_dim))
        _check_input("key", key, (query.shape[0], -1, self.kdim))
        _check_input("value", value, (key.shape[0], key.shape[1], self.vdim))
        q = _split_heads(self.q_proj(query), self.num_heads)
        k = _split_heads(self.k_proj(key), self.num_kv_heads)
        v = _split_heads(self.v_proj(value), self.num_kv_heads)
        if self.rope_theta != 0:
            q, k = self._rotated(q, position), self._rotated(k, position)
        return q, k, v

    def _rotated(self, x: torch.Tensor, first: int) -> torch.Tensor:
        y: torch.Tensor = _rotary(x, _positions(first, x.shape[2], x), self.rope_theta)
        return y

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor | None, causal: bool
    ) -> torch.Tensor:
        queries, keys = q.shape[2], k.shape[2]
        mask = attn_mask
        if mask is not None:
            _check_mask(mask, q, (q.shape[0], self.num_heads, queries, keys))
            mask = mask.view(1, -1) if mask.dim() < 2 else mask  # the operator takes no less
        # is_causal of the operator counts from the first key; and a last token attends to all.
        if causal and (mask is not None or (queries != keys and queries > 1)):
            allowed = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
            mask = allowed if mask is None else _restricted(mask, allowed)
        y = torch.nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            mask,
            self.dropout if self.training else 0.0,
            causal and mask is None and queries == keys,
            enable_gqa=self.num_kv_heads != self.num_heads,
        )
        y = y.transpose(1, 2).flatten(2)
        out: torch.Tensor = self.out_proj(y if self.sub_norm is None else self.sub_norm(y))
        return out

    def extra_repr(self) -> str:
        parts = [f"embed_dim={self.embed_dim}", f"num_heads={self.num_heads}"]
        if self.num_kv_heads != self.num_heads:
            parts.append(f"num_kv_heads={self.num_kv_heads}")
        if self.dropout != 0:
            parts.append(f"dropout={self.dropout}")
        parts.append(f"causal={self.causal}")
        if self.rope_theta != 0:
            parts.append(f"rope_theta={self.rope_theta}")
        return ", ".join([*parts, f"quant={_torch.describe(self.quant)}"])


def _refusal(text: str) -> _core.InvalidArgument:
    return _core.InvalidArgument(f"[BitMultiheadAttention] {text}")


def _copy(part: torch.Tensor, of: torch.nn.Parameter) -> torch.nn.Parameter:
    return torch.nn.Parameter(part.detach().clone(), of.requires_grad)


def _check_input(what: str, x: torch.Tensor, sizes: tuple[int, int, int]) -> None:
    if x.dim() != 3 or any(size >= 0 and x.shape[i] != size for i, size in enumerate(sizes)):
        raise _core.ShapeMismatch(f"[BitMultiheadAttention] {what} of shape {list(sizes)} (-1: any), got {list(x.shape)}")


def _check_mask(mask: torch.Tensor, query: torch.Tensor, scores: tuple[int, int, int, int]) -> None:
    if mask.dtype not in (torch.bool, query.dtype):
        names = [str(tensor.dtype).removeprefix("torch.") for tensor in (query, mask)]
        raise _core.TypeMismatch(f"[BitMultiheadAttention] attn_mask bool or {names[0]}, got {names[1]}")
    sizes = list(mask.shape)
    if mask.dim() > 4 or any(size not in (1, scores[4 - len(sizes) + i]) for i, size in enumerate(sizes)):
        raise _core.ShapeMismatch(f"[BitMultiheadAttention] attn_mask that broadcasts to {list(scores)}, got {sizes}")


def _restricted(mask: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    return mask.logical_and(allowed) if mask.dtype == torch.bool else torch.where(allowed, mask, -torch.inf)


def _split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[B, T, heads * size] -> [B, heads, T, size]"""
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)
