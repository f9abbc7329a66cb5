"""Norms whose weight is ternary: each channel is left out, kept or turned, by one scale. The bias stays float32. And batch norms, in which nothing is
ternary, whose evaluation is the affine step of the numeric contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from bitlab import _core
from bitlab._core import BitQuantConfig
from bitlab._extension import _torch, torch
from bitlab.nn.layer import TernaryLayer

_bit_weight = torch.ops.bitlab.bit_weight.default
_batch_norm = torch.ops.bitlab.batch_norm.default

Shape = int | Sequence[int] | torch.Size


class _BitNorm(TernaryLayer):
    """Parameters: weight and bias of the twin, those of TernaryLayer. Scales "channel" are one scale."""

    _is_product = False

    def _begin(self, suffix: str = "") -> dict[str, torch.Tensor]:
        row = self.weight.detach().reshape(1, -1)
        return self._on_device(_torch.quantizer_state(row, self.quant, is_product=False, around_zero=False))

    def _factor(self) -> torch.Tensor | None:
        """What the norm multiplies with: the weight's value, as one row."""
        return self._value(_bit_weight, self.weight.flatten()).view_as(self.weight) if self._active else self.weight


class BitLayerNorm(_BitNorm, torch.nn.LayerNorm):
    """torch.nn.LayerNorm with w' = t s of its weight: ((x - mean) / sqrt(variance + eps)) w' + b; arXiv:1607.06450."""

    _twin = torch.nn.LayerNorm

    def __init__(
        self,
        normalized_shape: Shape,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        quant: BitQuantConfig | None = None,
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, bias, device, dtype)
        self._quantize(quant)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.layer_norm(input, self.normalized_shape, self._factor(), self.bias, self.eps)


class BitRMSNorm(_BitNorm, torch.nn.RMSNorm):
    """x / sqrt(mean of x^2 + eps) w'; arXiv:1910.07467. eps is C++'s 1e-6 unless it is given; None: the machine's, torch.nn.RMSNorm's default."""

    _twin = torch.nn.RMSNorm

    def __init__(
        self,
        normalized_shape: Shape,
        eps: float | None = 1e-6,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        quant: BitQuantConfig | None = None,
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, device, dtype)
        self._quantize(quant)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, self.normalized_shape, self._factor(), self.eps)


class BitGroupNorm(_BitNorm, torch.nn.GroupNorm):
    """torch.nn.GroupNorm with w' = t s of its weight; arXiv:1803.08494. x [B, num_channels, ...]. Error: InvalidArgument."""

    _twin = torch.nn.GroupNorm

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        quant: BitQuantConfig | None = None,
    ) -> None:
        if num_groups < 1 or num_channels % num_groups != 0:
            raise _core.InvalidArgument(f"[BitGroupNorm] channels in {num_groups} groups, got {num_channels}")
        super().__init__(num_groups, num_channels, eps, affine, device, dtype)
        self._quantize(quant)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.group_norm(input, self.num_groups, self._factor(), self.bias, self.eps)


def make_norm(
    size: int,
    kind: str = "layer",
    eps: float = 1e-5,
    bias: bool = True,
    quant: BitQuantConfig | None = None,
    device: Any = None,
    dtype: Any = None,
) -> BitLayerNorm | BitRMSNorm:
    """A norm over the last dimension, where blocks let one choose: "layer", or "rms", which has no bias. Not ternary by default."""
    quant = BitQuantConfig.none() if quant is None else quant
    if kind == "layer":
        return BitLayerNorm(size, eps, True, bias, device, dtype, quant=quant)
    if kind == "rms":
        return BitRMSNorm(size, eps, True, device, dtype, quant=quant)
    raise _core.UnknownName(f"[norm] layer or rms, got {kind}")


class _BitBatchNorm(torch.nn.modules.batchnorm._BatchNorm):
    """x [B, C, sizes...] -> the same shape. Nothing in it is ternary. Training is PyTorch's. Evaluation with running statistics is the bits that a deployed
    file computes: (x alpha) + beta, each operation rounded, alpha = weight / sqrt(running_var + eps), beta = bias - running_mean alpha, in
    float64, rounded once. Error: ShapeMismatch."""

    _dims: ClassVar[int]

    def _check_input_dim(self, input: torch.Tensor) -> None:
        rank, is_flat = self._dims + 2, self._dims == 1 and input.dim() == 2
        if (input.dim() != rank and not is_flat) or input.shape[1] != self.num_features:
            ranks = f"{rank} or 2" if self._dims == 1 else f"{rank}"
            raise _core.ShapeMismatch(
                f"[BitBatchNorm{self._dims}d] x of rank {ranks} with {self.num_features} channels, got {list(input.shape)}"
            )

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.training or self.running_mean is None:
            return super().forward(input)
        self._check_input_dim(input)
        result: torch.Tensor = _batch_norm(input, self.weight, self.bias, self.running_mean, self.running_var, self.eps)
        return result


class BitBatchNorm1d(_BitBatchNorm, torch.nn.BatchNorm1d):
    __doc__ = f"torch.nn.BatchNorm1d, also of x [B, C]. {_BitBatchNorm.__doc__}"
    _dims = 1


class BitBatchNorm2d(_BitBatchNorm, torch.nn.BatchNorm2d):
    __doc__ = f"torch.nn.BatchNorm2d. {_BitBatchNorm.__doc__}"
    _dims = 2


class BitBatchNorm3d(_BitBatchNorm, torch.nn.BatchNorm3d):
    __doc__ = f"torch.nn.BatchNorm3d. {_BitBatchNorm.__doc__}"
    _dims = 3
