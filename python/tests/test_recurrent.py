"""LSTM and GRU: beside torch.nn's of the quantized weights, in graphs, converted, deployed."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bitlab._extension import _torch
from torch import nn

import bitlab
from bitlab import nn as bnn

Quant = bitlab.BitQuantConfig
ops = torch.ops.bitlab

CELLS = [(bnn.BitLSTM, nn.LSTM), (bnn.BitGRU, nn.GRU)]
each = pytest.mark.parametrize(("Ours", "Twin"), CELLS, ids=["lstm", "gru"])


def tensors(outputs: Any) -> list[torch.Tensor]:
    """Output and states as one list."""
    y, states = outputs
    return [y, *(states if isinstance(states, tuple) else [states])]


def states(Ours: type, shape: tuple[int, ...]) -> Any:
    return (torch.randn(shape), torch.randn(shape)) if Ours is bnn.BitLSTM else torch.randn(shape)


@each
def test_without_quantization_it_is_its_twin(Ours: Any, Twin: Any) -> None:
    layer = Ours(5, 7, 2, batch_first=True, bidirectional=True, quant=Quant.none())
    twin = Twin(5, 7, 2, batch_first=True, bidirectional=True)
    twin.load_state_dict(layer.state_dict())
    x, begin = torch.randn(3, 4, 5), states(Ours, (4, 3, 7))
    for a, b in zip(tensors(layer(x, begin)), tensors(twin(x, begin)), strict=True):
        assert torch.equal(a, b)


@each
@pytest.mark.parametrize("bias", [True, False])
def test_with_float_activations_it_is_its_twin_of_the_quantized_weights(Ours: Any, Twin: Any, bias: bool) -> None:
    layer = Ours(5, 7, 2, bias, bidirectional=True, quant=Quant(granularity="channel", activation="none"))
    twin = Twin(5, 7, 2, bias, bidirectional=True).double()
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            own = layer.get_parameter(name)
            parameter.copy_(ops.bit_weight(own, "absmean/channel", []) if own.dim() == 2 else own)
    x, begin = torch.randn(4, 3, 5), states(Ours, (4, 3, 7))
    doubles = tuple(s.double() for s in begin) if isinstance(begin, tuple) else begin.double()
    found, expected = tensors(layer(x, begin)), tensors(twin(x.double(), doubles))
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a.double(), b, rtol=1e-5, atol=1e-6)
    for outputs in (found, expected):
        sum(((i + 1) * (y + 0.5) * y).sum() for i, y in enumerate(outputs)).backward()  # type: ignore[union-attr]
    for name, parameter in twin.named_parameters():
        assert torch.allclose(layer.get_parameter(name).grad.double(), parameter.grad, rtol=1e-4, atol=1e-5), name


@each
@pytest.mark.parametrize(
    "quant", [Quant(), Quant(method="lsq", granularity="channel", activation="int8_static"), Quant(method="int8")]
)
def test_evaluation_and_training_give_the_same_bits(Ours: Any, Twin: Any, quant: Quant) -> None:
    layer = Ours(6, 17, 2, batch_first=True, bidirectional=True, quant=quant)
    x, begin = torch.randn(3, 5, 6), states(Ours, (4, 3, 17))
    trained = tensors(layer(x, begin))
    sum(y.square().sum() for y in trained).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    layer.eval()
    with torch.no_grad():
        evaluated = tensors(layer(x, begin))
        for a, b in zip(evaluated, trained, strict=True):
            assert torch.equal(a, b)
        alone = tensors(layer(x[1], tuple(s[:, 1] for s in begin) if isinstance(begin, tuple) else begin[:, 1]))
        assert torch.equal(alone[0], evaluated[0][1]) and torch.equal(alone[1], evaluated[1][:, 1])
        for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert torch.equal(tensors(copied(x, begin))[0], evaluated[0])
        other = Ours(6, 17, 2, batch_first=True, bidirectional=True, quant=quant).eval()
        buffer = io.BytesIO()
        torch.save(layer.state_dict(), buffer)
        buffer.seek(0)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        assert torch.equal(tensors(other(x, begin))[0], evaluated[0])


def test_names_of_the_state() -> None:
    layer = bnn.BitLSTM(4, 3, bidirectional=True, quant=Quant(method="lsq", activation="int8_static", smoothing=0.5))
    names = {"weight", "bias", "weight_scale", "act_scale", "blend"}
    ends = {"_ih_l0", "_hh_l0", "_ih_l0_reverse", "_hh_l0_reverse"}
    assert set(layer.state_dict()) == {name + end for name in names for end in ends}
    assert layer.act_scale_hh_l0.item() == pytest.approx(1 / 127) and layer.act_scale_ih_l0.item() == 0
    assert repr(layer) == "BitLSTM(4, 3, bidirectional=True, quant=lsq/tensor/int8_static)"
    # A file of a float network: scales begin from its weights.
    twin = nn.LSTM(4, 3, bidirectional=True)
    layer.load_state_dict(twin.state_dict())
    assert torch.allclose(layer.weight_scale_hh_l0_reverse, 2 * twin.weight_hh_l0_reverse.abs().mean())


@each
def test_blend_warms_up_every_weight(Ours: Any, Twin: Any) -> None:
    layer = Ours(5, 7)
    bnn.set_blend(layer, 0.0)
    twin = Twin(5, 7)
    twin.load_state_dict({name: tensor for name, tensor in layer.state_dict().items() if not name.startswith("blend")})
    x = torch.randn(4, 2, 5)
    assert torch.allclose(layer(x)[0], twin(x)[0], rtol=1e-5, atol=1e-6)


@each
def test_draws_are_new_in_each_pass(Ours: Any, Twin: Any) -> None:
    layer = Ours(5, 7, quant=Quant(rounding="stochastic"))
    x, before = torch.randn(4, 2, 5), layer.draw_hh_l0.item()
    first, second = layer(x)[0], layer(x)[0]
    assert layer.draw_hh_l0.item() == before + 2 and not torch.equal(first, second)


@each
@torch._dynamo.config.patch(
    allow_rnn=True
)  # PyTorch leaves its own recurrent layers out of graphs, and what derives from them
def test_it_compiles(Ours: Any, Twin: Any) -> None:
    layer = Ours(5, 7, batch_first=True)
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 4, 5)
    assert torch.allclose(compiled(x)[0], layer(x)[0], atol=1e-6)
    layer.eval()
    compiled.eval()
    with torch.no_grad():
        assert torch.allclose(compiled(x)[0], layer(x)[0], atol=1e-6)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # which other tests read


@each
def test_from_float_and_conversion(Ours: Any, Twin: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.fc = Twin(5, 7, 2, dropout=0.5, bidirectional=True, batch_first=True), nn.Linear(14, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.rnn(x)[0])

    net = Net().eval()
    weight = net.rnn.weight_hh_l1_reverse
    kind = Twin.__name__.lower()
    report = bitlab.BitConverter.convert(
        net, bitlab.MixedPrecisionConfig(rules=[{"type": kind, "quant": {"method": "lsq", "granularity": "channel"}}])
    )
    assert [(layer.type, layer.action) for layer in report.layers] == [(kind, "replaced"), ("linear", "replaced")]
    assert type(net.rnn) is Ours and net.rnn.weight_hh_l1_reverse is weight and net.rnn.dropout == 0.5
    assert not net.rnn.training and net.rnn.quant.method == "lsq" and (net.rnn.weight_scale_ih_l1 > 0).all()
    net.train()
    net(torch.randn(3, 4, 5)).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    wrapped = bitlab.BitModel(Net())
    assert [layer.action for layer in wrapped.report.layers if layer.type == kind] == ["intercepted"]


@each
def test_intercepted_layers_deploy_their_bits(Ours: Any, Twin: Any, tmp_path: Path) -> None:
    """A layer of PyTorch in a class of one's own, which BitModel leaves as it is."""

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.rnn = nn.Embedding(19, 8), Twin(8, 17, 2, bidirectional=True, batch_first=True, dropout=0.3)
            self.head = nn.Linear(34, 4)

        def forward(self, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y, last = self.rnn(self.table(words))
            return self.head(y), last[0] if isinstance(last, tuple) else last

    torch.manual_seed(0)
    model = bitlab.BitModel(Tagger(), bitlab.BitQuantConfig(granularity="channel"))
    optimizer = torch.optim.Adam(model.parameters(), 3e-2)
    words = torch.randint(0, 19, (4, 6))
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(words)[0].flatten(0, 1), words.flatten() % 4)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    model.eval()
    bitlab.deploy(model, {"words": words}, tmp_path / "m.bit", dynamic_axes={"words": {0: "batch", 1: "tokens"}})
    session = bitlab.runtime.Session(tmp_path / "m.bit")
    for batch, tokens in [(1, 1), (3, 11)]:
        other = torch.randint(0, 19, (batch, tokens))
        with torch.no_grad():
            expected = model(other)
        for found, wanted in zip(session.run({"words": other.numpy()}).values(), expected, strict=True):
            assert np.array_equal(found, wanted.numpy())


@each
def test_deployed_bits_for_any_number_of_tokens(Ours: Any, Twin: Any, tmp_path: Path) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = bnn.BitEmbedding(19, 8)
            self.rnn = Ours(8, 17, bidirectional=True, batch_first=True)
            self.head = bnn.BitLinear(34, 4)

        def forward(self, words: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(self.table(words))[0])

    tagger = Tagger()
    words = torch.randint(0, 19, (4, 6))
    optimizer = torch.optim.Adam(tagger.parameters(), 0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(tagger(words).flatten(0, 1), words.flatten() % 4)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    file = tmp_path / "tagger.bit"
    done = bitlab.deploy(tagger, {"words": words}, file, dynamic_axes={"words": {0: "batch", 1: "tokens"}})
    assert done.parity.exact
    session = bitlab.runtime.Session(str(file))
    tagger.eval()
    with torch.no_grad():
        for batch, tokens in ((1, 1), (3, 7), (2, 40)):
            other = torch.randint(0, 19, (batch, tokens))
            assert session(other.numpy()).tobytes() == tagger(other).numpy().tobytes()


def test_it_says_what_it_wants() -> None:
    with pytest.raises(bitlab.Unsupported, match="lstm without proj_size, got proj_size 2"):
        bnn.BitLSTM(5, 7, proj_size=2)
    with pytest.raises(bitlab.Unsupported, match="lstm without proj_size, got proj_size 2"):
        bnn.BitLSTM.from_float(nn.LSTM(5, 7, proj_size=2))
    layer = bnn.BitGRU(5, 7)
    with pytest.raises(bitlab.ShapeMismatch, match=r"x \[T, B, 5\] or \[T, 5\], got \[4, 2, 6\]"):
        layer(torch.randn(4, 2, 6))
    with pytest.raises(bitlab.ShapeMismatch, match=r"states \[1, 2, 7\], got \[2, 7\]"):
        layer(torch.randn(4, 2, 5), torch.randn(2, 7))
    with pytest.raises(bitlab.ShapeMismatch, match=r"a packed sequence of \[5\], got \[3, 6\]"):
        layer(nn.utils.rnn.pack_sequence([torch.randn(3, 6)]))
    with pytest.raises(bitlab.ShapeMismatch, match=r"states \[1, 2, 7\], got \[1, 1, 7\]"):
        layer(nn.utils.rnn.pack_sequence([torch.randn(3, 5), torch.randn(2, 5)]), torch.randn(1, 1, 7))
    gates, weight = torch.randn(5, 21), torch.randn(21, 7)
    rest = (weight, None, None, None, "gru", False, "absmean/tensor", "int8", [])
    packed = _torch.packed_bit_recurrent
    with pytest.raises(bitlab.InvalidArgument, match=r"batch_sizes from 1 that do not grow, got 3"):
        packed(gates, torch.tensor([2, 3]), *rest)
    with pytest.raises(bitlab.ShapeMismatch, match=r"x \[4, gates H\] of as many tokens, got \[5, 21\]"):
        packed(gates, torch.tensor([2, 2]), *rest)
    with pytest.raises(bitlab.ShapeMismatch, match="batch_sizes int64"):
        packed(gates, torch.tensor([2.0, 3.0]), *rest)


@each
@pytest.mark.parametrize("sorted_", [True, False], ids=["sorted", "unsorted"])
def test_packed_sequences_are_samples_by_themselves(Ours: Any, Twin: Any, sorted_: bool) -> None:
    """In eval to the bit, and their gradients; in a layer of ours and in one of PyTorch that BitModel intercepts."""
    torch.manual_seed(0)
    quant = Quant(granularity="channel")
    twin = Twin(5, 7, 2, bidirectional=True)
    layer, wrapped = Ours.from_float(twin, quant), bitlab.BitModel(twin, quant)
    lengths = [6, 4, 4, 1] if sorted_ else [4, 1, 6, 4]
    samples = [torch.randn(length, 5) for length in lengths]
    packed = nn.utils.rnn.pack_sequence(samples, enforce_sorted=sorted_)
    state = torch.randn(4, 4, 7)
    begin = (state, torch.randn(4, 4, 7)) if Twin is nn.LSTM else state

    def alone(i: int) -> list[torch.Tensor]:
        own = tuple(s[:, i].contiguous() for s in begin) if isinstance(begin, tuple) else begin[:, i].contiguous()
        return tensors(layer(samples[i], own))

    def together(module: nn.Module) -> list[list[torch.Tensor]]:
        y, last = module(packed, begin)
        padded, found = nn.utils.rnn.pad_packed_sequence(y)
        assert found.tolist() == lengths
        states = list(last) if isinstance(last, tuple) else [last]
        return [[padded[:n, i], *(s[:, i] for s in states)] for i, n in enumerate(lengths)]

    for training in (False, True):
        layer.train(training), wrapped.train(training)
        expected = [alone(i) for i in range(4)]
        gradients = []
        for module in (layer, wrapped):
            found = together(module)
            for ours, theirs in zip(found, expected, strict=True):
                for a, b in zip(ours, theirs, strict=True):
                    assert torch.allclose(a, b, atol=1e-6) if training else torch.equal(a, b)
            loss = sum(part.square().sum() for sample in found for part in sample)
            gradients.append(torch.autograd.grad(loss, list(twin.parameters())))
        loss = sum(part.square().sum() for sample in expected for part in sample)
        wanted = torch.autograd.grad(loss, list(twin.parameters()))
        for own in gradients:
            for a, b in zip(own, wanted, strict=True):
                assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@each
@pytest.mark.parametrize(
    "quant",
    [Quant(method="twn", granularity="channel"), Quant(granularity="channel", activation="int8_static"), Quant.int8()],
    ids=["twn", "static", "int8"],
)
def test_fitted_without_training(Ours: Any, Twin: Any, quant: Quant, tmp_path: Path) -> None:
    """Layers of PyTorch in a class of one's own: both products of each layer and direction take part, and the deployed network has the bits of the fitted one."""

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.rnn = nn.Embedding(19, 8), Twin(8, 17, 2, bidirectional=True, batch_first=True, bias=False)
            self.head = nn.Linear(34, 4)

        def forward(self, words: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(self.table(words))[0])

    torch.manual_seed(3)
    net = Tagger().eval()
    samples = [torch.randint(0, 19, (6, 9)), torch.randint(0, 19, (3, 5))]
    with torch.no_grad():
        expected = [net(words) for words in samples]
    rules = bitlab.MixedPrecisionConfig(rules=[{"type": "embedding", "quant": bitlab.QuantRule.in_float()}])
    rules.quant = quant
    if not quant.activation.endswith("static"):
        analyzed = bitlab.analyze(copy.deepcopy(net), lambda m: float((m(samples[0]) - expected[0]).square().mean()), rules)
        assert [layer.path for layer in analyzed.layers] == ["rnn", "head"] and analyzed.float_loss < 1e-12
        assert analyzed.layers[0].loss > 0 and analyzed.ternary_loss > 0
    fitted, report = bitlab.quantize_for_deployment(copy.deepcopy(net), samples, rules)
    weights = [fit.name for fit in report.layers if "rnn" in fit.name]
    assert len(weights) == 8 and len(report.layers) == 9
    assert all(fit.frozen == (quant.method != "int8") for fit in report.layers)
    assert all((fit.act_scale > 0) == quant.activation.endswith("static") for fit in report.layers)
    with torch.no_grad():
        error = sum(((fitted(words) - y) ** 2).sum() for words, y in zip(samples, expected, strict=True))
    assert error / sum((y**2).sum() for y in expected) == pytest.approx(report.output_error, rel=1e-3)
    assert report.output_error < (1e-3 if quant.method == "int8" else report.output_error_encoded)
    bitlab.deploy(fitted, {"words": samples[0]}, tmp_path / "m.bit", dynamic_axes={"words": {0: "batch", 1: "tokens"}})
    session = bitlab.runtime.Session(tmp_path / "m.bit")
    for shape in ((1, 1), (2, 13)):
        words = torch.randint(0, 19, shape)
        with torch.no_grad():
            assert np.array_equal(session(words.numpy()), fitted(words).numpy())
    fitted.train()
    fitted(samples[0]).square().sum().backward()  # training can go on
    assert all(parameter.grad is not None for parameter in fitted.parameters() if parameter.requires_grad)


def rules_of(quant: Quant) -> bitlab.MixedPrecisionConfig:
    rules = bitlab.MixedPrecisionConfig(rules=[{"type": "embedding", "quant": bitlab.QuantRule.in_float()}])
    rules.quant = quant
    return rules
