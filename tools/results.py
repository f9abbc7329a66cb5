#!/usr/bin/env python3
"""Writes what README.md quotes: tables from benchmarks/results, code from the sources.

  tools/results.py --take out/demo/report.json   adopts a new result as benchmarks/results/demo.json, then writes
  tools/results.py                               writes
  tools/results.py --check                       fails where README.md is not what would be written
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Callable, Dict

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"


def kibibytes(count: int) -> str:
    return f"{count / 1024:,.1f} KiB"


def demo_table() -> str:
    r = json.loads((RESULTS / "demo.json").read_text())
    latency = r["latency_ms_b1_libtorch_float32"] / r["latency_ms_b1"]
    throughput = r["images_per_s_b64"] / r["images_per_s_b64_libtorch_float32"]
    equal = "equal byte for byte" if r["logits_equal"] else "different"
    return f"""
| LeNet-5 on MNIST, {r["epochs"]} epochs | LibTorch float32 | BitLab ternary, `bitlab-run` | gain |
|---|---:|---:|---:|
| accuracy, {r["images"]:,} test images | {r["accuracy_float"]:.2%} | {r["accuracy_deployed"]:.2%} | |
| weights on disk | {kibibytes(r["weights_bytes_float32"])} | {kibibytes(r["weights_bytes_file"])} | {r["weights_file_ratio"]:.1f}× |
| weights in memory | {kibibytes(r["weights_bytes_float32"])} | {kibibytes(r["weights_bytes_memory"])} | {r["weights_memory_ratio"]:.1f}× |
| latency, batch 1 | | | {latency:.1f}× |
| throughput, batch 64 | | | {throughput:.1f}× |

The logits of LibTorch's eval and of `bitlab-run` are {equal} on all {r["images"]:,} images. Speed is a ratio within one run: {r["threads"]} threads
of an {r["cpu"]}.
"""


TABLES: Dict[str, Callable[[], str]] = {"demo": demo_table}


def code(path: str, marker: str) -> str:
    text = (ROOT / path).read_text()
    match = re.search(rf"^// docs: {re.escape(marker)}\n(.*?)^// docs: end$", text, re.M | re.S)
    if not match:
        raise SystemExit(f"{path}: no part between '// docs: {marker}' and '// docs: end'")
    return f"\n```cpp\n{match[1].strip()}\n```\n"


def written(text: str) -> str:
    def table(match: re.Match) -> str:
        return f"{match[1]}{TABLES[match[2]]()}<!-- results: end -->"

    def snippet(match: re.Match) -> str:
        return f"{match[1]}{code(match[2], match[3])}<!-- code: end -->"

    text = re.sub(r"(<!-- results: (\w+)[^>]*-->\n).*?<!-- results: end -->", table, text, flags=re.S)
    return re.sub(r"(<!-- code: (\S+) (\S+) -->\n).*?<!-- code: end -->", snippet, text, flags=re.S)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", type=Path, metavar="REPORT", help="a report.json of bitlab demo")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.take:
        shutil.copyfile(arguments.take, RESULTS / "demo.json")
    before = README.read_text()
    after = written(before)
    if arguments.check:
        if before != after:
            print("README.md is not what tools/results.py writes; run it", file=sys.stderr)
        return int(before != after)
    README.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
