"""BitTrainer in two processes: they hold the same network, which is that of one process with twice the batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

import bitlab
from bitlab import TrainingConfig

# Every case in one process, as starting it takes longer than all of them; each at a port of its own.
PROGRAM = """
import os
import sys
import torch
import bitlab
from bitlab import BitTrainer, TrainingConfig

out, batch = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)

class Sink:
    def __init__(self):
        self.written = []
    def write(self, event):
        self.written.append(event)

def train(case):
    torch.manual_seed(3)
    layers = [bitlab.nn.BitLinear(12, 40)] + ([torch.nn.BatchNorm1d(40)] if case == "norm" else []) + [torch.nn.ReLU(), torch.nn.Linear(40, 4)]
    model = torch.nn.Sequential(*layers)
    x = torch.randn(60, 12)
    y = (x @ torch.randn(12, 4)).argmax(1)
    if case == "dropout":
        model.insert(1, torch.nn.Dropout(0.5))
    config = TrainingConfig(epochs=3, batch_size=batch, learning_rate=0.01, threads=1, optimizer="sgd", weight_decay=0.01)
    if case == "narrow":
        config.ternary_gradients = "bfloat16"
    sink = Sink()
    trainer = BitTrainer(model, config, torch.utils.data.TensorDataset(x, y), torch.utils.data.TensorDataset(x, y), sinks=[sink])
    report = trainer.train()
    return {"state": model.state_dict(), "losses": [e.loss for e in report.epochs], "events": len(sink.written), "random": torch.rand(3)}

results = {}
for case in sys.argv[3:]:
    case, _, os.environ["MASTER_PORT"] = case.partition(":")
    results[case] = train(case)
torch.save(results, out)
"""

Results = dict[str, dict[str, Any]]  # by case


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _run(folder: Path, cases: list[str], batch: int, processes: int) -> list[Results]:
    alone = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK")}
    named = [f"{case}:{port}" for case, port in zip(cases, _free_ports(len(cases)), strict=True)]
    started = []
    for rank in range(processes):
        together = {"WORLD_SIZE": str(processes), "RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
        command = [sys.executable, "-c", PROGRAM, str(folder / f"{processes}.{rank}"), str(batch), *named]
        started.append(subprocess.Popen(command, env={**alone, **(together if processes > 1 else {})}, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0] * processes, errors
    return [torch.load(folder / f"{processes}.{rank}") for rank in range(processes)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    return _run(tmp_path_factory.mktemp("two"), ["plain", "narrow", "norm", "dropout"], 8, 2)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return _run(tmp_path_factory.mktemp("one"), ["plain", "narrow"], 16, 1)[0]


@pytest.mark.parametrize(("case", "tolerance"), [("plain", 1e-5), ("narrow", 1e-2)])
def test_is_one_with_twice_the_batch(two: list[Results], one: Results, case: str, tolerance: float) -> None:
    # 60 samples in batches of 8 + 8: the last one of each process has 6.
    first, second = (results[case] for results in two)
    assert first["losses"] == second["losses"]
    assert first["losses"] == pytest.approx(one[case]["losses"], rel=10 * tolerance)
    assert first["events"] == one[case]["events"]
    assert second["events"] == 0
    for name, value in one[case]["state"].items():
        assert torch.equal(first["state"][name], second["state"][name]), name
        torch.testing.assert_close(first["state"][name], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", ["norm", "dropout"])
def test_all_end_with_the_same_network(two: list[Results], case: str) -> None:
    first, second = (results[case] for results in two)
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
