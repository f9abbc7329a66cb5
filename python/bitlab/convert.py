"""Modules of PyTorch, made ternary: layers replaced (BitConverter), or their products intercepted (BitModel)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from bitlab import _core, nn
from bitlab._calls import flatten
from bitlab._core import BitQuantConfig, MixedPrecisionConfig
from bitlab._extension import _torch, torch

ConversionReport = _torch.ConversionReport
LayerReport = _torch.LayerReport
Sensitivity = _torch.Sensitivity

T = TypeVar("T")


def mixed(config: MixedPrecisionConfig | BitQuantConfig | None) -> MixedPrecisionConfig:
    """Rules for layers; a plain quantization is one for all of them."""
    if isinstance(config, MixedPrecisionConfig):
        return config
    rules = MixedPrecisionConfig()
    if config is not None:
        rules.quant = config
    return rules


def _take_no_shortcut(module: torch.nn.Module) -> None:
    """PyTorch's encoder layers have a fused path for eval, which reads the float weights of their layers."""
    for part in module.modules():
        if isinstance(part, torch.nn.TransformerEncoderLayer):
            part.activation_relu_or_gelu = 0
        if isinstance(part, torch.nn.TransformerEncoder):
            part.use_nested_tensor = False


class BitConverter:
    """Replaces the layers of a module."""

    @staticmethod
    def convert(
        module: torch.nn.Module,
        config: MixedPrecisionConfig | BitQuantConfig | None = None,
        *,
        tags: Mapping[str, str] | None = None,
    ) -> ConversionReport:
        """Replaces every torch.nn.Linear, Conv1d to ConvTranspose3d, Embedding, EmbeddingBag, LSTM and GRU inside `module` (those very classes) by its ternary
        form, as the rules say. The new layers hold the same parameters, so optimizers and ties stay as they are; what methods learn is new to an
        optimizer. Weights that other code reads (a parameter of a class of one's own, nn.MultiheadAttention's) stay float and are reported as
        skipped: BitModel intercepts those. All or nothing: where a layer has options without a ternary form, Unsupported names it."""
        report, planned = _torch.plan(module, mixed(config), dict(tags or {}))
        replaced = {p.path: p.quant for p in planned if p.is_layer and not p.is_master}
        places = _places(module)
        twins: dict[int, torch.nn.Module] = {}
        refused: dict[str, str] = {}
        for path, quant in replaced.items():
            layer = module.get_submodule(path)
            ternary = nn.LAYERS.get(type(layer))
            parents = places.get(id(layer), [])
            if ternary is None or not parents or any(isinstance(p, torch.nn.MultiheadAttention) for p, _ in parents):
                refused[path] = "read by other code: BitModel intercepts these"
                continue
            try:
                twins[id(layer)] = ternary.from_float(layer, quant)
            except _core.Error as error:
                raise type(error)(f"{error} (layer={path})") from None
        for identity, twin in twins.items():
            for parent, key in places[identity]:
                parent._modules[key] = twin
        if twins:
            _take_no_shortcut(module)
        report.layers = [_as_done(layer, refused.get(layer.path), layer.path in replaced) for layer in report.layers]
        return report


LayerConverter = BitConverter


def _as_done(layer: LayerReport, refused: str | None, is_replaced: bool) -> LayerReport:
    if layer.action != "intercepted":
        return layer
    if is_replaced and refused is None:
        return LayerReport(layer.path, layer.type, "replaced", layer.reason, layer.quant, layer.parameters)
    reason = refused or "no layer by itself: BitModel intercepts these"
    return LayerReport(layer.path, layer.type, "skipped", reason, "", layer.parameters)


def _places(module: torch.nn.Module) -> dict[int, list[tuple[torch.nn.Module, str]]]:
    """Where each module is registered, by identity."""
    places: dict[int, list[tuple[torch.nn.Module, str]]] = {}
    for parent in module.modules():
        for key, child in parent._modules.items():
            if child is not None:
                places.setdefault(id(child), []).append((parent, key))
    return places


class _Added(torch.nn.Module):
    """What interception adds to one weight: scales that are learned, steps, the warm-up."""


class BitModel(torch.nn.Module):
    """Wraps a module whose weights are ternary while its forward runs, without a change of the module: the products of every layer and of parameters
    with two dimensions or more are intercepted wherever they are computed, in functional calls, nn.MultiheadAttention, the attention of Hugging
    Face or code of one's own. Rules decide for each weight, by path.

    The first forward pass in training, and the first in eval, is audited: where a weight is read by anything but a product, it raises Unsupported
    and names weight and reader. A rule with master=True makes such a weight ternary wherever it is read, one with method none leaves it as it is.

    One thread at a time. Outside of forward() the module computes in float: a recomputation under gradient checkpointing would. torch.compile
    leaves it out; BitConverter's layers compile."""

    def __init__(
        self,
        model: torch.nn.Module,
        config: MixedPrecisionConfig | BitQuantConfig | None = None,
        *,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._tags = dict(tags or {})
        self._config = mixed(config)
        self._wrap()

    def _wrap(self) -> None:
        model = self.model  # not self, which C++ would keep alive
        self._native = _torch.BitModel(model, lambda inputs: flatten(model(**inputs)), self._config, self._tags)
        self._register()

    def _register(self) -> None:
        """Makes the tensors of the interception parameters and buffers of this module, under C++'s names."""
        self.intercepted = torch.nn.Module()
        for name, tensor, is_parameter in self._native.added_state():
            weight, key = name.rsplit(".", 1)
            if weight not in self.intercepted._modules:
                self.intercepted.add_module(weight, _Added())
            part = self.intercepted._modules[weight]
            assert part is not None
            if is_parameter:
                part.register_parameter(key, _as_parameter(tensor))
            else:
                part.register_buffer(key, tensor)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.intercept(lambda: self.model(*args, **kwargs))

    def intercept(self, call: Callable[[], T]) -> T:
        """What call() returns, with the module's weights ternary while it runs: for methods other than forward."""
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it reads weights in one operator
        try:
            return cast(T, self._native.intercept(call))
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)

    @property  # type: ignore[override]
    def training(self) -> bool:
        """C++ trains and evaluates it, too."""
        return self._native.training if "_native" in self.__dict__ else True

    @training.setter
    def training(self, mode: bool) -> None:
        if "_native" in self.__dict__ and mode != self._native.training:
            self._native.train(mode)

    def train(self, mode: bool = True) -> BitModel:
        self._native.train(mode)
        return self

    def set_blend(self, share: float | Callable[[int, int], float]) -> None:
        """How far weights have turned from float (0) to ternary (1) in training; share(i, n) of the i-th of n, from 0."""
        self._native.set_blend(share if callable(share) else lambda layer, layers: share)

    @property
    def report(self) -> ConversionReport:
        return self._native.report

    @property
    def config(self) -> MixedPrecisionConfig:
        return self._config

    def save(self, path: str | os.PathLike[str]) -> None:
        """The state with its rules, in LibTorch's archive, as C++'s BitModel saves it."""
        self._native.save_to(os.fspath(path))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Loads what save() wrote for a model with the same rules."""
        self._native.load_from(os.fspath(path))

    def __getstate__(self) -> dict[str, Any]:
        self._native.check_made_by_rules()
        return {"model": self.model, "config": self._config, "tags": self._tags, "added": self.intercepted.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__init__()
        self.model, self._config, self._tags = state["model"], state["config"], state["tags"]
        self._wrap()
        self.intercepted.load_state_dict(state["added"])


BitMixedPrecisionModel = BitModel


def native_of(module: torch.nn.Module) -> Any:
    """What C++ takes for a module: the BitModel of C++, or the module, of which it makes a mirror."""
    return module._native if isinstance(module, BitModel) else module


def _as_parameter(tensor: torch.Tensor) -> torch.nn.Parameter:
    """The very tensor as a Parameter: C++ and the optimizer must see one."""
    if not isinstance(tensor, torch.nn.Parameter):
        tensor.__class__ = torch.nn.Parameter
    assert isinstance(tensor, torch.nn.Parameter)
    return tensor


def analyze(
    model: torch.nn.Module,
    loss: Callable[[torch.nn.Module], float],
    config: MixedPrecisionConfig | BitQuantConfig | None = None,
) -> Sensitivity:
    """Makes one layer after the other ternary and calls loss(model), which measures the network in eval. `model`: a float network, which stays as it
    is, or a BitModel of one. The result proposes rules: propose_rules(budget)."""
    wrapped = model if isinstance(model, BitModel) else BitModel(model, config)
    mode = wrapped.training
    wrapped.eval()
    try:
        with torch.no_grad():
            return _torch.analyze(wrapped._native, lambda: float(loss(wrapped)))
    finally:
        wrapped.train(mode)
