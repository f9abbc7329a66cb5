"""The examples run, with little data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

EXAMPLES = ROOT / "examples"


def run(example: str, *arguments: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, str(EXAMPLES / example), *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_mnist_classification(tmp_path: Path) -> None:
    assert "the same bits" in run("vision/mnist_classification.py", "500", folder=tmp_path)


def test_convert_torchvision_model(tmp_path: Path) -> None:
    output = run("conversion/convert_torchvision_model.py", "--size", "32", folder=tmp_path)
    assert "4 x 1000 logits" in output and "int8/channel" in output


def test_convert_huggingface_model(tmp_path: Path) -> None:
    try:
        from transformers import BertForSequenceClassification  # noqa: F401
    except ImportError as error:
        pytest.skip(f"no transformers that works with this PyTorch: {error}")
    assert "largest difference of logits" in run("conversion/convert_huggingface_model.py", folder=tmp_path)


def test_compare_accuracy(tmp_path: Path) -> None:
    output = run("conversion/compare_accuracy.py", "--epochs", "1", "--limit", "1000", folder=tmp_path)
    assert output.count("%") == 4
