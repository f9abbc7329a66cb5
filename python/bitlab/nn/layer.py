"""What the ternary layers share: how a layer's weight and activations are quantized, with the parameters and buffers that this takes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from bitlab import _core
from bitlab._calls import is_compiled
from bitlab._core import BitQuantConfig
from bitlab._extension import _torch, torch

Layer = TypeVar("Layer", bound="TernaryLayer")
How = tuple[str, str, list[torch.Tensor], torch.Tensor | None, float]

# What belongs to a module itself, and not to what it computes.
_OF_THE_MODULE = ("_parameters", "_buffers", "_modules")
_NOTHING: list[torch.Tensor] = []


@torch.library.custom_op("bitlab::begin_act_scale", mutates_args={"act_scale"})
def _begin_act_scale(act_scale: torch.Tensor, x: torch.Tensor, activation: str) -> None:
    """_torch.begin_act_scale, as an operator for graphs."""
    _torch.begin_act_scale(act_scale, x, BitQuantConfig(activation=activation))


@_begin_act_scale.register_fake
def _(act_scale: torch.Tensor, x: torch.Tensor, activation: str) -> None:
    return None


class TernaryLayer(torch.nn.Module):
    """A layer whose `weight` is quantized as `quant` says: a mixin in front of the twin in torch.nn, whose names and arguments it keeps. What the
    quantization adds, where it asks for it, with the names, shapes and dtypes of C++, so that a state_dict goes both ways:

    - weight_scale, weight_scale_neg, weight_threshold: parameters, float32 [1] or [N]; what the method learns
    - act_scale: a parameter, float32 [1]; the step of static activations, 0 until the first forward pass in training, or a file, sets it
    - blend: a buffer, float64 []; how far the layer has turned from float (0) to ternary (1). It counts in training: in eval a layer is ternary
    - draw: a buffer, int64 []; the draw of stochastic rounding in the last forward pass in training
    - input_scale: a buffer, float32 [C] or [C, 1...]; what each channel of x is multiplied by, in layers that are smoothed

    A layer of several weights has these for each of them, with the weight's suffix behind the name: weight_scale_ih_l0 of weight_ih_l0.

    `quant` is for reading. Under torch.compile a new blend compiles anew, and stochastic rounding breaks the graph in training. A process group does
    not share the step that its processes begin with: let one batch through before DistributedDataParallel wraps the network. A recomputation under
    gradient checkpointing takes another draw. torch.func.grad and vmap do not reach through the operators."""

    quant: BitQuantConfig
    weight: Any  # a Tensor, or a Parameter: as the twin has it
    act_scale: torch.nn.Parameter
    blend: torch.Tensor
    draw: torch.Tensor
    input_scale: torch.Tensor

    _twin: ClassVar[type[torch.nn.Module]]  # in torch.nn
    _is_product: ClassVar[bool] = True  # of activations and the weight; False: the weight is used by itself
    _suffixes: tuple[str, ...] = ("",)  # of the weights: one, or several

    def _quantize(self, quant: BitQuantConfig | None) -> None:
        """Called once, when the weights are there. Errors: choices that do not fit together, naming what does."""
        self.quant = BitQuantConfig() if quant is None else quant
        self._spec, self._activation = self.quant.weight_spec(), self.quant.activation
        self._active = self.quant.enabled and self._parameters.get("weight" + self._suffixes[0]) is not None
        self._learned_names: tuple[str, ...] = ()
        for suffix in self._suffixes if self._active else ():
            state = self._begin(suffix)
            self._learned_names = tuple(name for name in state if name.startswith("weight_"))
            for name, tensor in state.items():
                if name.startswith("weight_") or name == "act_scale":
                    self.register_parameter(name + suffix, torch.nn.Parameter(tensor))
                else:
                    self.register_buffer(name + suffix, tensor)
        first = self._suffixes[0]
        self._has_step, self._is_smoothed = "act_scale" + first in self._parameters, "input_scale" + first in self._buffers
        self._is_random = "draw" + first in self._buffers
        # The buffers' numbers as numbers of Python, by suffix.
        self._begun = dict.fromkeys(self._suffixes, False)
        self._shares, self._share_versions = dict.fromkeys(self._suffixes, 1.0), dict.fromkeys(self._suffixes, -1)
        self._draws, self._draw_versions = dict.fromkeys(self._suffixes, 0), dict.fromkeys(self._suffixes, -1)
        if self._active:
            self._share_versions = {suffix: self.get_buffer("blend" + suffix)._version for suffix in self._suffixes}

    def _begin(self, suffix: str = "") -> dict[str, torch.Tensor]:
        """What the quantization adds to a weight, as it begins with its present values; names without the suffix."""
        weight = self.get_parameter("weight" + suffix).detach()
        return self._on_device(_torch.quantizer_state(weight, self.quant, is_product=self._is_product))

    def _on_device(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        device = getattr(self, "weight" + self._suffixes[0]).device
        return {name: tensor.to(device) for name, tensor in state.items()}

    def _refresh(self) -> None:
        """Reads the buffers' numbers, so that forward() waits for no tensor and compiles as one graph."""
        for suffix in self._suffixes:
            self._begun[suffix], self._share_versions[suffix], self._draw_versions[suffix] = False, -1, -1
            if self._active:
                self._blend_now(suffix)

    def reset_parameters(self) -> None:
        """Begins anew, as the constructor does."""
        super().reset_parameters()  # type: ignore[misc]
        if self.__dict__.get("_active", False):  # not within the twin's constructor
            for suffix in self._suffixes:
                self._copy(self._begin(suffix), suffix)

    def initialize_scales(self) -> None:
        """Lets what the method learns begin from the present weights: for weights that were replaced."""
        for suffix in self._suffixes:
            self._initialize_scales(suffix)

    def _initialize_scales(self, suffix: str) -> None:
        if self._learned_names:
            state = self._begin(suffix)
            self._copy({name: state[name] for name in self._learned_names}, suffix)

    @torch.no_grad()
    def _copy(self, state: dict[str, torch.Tensor], suffix: str) -> None:
        for name, tensor in state.items():
            getattr(self, name + suffix).copy_(tensor)
        self._refresh()

    @torch.no_grad()
    def set_blend(self, share: float) -> None:
        """How far the layer has turned from float (0) to ternary (1) in training. Nothing where it stays float."""
        if self._active:
            for suffix in self._suffixes:
                self.get_buffer("blend" + suffix).fill_(share)
            self._refresh()

    def train(self: Layer, mode: bool = True) -> Layer:
        super().train(mode)
        for suffix in self._suffixes:
            weight = self._parameters.get("weight" + suffix)
            if weight is not None:
                _torch.forget_codes(weight)  # so that changes through `.data`, which leave no trace in a tensor, are seen
        return self

    # --- for forward()

    def _how(self, x: torch.Tensor | None, suffix: str = "") -> How:
        """What operators take behind the weight: the spec, the kind of activations, what is learned, the step and the blend. x: of a product."""
        own: dict[str, Any] = self._parameters
        names = [name + suffix for name in self._learned_names] if suffix else self._learned_names
        learned = [own[name] if name in own else getattr(self, name) for name in names] if names else _NOTHING
        step = getattr(self, "act_scale" + suffix) if self._has_step else None
        if not self.training:
            return self._spec, self._activation, learned, step, 1.0
        if step is not None and x is not None and not self._begun[suffix]:
            self._begin_step(x, suffix)
        spec = self.quant.weight_spec(self._next_draw(suffix)) if self._is_random else self._spec
        return spec, self._activation, learned, step, self._blend_now(suffix)

    def _product(self, operator: Callable[..., torch.Tensor], x: torch.Tensor, *window: Any) -> torch.Tensor:
        """operator(x, weight, bias, window..., how)"""
        own: dict[str, Any] = self._parameters
        if "weight" in own and "bias" in own:  # quicker than by attribute
            weight, bias = own["weight"], own["bias"]
        else:  # parametrized, replicated or flattened
            weight, bias = self.weight, self.bias
        if self._is_smoothed:
            x = x * self.input_scale
        if self._is_random and self.training:
            y: torch.Tensor = self._uncompiled(lambda: operator(x, weight, bias, *window, *self._how(x)))
            return y
        return operator(x, weight, bias, *window, *self._how(x))

    def _value(self, operator: Callable[..., torch.Tensor], *first: torch.Tensor, **rest: Any) -> torch.Tensor:
        """operator(first..., spec, learned, blend, rest...), of weights that are used by themselves."""

        def call() -> torch.Tensor:
            spec, _, learned, _, blend = self._how(None)
            return operator(*first, spec, learned, blend, **rest)

        return self._uncompiled(call) if self._is_random and self.training else call()

    @staticmethod
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _uncompiled(call: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What depends on a draw, which is text of the operator's: a graph would hold for one of them alone."""
        return call()

    def _blend_now(self, suffix: str) -> float:
        # A graph takes the number that was there when it was made; a new one makes another graph.
        if not is_compiled():
            blend = self._buffers["blend" + suffix]
            assert blend is not None
            # A file, or another process, may write it.
            if blend._version != self._share_versions[suffix] and not blend.is_meta:
                self._shares[suffix], self._share_versions[suffix] = blend.item(), blend._version
        return self._shares[suffix]

    def _next_draw(self, suffix: str) -> int:
        draw = self.get_buffer("draw" + suffix)
        if draw._version != self._draw_versions[suffix]:
            self._draws[suffix] = int(draw.item())
        self._draws[suffix] += 1
        draw.fill_(self._draws[suffix])
        self._draw_versions[suffix] = draw._version
        return self._draws[suffix]

    @torch.no_grad()
    def _begin_step(self, x: torch.Tensor, suffix: str) -> None:
        step = getattr(self, "act_scale" + suffix)
        if is_compiled():
            _begin_act_scale(step, x, self._activation)
        else:
            if torch.distributed.is_available() and torch.distributed.is_initialized() and not step.item():
                warnings.warn(
                    "a static step begins from the batch of this process alone: let one batch through the network before "
                    "DistributedDataParallel wraps it",
                    stacklevel=4,
                )
            _torch.begin_act_scale(step, x, self.quant)
        self._begun[suffix] = True

    # --- as a module

    @classmethod
    def from_float(cls: type[Layer], layer: torch.nn.Module, quant: BitQuantConfig | None = None) -> Layer:
        """The ternary form of a layer of torch.nn: its parameters, the very same tensors, its options and its mode; what the method learns begins from
        the weight. Errors: Unsupported (a layer, or options, without a ternary form), TypeMismatch (weights that are not float32)."""
        cls._check(layer, quant)
        new = cls.__new__(cls)
        torch.nn.Module.__init__(new)
        new.__dict__.update({key: value for key, value in vars(layer).items() if key not in _OF_THE_MODULE})
        new._parameters.update(layer._parameters)
        new._buffers.update(layer._buffers)
        new._quantize(quant)
        return new

    @classmethod
    def _check(cls, layer: torch.nn.Module, quant: BitQuantConfig | None) -> None:
        is_ternary = isinstance(layer, TernaryLayer) and layer.quant.enabled
        if is_ternary or not isinstance(layer, cls._twin):
            raise _core.Unsupported(f"[convert] a {cls._twin.__name__} of torch.nn, got {type(layer).__name__}")
        for name in cls._weight_names(layer):
            weight = layer._parameters.get(name)
            if name not in layer._parameters or (weight is not None and torch.nn.parameter.is_lazy(weight)):
                raise _core.Unsupported(
                    "[convert] a weight that is a parameter of the layer, got one that is computed, or made later"
                )
            if weight is not None and weight.dtype != torch.float32:
                raise _core.TypeMismatch(
                    f"[convert] a layer of float32 weights, got {str(weight.dtype).removeprefix('torch.')}"
                )

    @classmethod
    def _weight_names(cls, layer: torch.nn.Module) -> list[str]:
        return ["weight"]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, quant={_torch.describe(self.quant)}"

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Files of float networks have nothing of what a quantization adds: what is learned then begins from their weight."""
        missing: list[str] = []
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs)  # type: ignore[no-untyped-call]
        added = {prefix + name + suffix for name in _torch.quantizer_names() for suffix in self._suffixes}
        missing_keys += [name for name in missing if name not in added]
        for suffix in self._suffixes:
            is_missing = any(prefix + name + suffix in missing for name in self._learned_names)
            if is_missing and f"{prefix}weight{suffix}" in state_dict:
                self._initialize_scales(suffix)
        self._refresh()


def set_blend(network: torch.nn.Module, share: float | Callable[[int, int], float]) -> None:
    """TernaryLayer.set_blend() for every layer of a network; share(i, n) is that of the i-th of n, from 0, in the order of modules()."""
    layers = [module for module in network.modules() if isinstance(module, TernaryLayer) and module._active]
    for i, layer in enumerate(layers):
        layer.set_blend(share(i, len(layers)) if callable(share) else share)


def ternary_weights(network: torch.nn.Module) -> list[tuple[str, torch.Tensor, str, list[torch.Tensor], bool, int]]:
    """Of each ternary weight of linear layers and convolutions the parameter's name, the parameter, how it is quantized in evaluation, what is learned for
    it, whether the convolution is transposed, and its groups."""
    found = []
    for path, module in network.named_modules():
        is_product = isinstance(module, TernaryLayer) and module._is_product and module._suffixes == ("",)
        if not is_product or not module._active or module.quant.method == "int8" or "weight" not in module._parameters:
            continue
        learned = [module.get_parameter(name).detach() for name in module._learned_names]
        transposed, groups = getattr(module, "transposed", False), getattr(module, "groups", 1)
        found.append((f"{path}.weight" if path else "weight", module.weight, module._spec, learned, transposed, groups))
    return found
