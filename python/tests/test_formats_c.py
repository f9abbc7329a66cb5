"""Networks of the kinds that spot keywords, as source in C in floats and in integers, beside the runtime. No speech comes with BitLab: weights are random, and
inputs are rows of MNIST's pictures, one behind the other as frames of a spectrogram are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bitlab.formats import convert
from conftest import ROOT
from products import BEHIND_QUANTIZERS, apart
from sources import c_compiler
from torch import nn

import bitlab
from bitlab.data import load_dataset

FRAMES, BANDS, CLASSES = 28, 28, 10


def conv1d(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm1d(outputs))


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv1d(inputs, outputs, 9, 2), nn.ReLU(), conv1d(outputs, outputs, 9))
        self.shortcut = nn.Sequential(conv1d(inputs, outputs, 1, 2), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def tc_resnet() -> nn.Module:
    """TC-ResNet8 (arXiv:1904.03814): frequencies are channels, convolutions go along time."""
    return nn.Sequential(
        conv1d(BANDS, 16, 3), Residual(16, 24), Residual(24, 32), Residual(32, 48), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(48, CLASSES)
    )


def ds_cnn() -> nn.Module:
    """DS-CNN (arXiv:1711.07128) with 24 channels: convolutions by channel, then by pixel."""

    def conv(inputs: int, kernel: int, stride: int, groups: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, 24, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(24), nn.ReLU6()]

    body = [layer for _ in range(3) for layer in conv(24, 3, 1, 24) + conv(24, 1, 1, 1)]
    return nn.Sequential(nn.Unflatten(1, (1, BANDS)), *conv(1, 5, 2, 1), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, CLASSES))


def frames(count: int) -> torch.Tensor:
    """[count, bands, frames]"""
    samples = load_dataset("mnist", "test", root=ROOT / "data/mnist", limit=count)
    pictures = np.stack([samples[i][0] for i in range(count)]).reshape(count, FRAMES, BANDS)
    return torch.from_numpy(pictures).transpose(1, 2).contiguous()


@pytest.mark.parametrize("make", [tc_resnet, ds_cnn])
def test_keyword_networks_in_integers(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, model = frames(64), make()
    bitlab.BitConverter.convert(model, bitlab.BitQuantConfig(granularity="channel", activation="int8_static"))
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, -1.5, 1.5)  # of both signs
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        model.train()(x)  # steps, and statistics
    bit = tmp_path / "keywords.bit"
    bitlab.deploy(model.eval(), x[:2], bit)
    (expected,) = bitlab.runtime.Session(bit).run({"input": x.numpy()}).values()
    logits = {}
    for variant in ("2bit", "integer", "integer_base3"):
        convert(bit, tmp_path / f"net_{variant}.c", variant=variant)
        (logits[variant],) = c_compiler(tmp_path / f"net_{variant}.c")({"input": x.numpy()})
    assert apart({"y": logits["2bit"]}, {"y": expected}) <= BEHIND_QUANTIZERS
    np.testing.assert_array_equal(logits["integer"], logits["integer_base3"])
    assert apart({"y": logits["integer"]}, {"y": expected}) <= BEHIND_QUANTIZERS
    assert apart({"y": logits["integer"]}, {"y": np.roll(expected, 1, 0)}) > 5 * BEHIND_QUANTIZERS  # samples differ
