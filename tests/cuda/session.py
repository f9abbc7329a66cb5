#!/usr/bin/env python3
"""Checks sessions on a CUDA device against the CPU's, to the bit: golden programs of every operation, and any other .bit files.

    BITLAB_CUDA_PLUGIN=build/cuda/lib/libbitlab_cuda.so python3 tests/cuda/session.py [--device cuda:0] [model.bit ...]

A machine with a GPU runs it, with the Python package; the tests of the runtime need none. NaN is compared as NaN: its sign and payload are a processor's.
"""

import argparse
import pathlib
import sys

import numpy as np

import bitlab

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"


def inputs_of(model, batch, size, seed):
    """Random arrays by name: normal ones, indices of 0 and 1."""
    random = np.random.default_rng(seed)
    sizes = {"batch": batch}
    arrays = {}
    for port in model.inputs:
        shape = [value_of(dim, sizes, model, size) for dim in port.shape]
        dtype = np.dtype(port.dtype) if port.dtype != "bfloat16" else np.dtype(np.uint16)
        is_float = np.issubdtype(dtype, np.floating)
        arrays[port.name] = (random.standard_normal(shape) if is_float else random.integers(0, 2, shape)).astype(dtype)
    return arrays


def value_of(dim, sizes, model, size):
    """A size of an input: a number, a symbol, or a multiple of one."""
    if isinstance(dim, int):
        return dim
    factor, _, name = dim.rpartition("*")
    if name not in sizes:
        least, most = model.symbols[name]
        sizes[name] = min(max(size, least), most)
    return int(factor or 1) * sizes[name]


def same(a, b):
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    bits = np.ascontiguousarray(a).view(np.uint8) == np.ascontiguousarray(b).view(np.uint8)
    both_nan = np.issubdtype(a.dtype, np.floating) and np.isnan(a) & np.isnan(b)
    return bool(np.all(bits.reshape(*a.shape, -1).all(axis=-1) | both_nan)) if a.size else True


def outcome(session, arrays):
    """The outputs by name, or the text of the error."""
    try:
        return session.run(arrays)
    except bitlab.Error as error:
        return str(error)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=pathlib.Path, default=sorted(GOLDEN.glob("*.bit")))
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--runs",
        type=int,
        default=4,
        help="of each size: from the second on they are a graph, where all steps are the device's",
    )
    options = parser.parse_args()
    checks, failures = 0, []
    for path in options.models:
        model = bitlab.runtime.Model.load(path)
        cpu, device = bitlab.runtime.Session(model, device="cpu"), bitlab.runtime.Session(model, device=options.device)
        for batch, size in ((1, 1), (3, 5), (64, 33), (1, 1)):
            for seed in range(options.runs):
                arrays = inputs_of(model, batch, size, seed)
                for _ in range(2):  # behind the tokens of the first run, where there are states
                    expected, found = outcome(cpu, arrays), outcome(device, arrays)
                    where = f"{path.name} batch={batch} size={size} seed={seed}"
                    if isinstance(expected, str) or isinstance(found, str):
                        checks += 1
                        if isinstance(expected, dict) or isinstance(found, dict) or expected != found:
                            failures.append(f"{where}: {found} instead of {expected}")
                        continue
                    for name in expected:
                        checks += 1
                        if not same(expected[name], found[name]):
                            failures.append(f"{where}: {name}")
                for session in (cpu, device):
                    session.reset()
    print(f"{checks} outputs of {len(options.models)} models compared, {len(failures)} failures")
    print("\n".join(failures[:50]))
    return 1 if failures or checks == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
