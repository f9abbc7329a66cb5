"""Networks as source in C, compiled and run here; nothing of PyTorch."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]
# The inputs in their order, as arrays, and the outputs in theirs.
Run = Callable[[Arrays], list[np.ndarray]]
# Heads and depth of each state, which a file in another format has as an input behind the others: empty here, in front of the first token.
States = Sequence[tuple[int, int]]


def c_compiler(path: Path, states: States = ()) -> Run:
    """By way of a shared library, which the machine's compiler makes of the source; sample after sample."""
    library = path.with_suffix(".so")
    subprocess.run(["cc", "-std=c99", "-O2", "-shared", "-fPIC", "-o", library, path, "-lm"], check=True)
    header = path.with_suffix(".h").read_text()
    name = re.search(r"int (\w+)_run\(", header)[1]
    sizes = [int(n) for n in re.findall(rf"#define {name.upper()}_OUT_\w+_SIZE (\d+)", header)]
    function = getattr(ctypes.CDLL(str(library)), f"{name}_run")

    def run(inputs: Arrays) -> list[np.ndarray]:
        samples = []
        for i in range(len(next(iter(inputs.values())))):
            arrays = [np.ascontiguousarray(x[i]) for x in inputs.values()]
            outputs = [np.empty(size, np.float32) for size in sizes]
            assert function(*(ctypes.c_void_p(a.ctypes.data) for a in arrays + outputs)) == 0
            samples.append(outputs)
        return [np.stack(parts) for parts in zip(*samples, strict=True)]

    return run
