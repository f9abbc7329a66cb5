"""What the tests of formats have in common: forms of products, and how far two programs that run one are apart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import bitlab

Arrays = dict[str, np.ndarray]
# Relative to the largest output: roundings of float operations, and behind quantizers a step of an activation's 127.
ROUNDING, BEHIND_QUANTIZERS = 2e-6, 2e-2


def deployed(model: nn.Module, example: Any, path: Path, **options: Any) -> Arrays:
    """Writes a .bit file, and returns the example as arrays by the names of its inputs."""
    bitlab.deploy(model.eval(), example, path, **options)
    tensors = example.values() if isinstance(example, dict) else example if isinstance(example, tuple) else (example,)
    ports = bitlab.runtime.Model.load(path).inputs
    return {port.name: tensor.numpy() for port, tensor in zip(ports, tensors, strict=True)}


def ops_of(path: Path) -> set[str]:
    return set(re.findall(r" = (\w+)\(", str(bitlab.runtime.Model.load(path))))


def apart(found: Arrays, expected: Arrays) -> float:
    """The largest difference of outputs, relative to the largest of its output; 0 for equal bits."""
    assert list(found) == list(expected)
    worst = 0.0
    for name, y in expected.items():
        assert found[name].dtype == y.dtype and found[name].shape == y.shape, name
        if not np.array_equal(found[name], y, equal_nan=True):
            difference = np.abs(found[name].astype(np.float64) - y.astype(np.float64)).max()
            worst = max(worst, difference / max(np.abs(y.astype(np.float64)).max(), 1e-30))
    return worst


class Products(nn.Module):
    """Every form of a product: of rows, of tokens, of pictures plain, in groups, by channel and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.even = nn.Linear(131, 9), nn.Linear(9, 6, bias=False), nn.Linear(256, 64)
        self.conv = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.grouped, self.depthwise = (
            nn.Conv2d(6, 4, (1, 3), groups=2, dilation=2, bias=False),
            nn.Conv2d(4, 4, 3, padding=2, groups=4),
        )
        self.up = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.line = nn.Conv1d(5, 3, 2)

    def forward(
        self, rows: torch.Tensor, tokens: torch.Tensor, even: torch.Tensor, picture: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        pictures = self.up(self.depthwise(self.grouped(self.conv(picture))))
        return self.second(self.first(rows)), self.line(self.first(tokens)), self.even(even), pictures


def examples() -> tuple[torch.Tensor, ...]:
    return torch.randn(3, 131), torch.randn(3, 5, 131), torch.randn(3, 2, 256), torch.randn(3, 4, 9, 14)


QUANTIZATIONS = [
    {"method": method, "granularity": granularity, "activation": activation}
    for method in ("absmean", "twn_asymmetric", "int8")
    for granularity in ("tensor", "channel")
    for activation in ("int8", "int4")
]


def largest_sums(method: str, depth: int, path: Path) -> Arrays:
    """Deploys a layer whose sums are as large as they can be: beyond 2^24, where float32 has not every integer, above a depth of 132,104, in int8 of 1040."""
    layer = nn.Linear(depth, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [-1.0], [1.0]]).expand(3, depth))
    x = torch.full((2, depth), 3.7)
    x[1, ::2] = -3.65
    return deployed(bitlab.BitModel(nn.Sequential(layer), bitlab.BitQuantConfig(method=method)), x, path)
