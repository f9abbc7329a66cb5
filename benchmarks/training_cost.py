#!/usr/bin/env python3
"""What a training step of a ternary layer costs beside its float32 twin, for BitLab and for others, in one interleaved run.

  make bench-training                       measures; writes out/bench/training_cost.json
  make bench-training BENCH_ARGS=--take     and adopts the result as benchmarks/results/training_cost.json

Layers: LibTorch's float32 layer; the operator that BitLinear and BitConv2d call; the usual straight-through module of plain PyTorch
(BitNet b1.58's); brevitas's QuantLinear and QuantConv2d with ternary weights and int8 activations. A step is forward and backward, with the
gradient of the input, as inside of a network; pictures lie channels last.

Networks: a step with its optimizer of ResNet-20 at 128 pictures of 32 x 32 and of a transformer of bytes, dim 128, at 32 x 128 tokens. Where all are
in bfloat16, by autocast, the base is float under autocast.
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


def conv(weight: torch.Tensor, stride: int) -> Layer:
    return lambda x: nn.functional.conv2d(x, weight, None, stride, 1)


def plain_conv(weight: torch.Tensor, stride: int) -> Layer:
    return lambda x: nn.functional.conv2d(int8(x, (1, 2, 3)), ternary(weight), None, stride, 1)


def bit_conv(weight: torch.Tensor, stride: int) -> Layer:
    one = [1, 1]
    return lambda x: torch.ops.bitlab.bit_conv(
        x, weight, None, [stride, stride], one, one, False, [0, 0], 1, "absmean/tensor", "int8", []
    )


def linear(weight: torch.Tensor) -> Layer:
    return lambda x: nn.functional.linear(x, weight)


def plain_linear(weight: torch.Tensor) -> Layer:
    return lambda x: nn.functional.linear(int8(x, (-1,)), ternary(weight))


def bit_linear(weight: torch.Tensor) -> Layer:
    return lambda x: torch.ops.bitlab.bit_linear(x, weight, None, "absmean/tensor", "int8", [])


class ResNet20(nn.Module):
    """Of He et al. (arXiv:1512.03385) for CIFAR, with shortcuts that have no parameters, over a convolution of 3 x 3."""

    def __init__(self, conv: Callable[[torch.Tensor, int], Layer]) -> None:
        super().__init__()
        self.conv, self.weights, self.norms, self.strides = conv, nn.ParameterList(), nn.ModuleList(), []
        channels = 16
        for filters in (16, *[16] * 6, *[32] * 6, *[64] * 6):
            first = not self.strides
            self.weights.append(nn.init.kaiming_normal_(torch.empty(filters, 3 if first else channels, 3, 3)))
            self.norms.append(nn.BatchNorm2d(filters))
            self.strides.append(filters // channels)
            channels = filters
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def normed(i: int, x: torch.Tensor) -> torch.Tensor:
            return self.norms[i](self.conv(self.weights[i], self.strides[i])(x))

        x = normed(0, x).relu()
        for i in range(1, 19, 2):
            y = normed(i + 1, normed(i, x).relu())
            if self.strides[i] == 2:
                x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, x.size(1) // 2, x.size(1) // 2))
            x = (x + y).relu()
        return self.head(x.mean((2, 3)))


class Transformer(nn.Module):
    """Of bytes, causal, with norms in front, over linear layers without a bias."""

    def __init__(self, linear: Callable[[torch.Tensor], Layer], layers: int = 4, dim: int = 128, heads: int = 4) -> None:
        super().__init__()
        self.linear, self.heads = linear, heads
        self.table, self.places = nn.Embedding(256, dim), nn.Parameter(torch.zeros(128, dim))
        shapes = [(3 * dim, dim), (dim, dim), (4 * dim, dim), (dim, 4 * dim)] * layers
        self.weights = nn.ParameterList([nn.init.normal_(torch.empty(shape), std=0.05) for shape in shapes])
        self.norms = nn.ModuleList([nn.RMSNorm(dim) for _ in range(2 * layers + 1)])
        self.head = nn.Linear(dim, 256)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids) + self.places
        for i in range(0, len(self.weights), 4):
            qkv, out, up, down = (self.linear(self.weights[i + j]) for j in range(4))
            q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in qkv(self.norms[i // 2](x)).chunk(3, -1))
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + out(y.transpose(1, 2).flatten(2))
            x = x + down(up(self.norms[i // 2 + 1](x)).relu())
        return self.head(self.norms[-1](x)).flatten(0, 1)


def network_step(net: nn.Module, x: torch.Tensor, labels: torch.Tensor, half: bool) -> Callable[[], float]:
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)

    def run() -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = nn.functional.cross_entropy(net(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return 1e3 * (time.perf_counter() - start)

    return run


def network_cases() -> dict[str, dict[str, Callable[[], float]]]:
    cases = {}
    pictures = torch.randn(128, 3, 32, 32).to(memory_format=torch.channels_last)
    ids = torch.randint(256, (32, 128))
    for half in (False, True):
        behind = ", bfloat16" if half else ""
        layers = {"float32": (conv, linear), "BitLab": (bit_conv, bit_linear), "plain PyTorch": (plain_conv, plain_linear)}
        cases[f"ResNet-20, 128 pictures{behind}"] = {
            name: network_step(ResNet20(of), pictures, torch.randint(10, (128,)), half) for name, (of, _) in layers.items()
        }
        cases[f"transformer, 32 × 128 tokens{behind}"] = {
            name: network_step(Transformer(of), ids, torch.randint(256, (32 * 128,)), half) for name, (_, of) in layers.items()
        }
    return cases


def layer_step(layer: Layer, value: torch.Tensor) -> Callable[[], float]:
    def run() -> float:
        x = value.detach().requires_grad_()
        start = time.perf_counter()
        y = layer(x)
        y.backward(torch.ones_like(y))
        return 1e3 * (time.perf_counter() - start)

    return run


def measure(name: str, candidates: dict[str, Callable[[], float]], rounds: int) -> dict:
    """Of steps that say how many milliseconds they took."""
    warm_up = 3
    times: dict[str, list[float]] = {candidate: [] for candidate in candidates}
    for number in range(warm_up + rounds):
        for candidate, step in candidates.items():
            taken = step()
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
    tokens, pictures = torch.randn(256, 1024), torch.randn(32, 64, 32, 32).to(memory_format=torch.channels_last)
    layers = {
        "linear 1024 → 1024, 256 tokens": (linear_candidates(1024), tokens),
        "conv2d 64 → 64, 3 × 3, 32 × 64 × 32 × 32": (conv_candidates(64), pictures),
    }
    cases = [measure(name, {k: layer_step(v, x) for k, v in of.items()}, args.rounds) for name, (of, x) in layers.items()]
    cases += [measure(name, of, max(args.rounds // 3, 1)) for name, of in network_cases().items()]
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
