"""Networks as papers and users write them, each with what others lack: deployed, and run on other values and other batches than those captured."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
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


class TiedConvolutions(nn.Module):
    """An autoencoder whose decoder has its encoder's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(self.conv(x).relu(), self.conv.weight, padding=1)


def of_integers(i: Tensor) -> tuple[Tensor, ...]:
    return i.abs(), torch.sign(i), 1 / (i * 2 + 1), ((i > 1) + (i > -2)).long(), F.pad(i, (1, 2), value=7)


def turned_in_place(x: Tensor) -> Tensor:
    y = x.clone()
    y.unsqueeze_(1).add_(1)
    y.squeeze_(1).unsqueeze_(-1)
    return y * 2


def losses(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return tuple(loss(x, y, reduction="none").mean(-1) for loss in (F.mse_loss, F.smooth_l1_loss, F.huber_loss, F.l1_loss))


class Outputs(nn.Module):
    def forward(self, x: Tensor) -> dict[str, object]:
        spread = torch.distributions.Normal(x, x.exp())
        return {"log": spread.log_prob(x + 1), "three": torch.tensor(3.0), "quantiles": torch.quantile(x, torch.tensor([0.1, 0.9]), dim=-1)}


def bag(**options: object) -> Callable[[], nn.Module]:
    return lambda: nn.EmbeddingBag(10, 4, **options)  # type: ignore[arg-type]


def neighbours_of_all_samples(x: Tensor) -> Tensor:
    """As DGCNN takes them: rows of all samples, one behind the other."""
    batch, features, points = x.shape
    squared = (x**2).sum(1, keepdim=True)
    near = (2 * x.transpose(2, 1) @ x - squared - squared.transpose(2, 1)).topk(3, -1)[1]
    rows = (near + torch.arange(0, batch).view(-1, 1, 1) * points).view(-1)
    x = x.transpose(2, 1).contiguous()
    found = x.view(batch * points, -1)[rows, :].view(batch, points, 3, features)
    centers = torch.index_select(x.view(batch * points, -1), 0, rows).view(batch, points, 3, features).mean(2, keepdim=True)
    return torch.cat((found - x.unsqueeze(2), centers.expand_as(found)), 3).permute(0, 3, 1, 2)


def in_volumes(x: Tensor, grid: Tensor) -> tuple[Tensor, ...]:
    return tuple(
        F.grid_sample(x, grid, mode, padding, align)
        for mode, padding, align in (("bilinear", "zeros", False), ("nearest", "border", True), ("bilinear", "reflection", False), ("bilinear", "reflection", True))
    )


class LocationAttention(nn.Module):
    """As Tacotron attends: its first steps are made of nothing but zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.query, self.location, self.score = nn.GRUCell(5, 6), nn.Linear(6, 8), nn.Conv1d(2, 8, 5, padding=2), nn.Linear(8, 1)

    def forward(self, memory: Tensor) -> Tensor:
        batch, length, _ = memory.shape
        weights, total, state, context = torch.zeros(batch, length), torch.zeros(batch, length), torch.zeros(batch, 6), torch.zeros(batch, 5)
        for _ in range(2):
            state = self.cell(context, state)
            near = self.location(torch.stack((weights, total), 1)).transpose(1, 2)
            weights = self.score(torch.tanh(self.query(state).unsqueeze(1) + near + memory.mean(-1, keepdim=True))).squeeze(-1).softmax(-1)
            total = total + weights
            context = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)
        return context


def masked_with_infinity(x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """Rows of padding alone are NaN, as in PyTorch, which networks then replace."""
    scores = (x @ x.mT).masked_fill(~mask[:, None, :], float("-inf"))
    causal = torch.full((5, 5), float("-inf")).triu(1)
    return (
        scores.softmax(-1) @ x, scores.softmax(-1).nan_to_num() @ x, (x @ x.mT + causal).softmax(-1), scores.amax(-1).clamp(min=-9),
        F.scaled_dot_product_attention(x, x, x, mask[:, None, :].float().log()), scores.logsumexp(-1).exp(),
    )  # fmt: skip


def diagonals(x: Tensor) -> tuple[Tensor, ...]:
    """Written in place, as losses and attention without oneself write them."""
    near, cut, wide = x @ x.mT, x @ x.mT, x.clone()
    near.diagonal(dim1=-2, dim2=-1).add_(1)
    torch.diagonal(cut, -1, 1, 2).fill_(-1e9)
    wide.diagonal(1, -1, -2).mul_(x[:, :1, 0])
    return near, cut.softmax(-1), wide


class OneHot(nn.Module):
    """A codebook, by one-hot codes as the first VQ-VAEs had it."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Embedding(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, 3)
        chosen = torch.cdist(rows, self.codes.weight).argmin(1).unsqueeze(1)
        return (torch.zeros(chosen.shape[0], 7).scatter_(1, chosen, 1) @ self.codes.weight).view(x.shape)


class Beam(nn.Module):
    """Three steps of the three best sequences, of which there is none at first."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.cell, self.head = nn.Embedding(6, 4), nn.GRUCell(4, 5), nn.Linear(5, 6)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        batch = len(state)
        state, scores = state.repeat_interleave(3, 0), torch.tensor([0.0, -1e9, -1e9]).repeat(batch, 1)
        last, found = torch.zeros(batch * 3, dtype=torch.long), torch.zeros(batch, 3, 0, dtype=torch.long)
        for _ in range(3):
            state = self.cell(self.table(last), state)
            scores, best = (scores.unsqueeze(-1) + self.head(state).log_softmax(-1).view(batch, 3, 6)).view(batch, -1).topk(3, -1)
            beam, token = (best // 6).unsqueeze(-1), best % 6
            found = torch.cat([found.gather(1, beam.expand(-1, -1, found.size(2))), token.unsqueeze(-1)], 2)
            state = state.view(batch, 3, -1).gather(1, beam.expand(-1, -1, 5)).view(batch * 3, -1)
            last = token.view(-1)
        return found, scores


def quantized_in_training(x: Tensor) -> tuple[Tensor, ...]:
    """As modules of torch.ao see their values in eval."""
    scales, zeros = torch.tensor([0.1, 0.03, 0.5]), torch.tensor([0, 3, -2], dtype=torch.int32)
    return (
        torch.fake_quantize_per_tensor_affine(x, 0.03, 128, 0, 255), torch.fake_quantize_per_tensor_affine(x, scales[:1], zeros[1:2], -128, 127),
        torch.fake_quantize_per_channel_affine(x, scales, zeros, 1, -4, 3),
    )  # fmt: skip


def best_of_each(x: Tensor) -> Tensor:
    """Of all samples in one list, as detectors take their queries; some are counted from the end."""
    places = x.sum(-1).topk(3, 1).indices - 6
    samples = torch.arange(len(x)).unsqueeze(-1).repeat(1, 3).view(-1)
    return x[samples, places.view(-1)].view(len(x), 3, -1)


def without_a_number(x: Tensor) -> tuple[Tensor, ...]:
    """NaN marks what is missing, in every way in which it is said."""
    holes = F.pad(x, (1, 2), value=torch.nan)
    holes = holes.index_fill(1, torch.tensor([2]), torch.nan).masked_fill(holes > 1, torch.nan)
    return (
        holes, holes.nanmedian(-1).values, holes.nanmedian(1, keepdim=True).indices[:, :, 1:-2].float(), holes.median(1).values,
        torch.full_like(x, torch.nan).nan_to_num(3.0) + x, F.threshold(x, 0.1, torch.nan), x.scatter(1, x.argmax(1, keepdim=True), torch.nan),
    )  # fmt: skip


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
    "neighbours of all samples": (lambda: Net(neighbours_of_all_samples), (floats(3, 9),)),
    "grids in volumes": (lambda: Net(in_volumes), (floats(2, 3, 4, 5), lambda batch: torch.rand(batch, 2, 1, 5, 3) * 3 - 1.5)),
    "gamma functions": (lambda: Net(lambda x: (torch.lgamma(x * 4), torch.digamma(x.abs() * 9 + 0.01))), (floats(11),)),
    "Bessel functions": (lambda: Net(lambda x: (torch.i0(x * 3), torch.special.i0e(x * 9))), (floats(11),)),
    "location attention": (LocationAttention, (floats(7, 5),)),
    "tied convolutions": (TiedConvolutions, (floats(4, 5, 6),)),
    "integers": (lambda: Net(of_integers), (ids(5, 6, low=-4),)),
    "turned in place": (lambda: Net(turned_in_place), (floats(4),)),
    "losses": (lambda: Net(losses), (floats(5), floats(5))),
    "filled by a constant": (lambda: Net(lambda x: (x * 100).masked_fill(torch.ones(4, 4).triu(1).bool(), -1e4)), (floats(4, 4),)),
    "infinite masks": (lambda: Net(masked_with_infinity), (floats(5, 4), lambda batch: torch.arange(5)[None] < torch.randint(0, 6, (batch, 1)))),
    "diagonals": (lambda: Net(diagonals), (floats(4, 3),)),
    "most frequent values": (lambda: Net(lambda i: (*i.mode(-1), i.float().mode(0 if i.dim() == 1 else 1, keepdim=True)[0])), (ids(4, 5, 9),)),
    "one-hot codes": (OneHot, (floats(5, 3),)),
    "beam": (Beam, (floats(5),)),
    "quantized in training": (lambda: Net(quantized_in_training), (floats(3, 9),)),
    "the best of each sample": (lambda: Net(best_of_each), (floats(6, 3),)),
    "dropout of channels": (lambda: nn.Sequential(nn.Dropout2d(0.5, inplace=True), nn.AlphaDropout(0.5, inplace=True), nn.FeatureAlphaDropout(0.5)), (floats(3, 4, 4),)),
    "without a number": (lambda: Net(without_a_number), (floats(5, 6),)),
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


class Causal(nn.Module):
    """Padded in front, or cut behind, as temporal convolutional networks do either."""

    def __init__(self) -> None:
        super().__init__()
        self.padded = nn.ModuleList(nn.Conv1d(3, 3, 2, dilation=2**i) for i in range(3))
        self.cut = nn.ModuleList(nn.Conv1d(3, 3, 3, padding=2 * 2**i, dilation=2**i) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for i, (padded, cut) in enumerate(zip(self.padded, self.cut, strict=True)):
            x = x + torch.tanh(padded(F.pad(x, (2**i, 0)))) + cut(x)[:, :, : -2 * 2**i]
        return x


class WaveNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(3, 6, 2, dilation=2**i) for i in range(4))

    def forward(self, x: Tensor) -> Tensor:
        skips = x[:, :, 15:] * 0
        for layer in self.layers:
            y = F.glu(layer(x), 1)
            x = y + x[:, :, -y.size(2) :]
            skips = skips + y[:, :, -skips.size(2) :]
        return skips


class VisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.first, self.table = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 200, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.cat([self.first.expand(len(x), -1, -1), self.patches(x).flatten(2).transpose(1, 2)], 1)
        y = self.layer(y + self.table[:, : y.size(1)])
        return y[:, 0], y[:, 1:]


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)])
        self.up = nn.ModuleList([nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(7, 2, 3, padding=1)])

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.down[0](x))
        b = F.relu(self.down[2](F.relu(self.down[1](a))))
        y = F.relu(self.up[0](torch.cat([F.interpolate(b, size=a.shape[2:], mode="bilinear"), a], 1)))
        return self.up[1](torch.cat([F.interpolate(y, size=x.shape[2:]), x], 1))


class Separation(nn.Module):
    """An encoder of overlapping frames, masks for two speakers, and its transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.masks, self.decoder = nn.Conv1d(1, 8, 4, 2), nn.Conv1d(8, 16, 3, padding=1), nn.ConvTranspose1d(8, 1, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.encoder(x.unsqueeze(1)).relu()
        batch, channels, count = frames.shape
        parts = torch.sigmoid(self.masks(frames)).view(batch, 2, channels, count) * frames.unsqueeze(1)
        return self.decoder(parts.view(batch * 2, channels, count)).view(batch, 2, -1)


def grids(x: Tensor) -> tuple[Tensor, ...]:
    """Where a pixel is, as CoordConv, detectors and their positional encodings say it, and samples at such places."""
    batch, _, height, width = x.shape
    y, along = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    places = torch.stack(torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"), -1)
    counted = torch.ones(batch, height, width).cumsum(1)
    angles = (counted / (counted[:, -1:] + 1e-6) * 2 * math.pi)[..., None] / 10000 ** (torch.arange(4) / 4)
    turned = F.affine_grid(torch.tensor([[0.8, 0.2, 0.1], [-0.2, 0.9, 0.0]]).expand(batch, 2, 3), [batch, 3, height, width], align_corners=False)
    return (
        torch.cat([x, y.expand(batch, 1, -1, -1), along.expand(batch, 1, -1, -1)], 1),
        (x.flatten(2).transpose(1, 2)[..., :2] + places.view(-1, 2)) * torch.tensor([width, height]),
        x.mean(1, keepdim=True) + torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), 4).flatten(3).permute(0, 3, 1, 2),
        F.grid_sample(x, torch.stack((along, y), -1)[None] + x[:, :2].permute(0, 2, 3, 1) * 0.1, align_corners=True),
        F.grid_sample(x, turned, align_corners=False),
    )


def numbers_of_sizes(x: Tensor) -> tuple[Tensor, ...]:
    length = x.size(2)
    causal = torch.full((length, length), -1e9).triu(1)
    return (
        (x.transpose(1, 2) @ x * math.log(length) / math.sqrt(length) + causal).softmax(-1),
        x * torch.arange(length - 1, -1, -1) + torch.arange(1 - length, 1) * torch.arange(1, 2 * length, 2),
        x.sum(-1) / length - x.cumsum(-1)[..., -1] * (1 - 1 / length),
        x.argmax(-1).clamp(0, length - 3) + torch.eye(length).sum(-1, dtype=torch.int64).cumsum(0)[-1],
    )


def padded_to_multiples(x: Tensor) -> tuple[Tensor, ...]:
    """Windows of padded images, as Swin has them, and strides with the padding that TensorFlow calls "same"."""
    batch, channels, height, width = x.shape
    y = F.pad(x, (0, -width % 4, 0, (4 - height % 4) % 4))
    rows, columns = y.shape[2] // 4, y.shape[3] // 4
    windows = y.view(batch, channels, rows, 4, columns, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, channels).softmax(1)
    y = windows.view(batch, rows, columns, 4, 4, channels).permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, 4 * rows, 4 * columns)
    same = [max((-(-size // 2) - 1) * 2 + 3 - size, 0) for size in (width, height)]
    odd = x if width % 2 == 0 else F.pad(x, (0, 1))
    small = F.interpolate(F.max_pool2d(x, 2), scale_factor=2)
    return (
        y[:, :, :height, :width],
        F.max_pool2d(F.pad(x, (same[0] // 2, same[0] - same[0] // 2, same[1] // 2, same[1] - same[1] // 2)), 3, 2),
        F.avg_pool2d(odd, (1, 2)),
        F.pad(small, (0, width - small.size(3), 0, height - small.size(2))) + x,
        F.pad(x, (0, 8 - width % 8, 0, 0), "reflect"),
    )


def signals(*lead: int) -> Callable[[int, int, int], tuple[Tensor, ...]]:
    return lambda batch, first, second: (torch.randn(batch, *lead, first),)


def images(batch: int, height: int, width: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 3, height, width),)


def padded_around(x: Tensor) -> tuple[Tensor, ...]:
    """Half of the padding on either side, and cut off again."""
    height, width = x.shape[-2:]
    above, left = -height % 8, -width % 8
    y = F.pad(x, (left // 2, left - left // 2, above // 2, above - above // 2))
    return y, F.avg_pool2d(y, 3, 1, 1)[..., above // 2 : above // 2 + height, left // 2 : left // 2 + width]


def scaled(x: Tensor) -> tuple[Tensor, ...]:
    """By scales that leave a rest of odd sizes."""
    modes = ("nearest", "bilinear", "bicubic", "nearest-exact", "area")
    return *(F.interpolate(x, scale_factor=1.5, mode=mode) for mode in modes), F.interpolate(x, scale_factor=0.5, mode="bicubic"), F.interpolate(x, scale_factor=(0.75, 2), mode="bilinear")  # fmt: skip


def smoothed(x: Tensor) -> tuple[Tensor, ...]:
    """With antialiasing, by scales that are the sizes' own or not."""
    small = [F.interpolate(x, scale_factor=scale, mode=mode, antialias=True) for mode in ("bilinear", "bicubic") for scale in (0.5, 0.75, 1.5)]
    return *small, F.interpolate(x, scale_factor=2, mode="bicubic", antialias=True)


def shifted(x: Tensor) -> tuple[Tensor, ...]:
    """By one token, and sums so far of logarithms that are far apart."""
    x = x.transpose(1, 2)
    decay = F.pad(F.logsigmoid(x).cumsum(1), (0, 0, 1, 0))
    scanned = (F.pad(40 * x, (0, 0, 1, 0)) - decay).logcumsumexp(1) + decay
    return nn.ZeroPad2d((0, 0, 1, -1))(x), F.pad(x, (0, 0, -1, 1), value=2.0), scanned


def rolled(x: Tensor) -> tuple[Tensor, ...]:
    height, width = x.shape[2:]
    return x.roll((-(height // 2), width // 2), (2, 3)), torch.fft.fftshift(x, dim=(2, 3)), torch.fft.ifftshift(x, dim=-1), x.roll(width - 1, 3)


def windowed(x: Tensor) -> tuple[Tensor, ...]:
    """Windows of any length, and a signal that comes back from its spectrogram."""
    length, window = x.size(2), torch.hann_window(16)
    spectrum = torch.stft(x[:, 0], 16, 4, window=window, return_complex=True)
    return (
        x * torch.hann_window(length), x * torch.hamming_window(length, periodic=False), x * torch.blackman_window(length),
        torch.istft(spectrum * 0.5, 16, 4, window=window, length=length),
    )  # fmt: skip


def transformed(x: Tensor) -> tuple[Tensor, ...]:
    """FNet's mixing of tokens, and a long convolution, whose filter is a function of the place."""
    length = x.size(2)
    decay = torch.exp(-torch.linspace(0, 3, length))
    filtered = torch.fft.irfft(torch.fft.rfft(x, n=2 * length) * torch.fft.rfft(decay, n=2 * length), n=2 * length)[..., :length]
    return torch.fft.fft(torch.fft.fft(x, dim=1), dim=2, norm="ortho").real, filtered, torch.fft.ifft(torch.fft.fft(x)).real


class OpenImages(nn.Module):
    """Weights of each sample's own, pools whose places are read, and diagonals."""

    def __init__(self) -> None:
        super().__init__()
        self.style, self.weight = nn.Linear(3, 4 * 3 * 9), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        batch, channels, height, width = x.shape
        weight = self.style(x.mean((2, 3))).view(batch * 4, channels, 3, 3)
        own = F.conv2d(x.reshape(1, batch * channels, height, width), weight, padding=1, groups=batch).view(batch, 4, height, width)
        small, places = F.max_pool2d(self.weight(x), 2, return_indices=True)
        around = F.max_pool2d(x, 3, 2, 1, return_indices=True)[1]
        near = x.mean(1) @ x.mean(1).mT
        near.diagonal(dim1=1, dim2=2).add_(1)
        return own, F.max_unpool2d(small, places, 2, output_size=x.shape[2:]), around, near, near.diagonal(1, 1, 2)


class InterpolatedTable(nn.Module):
    """Positions of one size for images of any, as DINOv2 has them, and a table of parameters whose first ones are read."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.near = nn.Parameter(torch.randn(1, 3, 5, 5)), nn.Parameter(torch.randn(48, 48))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = x.size(2)
        without = x.mean(3) @ self.near[:rows, :rows].exp() - torch.diag(torch.tensor(9.0).repeat(rows))[None, :3]
        scales = [(size + 0.1) / 5 for size in x.shape[2:]]
        tables = [
            F.interpolate(self.table, size=x.shape[2:], mode="bicubic", align_corners=False),
            *(F.interpolate(self.table, size=x.shape[2:], mode=mode, antialias=True) for mode in ("bilinear", "bicubic")),
            *(F.interpolate(self.table, scale_factor=scales, mode=mode, antialias=smooth) for mode in ("bilinear", "bicubic") for smooth in (False, True)),
        ]
        return torch.stack([x + table for table in tables], 1), without


def shifted_windows(x: Tensor) -> Tensor:
    """Swin's mask: regions that are counted in an image of zeros."""
    batch, channels, height, width = x.shape
    image, count = torch.zeros(1, height, width, 1), 0
    for rows in (slice(0, -4), slice(-4, -2), slice(-2, None)):
        for columns in (slice(0, -4), slice(-4, -2), slice(-2, None)):
            image[:, rows, columns, :] = count
            count += 1
    regions = image.view(1, height // 4, 4, width // 4, 4, 1).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16)
    mask = regions.unsqueeze(1) - regions.unsqueeze(2)
    mask = mask.masked_fill(mask != 0, -100.0).masked_fill(mask == 0, 0.0)
    y = x.roll((-2, -2), (2, 3)).view(batch, channels, height // 4, 4, width // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, 16, channels)
    return (y @ y.mT + mask).softmax(-1) @ y


def written_and_joined(x: Tensor) -> tuple[Tensor, ...]:
    """Parts are written in place, and what has them is joined with others right behind, as detectors decode keypoints."""
    y, z = x.clone(), x * 2
    y[:, ::2] = y[:, ::2].sigmoid()
    z[..., -z.size(2)] = 0.0
    return torch.cat([x, y], 1), torch.stack([y, z]).transpose(0, 1)


def decayed(x: Tensor) -> Tensor:
    """As extrapolating positions are scaled: powers of constants, of places that the number of all of them moves."""
    places = torch.arange(x.size(2))
    powers = (places - (places.max() + 1) // 2) / 64
    return x * torch.tensor([0.9, 0.5, 0.7])[:, None] ** powers + torch.tensor([2.0, 3.0, 1.5])[:, None] ** x


LENGTH, IMAGE = {0: "batch", -1: "length"}, {0: "batch", 2: "height", 3: "width"}
# A network, its inputs from a batch and two sizes, and which of their sizes have names.
OPEN: dict[str, tuple[Callable[[], nn.Module], Callable[[int, int, int], tuple[Tensor, ...]], dict[int, str]]] = {
    "causal convolutions": (Causal, signals(3), LENGTH),
    "wavenet": (WaveNet, signals(3), LENGTH),
    "vision transformer": (VisionTransformer, images, {0: "batch", 2: "4*rows", 3: "4*columns"}),
    "u-net": (UNet, images, IMAGE),
    "separation": (Separation, signals(), LENGTH),
    "differences": (lambda: Net(lambda x: (torch.diff(x), x[:, :, 1:] * x[:, :, :-1], x[:, :, ::3].sum(-1), x[:, :, -5:], x[:, :, 2:7])), signals(2), LENGTH),
    "shifted targets": (lambda: Net(lambda x: torch.cat([torch.zeros(len(x), 1), x[:, :-1]], 1)), signals(), LENGTH),
    "frames": (lambda: Net(lambda x: x.unfold(-1, 8, 3) * torch.hann_window(8)), signals(2), LENGTH),
    "spectrogram": (lambda: Net(lambda x: torch.stft(x, 16, 4, window=torch.hann_window(16), return_complex=True).abs()), signals(), LENGTH),
    "padded in every way": (lambda: Net(lambda x: tuple(F.pad(x, (3, 2), mode) for mode in ("constant", "reflect", "replicate", "circular"))), signals(2), LENGTH),
    "shifts": (lambda: Net(lambda x: x.roll(2, 2) - x.roll(-3, 2)), signals(2), LENGTH),
    "norms of what is left": (lambda: nn.Sequential(nn.Conv1d(2, 6, 3), nn.GroupNorm(2, 6), nn.Conv1d(6, 6, 4, 2), nn.InstanceNorm1d(6)), signals(2), LENGTH),
    "windows of images": (lambda: Net(lambda x: F.unfold(x, (3, 2), padding=1, stride=(2, 3))), images, IMAGE),
    "pools with ceilings": (lambda: Net(lambda x: F.avg_pool2d(F.max_pool2d(x, 3, 2, 1, ceil_mode=False), 2, 2, ceil_mode=True)), images, IMAGE),
    "patches of any image": (lambda: Net(lambda x: F.avg_pool2d(x, 5, 4).flatten(2).transpose(1, 2).softmax(1)), images, IMAGE),
    "a decoder": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReflectionPad2d(2), nn.ConvTranspose2d(4, 2, 3, 2, 1, 1)), images, IMAGE),
    "halves": (lambda: Net(lambda x: (x[:, :, : x.size(2) // 2].mean(-1), x[:, :, x.size(2) // 2 :])), signals(2), LENGTH),
    "steps that count": (
        lambda: Net(lambda x: x * torch.arange(1.0, x.size(2) + 1) + (torch.arange(x.size(2)) < x.sum((1, 2))[:, None, None])), signals(2), LENGTH
    ),
    "grids": (lambda: Net(grids), images, IMAGE),
    "numbers of sizes": (lambda: Net(numbers_of_sizes), signals(3), LENGTH),
    "pools of any size": (
        lambda: Net(lambda x: (F.adaptive_avg_pool2d(x, (7, None)), torch.cat([F.adaptive_max_pool2d(x, k).flatten(1) for k in (1, 2, 4)], 1))), images, IMAGE
    ),
    "halves of images": (
        lambda: Net(lambda x: tuple(F.interpolate(x, scale_factor=0.5, mode=mode) for mode in ("nearest", "bilinear", "nearest-exact", "area"))), images, IMAGE
    ),
    "padded to multiples": (lambda: Net(padded_to_multiples), images, IMAGE),
    "parts that are few": (
        lambda: Net(lambda x: (x[:, :, : x.size(2) // 16 + 2], F.adaptive_avg_pool1d(x, x.size(2) // 16 + 1), x * (x.size(2) // 16 + 1))), signals(2), LENGTH
    ),
    "padded around": (lambda: Net(padded_around), images, IMAGE),
    "scales": (lambda: Net(scaled), images, IMAGE),
    "antialiased scales": (lambda: Net(smoothed), images, IMAGE),
    "shifted tokens": (lambda: Net(shifted), signals(3), LENGTH),
    "shifts by halves": (lambda: Net(rolled), images, IMAGE),
    "windows": (lambda: Net(windowed), signals(2), LENGTH),
    "transforms": (lambda: Net(transformed), signals(3), LENGTH),
    "weights, places and diagonals": (OpenImages, images, IMAGE),
    "interpolated tables": (InterpolatedTable, images, {0: "batch", 2: "4*rows", 3: "4*columns"}),
    "shifted windows": (lambda: Net(shifted_windows), images, {0: "batch", 2: "4*rows", 3: "4*columns"}),
    "written and joined": (lambda: Net(written_and_joined), signals(3), LENGTH),
    "decayed": (lambda: Net(decayed), signals(3), LENGTH),
    "the middle": (lambda: Net(lambda x: (x[:, :, x.size(2) // 2], x.median(-1).values, x.masked_fill(x > 0, torch.nan).nanmedian(-1).values)), signals(2), LENGTH),
    "the largest": (lambda: Net(lambda x: (x.topk(4)[0], torch.diag_embed(x)[..., 1:, :])), signals(2), LENGTH),
}  # fmt: skip


@pytest.mark.parametrize("name", OPEN)
def test_sizes_follow_from_others(name: str, tmp_path: Path) -> None:
    make, inputs, names = OPEN[name]
    torch.manual_seed(0)
    model = make().eval()
    example = inputs(2, 28, 36)
    axes = {axis % example[0].dim(): text for axis, text in names.items()}
    bitlab.deploy(model, example[0], tmp_path / "net.bit", dynamic_axes={"input": axes}, ranges={"rows": (1, 12), "columns": (1, 12)})
    session = bitlab.runtime.Session(tmp_path / "net.bit")
    for sizes in ((1, 32, 24), (3, 44, 32)) if "rows" in str(names) else ((1, 31, 24), (3, 42, 33), (2, 53, 19)):
        given = inputs(*sizes)
        found = session.run({"input": given[0].numpy()})
        for key, tensor in evaluated(model, list(given)).items():
            np.testing.assert_allclose(found[key], tensor.numpy(), rtol=1e-3, atol=1e-4 * max(1.0, float(tensor.abs().max())), err_msg=f"{key} {sizes}")


@pytest.mark.parametrize("name", ["causal convolutions", "vision transformer", "u-net", "separation", "frames", "windows of images", "differences", "grids",
                                  "pools of any size", "shifts by halves", "transforms", "windows", "the largest"])
def test_sizes_in_other_formats(name: str, tmp_path: Path) -> None:
    """ONNX Runtime and TorchScript compute them, and ONNX is read back."""
    runtime = pytest.importorskip("onnxruntime")
    make, inputs, names = OPEN[name]
    torch.manual_seed(0)
    model = make().eval()
    example = inputs(2, 28, 36)
    axes = {"input": {axis % example[0].dim(): text for axis, text in names.items()}}
    for ending in ("onnx", "pt"):
        bitlab.deploy(model, example[0], tmp_path / f"net.{ending}", dynamic_axes=axes, ranges={"rows": (1, 12), "columns": (1, 12)})
    onnx, script = runtime.InferenceSession(str(tmp_path / "net.onnx")), torch.jit.load(tmp_path / "net.pt")
    x = inputs(3, 44, 32)[0] if "rows" in str(names) else inputs(3, 41, 30)[0]
    wanted = list(evaluated(model, [x]).values())
    of_script = script(x)
    found = [
        onnx.run(None, {"input": x.numpy()}),
        [tensor.detach().numpy() for tensor in ([of_script] if isinstance(of_script, Tensor) else of_script)],
    ]
    # A table needs their largest sizes, which ONNX does not say; parts that begin at a size are not read.
    if "rows" not in str(names) and name != "pools of any size":
        bitlab.formats.convert(tmp_path / "net.onnx", tmp_path / "again.bit")
        found.append(list(bitlab.runtime.Session(tmp_path / "again.bit").run({"input": x.numpy()}).values()))
    for outputs in found:
        assert len(outputs) == len(wanted)
        for array, tensor in zip(outputs, wanted, strict=True):
            np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-3, atol=1e-4 * max(1.0, float(tensor.abs().max())))


def test_one_token_is_shifted(tmp_path: Path) -> None:
    """As in generation, where nothing of it is left between what is cut off and what is added."""
    bitlab.deploy(Net(shifted).eval(), torch.randn(2, 3, 9), tmp_path / "net.bit", dynamic_axes={"input": {0: "batch", 2: "length"}})
    x = torch.randn(2, 3, 1)
    found = bitlab.runtime.Session(tmp_path / "net.bit").run({"input": x.numpy()})
    for array, tensor in zip(found.values(), shifted(x), strict=True):
        np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-5, atol=1e-5)


def test_what_is_too_short_is_refused(tmp_path: Path) -> None:
    bitlab.deploy(nn.Conv1d(2, 3, 5).eval(), torch.randn(2, 2, 9), tmp_path / "net.bit", dynamic_axes={"input": {0: "batch", 2: "length"}})
    session = bitlab.runtime.Session(tmp_path / "net.bit")
    assert session.model.symbols["length"][0] == 5 and session.model.outputs[0].shape == ["batch", 3, "length-4"]
    assert session(np.zeros((1, 2, 5), np.float32)).shape == (1, 3, 1)
    with pytest.raises(bitlab.InvalidArgument, match="length from 5 to .*, got 4"):
        session(np.zeros((1, 2, 4), np.float32))


def whole(dtype: torch.dtype, *shape: int) -> Sample:
    limits = torch.iinfo(dtype)
    return lambda batch: torch.randint(limits.min, limits.max + 1, (batch, *shape), dtype=dtype)


TYPES: dict[str, tuple[Callable[[], nn.Module], Sample]] = {
    "pictures": (lambda: (lambda conv: Net(lambda x: conv(x.permute(0, 3, 1, 2).float() / 255)))(nn.Conv2d(3, 4, 3)), whole(torch.uint8, 6, 5, 3)),
    "pictures as they are": (lambda: Net(lambda x: (x / 255.0 - 0.5) / 0.25), whole(torch.uint8, 3, 4)),
    "sums that wrap": (lambda: Net(lambda x: ((x + 200) * 3 - x // 2, x > 128, x.sum(-1), x.max(-1)[0].float())), whole(torch.uint8, 7)),
    "to bytes": (lambda: Net(lambda x: (x.float() * 0.7).to(torch.uint8).flip(-1)), whole(torch.uint8, 7)),
    "audio": (lambda: Net(lambda x: (x.float() / 32768, x + x, -x)), whole(torch.int16, 9)),
    "codes": (lambda: Net(lambda x: (x.float() * 0.05, x * 3, x >> 1)), whole(torch.int8, 9)),
    "bytes as ids": (lambda: (lambda table: Net(lambda x: table(x.long())))(nn.Embedding(256, 3)), whole(torch.uint8, 5)),
    "small ids": (lambda: nn.Embedding(9, 3), lambda batch: torch.randint(0, 9, (batch, 5), dtype=torch.int32)),
    "doubles": (lambda: (lambda fc: Net(lambda x: fc(x[:, 1:].float())))(nn.Linear(3, 2)), lambda batch: torch.randn(batch, 4, dtype=torch.float64)),
    "halves": (lambda: (lambda fc: Net(lambda x: fc(x.float())))(nn.Linear(4, 2)), lambda batch: torch.randn(batch, 4).half()),
}  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
def test_inputs_of_every_type(name: str, tmp_path: Path) -> None:
    """Results of integers of fewer bits are int32, of the same values."""
    make, sample = TYPES[name]
    torch.manual_seed(0)
    model = make().eval()
    bitlab.deploy(model, sample(4), tmp_path / "net.bit", dynamic_axes={"input": {0: "batch"}})
    session = bitlab.runtime.Session(tmp_path / "net.bit")
    for batch in (1, 3):
        x = sample(batch)
        found = session.run({"input": x.numpy()})
        for key, tensor in evaluated(model, [x]).items():
            np.testing.assert_allclose(found[key], tensor.numpy(), rtol=1e-5, atol=1e-6, err_msg=key)
            assert found[key].dtype == (np.int32 if tensor.dtype in (torch.uint8, torch.int8, torch.int16) else tensor.numpy().dtype)


def test_arrays_of_other_types_are_converted(tmp_path: Path) -> None:
    bitlab.deploy(Net(lambda x, i: x[:, 0] * 2 + i).eval(), (torch.randn(2, 3), torch.tensor([1, 2], dtype=torch.int32)), tmp_path / "net.bit")
    session = bitlab.runtime.Session(tmp_path / "net.bit")
    x = np.array([[0.1, 2, 3]])
    for ids in (np.array([4]), np.array([4], np.uint8), np.array([4], np.int16)):
        np.testing.assert_array_equal(session(x, ids), x[:, 0].astype(np.float32) * 2 + np.float32(4))
        np.testing.assert_array_equal(session.run({"input_0": x.astype(np.float16), "input_1": ids})["output"], x[:, 0].astype(np.float16).astype(np.float32) * 2 + 4)
    with pytest.raises(bitlab.TypeMismatch, match="values that int32 has, got others of int64"):
        session(x, np.array([2**40]))
    with pytest.raises(bitlab.TypeMismatch, match="float32 values, got int64 ones"):
        session(x.astype(np.int64), np.array([4]))
    with pytest.raises(bitlab.TypeMismatch, match="int32 values, got float32 ones"):
        session(x, np.array([4], np.float32))


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


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(9, 4, mode=mode, padding_idx=padding) for mode in ("sum", "mean", "max") for padding in (None, 2))

    def forward(self, ids: Tensor, begins: Tensor) -> Tensor:
        return torch.stack([bag(ids, begins) for bag in self.bags])


def test_bags_begin_where_offsets_say(tmp_path: Path) -> None:
    """Of the example all are as large as the others."""
    model = Bags().eval()
    axes = {"ids": {0: "ids"}, "begins": {0: "bags"}}
    example = torch.randint(0, 9, (12,)), torch.tensor([0, 3, 6, 9])
    bitlab.deploy(model, example, tmp_path / "net.bit", dynamic_axes=axes)
    session = bitlab.runtime.Session(tmp_path / "net.bit")
    for begins, count in (([0, 3, 6, 9], 12), ([0, 0, 5], 9), ([0, 1, 1, 1, 7], 7)):
        given = torch.randint(0, 9, (count,)), torch.tensor(begins)
        found = session.run({"ids": given[0].numpy(), "begins": given[1].numpy()})["output"]
        np.testing.assert_allclose(found, evaluated(model, list(given))["output"].numpy(), rtol=1e-5, atol=1e-6)


# What is one number at small sizes, and another at larger ones.
BEYOND: dict[str, Callable[[Tensor], Tensor]] = {
    "the first of them": lambda x: x[:, :, :100].sum(-1),
    "the last of them": lambda x: x[:, :, -40:].mean(-1),
    "a number that grows": lambda x: x * max(1, x.size(2) // 40),
    "a grid that grows": lambda x: F.adaptive_avg_pool1d(x, max(1, x.size(2) // 40)),
    "a constant that changes": lambda x: x.mean(-1) + torch.full((2,), float(max(1, x.size(2) // 40))),
    "control by size": lambda x: x.mean(-1) if x.size(2) < 40 else x.amax(-1),
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_changes_at_larger_sizes_is_refused(name: str, tmp_path: Path) -> None:
    model, x = Net(BEYOND[name]).eval(), torch.randn(2, 2, 20)
    axes = {"input": {0: "batch", 2: "length"}}
    with pytest.raises(bitlab.Unsupported, match=r"(ranges|runs of different sizes|follow from sizes).*line=.*test_networks.py:\d+\)"):
        bitlab.deploy(model, x, tmp_path / "net.bit", dynamic_axes=axes)
    bitlab.deploy(model, x, tmp_path / "net.bit", dynamic_axes=axes, ranges={"length": (1, 39)})
    session = bitlab.runtime.Session(tmp_path / "net.bit")
    x = torch.randn(3, 2, 39)
    np.testing.assert_allclose(session(x.numpy()), model(x).numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(bitlab.InvalidArgument, match="length from .* to 39, got 41"):
        session(np.zeros((1, 2, 41), np.float32))


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


@dataclass
class Batch:
    values: Tensor
    masks: list[Tensor]
    scale: float = 2.0


class Structured(nn.Module):
    def forward(self, batch: Batch, pair: tuple[Tensor, Tensor], table: dict[str, Tensor], flag: bool = True, unused: Tensor | None = None) -> Tensor:
        y = batch.values * batch.scale + sum(pair) * table["gain"]
        return y.masked_fill(batch.masks[0] | batch.masks[1], 0) if flag and unused is None else y


def test_arguments_have_structure(tmp_path: Path) -> None:
    def example(batch: int) -> tuple[object, ...]:
        masks = [torch.rand(batch, 4) < 0.3 for _ in range(2)]
        return Batch(torch.randn(batch, 4), masks), (torch.randn(batch, 4), torch.randn(batch, 4)), {"gain": torch.randn(batch, 1)}, True, None

    model = Structured().eval()
    bitlab.deploy(model, example(3), tmp_path / "net.bit")
    session = bitlab.runtime.Session(tmp_path / "net.bit")
    given = example(2)
    named, _ = named_inputs(model, given)
    assert list(named) == ["batch.values", "batch.masks.0", "batch.masks.1", "pair.0", "pair.1", "table.gain"]
    found = session.run({key: value.numpy() for key, value in named.items()})
    np.testing.assert_allclose(found["output"], model(*given).numpy(), rtol=1e-6)
    bitlab.deploy(model, {"batch": given[0], "pair": given[1], "table": given[2], "flag": False}, tmp_path / "other.bit")
    found = bitlab.runtime.Session(tmp_path / "other.bit").run({key: value.numpy() for key, value in named.items()})
    np.testing.assert_allclose(found["output"], model(*given[:3], flag=False).numpy(), rtol=1e-6)
    with pytest.raises(bitlab.TypeMismatch, match=r"got object \(input=pair.1\)"):
        bitlab.deploy(model, (given[0], (given[1][0], object()), given[2]), tmp_path / "net.bit")


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "memory": (Counter(), "a network without a memory of earlier runs"),
    "random numbers": (Net(lambda x: x + torch.randn_like(x)), "random ones of aten::randn_like"),
    "random numbers of one size": (Net(lambda x: x + torch.rand(1)), "random ones of aten::rand"),
    "control by the batch": (Net(lambda x: x * 2 if len(x) > 1 else x * 3), "one function for batches of every size"),
    "control by values": (Net(lambda x: x * 2 if x.sum() > 0 else x * 3), "values within samples"),
    "a sum of what a mask selects": (Net(lambda x: x + x[x > 0].sum()), "treats the rows that a mask selects one by one"),
    "another mask": (Net(lambda x: x.clone().index_put_((x > 0,), x[x > 0.01] * 2) if x.numel() < 0 else x[x > 0] * 2), "changed in place|masks? selects?"),
    "float64": (Net(lambda x: (x * torch.ones(4, dtype=torch.float64)).float()), "got Double"),
    "a comparison in float64": (Net(lambda x: x.double() > 16777216), r"\.float\(\).*got Double"),
    "a place in float64": (Net(lambda x: (x.double() + 1).argmax(-1)), r"\.float\(\).*got Double"),
    "rows that values choose": (Net(lambda x: x[(x[:, 0] > 0).nonzero()[:, 0]].sum(1)), r"no values decide.*nonzero.*line=.*test_networks.py:\d+\)"),
    "loops over the batch": (Net(lambda x: torch.stack([row.relu() for row in x])), "same operators for every size .*batch 2 .*batch 3"),
    "nothing": (Net(lambda x: None), "one tensor or more"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_program_can_say_is_refused(name: str, tmp_path: Path) -> None:
    model, message = REFUSED[name]
    with pytest.raises(bitlab.Error, match=message):
        bitlab.deploy(copy.deepcopy(model).eval(), torch.randn(3, 4), tmp_path / "net.bit")


@pytest.mark.parametrize("function", [lambda x: x > 1, lambda x: x.argmax(-1), lambda x: x.long(), lambda x: x.float() + (x == 0.1)])
def test_doubles_are_rounded_and_no_more(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    with pytest.raises(bitlab.Unsupported, match=r"\.float\(\).*got Double.*line="):
        bitlab.deploy(Net(function).eval(), torch.randn(3, 4, dtype=torch.float64), tmp_path / "net.bit")


def test_the_diagonal_of_a_matrix_is_filled(tmp_path: Path) -> None:
    for shape in ((4, 4), (3, 5), (5, 3)):
        model = Net(lambda x: ((x * 2).fill_diagonal_(-1.5), x.diagonal(1), torch.diagonal(x, -1))).eval()
        bitlab.deploy(model, torch.randn(*shape), tmp_path / "net.bit", dynamic_axes={})
        x = torch.randn(*shape)
        found = bitlab.runtime.Session(tmp_path / "net.bit").run({"input": x.numpy()})
        for key, tensor in evaluated(model, [x]).items():
            np.testing.assert_array_equal(found[key], tensor.numpy())


def test_bfloat16_comes_in_and_out_as_floats(tmp_path: Path) -> None:
    model = nn.Linear(4, 3).bfloat16().eval()
    bitlab.deploy(model, torch.randn(2, 4).bfloat16(), tmp_path / "net.bit")
    session = bitlab.runtime.Session(tmp_path / "net.bit")
    x = torch.randn(5, 4)
    wanted = model(x.bfloat16()).detach().float().numpy()
    for array in (x.numpy(), x.bfloat16().float().numpy().astype(np.float64)):
        for copies in (True, False):
            found = session.run({"input": array}, copy=copies)["output"]
            assert found.dtype == np.float32 and found.shape == (5, 3)
            np.testing.assert_allclose(found, wanted, rtol=2**-7, atol=1e-6)
            assert not (found.view(np.uint32) & 0xFFFF).any()


def test_numbers_that_values_decide_are_refused(tmp_path: Path) -> None:
    with pytest.raises(bitlab.Unsupported, match=r"values that stay in tensors.*line=.*test_networks.py:\d+\)"):
        bitlab.deploy(Net(lambda x: x * x[0, 0].item()).eval(), torch.randn(3, 4), tmp_path / "net.bit", dynamic_axes={})


def test_a_note_tells_the_sizes_at_which_a_network_fails(tmp_path: Path) -> None:
    def halves(x: Tensor) -> Tensor:
        return x.view(len(x), 2, math.floor(x.shape[1] / 2))

    with pytest.raises(RuntimeError) as failure:
        bitlab.deploy(Net(halves).eval(), torch.randn(3, 4), tmp_path / "net.bit", dynamic_axes={"input": {1: "width"}})
    assert any("input [3, " in note for note in getattr(failure.value, "__notes__", ["input [3, "]))
