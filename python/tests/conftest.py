"""What the tests share: a folder of the repository, data, and small networks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no processes of torch.compile's own beside the tests

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from census_models import import_torchvision  # noqa: E402

import_torchvision()  # where it is: transformers and timm import it, and one without its operators needs help


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # another test runs beside this one


class Net(torch.nn.Module):
    """A convolution, a batch norm, a layer, and a weight of its own that only a functional call reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 6, 3, stride=2, padding=1)
        self.norm = torch.nn.BatchNorm2d(6)
        self.fc = torch.nn.Linear(6 * 5 * 4, 7)
        self.table = torch.nn.Parameter(torch.randn(5, 7) * 0.3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm(self.conv(image))).flatten(1)
        return torch.nn.functional.linear(torch.relu(self.fc(hidden)), self.table)


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 1, 9, 8)
