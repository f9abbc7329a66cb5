"""Tables of ternary rows: two bits a weight instead of 32, and lookups that compute nothing but t s."""

from __future__ import annotations

from typing import Any

from bitlab import _core
from bitlab._core import BitQuantConfig
from bitlab._extension import torch
from bitlab.nn.layer import TernaryLayer

_bit_embedding = torch.ops.bitlab.bit_embedding.default
_bit_weight = torch.ops.bitlab.bit_weight.default

_MODES = ("sum", "mean", "max")


class _BitTable(TernaryLayer):
    """Parameters: weight [num_embeddings, embedding_dim], latent float32; those of TernaryLayer. Scales "channel" are by row; activations do not matter.
    Errors: InvalidArgument (padding_idx), Unsupported (max_norm, sparse gradients)."""

    _is_product = False
    _kind: str

    @classmethod
    def _check_options(cls, quant: BitQuantConfig | None, max_norm: float | None, sparse: bool) -> None:
        if quant is not None and not quant.enabled:
            return
        if max_norm is not None:
            raise _core.Unsupported(f"[convert] {cls._kind} without max_norm, got max_norm {max_norm}")
        if sparse:
            raise _core.Unsupported(f"[convert] {cls._kind} with dense gradients, got sparse true")

    @staticmethod
    def _check_padding(padding_idx: int | None, rows: int) -> None:
        if padding_idx is not None and not -rows <= padding_idx < rows:
            raise _core.InvalidArgument(f"[BitEmbedding] padding_idx in [-{rows}, {rows}), got {padding_idx}")

    @classmethod
    def _check(cls, layer: torch.nn.Module, quant: BitQuantConfig | None) -> None:
        super()._check(layer, quant)
        assert isinstance(layer, torch.nn.Embedding | torch.nn.EmbeddingBag)
        cls._check_options(quant, layer.max_norm, layer.sparse)


class BitEmbedding(_BitTable, torch.nn.Embedding):
    """torch.nn.Embedding with ternary rows: indices int64 [...] -> float32 [..., embedding_dim]. Where rows have scales of their own, training quantizes
    those that are looked up alone."""

    _twin = torch.nn.Embedding
    _kind = "embedding"

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: torch.Tensor | None = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        quant: BitQuantConfig | None = None,
    ) -> None:
        self._check_options(quant, max_norm, sparse)
        self._check_padding(padding_idx, num_embeddings)
        super().__init__(
            num_embeddings,
            embedding_dim,
            padding_idx,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            sparse,
            _weight,
            _freeze,
            device,
            dtype,
        )
        self._quantize(quant)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self._active:
            return super().forward(input)
        padding = -1 if self.padding_idx is None else self.padding_idx
        return self._value(
            _bit_embedding, self.weight, input, padding_idx=padding, scale_grad_by_freq=self.scale_grad_by_freq
        )


class BitEmbeddingBag(_BitTable, torch.nn.EmbeddingBag):
    """torch.nn.EmbeddingBag with ternary rows, one vector a bag: the sum, mean or maximum of its rows.

    indices int64 [B, n]                                    -> [B, embedding_dim]
    indices int64 [n], offsets int64 [B]: where bags begin  -> [B, embedding_dim]

    per_sample_weights, float32 in the shape of the indices, multiplies each row, under mode="sum". Error: ShapeMismatch."""

    _twin = torch.nn.EmbeddingBag
    _kind = "embedding_bag"

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: torch.Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
        *,
        quant: BitQuantConfig | None = None,
    ) -> None:
        self._check_options(quant, max_norm, sparse)
        self._check_padding(padding_idx, num_embeddings)
        super().__init__(
            num_embeddings, embedding_dim, max_norm, norm_type, scale_grad_by_freq, mode, sparse, _weight, include_last_offset,
            padding_idx, device, dtype,
        )  # fmt: skip
        self._quantize(quant)

    def forward(
        self, input: torch.Tensor, offsets: torch.Tensor | None = None, per_sample_weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        if not self._active:
            return super().forward(input, offsets, per_sample_weights)
        if input.dim() != (2 if offsets is None else 1):
            how = "without" if offsets is None else "with"
            raise _core.ShapeMismatch(
                f"[BitEmbeddingBag] indices [B, n], or [n] with offsets, got rank {input.dim()} {how} offsets"
            )
        if per_sample_weights is not None and per_sample_weights.shape != input.shape:
            raise _core.ShapeMismatch(
                f"[BitEmbeddingBag] per_sample_weights {list(input.shape)}, got {list(per_sample_weights.shape)}"
            )
        plain = offsets is None and per_sample_weights is None and self.padding_idx is None
        if plain and not self.training and input.numel() > 0:  # reads rows of codes, and no table of floats
            rows: torch.Tensor = self._value(_bit_embedding, self.weight, input, padding_idx=-1, scale_grad_by_freq=False)
            if self.mode == "sum":
                return rows.sum(1)
            return rows.mean(1) if self.mode == "mean" else rows.amax(1)
        if offsets is None:
            begins = torch.arange(0, input.numel(), max(input.shape[1], 1), dtype=input.dtype, device=input.device)
        else:
            begins = offsets
        result: torch.Tensor = torch.embedding_bag(
            self._value(_bit_weight, self.weight),
            input.flatten(),
            begins,
            self.scale_grad_by_freq,
            _MODES.index(self.mode),
            False,
            None if per_sample_weights is None else per_sample_weights.flatten(),
            offsets is not None and self.include_last_offset,
            self.padding_idx,
        )[0]
        return result
