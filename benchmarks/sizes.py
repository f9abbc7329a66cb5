#!/usr/bin/env python3
"""What networks weigh when they are ternary: the .bit file on disk and the weights in memory, beside float32.

  make bench-sizes                       measures; writes out/bench/sizes.json
  make bench-sizes BENCH_ARGS=--take     and adopts the result as benchmarks/results/sizes.json

Each network is converted twice, deployed and run without LibTorch: once with every layer ternary, once with its first layer, its last one and its
embeddings in int8. float32 counts the parameters of the network, each once. In memory are all constants as the kernels read them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import outcome
import torch
from networks import NETWORKS, Make, names

import bitlab

INT8 = {"quant": {"method": "int8"}}
# Parameters of a network itself are positions, tokens and tables: no weights of products.
TABLES = {"type": "parameter", "quant": {"method": "none"}}
SETTINGS: dict[str, dict[str, Any]] = {
    "ternary": {"method": "absmean", "granularity": "channel", "rules": [TABLES]},
    "int8 ends": {
        "method": "absmean",
        "granularity": "channel",
        "rules": [TABLES, {"position": "first", **INT8}, {"position": "last", **INT8}, {"type": "embedding", **INT8}],
    },
}


def measure(make: Make, setting: dict[str, Any], folder: Path) -> dict[str, float]:
    torch.manual_seed(0)
    model, example = make()
    model.eval()
    bytes_of_floats = sum(p.numel() for p in model.parameters()) * 4
    # Some networks read the weights of their layers in functions of their own: a BitModel sees those, too.
    ternary = bitlab.BitModel(model, bitlab.MixedPrecisionConfig.from_dict(setting))
    inputs = example if isinstance(example, dict) else {"x": example}
    axes = {name: {0: "batch"} for name in inputs} if isinstance(example, dict) else None
    deployed = bitlab.deploy(ternary, example, folder / "model.bit", dynamic_axes=axes)
    session = bitlab.runtime.Session(folder / "model.bit")
    outputs = session.run({port.name: tensor.numpy() for port, tensor in zip(session.model.inputs, inputs.values(), strict=True)})
    assert all(np.isfinite(y).all() for y in outputs.values())
    return {
        "float32_mb": round(bytes_of_floats / 1e6, 2),
        "file_mb": round(deployed.file_bytes / 1e6, 2),
        "memory_mb": round(deployed.weight_bytes / 1e6, 2),
        "file_ratio": round(bytes_of_floats / deployed.file_bytes, 2),
        "memory_ratio": round(bytes_of_floats / deployed.weight_bytes, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=names(NETWORKS), default=",".join(NETWORKS), help="of these, with commas between (%(default)s)")
    parser.add_argument("--take", action="store_true", help="also write benchmarks/results/sizes.json")
    args = parser.parse_args()
    cases = []
    for key in args.networks:
        title, make = NETWORKS[key]
        begin = time.monotonic()
        try:
            with tempfile.TemporaryDirectory() as folder:
                found = {name: measure(make, setting, Path(folder)) for name, setting in SETTINGS.items()}
        except bitlab.Error as error:
            print(f"{title}: {error}", file=sys.stderr, flush=True)
            cases.append({"network": title, "reason": str(error)})
            continue
        cases.append({"network": title, "settings": found})
        ratios = ", ".join(f"{name} {v['file_mb']:.2f} MB ({v['file_ratio']:.1f}×), {v['memory_ratio']:.1f}× in memory" for name, v in found.items())
        print(f"{title}, {found['ternary']['float32_mb']:.1f} MB: {ratios} ({time.monotonic() - begin:.0f} s)", file=sys.stderr, flush=True)
    result = {"command": "make bench-sizes BENCH_ARGS=--take", "cases": cases}
    outcome.write("sizes", result, args.take)


if __name__ == "__main__":
    main()
