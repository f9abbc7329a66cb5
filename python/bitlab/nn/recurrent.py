"""LSTM and GRU with ternary weights, of the inputs and of the hidden states."""

from __future__ import annotations

from typing import Any, ClassVar

from bitlab import _core
from bitlab._core import BitQuantConfig
from bitlab._extension import _torch, torch
from bitlab.nn.layer import TernaryLayer

rnn = torch.nn.utils.rnn

_bit_linear = torch.ops.bitlab.bit_linear.default
_bit_recurrent = torch.ops.bitlab.bit_recurrent.default

States = tuple[torch.Tensor, torch.Tensor | None]


class _BitRecurrent(TernaryLayer):
    """Inputs, outputs, parameters and their names are the twin's. Weights of inputs and of hidden states are ternary; the products of all inputs are one, those
    of hidden states one row a sample in each step. Those of TernaryLayer are there for each weight: weight_scale_ih_l0, act_scale_hh_l0_reverse. A
    static step of hidden states begins at 1 / limit, since they lie in (-1, 1). Packed sequences are evaluated and trained, not deployed; no proj_size: Unsupported."""

    _cell: ClassVar[str]

    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool

    def _quantize(self, quant: BitQuantConfig | None) -> None:
        self._suffixes = self._suffixes_of(self)
        if quant is not None and quant.smoothing != 0:  # which is of layers with one product
            quant = quant.replace(smoothing=0.0)
        super()._quantize(quant)

    @staticmethod
    def _suffixes_of(layer: Any) -> tuple[str, ...]:
        ways = ("", "_reverse") if layer.bidirectional else ("",)
        return tuple(f"_{of}_l{k}{way}" for k in range(layer.num_layers) for way in ways for of in ("ih", "hh"))

    def _begin(self, suffix: str = "") -> dict[str, torch.Tensor]:
        weight = self.get_parameter("weight" + suffix).detach()
        return self._on_device(_torch.quantizer_state(weight, self.quant, is_hidden=suffix.startswith("_hh")))

    @classmethod
    def _weight_names(cls, layer: torch.nn.Module) -> list[str]:
        return ["weight" + suffix for suffix in cls._suffixes_of(layer)]

    @classmethod
    def _check(cls, layer: torch.nn.Module, quant: BitQuantConfig | None) -> None:
        super()._check(layer, quant)
        cls._check_projection(quant, getattr(layer, "proj_size", 0))

    @classmethod
    def _check_projection(cls, quant: BitQuantConfig | None, proj_size: int) -> None:
        if proj_size != 0 and (quant is None or quant.enabled):
            raise _core.Unsupported(f"[convert] {cls._cell} without proj_size, got proj_size {proj_size}")

    def _ternary(self, x: Any, h0: torch.Tensor | None, c0: torch.Tensor | None) -> tuple[Any, States]:
        """The states of all tokens and the last ones; c is None for a GRU."""
        if isinstance(x, rnn.PackedSequence):
            return self._packed(x, h0, c0)
        self._check_inputs(x, h0, c0)
        is_batch, batch_dim = x.dim() == 3, 0 if self.batch_first else 1
        if not is_batch:
            x = x.unsqueeze(batch_dim)
            h0, c0 = (None if state is None else state.unsqueeze(1) for state in (h0, c0))
        read, (h_n, c_n) = self._layers(x if self.batch_first else x.transpose(0, 1), h0, c0)
        y = read if self.batch_first else read.transpose(0, 1)
        if is_batch:
            return y, (h_n, c_n)
        return y.squeeze(batch_dim), (h_n.squeeze(1), None if c_n is None else c_n.squeeze(1))

    def _packed(self, x: Any, h0: torch.Tensor | None, c0: torch.Tensor | None) -> tuple[Any, States]:
        data, sizes, order, back = x
        self._check_inputs(x, h0, c0)

        def permuted(state: torch.Tensor | None, by: torch.Tensor | None) -> torch.Tensor | None:
            return state if state is None or by is None else state.index_select(1, by)

        y, (h_n, c_n) = self._layers(data, permuted(h0, order), permuted(c0, order), sizes)
        last = permuted(h_n, back)
        assert last is not None
        return rnn.PackedSequence(y, sizes, order, back), (last, permuted(c_n, back))

    def _layers(
        self, read: torch.Tensor, h0: torch.Tensor | None, c0: torch.Tensor | None, sizes: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, States]:
        """Of x [B, T, inputs], or [sum, inputs] of a packed sequence with these batch sizes."""
        last_h, last_c = [], []
        ways = 2 if self.bidirectional else 1
        for layer in range(self.num_layers):
            outputs = []
            for way in range(ways):
                row = layer * ways + way
                h, c = (None if state is None else state[row] for state in (h0, c0))
                y, h_n, c_n = self._direction(read, layer, way == 1, h, c, sizes)
                outputs.append(y)
                last_h.append(h_n)
                last_c.append(c_n)
            read = outputs[0] if ways == 1 else torch.cat(outputs, -1)
            if self.dropout > 0 and self.training and layer + 1 < self.num_layers:
                read = torch.nn.functional.dropout(read, self.dropout)
        return read, (torch.stack(last_h), torch.stack(last_c) if self._cell == "lstm" else None)

    def _direction(
        self,
        x: torch.Tensor,
        layer: int,
        reverse: bool,
        h0: torch.Tensor | None,
        c0: torch.Tensor | None,
        sizes: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        way = "_reverse" if reverse else ""
        ih, hh = f"_ih_l{layer}{way}", f"_hh_l{layer}{way}"

        def call() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            gates = _bit_linear(x, *self._product_of(ih), *self._how(x, ih))
            rest = (*self._product_of(hh), h0, c0, self._cell, reverse, *self._how(None, hh))
            states: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = (
                _bit_recurrent(gates, *rest) if sizes is None else _torch.packed_bit_recurrent(gates, sizes, *rest)
            )
            return states

        return self._uncompiled(call) if self._is_random and self.training else call()

    def _product_of(self, suffix: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        return getattr(self, "weight" + suffix), getattr(self, "bias" + suffix) if self.bias else None

    def _check_inputs(self, x: Any, h0: torch.Tensor | None, c0: torch.Tensor | None) -> None:
        name = type(self).__name__
        if isinstance(x, rnn.PackedSequence):
            if x.data.dim() != 2 or x.data.shape[-1] != self.input_size:
                raise _core.ShapeMismatch(f"[{name}] a packed sequence of [{self.input_size}], got {list(x.data.shape)}")
        elif x.dim() not in (2, 3) or x.shape[-1] != self.input_size:
            batch = "B, T" if self.batch_first else "T, B"
            raise _core.ShapeMismatch(
                f"[{name}] x [{batch}, {self.input_size}] or [T, {self.input_size}], got {list(x.shape)}"
            )
        expected = [self.num_layers * (2 if self.bidirectional else 1), self.hidden_size]
        if isinstance(x, rnn.PackedSequence):
            expected.insert(1, int(x.batch_sizes[0]))
        elif x.dim() == 3:
            expected.insert(1, x.shape[0 if self.batch_first else 1])
        for state in (h0, c0):
            if state is not None and list(state.shape) != expected:
                raise _core.ShapeMismatch(f"[{name}] states {expected}, got {list(state.shape)}")


class BitLSTM(_BitRecurrent, torch.nn.LSTM):
    """torch.nn.LSTM with ternary weights."""

    _twin = torch.nn.LSTM
    _cell = "lstm"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        quant: BitQuantConfig | None = None,
    ) -> None:
        self._check_projection(quant, proj_size)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        )
        self._quantize(quant)

    def forward(  # type: ignore[override]
        self, input: torch.Tensor, hx: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        if not self._active:
            y: tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]] = super().forward(input, hx)
            return y
        h0, c0 = (None, None) if hx is None else hx
        output, (h_n, c_n) = self._ternary(input, h0, c0)
        assert c_n is not None
        return output, (h_n, c_n)


class BitGRU(_BitRecurrent, torch.nn.GRU):
    """torch.nn.GRU with ternary weights; the second bias of n within the reset gate."""

    _twin = torch.nn.GRU
    _cell = "gru"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        quant: BitQuantConfig | None = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )
        self._quantize(quant)

    def forward(  # type: ignore[override]
        self, input: torch.Tensor, hx: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self._active:
            y: tuple[torch.Tensor, torch.Tensor] = super().forward(input, hx)
            return y
        output, (h_n, _) = self._ternary(input, hx, None)
        return output, h_n
