"""The C++ trainer over modules and data sets of Python."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bitlab import _core, nn
from bitlab._calls import INPUT, OUTPUT, Tensors, flatten, parameter_names
from bitlab._core import Profile, TrainingConfig
from bitlab._extension import _torch, torch
from bitlab.convert import BitModel, native_of

EpochReport = _torch.EpochReport
EvaluationReport = _torch.EvaluationReport
StepReport = _torch.StepReport
TrainingReport = _torch.TrainingReport

Loss = Callable[[Any, Any], torch.Tensor]
LABELS = ("labels", "label")
WARMUP_STEPS = 3  # before those that are profiled


class EvalPrediction(NamedTuple):
    """What compute_metrics gets, as in Hugging Face's Trainer: the outputs for the whole data set, and its labels."""

    predictions: Any
    label_ids: Any


def _sample(item: Any) -> Tensors:
    """A sample as named tensors: (input, label), or more entries, by place; a mapping by its keys."""
    if isinstance(item, Mapping):
        items = {str(key): value for key, value in item.items() if value is not None and not isinstance(value, (str, bytes))}
    elif isinstance(item, (tuple, list)):
        names = [INPUT, "label"] if len(item) == 2 else [f"{INPUT}_{i}" for i in range(len(item) - 1)] + ["label"]
        items = dict(zip(names, item, strict=True))
    else:
        items = {INPUT: item}
    return {name: _tensor(name, value) for name, value in items.items()}


def _tensor(name: str, value: Any) -> torch.Tensor:
    """Numbers as one of the types that batches have: uint8, int64 or float32."""
    try:
        tensor = value if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value))
    except TypeError:
        raise _core.TypeMismatch(
            f"[data] tensors, arrays or numbers, got {type(value).__name__} (name={name}); a transform such as ToTensor() makes them"
        ) from None
    if tensor.dtype == torch.uint8:
        return tensor
    return tensor.to(torch.float32 if tensor.is_floating_point() else torch.int64)


def _indexed(dataset: Any) -> Any:
    """A map-style data set as it is; an iterable one is read once, and kept."""
    is_map = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if dataset is None or (is_map and not isinstance(dataset, torch.utils.data.IterableDataset)):
        return dataset
    return list(dataset)


def _native_dataset(dataset: Any) -> Any:
    return None if dataset is None else _torch.PythonDataset(len(dataset), lambda index: _sample(dataset[index]))


@contextlib.contextmanager
def _watched(model: torch.nn.Module, profiler: Any) -> Iterator[None]:
    """Each module of the model tells the profiler of its calls."""
    hooks = []
    for path, module in model.named_modules() if profiler is not None else ():
        hooks.append(module.register_forward_pre_hook(lambda *_, path=path: profiler.enter(path)))
        hooks.append(module.register_forward_hook(lambda *_: profiler.leave(), always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Task:
    """What the trainer asks about outputs and batches, answered by a loss and metrics of Python."""

    def __init__(self, trainer: BitTrainer) -> None:
        self.trainer = trainer

    def loss(self, outputs: Tensors, batch: Tensors) -> torch.Tensor:
        return self.trainer._loss_of(outputs, batch)

    def smoothed_loss(self, outputs: Tensors, batch: Tensors, smoothing: float) -> torch.Tensor:
        return self.trainer._loss_of(outputs, batch, smoothing)

    def class_logits(self, outputs: Tensors) -> torch.Tensor:
        logits = outputs.get("logits", next(value for name, value in outputs.items() if name != "loss"))
        return logits.reshape(-1, logits.shape[-1])

    def items(self, batch: Tensors) -> int:
        return len(next(iter(batch.values())))

    def meter(self) -> _Meter:
        return _Meter(self.trainer)

    def goal(self) -> tuple[str, bool]:
        return self.trainer.goal


class _Meter:
    def __init__(self, trainer: BitTrainer) -> None:
        self.trainer = trainer
        self.outputs: list[Tensors] = []
        self.labels: list[torch.Tensor] = []

    def keeps_batches(self) -> bool:
        return self.trainer.compute_metrics is not None

    def numbers(self) -> int:
        return 2

    def measure(self, outputs: Tensors, batch: Tensors) -> list[float]:
        count = len(next(iter(batch.values())))
        if self.keeps_batches():
            self.outputs.append({name: value.detach().cpu() for name, value in outputs.items() if name != "loss" and value.dim() > 0})
            label = _label_of(batch)
            if label is not None:
                self.labels.append(label.cpu())
        return [float(self.trainer._loss_of(outputs, batch)) * count, count]

    def metrics(self, sums: list[float]) -> dict[str, float]:
        loss, count = sums
        metrics = {"loss": loss / max(count, 1)}
        if self.trainer.compute_metrics is not None:
            predictions = tuple(torch.cat([o[name] for o in self.outputs]).numpy() for name in self.outputs[0])
            labels = torch.cat(self.labels).numpy() if self.labels else None
            found = self.trainer.compute_metrics(EvalPrediction(predictions[0] if len(predictions) == 1 else predictions, labels))
            metrics.update({name: float(value) for name, value in found.items()})
        self.trainer._has_accuracy = "accuracy" in metrics
        return metrics


def _label_of(batch: Tensors) -> torch.Tensor | None:
    return next((batch[name] for name in LABELS if name in batch), None)


class BitTrainer:
    """Trains a module, with ternary layers or without: shuffled batches, an optimizer, a schedule, the warm-up from float to ternary, the best epoch kept,
    checkpoints from which it goes on to the same bits. It is the C++ trainer.

    train_dataset, eval_dataset: anything with __len__ and __getitem__, as torch.utils.data.Dataset, or an iterable, which is read once into memory. A
    sample is (input, label), or a mapping from names to tensors, arrays or numbers (texts are left out); those that forward() has parameters for are
    passed to it.
    loss(outputs, batch): a scalar. outputs is what the model returned, batch the label of a tuple, or the mapping. Without it: the "loss" that the model
    returns (Hugging Face), else the cross-entropy of its output and the label.
    compute_metrics(EvalPrediction) -> dict of numbers, as in Hugging Face's Trainer; it keeps all outputs. Without it: loss, and
    for (input, label) accuracy.
    goal: the metric that chooses the best epoch, and whether more is better; by default ("accuracy", True) where there is one, else ("loss", False).
    best, checkpoint: files for the best epoch's state, and for all that training needs to go on (resume=True).
    teacher: a module that takes what the model takes, for config.distillation; of its output, and the model's, the logits are the one called "logits", else the
    first but "loss": [items, classes], or with the classes last. For feature_distillation and relation_distillation layers are known by their parameters' paths.
    config.device moves the model, and the teacher, to a GPU, where they stay: "cuda", "cuda:1"; samples stay the host's until they are a batch. Without it the
    model trains where it is. Checkpoints are read on machines without the device.
    on_step(StepReport), on_evaluation(EvaluationReport), on_epoch(EpochReport): called with what happened, in this order.
    sinks: where every step, epoch and the end are written as events: those of bitlab.sinks, or objects with write(event).
    Under torchrun all processes train one model, each on batches of config.batch_size samples of its own; the first one writes files and sinks.
    profile_steps: so many steps behind three of warm-up are profiled; `profile` then tells where their time and memory went, layer by layer.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        config: TrainingConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        compute_metrics: Callable[[EvalPrediction], Mapping[str, float]] | None = None,
        *,
        loss: Loss | None = None,
        goal: tuple[str, bool] | None = None,
        best: str | os.PathLike[str] = "",
        checkpoint: str | os.PathLike[str] = "",
        resume: bool = False,
        on_step: Callable[[StepReport], object] | None = None,
        on_evaluation: Callable[[EvaluationReport], object] | None = None,
        on_epoch: Callable[[EpochReport], object] | None = None,
        profile_steps: int = 0,
        sinks: Sequence[Any] = (),
        teacher: torch.nn.Module | None = None,
    ) -> None:
        self.model = model
        self.config = config or TrainingConfig()
        self.train_dataset, self.eval_dataset = _indexed(train_dataset), _indexed(eval_dataset)
        self.compute_metrics, self.loss = compute_metrics, loss
        self.best, self.checkpoint, self.resume = os.fspath(best), os.fspath(checkpoint), resume
        self.on_step, self.on_evaluation, self.on_epoch = on_step, on_evaluation, on_epoch
        self.profile_steps, self.teacher = profile_steps, teacher
        self.sinks = list(sinks)
        self._profiler: Any = None
        self._goal = goal
        self._returned: Any = None
        inner = model.model if isinstance(model, BitModel) else model
        self._accepts = parameter_names(inner.forward)
        self._takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(inner.forward).parameters.values())
        self._is_by_name = False
        self._has_accuracy = False

    @property
    def goal(self) -> tuple[str, bool]:
        """The metric that chooses the best epoch, and whether more is better."""
        return self._goal or (("accuracy", True) if self._has_accuracy else ("loss", False))

    def train(self) -> TrainingReport:
        """Trains, and leaves the best epoch's state in the model. What a data set, the model, the loss or a callback raises comes through."""
        if self.train_dataset is None:
            raise _core.InvalidArgument("[train] a train_dataset, got none")
        if self.teacher is not None and self.config.device:
            self.teacher.to(_torch.find_device(self.config.device))
        self._profiler = _torch.TrainingProfiler(self.profile_steps, WARMUP_STEPS) if self.profile_steps > 0 else None
        with _watched(self.model, self._profiler):
            return _torch.fit(
                self._learner(self.train_dataset),
                self.config,
                _native_dataset(self.train_dataset),
                _native_dataset(self.eval_dataset),
                self.best,
                self.checkpoint,
                self.resume,
                self.on_step,
                self.on_evaluation,
                self.on_epoch,
                self._profiler,
                None if self.teacher is None else self._teach,
                [] if self.teacher is None else list(self.teacher.named_parameters()),
                self.sinks,
            )

    @property
    def profile(self) -> Profile:
        """Where the time and memory of the profiled steps of train() went."""
        if self._profiler is None:
            raise _core.InvalidArgument("[profile] a training with profile_steps above 0, got none")
        profile: Profile = self._profiler.profile()
        profile.model = type(self.model).__name__
        return profile

    def evaluate(self, dataset: Any = None) -> dict[str, float]:
        """The metrics on a data set, by default eval_dataset."""
        dataset = self.eval_dataset if dataset is None else _indexed(dataset)
        if dataset is None:
            raise _core.InvalidArgument("[evaluate] a data set, got none")
        return _torch.evaluate(self._learner(dataset), _native_dataset(dataset), self.config.batch_size, self.config.workers)

    def _learner(self, dataset: Any) -> Any:
        self._is_by_name = len(dataset) > 0 and isinstance(dataset[0], Mapping)
        is_plain = not self._is_by_name and self.loss is None and self.compute_metrics is None and self._goal is None
        task = _torch.classification(OUTPUT, "label") if is_plain else _torch.python_task(_Task(self))
        model = self.model

        def set_blend(share: Callable[[int, int], float]) -> None:
            if isinstance(model, BitModel):
                model.set_blend(share)
            nn.set_blend(model, share)

        return _torch.Learner(native_of(model), self._forward, task, set_blend, lambda: nn.layer.ternary_weights(model))

    def _forward(self, batch: Tensors) -> Tensors:
        self._returned = self._call(self.model, batch)
        return flatten(self._returned)

    def _teach(self, batch: Tensors) -> Tensors:
        assert self.teacher is not None
        self.teacher.eval()
        return flatten(self._call(self.teacher, batch))

    def _call(self, model: torch.nn.Module, batch: Tensors) -> Any:
        if not self._is_by_name:
            return model(*(value for name, value in batch.items() if name != "label"))
        return model(**(batch if self._takes_any else {name: value for name, value in batch.items() if name in self._accepts}))

    def _loss_of(self, outputs: Tensors, batch: Tensors, smoothing: float = 0.0) -> torch.Tensor:
        if smoothing > 0 and (self.loss is not None or "loss" in outputs):
            raise _core.Unsupported("[train] label_smoothing of the default loss, got a loss of its own")
        if self.config.mixup > 0 and self.model.training and self.loss is None and "loss" in outputs:
            raise _core.Unsupported("[train] a loss(outputs, batch) for mixup, got the one that the model returns")
        if self.loss is not None:
            return self.loss(self._returned, batch if self._is_by_name else batch.get("label"))
        if "loss" in outputs:
            return outputs["loss"]
        label = _label_of(batch)
        if label is None:
            raise _core.InvalidArgument("[train] a loss, a model that returns one, or labels, got none of them")
        return torch.nn.functional.cross_entropy(next(iter(outputs.values())), label, label_smoothing=smoothing)
