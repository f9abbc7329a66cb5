"""The trainer over data sets, modules, losses and metrics of Python."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bitlab


class Blobs(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Three classes that a small network tells apart."""

    def __init__(self, count: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.y = torch.randint(0, 3, (count,), generator=generator)
        self.x = torch.randn(count, 8, generator=generator) + 2.0 * torch.nn.functional.one_hot(self.y, 8)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.x[index], int(self.y[index])


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))


def ternary() -> nn.Module:
    model = network()
    bitlab.BitConverter.convert(model)
    return model


CONFIG = bitlab.TrainingConfig(epochs=3, batch_size=32, threads=1, learning_rate=0.02)


@pytest.mark.parametrize("make", [network, ternary, lambda: bitlab.BitModel(network())])
def test_trains_and_keeps_the_best_epoch(make: Any) -> None:
    model, epochs = make(), []
    trainer = bitlab.BitTrainer(model=model, config=CONFIG, train_dataset=Blobs(320), eval_dataset=Blobs(99, 1), on_epoch=epochs.append)
    report = trainer.train()
    assert [e.epoch for e in epochs] == [1, 2, 3] and report.epochs[0].loss > report.epochs[-1].loss
    assert report.best["accuracy"] > 0.8 and report.best_by == "accuracy"
    assert report.best["accuracy"] == max(e.metrics["accuracy"] for e in report.epochs)
    assert trainer.evaluate()["accuracy"] == report.best["accuracy"]


def test_compute_metrics_as_in_hugging_face() -> None:
    seen: list[Any] = []

    def metrics(prediction: Any) -> dict[str, float]:
        seen.append(prediction)
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    data = Blobs(70, 1)
    trainer = bitlab.BitTrainer(model=ternary(), config=CONFIG, train_dataset=Blobs(160), eval_dataset=data, compute_metrics=metrics)
    report = trainer.train()
    assert report.best_by == "accuracy" and seen[0].predictions.shape == (70, 3)
    assert np.array_equal(seen[0].label_ids, data.y.numpy())
    plain = bitlab.BitTrainer(model=trainer.model, config=CONFIG, eval_dataset=data).evaluate()
    assert plain["accuracy"] == pytest.approx(trainer.evaluate()["accuracy"], abs=1e-12)


class ByName(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[dict[str, Any]]:
        for x, y in itertools.islice(Blobs(96), 96):
            yield {"features": x.numpy(), "labels": y, "source": "made up", "unused": np.float64(1)}


class ReturnsLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = ternary()

    def forward(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.body(features)
        result = {"logits": logits}
        return result if labels is None else {"loss": nn.functional.cross_entropy(logits, labels), **result}


def test_mappings_iterables_and_models_that_return_a_loss() -> None:
    report = bitlab.BitTrainer(ReturnsLoss(), CONFIG, ByName(), ByName()).train()
    assert report.best_by == "loss" and report.best["loss"] < 0.9


def test_a_loss_of_ones_own() -> None:
    asked: list[type] = []

    def loss(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        asked.append(type(output))
        return (output - nn.functional.one_hot(label, 3)).square().mean()

    report = bitlab.BitTrainer(ternary(), CONFIG, Blobs(96), Blobs(64, 1), loss=loss).train()
    assert report.best_by == "loss" and asked and report.epochs[-1].loss < report.epochs[0].loss


def test_the_same_bits_again_and_after_an_interruption(tmp_path: Path) -> None:
    def run(**options: Any) -> dict[str, torch.Tensor]:
        model = ternary()
        bitlab.BitTrainer(model, CONFIG.replace(ternary_warmup=0.5), Blobs(96), Blobs(32, 1), **options).train()
        return model.state_dict()

    class Stop(Exception):
        pass

    def stop(report: Any) -> None:
        if report.epoch == 2:
            raise Stop

    whole = run()
    with pytest.raises(Stop):
        run(checkpoint=tmp_path / "last.ckpt", on_epoch=stop)
    resumed = run(checkpoint=tmp_path / "last.ckpt", resume=True)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_the_warm_up_reaches_layers() -> None:
    shares: list[float] = []
    model = ternary()

    def note(_: Any) -> None:
        shares.append(float(model[0].blend))

    bitlab.BitTrainer(model, CONFIG.replace(ternary_warmup=0.5), Blobs(96), on_step=note).train()
    assert shares[0] < 0.5 and shares == sorted(shares) and shares[-1] == 1.0


@pytest.mark.parametrize("workers", [0, 2])
def test_exceptions_keep_their_traceback(workers: int) -> None:
    class Broken(Blobs):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            if index == 20:
                raise LookupError("sample 20")
            return super().__getitem__(index)

    with pytest.raises(LookupError, match="sample 20") as raised:
        bitlab.BitTrainer(ternary(), CONFIG.replace(workers=workers), Broken(64)).train()
    assert raised.traceback[-1].name == "__getitem__"


def test_ctrl_c() -> None:
    def interrupt(report: Any) -> None:
        if report.step == 2:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            bitlab.BitTrainer(ternary(), CONFIG, Blobs(320), on_step=interrupt).train()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: bitlab.BitTrainer(ternary(), CONFIG), bitlab.InvalidArgument, "train_dataset"),
        (lambda: bitlab.BitTrainer(ternary(), CONFIG.replace(epochs=0), Blobs(9)), bitlab.InvalidArgument, "epochs"),
        (lambda: bitlab.BitTrainer(ternary(), CONFIG, []), bitlab.InvalidArgument, "sample"),
        (lambda: bitlab.BitTrainer(ternary(), CONFIG, [("a", 1)]), bitlab.TypeMismatch, "got str"),
        (lambda: bitlab.BitTrainer(ternary(), CONFIG, [(torch.zeros(8), 0), (torch.zeros(7), 0)]), bitlab.ShapeMismatch, "8"),
        (lambda: bitlab.BitTrainer(nn.Linear(8, 3), CONFIG, [{"x": 1}]), TypeError, "input"),
        (lambda: bitlab.BitTrainer(ternary(), CONFIG, [(torch.full((8,), torch.inf), 0)]), RuntimeError, "finite input"),
    ],
)
def test_errors(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make().train()


SCHEDULES = {
    "cosine": ({"final_rate": 0.1}, lambda o, n: torch.optim.lr_scheduler.CosineAnnealingLR(o, n, eta_min=0.01)),
    "linear": ({"final_rate": 0.2}, lambda o, n: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.2, n)),
    "polynomial": ({"power": 2.5}, lambda o, n: torch.optim.lr_scheduler.PolynomialLR(o, n, 2.5)),
    "step": ({"step_epochs": 2, "step_factor": 0.3}, lambda o, n: torch.optim.lr_scheduler.StepLR(o, 2 * n // 5, 0.3)),
    "one_cycle": ({"warmup": 0.3}, lambda o, n: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=n, cycle_momentum=False)),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_are_those_of_pytorch(schedule: str) -> None:
    fields, scheduler = SCHEDULES[schedule]
    config = bitlab.TrainingConfig(**{"epochs": 5, "batch_size": 10, "learning_rate": 0.1, "warmup": 0, "schedule": schedule, **fields})
    rates: list[float] = []
    trainer = bitlab.BitTrainer(network(), config, Blobs(40), on_step=lambda step: rates.append(step.learning_rate))
    trainer.train()
    optimizer = torch.optim.SGD(network().parameters(), 0.1)
    theirs, expected = scheduler(optimizer, 20), []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step(), theirs.step()
    assert rates == pytest.approx(expected, rel=1e-9, abs=1e-12)


# Training on a device is tests/integration/device_test.py's, as the tests of Python have none.
def test_a_device_that_is_not_there_is_an_error() -> None:
    report = bitlab.BitTrainer(network(), CONFIG.replace(device="cpu"), Blobs(32)).train()
    assert len(report.epochs) == 3
    for teacher in (None, network()):
        config = CONFIG.replace(device="gpu", distillation=0.5 if teacher else 0.0)
        with pytest.raises(bitlab.InvalidArgument, match="a device 'cpu', 'cuda' or 'cuda:<number>', got 'gpu'"):
            bitlab.BitTrainer(network(), config, Blobs(32), teacher=teacher).train()
        if not torch.cuda.is_available():
            with pytest.raises(bitlab.Unsupported, match="for the device 'cuda:1', got"):
                bitlab.BitTrainer(network(), config.replace(device="cuda:1"), Blobs(32), teacher=teacher).train()


# --- what a config adds to a step, against PyTorch

PLAIN = {"epochs": 5, "batch_size": 24, "optimizer": "sgd", "learning_rate": 0.1, "schedule": "constant", "warmup": 0, "threads": 1}


def trained(**fields: Any) -> nn.Module:
    model = network()
    bitlab.BitTrainer(model, bitlab.TrainingConfig(**PLAIN, **fields), Blobs(24)).train()
    return model


def by_hand(loss: Any, after: Any = lambda model: None) -> nn.Module:
    """The same with PyTorch alone: each epoch is one batch, so that its order matters no more than rounding."""
    model, data = network(), Blobs(24)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(5):
        optimizer.zero_grad()
        loss(model(data.x), data.y).backward()
        optimizer.step()
        after(model)
    return model


def check_close(ours: nn.Module, theirs: nn.Module) -> None:
    for name, value in theirs.state_dict().items():
        assert torch.allclose(ours.state_dict()[name], value, 1e-4, 1e-6), name


def test_muon_is_that_of_pytorch() -> None:
    """Which multiplies in bfloat16: a few hundredths of a step."""
    muon = {"optimizer": "muon", "momentum": 0.95, "learning_rate": 0.02, "weight_decay": 0.1}
    ours, theirs, data, before = network(), network(), Blobs(24), network()
    bitlab.BitTrainer(ours, bitlab.TrainingConfig(**PLAIN | muon), Blobs(24)).train()
    optimizers = [
        torch.optim.Muon([theirs[0].weight], 0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([theirs[2].weight], 0.02, weight_decay=0.1),
        torch.optim.AdamW([theirs[0].bias, theirs[2].bias], 0.02, weight_decay=0),
    ]
    for _ in range(5):
        theirs.zero_grad()
        nn.functional.cross_entropy(theirs(data.x), data.y).backward()
        for optimizer in optimizers:
            optimizer.step()
    for name, value in theirs.state_dict().items():
        moved = (value - before.state_dict()[name]).norm()
        assert (ours.state_dict()[name] - value).norm() < 0.04 * moved, name


def test_label_smoothing_is_that_of_pytorch() -> None:
    expected = by_hand(lambda output, label: nn.functional.cross_entropy(output, label, label_smoothing=0.3))
    check_close(trained(label_smoothing=0.3), expected)
    own = bitlab.BitTrainer(network(), bitlab.TrainingConfig(**PLAIN, label_smoothing=0.3), Blobs(24), loss=nn.functional.cross_entropy)
    with pytest.raises(bitlab.Unsupported, match="default loss"):
        own.train()


def test_moving_average_is_that_of_pytorch() -> None:
    average: Any = None

    def update(model: nn.Module) -> None:
        nonlocal average
        if average is None:
            average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.6))
        average.update_parameters(model)

    by_hand(nn.functional.cross_entropy, update)
    check_close(trained(ema=0.6), average.module)


def test_mixup_reaches_the_model_and_the_loss() -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Seen(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                seen.append((x.clone(), self.weight.detach().clone()))
            return super().forward(x)

    torch.manual_seed(0)
    data, losses = Blobs(24), []
    trainer = bitlab.BitTrainer(Seen(8, 3), bitlab.TrainingConfig(**PLAIN, mixup=0.5), data, on_epoch=lambda epoch: losses.append(epoch.loss))
    bias = trainer.model.bias
    torch.nn.init.zeros_(bias)
    trainer.train()
    assert len(seen) == 5
    mixed, weight = seen[0]
    # Each mixed row is that of two of the data: found by the share that fits, its loss is that of the labels' mixture.
    rows = data.x
    target = torch.zeros(24, 3)
    for i, row in enumerate(mixed):
        best = min(
            ((row - (s * rows[a] + (1 - s) * rows[b])).norm(), a, b, float(s))
            for a in range(24)
            for b in range(24)
            for s in [((row - rows[b]) @ (rows[a] - rows[b]) / (rows[a] - rows[b]).square().sum().clamp(min=1e-9)).clamp(0, 1)]
        )
        assert best[0] < 1e-4
        target[i, data.y[best[1]]] += best[3]
        target[i, data.y[best[2]]] += 1 - best[3]
    assert losses[0] == pytest.approx(float(nn.functional.cross_entropy(mixed @ weight.T, target)), rel=1e-4)
    with pytest.raises(bitlab.Unsupported, match="mixup"):
        bitlab.BitTrainer(ReturnsLoss(), CONFIG.replace(mixup=0.5), ByName()).train()


def test_distillation_is_the_divergence_of_pytorch() -> None:
    torch.manual_seed(9)
    teacher = nn.Linear(8, 3)
    model = network()
    config = bitlab.TrainingConfig(**PLAIN, distillation=0.75, temperature=2)
    bitlab.BitTrainer(model, config, Blobs(24), teacher=teacher).train()

    def loss(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        target = (teacher(Blobs(24).x) / 2).softmax(1).detach()
        divergence = nn.functional.kl_div((output / 2).log_softmax(1), target, reduction="batchmean")
        return 0.25 * nn.functional.cross_entropy(output, label) + 0.75 * 4 * divergence

    check_close(model, by_hand(loss))
    assert all(p.grad is None for p in teacher.parameters())
    with pytest.raises(bitlab.InvalidArgument, match="teacher"):
        bitlab.BitTrainer(network(), config, Blobs(24)).train()


def hot(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """A loss whose gradients float16 cannot hold at the first scale."""
    return 40 * nn.functional.cross_entropy(output.float(), label)


def test_float16_is_that_of_grad_scaler() -> None:
    config = bitlab.TrainingConfig(**{**PLAIN, "epochs": 2012, "learning_rate": 1e-4, "precision": "float16"})
    model, steps = network(), []
    trainer = bitlab.BitTrainer(model, config, Blobs(24), loss=hot, on_step=lambda step: steps.append((step.loss_scale, step.skipped)))
    trainer.train()

    theirs, data, expected = network(), Blobs(24), []
    optimizer = torch.optim.SGD(theirs.parameters(), 1e-4, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(2012):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = hot(theirs(data.x), data.y)
        before = scaler.get_scale()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        expected.append((scaler.get_scale(), scaler.get_scale() < before))
    assert steps == expected
    assert sum(skipped for _, skipped in steps) > 1 and steps[-1][0] > steps[1000][0], "it fell, and rose again"
    for name, value in theirs.state_dict().items():
        assert torch.allclose(model.state_dict()[name], value, 1e-3, 1e-4), name
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_float16_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    config = CONFIG.replace(precision="float16", epochs=6)

    def run(stop: int = 0, **options: Any) -> tuple[dict[str, torch.Tensor], list[float]]:
        model, scales = network(), []

        def epoch(report: Any) -> None:
            if report.epoch == stop:
                raise LookupError

        bitlab.BitTrainer(model, config, Blobs(96), loss=hot, on_step=lambda step: scales.append(step.loss_scale), on_epoch=epoch, **options).train()
        return model.state_dict(), scales

    whole, scales = run()
    assert scales[0] < 65536
    with pytest.raises(LookupError):
        run(stop=3, checkpoint=tmp_path / "last.ckpt")
    resumed, rest = run(checkpoint=tmp_path / "last.ckpt", resume=True)
    assert rest == scales[9:]
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


class Encoder(nn.Module):
    """Two tokens of four numbers, attended to."""

    def __init__(self, size: int = 6) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({name: nn.Linear(4, size) for name in ("q_proj", "k_proj", "v_proj")})
        self.head = nn.Linear(size, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x.view(-1, 2, 4)) for layer in self.attention.values())
        return self.head(nn.functional.scaled_dot_product_attention(q, k, v).mean(1))


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: bitlab.BitModel(model, bitlab.BitQuantConfig.none())])
def test_distillation_of_layers_is_that_of_forward_hooks(wrap: Any) -> None:
    def encoder(seed: int, size: int = 6) -> Encoder:
        torch.manual_seed(seed)
        return Encoder(size)

    teacher = encoder(9, 10)
    model = encoder(3)
    layers = [{"path": "*head"}]
    fields = {"feature_distillation": 0.6, "feature_layers": layers, "relation_distillation": 0.4, "relation_heads": 2}
    bitlab.BitTrainer(wrap(model), bitlab.TrainingConfig(**PLAIN, **fields), Blobs(24), teacher=teacher).train()

    theirs, data = encoder(3), Blobs(24)
    seen: dict[tuple[int, str], torch.Tensor] = {}
    for network in (theirs, teacher):
        for name, layer in network.named_modules():
            layer.register_forward_hook(lambda *call, network=network, name=name: seen.__setitem__((id(network), name), call[2]))

    def relations(network: nn.Module, name: str) -> torch.Tensor:
        x = seen[id(network), f"attention.{name}"].unflatten(2, (2, -1)).transpose(1, 2)
        return (x @ x.mT / x.shape[-1] ** 0.5).log_softmax(-1)

    optimizer = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9)
    for _ in range(5):
        optimizer.zero_grad()
        with torch.no_grad():
            teacher(data.x)
        loss = nn.functional.cross_entropy(theirs(data.x), data.y)
        own, target = (nn.functional.rms_norm(seen[id(network), "head"], (3,), eps=1e-6) for network in (theirs, teacher))
        loss = loss + 0.6 * nn.functional.mse_loss(own, target)
        for name in ("q_proj", "k_proj", "v_proj"):
            p, r = relations(teacher, name), relations(theirs, name)
            loss = loss + 0.4 * (p.exp() * (p - r)).sum(-1).mean()
        loss.backward()
        optimizer.step()
    check_close(model, theirs)
    assert all(p.grad is None for p in teacher.parameters())


def test_layers_of_ternary_networks_are_distilled() -> None:
    torch.manual_seed(9)
    teacher, data = nn.Sequential(nn.Linear(8, 32)), Blobs(24)
    expected, seen = ternary(), []
    expected[0].register_forward_hook(lambda *call: seen.append(call[2]))
    optimizer = torch.optim.SGD(expected.parameters(), 0.1, momentum=0.9)
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(expected(data.x), data.y)
        own, target = (nn.functional.rms_norm(f, (32,), eps=1e-6) for f in (seen[-1], teacher(data.x).detach()))
        (loss + 5 * nn.functional.mse_loss(own, target)).backward()
        optimizer.step()
    for model, inner in [(ternary(), lambda m: m), (bitlab.BitModel(network()), lambda m: m.model)]:
        config = bitlab.TrainingConfig(**PLAIN, feature_distillation=5, feature_layers=[bitlab.FeatureLayer(path="*0")])
        bitlab.BitTrainer(model, config, data, teacher=teacher).train()
        for name, value in inner(model).named_parameters():
            assert torch.allclose(value, expected.get_parameter(name), 1e-4, 1e-6), name
    with pytest.raises(bitlab.UnknownName, match=r"a path of layers with parameters of \{0, 2\}, got '1'"):
        bitlab.BitTrainer(ternary(), CONFIG.replace(feature_distillation=1.0, feature_layers=[{"path": "1"}]), Blobs(9), teacher=network()).train()


@pytest.mark.parametrize("order", ["first_to_last", "last_to_first"])
@pytest.mark.parametrize("make", [ternary, lambda: bitlab.BitModel(network())])
def test_layers_turn_one_after_another(order: str, make: Any) -> None:
    model, shares = make(), []

    def note(_: Any) -> None:
        shares.append([float(value) for name, value in model.named_buffers() if name.endswith("blend")])

    # Eight steps, the first four of which are the warm-up: two of them for each of two layers.
    config = CONFIG.replace(epochs=8, batch_size=96, ternary_warmup=0.5, ternary_order=order)
    bitlab.BitTrainer(model, config, Blobs(96), on_step=note).train()
    expected = [[0, 0], [0.5, 0], [1, 0], [1, 0.5], *([[1, 1]] * 4)]
    assert shares == [pair if order == "first_to_last" else pair[::-1] for pair in expected]


def test_every_field_of_the_loop(tmp_path: Path) -> None:
    config = CONFIG.replace(
        epochs=30,
        learning_rate=1e-9,
        evaluate_steps=2,
        patience=3,
        min_delta=1e-3,
        keep_best=2,
        keep_last=2,
        checkpoint_steps=1,
        precision="bfloat16",
        label_smoothing=0.1,
        mixup=0.2,
        ema=0.5,
        statistics_batches=2,
        ternary_delay=0.01,
        freeze_oscillation=0.1,
    )
    evaluations: list[Any] = []
    trainer = bitlab.BitTrainer(
        ternary(), config, Blobs(96), Blobs(64, 1), best=tmp_path / "best.ckpt", checkpoint=tmp_path / "last.ckpt", on_evaluation=evaluations.append
    )
    report = trainer.train()
    # Three evaluations behind the first, none of which is better: steps 2, 4, 6 and 8 of three an epoch.
    assert report.stopped_early and [(e.epoch, e.step) for e in report.evaluations] == [(1, 2), (2, 4), (2, 6), (3, 8)]
    assert set(evaluations[0].weights) == {"0.weight", "2.weight"}
    codes = torch.ops.bitlab.quantize_weight(trainer.model[0].weight.detach(), trainer.model[0].quant.weight_spec(), [])[0]
    assert evaluations[-1].weights["0.weight"] == pytest.approx({"flips": 0, "zeros": float((codes == 0).float().mean()), "dead": 0})
    assert [e.step for e in evaluations] == [2, 4, 6, 8] and set(evaluations[0].metrics) == {"accuracy", "loss"}
    assert report.best_step in (2, 4, 6, 8) and len(report.epochs) == 3
    assert set(report.epochs[0].phases) == {"data", "forward", "backward", "update", "evaluation"}
    assert sum(report.epochs[0].phases.values()) <= report.epochs[0].seconds
    names = {path.name for path in tmp_path.iterdir()}
    assert {"best.ckpt", "last.ckpt", "last-000007.ckpt", "last-000008.ckpt"} < names and len(names) == 6
    state = torch.load(tmp_path / "best.ckpt", weights_only=True)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_signal_is_a_keyboard_interrupt() -> None:
    def interrupt(report: Any) -> None:
        if report.step == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            bitlab.BitTrainer(ternary(), CONFIG, Blobs(320), on_step=interrupt).train()
    finally:
        signal.signal(signal.SIGINT, before)
