"""Decoders of ONNX that others wrote, with pasts as inputs: their pasts are a session's states. Each is written here in the nodes that a program writes it
in; the logits are those of ONNX Runtime, step by step."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitlab

if sys.version_info < (3, 11):
    pytest.skip("no ONNX Runtime for this Python", allow_module_level=True)
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from products import ops_of  # noqa: E402

WORDS, HIDDEN, HEADS, GROUPS, SIZE, LAYERS, MOST = 40, 32, 4, 2, 16, 2, 48
MICROSOFT = "com.microsoft"
INT64 = np.int64


class Net:
    """A decoder that is being written."""

    def __init__(self, **more: Any) -> None:
        self.more = more
        self.nodes: list[Any] = []
        self.tensors: dict[str, np.ndarray] = {}
        self.inputs: dict[str, tuple[int, list[Any]]] = {"input_ids": (7, ["batch_size", "sequence_length"])}
        self.outputs: dict[str, list[Any]] = {"logits": ["batch_size", "sequence_length", WORDS]}
        self.random = np.random.default_rng(0)
        self.cache: dict[str, str] = {}

    def weight(self, *shape: int, scale: float = 0.4) -> str:
        return self.tensor((self.random.standard_normal(shape) * scale).astype(np.float32))

    def tensor(self, value: Any, dtype: Any = None) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors[name] = np.array(value, dtype)
        return name

    def __call__(self, op: str, *inputs: str, outputs: Any = 1, domain: str = "", **attributes: Any) -> Any:
        names = [f"{op}_{len(self.nodes)}_{i}" for i in range(outputs)] if isinstance(outputs, int) else outputs
        self.nodes.append(helper.make_node(op, list(inputs), names, domain=domain, **attributes))
        return names[0] if len(names) == 1 else names

    def once(self, name: str, make: Callable[[], str]) -> str:
        if name not in self.cache:
            self.cache[name] = make()
        return self.cache[name]

    def size(self, x: str, axis: int) -> str:
        return self("Gather", self("Shape", x), self.tensor(axis, INT64), axis=0)

    def in_list(self, x: str) -> str:
        return self("Unsqueeze", x, self.tensor([0], INT64))

    def mask(self) -> str:
        self.inputs["attention_mask"] = (7, ["batch_size", self.more.get("all", "past_sequence_length + sequence_length")])
        return "attention_mask"

    def past(self, layer: int, what: str, size: Any = SIZE, groups: int = GROUPS) -> tuple[str, str]:
        names = f"past_key_values.{layer}.{what}", f"present.{layer}.{what}"
        self.inputs[names[0]] = (1, ["batch_size", groups, "past_sequence_length", size])
        self.outputs[names[1]] = ["batch_size", groups, "total", size]
        return names

    def range(self, start: str, end: str) -> str:
        return self("Range", start, end, self.tensor(1, INT64))

    def model(self) -> Any:
        def port(name: str, dtype: int, shape: list[Any]) -> Any:
            return helper.make_tensor_value_info(name, dtype, shape)

        graph = helper.make_graph(
            self.nodes,
            "g",
            [port(name, *rest) for name, rest in self.inputs.items()],
            [port(name, 1, shape) for name, shape in self.outputs.items()],
            [numpy_helper.from_array(value, name) for name, value in self.tensors.items()],
        )
        domains = [helper.make_opsetid("", self.more.get("opset", 18)), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=domains, ir_version=10)


def norm(net: Net, x: str) -> str:
    return net("SimplifiedLayerNormalization", x, net.tensor(np.ones(HIDDEN, np.float32)), axis=-1, epsilon=1e-5)


def written(path: Path, net: Net, attend: Callable[..., str], embed: Callable[[Net, str], str] | None = None) -> Path:
    """Layers of an attention each, with what they are added to; q, k, v [batch, tokens, heads size]."""
    x = net("Gather", net.weight(WORDS, HIDDEN), "input_ids")
    x = embed(net, x) if embed else x
    for layer in range(LAYERS):
        y = norm(net, x)
        parts = [net("MatMul", y, net.weight(HIDDEN, n * SIZE)) for n in (HEADS, GROUPS, GROUPS)]
        x = net("Add", x, net("MatMul", attend(net, layer, *parts), net.weight(HEADS * SIZE, HIDDEN)))
    net("MatMul", norm(net, x), net.weight(HIDDEN, WORDS), outputs=["logits"])
    path.write_bytes(net.model().SerializeToString())
    return path


# --- how programs write attention over a past


def tables(net: Net) -> list[str]:
    angles = np.arange(MOST)[:, None] * 100.0 ** -(np.arange(SIZE // 2) / (SIZE // 2))
    return [net.once(name, lambda f=f: net.tensor(f(angles), np.float32)) for name, f in (("cos", np.cos), ("sin", np.sin))]  # type: ignore[misc]


def counts(net: Net) -> list[str]:
    """seqlens_k and total_sequence_length, as onnxruntime-genai's builder computes them."""
    net.more["all"] = "total_sequence_length"
    one = net.once("one", lambda: net.tensor([1], INT64))

    def keys() -> str:
        return net("Cast", net("Sub", net("ReduceSum", net.mask(), one, keepdims=0), one), to=TensorProto.INT32)

    return [net.once("keys", keys), net.once("all", lambda: net("Cast", net.size(net.mask(), 1), to=TensorProto.INT32))]


def group_query(net: Net, layer: int, q: str, k: str, v: str) -> str:
    """onnxruntime-genai: one node, into which queries, keys and values go packed or apart."""
    past, present = zip(*(net.past(layer, what, "kv_cache_dim") for what in ("key", "value")), strict=True)
    attributes = {key: net.more[key] for key in ("local_window_size", "rotary_interleaved") if key in net.more}
    apart = [net("Concat", q, k, v, axis=2), "", ""] if net.more.get("packed") else [q, k, v]
    places = ["position_ids"] if net.more.get("places") else []
    if places:
        net.inputs["position_ids"] = (7, ["batch_size", "sequence_length"])
    inputs = [*apart, *past, *counts(net), *tables(net), *places]
    outputs = [f"attended_{layer}", *present]
    return net("GroupQueryAttention", *inputs, outputs=outputs, domain=MICROSOFT, num_heads=HEADS, kv_num_heads=GROUPS,
               do_rotary=1, **attributes)[0]  # fmt: skip


def in_heads(net: Net, x: str, heads: int) -> str:
    shape = net("Concat", net.in_list(net.size("input_ids", 0)), net.tensor([-1, heads, SIZE], INT64), axis=0)
    return net("Transpose", net("Reshape", x, shape), perm=[0, 2, 1, 3])


def repeated(net: Net, x: str) -> str:
    """Each group for its heads, at sizes that are computed, as transformers' repeat_kv."""
    size = [net.in_list(net.size(x, axis)) for axis in range(4)]
    each = net.tensor([HEADS // GROUPS], INT64)
    x = net("Expand", net("Unsqueeze", x, net.tensor([2], INT64)), net("Concat", *size[:2], each, *size[2:], axis=0))
    return net("Reshape", x, net("Concat", size[0], net("Mul", size[1], each), *size[2:], axis=0))


def seen(net: Net, first: str) -> str:
    """bool [batch, 1, queries, keys]: by places, a window, and what the mask at a key says, which is read through flat indices."""
    past, tokens = net.size(first, 2), net.size("input_ids", 1)
    keys = net("Add", past, tokens)
    query = net("Unsqueeze", net.range(past, keys), net.tensor([0, 1, 3], INT64))
    key = net("Unsqueeze", net.range(net.tensor(0, INT64), keys), net.tensor([0, 1, 2], INT64))
    visible = net("LessOrEqual", key, query)
    if "window" in net.more:
        window = net("Less", net("Sub", query, key), net.tensor(net.more["window"], INT64))
        visible = net("And", visible, window)
    mask = net("Cast", net.mask(), to=TensorProto.BOOL)
    sample = net("Range", net.tensor(0, INT64), net.size("input_ids", 0), net.tensor(1, INT64))
    sample = net("Unsqueeze", sample, net.tensor([1, 2, 3], INT64))
    place = net("Add", net("Mul", sample, net.size(mask, 1)), key)
    return net("And", visible, net("Gather", net("Reshape", mask, net.tensor([-1], INT64)), place, axis=0))


def by_products(net: Net, layer: int, q: str, k: str, v: str) -> str:
    """PyTorch's exporter: Concat, both factors scaled, a mask that is added, and rows that see nothing."""
    (past_k, k_all), (past_v, v_all) = net.past(layer, "key"), net.past(layer, "value")
    mask = net.once("seen", lambda: seen(net, past_k))
    net("Concat", past_k, in_heads(net, k, GROUPS), outputs=[k_all], axis=-2)
    net("Concat", past_v, in_heads(net, v, GROUPS), outputs=[v_all], axis=2)
    root = net.tensor(SIZE**-0.25, np.float32)
    across = net("Transpose", repeated(net, k_all), perm=[0, 1, 3, 2])
    scores = net("MatMul", net("Mul", in_heads(net, q, HEADS), root), net("Mul", across, root))
    hidden = net.tensor(-np.inf if layer else np.finfo(np.float32).min, np.float32)
    bias = net("Where", mask, net.tensor(0, np.float32), hidden)
    weights = net("Softmax", net("Add", scores, bias), axis=-1)
    weights = net("Where", net("IsNaN", weights), net.tensor(0, np.float32), weights)
    y = net("Transpose", net("MatMul", weights, repeated(net, v_all)), perm=[0, 2, 1, 3])
    return net("Reshape", y, net.tensor([0, 0, HEADS * SIZE], INT64))


def by_table(net: Net, layer: int, q: str, k: str, v: str) -> str:
    """GPT-2 and GPT-Neo of old: a part of a table, a choice of -10000 or the least number; the keys [batch, tokens, groups, size] in the cache."""
    window = net.more.get("window", MOST)
    places = np.arange(MOST)
    table = (places <= places[:, None]) & (places > places[:, None] - window)
    past = []
    for what, x in (("key", k), ("value", v)):
        names = f"past.{layer}.{what}", f"present.{layer}.{what}"
        net.inputs[names[0]] = (1, ["batch_size", "past_sequence_length", GROUPS, SIZE])
        net.outputs[names[1]] = ["batch_size", "total", GROUPS, SIZE]
        x = net("Reshape", x, net.tensor([0, 0, GROUPS, SIZE], INT64))
        net("Concat", names[0], x, outputs=[names[1]], axis=1)
        past.append(repeated(net, net("Transpose", names[1], perm=[0, 2, 1, 3])))
    keys, zero, one = net.size(f"present.{layer}.key", 1), net.tensor([0], INT64), net.tensor([1], INT64)
    rows = net("Sub", net.in_list(keys), net.in_list(net.size("input_ids", 1)))
    mask = net("Slice", net.once("table", lambda: net.tensor(table[None, None])), rows, net.in_list(keys), net.tensor([2], INT64), one)
    mask = net("Slice", mask, zero, net.in_list(keys), net.tensor([3], INT64), one)
    scores = net("MatMul", in_heads(net, q, HEADS), net("Transpose", past[0], perm=[0, 1, 3, 2]))
    scores = net("Div", scores, net.tensor(SIZE**0.5, np.float32))
    scores = net("Where", mask, scores, net.tensor(-1e4 if layer else np.finfo(np.float32).min, np.float32))
    y = net("MatMul", net("Softmax", scores, axis=-1), past[1])
    return net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), net.tensor([0, 0, HEADS * SIZE], INT64))


def by_distance(net: Net, layer: int, q: str, k: str, v: str) -> str:
    """BLOOM: samples and heads in one dimension, and a bias by the place of the key, as counted in the mask."""
    (past_k, k_all), (past_v, v_all) = (net.past(layer, what, groups=HEADS) for what in ("key", "value"))
    mask = net.once("seen", lambda: seen(net, past_k))

    def bias() -> str:
        ones = net.mask()
        place = net("Mul", net("Sub", net("CumSum", ones, net.tensor(1, INT64)), net.tensor([1], INT64)), ones)
        place = net("Cast", net("Unsqueeze", place, net.tensor([1], INT64)), to=TensorProto.FLOAT)
        slopes = net.tensor(0.6 ** np.arange(1, HEADS + 1)[:, None], np.float32)
        every = net("Mul", slopes, place)  # [batch, heads, keys]
        rows = net("Mul", net.in_list(net.size(every, 0)), net.in_list(net.size(every, 1)))
        size = net("Concat", rows, net.tensor([1], INT64), net.in_list(net.size(every, 2)), axis=0)
        return net("Reshape", every, size)

    k, v = (net("MatMul", x, net.weight(GROUPS * SIZE, HEADS * SIZE)) for x in (k, v))
    net("Concat", past_k, in_heads(net, k, HEADS), outputs=[k_all], axis=2)
    net("Concat", past_v, in_heads(net, v, HEADS), outputs=[v_all], axis=2)
    keys = net.in_list(net.size(k_all, 2))
    rows = net("Mul", net.in_list(net.size(k_all, 0)), net.in_list(net.size(k_all, 1)))
    in_rows = net("Concat", rows, keys, net.tensor([SIZE], INT64), axis=0)
    queries = net("Reshape", in_heads(net, q, HEADS), net("Concat", rows, net.tensor([-1, SIZE], INT64), axis=0))
    across = net("Transpose", net("Reshape", k_all, in_rows), perm=[0, 2, 1])
    scores = net("Mul", net("MatMul", queries, across), net.tensor([SIZE**-0.5], np.float32))
    scores = net("Add", scores, net.once("bias", bias))
    tokens = net.in_list(net.size("input_ids", 1))
    apart = net("Concat", net.in_list(net.size("input_ids", 0)), net.tensor([HEADS], INT64), tokens, keys, axis=0)
    least = net.tensor(np.finfo(np.float32).min, np.float32)
    hidden = net("Where", mask, net.tensor(0, np.float32), least)
    weights = net("Softmax", net("Add", net("Reshape", scores, apart), hidden), axis=-1)
    y = net("MatMul", net("Reshape", weights, net("Concat", rows, tokens, keys, axis=0)), net("Reshape", v_all, in_rows))
    y = net("Reshape", y, net("Concat", apart_of(net), tokens, net.tensor([SIZE], INT64), axis=0))
    return net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), net.tensor([0, 0, HEADS * SIZE], INT64))


def apart_of(net: Net) -> str:
    return net("Concat", net.in_list(net.size("input_ids", 0)), net.tensor([HEADS], INT64), axis=0)


def by_node(net: Net, layer: int, q: str, k: str, v: str) -> str:
    """ONNX's own Attention, of opset 23."""
    past, present = zip(*(net.past(layer, what) for what in ("key", "value")), strict=True)
    return net("Attention", q, k, v, "", *past, outputs=[f"attended_{layer}", *present], is_causal=1, q_num_heads=HEADS,
               kv_num_heads=GROUPS)[0]  # fmt: skip


def by_fused_node(net: Net, layer: int, q: str, k: str, v: str) -> str:
    """ONNX Runtime's optimizer: MultiHeadAttention, with what masks add."""
    past, present = zip(*(net.past(layer, what, groups=HEADS) for what in ("key", "value")), strict=True)
    mask = net.once("seen", lambda: seen(net, past[0]))
    least = net.tensor(np.finfo(np.float32).min, np.float32)
    bias = net.once("bias", lambda: net("Where", mask, net.tensor(0, np.float32), least))
    k, v = (net("MatMul", x, net.weight(GROUPS * SIZE, HEADS * SIZE)) for x in (k, v))
    outputs = [f"attended_{layer}", *present]
    return net("MultiHeadAttention", q, k, v, "", "", bias, *past, outputs=outputs, domain=MICROSOFT, num_heads=HEADS)[0]


def at_places(net: Net, x: str) -> str:
    """A table of places, which an input says."""
    net.inputs["position_ids"] = (7, ["batch_size", "sequence_length"])
    return net("Add", x, net("Gather", net.weight(MOST, HIDDEN), "position_ids"))


def at_counted_places(net: Net, x: str) -> str:
    """The same, of places that are counted in the mask (OPT)."""
    mask = net.mask()
    count = net("Sub", net("CumSum", mask, net.tensor(1, INT64)), net.tensor(1, INT64))
    start, end = net.in_list(net.size(net.past(0, "key")[0], 2)), net.tensor([np.iinfo(INT64).max], INT64)
    place = net("Slice", count, start, end, net.tensor([1], INT64), net.tensor([1], INT64))
    return net("Add", x, net("Gather", net.weight(MOST + 2, HIDDEN), net("Add", place, net.tensor(2, INT64))))


def through_rotary(net: Net, x: str) -> str:
    """Places as a product with rates, of one number each."""
    net.inputs["position_ids"] = (7, ["batch_size", "sequence_length"])
    place = net("Cast", net("Unsqueeze", "position_ids", net.tensor([1], INT64)), to=TensorProto.FLOAT)
    rates = net.tensor(np.linspace(0.01, 1, HIDDEN)[None, :, None], np.float32)
    return net("Add", x, net("Cos", net("Transpose", net("MatMul", rates, place), perm=[0, 2, 1])))


NETS: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "genai": ({}, group_query, None),
    "genai, packed": ({"packed": True, "rotary_interleaved": 1}, group_query, None),
    "genai, window": ({"local_window_size": 4}, group_query, None),
    "genai, places": ({"places": True}, group_query, None),
    "products": ({}, by_products, at_places),
    "products, window": ({"window": 5}, by_products, at_counted_places),
    "products, rotary": ({}, by_products, through_rotary),
    "table": ({}, by_table, at_places),
    "table, window": ({"window": 6}, by_table, None),
    "distances": ({}, by_distance, None),
    "distances, window": ({"window": 5}, by_distance, None),
    "MultiHeadAttention": ({}, by_fused_node, at_places),
    "Attention": ({"opset": 23}, by_node, at_places),
}


# --- both runtimes


class Other:
    """ONNX Runtime, which gets the pasts that it gave."""

    def __init__(self, path: Path, batch: int) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.position, self.past = 0, {}
        for port in self.session.get_inputs():
            if port.name.startswith("past"):
                open_sizes = {"batch_size": batch, "past_sequence_length": 0, "kv_cache_dim": SIZE}
                self.past[port.name] = np.zeros([open_sizes.get(size, size) for size in port.shape], np.float32)

    def run(self, ids: np.ndarray) -> np.ndarray:
        batch, count = ids.shape
        places = np.broadcast_to(np.arange(self.position, self.position + count), ids.shape)
        given = {"input_ids": ids, "position_ids": places, "attention_mask": np.ones((batch, self.position + count), INT64)}
        given["use_cache_branch"] = np.array([True])
        names = {port.name for port in self.session.get_inputs()}
        outputs = [port.name for port in self.session.get_outputs()]
        found = self.session.run(outputs, {k: v for k, v in given.items() if k in names} | self.past)
        values = dict(zip(outputs, found, strict=True))
        self.past = {name: values["present" + name[name.index(".") :]] for name in self.past}
        self.position += count
        return values["logits"]


def check(path: Path, folder: Path) -> bitlab.runtime.Model:
    bitlab.formats.convert(path, folder / "m.bit")
    model = bitlab.runtime.Session(folder / "m.bit").model
    assert [port.name for port in model.inputs] == ["input_ids"] and [port.name for port in model.outputs] == ["logits"]
    # ONNX Runtime's GroupQueryAttention takes several tokens behind a past for one sample alone.
    is_fused = any(node.op_type == "GroupQueryAttention" for node in onnx.load(path).graph.node)
    for batch, counts in ((1, (6, 1, 1, 4, 1)), (2, (6, 1, 1, 1) if is_fused else (6, 1, 3, 1))):
        session, other, random = bitlab.runtime.Session(folder / "m.bit"), Other(path, batch), np.random.default_rng(batch)
        parts, all_ids = [], []
        for count in counts:
            ids = random.integers(0, WORDS, (batch, count))
            parts.append(session.run({"input_ids": ids})["logits"])
            all_ids.append(ids)
            expected = other.run(ids)
            assert np.abs(parts[-1] - expected).max() < 1e-5 * np.abs(expected).max(), (batch, other.position)
            assert session.position == other.position
        at_once = bitlab.runtime.Session(folder / "m.bit").run({"input_ids": np.concatenate(all_ids, 1)})["logits"]
        np.testing.assert_array_equal(np.concatenate(parts, 1), at_once)  # the same bits
        session.truncate(6)
        session.run({"input_ids": all_ids[1]})
        session.reset()
        np.testing.assert_array_equal(session.run({"input_ids": all_ids[0]})["logits"], parts[0])
    return model


@pytest.mark.parametrize("name", NETS)
def test_a_decoder(name: str, tmp_path: Path) -> None:
    more, attend, embed = NETS[name]
    path = written(tmp_path / "m.onnx", Net(**more), attend, embed)
    check(path, tmp_path)
    assert "attention" in ops_of(tmp_path / "m.bit") and "softmax" not in ops_of(tmp_path / "m.bit")


@pytest.mark.parametrize("name", ["genai", "products, window", "distances"])
def test_what_is_written_is_a_decoder_again(name: str, tmp_path: Path) -> None:
    more, attend, embed = NETS[name]
    path = written(tmp_path / "m.onnx", Net(**more), attend, embed)
    for source, target in (("m.onnx", "m.bit"), ("m.bit", "again.onnx"), ("again.onnx", "again.bit")):
        bitlab.formats.convert(tmp_path / source, tmp_path / target)
    a, b = (bitlab.runtime.Session(tmp_path / file) for file in ("m.bit", "again.bit"))
    for count in (7, 1, 3):
        ids = np.random.default_rng(count).integers(0, WORDS, (2, count))
        expected = a.run({"input_ids": ids})["logits"]
        assert np.abs(b.run({"input_ids": ids})["logits"] - expected).max() < 1e-5 * np.abs(expected).max()
    assert b.position == 11 and path.exists()


def test_a_table_of_places_bounds_the_tokens(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", Net(), group_query)
    bitlab.formats.convert(path, tmp_path / "m.bit")
    session = bitlab.runtime.Session(tmp_path / "m.bit")
    session.run({"input_ids": np.zeros((1, MOST), INT64)})
    with pytest.raises(bitlab.Error):
        session.run({"input_ids": np.zeros((1, 1), INT64)})


def test_weights_in_blocks_of_four_bits(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", Net(), group_query)
    model = onnx.load(path)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    random = np.random.default_rng(2)
    for node in model.graph.node:
        if node.op_type == "MatMul":
            k, n = tensors[node.input[1]].dims
            codes = numpy_helper.from_array(random.integers(0, 256, (n, k // 32, 16), np.uint8), node.input[1] + "_Q4")
            scales = numpy_helper.from_array(random.uniform(0.02, 0.1, (n, k // 32)).astype(np.float32), node.input[1] + "_s")
            model.graph.initializer.extend([codes, scales])
            attributes = {"K": k, "N": n, "bits": 4, "block_size": 32}
            node.CopyFrom(
                helper.make_node("MatMulNBits", [node.input[0], codes.name, scales.name], node.output, domain=MICROSOFT, **attributes)
            )
    path.write_bytes(model.SerializeToString())
    check(path, tmp_path)


@pytest.mark.parametrize("name", ["genai", "products", "table, window"])
def test_pasts_of_halves(name: str, tmp_path: Path) -> None:
    """In float16 all through; beside the decoder in float32 with the same weights."""
    more, attend, embed = NETS[name]
    model = onnx.load(written(tmp_path / "m.onnx", Net(**more), attend, embed))
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            value = np.clip(numpy_helper.to_array(tensor), np.finfo(np.float16).min, None).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))
    onnx.save(model, tmp_path / "whole.onnx")
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for port in [*model.graph.input, *model.graph.output]:
        if port.type.tensor_type.elem_type == TensorProto.FLOAT:
            port.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, tmp_path / "half.onnx")
    sessions = []
    for file in ("whole", "half"):
        bitlab.formats.convert(tmp_path / f"{file}.onnx", tmp_path / f"{file}.bit")
        sessions.append(bitlab.runtime.Session(tmp_path / f"{file}.bit"))
    for count in (5, 1, 3):
        ids = np.random.default_rng(count).integers(0, WORDS, (2, count))
        expected, found = (session.run({"input_ids": ids})["logits"] for session in sessions)
        assert found.dtype == np.float16
        assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


def test_a_branch_without_a_past_is_not_taken(tmp_path: Path) -> None:
    """One model of two, as optimum merges them: with `use_cache_branch` the one that continues a past."""
    net = Net()
    path = written(tmp_path / "m.onnx", net, by_products, at_places)
    model = onnx.load(path)
    graph = model.graph
    branches = []
    for has_past in (True, False):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
        ends = [onnx.ValueInfoProto.FromString(port.SerializeToString()) for port in graph.output]
        for node in nodes if not has_past else []:
            if node.op_type == "Concat" and node.input[0].startswith("past"):
                node.op_type, inputs = "Identity", [node.input[1]]
                del node.input[:], node.attribute[:]
                node.input.extend(inputs)
        branches.append(helper.make_graph(nodes, "with" if has_past else "without", [], ends))
    switch = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    outputs = [port.name for port in graph.output]
    node = helper.make_node("If", ["use_cache_branch"], outputs, then_branch=branches[0], else_branch=branches[1])
    merged = helper.make_graph([node], "g", [*graph.input, switch], list(graph.output), list(graph.initializer))
    path.write_bytes(helper.make_model(merged, opset_imports=model.opset_import, ir_version=10).SerializeToString())
    check(path, tmp_path)


# --- what is not a state


def ignoring_the_past(net: Net, x: str) -> str:
    places = net.range(net.tensor(0, INT64), net.size("input_ids", 1))
    return net("Add", x, net("Gather", net.weight(MOST, HIDDEN), places))


def with_words_of_the_past(net: Net, layer: int, q: str, k: str, v: str) -> str:
    y = by_products(net, layer, q, k, v)
    past, _ = net.past(layer, "key")
    return net("Add", y, net("ReduceSum", past, net.tensor([1, 2, 3], INT64), keepdims=1)) if layer else y


def seeing_all(net: Net, layer: int, q: str, k: str, v: str) -> str:
    net.cache["seen"] = net.once("all seen", lambda: net("Equal", net.tensor([[[[1]]]], INT64), net.tensor(1, INT64)))
    return by_products(net, layer, q, k, v)


@pytest.mark.parametrize(
    ("attend", "embed", "message"),
    [
        (by_products, ignoring_the_past, "depend on the size of pasts"),
        (seeing_all, None, "causal attention alone reads"),
        (with_words_of_the_past, None, "causal attention alone reads"),
    ],
)
def test_what_is_refused(attend: Any, embed: Any, message: str, tmp_path: Path) -> None:
    """As a decoder. Where the model is read with pasts as inputs, that is what it is."""
    path = written(tmp_path / "m.onnx", Net(all="total_length"), attend, embed)
    try:
        bitlab.formats.convert(path, tmp_path / "m.bit")
    except bitlab.Unsupported as error:
        assert message in str(error)
    else:
        names = [port.name for port in bitlab.runtime.Session(tmp_path / "m.bit").model.inputs]
        assert "past_key_values.0.key" in names


def test_a_bias_of_other_sizes_is_corrupt(tmp_path: Path) -> None:
    net = Net()
    path = written(tmp_path / "m.onnx", net, by_fused_node)
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((), np.float32), "bias"))
    next(node for node in model.graph.node if node.op_type == "MultiHeadAttention").input[3] = "bias"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(bitlab.Error, match="a bias of one size"):
        bitlab.formats.convert(path, tmp_path / "m.bit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, "heads in groups, got 3 and 2"),
        ({"kv_num_heads": 0}, "heads in groups"),
        ({"smooth_softmax": 1}, "smooth_softmax"),
        ({"softcap": 2.0}, "causal attention alone reads"),
    ],
)
def test_other_attention_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", Net(), group_query)
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            kept = [attribute for attribute in node.attribute if attribute.name not in change]
            del node.attribute[:]
            node.attribute.extend([*kept, *(helper.make_attribute(key, value) for key, value in change.items())])
    path.write_bytes(model.SerializeToString())
    with pytest.raises(bitlab.Error, match=message):
        bitlab.formats.convert(path, tmp_path / "m.bit")
