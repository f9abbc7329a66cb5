"""Convolutions with ternary weights over one, two or three dimensions, plain and transposed: docs/numerics.md."""

from __future__ import annotations

from typing import Any, ClassVar

from bitlab import _core
from bitlab._core import BitQuantConfig
from bitlab._extension import _torch, torch
from bitlab.nn.layer import TernaryLayer

_bit_conv = torch.ops.bitlab.bit_conv.default

Sizes = int | tuple[int, ...]


class _BitConvNd(TernaryLayer):
    """x float32 [B, in_channels, sizes...], or without B -> [.., out_channels, sizes...]; activations share a scale by sample. Parameters: weight
    [out_channels, in_channels / groups, kernel...], or [in_channels, out_channels / groups, kernel...] where it is transposed, latent float32;
    bias [out_channels]; those of TernaryLayer. Error: InvalidArgument, for options that do not fit."""

    _dims: ClassVar[int]

    groups: int
    padding_mode: Any  # one of PyTorch's texts
    transposed: bool
    _reversed_padding_repeated_twice: list[int]

    @staticmethod
    def _check_channels(in_channels: int, out_channels: int, groups: int) -> None:
        if in_channels < 1 or out_channels < 1 or groups < 1 or in_channels % groups != 0 or out_channels % groups != 0:
            raise _core.InvalidArgument(f"[BitConv] channels in {groups} groups, got {in_channels} to {out_channels}")

    def _begin(self, suffix: str = "") -> dict[str, torch.Tensor]:
        state = _torch.quantizer_state(
            self.weight.detach(), self.quant, dims=self._dims, transposed=self.transposed, groups=self.groups
        )
        return self._on_device(state)

    def _quantize(self, quant: BitQuantConfig | None) -> None:
        """Finds what lies around x: what the operator does not add itself, and what it adds on both sides."""
        around = self._reversed_padding_repeated_twice  # of the last size first: in front, behind
        has_zeros = self.padding_mode == "zeros"
        if has_zeros:
            both = around[0::2]
            around = [n for front, behind in zip(both, around[1::2], strict=True) for n in (0, behind - front)]
            self._both = both[::-1]
        else:
            self._both = [0] * self._dims
        self._around = around if any(around) else []
        self._around_mode = "constant" if has_zeros else self.padding_mode
        super()._quantize(quant)

    def _convolved(self, input: torch.Tensor, output_padding: list[int]) -> torch.Tensor:
        x = torch.nn.functional.pad(input, self._around, self._around_mode) if self._around else input
        return self._product(
            _bit_conv, x, self.stride, self._both, self.dilation, self.transposed, output_padding, self.groups
        )


class _Plain(_BitConvNd):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: str | Sizes = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        quant: BitQuantConfig | None = None,
    ) -> None:
        self._check_channels(in_channels, out_channels, groups)
        strides = [stride] if isinstance(stride, int) else list(stride)
        if padding == "same" and any(n != 1 for n in strides):
            raise _core.InvalidArgument(f"[convolution] a stride of 1 with padding 'same', got {strides}")
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self._quantize(quant)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self._convolved(input, _NONE) if self._active else super().forward(input)


class _Transposed(_BitConvNd):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        quant: BitQuantConfig | None = None,
    ) -> None:
        self._check_channels(in_channels, out_channels, groups)
        if padding_mode != "zeros":
            raise _core.InvalidArgument(
                f"[BitConv] zeros around the input of a transposed convolution, got padding_mode {padding_mode}"
            )
        if isinstance(padding, str):
            raise _core.InvalidArgument("[BitConv] padding of a transposed convolution as numbers, got 'same' or 'valid'")
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            groups,
            bias,
            dilation,
            padding_mode,
            device,
            dtype,
        )
        self._quantize(quant)

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        if not self._active:
            y: torch.Tensor = super().forward(input, output_size)
            return y
        own: Any = self
        return self._convolved(
            input,
            own._output_padding(input, output_size, self.stride, self.padding, self.kernel_size, self._dims, self.dilation),
        )


_NONE: list[int] = []


class BitConv1d(_Plain, torch.nn.Conv1d):
    """torch.nn.Conv1d with ternary weights. x [B, C, L] or [C, L]."""

    _twin, _dims = torch.nn.Conv1d, 1


class BitConv2d(_Plain, torch.nn.Conv2d):
    """torch.nn.Conv2d with ternary weights. x [B, C, H, W] or [C, H, W]."""

    _twin, _dims = torch.nn.Conv2d, 2


class BitConv3d(_Plain, torch.nn.Conv3d):
    """torch.nn.Conv3d with ternary weights. x [B, C, D, H, W] or [C, D, H, W]."""

    _twin, _dims = torch.nn.Conv3d, 3


class BitConvTranspose1d(_Transposed, torch.nn.ConvTranspose1d):
    """torch.nn.ConvTranspose1d with ternary weights. x [B, C, L] or [C, L]."""

    _twin, _dims = torch.nn.ConvTranspose1d, 1


class BitConvTranspose2d(_Transposed, torch.nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d with ternary weights. x [B, C, H, W] or [C, H, W]."""

    _twin, _dims = torch.nn.ConvTranspose2d, 2


class BitConvTranspose3d(_Transposed, torch.nn.ConvTranspose3d):
    """torch.nn.ConvTranspose3d with ternary weights. x [B, C, D, H, W] or [C, D, H, W]."""

    _twin, _dims = torch.nn.ConvTranspose3d, 3
