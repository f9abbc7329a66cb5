"""Where a benchmark's result goes, and what it says of the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def cpu() -> str:
    """This machine's processor, as Linux calls it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "")


def replace(path: Path, result: dict[str, Any]) -> None:
    """The file with that result, at no time with a part of it."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(path)


def write(name: str, result: dict[str, object], take: bool) -> None:
    """To out/bench/<name>.json and, where it is taken, to what the documents quote."""
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    for folder in ["out/bench"] + ["benchmarks/results"] * take:
        file = ROOT / folder / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
