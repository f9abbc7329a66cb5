#!/usr/bin/env python3
"""What networks in C lose in integers, and what they take: LeNet-5 with static activations on MNIST's test images, and a network that spots keywords.

  make bench-integers                       trains, measures; writes out/bench/integers.json
  make bench-integers BENCH_ARGS=--take     and adopts the result as benchmarks/results/integers.json

LeNet-5 is trained by `bitlab train` on all training images; its run is kept in out/integers, and trained once. The other network, DS-CNN small of
arXiv:1711.07128, has random weights, and inputs that are drawn. Each variant of the format is compiled by the machine's compiler and computes all of
them. A difference is that of outputs from the runtime's, the largest, as a part of the largest output. Code is
what arm-none-eabi-gcc makes of the source for a Cortex-M3, without its constants; instructions are those of a run from floats to floats, which QEMU counts.
Both are left out where these programs are not there (`tools/setup.sh --embedded`).
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
import torch
from bitlab.formats import available, convert
from torch import nn

import bitlab
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


def keywords(bit: Path) -> np.ndarray:
    """Writes DS-CNN small: a convolution, four depthwise and pointwise ones of 64 channels, a mean, 12 classes. Gives spectrograms, of which steps are, too."""

    def conv(inputs: int, kernel: tuple[int, int], stride: int, padding: tuple[int, int], groups: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(inputs, 64, kernel, stride, padding, groups=groups, bias=False), nn.BatchNorm2d(64, momentum=1.0), nn.ReLU()]

    torch.manual_seed(0)
    body = [layer for _ in range(4) for layer in conv(64, (3, 3), 1, (1, 1), 64) + conv(64, (1, 1), 1, (0, 0))]
    model = nn.Sequential(*conv(1, (10, 4), 2, (5, 1)), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 12))
    bitlab.BitConverter.convert(model, bitlab.BitQuantConfig(granularity="channel", activation="int8_static"))
    x = torch.randn(256, 1, 49, 10)
    with torch.no_grad():
        model.train()(x)
    bitlab.deploy(model.eval(), x[:2], bit)
    return x.numpy()


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


# What counts: QEMU gives each instruction a nanosecond (-icount shift=0), of which a tick of the board's timer has 40.
COUNTING = """#include <stdint.h>
#include <stdio.h>
#include "{name}.h"
static float x[{inputs}], y[{outputs}];
int main(void) {{
  volatile uint32_t *timer = (volatile uint32_t *)0xE000E010;
  uint32_t before, after;
  for (int i = 0; i < {inputs}; ++i) x[i] = (float)(i % 17) / 8.0f - 0.4f;
  timer[1] = 0xFFFFFF;
  timer[2] = 0;
  timer[0] = 5;
  before = timer[2];
  {name}_run(x, y);
  after = timer[2];
  printf("%lu", (unsigned long)((before - after) & 0xFFFFFF) * 40);
  return 0;
}}
"""


def instructions(source: Path, core: str) -> int | None:
    """Of a run on a core without a unit for floats."""
    if shutil.which(ARM[0]) is None or shutil.which("qemu-system-arm") is None:
        return None
    board = outcome.ROOT / "examples/deployment/microcontroller"
    main, program = source.with_name("main.c"), source.with_suffix(".elf")
    sizes = re.findall(r"_SIZE (\d+)", source.with_suffix(".h").read_text())
    main.write_text(COUNTING.format(name=source.stem, inputs=sizes[0], outputs=sizes[1]))
    flags = ["-O2", f"-mcpu={core}", "-mthumb", "--specs=rdimon.specs", "-T", board / "mps2.ld", board / "startup.c"]
    subprocess.run([ARM[0], *flags, main, source, "-lm", "-o", program], check=True)
    run = ["qemu-system-arm", "-machine", "mps2-an385", "-icount", "shift=0", "-display", "none", "-semihosting", "-kernel", program]
    return int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


def told(source: Path, name: str) -> int:
    """A number of the header; of two, the one of the network without floats, which stands in front."""
    return int(re.search(rf"_{name} (\d+)", source.with_suffix(".h").read_text())[1])


def measure(bit: Path, folder: Path, images: np.ndarray, labels: np.ndarray | None = None) -> dict[str, dict[str, Any]]:
    """Of the runtime, and of each variant. The folder is the network's own: a library of a path that was loaded once is not read again."""
    session = bitlab.runtime.Session(bit, threads=1)
    batches = [session(part) for part in np.array_split(images, max(1, len(images) // 100))]
    own = np.concatenate(batches).astype(np.float64)

    def accuracy(y: np.ndarray) -> dict[str, float]:
        return {} if labels is None else {"accuracy": round(100 * float((y.argmax(1) == labels).mean()), 2)}

    forms: dict[str, dict[str, Any]] = {"runtime": accuracy(own)}
    for variant in next(f.variants for f in available() if f.name == "c"):
        source = folder / f"net_{variant}.c"
        convert(bit, source, variant=variant)
        (y,) = c_compiler(source)({"x": images})
        away = np.abs(y.reshape(own.shape).astype(np.float64) - own) / np.abs(own).max()
        without_floats = [f"-D{source.stem.upper()}_NO_FLOATS"] if variant.startswith("integer") else []
        forms[variant] = {
            **accuracy(y),
            "other_classes": int((y.argmax(1) != own.argmax(1)).sum()),
            "difference": float(f"{away.max():.2g}"),
            "mean_difference": float(f"{away.mean():.2g}"),
            "constants": told(source, "FLASH_BYTES"),
            "memory": told(source, "RAM_BYTES"),
            "code": code_bytes(source, without_floats),
            "instructions": {core: instructions(source, core) for core in ("cortex-m0", "cortex-m3")},
        }
        print(f"{variant}: {forms[variant]}", flush=True)
    return forms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bitlab", type=Path, default=outcome.ROOT / "build/release/bin/bitlab", help="the program that trains and deploys")
    parser.add_argument("--run", type=Path, default=outcome.ROOT / "out/integers/lenet5", help="the folder of its run")
    parser.add_argument("--take", action="store_true", help="also write benchmarks/results/integers.json")
    args = parser.parse_args()
    lenet5 = trained(args.bitlab, args.run)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        spotting = Path(second) / "keywords.bit"
        cases = [
            {"network": "LeNet-5, MNIST", "forms": measure(lenet5, Path(first), *test_images())},
            {"network": "DS-CNN small, random weights", "forms": measure(spotting, Path(second), keywords(spotting))},
        ]
    result = {
        "command": "make bench-integers BENCH_ARGS=--take",
        "cpu": outcome.cpu(),
        "training": "bitlab train " + " ".join(TRAINING),
        "cases": cases,
    }
    outcome.write("integers", result, args.take)


if __name__ == "__main__":
    main()
