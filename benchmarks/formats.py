#!/usr/bin/env python3
"""Networks in every format, each run by the program that the format is for: bytes, differences and times, in one interleaved run.

  make bench-formats                       measures; writes out/bench/formats.json
  make bench-formats BENCH_ARGS=--take     and adopts the result as benchmarks/results/formats.json

Each network is made ternary (int8 activations), deployed as .bit and converted into the other formats. A difference is that of the outputs from the
runtime's, the largest, as a part of the largest output. Times are of one sample and one thread; every round runs each program once, in turn, and a speed
is the median over the rounds of how many times the runtime's time fits in it. The programs are those of python/tests/engines.py, where the tests run them.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitlab.torch_formats  # adds PyTorch's formats to those of convert()
import numpy as np
import outcome
import torch
from networks import NETWORKS, import_torchvision, names

import bitlab

sys.path.insert(0, str(outcome.ROOT / "python/tests"))
from decoders import Network  # noqa: E402
from engines import Run, engine_of, forms, write  # noqa: E402

VOCABULARY, TOKENS = 32000, 32


def lenet5() -> tuple[Path, Any]:
    return outcome.ROOT / "tests/golden/lenet5.bit", torch.linspace(-1, 1, 28 * 28).reshape(1, 1, 28, 28)


def of(key: str) -> Callable[[], tuple[torch.nn.Module, Any]]:
    def make() -> tuple[torch.nn.Module, Any]:
        model, x = NETWORKS[key][1]()
        bitlab.BitConverter.convert(model.eval(), bitlab.BitQuantConfig(granularity="channel"))
        if norms := [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]:
            for norm in norms:  # of random weights, whose outputs would vanish without the statistics of some samples
                norm.momentum = 1.0
            with torch.no_grad():
                model.train()(torch.cat([x, x.flip(1), x.flip(2), x.flip(3)]))
        return model, x

    return make


def decoder() -> tuple[torch.nn.Module, torch.Tensor]:
    """Of the kind that llama.cpp and transformers hold: BitNet b1.58's blocks with SiLU."""
    network = Network("swiglu", True, dim=768, hidden=2048, layers=12, heads=12, kv_heads=4, vocabulary=VOCABULARY)
    return network, torch.arange(TOKENS).reshape(1, -1) * 97 % VOCABULARY


MEASURED: dict[str, tuple[str, Callable[[], tuple[Any, Any]]]] = {
    "lenet5": ("LeNet-5, 28 × 28", lenet5),
    **{key: (NETWORKS[key][0], of(key)) for key in ("mobilenet_v2", "resnet18", "bert_base")},
    "decoder": (f"BitNet-like decoder, 12 layers of 768, {TOKENS} tokens", decoder),
}


def flash_bytes(source: Path) -> int:
    """The constants of a network in C, which its text takes more for."""
    return int(re.search(r"_FLASH_BYTES (\d+)", source.with_suffix(".h").read_text())[1])


def write_files(model: Any, x: torch.Tensor, folder: Path) -> dict[str, tuple[Path, int, int]]:
    """Of each form that the network has: the path, bytes, and those of all of its weights in float32."""
    bit = folder / "network.bit"
    if isinstance(model, Path):
        bit.write_bytes(model.read_bytes())
    else:
        # A language model's number of tokens is its own, and the others' sizes are those of the sample.
        axes = {"input": {0: "batch", 1: "tokens"}} if isinstance(model, Network) else None
        ranges = {"tokens": (1, 64)} if axes else None
        bitlab.deploy(model.eval(), x, bit, dynamic_axes=axes, ranges=ranges)
    files = {}
    for form in forms():
        try:
            path, done = write(bit, folder, form)
        except bitlab.Unsupported as error:
            print(f"  {form}: {error}", file=sys.stderr)
            continue
        files[form] = (path, done.file_bytes if path.suffix != ".c" else flash_bytes(path), 4 * done.weights)
    return files


def measure(runs: dict[str, Run], inputs: dict[str, np.ndarray], rounds: int) -> dict[str, dict[str, float]]:
    (own,) = runs["bit"](inputs)
    times: dict[str, list[float]] = {form: [] for form in runs}
    found = {}
    for form, run in runs.items():
        (y,) = run(inputs)  # and the first runs, which TorchScript compiles in
        run(inputs)
        run(inputs)
        found[form] = float(np.abs(y.reshape(own.shape).astype(np.float64) - own).max() / np.abs(own).max())
    for _ in range(rounds):
        for form, run in runs.items():
            start = time.perf_counter()
            run(inputs)
            times[form].append(1e3 * (time.perf_counter() - start))
    return {
        form: {
            "difference": float(f"{found[form]:.2g}"),
            "ms": float(f"{min(taken):.3g}"),
            "times_the_runtime": round(statistics.median(a / b for a, b in zip(taken, times["bit"], strict=True)), 2),
        }
        for form, taken in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=names(MEASURED), default=",".join(MEASURED), help="of these, with commas between (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each program (%(default)s)")
    parser.add_argument("--take", action="store_true", help="also write benchmarks/results/formats.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    import_torchvision()  # which transformers looks for
    cases = []
    for key in args.networks:
        title, make = MEASURED[key]
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            model, x = make()
            files = write_files(model, x, Path(folder))
            del model
            runs = {form: engine.load(file[0]) for form, file in files.items() if (engine := engine_of(form))}
            measured = measure(runs, {"input": x.numpy()}, args.rounds)
        found = {}
        for form, (_, size, floats) in files.items():
            engine = engine_of(form)
            found[form] = {"engine": engine.name if engine else "not run", "bytes": size, "of_float32": round(floats / size, 2), **measured.get(form, {})}
            print(f"{title}, {form}: {found[form]}", flush=True)
        cases.append({"network": title, "forms": found})
    result = {
        "command": "make bench-formats BENCH_ARGS=--take",
        "cpu": outcome.cpu(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "versions": versions(),
        "rounds": args.rounds,
        "cases": cases,
    }
    outcome.write("formats", result, args.take)


def versions() -> str:
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "xllamacpp", "transformers"))


if __name__ == "__main__":
    main()
