"""Runs of `bitlab train` that go on where they were stopped."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any


def report_of(bitlab: Path, folder: Path, flags: list[str], quiet: bool = False) -> dict[str, Any]:
    """The report of the run in the folder, which is trained where it is not there, and from its checkpoint where it is under way."""
    report = folder / "report.json"
    if not report.exists():
        begun = (folder / "last.ckpt").exists()
        command = [str(bitlab), "train", *(["--resume"] if begun else flags), "-o", str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL if quiet else None)
    return dict(json.loads(report.read_text()))
