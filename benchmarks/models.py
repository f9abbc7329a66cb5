#!/usr/bin/env python3
"""Whole networks, one sample at a time: BitLab's runtime beside LibTorch and ONNX Runtime, in one interleaved run.

  make bench-models                       measures; writes out/bench/models_<instruction set>.json
  make bench-models BENCH_ARGS=--take     and adopts the result in benchmarks/results

Candidates: the network made ternary by BitConverter (int8 activations, by their own range and, static, by steps) and deployed; LibTorch's float32; ONNX Runtime's float32; ONNX Runtime's int8
(QDQ, weights by channel). Networks are those of torchvision, timm and transformers with random weights, which change no time.
Every round runs each candidate a few times in turn, of which the fastest counts; between candidates the threads of the one before, which wait busily
for more work, have time to fall asleep. A ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import outcome
import torch
from networks import NETWORKS, Make, names
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

import bitlab

MEASURED = ("resnet18", "mobilenet_v2", "vit_small", "bert_base")
PAUSE = 0.1  # seconds between candidates
BURST = 6  # runs of a candidate in a round


class Samples(CalibrationDataReader):
    def __init__(self, feed: dict[str, np.ndarray]) -> None:
        self.left = [feed]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


def onnx_session(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")  # its threads wait for nothing while others are measured
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def write_files(make: Make, folder: Path) -> tuple[nn.Module, torch.Tensor, dict[str, float]]:
    """The network, its input, and its files in a folder: float.onnx, int8.onnx, model.bit; how large it is."""
    torch.manual_seed(0)
    model, x = make()
    model.eval()
    onnx, prepared, int8 = folder / "float.onnx", folder / "prepared.onnx", folder / "int8.onnx"
    torch.onnx.export(model, (x,), onnx, input_names=["x"], opset_version=17, dynamo=False)
    quant_pre_process(onnx, prepared)
    quantize_static(
        prepared, int8, Samples({"x": x.numpy()}), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )
    ternary, _ = make()
    bitlab.BitConverter.convert(ternary, bitlab.BitQuantConfig(granularity="channel"))
    deployed = bitlab.deploy(ternary, x, folder / "model.bit")
    static, _ = make()
    bitlab.BitConverter.convert(static, bitlab.BitQuantConfig(granularity="channel", activation="int8_static"))
    static.train()(torch.cat([x, x]))  # the first batch of training sets the steps
    bitlab.deploy(static, x, folder / "static.bit")
    return model, x, {
        "float32_mb": round(deployed.float32_weight_bytes / 1e6, 2),
        "file_ratio": round(sum(p.numel() for p in model.parameters()) * 4 / deployed.file_bytes, 2),
        "memory_ratio": round(deployed.float32_weight_bytes / deployed.weight_bytes, 2),
    }


def candidates(model: nn.Module, x: torch.Tensor, folder: Path, threads: int) -> dict[str, Callable[[], object]]:
    feed = {"x": x.numpy()}
    session, static = (bitlab.runtime.Session(folder / file, threads=threads) for file in ("model.bit", "static.bit"))
    name = session.model.inputs[0].name
    floats, int8 = (onnx_session(folder / file, threads) for file in ("float.onnx", "int8.onnx"))

    def libtorch() -> object:
        with torch.inference_mode():
            return model(x)

    return {
        "BitLab": lambda: session.run({name: feed["x"]}),
        "BitLab static": lambda: static.run({name: feed["x"]}),
        "LibTorch float32": libtorch,
        "ONNX Runtime float32": lambda: floats.run(None, feed),
        "ONNX Runtime int8": lambda: int8.run(None, feed),
    }


def measure(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(1 + rounds):
        for name, run in runs.items():
            time.sleep(PAUSE)
            taken = []
            for _ in range(BURST):
                start = time.perf_counter()
                run()
                taken.append(1e3 * (time.perf_counter() - start))
            if number >= 1:
                times[name].append(min(taken))
    own = times["BitLab"]
    return {
        name: {
            "ms": round(min(taken), 2),
            "ratio_median": round(statistics.median(a / b for a, b in zip(taken, own, strict=True)), 2),
            "ratio_of_best": round(min(taken) / min(own), 2),
        }
        for name, taken in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=names(MEASURED), default=",".join(MEASURED), help="of these, with commas between (%(default)s)")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, with commas between (%(default)s)")
    parser.add_argument("--rounds", type=int, default=11, help="rounds (%(default)s)")
    parser.add_argument("--take", action="store_true", help="also write into benchmarks/results")
    args = parser.parse_args()
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for key in args.networks:
            title, make = NETWORKS[key]
            place = Path(folder) / key
            place.mkdir()
            model, x, sizes = write_files(make, place)
            for threads in map(int, args.threads.split(",")):
                torch.set_num_threads(threads)
                measured = measure(candidates(model, x, place, threads), args.rounds)
                cases.append({"network": title, "threads": threads, **sizes, "candidates": measured})
                ratios = ", ".join(f"{name} {value['ms']:.1f} ms ({value['ratio_median']:.2f}×)" for name, value in measured.items())
                print(f"{title}, {threads} thread{'s' * (threads > 1)}: {ratios}", flush=True)
    result: dict[str, Any] = {
        "command": "make bench-models BENCH_ARGS=--take",
        "cpu": outcome.cpu(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "onnxruntime": ort.__version__,
        "rounds": args.rounds,
        "cases": cases,
    }
    outcome.write(f"models_{result['isa'].lower()}", result, args.take)


if __name__ == "__main__":
    main()
