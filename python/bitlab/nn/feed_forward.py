"""The feed-forward part of a transformer block with ternary weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bitlab import _core
from bitlab._core import BitQuantConfig
from bitlab._extension import _torch, torch
from bitlab.nn.linear import BitLinear
from bitlab.nn.norm import make_norm

F = torch.nn.functional


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


def _squared_relu(x: torch.Tensor) -> torch.Tensor:
    y = F.relu(x)
    return y * y


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,  # x * P(X <= x), X standard normal (arXiv:1606.08415)
    "gelu_tanh": _gelu_tanh,  # the same by its approximation with tanh
    "relu": F.relu,  # max(x, 0)
    "squared_relu": _squared_relu,  # max(x, 0)^2 (arXiv:2109.08668)
    "silu": F.silu,  # x / (1 + exp(-x))
    "swiglu": F.silu,  # silu(gate) * up (arXiv:2002.05202)
    "squared_relu_glu": _squared_relu,  # max(gate, 0)^2 * up: BitNet b1.58 2B4T (arXiv:2504.12285)
}
_GATED = ("swiglu", "squared_relu_glu")


class BitFeedForward(torch.nn.Module):
    """x float32 [..., dim] -> [..., dim]:  down_proj(sub_norm(dropout(f(up_proj(x))))), and with a gate f(gate_proj(x)) * up_proj(x).

    hidden_dim: none: 4 * dim. activation: one of ACTIVATIONS. dropout: of the hidden values, in training. sub_norm: a norm of the hidden values before
    down_proj, "layer" or "rms" (SubLN, arXiv:2310.11453). quant: of the projections; the norm stays float.

    Children: up_proj, gate_proj (gated activations alone), down_proj (BitLinear), sub_norm. Errors: InvalidArgument (sizes), UnknownName."""

    def __init__(
        self,
        dim: int,
        hidden_dim: int | None = None,
        *,
        activation: str = "gelu",
        bias: bool = True,
        dropout: float = 0.0,
        sub_norm: str | None = None,
        norm_eps: float = 1e-5,
        quant: BitQuantConfig | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if dim < 1 or (hidden_dim or 0) < 0:
            raise _core.InvalidArgument(
                f"[BitFeedForward] dim of 1 or more and hidden_dim of 0 or more, got {dim} and {hidden_dim or 0}"
            )
        if activation not in ACTIVATIONS:
            raise _core.UnknownName(f"[BitFeedForward] an activation of {', '.join(ACTIVATIONS)}, got {activation}")
        self.dim, self.hidden_dim = dim, hidden_dim or 4 * dim
        self.activation, self.dropout = activation, dropout
        self.quant = BitQuantConfig() if quant is None else quant

        def projection(size: int, out: int) -> BitLinear:
            return BitLinear(size, out, bias, device, dtype, quant=quant)

        self.up_proj = projection(dim, self.hidden_dim)
        self.gate_proj = projection(dim, self.hidden_dim) if activation in _GATED else None
        self.down_proj = projection(self.hidden_dim, dim)
        self.sub_norm = (
            None if sub_norm is None else make_norm(self.hidden_dim, sub_norm, norm_eps, bias, device=device, dtype=dtype)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        f, up = ACTIVATIONS[self.activation], self.up_proj(x)
        hidden = f(up) if self.gate_proj is None else f(self.gate_proj(x)) * up
        hidden = F.dropout(hidden, self.dropout, self.training)
        y: torch.Tensor = self.down_proj(hidden if self.sub_norm is None else self.sub_norm(hidden))
        return y

    def extra_repr(self) -> str:
        dropout = f", dropout={self.dropout}" if self.dropout != 0 else ""
        return (
            f"{self.dim}, hidden_dim={self.hidden_dim}, activation={self.activation}{dropout}, "
            f"bias={self.up_proj.bias is not None}, quant={_torch.describe(self.quant)}"
        )
