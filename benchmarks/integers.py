#!/usr/bin/env python3
"""What networks in C lose in integers, and what they take: LeNet-5 with static activations on MNIST's test images, in every variant of the format.

  make bench-integers                       trains, measures; writes out/bench/integers.json
  make bench-integers BENCH_ARGS=--take     and adopts the result as benchmarks/results/integers.json

The network is trained by `bitlab train` on all training images; its run is kept in out/integers, and trained once. Each variant is compiled by the
machine's compiler and classifies all test images. A difference is that of logits from the runtime's, the largest, as a part of the largest logit. Code is
what arm-none-eabi-gcc makes of the source for a Cortex-M3, without its constants, and is left out where that compiler is not there.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import outcome
from bitlab.formats import available, convert

import bitlab.runtime
from bitlab.data import load_dataset

sys.path.insert(0, str(outcome.ROOT / "python/tests"))
from sources import c_compiler  # noqa: E402

ARM = ["arm-none-eabi-gcc", "-std=c99", "-Os", "-mcpu=cortex-m3", "-mthumb"]
TRAINING = ["--preset=lenet5_mnist", "--activation=int8_static", "--seed=1", "--threads=1"]


def trained(bitlab_program: Path, folder: Path) -> Path:
    """The network's .bit file, from its run in the folder, which is trained where it is not there."""
    bit = folder / "lenet5.bit"
    if not (folder / "report.json").exists():
        begun = (folder / "last.ckpt").exists()
        subprocess.run([bitlab_program, "train", *(["--resume"] if begun else TRAINING), "-o", folder], check=True)
    subprocess.run([bitlab_program, "deploy", folder, "-o", bit], check=True, stdout=subprocess.DEVNULL)
    return bit


def test_images() -> tuple[np.ndarray, np.ndarray]:
    """MNIST's, as the network takes them, and what they show."""
    samples = load_dataset("mnist", "test", root=outcome.ROOT / "data/mnist")
    images, labels = zip(*(samples[i] for i in range(len(samples))), strict=True)
    return np.stack(images), np.array(labels)


def code_bytes(source: Path, defines: list[str]) -> int | None:
    """Of the source on a Cortex-M3, without the constants that its header tells."""
    if shutil.which(ARM[0]) is None:
        return None
    done = source.with_suffix(".o")
    subprocess.run([*ARM, *defines, "-c", source, "-o", done], check=True)
    sizes = subprocess.run(["arm-none-eabi-size", done], check=True, capture_output=True, text=True).stdout.splitlines()[1].split()
    return int(sizes[0]) - told(source, "FLASH_BYTES")


def told(source: Path, name: str) -> int:
    """A number of the header; of two, the one of the network without floats, which stands in front."""
    return int(re.search(rf"_{name} (\d+)", source.with_suffix(".h").read_text())[1])


def measure(bit: Path, variant: str, images: np.ndarray, labels: np.ndarray, own: np.ndarray, folder: Path) -> dict[str, Any]:
    source = folder / f"net_{variant}.c"
    convert(bit, source, variant=variant)
    run = c_compiler(source)
    (logits,) = run({"x": images})
    without_floats = [f"-D{source.stem.upper()}_NO_FLOATS"] if variant.startswith("integer") else []
    away = np.abs(logits.reshape(own.shape).astype(np.float64) - own)
    return {
        "accuracy": round(100 * float((logits.argmax(1) == labels).mean()), 2),
        "other_classes": int((logits.argmax(1) != own.argmax(1)).sum()),
        "difference": float(f"{away.max() / np.abs(own).max():.2g}"),
        "mean_difference": float(f"{away.mean() / np.abs(own).max():.2g}"),
        "constants": told(source, "FLASH_BYTES"),
        "memory": told(source, "RAM_BYTES"),
        "code": code_bytes(source, without_floats),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bitlab", type=Path, default=outcome.ROOT / "build/release/bin/bitlab", help="the program that trains and deploys")
    parser.add_argument("--run", type=Path, default=outcome.ROOT / "out/integers/lenet5", help="the folder of its run")
    parser.add_argument("--take", action="store_true", help="also write benchmarks/results/integers.json")
    args = parser.parse_args()
    bit = trained(args.bitlab, args.run)
    images, labels = test_images()
    session = bitlab.runtime.Session(bit, threads=1)
    batches = [next(iter(session.run({session.model.inputs[0].name: part}).values())) for part in np.split(images, 100)]
    own = np.concatenate(batches).astype(np.float64)
    forms = {}
    variants = next(f.variants for f in available() if f.name == "c")
    with tempfile.TemporaryDirectory() as folder:
        for variant in variants:
            forms[variant] = measure(bit, variant, images, labels, own, Path(folder))
            print(f"{variant}: {forms[variant]}", flush=True)
    result = {
        "command": "make bench-integers BENCH_ARGS=--take",
        "cpu": outcome.cpu(),
        "training": "bitlab train " + " ".join(TRAINING),
        "images": len(images),
        "runtime": {"accuracy": round(100 * float((own.argmax(1) == labels).mean()), 2)},
        "forms": forms,
    }
    outcome.write("integers", result, args.take)


if __name__ == "__main__":
    main()
