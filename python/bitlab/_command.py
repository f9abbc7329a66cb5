"""The command `bitlab`: the C++ program that comes with the package; without PyTorch the torch-free one, bitlab-run."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

_PROGRAMS = Path(__file__).parent / "bin"


def main() -> None:
    """Becomes the program."""
    torch = importlib.util.find_spec("torch")
    program = _PROGRAMS / "bitlab"
    if torch is None or torch.submodule_search_locations is None or not program.exists():
        program = _PROGRAMS / "bitlab-run"
    else:
        # The program's own search path knows a PyTorch beside the package alone.
        libraries = [os.path.join(folder, "lib") for folder in torch.submodule_search_locations]
        known = os.environ.get("LD_LIBRARY_PATH")
        os.environ["LD_LIBRARY_PATH"] = os.pathsep.join([*libraries, *([known] if known else [])])
    if not program.exists():
        sys.exit(f"bitlab: expected the program {program}, found none: this is no complete installation")
    os.execv(program, [str(program), *sys.argv[1:]])
