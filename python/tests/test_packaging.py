"""One list of requirements: the files that scripts install from stay inside of what pyproject.toml says."""

from __future__ import annotations

import re
import sys

import pytest
from conftest import ROOT

tomllib = pytest.importorskip("tomllib")
requirements = pytest.importorskip("packaging.requirements")

FILES = {
    "requirements.txt": ("train",),
    "python/tests/requirements.txt": ("train", "dev", "hf", "onnx", "build-system"),
    "docs/requirements.txt": ("docs",),
    "tools/requirements.txt": ("dev",),
    "tools/cuda-requirements.txt": ("cuda",),
    "tools/cuda-code-requirements.txt": ("cuda",),
    "benchmarks/peers/requirements.txt": ("train", "onnx", "benchmarks"),
}


def names(texts: list[str]) -> dict[str, object]:
    parsed = [requirements.Requirement(text) for text in texts]
    return {re.sub("[-_.]+", "-", r.name).lower(): r for r in parsed}


@pytest.mark.parametrize("file", FILES)
def test_pins_are_allowed(file: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = {**project["project"]["optional-dependencies"], "build-system": project["build-system"]["requires"]}
    allowed = names(project["project"]["dependencies"])
    for group in FILES[file]:
        allowed.update(names(groups[group]))
    lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    for name, wanted in names([line for line in lines if line and not line.startswith("-")]).items():
        assert name in allowed, f"{name} of {file} is in no group of pyproject.toml"
        for specifier in wanted.specifier:  # type: ignore[attr-defined]
            if specifier.operator == "==" and "*" not in specifier.version:
                assert specifier.version in allowed[name].specifier, f"{name} {specifier} of {file}"  # type: ignore[attr-defined]


def test_python_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = project["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {oldest}" in project["classifiers"]
    assert sys.version_info >= tuple(map(int, oldest.split(".")))
