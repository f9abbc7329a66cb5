"""The build backend of pyproject.toml: scikit-build-core, with the PyTorch that the package is built for.

A build is for one minor version of PyTorch. It is, in this order: what BITLAB_TORCH_DIR names (a LibTorch folder), the one that stands where the package
will be installed, the newest that fits, which is then installed for the build alone. With `-C cmake.define.BITLAB_TRAIN=OFF` there is none, and the
package is the runtime alone.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path
from typing import Any

from scikit_build_core import build as _build
from scikit_build_core.build import *  # noqa: F403

TORCH = "torch>=2.11,<2.14"
Settings = dict[str, Any] | None


def installed_torch() -> Path | None:
    """PyTorch's folder in the environment that the package is installed into, which pip's isolated build hides from imports."""
    for scheme in ("purelib", "platlib"):
        folder = Path(sysconfig.get_path(scheme)) / "torch"
        if (folder / "share/cmake/Torch/TorchConfig.cmake").is_file():
            return folder
    return None


def _requirements(settings: Settings) -> list[str]:
    wants_runtime_alone = str((settings or {}).get("cmake.define.BITLAB_TRAIN", "ON")).upper() in ("OFF", "0", "FALSE", "NO")
    if wants_runtime_alone or os.environ.get("BITLAB_TORCH_DIR"):
        return []
    return [] if installed_torch() is not None else [TORCH]


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    return [*_build.get_requires_for_build_wheel(config_settings), *_requirements(config_settings)]


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    return [*_build.get_requires_for_build_editable(config_settings), *_requirements(config_settings)]


def _find_torch() -> None:
    found = installed_torch()
    if found is not None:
        os.environ.setdefault("BITLAB_TORCH_DIR", str(found))
        return
    try:
        import torch
    except ImportError:
        return
    os.environ.setdefault("BITLAB_TORCH_DIR", str(Path(torch.__file__).parent))


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    _find_torch()
    return _build.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    _find_torch()
    return _build.build_editable(wheel_directory, config_settings, metadata_directory)
