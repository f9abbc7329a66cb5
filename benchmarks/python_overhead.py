#!/usr/bin/env python3
"""What a call of BitLinear costs beside one of torch.nn.Linear, where the product itself costs next to nothing: x of 1 x 64, a weight of 64 x 64.

  benchmarks/python_overhead.py            prints the ratios of evaluation (no_grad) and of training (forward and backward)
  benchmarks/python_overhead.py --json     the same as JSON

Every round runs each layer in turn; a ratio is the median over the rounds of the ratio of two layers' times in the same round. One thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

import bitlab
from bitlab.nn import BitLinear

SIZE = 64


def seconds(call: Callable[[], object], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begin) / calls


def ratios(layers: dict[str, Callable[[], object]], rounds: int, calls: int) -> dict[str, dict[str, float]]:
    """Microseconds of each, and its ratio to the first."""
    first = next(iter(layers))
    times: dict[str, list[float]] = {name: [] for name in layers}
    for call in layers.values():
        seconds(call, calls)
    for _ in range(rounds):
        for name, call in layers.items():
            times[name].append(seconds(call, calls))
    return {
        name: {
            "microseconds": round(statistics.median(found) * 1e6, 2),
            "ratio": round(statistics.median(a / b for a, b in zip(found, times[first], strict=True)), 3),
        }
        for name, found in times.items()
    }


def measure(rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    configs = {
        "BitLinear": bitlab.BitQuantConfig(),
        "BitLinear none": bitlab.BitQuantConfig.none(),
        "BitLinear lsq/channel": bitlab.BitQuantConfig(method="lsq", granularity="channel"),
    }
    layers: dict[str, torch.nn.Module] = {"nn.Linear": torch.nn.Linear(SIZE, SIZE)}
    layers.update({name: BitLinear(SIZE, SIZE, quant=quant) for name, quant in configs.items()})
    x = torch.randn(1, SIZE)
    wants_gradient = x.clone().requires_grad_()
    g = torch.ones(1, SIZE)

    def step(layer: torch.nn.Module) -> None:
        layer(wants_gradient).backward(g)

    result = {"training": ratios({name: lambda layer=layer: step(layer) for name, layer in layers.items()}, rounds, 200)}
    for layer in layers.values():
        layer.eval()
    with torch.no_grad():
        result["evaluation"] = ratios({name: lambda layer=layer: layer(x) for name, layer in layers.items()}, rounds, 1000)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rounds", type=int, default=31)
    options = parser.parse_args()
    result = measure(options.rounds)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    for mode, layers in result.items():
        for name, found in layers.items():
            print(f"{mode:11} {name:22} {found['microseconds']:8.2f} us   {found['ratio']:.2f} x")


if __name__ == "__main__":
    main()
