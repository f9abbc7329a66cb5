"""Models that nobody here wrote come as far as the committed census says, and further as BitLab grows. Also how they train in other people's loops."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from torch import nn

import bitlab

sys.path.insert(0, str(ROOT / "tools"))
try:
    import transformers
    from transformers import BertForSequenceClassification  # noqa: F401
except ImportError as error:
    pytest.skip(f"no transformers that works with this PyTorch: {error}", allow_module_level=True)

import census  # noqa: E402
from census_models import QUICK  # noqa: E402

COMMITTED = {r["model"]: r for r in json.loads((ROOT / "benchmarks/results/census.json").read_text())["models"]}
transformers.logging.set_verbosity_error()


@pytest.mark.parametrize("name", [name for name in QUICK if name.startswith("transformers/")])
def test_a_model_of_transformers(name: str) -> None:
    found, committed = census.examine(name), COMMITTED[name]
    steps = ["none", *census.STEPS]
    assert steps.index(found["step"]) >= steps.index(committed["step"]), found["reason"]
    assert steps.index(found["step"]) >= steps.index("trained"), found["reason"]
    if found["step"] == "run" and committed.get("parity") == "exact":
        assert found["parity"] == "exact"


def test_the_page_says_what_was_found() -> None:
    report = json.loads(census.RESULTS.read_text())
    assert census.PAGE.read_text() == census.page(report)
    assert report["reached"] == census.summary(report["models"])
    assert not any(r["reason"].startswith("CRASH") for r in report["models"])


# --- other people's training loops


class Labelled(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        return {"input_ids": torch.randint(5, 50, (9,), generator=generator), "labels": index % 2}


def bert() -> nn.Module:
    config = transformers.BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    model = transformers.BertForSequenceClassification(config)
    bitlab.BitConverter.convert(model)
    return model


def test_trains_in_the_trainer_of_hugging_face(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    model = bert()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=1, per_device_train_batch_size=8, report_to=[], save_strategy="no", use_cpu=True,
        disable_tqdm=True,
    )  # fmt: skip
    result = transformers.Trainer(model, arguments, train_dataset=Labelled()).train()
    assert result.global_step == 3
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert any("encoder.layer.0.attention" in name for name in moved)


def test_a_model_of_hugging_face_in_our_trainer() -> None:
    report = bitlab.BitTrainer(bert(), bitlab.TrainingConfig(epochs=2, batch_size=8, threads=1), Labelled(), Labelled()).train()
    assert report.best_by == "loss" and len(report.epochs) == 2


def test_trains_in_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
            bitlab.BitConverter.convert(self.net, bitlab.BitQuantConfig(method="lsq", granularity="channel"))

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 0.01)

    module = Module()
    before = module.net[0].weight_scale.detach().clone()
    data = torch.utils.data.TensorDataset(torch.randn(32, 6), torch.randint(0, 2, (32,)))
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, 8))
    assert trainer.global_step == 8 and not torch.equal(module.net[0].weight_scale, before)
