"""A linear layer with ternary weights: docs/numerics.md, BitNet b1.58 (arXiv:2402.17764)."""

from __future__ import annotations

from typing import Any

from bitlab._core import BitQuantConfig
from bitlab._extension import torch
from bitlab.nn.layer import TernaryLayer

_bit_linear = torch.ops.bitlab.bit_linear.default


class BitLinear(TernaryLayer, torch.nn.Linear):
    """x float32 [..., in_features] -> [..., out_features]; activations share a scale by token. With BitQuantConfig.none() it is torch.nn.Linear.
    Parameters: weight [out_features, in_features], latent float32; bias [out_features]; those of TernaryLayer."""

    _twin = torch.nn.Linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        quant: BitQuantConfig | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self._quantize(quant)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self._product(_bit_linear, input) if self._active else super().forward(input)
