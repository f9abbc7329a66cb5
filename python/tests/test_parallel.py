"""BitTrainer in two processes: they hold the same network, which is that of one process with twice the batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bitlab
from bitlab import TrainingConfig

PROGRAM = """
import sys
import torch
import bitlab
from bitlab import BitTrainer, TrainingConfig

case, out, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.manual_seed(3)
torch.set_num_threads(1)
layers = [bitlab.nn.BitLinear(12, 40)] + ([torch.nn.BatchNorm1d(40)] if case == "norm" else []) + [torch.nn.ReLU(), torch.nn.Linear(40, 4)]
model = torch.nn.Sequential(*layers)
x = torch.randn(60, 12)
y = (x @ torch.randn(12, 4)).argmax(1)
if case == "dropout":
    model.insert(1, torch.nn.Dropout(0.5))
config = TrainingConfig(epochs=3, batch_size=batch, learning_rate=0.01, threads=1, optimizer="sgd", weight_decay=0.01)
if case == "narrow":
    config.ternary_gradients = "bfloat16"
written = []
class Sink:
    def write(self, event):
        written.append(event)
trainer = BitTrainer(model, config, torch.utils.data.TensorDataset(x, y), torch.utils.data.TensorDataset(x, y), sinks=[Sink()])
report = trainer.train()
torch.save({"state": model.state_dict(), "losses": [e.loss for e in report.epochs], "events": len(written), "random": torch.rand(3)}, out)
"""


def _run(folder: Path, case: str, batch: int, processes: int) -> list[dict[str, object]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK")}
    started = []
    for rank in range(processes):
        together = {"WORLD_SIZE": str(processes), "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "-c", PROGRAM, case, str(folder / f"{case}{processes}.{rank}"), str(batch)]
        started.append(subprocess.Popen(command, env={**alone, **(together if processes > 1 else {})}, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0] * processes, errors
    return [torch.load(folder / f"{case}{processes}.{rank}") for rank in range(processes)]


@pytest.mark.parametrize(("case", "tolerance"), [("plain", 1e-5), ("narrow", 1e-2)])
def test_is_one_with_twice_the_batch(tmp_path: Path, case: str, tolerance: float) -> None:
    # 60 samples in batches of 8 + 8: the last one of each process has 6.
    first, second = _run(tmp_path, case, 8, 2)
    (one,) = _run(tmp_path, case, 16, 1)
    assert first["losses"] == second["losses"]
    assert first["losses"] == pytest.approx(one["losses"], rel=10 * tolerance)
    assert first["events"] == one["events"]
    assert second["events"] == 0
    for name, value in one["state"].items():
        assert torch.equal(first["state"][name], second["state"][name]), name
        torch.testing.assert_close(first["state"][name], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", ["norm", "dropout"])
def test_all_end_with_the_same_network(tmp_path: Path, case: str) -> None:
    first, second = _run(tmp_path, case, 8, 2)
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
    assert not torch.equal(first["random"], second["random"]), "each process draws numbers of its own"


def test_variables_that_torchrun_would_set_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    data = torch.utils.data.TensorDataset(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    trainer = bitlab.BitTrainer(torch.nn.Linear(3, 2), TrainingConfig(epochs=1), data)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(bitlab.InvalidArgument, match="a number in RANK, as torchrun sets it, got 'one'"):
        trainer.train()
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with pytest.raises(bitlab.InvalidArgument, match="RANK below WORLD_SIZE"):
        trainer.train()
