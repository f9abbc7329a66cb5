"""Files of networks in other formats, without PyTorch.

bitlab.formats.available()                                     # names, endings, variants
bitlab.formats.convert("lenet5.bit", "lenet5.onnx", variant="int2")
bitlab.formats.verify("lenet5.bit", "lenet5.onnx").is_equal()
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from bitlab import _core
from bitlab._core import Comparison as Comparison
from bitlab._core import Conversion as Conversion
from bitlab._core import Format as Format
from bitlab._core import OutputDifference as OutputDifference

__all__ = ["Comparison", "Conversion", "Format", "OutputDifference", "available", "convert", "verify"]


def available() -> list[Format]:
    """The formats that networks are written in."""
    return _core.format_list()


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    format: str | None = None,
    variant: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
) -> Conversion:
    """Reads a network in the format of the source's ending, and writes it.

    format, variant: of available(); without them what the target's ending says, and its first variant. tokenizer: for gguf and hf, the path of a
    tokenizer.json, or of a file or folder that has one; "none"; without it the source's own. Errors: UnknownName, Unsupported, naming what the format has no form
    for."""
    return _core.convert_file(source, target, format or "", variant or "", os.fspath(tokenizer or ""))


def verify(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    samples: int = 64,
    seed: int = 1,
    sizes: Mapping[str, int] | None = None,
) -> Comparison:
    """Reads two networks in the formats of their endings, and compares inputs and outputs, weights in the order in which they are read, and what both
    compute of the same random inputs.

    samples: the batch. sizes: of symbols of the first network, by name; the others are at their least. Errors: those of reading and of running."""
    return _core.verify_files(a, b, samples, seed, dict(sizes or {}))
