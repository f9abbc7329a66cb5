"""Networks that others wrote, as modules: an ONNX file becomes one, as do TorchScript and exported programs; all are made ternary, fitted and deployed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import decoders
import numpy as np
import pytest
import torch
from products import BEHIND_QUANTIZERS, ROUNDING, apart, deployed, ops_of
from test_formats_gguf import write_model
from torch import nn
from torch.nn import functional as F

import bitlab


class Pictures(nn.Module):
    """Convolutions plain, in groups and transposed, a norm, and a layer that two inputs reach."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.up = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        y = self.up(F.relu6(self.depthwise(F.relu(self.norm(self.stem(x))))))
        return self.head(y.mean((2, 3)) * scale)


def pictures() -> nn.Module:
    torch.manual_seed(2)
    net = Pictures()
    with torch.no_grad():
        net.norm.running_mean.normal_()
        net.norm.running_var.uniform_(0.5, 2)
    return net.eval()


def samples(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 3, 16, 16), torch.rand(count, 1) + 0.5


def to_onnx(net: nn.Module, path: Path) -> None:
    axes = {name: {0: "batch"} for name in ("x", "scale")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, samples(2), str(path), input_names=["x", "scale"], dynamic_axes=axes, opset_version=17, dynamo=False)


def of_onnx(net: nn.Module, path: Path) -> nn.Module:
    pytest.importorskip("onnx")
    to_onnx(net, path.with_suffix(".onnx"))
    return bitlab.to_module(path.with_suffix(".onnx"))


def scripted(net: nn.Module, path: Path) -> nn.Module:
    torch.jit.script(net).save(path.with_suffix(".pt"))
    return bitlab.to_module(torch.jit.load(path.with_suffix(".pt")))


def traced(net: nn.Module, path: Path) -> nn.Module:
    return bitlab.to_module(torch.jit.trace(net, samples()))


def exported(net: nn.Module, path: Path) -> nn.Module:
    batch = torch.export.Dim("batch", min=1, max=512)
    torch.export.save(torch.export.export(net, samples(), dynamic_shapes=({0: batch}, {0: batch})), path.with_suffix(".pt2"))
    return bitlab.to_module(torch.export.load(path.with_suffix(".pt2")))


SOURCES = [of_onnx, scripted, traced, exported]


@pytest.mark.parametrize("read", SOURCES)
def test_a_network_of_others_is_deployed_as_its_source(read: Callable[[nn.Module, Path], nn.Module], tmp_path: Path) -> None:
    net = pictures()
    module = read(net, tmp_path / "m")
    inputs = deployed(module, samples(), tmp_path / "m.bit")
    with torch.no_grad():
        expected = net(*map(torch.from_numpy, inputs.values())).numpy()
    (found,) = bitlab.runtime.Session(tmp_path / "m.bit").run(inputs).values()
    assert apart({"y": found}, {"y": expected}) < ROUNDING


@pytest.mark.parametrize("read", SOURCES)
def test_a_network_of_others_is_made_ternary_as_its_source(read: Callable[[nn.Module, Path], nn.Module], tmp_path: Path) -> None:
    """With the codes that the source's own layers have: an exporter may fold the norm into the convolution in front, whose rows it scales."""
    net = pictures()
    quant = bitlab.BitQuantConfig(granularity="channel")
    inputs = deployed(bitlab.BitModel(read(net, tmp_path / "m"), quant), samples(), tmp_path / "m.bit")
    deployed(bitlab.BitModel(pictures(), quant), samples(), tmp_path / "own.bit")
    assert {"ternary_conv", "ternary_linear"} <= ops_of(tmp_path / "m.bit") and "conv" not in ops_of(tmp_path / "m.bit")
    own, theirs = (decoders.weights_of(tmp_path / name) for name in ("own.bit", "m.bit"))
    ternary = [{w.shape: abs(np.sign(w)) for w in weights.values() if w.ndim > 1} for weights in (own, theirs)]
    assert len(ternary[0]) == 4 and ternary[0].keys() == ternary[1].keys()
    for shape, codes in ternary[0].items():
        np.testing.assert_array_equal(ternary[1][shape], codes)
    (found,) = bitlab.runtime.Session(tmp_path / "m.bit").run(inputs).values()
    (expected,) = bitlab.runtime.Session(tmp_path / "own.bit").run(inputs).values()
    assert apart({"y": found}, {"y": expected}) < BEHIND_QUANTIZERS


@pytest.mark.parametrize("read", SOURCES)
def test_a_network_of_others_is_fitted_to_samples(read: Callable[[nn.Module, Path], nn.Module], tmp_path: Path) -> None:
    net = pictures()
    batches = [samples(16) for _ in range(3)]
    with torch.no_grad():
        expected = [net(*batch) for batch in batches]
    model, report = bitlab.quantize_for_deployment(read(net, tmp_path / "m"), batches, bitlab.BitQuantConfig())
    assert [fit.frozen for fit in report.layers] == [True] * 4
    assert report.output_error < report.output_error_encoded
    with torch.no_grad():
        error = sum(((model(*batch) - y) ** 2).sum() for batch, y in zip(batches, expected, strict=True))
        assert error / sum((y**2).sum() for y in expected) == pytest.approx(report.output_error, rel=1e-3)
    inputs = deployed(model, batches[0], tmp_path / "m.bit")
    (found,) = bitlab.runtime.Session(tmp_path / "m.bit").run(inputs).values()
    with torch.no_grad():
        assert apart({"y": found}, {"y": model(*batches[0]).numpy()}) < BEHIND_QUANTIZERS


def test_a_module_of_a_file_trains(tmp_path: Path) -> None:
    net = pictures()
    module = of_onnx(net, tmp_path / "m")
    assert {name: p.shape for name, p in module.named_parameters()}.keys() >= {"head_weight", "head_bias", "up_weight", "depthwise_weight"}
    model = bitlab.BitModel(module)
    x, y = samples(32), torch.randn(32, 5)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = F.mse_loss(model(*x), y)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]


def test_a_module_of_a_ternary_file_keeps_its_codes(tmp_path: Path) -> None:
    model = bitlab.BitModel(nn.Sequential(nn.Linear(12, 7), nn.LayerNorm(7), nn.Linear(7, 3)))
    inputs = deployed(model, torch.randn(4, 12), tmp_path / "m.bit")
    module = bitlab.to_module(tmp_path / "m.bit")
    assert sum(p.ndim > 1 for p in module.parameters()) == 0
    deployed(module, torch.from_numpy(inputs["input"]), tmp_path / "again.bit")
    assert bitlab.formats.verify(tmp_path / "m.bit", tmp_path / "again.bit").is_equal()


def test_what_is_no_module_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf", "llama")
    with pytest.raises(bitlab.Unsupported, match="without states, got one with 4"):
        bitlab.to_module(tmp_path / "m.gguf")
    with pytest.raises(bitlab.NotFound):
        bitlab.to_module(tmp_path / "absent.onnx")
    with pytest.raises(bitlab.Unsupported, match="a file to write"):
        scripted(pictures(), tmp_path / "m")
        bitlab.to_module(tmp_path / "m.pt")


class _Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(x)
        return self.head(states[:, -1])


class _Words(nn.Module):
    """Layers in both directions, of any number of tokens; the last states are read, too."""

    def __init__(self, kind: type[nn.RNNBase], bias: bool) -> None:
        super().__init__()
        self.table, self.rnn = nn.Embedding(19, 8), kind(8, 16, 2, bidirectional=True, batch_first=True, bias=bias)
        self.head = nn.Linear(48, 3)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        y, last = self.rnn(self.table(words))
        h = last[0] if isinstance(last, tuple) else last
        return self.head(torch.cat([y, h[-1].unsqueeze(1).expand(-1, words.shape[1], -1)], -1))


AXES = {"words": {0: "batch", 1: "tokens"}}


def words_of_onnx(net: nn.Module, words: torch.Tensor, path: Path) -> nn.Module:
    pytest.importorskip("onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"input_names": ["words"], "dynamic_axes": AXES, "opset_version": 17, "dynamo": False}
        torch.onnx.export(net, (words,), str(path.with_suffix(".onnx")), **options)
    return bitlab.to_module(path.with_suffix(".onnx"))


def words_of_file(net: nn.Module, words: torch.Tensor, path: Path) -> nn.Module:
    bitlab.deploy(net, {"words": words}, path.with_suffix(".bit"), dynamic_axes=AXES)
    return bitlab.to_module(path.with_suffix(".bit"))


def words_of_script(net: nn.Module, words: torch.Tensor, path: Path) -> nn.Module:
    return bitlab.to_module(torch.jit.script(net))


@pytest.mark.parametrize("quant", [None, bitlab.BitQuantConfig(granularity="channel", activation="int8_static", method="lsq", smoothing=0.5)], ids=["float", "static"])
@pytest.mark.parametrize("read", [words_of_onnx, words_of_file, words_of_script])
@pytest.mark.parametrize(("kind", "bias"), [(nn.LSTM, True), (nn.GRU, True), (nn.GRU, False)])
def test_recurrent_layers_of_others_have_any_number_of_tokens(
    kind: type[nn.RNNBase], bias: bool, read: Callable[..., nn.Module], quant: bitlab.BitQuantConfig | None, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    net, words = _Words(kind, bias).eval(), torch.randint(0, 19, (3, 7))
    module = read(net, words, tmp_path / "m")
    with torch.no_grad():
        for shape in ((1, 1), (2, 9)):
            other = torch.randint(0, 19, shape)
            torch.testing.assert_close(module(other), net(other), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(module(words=other), module(other), rtol=0, atol=0)
    if quant is not None:
        module, report = bitlab.quantize_for_deployment(module, [{"words": words}, {"words": words[:, :4]}], quant)
        assert len(report.layers) == 9 and all(fit.frozen and fit.act_scale > 0 for fit in report.layers)
        module.train()
        module(words).square().sum().backward()
        learned = [p.grad for name, p in module.named_parameters() if "table" not in name]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in learned)
        module.eval()
    bitlab.deploy(module, {"words": words}, tmp_path / "again.bit", dynamic_axes=AXES)
    expected = {"recurrent"} if quant is None else {"ternary_recurrent", "ternary_linear"}
    assert expected <= ops_of(tmp_path / "again.bit")
    session = bitlab.runtime.Session(tmp_path / "again.bit")
    for shape in ((1, 1), (2, 9), (4, 30)):
        other = torch.randint(0, 19, shape)
        with torch.no_grad():
            torch.testing.assert_close(torch.as_tensor(session(other.numpy())), module(other), rtol=1e-5, atol=1e-5)


def test_a_parameter_that_multiplies_hidden_states_trains_from_scratch(tmp_path: Path) -> None:
    """Nothing tells of a weight of a file what it multiplies; a static step begins as one of hidden states all the same."""
    net, words = _Words(nn.LSTM, True), torch.randint(0, 19, (3, 7))
    module = bitlab.BitModel(words_of_file(net, words, tmp_path / "m"), bitlab.BitQuantConfig(activation="int8_static"))
    module.train()
    module(words).square().sum().backward()
    steps = {name: p.item() for name, p in module.named_parameters() if name.endswith("act_scale") and "_hh_" in name}
    assert len(steps) == 4 and list(steps.values()) == pytest.approx([1 / 127] * 4)


def _pictures() -> nn.Module:
    front = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(3), nn.GroupNorm(2, 8)]
    return nn.Sequential(*front, nn.Flatten(), nn.Linear(72, 5), nn.LayerNorm(5), nn.GELU(), nn.Softmax(-1))


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


@pytest.mark.parametrize(("make", "shape"), [(_pictures, (2, 3, 16, 16)), (_encoder, (2, 5, 16)), (_Tagger, (2, 5, 8))])
@torch.no_grad()
def test_programs_in_core_operators(make: Callable[[], nn.Module], shape: tuple[int, ...], tmp_path: Path) -> None:
    """As run_decompositions() leaves them, in the operators of Core ATen IR."""
    model, x = make().eval(), torch.randn(shape)
    program = torch.export.export(model, (x,), strict=False).run_decompositions()
    bitlab.deploy(bitlab.to_module(program), (x,), tmp_path / "net.bit", dynamic_axes={})
    session = bitlab.runtime.Session(tmp_path / "net.bit")
    (found,) = session.run({session.model.inputs[0].name: x.numpy()}).values()
    torch.testing.assert_close(torch.as_tensor(found), model(x), rtol=1e-4, atol=1e-5)
