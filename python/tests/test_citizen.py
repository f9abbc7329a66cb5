"""What PyTorch expects of operators and modules: opcheck, torch.compile, torch.export, autocast, checkpointing, DistributedDataParallel, torch.func."""

from __future__ import annotations

import copy
import os
import re
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import ROOT
from torch import nn
from torch.utils.checkpoint import checkpoint

import bitlab
from bitlab import nn as bnn

Quant = bitlab.BitQuantConfig
ops = torch.ops.bitlab


@pytest.fixture(autouse=True)
def one_thread(seeded: None) -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    torch._dynamo.reset()


# --- the operators


def samples(grad: bool) -> dict[str, list[tuple[Any, ...]]]:
    """Arguments of every operator of schemas.def; of those that are differentiable with tensors that want gradients."""

    def floats(*shape: int) -> torch.Tensor:
        return torch.randn(shape, requires_grad=grad)

    x, w, b = floats(3, 5, 12), floats(7, 12), floats(7)
    s, step = torch.full((7,), 0.6, requires_grad=grad), torch.tensor([0.02], requires_grad=grad)
    image, filters, turned = floats(2, 6, 9, 8), floats(4, 3, 3, 2), floats(6, 4, 3, 2)
    ids = torch.randint(0, 7, (2, 3))
    plain = [[1, 2], [1, 0], [1, 1], False, [0, 0], 2]
    found: dict[str, list[tuple[Any, ...]]] = {
        "bit_linear": [
            (x, w, b, "absmean/tensor", "int8", []),
            (x, w, None, "lsq/channel", "int8_static", [s], step, 0.5),
            (x, w, b, "tga/channel", "int8", [s]),
            (x, floats(4, 130)[:, :12], None, "absmean/group64", "int4", []),
            (x[0, 0], w, b, "twn_asymmetric/channel/clipped", "int4", []),
        ],
        "bit_conv": [
            (image, filters, floats(4), *plain, "absmean/channel", "int8", []),
            (
                image[0],
                filters,
                None,
                [1, 1],
                [0, 0],
                [1, 2],
                False,
                [0, 0],
                2,
                "absmean/tensor/tanh",
                "none",
                [],
                None,
                0.25,
            ),
            (
                image.to(memory_format=torch.channels_last),
                turned,
                None,
                [2, 2],
                [1, 0],
                [1, 1],
                True,
                [1, 0],
                2,
                "ttq/tensor",
                "int8_static",
                [s[:1], s[1:2]],
                step,
            ),
        ],
        "bit_weight": [
            (w, "absmean/channel", []),
            (w, "lsq/channel", [s], 0.5),
            (w[0], "ttq/tensor", [s[:1], s[1:2]]),
            (floats(12, 7).t(), "absmedian/tensor", []),
        ],
        "bit_embedding": [
            (w, ids, "absmean/channel", []),
            (w, ids, "lsq/tensor", [s[:1]], 1.0, 2, True),
            (w, ids, "twn/channel", [], 0.5),
        ],
        "batch_norm": [
            (image, floats(6), floats(6), torch.randn(6), torch.rand(6) + 0.5, 1e-5),
            (image.double(), None, None, torch.randn(6), torch.rand(6) + 0.5, 1e-5),
        ],
        "sigmoid": [(x,), (x.transpose(0, 1),), (x.double(),)],
        "tanh": [(x,), (x[:0],)],
        "bit_recurrent": [
            (floats(3, 2, 20), floats(20, 5), floats(20), None, None, "lstm", False, "absmean/channel", "int8", []),
            (floats(3, 2, 20), floats(20, 5), None, floats(3, 5), floats(3, 5), "lstm", True, "lsq/tensor", "int8_static", [s[:1]], step),
            (floats(2, 3, 15), floats(15, 5), floats(15), floats(2, 5), None, "gru", True, "absmean/tensor", "none", [], None, 0.5),
        ],
        "rotary": [(floats(2, 3, 5, 8), torch.arange(3, 8), 10000.0)],
    }
    if grad:
        return found
    codes, scale, _ = ops.ternary_pack(w, "absmean/channel", [])
    hidden, unit, _ = ops.ternary_pack(floats(20, 5), "absmean/tensor", [])
    packed, up, down = ops.ternary_pack(filters, "twn_asymmetric/channel", [], False, 2)
    window = [[3, 2], [1, 2], [1, 0], [1, 1], False, [0, 0], 2]
    return found | {
        "quantize_weight": [
            (w, "absmean/channel", []),
            (filters, "twn_asymmetric/tensor", [], False, 2),
            (w.t(), "lsq/tensor", [s[:1]]),
            (floats(3, 130), "absmean/group64", []),
            (turned.to(memory_format=torch.channels_last), "twn/channel", [], True, 2),
        ],
        "quantize_activation": [
            (x, -1, "int8"),
            (x.transpose(0, 1), -1, "int4"),
            (image.to(memory_format=torch.channels_last), 1, "int8"),
            (image, 1, "int8_static", step),
            (x[:0], -1, "int8"),
        ],
        "ternary_pack": [
            (w, "absmean/channel", []),
            (filters, "absmean/channel", [], False, 2),
            (floats(3, 130), "absmean/group64", []),
            (w, "int8/channel", []),
        ],
        "ternary_linear": [
            (x, codes, scale, None, b, None, "int8"),
            (x[0, 0], codes, scale, None, None, step, "int8_static"),
        ],
        "ternary_conv": [
            (image, packed, up, down, None, None, *window, "int8"),
            (image[0], packed, up, down, floats(4), None, *window, "int4"),
        ],
        "ternary_recurrent": [
            (floats(3, 2, 20), hidden, unit, None, floats(20), None, None, None, "lstm", False, "int8"),
            (floats(3, 2, 20), hidden, unit, None, None, floats(3, 5), floats(3, 5), step, "lstm", True, "int8_static"),
        ],
        "ternary_embedding": [(codes, scale, None, ids, 12)],
        "rotary_table": [(torch.arange(5), 8, 100.0)],
    }


SCHEMAS = re.findall(r"^BITLAB_SCHEMA\((\w+),", (ROOT / "bitlab/ops/schemas.def").read_text(), re.MULTILINE)


def check(name: str, grad: bool) -> None:
    for arguments in samples(grad)[name]:
        torch.library.opcheck(getattr(ops, name).default, arguments)


@pytest.mark.parametrize("name", SCHEMAS)
def test_opcheck_without_gradients(name: str) -> None:
    """Those of training run on packed codes there."""
    with torch.no_grad():
        check(name, False)


@pytest.mark.parametrize("name", samples(True))
def test_opcheck_with_gradients(name: str) -> None:
    check(name, True)


def test_what_has_no_gradient_says_so() -> None:
    x = torch.randn(3, 8, requires_grad=True)
    with pytest.raises(RuntimeError, match="no gradients"):
        ops.quantize_activation(x, -1, "int8")
    layer = bnn.BitLinear(8, 4)
    with pytest.raises(RuntimeError, match="forward-mode"):
        torch.func.jvp(layer, (x.detach(),), (x.detach(),))
    # PyTorch's own limits: it names them.
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(lambda x: layer(x).sum())(x.detach())
    with pytest.raises(RuntimeError, match="vmap|Batching rule"):
        torch.func.vmap(layer)(x.detach())


# --- modules in graphs


class Net(nn.Module):
    """Something of everything."""

    def __init__(self, static: bool = False) -> None:
        super().__init__()
        by_channel = Quant(granularity="channel")
        self.conv = bnn.BitConv2d(3, 8, 3, padding="same", padding_mode="reflect", quant=by_channel)
        self.norm = bnn.BitBatchNorm2d(8)
        self.up = bnn.BitConvTranspose2d(8, 4, 2, stride=2, quant=Quant(method="twn_asymmetric"))
        self.fc = bnn.BitLinear(4 * 12 * 10, 16, quant=Quant.for_mobile() if static else Quant(method="ttq"))
        self.table = bnn.BitEmbedding(11, 16, quant=by_channel)
        self.bag = bnn.BitEmbeddingBag(11, 16, mode="sum")
        self.attend = bnn.BitMultiheadAttention(16, 4, num_kv_heads=2, causal=True, rope_theta=1e4)
        self.rms = bnn.BitRMSNorm(16)
        self.last = bnn.BitLinear(16, 9, quant=Quant(method="lsq", granularity="channel"))
        self.head = bnn.BitLinear(9, 5, quant=Quant.none())

    def forward(self, image: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.up(torch.relu(self.norm(self.conv(image))))
        tokens = self.rms(self.attend(self.table(ids) + self.fc(hidden.flatten(1))[:, None]))
        return self.head(self.last(tokens.mean(1) + self.bag(ids)))


def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 3, 6, 5), torch.randint(0, 11, (count, 7))


def gradients(net: nn.Module, y: torch.Tensor) -> dict[str, torch.Tensor]:
    net.zero_grad()
    y.square().sum().backward()
    found = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    assert len(found) == len(list(net.parameters()))
    return found


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 1e-4) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.allclose(tensor, b[name], rtol=tolerance, atol=tolerance * max(1.0, tensor.abs().max().item())), name


def test_compiles_as_one_graph() -> None:
    net = Net(static=True)
    twin = copy.deepcopy(net)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for i, count in enumerate((4, 3, 5)):  # the first begins the static step; other batches come as one more graph
        x = batch(count)
        y, z = net(*x), compiled(*x)
        assert torch.allclose(y, z, rtol=1e-5, atol=1e-5)
        assert_close(gradients(net, y), gradients(twin, z))
        assert torch.equal(net.fc.act_scale, twin.fc.act_scale) and net.fc.act_scale > 0, i
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    for name, tensor in net.state_dict().items():
        assert torch.allclose(tensor, twin.state_dict()[name], rtol=1e-5, atol=1e-5), name
    net.eval(), twin.eval()
    with torch.no_grad():
        for count in (3, 4):
            x = batch(count)
            assert torch.allclose(net(*x), compiled(*x), rtol=1e-5, atol=1e-5)
        twin.table.weight.neg_(), net.table.weight.neg_()
        twin.fc.weight.mul_(-2), net.fc.weight.mul_(-2)
        assert torch.allclose(net(*x), compiled(*x), rtol=1e-5, atol=1e-5), "weights are read when the graph runs"


def test_a_blend_makes_another_graph() -> None:
    layer, x = bnn.BitLinear(12, 7), torch.randn(3, 12)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    state = layer.state_dict() | {"blend": torch.tensor(0.75, dtype=torch.float64)}
    for share in (1.0, 0.25, 0.0):
        layer.set_blend(share)
        assert torch.equal(compiled(x), layer(x))
    layer.load_state_dict(state)
    assert torch.equal(compiled(x), layer(x)) and layer._shares[""] == 0.75


def test_draws_break_the_graph() -> None:
    quant = Quant(rounding="stochastic")
    net = nn.Sequential(bnn.BitLinear(12, 7, quant=quant), nn.ReLU(), bnn.BitLayerNorm(7, quant=quant))
    twin, x = copy.deepcopy(net), torch.randn(3, 12)
    compiled = torch.compile(twin, backend="aot_eager")
    for _ in range(12):  # more than graphs may be made anew
        assert torch.equal(compiled(x), net(x))
    net.eval(), twin.eval()
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(x), net(x)), "in eval there are none"


@pytest.mark.skipif("BITLAB_TEST_FULL" not in os.environ, reason="compiles C++ for half a minute: BITLAB_TEST_FULL=1")
def test_inductor() -> None:
    """Kernels of its own between the operators; in training it makes those of what they are made of."""
    net = nn.Sequential(bnn.BitLinear(12, 7), nn.GELU(), bnn.BitLinear(7, 5))
    twin, x = copy.deepcopy(net), torch.randn(3, 12)
    compiled = torch.compile(twin, fullgraph=True)
    y, z = net(x), compiled(x)
    assert torch.allclose(y, z, rtol=1e-5, atol=1e-5)
    assert_close(gradients(net, y), gradients(twin, z))
    net.eval(), twin.eval()
    with torch.no_grad():
        assert torch.allclose(net(x), compiled(x), rtol=1e-5, atol=1e-5)


def test_exports_with_any_batch() -> None:
    net = Net(static=True)
    net(*batch(4))
    net.eval()
    any_batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(net, batch(4), dynamic_shapes=({0: any_batch}, {0: any_batch}))
    targets = {str(node.target) for node in program.graph.nodes}
    assert {f"bitlab.{name}.default" for name in ("bit_linear", "bit_conv", "bit_embedding", "rotary")} <= targets
    x = batch(9)
    with torch.no_grad():
        assert torch.equal(program.module()(*x), net(*x))
        lowered = program.run_decompositions()
        assert torch.allclose(lowered.module()(*x), net(*x), rtol=1e-5, atol=1e-5)


def test_shapes_without_values() -> None:
    """On the device meta, as tools that plan memory call a network."""
    net = Net()
    with torch.device("meta"):
        planned = Net()
    assert all(tensor.is_meta for tensor in planned.state_dict().values())
    y = planned(*(tensor.to("meta") for tensor in batch(3)))
    assert y.is_meta and y.shape == net(*batch(3)).shape
    planned.eval()
    with torch.no_grad():
        assert planned(*(tensor.to("meta") for tensor in batch(2))).shape == (2, 5)


# --- modes of training


def test_autocast_changes_no_bit_of_a_forward_pass() -> None:
    layers: list[tuple[nn.Module, torch.Tensor]] = [
        (bnn.BitLinear(12, 7), torch.randn(3, 12)),
        (bnn.BitConv2d(3, 4, 3, quant=Quant(method="lsq")), torch.randn(2, 3, 6, 5)),
        (bnn.BitConvTranspose1d(3, 4, 3, quant=Quant(granularity="channel")), torch.randn(2, 3, 6)),
    ]
    for layer, x in layers:
        half = x.bfloat16()
        for training in (True, False):
            layer.train(training)
            wanted, wide = layer(x), layer(half.float())
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y, narrow = layer(x), layer(half)
            assert y.dtype == torch.float32 and torch.equal(y, wanted) and torch.equal(narrow, wide)
        assert_close(gradients(layer, y), gradients(layer, wanted), tolerance=2**-6)  # products of bfloat16, where the CPU has them
    net = Net()
    x = batch(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(*x)
    assert torch.allclose(y.float(), net(*x), rtol=0.1, atol=0.1)
    assert all(gradient.dtype == torch.float32 for gradient in gradients(net, y.float()).values())


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant: bool) -> None:
    block = bnn.BitTransformerBlock(16, 4, quant=Quant(method="lsq", activation="int8_static"))
    x = torch.randn(2, 5, 16, requires_grad=True)
    block(x)  # begins the steps
    wanted = gradients(block, block(x))
    found = gradients(block, checkpoint(block, x, use_reentrant=reentrant))
    for name, gradient in wanted.items():
        assert torch.equal(gradient, found[name]), name


def test_functional_call() -> None:
    net, x = Net(), batch(3)
    net.eval()  # a batch norm by statistics
    parameters = {name: parameter.detach() * 1.5 for name, parameter in net.named_parameters()}
    other = copy.deepcopy(net)
    other.load_state_dict(net.state_dict() | parameters)
    wanted = other(*x)
    wants = {name: parameter.requires_grad_() for name, parameter in parameters.items()}
    y = torch.func.functional_call(net, wants, x)
    assert torch.equal(y, wanted)
    found = torch.autograd.grad(y.square().sum(), list(wants.values()))
    assert_close(gradients(other, wanted), dict(zip(wants, found, strict=True)))
    with torch.no_grad():
        assert torch.equal(torch.func.functional_call(net, wants, x), other(*x)), (
            "codes are those of the weights that are passed"
        )


def test_parallel_replicas_and_averages() -> None:
    """Copies whose parameters are no Parameters (DataParallel), and averages of networks."""
    layer, x = bnn.BitLinear(12, 7, quant=Quant(method="lsq")), torch.randn(3, 12)
    replica = layer._replicate_for_data_parallel()
    for name, parameter in layer.named_parameters():
        setattr(replica, name, parameter * 1)
    assert torch.equal(replica(x), layer(x))
    average = torch.optim.swa_utils.AveragedModel(layer, use_buffers=True)
    average.update_parameters(layer)
    layer.set_blend(0.5)
    average.update_parameters(layer)
    assert average.module.blend == pytest.approx(0.75)
    wanted = copy.deepcopy(layer)
    wanted.load_state_dict(average.module.state_dict())
    assert torch.equal(average(x), wanted(x))


# --- several processes


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = bnn.BitConv1d(3, 8, 3, padding=1, quant=Quant.for_mobile())
        self.fc = bnn.BitLinear(8 * 10, 16, quant=Quant(method="ttq", granularity="channel"))
        self.norm = bnn.BitRMSNorm(16)
        self.head = bnn.BitLinear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(torch.relu(self.fc(torch.relu(self.conv(x)).flatten(1)))))


def begun() -> tuple[Classifier, torch.Tensor, torch.Tensor]:
    torch.manual_seed(11)
    net, x, labels = Classifier(), torch.randn(8, 3, 10), torch.randint(0, 4, (8,))
    net(x)  # static steps begin before processes part
    return net, x, labels


def loss_of(net: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(net(x), labels)


def one_of_two(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=timedelta(seconds=120))
    try:
        net, x, labels = begun()
        if rank == 1:  # what the first process has is sent: weights, scales, steps and the blend
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter.add_(1.0)
            net.fc.blend.fill_(0.0)
        parallel = nn.parallel.DistributedDataParallel(net)
        optimizer = torch.optim.SGD(net.parameters(), 0.05)
        for _ in range(2):
            optimizer.zero_grad()
            loss_of(parallel, x[4 * rank : 4 * rank + 4], labels[4 * rank : 4 * rank + 4]).backward()
            optimizer.step()
        torch.save({name: p.grad for name, p in net.named_parameters()} | {"state": net.state_dict()}, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    other = torch.multiprocessing.get_context("spawn").Process(target=one_of_two, args=(1, port, str(tmp_path)))
    other.start()
    one_of_two(0, port, str(tmp_path))
    other.join(120)
    assert other.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    states = first.pop("state"), second.pop("state")
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    for name, gradient in first.items():
        assert torch.equal(gradient, second[name]), name
    net, x, labels = begun()
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    for _ in range(2):
        optimizer.zero_grad()
        # The step of static activations learns by a root of the number of values, which halves of a batch have half of.
        losses = [loss_of(net, x[i : i + 4], labels[i : i + 4]) for i in (0, 4)]
        (sum(losses) / 2).backward()
        optimizer.step()
    assert_close({name: p.grad for name, p in net.named_parameters()}, first)
    whole, x, labels = begun()
    loss_of(whole, x, labels).backward()
    halves, _, _ = begun()
    (sum(loss_of(halves, x[i : i + 4], labels[i : i + 4]) for i in (0, 4)) / 2).backward()
    for name, parameter in whole.named_parameters():
        factor = 2**0.5 if name == "conv.act_scale" else 1.0
        assert torch.allclose(factor * parameter.grad, halves.get_parameter(name).grad, rtol=1e-4, atol=1e-5), name


def test_a_step_that_begins_in_one_of_several_processes_warns() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.warns(UserWarning, match="let one batch through"):
            bnn.BitLinear(6, 5, quant=Quant.for_mobile())(torch.randn(2, 6))
    finally:
        dist.destroy_process_group()
