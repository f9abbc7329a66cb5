#!/usr/bin/env python3
"""How far models that nobody here wrote come: made ternary, trained, evaluated, deployed, run without PyTorch.

    tools/census.py                                  all models of tools/census_models.py
    tools/census.py --models transformers/bert,timm/resnet18
    tools/census.py --models list.txt --json out.json
    tools/census.py --take                           writes benchmarks/results/census.json and docs/model_zoo/census.md; with --models
                                                     what is written there of these models

Each model runs in a process of its own: a crash is a result. The steps, in order:

    built      the package made it
    converted  BitConverter replaced its layers (BitModel where it has weights of its own that are no layers')
    trained    two steps of SGD changed it, with finite losses
    equal      eval computes what training did, up to rounding, where nothing in it (dropout, batch norm) should differ
    deployed   a .bit file was written, after the parity check
    run        a process without PyTorch computed the outputs: exact (every bit) or bounded (within the bound of deploy.h)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
STEPS = ["built", "converted", "trained", "equal", "deployed", "run"]
RESULTS = ROOT / "benchmarks/results/census.json"
PAGE = ROOT / "docs/model_zoo/census.md"

_RUN = """
import sys
sys.modules["torch"] = None
import bitlab, numpy as np
inputs = np.load(sys.argv[2])
np.savez(sys.argv[3], **bitlab.runtime.Session(sys.argv[1]).run(dict(inputs)))
"""


def _is_deterministic(model: Any, call: Any) -> bool:
    """Whether eval should be what training is: without batch norms, and the same twice, without dropout."""
    import torch

    for part in model.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm | torch.nn.InstanceNorm2d):
            return False
        if isinstance(part, torch.nn.modules.dropout._DropoutNd):
            part.p = 0.0
    with torch.no_grad():
        first, second = call(), call()
    return all(torch.equal(value, second[key]) for key, value in first.items())


def examine(name: str) -> dict[str, Any]:
    """The step that a model reaches, and why no further."""
    import numpy as np
    import torch
    from bitlab._calls import flatten, named_inputs
    from census_models import MODELS

    import bitlab

    result: dict[str, Any] = {"model": name, "step": "none", "reason": ""}
    torch.manual_seed(0)
    torch.set_num_threads(1)

    def call(model: Any, example: Any) -> dict[str, torch.Tensor]:
        return flatten(model(**example) if isinstance(example, dict) else model(example))

    try:
        model, example = MODELS[name].make()
        result["parameters"] = sum(p.numel() for p in model.parameters())
        result["step"] = "built"
        report = bitlab.BitConverter.convert(model, bitlab.BitQuantConfig(granularity="channel"))
        if report.covered == 0 or any("BitModel" in layer.reason for layer in report.layers):
            try:
                whole, example = MODELS[name].make()
                wrapped = bitlab.BitModel(whole, bitlab.BitQuantConfig(granularity="channel"))
                call(wrapped, example)
                model, report, result["by"] = wrapped, wrapped.report, "BitModel"
            except bitlab.Unsupported as error:
                result["note"] = f"BitModel: {error}"
        result.setdefault("by", "BitConverter")
        result["covered"] = round(report.covered / max(report.parameters, 1), 4)
        if report.covered == 0:
            raise bitlab.Unsupported("no layer became ternary")
        result["step"] = "converted"
        with torch.no_grad():  # heads that begin at 0 would pass no gradient
            for parameter in model.parameters():
                if parameter.dim() > 1 and not parameter.any():
                    parameter.normal_(std=0.02)
        model.train()
        is_deterministic = _is_deterministic(model, lambda: call(model, example))
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3)
        before = [p.detach().clone() for p in model.parameters()]
        for _ in range(2):
            outputs = call(model, example)
            loss = sum(value.float().square().mean() for value in outputs.values() if value.is_floating_point())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not torch.isfinite(loss):
                raise ValueError(f"a loss of {float(loss)}")
        if all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)):
            raise ValueError("two steps of training changed nothing")
        result["step"] = "trained"
        with torch.no_grad():
            trained = call(model, example)
            model.eval()
            evaluated = call(model, example)
        if is_deterministic:
            for key, value in evaluated.items():
                if key not in trained or trained[key].shape != value.shape:
                    continue
                difference = (value - trained[key]).abs().max().item() / max(value.abs().max().item(), 1e-12)
                if difference > 2e-2:  # an activation may move by one of its steps
                    raise ValueError(f"eval differs from training by {difference:.2g} of the largest value of {key!r}")
        result["step"] = "equal"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.bit"
            done = bitlab.deploy(model, example, path)
            result["step"], result["bytes"] = "deployed", done.file_bytes
            result["memory"] = round(done.float32_weight_bytes / max(done.weight_bytes, 1), 2)
            named, _ = named_inputs(model, example)
            read = {port.name for port in bitlab.runtime.Model.load(path).inputs}
            np.savez(Path(folder) / "in.npz", **{key: value.numpy() for key, value in named.items() if key in read})
            command = [sys.executable, "-c", _RUN, str(path), f"{folder}/in.npz", f"{folder}/out.npz"]
            subprocess.run(command, check=True, capture_output=True, text=True)
            outputs = np.load(Path(folder) / "out.npz")
            is_exact = all(outputs[key].tobytes() == value.numpy().tobytes() for key, value in evaluated.items())
            if done.parity.exact and not is_exact:
                raise ValueError("an exact program has other bits in a process without PyTorch")
            result["step"], result["parity"] = "run", "exact" if is_exact else "bounded"
            result["difference"] = float(done.parity.max_difference / max(done.parity.max_magnitude, 1e-30))
    except Exception as error:
        text = " ".join(str(error).split())
        result["reason"] = f"{type(error).__name__}: {text[:300]}"
    return result


def in_process(name: str, timeout: float) -> dict[str, Any]:
    start = time.monotonic()
    command = [sys.executable, __file__, "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        result = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 and done.stdout else None
        if result is None:
            last = done.stderr.strip().splitlines()[-1:] or [""]
            result = {"model": name, "step": "none", "reason": f"CRASH: exit status {done.returncode}: {last[0][:200]}"}
    except subprocess.TimeoutExpired:
        result = {"model": name, "step": "none", "reason": f"CRASH: no end within {timeout:.0f} s"}
    result["seconds"] = round(time.monotonic() - start, 1)
    return result


def summary(results: list[dict[str, Any]]) -> dict[str, int]:
    """How many models reached each step, or a later one."""
    reached = {step: 0 for step in STEPS}
    for result in results:
        for step in STEPS[: STEPS.index(result["step"]) + 1] if result["step"] in STEPS else []:
            reached[step] += 1
    return reached


def page(report: dict[str, Any]) -> str:
    """The census as a page of the docs."""
    results = report["models"]
    lines = [
        "# Census: models that nobody here wrote",
        "",
        "<!-- made by tools/census.py --take from benchmarks/results/census.json -->",
        "",
        "Tiny random instances of other packages' models, each in a process of its own: made ternary, trained for two steps, evaluated, deployed, and run",
        f"without PyTorch. `make census` repeats it. Packages: {', '.join(f'{k} {v}' for k, v in report['packages'].items())}.",
        "",
        f"Of {len(results)} models: " + ", ".join(f"{count} {step}" for step, count in summary(results).items()) + ".",
        "",
        "| model | reached | by | ternary | parity | why no further |",
        "|---|---|---|---:|---|---|",
    ]
    for r in results:
        covered = f"{100 * r['covered']:.0f} %" if "covered" in r else ""
        reason = r["reason"].replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| {r['model']} | {r['step']} | {r.get('by', '')} | {covered} | {r.get('parity', '')} | {reason} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", help="names with commas between, or a file with one a line; by default all")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--take", action="store_true", help="write the committed results and their page")
    parser.add_argument("--list", action="store_true", help="print the names that there are")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for a model (300)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(examine(arguments.one)))
        return 0
    from census_models import MODELS

    names = list(MODELS)
    if arguments.list:
        print("\n".join(names))
        return 0
    if arguments.models:
        chosen = Path(arguments.models)
        names = chosen.read_text().split() if chosen.is_file() else arguments.models.split(",")
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        parser.error(f"models of --list expected, got {', '.join(unknown)}")
    results = []
    for i, name in enumerate(names, 1):
        result = in_process(name, arguments.timeout)
        results.append(result)
        print(f"[{i}/{len(names)}] {name}: {result['step']} {result.get('parity', '')} {result['reason']}", flush=True)
    import importlib.metadata as metadata

    packages = {}
    for package in ("torch", "transformers", "timm", "torchvision"):
        try:
            packages[package] = metadata.version(package).split("+")[0]
        except metadata.PackageNotFoundError:
            continue
    if arguments.take and arguments.models and RESULTS.is_file():
        kept_results = {r["model"]: r for r in json.loads(RESULTS.read_text())["models"]}
        kept_results.update({r["model"]: r for r in results})
        results = [kept_results[name] for name in MODELS if name in kept_results]
    report = {"packages": packages, "reached": summary(results), "models": results}
    print(json.dumps(report["reached"]))
    for path in filter(None, [arguments.json, RESULTS if arguments.take else None]):
        kept = {**report, "models": [{k: v for k, v in r.items() if k != "seconds"} for r in results]}
        path.write_text(json.dumps(kept, indent=1) + "\n")
    if arguments.take:
        PAGE.write_text(page(report))
    return 1 if any(r["reason"].startswith("CRASH") for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
