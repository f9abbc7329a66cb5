"""The extension module that needs PyTorch, with a clear word where the two do not fit."""

from __future__ import annotations

import re


def _minor(version: str) -> str:
    return ".".join(re.findall(r"\d+", version)[:2])


try:
    import torch
except ImportError as error:
    raise ImportError(
        "this part of BitLab expects PyTorch, found none: pip install 'bitlab[train]' (bitlab.runtime runs without)"
    ) from error

try:
    # The C++ interface of LibTorch changes from minor version to minor version.
    from bitlab._built_with import TORCH_VERSION
except ImportError:  # in a build folder
    TORCH_VERSION = torch.__version__

if _minor(torch.__version__) != _minor(TORCH_VERSION):
    raise ImportError(
        f"BitLab was built with PyTorch {_minor(TORCH_VERSION)}, found {torch.__version__}: install torch=={_minor(TORCH_VERSION)}.*, "
        "or build BitLab for it: pip install --no-build-isolation --no-binary bitlab bitlab"
    )

try:
    from bitlab import _torch
except ImportError as error:
    raise ImportError(f"this build of BitLab has its runtime alone, without what needs PyTorch: {error}") from error

__all__ = ["_torch", "torch"]
