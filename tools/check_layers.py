#!/usr/bin/env python3
"""Checks the includes of bitlab/ against the libraries' dependencies, which bitlab/CMakeLists.txt lists (DEPS).

Both directions are checked: an include needs an edge, and an edge needs an include. Prints a line "file:line: what is wrong" for
every violation and exits with 1, or prints "ok".
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path, PurePosixPath
from typing import Dict, Iterator, List, NamedTuple, Optional, Set

LIBRARIES = "bitlab/CMakeLists.txt"
LIBRARY = re.compile(r"\bbitlab_library\(\s*([^\s)]+)([^)]*)\)")
KEYWORDS = ("SHARED", "TORCH", "GLUE", "DEPS", "PRIVATE_LINK", "TEST_DEPS", "TEST_SHARDS")

# The programs' folders are no libraries: folder -> what its files may include besides their own.
PROGRAMS: Dict[str, str] = {
    "cli": "base kernels",
    "cli/run": "cli base data format format/bit kernels profile program report runtime ternary",
    "cli/train": "cli cli/run base config convert data deploy format format/bit models nn profile runtime train",
}
PROGRAMS_ABOVE_TORCH_LINE = {"cli/train"}

SOURCE_ENDINGS = (".h", ".cc", ".cu", ".def", ".cc.in")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
TEST_FILE = re.compile(r"(^|[_/])(test|bench|test_support)\.(cc|h)$")
NOT_INSTALLED = re.compile(r"/(internal|cuda)/")  # as cmake/install.cmake says
TORCH_HEADER = re.compile(r"^(torch|ATen|c10)/")


class Include(NamedTuple):
    file: str  # from the root: bitlab/base/file.h
    line: int
    quoted: bool
    target: str

    def complain(self, text: str) -> str:
        return f"{self.file}:{self.line}: {text}"


class Layers(NamedTuple):
    allowed: Dict[str, List[str]]  # folder -> the folders that its files may include besides their own
    above_torch_line: Set[str]
    listed_at: Dict[str, str]  # folder -> file:line of its list

    def folder_of(self, path: str) -> Optional[str]:
        """The folder of a path bitlab/... that has a list: the longest that is a prefix of the path's own."""
        parts = PurePosixPath(path).parts[1:-1]
        prefixes = ("/".join(parts[:length]) for length in range(len(parts), 0, -1))
        return next((prefix for prefix in prefixes if prefix in self.allowed), None)


def library_layers(text: str) -> Layers:
    """What the calls of bitlab_library() in a CMakeLists.txt say."""
    text = re.sub(r"#.*", "", text)
    calls = [(m[1], m[2].split(), text.count("\n", 0, m.start()) + 1) for m in LIBRARY.finditer(text)]
    folders = {name.replace("/", "_"): name for name, _, _ in calls}  # CMake's targets have no slashes
    layers = Layers({}, set(), {})
    for name, words, line in calls:
        keyword = ""
        layers.allowed[name] = []
        layers.listed_at[name] = f"{LIBRARIES}:{line}"
        for word in words:
            if word in KEYWORDS:
                keyword = word
            elif keyword == "DEPS":
                layers.allowed[name].append(folders.get(word, word))
        if "TORCH" in words:
            layers.above_torch_line.add(name)
    return layers


def read_layers(root: Path) -> Layers:
    layers = library_layers((root / LIBRARIES).read_text(encoding="utf-8"))
    for folder, allowed in PROGRAMS.items():
        if not (root / "bitlab" / folder).is_dir():
            continue
        layers.allowed[folder] = allowed.split()
        layers.listed_at[folder] = "tools/check_layers.py:1"
    layers.above_torch_line.update(PROGRAMS_ABOVE_TORCH_LINE)
    return layers


def source_files(root: Path) -> List[str]:
    paths = (p.relative_to(root).as_posix() for p in (root / "bitlab").rglob("*") if p.is_file())
    return sorted(p for p in paths if p.endswith(SOURCE_ENDINGS))


def includes_of(root: Path, file: str) -> Iterator[Include]:
    text = (root / file).read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if match:
            yield Include(file, number, match[1] == '"', match[2])


def check_torch(layers: Layers, include: Include, folder: str) -> Iterator[str]:
    if not TORCH_HEADER.match(include.target):
        return
    if folder not in layers.above_torch_line:
        yield include.complain(f"'{folder}' is below the torch line and includes <{include.target}>")
    elif include.target == "torch/torch.h" and include.file.endswith(".h"):
        yield include.complain("a header includes <torch/torch.h>; name the smaller headers that it needs")


def check_layer(layers: Layers, include: Include, folder: str) -> Iterator[str]:
    target = layers.folder_of(include.target)
    is_test = bool(TEST_FILE.search(include.file))
    if target is None:
        yield include.complain(f"'{include.target}' is of no library in {LIBRARIES}")
    elif not is_test and TEST_FILE.search(include.target):
        yield include.complain(f"'{include.target}' is for tests")
    elif is_test:
        if folder not in layers.above_torch_line and target in layers.above_torch_line:
            yield include.complain(f"a test of '{folder}', below the torch line, includes '{target}', above it")
    elif target != folder and target not in layers.allowed[folder]:
        at = layers.listed_at[folder]
        yield include.complain(f"the edge {folder} -> {target} is missing: add '{target}' to the list of '{folder}' at {at}")


def check_installed(include: Include) -> Iterator[str]:
    is_installed = include.file.endswith(".h") and not TEST_FILE.search(include.file) and not NOT_INSTALLED.search(include.file)
    if is_installed and NOT_INSTALLED.search(include.target):
        yield include.complain(f"an installed header includes '{include.target}', which is not installed")


def check_file(root: Path, layers: Layers, file: str) -> Iterator[str]:
    folder = layers.folder_of(file)
    if folder is None:
        yield f"{file}:1: the folder has no bitlab_library() in {LIBRARIES}"
        return
    for include in includes_of(root, file):
        yield from check_torch(layers, include, folder)
        if include.target.startswith("bitlab/"):
            yield from check_layer(layers, include, folder)
            yield from check_installed(include)
        elif include.quoted and (root / file).parent.joinpath(include.target).exists():
            yield include.complain(f"'{include.target}' is relative; write the path from the root of the repository")


def check_edges(root: Path, layers: Layers, files: List[str]) -> Iterator[str]:
    """Every edge must be used by an include outside of tests, and both of its ends must exist."""
    used: Dict[str, Set[Optional[str]]] = {folder: set() for folder in layers.allowed}
    for file in files:
        folder = layers.folder_of(file)
        if folder is not None and not TEST_FILE.search(file):
            used[folder].update(layers.folder_of(include.target) for include in includes_of(root, file))
    for folder, allowed in layers.allowed.items():
        at = layers.listed_at[folder]
        if not (root / "bitlab" / folder).is_dir():
            yield f"{at}: there is no folder bitlab/{folder}"
            continue
        for target in allowed:
            if target not in layers.allowed:
                yield f"{at}: the edge {folder} -> {target} leads to no library"
            elif target not in used[folder]:
                yield f"{at}: no include uses the edge {folder} -> {target}: drop '{target}' from the list of '{folder}'"


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


def check_cycles(root: Path, layers: Layers, files: List[str]) -> Iterator[str]:
    cycle = find_cycle(layers.allowed)
    if cycle:
        yield f"{LIBRARIES}:1: the libraries have a cycle: {' -> '.join(cycle)}"
    cycle = find_cycle({f: [i.target for i in includes_of(root, f) if i.target.startswith("bitlab/")] for f in files})
    if cycle:
        yield f"{cycle[0]}:1: headers include each other: {' -> '.join(cycle)}"


def check(root: Path) -> List[str]:
    files = source_files(root)
    if not files or not (root / LIBRARIES).exists():
        return [f"{root}: no sources in bitlab/, or no {LIBRARIES}"]
    layers = read_layers(root)
    violations = [violation for file in files for violation in check_file(root, layers, file)]
    return violations + list(check_edges(root, layers, files)) + list(check_cycles(root, layers, files))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="a checkout")
    violations = check(parser.parse_args().root)
    print("\n".join(violations) if violations else "ok")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
