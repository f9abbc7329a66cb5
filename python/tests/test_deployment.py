"""Files from modules of Python: the bits of eval, in a process without PyTorch."""

from __future__ import annotations

import copy
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Net
from products import ops_of
from torch import nn

import bitlab


def convert(net: nn.Module) -> nn.Module:
    bitlab.BitConverter.convert(net)
    return net


@pytest.mark.parametrize("wrap", [convert, bitlab.BitModel])
def test_what_is_evaluated_is_what_runs(wrap: object, images: torch.Tensor, tmp_path: Path) -> None:
    net = Net()
    net.norm(torch.randn(8, 6, 5, 4))  # statistics that are not zeros and ones
    model = wrap(net)  # type: ignore[operator]
    model.train()
    done = bitlab.deploy(model, images[:2], tmp_path / "net.bit", metadata={"model": "net"})
    assert model.training, "deploy() leaves the mode as it was"
    with torch.no_grad():
        expected = model.eval()(images).numpy()
    program = f"""
import sys
sys.modules["torch"] = None
import bitlab, numpy as np
session = bitlab.runtime.Session({str(tmp_path / "net.bit")!r})
assert session.model.metadata["model"] == "net"
np.save({str(tmp_path / "y.npy")!r}, session(np.load({str(tmp_path / "x.npy")!r})))
"""
    np.save(tmp_path / "x.npy", images.numpy())
    subprocess.run([sys.executable, "-c", program], check=True)
    y = np.load(tmp_path / "y.npy")
    if done.parity.exact:
        assert y.tobytes() == expected.tobytes()
    assert np.allclose(y, expected, rtol=0, atol=2e-2 * np.abs(expected).max())
    assert done.weight_bytes < done.float32_weight_bytes / 7
    differences = bitlab.verify(tmp_path / "net.bit", model, images)
    assert len(differences) > 4 and all(d.different == 0 for d in differences if not d.bounded and d.fed_exactly)


def test_named_inputs_outputs_and_symbols(tmp_path: Path) -> None:
    class TwoTowers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.picture = nn.Embedding(50, 16), nn.Linear(12, 16)
            self.head = nn.Linear(16, 3)

        def forward(self, pixels: torch.Tensor, tokens: torch.Tensor, scale: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
            text = self.words(tokens)
            both = text + self.picture(pixels).unsqueeze(1)
            return {"scores": self.head(both), "text": text}

    model = TwoTowers()
    bitlab.BitConverter.convert(model)
    example = {"pixels": torch.randn(2, 12), "tokens": torch.randint(0, 50, (2, 6)), "scale": None}
    bitlab.deploy(
        model, example, tmp_path / "two.bit",
        dynamic_axes={"pixels": {0: "batch"}, "tokens": {0: "batch", 1: "tokens"}}, ranges={"tokens": (1, 40)},
    )  # fmt: skip
    session = bitlab.runtime.Session(tmp_path / "two.bit")
    assert [p.name for p in session.model.inputs] == ["pixels", "tokens"]
    assert session.model.inputs[1].shape == ["batch", "tokens"] and session.model.symbols["tokens"] == (1, 40)
    pixels, tokens = torch.randn(3, 12), torch.randint(0, 50, (3, 9))
    found = session.run({"tokens": tokens.numpy(), "pixels": pixels.numpy()})
    with torch.no_grad():
        expected = model.eval()(pixels, tokens)
    assert set(found) == {"scores", "text"}
    for name, value in expected.items():
        assert found[name].tobytes() == value.numpy().tobytes(), name
    as_tuple = bitlab.deploy(model, (example["pixels"], example["tokens"]), tmp_path / "tuple.bit")
    assert as_tuple.parity.exact
    assert [p.name for p in bitlab.runtime.Model.load(tmp_path / "tuple.bit").inputs] == ["pixels", "tokens"]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda m, x, p: bitlab.deploy(m, x, p / "a.bit", dynamic_axes={"y": {0: "batch"}}), bitlab.UnknownName, "'y'"),
        (lambda m, x, p: bitlab.deploy(m, 3.0, p / "a.bit"), bitlab.TypeMismatch, "got float"),
        (lambda m, x, p: bitlab.deploy(m, x, p / "none" / "a.bit"), bitlab.Error, "none"),
        (lambda m, x, p: bitlab.deploy(m, x.double(), p / "a.bit"), RuntimeError, "Double"),
        (lambda m, x, p: bitlab.verify(p / "none.bit", m, x), bitlab.NotFound, "none.bit"),
    ],
)
def test_errors(call: object, error: type[Exception], text: str, net: Net, images: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(error, match=text):
        call(convert(net), images, tmp_path)  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []


def test_an_operation_without_a_form_is_named(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x)

    with pytest.raises(bitlab.Unsupported, match="bessel_j0"):
        bitlab.deploy(Odd(), torch.randn(2, 3), tmp_path / "odd.bit")


def test_fitting_without_training(images: torch.Tensor, tmp_path: Path) -> None:
    net = Net()
    with torch.no_grad():
        for _ in range(5):
            net(torch.randn(16, 1, 9, 8))
    net.eval()
    samples = [torch.randn(8, 1, 9, 8) for _ in range(3)]
    with torch.no_grad():
        expected = net(images)
    model, report = bitlab.quantize_for_deployment(
        net, samples, bitlab.BitQuantConfig(granularity="channel", activation="int8_static"),
        bitlab.DeploymentConfig(calibration="minmax"), evaluate=lambda m: m(images).square().mean().item(),
    )  # fmt: skip
    assert report.output_error < report.output_error_encoded
    assert [fit.name for fit in report.layers] == ["intercepted.conv/weight", "intercepted.fc/weight", "intercepted.table"]
    assert report.layers[0].folded and all(fit.frozen for fit in report.layers)
    assert report.evaluated_float == pytest.approx(expected.square().mean().item(), rel=1e-5)
    done = bitlab.deploy(model, images, tmp_path / "fitted.bit")
    with torch.no_grad():
        y = model(images)
    assert done.parity.exact
    assert bitlab.runtime.Session(tmp_path / "fitted.bit")(images.numpy()).tobytes() == y.numpy().tobytes()
    with pytest.raises(bitlab.Unsupported, match="post-training"):  # no rules make these codes
        copy.deepcopy(model)


def test_signals_are_handled_while_a_session_runs(tmp_path: Path) -> None:
    class Slow(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(500):
                x = x.softmax(-1)
            return x

    bitlab.deploy(Slow(), torch.zeros(1, 8, 8), tmp_path / "m.bit", dynamic_axes={"input": {0: "batch", 1: "rows"}})
    session = bitlab.runtime.Session(tmp_path / "m.bit")
    x = np.zeros((1, 100_000, 8), np.float32)
    calls = 0

    def third_time(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:  # signals that wait for the end of a run come as one
            raise TimeoutError

    before = signal.signal(signal.SIGALRM, third_time)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        with pytest.raises(TimeoutError):
            session.run({"input": x})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert session.run({"input": x[:, :5]})["output"].shape == (1, 5, 8)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "deberta-v2", "bloom"])
def test_networks_of_transformers_take_masks(kind: str, tmp_path: Path) -> None:
    """As people call them: with a mask whose padding differs from run to run, though this example's may hide nothing."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(kind, **sizes, n_layer=2, n_head=4, use_cache=False, bos_token_id=1, eos_token_id=2)
    model = transformers.AutoModel.from_config(config).eval()
    is_fixed = kind in ("deberta-v2", "bloom")  # their tables of distances are
    axes = {name: {0: "batch", 1: "tokens"} for name in ("input_ids", "attention_mask")}
    ids = torch.randint(0, 90, (3, 12))
    bitlab.deploy(
        model,
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        tmp_path / "net.bit",
        dynamic_axes=None if is_fixed else axes,
        ranges=None if is_fixed else {"tokens": (1, 24)},
    )
    session = bitlab.runtime.Session(tmp_path / "net.bit")
    for tokens, seen in ([12, [12, 5, 1]], [9, [9, 9, 9]]):
        if is_fixed and tokens != 12:
            continue
        mask = (torch.arange(tokens) < torch.tensor(seen)[:, None]).long()
        inputs = {"input_ids": ids[:, :tokens].contiguous(), "attention_mask": mask}
        with torch.no_grad():
            wanted = model(**inputs).last_hidden_state
        found = torch.as_tensor(session.run({name: value.numpy() for name, value in inputs.items()})["last_hidden_state"])
        torch.testing.assert_close(found[mask.bool()], wanted[mask.bool()], rtol=1e-4, atol=1e-5)


def test_decoders_of_transformers_are_causal(tmp_path: Path) -> None:
    """With heads in groups, and no mask that grows with the square of the tokens; but positions that are an input may say that sequences share a row."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, use_cache=False)
    model = transformers.LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 90, (3, 12))
    axes = {0: "batch", 1: "tokens"}
    bitlab.deploy(model, {"input_ids": ids}, tmp_path / "net.bit", dynamic_axes={"input_ids": axes}, ranges={"tokens": (1, 24)})
    program = str(bitlab.runtime.Model.load(tmp_path / "net.bit"))
    (attention,) = [line for line in program.splitlines() if " = attention(" in line]
    assert "causal=1" in attention and not ops_of(tmp_path / "net.bit") & {"less_equal", "gather", "cumsum"}, program
    with torch.no_grad():
        wanted = model(input_ids=ids[:, :7]).logits
    found = bitlab.runtime.Session(tmp_path / "net.bit").run({"input_ids": ids[:, :7].contiguous().numpy()})["logits"]
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)
    places = torch.arange(12).expand(3, -1).contiguous()
    bitlab.deploy(model, {"input_ids": ids, "position_ids": places}, tmp_path / "packed.bit")
    packed = torch.cat([places[:, :5], places[:, :7]], 1)
    with torch.no_grad():
        wanted = model(input_ids=ids, position_ids=packed).logits
    found = bitlab.runtime.Session(tmp_path / "packed.bit").run({"input_ids": ids.numpy(), "position_ids": packed.numpy()})["logits"]
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_masks_are_taken_without_training_as_well(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    model = transformers.BertModel(transformers.BertConfig(**sizes)).eval()
    ids = torch.randint(0, 90, (3, 12))
    sample = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    wrapped, report = bitlab.quantize_for_deployment(model, [sample])
    assert report.layers
    bitlab.deploy(wrapped, sample, tmp_path / "net.bit")
    mask = (torch.arange(12) < torch.tensor([12, 5, 1])[:, None]).long()
    with torch.no_grad():
        wanted = wrapped(input_ids=ids, attention_mask=mask).last_hidden_state
    found = bitlab.runtime.Session(tmp_path / "net.bit").run({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    near = torch.as_tensor(found["last_hidden_state"])[mask.bool()] - wanted[mask.bool()]
    assert near.abs().max() <= 0.02 * wanted.abs().max()  # behind quantizers a rounding may move a code


@pytest.mark.parametrize("kind", ["Mixtral", "Qwen3Moe"])
def test_mixtures_of_experts_of_transformers(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "moe_intermediate_size": 12, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "num_experts_per_tok": 2, "max_position_embeddings": 32}
    config = getattr(transformers, f"{kind}Config")(**sizes, **heads, num_local_experts=4, num_experts=4, use_cache=False)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    before = model.config._experts_implementation
    ids = torch.randint(0, 40, (3, 7))
    bitlab.deploy(model, {"input_ids": ids[:2]}, tmp_path / "net.bit")
    assert model.config._experts_implementation == before
    with torch.no_grad():
        wanted = model(input_ids=ids).logits
    found = bitlab.runtime.Session(tmp_path / "net.bit").run({"input_ids": ids.numpy()})["logits"]
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-3, atol=1e-4)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x) * 2

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def test_functions_with_gradients_of_their_own(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.profiler.record_function("a name"):
                return _Doubled.apply(x) + 1

    x = torch.randn(3, 5)
    bitlab.deploy(Net(), x, tmp_path / "net.bit")
    found = bitlab.runtime.Session(tmp_path / "net.bit").run({"input": x.numpy()})["output"]
    np.testing.assert_allclose(found, Net()(x).numpy(), rtol=1e-6)


def test_values_that_leave_the_network_are_no_constants(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.from_numpy(np.sin(x.numpy()))

    with pytest.raises(bitlab.Unsupported, match="neither sizes nor values of inputs"):
        bitlab.deploy(Net(), torch.randn(3, 5), tmp_path / "net.bit", dynamic_axes={})
    assert not (tmp_path / "net.bit").exists()
