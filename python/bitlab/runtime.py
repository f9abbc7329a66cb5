"""Runs .bit files without PyTorch.

    session = bitlab.runtime.Session("lenet5.bit", threads=2)
    outputs = session.run({"image": images})    # by name
    logits = session(images)                    # in the model's order

A session is for one thread at a time and may be shared: others wait. Python's lock is free while it runs.
"""

from bitlab._core import Model as Model
from bitlab._core import Port as Port
from bitlab._core import Session as Session
from bitlab._core import cpu as cpu

__all__ = ["Model", "Port", "Session", "cpu"]
