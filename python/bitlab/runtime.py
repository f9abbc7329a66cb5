"""Runs .bit files without PyTorch.

    session = bitlab.runtime.Session("lenet5.bit", threads=2)   # device="cuda" for an NVIDIA GPU
    outputs = session.run({"image": images})    # by name
    logits = session(images)                    # in the model's order
    print(bitlab.profile("lenet5.bit", images).table())

A session is for one thread at a time and may be shared: others wait. Python's lock is free while it runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from bitlab._core import Model as Model
from bitlab._core import Port as Port
from bitlab._core import Profile as Profile
from bitlab._core import Session as Session
from bitlab._core import cpu as cpu

__all__ = ["Model", "Port", "Profile", "Session", "cpu", "profile"]


def profile(
    model: Model | str | os.PathLike[str],
    inputs: Any,
    *,
    runs: int = 20,
    warmup: int = 3,
    threads: int = 1,
    roofs: bool = True,
    device: str = "",
) -> Profile:
    """Runs a model, and tells where time and memory go: node by node, beside what this machine can do.

    model: a .bit file, or a loaded one. inputs: arrays by name, a tuple of them in the model's order, or the only one.
    runs: that are measured, behind `warmup` ones; states begin empty in each. threads: 0 for all cores.
    roofs: measure the machine as well, which takes part of a second; the CPU alone. device: as of Session."""
    name = "" if isinstance(model, Model) else os.fspath(model)
    loaded = model if isinstance(model, Model) else Model.load(model)
    if not isinstance(inputs, Mapping):
        arrays = inputs if isinstance(inputs, tuple) else (inputs,)
        names = [port.name for port in loaded.inputs]
        inputs = {names[i] if i < len(names) else str(i): array for i, array in enumerate(arrays)}
    return Profile.take(loaded, dict(inputs), name, runs, warmup, threads, roofs, device)
