"""BitLab: ternary neural networks (weights -1, 0, +1), trained with PyTorch, run without it.

    import bitlab                       # without PyTorch: configs and bitlab.runtime
    session = bitlab.runtime.Session("lenet5.bit")
    logits = session(images)            # NumPy arrays in and out

With PyTorch installed there are the layers (`bitlab.nn`), `BitConverter`, `BitModel`, `BitTrainer`, `deploy`, `verify`, `analyze`,
`quantize_for_deployment`, `to_module`, `to_torchscript`, `to_mobile`, `to_exported_program` and `to_executorch`. They are loaded at their first use, so that
`import bitlab` does not import torch.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from bitlab import _core
from bitlab import data as data
from bitlab import formats as formats
from bitlab import runtime as runtime
from bitlab._core import *  # noqa: F403  the errors and the configs
from bitlab.runtime import profile as profile

if TYPE_CHECKING:
    from bitlab import nn as nn
    from bitlab import ops as ops
    from bitlab import sinks as sinks
    from bitlab.convert import BitConverter as BitConverter
    from bitlab.convert import BitMixedPrecisionModel as BitMixedPrecisionModel
    from bitlab.convert import BitModel as BitModel
    from bitlab.convert import LayerConverter as LayerConverter
    from bitlab.convert import analyze as analyze
    from bitlab.deployment import deploy as deploy
    from bitlab.deployment import quantize_for_deployment as quantize_for_deployment
    from bitlab.deployment import verify as verify
    from bitlab.torch_formats import to_executorch as to_executorch
    from bitlab.torch_formats import to_exported_program as to_exported_program
    from bitlab.torch_formats import to_mobile as to_mobile
    from bitlab.torch_formats import to_module as to_module
    from bitlab.torch_formats import to_torchscript as to_torchscript
    from bitlab.training import BitTrainer as BitTrainer

__version__: str = _core.version()

# Where the names are that need PyTorch.
_LAZY = {
    "BitConverter": "convert",
    "BitMixedPrecisionModel": "convert",
    "BitModel": "convert",
    "LayerConverter": "convert",
    "analyze": "convert",
    "deploy": "deployment",
    "quantize_for_deployment": "deployment",
    "to_executorch": "torch_formats",
    "to_exported_program": "torch_formats",
    "to_mobile": "torch_formats",
    "to_module": "torch_formats",
    "to_torchscript": "torch_formats",
    "verify": "deployment",
    "BitTrainer": "training",
}
_LAZY_MODULES = ("convert", "deployment", "nn", "ops", "sinks", "torch_formats", "training")

_ERRORS = [name for name, value in vars(_core).items() if isinstance(value, type) and issubclass(value, Exception)]
_CONFIGS = [name for name in dir(_core) if name.endswith(("Config", "Rule"))]
__all__ = [*_ERRORS, *_CONFIGS, "data", "formats", "profile", "runtime"]
if importlib.util.find_spec("torch") is not None:
    __all__ += [*_LAZY, *_LAZY_MODULES]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"bitlab.{_LAZY[name]}"), name)
    if name in _LAZY_MODULES:
        return importlib.import_module(f"bitlab.{name}")
    raise AttributeError(f"module 'bitlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY, *_LAZY_MODULES])
