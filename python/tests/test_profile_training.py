"""Profiles of training against what shapes and clocks say."""

from __future__ import annotations

import json
import time

import pytest
import torch

import bitlab
from bitlab.nn import BitLinear

BATCH, STEPS = 20, 6


class Slow(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = BitLinear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        time.sleep(0.02)
        return y


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), BitLinear(48, 32), torch.nn.ReLU(), Slow(), torch.nn.Linear(32, 10))


def train(model: torch.nn.Module, profile_steps: int, optimizer: str = "adam") -> bitlab.BitTrainer:
    torch.manual_seed(1)
    data = [(torch.randn(3, 16), i % 10) for i in range(5 * BATCH)]
    config = bitlab.TrainingConfig(epochs=2, batch_size=BATCH, threads=1, optimizer=optimizer)
    trainer = bitlab.BitTrainer(model, config, data, profile_steps=profile_steps)
    trainer.train()
    return trainer


def test_parts_are_within_the_whole_and_a_layer_that_sleeps_is_the_longest():
    profile = train(network(), STEPS).profile.to_dict()
    assert profile["step"]["calls"] == STEPS
    layers, phases = profile["layers"], profile["phases"]
    for phase in ("forward", "backward"):
        parts = sum(layer[phase]["mean_ms"] * layer[phase]["calls"] for layer in layers)
        assert 0 < parts <= phases[phase]["mean_ms"] * STEPS * (1 + 1e-9)
    assert list(phases) == ["data", "forward", "backward", "optimizer"]
    assert sum(phase["mean_ms"] for phase in phases.values()) <= profile["step"]["mean_ms"] * (1 + 1e-9)
    slowest = max(layers, key=lambda layer: layer["share"])
    assert slowest["layer"] == "3"
    assert slowest["forward"]["least_ms"] >= 20


def test_bytes_and_products_are_what_the_shapes_say():
    profile = train(network(), STEPS).profile.to_dict()
    layers = {layer["layer"]: layer for layer in profile["layers"]}
    for name, inputs, outputs in (("1", 48, 32), ("3.fc", 32, 32), ("4", 32, 10)):
        parameters = 4 * (inputs * outputs + outputs)
        assert layers[name]["parameter_bytes"] == layers[name]["gradient_bytes"] == parameters, name
        assert layers[name]["optimizer_bytes"] == 2 * parameters, "two moments"
        assert layers[name]["macs"] == BATCH * inputs * outputs, name
        assert layers[name]["output"] == f"[{BATCH}, {outputs}]"
        assert layers[name]["calls"] == 1
        assert layers[name]["backward"]["mean_ms"] > 0, name
    assert layers["4"]["activation_bytes"] == 4 * BATCH * 10, "its output; its input is the layer's before"
    parameters = sum(layer["parameter_bytes"] for layer in layers.values())
    memory = profile["memory"]
    assert memory["parameter_bytes"] == parameters
    activations = sum(layer["activation_bytes"] for layer in layers.values())
    assert memory["peak_bytes"] >= parameters * 3 + activations, "parameters, two moments, activations"


def test_changes_no_bit():
    plain, profiled = network(), network()
    train(plain, 0), train(profiled, STEPS)
    for (name, a), b in zip(plain.state_dict().items(), profiled.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_all_forms_of_the_report():
    profile = train(network(), STEPS, "sgd").profile
    assert "3.fc" in profile.table() and "backward" in profile.table()
    events = json.loads(profile.chrome_trace())["traceEvents"]
    assert sum(event.get("cat") == "phase" and event["name"] == "backward" for event in events) == STEPS
    page = profile.html()
    assert "Layers" in page and "3.fc" in page and "nan" not in page


def test_refuses_what_was_not_measured():
    with pytest.raises(bitlab.InvalidArgument, match="profile_steps above 0"):
        _ = train(network(), 0).profile
