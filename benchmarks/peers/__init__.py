"""Other runtimes' products of the same size, from their wheels. Each module has `tasks(case)`, a dictionary of name to Peer, and what it
cannot run here it leaves out with a reason."""

from __future__ import annotations

import time
from typing import Callable


class Peer:
    """A call that does a case's work; isa is the widest instruction set that it may use."""

    def __init__(self, call: Callable[[], object], isa: str, version: str, note: str = ""):
        self.call, self.isa, self.version, self.note = call, isa, version, note

    def run(self, repeats: int) -> float:
        begin = time.perf_counter()
        for _ in range(repeats):
            self.call()
        return time.perf_counter() - begin
