"""The command `bitlab`: the C++ program that comes with the package; without PyTorch the torch-free one, bitlab-run. Exported programs and files for
ExecuTorch, whose compilers are Python, are made here."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import sys
from pathlib import Path

from bitlab import _core

_PROGRAMS = Path(_core.__file__).parent / "bin"  # of an editable installation: where what is compiled is


def _range(text: str) -> tuple[str, tuple[int, int]]:
    match = re.fullmatch(r"(.+)=(?:(\d+):)?(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"NAME=LEAST:MOST expected, got {text!r}")
    name, least, most = match.groups()
    return name, (int(least or most), int(most))


def _options(arguments: list[str]) -> argparse.Namespace | None:
    """Of `deploy` with an output that is made here; None for everything else."""
    output = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    output.add_argument("-o", "--output", default="")
    suffix = Path(output.parse_known_args(arguments)[0].output).suffix
    if arguments[:1] != ["deploy"] or suffix not in (".pt2", ".pte"):
        return None
    what = "a program of torch.export (.pt2)" if suffix == ".pt2" else "a network for ExecuTorch (.pte)"
    parser = argparse.ArgumentParser("bitlab deploy", description=f"Write {what}")
    parser.add_argument("source", type=Path, help="A file of a format that is read, by its ending")
    parser.add_argument("-o", "--output", required=True, help="The file to write")
    if suffix == ".pt2":
        parser.add_argument(
            "--variant",
            choices=["packed", "portable"],
            default="packed",
            help="packed needs BitLab's operators where it is loaded, portable PyTorch alone (%(default)s)",
        )
        return parser.parse_args(arguments[1:])
    parser.add_argument(
        "--range",
        action="append",
        default=[],
        type=_range,
        metavar="NAME=LEAST:MOST",
        help="Sizes from run to run, such as batch=1:8, or batch=8 for this one alone; memory is planned for the largest",
    )
    return parser.parse_args(arguments[1:])


def _deploy(options: argparse.Namespace) -> None:
    try:
        if options.source.is_dir() and not options.source.suffix:
            raise _core.InvalidArgument(
                f"[deploy] a file for PyTorch's compilers, got the folder {options.source}: `bitlab deploy` makes a .bit of it"
            )
        from bitlab.torch_formats import to_executorch, to_exported_program

        if "variant" in options:
            to_exported_program(options.source, path=options.output, variant=options.variant)
            print(f"{options.output}: {Path(options.output).stat().st_size} bytes")
            return
        program = to_executorch(options.source, path=options.output, ranges=dict(options.range))
    except (_core.Error, ImportError, OSError) as error:
        print(f"bitlab: error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, (ValueError, TypeError)) else 3 if isinstance(error, OSError) else 4)  # as the program
    memory = sum(program.executorch_program.execution_plan[0].non_const_buffer_sizes)
    print(f"{options.output}: {len(program.buffer)} bytes, and {memory} of memory in a run")


def main() -> None:
    """Becomes the program."""
    if (options := _options(sys.argv[1:])) is not None:
        return _deploy(options)
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
