"""Where the events of training go.

    trainer = bitlab.BitTrainer(model, config, train, test, sinks=[bitlab.sinks.json_lines("log.jsonl"), bitlab.sinks.tensorboard("runs/a")])

json_lines, csv and tensorboard are files. A training that begins empties them; one that goes on from a checkpoint cuts off what will come again.
"""

from __future__ import annotations

import importlib
from typing import Any

from bitlab._extension import _torch

Event = _torch.Event
EventPosition = _torch.EventPosition
csv = _torch.csv
json_lines = _torch.json_lines
tensorboard = _torch.tensorboard


class WeightsAndBiases:
    """Events for Weights & Biases, through the package wandb, which must be installed.

    every: of the steps every so many. run: a run of wandb to write to, which stays open; without it one begins with training, by `wandb.init(**options)`,
    and ends with it. Numbers are called as in TensorBoard. A run that is resumed under its id passes over steps that it has.
    """

    def __init__(self, *, every: int = 1, run: Any = None, **options: Any) -> None:
        self.every, self.run, self.options = every, run, options
        self._is_own = run is None

    def begin(self, position: EventPosition) -> None:
        if not self._is_own:
            return
        self.run = importlib.import_module("wandb").init(**self.options)

    def write(self, event: Event) -> None:
        if event.kind == "step" and event.step % self.every != 0:
            return
        self.run.log(event.tags, step=event.step)
        if event.kind == "end" and self._is_own:
            self.run.finish()
