#!/usr/bin/env python3
"""Accuracy of LeNet-5 on MNIST over quantization methods and granularities: the mean of several seeds, beside float32 in the same run.

Trains with `bitlab train` on all 60,000 training images, without choosing an epoch, and reads the accuracy on the 10,000 test images. The
results are written after each run; a call that finds a file of the same settings goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import outcome  # noqa: E402

# What is trained, the ones that a reader asks for first in front. ttq's published threshold of 0.05 max|w| was chosen for networks with
# wider layers; 0.2 leaves about as many zeros here as the other methods do.
CASES: List[Dict[str, str]] = [
    {"quant": "none"},
    *({"quant": method, "granularity": "tensor"} for method in ("absmean", "twn")),
    {"quant": "ttq", "granularity": "tensor", "threshold": "0.2"},
    *({"quant": method, "granularity": "tensor"} for method in ("absmedian", "lsq", "fixed")),
    *({"quant": method, "granularity": "channel"} for method in ("absmean", "twn")),
    {"quant": "ttq", "granularity": "channel", "threshold": "0.2"},
    *({"quant": method, "granularity": "channel"} for method in ("absmedian", "lsq", "fixed")),
]


def train(bitlab: Path, case: Dict[str, str], settings: Dict[str, Any], seed: int) -> float:
    """Test accuracy of one run, in percent."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--{key}={value}" for key, value in {**settings["flags"], **case, "seed": str(seed)}.items()]
        command = [str(bitlab), "train", "--model=lenet5", "--data=mnist", *flags, "-o", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return 100 * float(json.loads((Path(folder) / "report.json").read_text())["test"]["accuracy"])


def load(path: Path, settings: Dict[str, Any]) -> Dict[str, Any]:
    fresh = {"command": "python3 benchmarks/accuracy/mnist_methods.py", "settings": settings, "machine": platform.machine(), "rows": []}
    if not path.exists():
        return fresh
    known = json.loads(path.read_text())
    return known if known["settings"] == settings else fresh


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bitlab", type=Path, default=ROOT / "build/dev/bin/bitlab", help="the program")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/mnist_methods.json", help="where results are kept")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of a run")
    parser.add_argument("--seeds", type=int, default=3, help="seeds, from 1")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, of one thread each")
    args = parser.parse_args()
    flags = {"epochs": str(args.epochs), "validation": "0", "threads": "1"}
    results = load(args.output, {"model": "lenet5", "data": "mnist", "seeds": args.seeds, "flags": flags})
    rows = {json.dumps(row["case"], sort_keys=True): row for row in results["rows"]}
    todo = [(case, seed) for case in CASES for seed in range(1, args.seeds + 1)]

    def run(item: Any) -> None:
        case, seed = item
        row = rows.setdefault(json.dumps(case, sort_keys=True), {"case": case, "accuracy": {}})
        if str(seed) in row["accuracy"]:
            return
        row["accuracy"][str(seed)] = round(train(args.bitlab, case, results["settings"], seed), 4)
        results["rows"] = [rows[key] for key in (json.dumps(c, sort_keys=True) for c in CASES) if key in rows]
        outcome.replace(args.output, results)
        print(case, seed, row["accuracy"][str(seed)], flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(run, todo))
    return 0


if __name__ == "__main__":
    sys.exit(main())
