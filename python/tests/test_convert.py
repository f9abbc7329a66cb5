"""BitConverter, BitModel and analyze over modules that know nothing of BitLab."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from conftest import Net
from torch import nn

import bitlab
from bitlab.nn import BitConv2d, BitEmbedding, BitLinear


def test_the_converter_replaces_layers_and_keeps_their_parameters(net: Net, images: torch.Tensor) -> None:
    weight, bias = net.fc.weight, net.fc.bias
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    report = bitlab.BitConverter.convert(net)
    assert isinstance(net.conv, BitConv2d) and isinstance(net.fc, BitLinear)
    assert net.fc.weight is weight and net.fc.bias is bias
    assert {layer.path: layer.action for layer in report.layers} == {
        "conv": "replaced", "fc": "replaced", "table": "skipped", "norm": "skipped",
    }  # fmt: skip
    before = net.conv.weight.detach().clone()
    net(images).square().mean().backward()
    optimizer.step()
    assert not torch.equal(net.conv.weight, before)
    assert "conv" in str(report) and report.covered == report.parameters - 35 - 12


def test_rules_decide_by_path() -> None:
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    config = bitlab.MixedPrecisionConfig(
        granularity="channel",
        rules=[{"position": "last", "quant": {"method": "none"}}, {"type": "embedding", "quant": {"method": "twn"}}],
    )
    report = bitlab.LayerConverter.convert(model, config)
    assert type(model[2]) is nn.Linear and isinstance(model[0], BitEmbedding)
    assert model[0].quant.method == "twn" and model[1].quant.granularity == "channel"
    assert [layer.action for layer in report.layers] == ["replaced", "replaced", "kept"]
    assert report.layers[2].reason.startswith("rule 1")


def test_shared_layers_and_tied_weights_stay_so() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
            self.head.weight = self.tokens.weight
            self.block = nn.Linear(8, 8)
            self.again = self.block

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.again(self.block(self.tokens(ids))))

    model = Tied()
    bitlab.BitConverter.convert(model)
    assert model.block is model.again and isinstance(model.block, BitLinear)
    assert model.head.weight is model.tokens.weight
    assert model(torch.randint(0, 11, (2, 5))).shape == (2, 5, 11)


def test_conversion_is_all_or_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Embedding(5, 4, max_norm=1.0))
    with pytest.raises(bitlab.Unsupported, match=r"max_norm.*\(layer=1\)"):
        bitlab.BitConverter.convert(model)
    assert type(model[0]) is nn.Linear


def test_encoder_layers_take_no_shortcut() -> None:
    """In eval PyTorch's fused path would read the float weights of linear1 and linear2."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    x = torch.randn(2, 5, 16)
    bitlab.BitConverter.convert(layer)
    assert isinstance(layer.linear1, BitLinear)
    trained = layer(x)
    with torch.no_grad():
        assert torch.allclose(layer.eval()(x), trained, atol=1e-5)


def test_a_bit_model_intercepts_what_the_module_computes(net: Net, images: torch.Tensor) -> None:
    """Against the same network, written with layers."""
    reference = copy.deepcopy(net)
    model = bitlab.BitModel(net)
    assert [layer.action for layer in model.report.layers][:3] == ["intercepted"] * 3
    bitlab.BitConverter.convert(reference)
    last = BitLinear(7, 5, bias=False)
    last.weight = reference.table

    def expected() -> torch.Tensor:
        hidden = torch.relu(reference.norm(reference.conv(images))).flatten(1)
        return last(torch.relu(reference.fc(hidden)))

    y, z = model(images), expected()
    assert torch.equal(y, z)
    y.square().sum().backward()
    z.square().sum().backward()
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter.grad, reference.get_parameter(name).grad), name


@pytest.mark.parametrize("fast", [True, False])
def test_attention_in_its_fast_path(fast: bool) -> None:
    """nn.MultiheadAttention has one operator for all of it in eval, which would read float weights."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    model = bitlab.BitModel(layer)
    x = torch.randn(2, 5, 16)
    trained = model(x)
    torch.backends.mha.set_fastpath_enabled(fast)
    with torch.no_grad():
        evaluated = model.eval()(x)
    assert torch.backends.mha.get_fastpath_enabled() == fast
    torch.backends.mha.set_fastpath_enabled(True)
    assert torch.allclose(evaluated, trained, atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(layer(x), trained, atol=1e-2)


def test_parametrizations_are_refused_or_masters() -> None:
    """A weight norm reads the weight by itself: only the user can say what is meant."""
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.ReLU(), nn.Linear(5, 3))
    with pytest.raises(bitlab.Unsupported, match="parametrizations.weight.original1"):
        bitlab.BitModel(copy.deepcopy(model))(torch.randn(4, 6))
    config = bitlab.MixedPrecisionConfig(rules=[{"path": "*.original0", "quant": {"method": "none"}}, {"path": "*.original1", "master": True, "quant": {"activation": "none"}}])
    wrapped = bitlab.BitModel(model, config)
    wrapped(torch.randn(4, 6)).sum().backward()
    assert model[0].parametrizations.weight.original1.grad is not None


def test_the_audit_names_weight_and_reader() -> None:
    class Doubles(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ (self.fc.weight * 2).T

    with pytest.raises(bitlab.Unsupported, match=r"'fc.weight' is read by aten::mul"):
        bitlab.BitModel(Doubles())(torch.randn(2, 4))


def test_exceptions_of_the_module_come_through(images: torch.Tensor) -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as raised:
        bitlab.BitModel(Fails())(images)
    assert raised.traceback[-1].name == "forward"


def test_learned_scales_are_parameters_and_survive(net: Net, images: torch.Tensor, tmp_path: Path) -> None:
    model = bitlab.BitModel(net, bitlab.BitQuantConfig(method="lsq", granularity="channel", activation="int8_static"))
    names = [name for name, _ in model.named_parameters() if name.startswith("intercepted.")]
    assert len(names) == 6 and all(name.endswith(("weight_scale", "act_scale")) for name in names)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(2):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    with torch.no_grad():
        expected = model(images)
        assert torch.equal(copy.deepcopy(model)(images), expected)
        assert torch.equal(pickle.loads(pickle.dumps(model))(images), expected)
        other = bitlab.BitModel(Net(), model.config).eval()
        buffer = io.BytesIO()
        torch.save(model.state_dict(), buffer)
        buffer.seek(0)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        assert torch.equal(other(images), expected)
        model.save(tmp_path / "model.pt")
        third = bitlab.BitModel(Net(), model.config)
        third.load(tmp_path / "model.pt")
        assert torch.equal(third.eval()(images), expected)
    with pytest.raises(bitlab.InvalidArgument):
        bitlab.BitModel(Net()).load(tmp_path / "model.pt")


def test_modes_reach_both_sides(net: Net, images: torch.Tensor) -> None:
    model = bitlab.BitModel(net)
    assert model.training and net.training
    assert not model.eval().training and not net.training and not net.norm.training
    with torch.no_grad():
        first = model(images)
        assert torch.equal(model(images), first)
    assert model.train().training and net.norm.training


def test_blend_goes_from_float_to_ternary(net: Net, images: torch.Tensor) -> None:
    model = bitlab.BitModel(net)
    net.norm.momentum = 0.0
    ternary = model(images)
    model.set_blend(0.0)
    assert torch.allclose(model(images), net(images), atol=1e-5)
    model.set_blend(1.0)
    assert torch.equal(model(images), ternary)


def test_a_model_is_freed(net: Net) -> None:
    import gc
    import weakref

    model = bitlab.BitModel(net)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def test_analyze_finds_the_layer_that_suffers(images: torch.Tensor) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.easy, self.hard = nn.Linear(16, 16, bias=False), nn.Linear(16, 4, bias=False)
            with torch.no_grad():
                self.easy.weight.copy_(torch.eye(16) - torch.eye(16).roll(1, 0))  # ternary already
                self.hard.weight.copy_(torch.linspace(-1, 1, 64).view(4, 16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.hard(self.easy(x))

    model, x = Two(), torch.randn(32, 16)
    expected = model(x).detach()
    config = bitlab.BitQuantConfig(method="fixed", activation="none")
    found = bitlab.analyze(model, lambda m: (m(x) - expected).square().mean().item(), config)
    losses = {layer.path: layer.loss for layer in found.layers}
    assert found.float_loss < 1e-10 and losses["hard"] > 1e-3 and losses["easy"] < losses["hard"] / 10
    (rule,) = found.propose_rules(losses["hard"] / 2)
    assert rule.path == "hard" and rule.quant["method"] == "none"
    assert torch.equal(model(x), expected)


LAYERS = [(nn.Linear(5, 4), torch.randn(3, 5)), (nn.Conv2d(2, 4, 3, stride=2), torch.randn(2, 2, 7, 7)), (nn.Embedding(9, 4), torch.arange(9))]


@pytest.mark.parametrize(("layer", "x"), LAYERS, ids=lambda value: type(value).__name__)
def test_a_layer_by_itself(layer: nn.Module, x: torch.Tensor) -> None:
    model = bitlab.BitModel(layer).eval()
    assert [row.action for row in model.report.layers if row.path == "weight"] == ["intercepted"]
    ternary = nn.Sequential(layer)
    bitlab.BitConverter.convert(ternary)
    assert torch.equal(model(x), ternary.eval()(x)) and not torch.equal(model(x), layer(x))
