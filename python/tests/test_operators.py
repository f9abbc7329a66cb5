"""Operators as networks of Python write them, one each: what a session gives against PyTorch, at two batch sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bitlab

Function = Callable[[Tensor], Tensor]
ALL = slice(None)


def written(index: object, value: object) -> Function:
    """A copy of x with a part written."""

    def function(x: Tensor) -> Tensor:
        y = x.clone()
        y[index(x) if callable(index) else index] = value(x) if callable(value) else value
        return y

    return function


def interleaved(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y[..., 0::2] = x[..., :8]
    y[..., 1::2] = -x[..., 8:]
    return y


def seen_by_views(x: Tensor) -> Tensor:
    y = torch.ones(x.shape[0], 7, 16)
    before = y[:, :2]
    y[:, 0].copy_(x[:, 0])
    y.view(-1, 7, 4, 4)[:, :, 1].transpose(1, 2)[:, 0].mul_(2)
    return before + y[:, 1:3]


def rotated(x: Tensor) -> Tensor:
    turns = torch.polar(torch.ones(7, 8), torch.arange(7.0)[:, None].expand(7, 8))
    return torch.view_as_real(torch.view_as_complex(x.reshape(-1, 7, 8, 2)) * turns).flatten(2)


def whole(x: Tensor) -> Tensor:
    return (x * 10).long()


TABLE = torch.linspace(-1, 1, 9 * 5).sin().view(9, 5)
GROUPS = torch.tensor([0, 1, 2, 0, 1, 2, 0])
def infinite(x: Tensor) -> Tensor:
    """Some values are infinite, in both directions."""
    return x.masked_fill(x > 1, float("inf")).masked_fill(x < -0.5, float("-inf"))


OPERATORS: dict[str, Function] = {
    "y[:, 0] = 0": written((ALL, 0), 0.0),
    "y[:, 1:3] = x": written((ALL, slice(1, 3)), lambda x: x[:, 3:5]),
    "y[..., ::2] = x": written((..., slice(None, None, 2)), lambda x: x[..., 1::2]),
    "y[mask] = 0": written(lambda x: x < 0, 0.0),
    "y[mask of rows] = v": written(lambda x: x.sum(-1) > 0, torch.arange(16.0)),
    "y[:, mask] = 1": written((ALL, torch.arange(7) > 3), 1.0),
    "y[:, [4, 0]] = x": written((ALL, torch.tensor([4, 0])), lambda x: x[:, 1:3]),
    "y[range, best] = x": written(lambda x: (torch.arange(len(x)), x.sum(-1).argmax(-1)), lambda x: x[:, 0]),
    "interleaved": interleaved,
    "seen by views": seen_by_views,
    "scatter": lambda x: torch.zeros_like(x).scatter(-1, x.argmax(-1, keepdim=True), 1.0),
    "scatter a part": lambda x: x.scatter(1, x.argsort(1)[:, :3, :5], x * 2),
    "scatter_ before a softmax": lambda x: (x * 1).scatter_(-1, x.topk(3, -1).indices, -1e9).softmax(-1),
    "scatter_add": lambda x: torch.zeros_like(x).scatter_add(-1, (x > 0).long(), x),
    "scatter_reduce": lambda x: x.scatter_reduce(1, (x > 0).long(), x * 2, "mean", include_self=False),
    "index_add": lambda x: torch.zeros(len(x), 3, 16).index_add(1, GROUPS, x, alpha=0.5),
    "index_copy": lambda x: x.index_copy(1, torch.tensor([0, 5]), x[:, :2] * 3),
    "//": lambda x: whole(x) // 3 + 100 * (whole(x).int() // -4) + torch.div(whole(x), 3, rounding_mode="trunc"),
    "%": lambda x: whole(x) % 3 + 10 * (whole(x) % -4) + 100 * torch.fmod(whole(x), 3),
    "bits": lambda x: (whole(x) & 3) + 10 * (whole(x) | 5) + 100 * (whole(x).int() ^ 6) + ~whole(x),
    "shifts": lambda x: (whole(x) >> 1) + (whole(x) << 2),
    "angles": lambda x: torch.atan(x) + torch.atan2(x, x.roll(1, -1)) + torch.asin(x.tanh()) - torch.acos(x.tanh()),
    "hyperbolic": lambda x: torch.asinh(5 * x) + torch.acosh(x.abs() + 1) + torch.atanh(x.tanh()),
    "erfinv": lambda x: torch.erfinv(x.tanh()),
    "addmm": lambda x: torch.addmm(torch.arange(3.0), x[:, 0], torch.arange(48.0).view(16, 3), beta=0.5, alpha=2),
    "constant @ x": lambda x: torch.arange(35.0).view(5, 7) @ x,
    "x @ vector": lambda x: x @ torch.arange(16.0),
    "a matrix for each head": lambda x: x.view(-1, 7, 2, 8).transpose(1, 2) @ torch.arange(48.0).view(2, 8, 3),
    "logsumexp": lambda x: x.logsumexp(-1),
    "logcumsumexp": lambda x: (x * 300).logcumsumexp(1) + (x * 300).sort(-1).values.logcumsumexp(-1),
    "of infinities": lambda x: torch.stack(
        [torch.logaddexp(infinite(x), infinite(x.roll(1, -1))), torch.logaddexp2(infinite(x), infinite(x.roll(1, -1))),
         infinite(x).logcumsumexp(-1), torch.hypot(infinite(x) * 1e30, x * 1e30)]
    ),
    "gcd": lambda x: torch.gcd(whole(x) * 12, whole(x.roll(1, -1)) * 18) + 1000 * torch.gcd(whole(x).int(), torch.tensor(4)),
    "lcm": lambda x: torch.lcm(whole(x) * 6, whole(x.roll(1, -1)) * 4),
    "gcd of Fibonacci's": lambda x: torch.gcd(whole(x) * 0 + 7540113804746346429, whole(x) * 0 + 4660046610375530309),
    "median": lambda x: x.median(-1).values,
    "kthvalue": lambda x: x.kthvalue(2, 1).values,
    "quantile": lambda x: x.quantile(0.3, dim=-1),
    "cumprod": lambda x: x.cumprod(1),
    "cummax": lambda x: x.cummax(1).values + x.cummin(-1).indices,
    "bucketize": lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])),
    "cross": lambda x: torch.cross(x[..., :3], x[..., 3:6], dim=-1),
    "bilinear": lambda x: F.bilinear(x, x, torch.ones(3, 16, 16)),
    "grid_sample": lambda x: F.grid_sample(x[:, None], x[:, :6].view(-1, 8, 6, 2), align_corners=False),
    "affine_grid": lambda x: F.grid_sample(
        x[:, None], F.affine_grid(x[:, :2, :3], [len(x), 1, 5, 6], align_corners=True), align_corners=True
    ),
    "nearest-exact": lambda x: F.interpolate(x[:, None], size=(5, 9), mode="nearest-exact"),
    "antialias": lambda x: F.interpolate(x[:, None], size=(5, 9), mode="bicubic", antialias=True),
    **{
        f"antialias {mode} {scale}": lambda x, mode=mode, scale=scale: F.interpolate(x[:, None], scale_factor=scale, mode=mode, antialias=True)
        for mode in ("bilinear", "bicubic")
        for scale in (0.3, 1.7, (0.61, 1.13))
    },
    **{
        f"antialias {mode} by corners": lambda x, mode=mode: F.interpolate(
            x[:, None], size=(5, 23), mode=mode, antialias=True, align_corners=True
        )
        for mode in ("bilinear", "bicubic")
    },
    "complex": rotated,
    "rfft": lambda x: torch.fft.rfft(x).abs(),
    "stft": lambda x: torch.stft(x.flatten(1), 16, return_complex=True, window=torch.hann_window(16)).abs(),
    **{
        f"embedding_bag {mode}": lambda x, mode=mode: F.embedding_bag((x[:, :, 0] * 4).long().clamp(0, 8), TABLE, mode=mode)
        for mode in ("sum", "mean", "max")
    },
    "half": lambda x: (x.half() * 2 + x.half()).float(),
    "bfloat16": lambda x: x.bfloat16().float().exp(),
}


class Net(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_gives_what_pytorch_gives(name: str, tmp_path: Path) -> None:
    function = OPERATORS[name]
    torch.manual_seed(0)
    x = torch.randn(3, 7, 16)
    bitlab.deploy(Net(function).eval(), x, tmp_path / "net.bit")
    session = bitlab.runtime.Session(tmp_path / "net.bit")
    for batch in (1, 3):
        found = next(iter(session.run({session.model.inputs[0].name: x[:batch].numpy()}).values()))
        with torch.no_grad():
            expected = function(x[:batch].clone()).numpy()
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_ternary_rows_read_codes(mode: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = bitlab.nn.BitEmbeddingBag(900, 64, mode=mode)
    indices = torch.randint(900, (3, 5))
    with torch.no_grad():
        trained = layer(indices)
        expected = layer.eval()(indices)
    torch.testing.assert_close(trained, expected)
    bitlab.deploy(layer, indices, tmp_path / "net.bit")
    assert (tmp_path / "net.bit").stat().st_size < 900 * 64 * 4 / 10
    session = bitlab.runtime.Session(tmp_path / "net.bit")
    found = next(iter(session.run({session.model.inputs[0].name: indices.numpy()}).values()))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6, atol=1e-6)


def test_bags_of_several_sizes_are_refused(tmp_path: Path) -> None:
    def bags(x: Tensor) -> Tensor:
        begins = torch.arange(0, 7 * len(x), 7)
        return F.embedding_bag((x[:, :, 0] * 4).long().clamp(0, 8).flatten(), TABLE, begins + (begins > 0))

    with pytest.raises(bitlab.Unsupported, match="bags of one size"):
        bitlab.deploy(Net(bags).eval(), torch.randn(2, 7, 16), tmp_path / "net.bit")


def test_float64_is_refused(tmp_path: Path) -> None:
    with pytest.raises(bitlab.Unsupported, match="got Double"):
        bitlab.deploy(Net(lambda x: x.double().mean(-1).float()).eval(), torch.randn(3, 4), tmp_path / "net.bit")
