#!/usr/bin/env python3
"""Checks the includes of bitlab/ against the layers of the design.

Prints a line "file:line: what is wrong" for every violation and exits with 1, or prints "ok".
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path, PurePosixPath
from typing import Dict, Iterator, List, NamedTuple, Optional, Set

# Folder -> the folders that its files may include besides its own. A new folder needs a row here.
LAYERS: Dict[str, str] = {
    "base": "",
    "ternary": "base",
    "config": "base ternary",
    "kernels": "base ternary",
    "program": "base ternary",
    "profile": "base",
    "format/bit": "base ternary program",
    "format": "base program format/bit",
    "runtime": "base ternary kernels program format/bit",
    "hub": "base config",
    "data": "base config hub",
    "pipeline": "base config hub data runtime",
    "serve": "base config pipeline runtime",
    "cli": "base config ternary kernels program profile format format/bit runtime hub data pipeline serve",
    "cli/run": "cli base config ternary kernels program profile format format/bit runtime hub data pipeline serve",
    # ---------------------------------------------------------------- torch line
    "ops": "base ternary kernels",
    "nn": "base config ternary ops",
    "convert": "base config ternary nn ops",
    "models": "base config program nn convert hub",
    "train": "base config data profile nn",
    "deploy": "base config ternary program format format/bit runtime ops nn",
    "cli/train": "cli cli/run base config ternary kernels program profile format format/bit runtime hub data pipeline serve "
    "ops nn convert models train deploy",
}
ABOVE_TORCH_LINE = {"ops", "nn", "convert", "models", "train", "deploy", "cli/train"}

SOURCE_ENDINGS = (".h", ".cc", ".cu", ".def", ".cc.in")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
TEST_FILE = re.compile(r"(^|[_/])(test|bench|test_support)\.(cc|h)$")
TORCH_HEADER = re.compile(r"^(torch|ATen|c10)/")


class Include(NamedTuple):
    file: str  # from the root: bitlab/base/file.h
    line: int
    quoted: bool
    target: str

    def complain(self, text: str) -> str:
        return f"{self.file}:{self.line}: {text}"


def folder_of(path: str) -> Optional[str]:
    """The row of LAYERS that a path bitlab/... belongs to: the longest that is a prefix of its folder."""
    parts = PurePosixPath(path).parts[1:-1]
    for length in range(len(parts), 0, -1):
        if "/".join(parts[:length]) in LAYERS:
            return "/".join(parts[:length])
    return None


def source_files(root: Path) -> List[str]:
    paths = (p.relative_to(root).as_posix() for p in (root / "bitlab").rglob("*") if p.is_file())
    return sorted(p for p in paths if p.endswith(SOURCE_ENDINGS))


def includes_of(root: Path, file: str) -> Iterator[Include]:
    text = (root / file).read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if match:
            yield Include(file, number, match[1] == '"', match[2])


def check_torch(include: Include, folder: str) -> Iterator[str]:
    if not TORCH_HEADER.match(include.target):
        return
    if folder not in ABOVE_TORCH_LINE:
        yield include.complain(f"'{folder}' is below the torch line and includes <{include.target}>")
    elif include.target == "torch/torch.h" and include.file.endswith(".h"):
        yield include.complain("a header includes <torch/torch.h>; name the smaller headers that it needs")


def check_layer(include: Include, folder: str) -> Iterator[str]:
    target = folder_of(include.target)
    is_test = bool(TEST_FILE.search(include.file))
    if target is None:
        yield include.complain(f"'{include.target}' is in no folder of the table in tools/check_layers.py")
    elif not is_test and TEST_FILE.search(include.target):
        yield include.complain(f"'{include.target}' is for tests")
    elif is_test:
        if folder not in ABOVE_TORCH_LINE and target in ABOVE_TORCH_LINE:
            yield include.complain(f"a test of '{folder}', below the torch line, includes '{target}', above it")
    elif target != folder and target not in LAYERS[folder].split():
        yield include.complain(f"'{folder}' may not include '{target}' (allowed: {LAYERS[folder] or 'nothing'})")


def check_file(root: Path, file: str) -> Iterator[str]:
    folder = folder_of(file)
    if folder is None:
        yield f"{file}:1: the folder is not in the table in tools/check_layers.py"
        return
    for include in includes_of(root, file):
        yield from check_torch(include, folder)
        if include.target.startswith("bitlab/"):
            yield from check_layer(include, folder)
        elif include.quoted and (root / file).parent.joinpath(include.target).exists():
            yield include.complain(f"'{include.target}' is relative; write the path from the root of the repository")


def find_cycle(graph: Dict[str, List[str]]) -> List[str]:
    """A path that returns to its first node, or an empty list."""
    done: Set[str] = set()

    def visit(node: str, path: List[str]) -> List[str]:
        if node in path:
            return path[path.index(node) :] + [node]
        if node not in done:
            for following in graph.get(node, ()):
                cycle = visit(following, path + [node])
                if cycle:
                    return cycle
            done.add(node)
        return []

    return next(filter(None, (visit(node, []) for node in graph)), [])


def check_cycles(root: Path, files: List[str]) -> Iterator[str]:
    cycle = find_cycle({folder: allowed.split() for folder, allowed in LAYERS.items()})
    if cycle:
        yield f"tools/check_layers.py:1: the table has a cycle: {' -> '.join(cycle)}"
    cycle = find_cycle({f: [i.target for i in includes_of(root, f) if i.target.startswith("bitlab/")] for f in files})
    if cycle:
        yield f"{cycle[0]}:1: headers include each other: {' -> '.join(cycle)}"


def check(root: Path) -> List[str]:
    files = source_files(root)
    if not files:
        return [f"{root}: no sources in bitlab/"]
    violations = [violation for file in files for violation in check_file(root, file)]
    return violations + list(check_cycles(root, files))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="a checkout")
    violations = check(parser.parse_args().root)
    print("\n".join(violations) if violations else "ok")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
