"""Files of networks in other formats, without PyTorch.

bitlab.formats.available()                                     # names, endings, variants
bitlab.formats.convert("lenet5.bit", "lenet5.onnx", variant="int2")
"""

from __future__ import annotations

import os

from bitlab import _core
from bitlab._core import Conversion as Conversion
from bitlab._core import Format as Format

__all__ = ["Conversion", "Format", "available", "convert"]


def available() -> list[Format]:
    """The formats that networks are written in."""
    return _core.format_list()


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    format: str | None = None,
    variant: str | None = None,
) -> Conversion:
    """Reads a network in the format of the source's ending, and writes it.

    format, variant: of available(); without them what the target's ending says, and its first variant. Errors: UnknownName, Unsupported, naming what the
    format has no form for."""
    return _core.convert_file(source, target, format or "", variant or "")
