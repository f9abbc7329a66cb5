"""What PyTorch's newer exporter (`dynamo=True`) writes: sizes that are computed, masks by indices, tensors in files beside the model.

Patterns stand here as text, as the exporter wrote them; networks are exported where onnxscript is installed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bitlab

if sys.version_info < (3, 11):
    pytest.skip("no ONNX Runtime for this Python", allow_module_level=True)
import onnx  # noqa: E402
from onnx import numpy_helper, parser  # noqa: E402
from test_formats_onnx_import import Arrays, check, read  # noqa: E402


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def parsed(path: Path, graph: str, opset: int = 20) -> Path:
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["": {opset}]> g {graph}')
    path.write_bytes(model.SerializeToString())
    return path


def symbols_of(path: Path) -> str:
    return str(bitlab.runtime.Model.load(path.with_suffix(".bit"))).split("input ")[0]


# --- sizes that are computed

X = "(float[batch, tokens, 16] x) => (float[b, t, c] y)"
SIZE = "n = Shape<start=1, end=2>(x) s = Squeeze(n)"
ONE = "one = Constant<value_ints=[1]>() zero = Constant<value_ints=[0]>()"
SIZES = {
    "range from a size on": f"""{X} {{ {SIZE} two = Constant<value_int=2>() twice = Mul(s, two) one = Constant<value_int=1>()
        r = Range(s, twice, one) f = Cast<to=1>(r) a = Constant<value_ints=[-1, 1]>() p = Reshape(f, a) y = Add(x, p) }}""",
    "range in steps": f"""{X} {{ {SIZE} k = Constant<value_int=3>() limit = Mul(s, k) zero = Constant<value_int=0>()
        r = Range(zero, limit, k) f = Cast<to=1>(r) a = Constant<value_ints=[-1, 1]>() p = Reshape(f, a) y = Add(x, p) }}""",
    "range downwards": f"""{X} {{ {SIZE} minus = Constant<value_int=-1>() zero = Constant<value_int=0>()
        r = Range(s, zero, minus) f = Cast<to=1>(r) a = Constant<value_ints=[-1, 1]>() p = Reshape(f, a) y = Add(x, p) }}""",
    "range of floats": f"""{X} {{ {SIZE} f = Cast<to=1>(s) zero = Constant<value_float=0.0>() one = Constant<value_float=1.0>()
        r = Range(zero, f, one) a = Constant<value_ints=[-1, 1]>() p = Reshape(r, a) y = Add(x, p) }}""",
    "roll": f"""{X} {{ {SIZE} {ONE} minus = Constant<value_ints=[-2]>() at = Mod(minus, n)
        front = Slice(x, zero, at, one) behind = Slice(x, at, n, one) y = Concat<axis=1>(behind, front) }}""",
    "the last as many": f"""{X} {{ {SIZE} {ONE} both = Concat<axis=1>(x, x) minus = Constant<value_ints=[-1]>() from = Mul(minus, n)
        end = Constant<value_ints=[9223372036854775807]>() y = Slice(both, from, end, one) }}""",
    "diagonal": f"""{X} {{ {SIZE} sizes = Concat<axis=0>(n, n) zeros = ConstantOfShape(sizes) eye = EyeLike<k=1>(zeros)
        y = MatMul(eye, x) }}""",
    "largest and smallest": f"""{X} {{ {SIZE} {ONE} least = Min(n, n) most = Max(least, one) y = Slice(x, zero, most, one) }}""",
    "cut to a number": f"""{X} {{ {SIZE} {ONE} most = Constant<value_ints=[12]>() least = Min(most, n) two = Constant<value_ints=[2]>()
        rest = Constant<value_ints=[-1, 16]>() shape = Concat<axis=0>(least, rest) t = Transpose<perm=[1, 0, 2]>(x)
        z = Reshape(t, shape) y = Transpose<perm=[1, 0, 2]>(z) }}""",
    "tiled by a size": f"""{X} {{ {SIZE} {ONE} row = Slice(x, zero, one, one) repeats = Concat<axis=0>(one, n, one)
        all = Tile(row, repeats) y = Add(x, all) }}""",
    "reflected": f"""{X} {{ pads = Constant<value_ints=[0, 2, 0, 0, 1, 0]>() y = Pad<mode="reflect">(x, pads) }}""",
    "at the edge": f"""{X} {{ pads = Constant<value_ints=[0, 2, 0, 0, 1, 0]>() y = Pad<mode="edge">(x, pads) }}""",
    "around": f"""{X} {{ pads = Constant<value_ints=[0, 2, 0, 0, 1, 0]>() y = Pad<mode="wrap">(x, pads) }}""",
    "cut off": f"""{X} {{ pads = Constant<value_ints=[0, -1, 0, 0, -2, 0]>() y = Pad(x, pads) }}""",
    "groups": f"""{X} {{ shape = Constant<value_ints=[0, 4, -1]>() t = Transpose<perm=[0, 2, 1]>(x) z = Reshape(t, shape)
        scale = Constant<value_floats=[1.0, 2.0, 3.0, 4.0]>() shift = Constant<value_floats=[0.0, 1.0, 0.0, 1.0]>()
        y = InstanceNormalization(z, scale, shift) }}""",
    "compared": f"""{X} {{ {SIZE} minus = Constant<value_int=-1>() few = Constant<value_int=0>() is = Greater(s, few)
        y = If(is) <then_branch = a () => (float[b, t, c] u) {{ u = Identity(x) }}, else_branch = b () => (float[d] v) {{ v = Constant<value_floats=[1.0]>() }}> }}""",
}  # fmt: skip

SIZES["sums of what is in front"] = f"""{X} {{ axis = Constant<value_int=1>() y = CumSum<exclusive=1>(x, axis) }}"""
SIZES["far beyond the end"] = f"""{X} {{ {ONE} far = Constant<value_ints=[1000000000]>() y = Slice(x, one, far, one) }}"""
SIZES["tokens as channels"] = f"""{X} {{ y = GlobalAveragePool(x) }}"""
SIZES["pooled with a last window"] = f"""{X} {{ t = Transpose<perm=[0, 2, 1]>(x)
    y = MaxPool<kernel_shape=[3], strides=[2], ceil_mode=1>(t) }}"""


@pytest.mark.parametrize("name", SIZES)
def test_sizes_that_are_computed(name: str, tmp_path: Path) -> None:
    path = parsed(tmp_path / "m.onnx", SIZES[name])
    for batch, tokens in ((2, 5), (3, 11), (1, 4)):
        check(path, {"x": floats(batch, tokens, 16)})
    assert "symbol batch from 0\nsymbol tokens" in symbols_of(path)


def test_integers_of_32_bits(tmp_path: Path) -> None:
    graph = """(int32[batch, tokens] x) => (int64[a, b] most, int32[c, d] top, int64[e, f] at, int32[g] total, int32[h] least)
        { most = ArgMax<axis=1>(x) k = Constant<value_ints=[3]>() axes = Constant<value_ints=[1]>() top, at = TopK(x, k)
          total = ReduceSum<keepdims=0>(x, axes) least = ReduceMin<keepdims=0>(x, axes) }"""
    path = parsed(tmp_path / "m.onnx", graph)
    x = np.random.default_rng(0).permutation(45).reshape(5, 9).astype(np.int32)
    check(path, {"x": x})


# --- images of any size that is a multiple

IMAGE = "(float[batch, 4, height, width] x) => (float[b, c, h, w] y)"
IMAGES = {
    "windows": (2, f"""{IMAGE} {{ n = Shape<start=0, end=1>(x) h = Shape<start=2, end=3>(x) w = Shape<start=3, end=4>(x)
        two = Constant<value_ints=[2]>() rows = Div(h, two) columns = Div(w, two) c = Constant<value_ints=[4]>()
        apart = Concat<axis=0>(n, c, rows, two, columns, two) z = Reshape(x, apart) t = Transpose<perm=[0, 2, 4, 1, 3, 5]>(z)
        shape = Constant<value_ints=[-1, 4, 2, 2]>() y = Reshape<allowzero=1>(t, shape) }}"""),
    "half as large and back": (4, f"""{IMAGE} {{ a = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(x) b = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(a)
        scales = Constant<value_floats=[1.0, 1.0, 2.0, 2.0]>() none = Constant<value_floats=[1.0]>()
        up = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(b, , scales) s = Add(up, a)
        all = Resize<mode="linear">(s, , scales) y = Add(all, x) }}"""),
    "half as large again": (2, f"""{IMAGE} {{ scales = Constant<value_floats=[1.0, 1.0, 1.5, 1.5]>() y = Resize<mode="linear">(x, , scales) }}"""),
    "padded to even sizes": (2, f"""{IMAGE} {{ h = Shape<start=2, end=3>(x) two = Constant<value_ints=[2]>() rest = Mod(h, two)
        zeros = Constant<value_ints=[0, 0, 0, 0, 0, 0]>() last = Constant<value_ints=[0]>() pads = Concat<axis=0>(zeros, rest, last) y = Pad(x, pads) }}"""),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
def test_images_of_multiples(name: str, tmp_path: Path) -> None:
    """What the network itself asks of sizes, a program says of its inputs: the least multiple at which it is one."""
    multiple, graph = IMAGES[name]
    path = parsed(tmp_path / "m.onnx", graph)
    for height, width in ((8, 12), (16, 4)):
        check(path, {"x": floats(2, 4, height, width)})
    session = bitlab.runtime.Session(path.with_suffix(".bit"))
    assert f"x: float32[batch, 4, {multiple}*height, " in str(bitlab.runtime.Model.load(path.with_suffix(".bit")))
    with pytest.raises(bitlab.Error):
        session.run({"x": floats(2, 4, 9, 12)})


def test_masks_of_all_samples_are_resized(tmp_path: Path) -> None:
    graph = """(float[batch, 8, 8] x) => (float[a, b, c, d] y) { axes = Constant<value_ints=[0]>() u = Unsqueeze(x, axes)
        scales = Constant<value_floats=[1.0, 1.0, 0.5, 0.5]>()
        y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(u, , scales) }"""
    check(parsed(tmp_path / "m.onnx", graph), {"x": floats(3, 8, 8)})


# --- values by indices of samples

# A mask of padding as transformers asks for it: mask[torch.arange(batch)[:, None, None, None], torch.arange(tokens)].
MASK = """(int64[batch, tokens] mask) => (bool[a, b, c, d] y) {
    n = Shape<start=0, end=1>(mask) batch = Squeeze(n) m = Shape<start=1, end=2>(mask) tokens = Squeeze(m)
    zero = Constant<value_int=0>() one = Constant<value_int=1>() sees = Cast<to=9>(mask)
    samples = Range(zero, batch, one) keys = Range(zero, tokens, one)
    behind = Constant<value_ints=[1, 2, 3]>() before = Constant<value_ints=[0, 1, 2]>() last = Constant<value_ints=[-1]>()
    s = Unsqueeze(samples, behind) k = Unsqueeze(keys, before) both = Max(s, k) shape = Shape(both)
    s2 = Expand(s, shape) s3 = Unsqueeze(s2, last) k2 = Expand(k, shape) k3 = Unsqueeze(k2, last)
    indices = Concat<axis=-1>(s3, k3) y = GatherND(sees, indices) }"""
# The state of one token of each sample: states[torch.arange(batch), tokens].
POOLED = """(float[batch, tokens, 6] x, int64[batch] at) => (float[a, b] y) {
    n = Shape<start=0, end=1>(x) batch = Squeeze(n) zero = Constant<value_int=0>() one = Constant<value_int=1>()
    samples = Range(zero, batch, one) last = Constant<value_ints=[-1]>() s = Unsqueeze(samples, last) t = Unsqueeze(at, last)
    indices = Concat<axis=-1>(s, t) y = GatherND(x, indices) }"""
BATCHES = """(float[batch, tokens, 6] x, int64[batch, 3, 1] at) => (float[a, b, c] y) { y = GatherND<batch_dims=1>(x, at) }"""

# A mean as x.as_strided((batch, 6, 1), (6, 1, 1)), of which it is all, and every second value in turned order.
STRIDED = """(float[batch, tokens, 6] x) => (float[a, b, c] y, float[d, e, f] z) {
    n = Shape<start=0, end=1>(x) batch = Squeeze(n) zero = Constant<value_int=0>() one = Constant<value_int=1>() six = Constant<value_int=6>()
    axes = Constant<value_ints=[1]>() mean = ReduceMean<keepdims=0>(x, axes) last = Constant<value_ints=[-1]>() flat = Reshape(mean, last)
    samples = Range(zero, batch, one) starts = Mul(samples, six) behind = Constant<value_ints=[1, 2]>() s = Unsqueeze(starts, behind)
    steps = Constant<value_ints=[0, 1, 2, 3, 4, 5]>() edge = Constant<value_ints=[0, 2]>() c = Unsqueeze(steps, edge) all = Add(s, c)
    others = Constant<value_ints=[4, 2, 0]>() o = Unsqueeze(others, edge) some = Add(o, s)
    y = Gather(flat, all) z = Gather(flat, some) }"""


def test_indices_of_samples(tmp_path: Path) -> None:
    """Nothing moves between samples, so that the batch stays one."""
    mask = parsed(tmp_path / "mask.onnx", MASK)
    check(mask, {"mask": np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 1]])})
    assert "gather" not in str(bitlab.runtime.Model.load(mask.with_suffix(".bit")))
    pooled = parsed(tmp_path / "pooled.onnx", POOLED)
    check(pooled, {"x": floats(3, 5, 6), "at": np.array([4, 0, -2])})
    batches = parsed(tmp_path / "batches.onnx", BATCHES)
    check(batches, {"x": floats(2, 5, 6), "at": np.array([[[4], [0], [-1]], [[1], [1], [3]]])})
    strided = parsed(tmp_path / "strided.onnx", STRIDED)
    check(strided, {"x": floats(3, 5, 6)})
    for path in (mask, pooled, batches, strided):
        assert symbols_of(path).startswith("symbol batch from 0")


def test_places_that_are_no_samples(tmp_path: Path) -> None:
    """Indices that count along another dimension, or of another size, are indices."""
    turned = POOLED.replace("(s, t)", "(t, s)").replace("tokens, 6", "batch, 6")
    check(parsed(tmp_path / "turned.onnx", turned), {"x": floats(3, 3, 6), "at": np.array([2, 0, -2])})
    across = STRIDED.replace("Mul(samples, six)", "Mul(samples, one)")
    check(parsed(tmp_path / "across.onnx", across), {"x": floats(2, 5, 6)})
    fewer = MASK.replace("tokens = Squeeze(m)", "o = Constant<value_ints=[1]>() m1 = Sub(m, o) tokens = Squeeze(m1)")
    check(parsed(tmp_path / "fewer.onnx", fewer), {"mask": np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 1]])})


# --- loops

# While a counter is below a number, as `tf.while_loop` is written.
LOOP = """(float[batch, 4] x) => (float[a, b] y) { zero = Constant<value_int=0>() end = Constant<value_int=3>() starts = Less(zero, end)
    i, y = Loop(, starts, zero, x) <body = body (int64 step, bool goes, int64 i, float[batch, 4] h)
        => (bool on, int64 next, float[batch, 4] z) { one = Constant<value_int=1>() next = Add(i, one) last = Constant<value_int=LAST>()
           on = Less(next, last) z = Mul(h, x) }> }"""


def test_loops_with_a_condition(tmp_path: Path) -> None:
    path = parsed(tmp_path / "m.onnx", LOOP.replace("LAST", "3"))
    check(path, {"x": floats(5, 4)})
    with pytest.raises(bitlab.Unsupported, match="up to 1024 steps"):
        read(parsed(tmp_path / "m.onnx", LOOP.replace("LAST", "100000")))


# --- files


def test_files_beside_count(tmp_path: Path) -> None:
    """What folding may take follows from all files of a model: the exporter keeps tensors in one beside it."""
    path = parsed(tmp_path / "m.onnx", "(float[batch, 1200] x) => (float[a, b] y) { y = MatMul(x, w) z = MatMul(x, v) }")
    model = onnx.load(path)
    del model.graph.node[1]
    model.graph.initializer.append(numpy_helper.from_array(floats(1200, 2300) / 40, "w"))
    onnx.save(model, path, save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    assert path.stat().st_size < 1000
    check(path, {"x": floats(3, 1200)})


# --- networks


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.lstm, self.head = nn.Embedding(20, 8), nn.LSTM(8, 6, bidirectional=True, batch_first=True), nn.Linear(12, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.tokens(ids))[0]).softmax(-1)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(20, 16), nn.Embedding(32, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, activation="gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        y = self.layers(x, mask=mask, is_causal=True)
        return y[torch.arange(ids.shape[0]), ids.argmax(-1)]


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.norm, self.up, self.c = nn.GroupNorm(2, 8), nn.ConvTranspose2d(8, 8, 2, stride=2), nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.silu(self.a(x))
        z = self.norm(self.b(y))
        z = F.interpolate(z, y.shape[-2:], mode="bilinear") + self.up(z)
        return self.c(torch.cat([y, z], 1)).flatten(2).transpose(1, 2)


NETWORKS: dict[str, Any] = {
    "tagger": (Tagger, lambda n: torch.randint(0, 20, (n, 7)), {0: "batch"}),
    "encoder": (Encoder, lambda n: torch.randint(0, 20, (n, 4 + n)), {0: "batch", 1: "tokens"}),
    "unet": (UNet, lambda n: torch.randn(n, 3, 8 * n, 24 - 4 * n), {0: "batch", 2: "height", 3: "width"}),
}


@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "functions"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_are_exported(name: str, optimize: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="PyTorch exports by onnxscript, which is not installed")
    torch.manual_seed(0)
    make, example, sizes = NETWORKS[name]
    network, path = make().eval(), tmp_path / "m.onnx"
    torch.onnx.export(network, (example(2),), path, dynamo=True, dynamic_shapes=(sizes,), optimize=optimize, verbose=False)
    for n in (3, 2, 1):
        x = example(n)
        inputs: Arrays = {onnx.load(path).graph.input[0].name: x.numpy()}
        check(path, inputs)
        expected = network(x).detach().numpy()
        (found,) = bitlab.runtime.Session(read(path)).run(inputs).values()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert " from 0" in symbols_of(path)
