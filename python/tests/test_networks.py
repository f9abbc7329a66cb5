"""Networks as papers and users write them, each with what others lack: deployed, and run on other values and other batches than those captured."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bitlab._calls import flatten, named_inputs
from torch import Tensor, nn

import bitlab

Sample = Callable[[int], Tensor]


def floats(*shape: int) -> Sample:
    return lambda batch: torch.randn(batch, *shape)


def ids(high: int, *shape: int, low: int = 0) -> Sample:
    return lambda batch: torch.randint(low, high, (batch, *shape))


def bools(*shape: int) -> Sample:
    return lambda batch: torch.rand(batch, *shape) < 0.5


class Net(nn.Module):
    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> object:
        return self.function(*inputs)


class Encoder(nn.Module):
    """PyTorch's own, whose layers have a form of one operator in eval."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.layers(x, src_key_padding_mask=mask)


class Latents(nn.Module):
    """Queries that no input is in."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(4, 8))
        self.attention = nn.MultiheadAttention(8, 2, kdim=5, vdim=5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        latents = self.latents.expand(len(x), -1, -1)
        return torch.cat(self.attention(latents, x, x)[0].split(4, 2), 0)


class SegNet(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y, first = F.max_pool2d(x, 2, return_indices=True)
        z, second = F.max_pool2d(y, 2, 2, return_indices=True, ceil_mode=True)
        back = F.max_unpool2d(z, second, 2, 2, output_size=y.shape)
        overlapping = F.max_pool2d(x, 3, 2, 1, return_indices=True)[1]
        return F.max_unpool2d(back, first, 2, output_size=x.shape), second, overlapping, F.adaptive_max_pool2d(x, (2, 3), return_indices=True)[1]


class Modulated(nn.Module):
    """Convolutions by weights of each sample's own, as StyleGAN and hypernetworks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 6, 2, 3, 3))

    def forward(self, x: Tensor, style: Tensor) -> tuple[Tensor, ...]:
        batch, channels, height, width = x.shape
        weight = self.weight * style.view(batch, 1, channels, 1, 1)
        weight = weight * torch.rsqrt(weight.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)
        image, kernels = x.reshape(1, batch * channels, height, width), weight.view(batch * 6, channels, 3, 3)
        up = F.conv_transpose2d(image, weight.transpose(1, 2).reshape(batch * channels, 6, 3, 3), stride=2, padding=1, groups=batch, output_padding=1)
        y = F.conv2d(image, kernels, padding="same", groups=batch, dilation=2)
        return y.view(batch, 6, height, width), up.view(batch, 6, 2 * height, 2 * width)


class Experts(nn.Module):
    """A mixture that computes each row's own expert alone."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 9), nn.GELU(), nn.Linear(9, 8)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        best, out = x[..., :3].topk(1, -1).indices, torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            rows = (best == i).any(-1)
            out[rows] = expert(x[rows])
        return out


class Fourier(nn.Module):
    """A Fourier neural operator."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 2, 3, 2, 2, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        frequencies = torch.fft.rfft2(x)
        out = torch.zeros(len(x), 3, x.size(-2), x.size(-1) // 2 + 1, dtype=torch.cfloat)
        out[:, :, :2, :2] = torch.einsum("bixy,ioxy->boxy", frequencies[:, :, :2, :2], self.weight[0])
        out[:, :, -2:, :2] = torch.einsum("bixy,ioxy->boxy", frequencies[:, :, -2:, :2], self.weight[1])
        return torch.fft.irfft2(out, s=x.shape[-2:])


def complex_values(x: Tensor) -> tuple[Tensor, ...]:
    c = torch.fft.fft(x)
    return (c / (c.abs() + 1)).imag, torch.exp(1j * x).real, (c**3).real, (x / (c + 5)).imag


def inverse_transform(x: Tensor) -> Tensor:
    window = torch.hann_window(16)
    return torch.istft(torch.stft(x, 16, 8, window=window, return_complex=True), 16, 8, window=window, length=64)


def small_systems(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    a = x @ x.mT + torch.eye(4)
    upper, moved = a.triu(), x.roll(1, 1) + torch.eye(4) * 0.1
    return (
        torch.linalg.inv(a), torch.linalg.solve(a, y), torch.linalg.solve(a, y[..., 0]), torch.linalg.det(moved), *torch.linalg.slogdet(moved),
        torch.linalg.cholesky(a), torch.linalg.cholesky(a, upper=True), torch.cholesky_solve(y, torch.linalg.cholesky(a)),
        torch.linalg.solve_triangular(upper, y, upper=True), torch.linalg.solve(a, y.mT, left=False),
    )  # fmt: skip


def farthest_points(points: Tensor) -> Tensor:
    """As PointNet++ samples and groups."""
    batch = torch.arange(len(points))
    distance, far = torch.full(points.shape[:2], 1e10), torch.zeros(len(points), dtype=torch.long)
    chosen = torch.zeros(len(points), 3, dtype=torch.long)
    for i in range(3):
        chosen[:, i] = far
        squared = ((points - points[batch, far, :].view(-1, 1, 3)) ** 2).sum(-1)
        nearer = squared < distance
        distance[nearer] = squared[nearer]
        far = distance.max(-1)[1]
    neighbours = torch.cdist(points[batch[:, None].repeat(1, 3), chosen], points).argsort(-1)[:, :, :2]
    return points[batch.view(-1, 1, 1).repeat(1, 3, 2), neighbours, :]


def written_in_place(x: Tensor) -> Tensor:
    y, counted = x.detach().clone(), torch.zeros(6)
    a, b = y.chunk(2, 1)
    a.add_(b)
    b.relu_()
    y.data[:, 0] += 1
    y[x > 0.5] += 2
    y[:, [0, 2]] *= 3
    y.index_put_((torch.arange(len(x)), torch.zeros(len(x), dtype=torch.long)), x[:, 1])
    early = y + counted
    counted += 1
    return early * counted


def written_at_places(x: Tensor) -> Tensor:
    y, best = x.mean(1, keepdim=True).expand_as(x).clone(), x.sum(-1).topk(3).indices
    y[torch.arange(len(x))[:, None], best, :] = x[:, :3] * 2
    y[:, torch.tensor([0, 1]), torch.tensor([2, 3])] = 7.0
    return y


def by_functions_of_functions(x: Tensor) -> tuple[Tensor, ...]:
    return torch.vmap(lambda row: (row @ row.T).softmax(-1) @ row)(x), torch.vmap(torch.dot, in_dims=(1, 1))(x[:, :, 0].T, x[:, :, 1].T)


class Outputs(nn.Module):
    def forward(self, x: Tensor) -> dict[str, object]:
        spread = torch.distributions.Normal(x, x.exp())
        return {"log": spread.log_prob(x + 1), "three": torch.tensor(3.0), "quantiles": torch.quantile(x, torch.tensor([0.1, 0.9]), dim=-1)}


def bag(**options: object) -> Callable[[], nn.Module]:
    return lambda: nn.EmbeddingBag(10, 4, **options)  # type: ignore[arg-type]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[Sample, ...]]] = {
    "encoder": (Encoder, (floats(5, 8), lambda batch: torch.arange(5)[None] >= torch.randint(2, 6, (batch, 1)))),
    "latents": (Latents, (floats(9, 5),)),
    "segnet": (SegNet, (floats(2, 7, 9),)),
    "unpooling of signals": (lambda: Net(lambda x: F.max_unpool1d(*F.max_pool1d(x, 2, return_indices=True), 2)), (floats(3, 8),)),
    "unpooling of volumes": (lambda: Net(lambda x: F.max_unpool3d(*F.max_pool3d(x, 2, return_indices=True), 2)), (floats(2, 4, 4, 6),)),
    "modulated": (Modulated, (floats(2, 5, 6), floats(2))),
    "cross-correlation": (
        lambda: Net(lambda x, z: F.conv2d(x.reshape(1, -1, 7, 8), z, groups=len(x)).transpose(0, 1)), (floats(2, 7, 8), floats(2, 3, 3))
    ),
    "experts": (Experts, (floats(5, 8),)),
    "rows by a mask": (lambda: Net(lambda x, m: torch.zeros_like(x).index_put((m,), F.layer_norm(x[m], (3,)))), (floats(5, 3), bools(5))),
    "fourier": (Fourier, (floats(2, 6, 8),)),
    "complex": (lambda: Net(complex_values), (floats(6),)),
    "inverse transform": (lambda: Net(inverse_transform), (floats(64),)),
    "small systems": (lambda: Net(small_systems), (floats(4, 4), floats(4, 2))),
    "farthest points": (lambda: Net(farthest_points), (floats(8, 3),)),
    "written in place": (lambda: Net(written_in_place), (floats(6),)),
    "written at places": (lambda: Net(written_at_places), (floats(5, 4),)),
    "vmap": (lambda: Net(by_functions_of_functions), (floats(4, 5),)),
    "scripted": (lambda: torch.jit.script(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.LayerNorm(5))), (floats(4),)),
    "compiled": (lambda: torch.compile(nn.Sequential(nn.Linear(4, 5), nn.ReLU()), backend="eager"), (floats(4),)),
    "outputs": (Outputs, (floats(4),)),
    "time steps": (lambda: Net(lambda x, t: x * torch.cos(t[:, None] / 7)), (floats(4), ids(100))),
    **{f"bag {mode} with padding": (bag(mode=mode, padding_idx=0), (ids(10, 5),)) for mode in ("sum", "mean", "max")},
    "bag with weights": (
        lambda: (lambda layer: Net(lambda i, w: layer(i, per_sample_weights=w)))(nn.EmbeddingBag(10, 4, mode="sum")), (ids(10, 5), floats(5))
    ),
    "bias of a constant": (lambda: Net(lambda x: torch.copysign(torch.tensor(1.0), x) + torch.add(x, torch.arange(4.0), alpha=3)), (floats(4),)),
}  # fmt: skip


def evaluated(model: nn.Module, inputs: list[Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        return flatten(model(*(tensor.clone() for tensor in inputs)))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_deployed(name: str, tmp_path: Path) -> None:
    make, samples = NETWORKS[name]
    torch.manual_seed(0)
    model = make().eval()
    example = tuple(sample(4) for sample in samples)
    bitlab.deploy(model, example if len(example) > 1 else example[0], tmp_path / "net.bit")
    session = bitlab.runtime.Session(tmp_path / "net.bit")
    for batch in (1, 3, 6):
        inputs = [sample(batch) for sample in samples]
        named, _ = named_inputs(model, tuple(inputs) if len(inputs) > 1 else inputs[0])
        found = session.run({key: value.numpy() for key, value in named.items()})
        expected = evaluated(model, inputs)
        assert len(found) == len(expected)
        for key, tensor in expected.items():
            assert found[key].dtype == tensor.numpy().dtype
            np.testing.assert_allclose(found[key], tensor.numpy(), rtol=1e-3, atol=1e-4 * max(1.0, float(tensor.abs().max())), err_msg=key)


SIZES: dict[str, Callable[[Tensor], Tensor]] = {
    "global pools": lambda x: F.adaptive_avg_pool2d(x, 1) * F.adaptive_max_pool2d(x, (None, 1)) + F.avg_pool2d(x, x.shape[2:]),
    "a pooled context": lambda x: x + F.interpolate(F.adaptive_avg_pool2d(x, 1), size=x.shape[2:], mode="bilinear"),
    "halves": lambda x: F.interpolate(F.max_pool2d(x, 2), scale_factor=2) + x,
    "patches": lambda x: x.unfold(2, 4, 4).mean(-1),
}


@pytest.mark.parametrize("name", SIZES)
def test_images_of_sizes_in_steps(name: str, tmp_path: Path) -> None:
    model = Net(SIZES[name]).eval()
    bitlab.deploy(model, torch.randn(2, 3, 8, 12), tmp_path / "net.bit", dynamic_axes={"input": {0: "batch", 2: "4*height", 3: "4*width"}})
    session = bitlab.runtime.Session(tmp_path / "net.bit")
    for batch, height, width in ((1, 4, 12), (3, 20, 8)):
        x = torch.randn(batch, 3, height, width)
        np.testing.assert_allclose(session(x.numpy()), model(x).numpy(), rtol=1e-4, atol=1e-5)


def test_an_example_tells_which_sizes_its_indices_need(tmp_path: Path) -> None:
    """Nodes and edges of a graph: indices of the example are beyond the small sizes that are tried first."""

    def gathered(x: Tensor, edges: Tensor) -> Tensor:
        return torch.zeros(len(edges), 4) + x[0, edges[:, 0]]

    axes = {"input_0": {1: "nodes"}, "input_1": {0: "edges"}}
    nodes, edges = torch.randn(1, 9, 4), torch.randint(0, 9, (12, 2))
    bitlab.deploy(Net(gathered).eval(), (nodes, edges), tmp_path / "net.bit", dynamic_axes=axes)
    nodes, edges = torch.randn(1, 20, 4), torch.randint(0, 20, (7, 2))
    found = bitlab.runtime.Session(tmp_path / "net.bit").run({"input_0": nodes.numpy(), "input_1": edges.numpy()})
    np.testing.assert_array_equal(next(iter(found.values())), gathered(nodes, edges).numpy())


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "memory": (Counter(), "a network without a memory of earlier runs"),
    "random numbers": (Net(lambda x: x + torch.randn_like(x)), "random ones of aten::randn_like"),
    "random numbers of one size": (Net(lambda x: x + torch.rand(1)), "random ones of aten::rand"),
    "control by the batch": (Net(lambda x: x * 2 if len(x) > 1 else x * 3), "one function for batches of every size"),
    "control by values": (Net(lambda x: x * 2 if x.sum() > 0 else x * 3), "values within samples"),
    "a sum of what a mask selects": (Net(lambda x: x + x[x > 0].sum()), "treats the rows that a mask selects one by one"),
    "another mask": (Net(lambda x: x.clone().index_put_((x > 0,), x[x > 0.01] * 2) if x.numel() < 0 else x[x > 0] * 2), "changed in place|masks? selects?"),
    "float64": (Net(lambda x: (x * torch.ones(4, dtype=torch.float64)).float()), "got Double"),
    "nothing": (Net(lambda x: None), "one tensor or more"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_program_can_say_is_refused(name: str, tmp_path: Path) -> None:
    model, message = REFUSED[name]
    with pytest.raises(bitlab.Error, match=message):
        bitlab.deploy(copy.deepcopy(model).eval(), torch.randn(3, 4), tmp_path / "net.bit")


def test_a_note_tells_the_sizes_at_which_a_network_fails(tmp_path: Path) -> None:
    def halves(x: Tensor) -> Tensor:
        return x.view(len(x), 2, math.floor(x.shape[1] / 2))

    with pytest.raises(RuntimeError) as failure:
        bitlab.deploy(Net(halves).eval(), torch.randn(3, 4), tmp_path / "net.bit", dynamic_axes={"input": {1: "width"}})
    assert any("input [3, " in note for note in getattr(failure.value, "__notes__", ["input [3, "]))
