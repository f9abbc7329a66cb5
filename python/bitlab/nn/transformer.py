"""A transformer block with ternary weights: an encoder's or a decoder's layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bitlab import _core
from bitlab._core import BitQuantConfig
from bitlab._extension import _torch, torch
from bitlab.nn.attention import BitMultiheadAttention, KvState
from bitlab.nn.feed_forward import BitFeedForward
from bitlab.nn.norm import BitLayerNorm, BitRMSNorm, make_norm

Norm = BitLayerNorm | BitRMSNorm


class BitTransformerBlock(torch.nn.Module):
    """As torch.nn.TransformerEncoderLayer, and with `cross_attention` as torch.nn.TransformerDecoderLayer, always with the batch first; arXiv:1706.03762.
    x [B, T, dim], memory [B, S, dim] -> [B, T, dim]. Each part f, self_attn, cross_attn and feed_forward in this order, makes

        x = norm(x + dropout(f(x))),   or under norm_first   x = x + dropout(f(norm(x)))

    with a norm of its own: self_attn_norm, cross_attn_norm, feed_forward_norm. Masks are those of BitMultiheadAttention, `causal` and `rope_theta` are of
    the self-attention.

    norm: "layer" or "rms". dropout: of attention weights, hidden values and what each part adds, in training. sub_norm: norms before out_proj and
    down_proj, of the kind `norm`. bias: of projections and layer norms. ternary_norms: the weights of the norms, without sub-norms, are ternary, too.
    Other options: those of the parts. Errors: InvalidArgument (a memory without cross_attention, or the other way round), those of the parts."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        hidden_dim: int | None = None,
        activation: str = "gelu",
        norm: str = "layer",
        norm_eps: float = 1e-5,
        norm_first: bool = False,
        causal: bool = False,
        cross_attention: bool = False,
        dropout: float = 0.0,
        rope_theta: float = 0.0,
        sub_norm: bool = False,
        bias: bool = True,
        ternary_norms: bool = False,
        quant: BitQuantConfig | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.dim, self.num_heads, self.norm = dim, num_heads, norm
        self.norm_first, self.dropout = norm_first, dropout
        self.quant = BitQuantConfig() if quant is None else quant
        inner = norm if sub_norm else None

        def own_norm() -> Norm:
            return make_norm(dim, norm, norm_eps, bias, self.quant if ternary_norms else None, device, dtype)

        def attention(causal: bool, rope_theta: float) -> BitMultiheadAttention:
            return BitMultiheadAttention(
                dim,
                num_heads,
                num_kv_heads=num_kv_heads,
                bias=bias,
                dropout=dropout,
                causal=causal,
                rope_theta=rope_theta,
                sub_norm=inner,
                norm_eps=norm_eps,
                quant=quant,
                device=device,
                dtype=dtype,
            )

        self.self_attn_norm = own_norm()
        self.self_attn = attention(causal, rope_theta)
        self.cross_attn_norm = own_norm() if cross_attention else None
        self.cross_attn = attention(False, 0.0) if cross_attention else None
        self.feed_forward_norm = own_norm()
        self.feed_forward = BitFeedForward(
            dim,
            hidden_dim,
            activation=activation,
            bias=bias,
            dropout=dropout,
            sub_norm=inner,
            norm_eps=norm_eps,
            quant=quant,
            device=device,
            dtype=dtype,
        )

    def forward(
        self,
        x: torch.Tensor,
        memory: torch.Tensor | None = None,
        attn_mask: torch.Tensor | None = None,
        memory_mask: torch.Tensor | None = None,
        *,
        state: KvState | None = None,
    ) -> torch.Tensor:
        """state: generation, causal: x follows its tokens and is appended to them; without masks."""
        if (memory is not None) != (self.cross_attn is not None):
            expected = "no memory without cross_attention" if self.cross_attn is None else "a memory under cross_attention"
            raise _core.InvalidArgument(f"[BitTransformerBlock] {expected}, got {'none' if memory is None else 'one'}")
        y = self._add(x, self.self_attn_norm, lambda h: self.self_attn(h, attn_mask=attn_mask, state=state))
        if self.cross_attn is not None and self.cross_attn_norm is not None:
            attend = self.cross_attn
            y = self._add(y, self.cross_attn_norm, lambda h: attend(h, memory, memory, memory_mask))
        return self._add(y, self.feed_forward_norm, self.feed_forward)

    def _add(self, x: torch.Tensor, norm: Norm, part: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        if self.norm_first:
            return x + torch.nn.functional.dropout(part(norm(x)), self.dropout, self.training)
        y: torch.Tensor = norm(x + torch.nn.functional.dropout(part(x), self.dropout, self.training))
        return y

    def extra_repr(self) -> str:
        return (
            f"{self.dim}, num_heads={self.num_heads}, norm={self.norm}, norm_first={self.norm_first}, "
            f"causal={self.self_attn.causal}, cross_attention={self.cross_attn is not None}, quant={_torch.describe(self.quant)}"
        )
