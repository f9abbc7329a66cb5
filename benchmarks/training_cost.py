#!/usr/bin/env python3
"""What a training step of a ternary layer costs beside its float32 twin, for BitLab and for others, in one interleaved run.

  make bench-training                       measures; writes out/bench/training_cost.json
  make bench-training BENCH_ARGS=--take     and adopts the result as benchmarks/results/training_cost.json

Candidates: LibTorch's float32 layer; the operator that BitLinear and BitConv2d call; the usual straight-through module of plain PyTorch
(BitNet b1.58's); brevitas's QuantLinear and QuantConv2d with ternary weights and int8 activations. A step is forward and backward, with the
gradient of the input, as inside of a network.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from pathlib import Path
from typing import Callable

import brevitas
import brevitas.nn as qnn
import outcome
import torch
from brevitas.quant import Int8ActPerTensorFloat, SignedTernaryWeightPerTensorConst
from torch import nn

ROOT = Path(__file__).resolve().parent.parent

Layer = Callable[[torch.Tensor], torch.Tensor]


def ternary(weight: torch.Tensor) -> torch.Tensor:
    scale = weight.abs().mean().clamp(min=1e-5)
    return weight + ((weight / scale).round().clamp(-1, 1) * scale - weight).detach()


def int8(x: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    scale = 127 / x.abs().amax(dims, keepdim=True).clamp(min=1e-5)
    return x + ((x * scale).round().clamp(-127, 127) / scale - x).detach()


def linear_candidates(size: int) -> dict[str, Layer]:
    layer = nn.Linear(size, size)
    bit_linear = torch.ops.bitlab.bit_linear
    return {
        "float32": layer,
        "BitLab": lambda x: bit_linear(x, layer.weight, layer.bias, "absmean/tensor", "int8", []),
        "plain PyTorch": lambda x: nn.functional.linear(int8(x, (-1,)), ternary(layer.weight), layer.bias),
        "brevitas": qnn.QuantLinear(size, size, weight_quant=SignedTernaryWeightPerTensorConst, input_quant=Int8ActPerTensorFloat),
    }


def conv_candidates(channels: int) -> dict[str, Layer]:
    layer = nn.Conv2d(channels, channels, 3, padding=1)
    bit_conv, one = torch.ops.bitlab.bit_conv, [1, 1]
    return {
        "float32": layer,
        "BitLab": lambda x: bit_conv(x, layer.weight, layer.bias, one, one, one, False, [0, 0], 1, "absmean/tensor", "int8", []),
        "plain PyTorch": lambda x: nn.functional.conv2d(int8(x, (1, 2, 3)), ternary(layer.weight), layer.bias, padding=1),
        "brevitas": qnn.QuantConv2d(
            channels, channels, 3, padding=1, weight_quant=SignedTernaryWeightPerTensorConst, input_quant=Int8ActPerTensorFloat
        ),
    }


def step(layer: Layer, value: torch.Tensor) -> float:
    """Milliseconds."""
    x = value.detach().requires_grad_()
    start = time.perf_counter()
    y = layer(x)
    y.backward(torch.ones_like(y))
    return 1e3 * (time.perf_counter() - start)


def measure(name: str, candidates: dict[str, Layer], value: torch.Tensor, rounds: int) -> dict:
    warm_up = 3
    times: dict[str, list[float]] = {candidate: [] for candidate in candidates}
    for number in range(warm_up + rounds):
        for candidate, layer in candidates.items():
            taken = step(layer, value)
            if number >= warm_up:
                times[candidate].append(taken)
    base = times["float32"]
    return {
        "name": name,
        "candidates": {
            candidate: {
                "ratio_median": round(statistics.median(a / b for a, b in zip(own, base, strict=True)), 3),
                "ratio_of_best": round(min(own) / min(base), 3),
                "ms": round(min(own), 3),
            }
            for candidate, own in times.items()
        },
    }


def keep_freed_memory() -> None:
    """As `bitlab train` (bitlab/base/internal/heap.h): otherwise the system clears the pages of each step's tensors anew, for every candidate."""
    heap = ctypes.CDLL(None)
    if hasattr(heap, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3
        heap.mallopt(mmap_threshold, 32 << 20)
        heap.mallopt(trim_threshold, 2**31 - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operators", type=Path, default=ROOT / "build/release/lib/libbitlab_ops.so", help="libbitlab_ops.so of a build")
    parser.add_argument("--rounds", type=int, default=60, help="steps of each candidate")
    parser.add_argument("--threads", type=int, default=1, help="threads of LibTorch; with several, other programs delay every barrier")
    parser.add_argument("--take", action="store_true", help="also write benchmarks/results/training_cost.json")
    args = parser.parse_args()
    keep_freed_memory()
    torch.ops.load_library(args.operators)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    cases = [
        measure("linear 1024 → 1024, 256 tokens", linear_candidates(1024), torch.randn(256, 1024), args.rounds),
        measure("conv2d 64 → 64, 3 × 3, 32 × 64 × 32 × 32", conv_candidates(64), torch.randn(32, 64, 32, 32), args.rounds),
    ]
    result = {
        "command": "make bench-training BENCH_ARGS=--take",
        "isa": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "brevitas": brevitas.__version__,
        "threads": args.threads,
        "rounds": args.rounds,
        "cases": cases,
    }
    outcome.write("training_cost", result, args.take)
    for case in cases:
        ratios = ", ".join(f"{name} {c['ratio_median']:.2f}" for name, c in case["candidates"].items())
        print(f"{case['name']}: {ratios}")


if __name__ == "__main__":
    main()
