#!/usr/bin/env python3
"""Writes docs/api/cli.md from what the programs say about themselves.

  tools/cli_reference.py <folder of the programs> [--check]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Iterator, List

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api" / "cli.md"

HEAD = """# Command line

`bitlab` has every command; `bitlab-run` has those that need no LibTorch, marked *torch-free*. This page is what `--help` prints;
`tools/cli_reference.py` writes it, and a test compares.

An error is one line on stderr. Exit codes:

| code | whose fault | examples |
|---|---|---|
| 0 | nobody's | |
| 1 | nobody's | `verify` found a difference |
| 2 | the input | an unknown option, a wrong shape, a name that no list has |
| 3 | a file | missing, damaged, not writable |
| 4 | a capability | no kernel for this machine under this policy, no GPU where one is asked for, an operator that cannot be deployed |
| 5 | BitLab | an invariant that does not hold: please report it |
| 6 | nobody's | another process of a training was stopped |
| 130, 143 | nobody's | Ctrl-C or SIGTERM, behind which `bitlab train` wrote a checkpoint |

Environment: `BITLAB_KERNEL` restricts kernels (`ternary_gemm:x86_avx2,float_gemm:reference`); `BITLAB_DEVICE` is the device of sessions
that name none, and `BITLAB_HOST_OPS` what they leave to the host (`sort,softmax`); `BITLAB_CUDA_PLUGIN` is the file of the kernels for NVIDIA GPUs, and `BITLAB_NCCL_PLUGIN` of what processes on several of them exchange over; `BITLAB_DATA_DIR` is where data sets are looked for first. Colours are not used, and progress bars only where stderr is a terminal.

Shell completion: `source <(bitlab-run completion bash)`, or `zsh`.
"""


def help_of(program: Path, *command: str) -> str:
    environment = {**os.environ, "COLUMNS": "120"}
    result = subprocess.run([str(program), *command, "--help"], capture_output=True, text=True, env=environment, check=True)
    return result.stdout.strip()


def subcommands(text: str) -> List[str]:
    part = re.search(r"^(?:Subcommands|SUBCOMMANDS):\n((?:  .*\n?)+)", text + "\n", re.M)
    return re.findall(r"^  (\S+)", part[1], re.M) if part else []


def commands(program: Path, *prefix: str) -> Iterator[List[str]]:
    for name in subcommands(help_of(program, *prefix)):
        yield [*prefix, name]
        yield from commands(program, *prefix, name)


def page(folder: Path) -> str:
    free = list(commands(folder / "bitlab-run"))
    parts = [HEAD]
    for command in commands(folder / "bitlab"):
        mark = " (torch-free)" if command in free else ""
        parts.append(f"## {' '.join(command)}{mark}\n\n```text\n{help_of(folder / 'bitlab', *command)}\n```\n")
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true", help="fail where the page is not what would be written")
    arguments = parser.parse_args()
    text = page(arguments.folder)
    if arguments.check:
        same = PAGE.exists() and PAGE.read_text() == text
        if not same:
            print(f"{PAGE} is not what the programs say; run tools/cli_reference.py {arguments.folder}", file=sys.stderr)
        return int(not same)
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
