"""Where training's events go: files, TensorBoard as its own package reads it, Weights & Biases, objects of Python."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import bitlab


def data(count: int, seed: int) -> list[tuple[torch.Tensor, int]]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    inputs = torch.randn(count, 5, generator=generator) + 2.0 * torch.nn.functional.one_hot(labels, 5)
    return [(x, int(y)) for x, y in zip(inputs, labels, strict=True)]


def trainer(sinks: list[Any], epochs: int = 2, **options: Any) -> bitlab.BitTrainer:
    torch.manual_seed(1)
    model = torch.nn.Linear(5, 3)
    config = bitlab.TrainingConfig(epochs=epochs, batch_size=8, learning_rate=0.05, threads=1)
    return bitlab.BitTrainer(model, config, data(45, 0), data(21, 1), sinks=sinks, **options)


class Recorder:
    def __init__(self) -> None:
        self.events: list[Any] = []
        self.position: Any = None

    def begin(self, position: Any) -> None:
        self.position = position

    def write(self, event: Any) -> None:
        self.events.append(event)


def test_events_say_what_the_reports_say() -> None:
    recorder, steps = Recorder(), []
    report = trainer([recorder], on_step=steps.append).train()
    assert recorder.position.step == 0
    assert [e.kind for e in recorder.events] == (["step"] * 6 + ["evaluation", "epoch"]) * 2 + ["end"]
    assert [e.step for e in recorder.events if e.kind == "step"] == list(range(1, 13))
    for event, step in zip((e for e in recorder.events if e.kind == "step"), steps, strict=True):
        assert (event.epoch, event.epochs, event.steps) == (step.epoch, 2, 12)
        assert event.numbers["mean_loss"] == step.loss and event.numbers["learning_rate"] == step.learning_rate
        assert event.numbers["loss"] == step.batch_loss and event.numbers["items_per_second"] > 0
    # The mean over the epoch's 45 items, of batches of 8 and one of 5.
    first = [s for s in steps if s.epoch == 1]
    assert [s.items for s in first] == [8, 8, 8, 8, 8, 5]
    assert sum(s.batch_loss * s.items for s in first) / 45 == pytest.approx(report.epochs[0].loss, rel=1e-12)
    for event, epoch in zip((e for e in recorder.events if e.kind == "epoch"), report.epochs, strict=True):
        assert event.numbers["loss"] == epoch.loss and event.numbers["seconds"] == epoch.seconds
    for event, epoch in zip((e for e in recorder.events if e.kind == "evaluation"), report.epochs, strict=True):
        assert (event.epoch, event.step) == (epoch.epoch, 6 * epoch.epoch)
        assert event.numbers == {f"validation.{k}": v for k, v in epoch.metrics.items()}
    end = recorder.events[-1]
    assert end.numbers["best_epoch"] == report.best_epoch and end.tags["best/accuracy"] == report.best["accuracy"]


def test_what_a_sink_raises_comes_through() -> None:
    class Full:
        def write(self, event: Any) -> None:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        trainer([Full()]).train()
    with pytest.raises(bitlab.NotFound, match="nowhere"):
        trainer([bitlab.sinks.json_lines("/nowhere/log.jsonl")]).train()
    with pytest.raises(bitlab.IoError, match="/dev/full"):
        trainer([bitlab.sinks.csv("/dev/full")]).train()


def test_an_interrupted_training_logs_what_a_whole_one_does(tmp_path: Path) -> None:
    class Stop:
        def write(self, event: Any) -> None:
            if event.step == 9:
                raise KeyboardInterrupt

    def log(name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        return [{k: v for k, v in line.items() if not re.search("second|phase", k)} for line in lines]

    trainer([bitlab.sinks.json_lines(tmp_path / "whole")], epochs=3).train()
    checkpoint = tmp_path / "last.ckpt"
    with pytest.raises(KeyboardInterrupt):
        trainer([bitlab.sinks.json_lines(tmp_path / "cut"), Stop()], epochs=3, checkpoint=checkpoint).train()
    assert log("cut")[-1]["step"] == 9
    recorder = Recorder()
    trainer([bitlab.sinks.json_lines(tmp_path / "cut"), recorder], epochs=3, checkpoint=checkpoint, resume=True).train()
    assert (recorder.position.step, recorder.position.epochs) == (6, 1)
    assert recorder.position.seconds > 0
    assert log("cut") == log("whole")


def test_tensorboard_reads_its_files(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recorder = Recorder()
    trainer([recorder, bitlab.sinks.tensorboard(tmp_path, every=2)]).train()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    written = [e for e in recorder.events if e.kind != "step" or e.step % 2 == 0]
    tags = {tag for event in written for tag in event.tags}
    assert set(events.Tags()["scalars"]) == tags | {"epoch", "evaluation"}
    assert {"train/loss", "epoch/loss", "validation/accuracy", "best/accuracy", "end/best_epoch"} <= tags
    for tag in tags:
        expected = [(e.step, e.tags[tag]) for e in written if tag in e.tags]
        read = events.Scalars(tag)
        assert [s.step for s in read] == [step for step, _ in expected], tag
        assert [s.value for s in read] == pytest.approx([value for _, value in expected], rel=1e-6), tag
    for tag in ("epoch", "evaluation"):
        assert [s.value for s in events.Scalars(tag)] == [1, 2]


def test_weights_and_biases_offline(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb", reason="the package wandb is not installed")
    options = {"project": "bitlab", "mode": "offline", "dir": str(tmp_path), "settings": wandb.Settings(silent=True)}
    trainer([bitlab.sinks.WeightsAndBiases(every=3, **options)]).train()
    assert wandb.run is None, "its own run has ended"
    assert len(list(tmp_path.rglob("*.wandb"))) == 1
    run = wandb.init(**options)
    trainer([bitlab.sinks.WeightsAndBiases(run=run)]).train()
    assert wandb.run is run, "the caller's goes on"
    run.finish()


def test_weights_and_biases_with_a_run_of_the_callers() -> None:
    class Run:
        def __init__(self) -> None:
            self.lines: list[tuple[int, dict[str, float]]] = []

        def log(self, numbers: dict[str, float], step: int) -> None:
            self.lines.append((step, numbers))

    run = Run()
    trainer([bitlab.sinks.WeightsAndBiases(run=run, every=5)]).train()
    assert [step for step, _ in run.lines] == [5, 6, 6, 10, 12, 12, 12]
    assert "validation/accuracy" in run.lines[1][1]
