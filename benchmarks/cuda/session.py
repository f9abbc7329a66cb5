#!/usr/bin/env python3
"""Times runs of deployed models on a CUDA device and on the CPU, and says where the device's time goes.

    BITLAB_CUDA_PLUGIN=build/cuda/lib/libbitlab_cuda.so python3 benchmarks/cuda/session.py model.bit [--batch 1 64] [--json out.json]

A run is from arrays of the host to arrays of the host. Both sessions take turns, so that what else the machine does meets both; outputs are compared to
the bit first.
"""

import argparse
import importlib.util
import json
import pathlib
import statistics
import sys
import time

import bitlab

_spec = importlib.util.spec_from_file_location(
    "session_check", pathlib.Path(__file__).resolve().parents[2] / "tests/cuda/session.py"
)
check = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(check)


def seconds(session, arrays):
    session.reset()
    start = time.perf_counter()
    session.run(arrays, copy=False)
    return time.perf_counter() - start


def measure(model, batch, options):
    sessions = {
        "cpu": bitlab.runtime.Session(model, threads=options.threads, device="cpu"),
        "device": bitlab.runtime.Session(model, threads=options.threads, device=options.device),
    }
    arrays = check.inputs_of(model, batch, options.size, 1)
    outputs = {}
    for name, session in sessions.items():
        for _ in range(3):  # a run step by step, the graph's first one, and one more
            session.reset()
            outputs[name] = session.run(arrays)
    if not all(check.same(outputs["cpu"][name], outputs["device"][name]) for name in outputs["cpu"]):
        raise SystemExit("the outputs differ: tests/cuda/session.py says where")
    times = {name: [] for name in sessions}
    for _ in range(options.rounds):
        for name, session in sessions.items():
            times[name].append(seconds(session, arrays))
    medians = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    steps = bitlab.profile(model, arrays, runs=5, roofs=False, device=options.device).to_dict()["nodes"]
    on_host = sum(step["share"] for step in steps if step["kernels"].startswith("host"))
    return {
        "batch": batch,
        "cpu_ms": medians["cpu"],
        "device_ms": medians["device"],
        "share_of_host_steps": on_host,
        "steps": steps,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--size", type=int, default=128, help="of every other symbol, within its range")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0: all cores")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    report = {"cpu": bitlab.runtime.cpu(), "device": options.device, "models": {}}
    for path in options.models:
        model = bitlab.runtime.Model.load(path)
        results = [measure(model, batch, options) for batch in options.batch]
        report["models"][path.name] = results
        for r in results:
            print(
                f"{path.name:30} batch {r['batch']:4}  cpu {r['cpu_ms']:9.3f} ms  device {r['device_ms']:9.3f} ms  "
                f"x {r['cpu_ms'] / r['device_ms']:.2f}  steps of the host {100 * r['share_of_host_steps']:.0f} %"
            )
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
