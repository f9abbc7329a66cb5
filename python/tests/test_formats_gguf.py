"""GGUF files beside those who made the format: the gguf package reads and writes them, llama.cpp runs them."""

from __future__ import annotations

from pathlib import Path

import decoders
import gguf
import numpy as np
import pytest
import torch
from bitlab.formats import convert
from decoders import HEADS, KV_HEADS, VOCABULARY
from gguf import GGMLQuantizationType as Type

import bitlab

TOKENS = [7 * i % 320 for i in range(12)]

# What the codes of a weight are: at random, as large as they can be, and rows of nothing.
CODES = {
    "random": lambda random, rows, depth: random.integers(-1, 2, (rows, depth)),
    "minus": lambda random, rows, depth: np.full((rows, depth), -1),
    "plus": lambda random, rows, depth: np.full((rows, depth), 1),
    "sparse": lambda random, rows, depth: random.integers(-1, 2, (rows, depth)) * (np.arange(rows) % 3 == 0)[:, None],
}


def write_model(
    path: Path,
    arch: str,
    kind: str = "TQ2_0",
    *,
    codes: str = "random",
    scales: str = "one",
    table: str = "F32",
    **sizes: int,
) -> dict[str, np.ndarray]:
    """A decoder by the gguf package, with its quantizers; returns the float values of each tensor."""
    dim, hidden, vocabulary = sizes.get("dim", 256), sizes.get("hidden", 512), sizes.get("vocabulary", VOCABULARY)
    random = np.random.default_rng(5)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(64)
    writer.add_embedding_length(dim)
    writer.add_block_count(2)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(dim // HEADS)
    writer.add_vocab_size(vocabulary)
    writer.add_string("tokenizer.ggml.model", "none")
    writer.add_array("general.tags", ["a text", "another"])
    truth = {}

    def add(name: str, values: np.ndarray, kind: str = "F32") -> None:
        truth[name] = values.astype(np.float32)
        data = gguf.quants.quantize(truth[name], Type[kind])
        if kind in ("F16", "BF16", "Q8_0"):
            truth[name] = gguf.quants.dequantize(data, Type[kind])
        writer.add_tensor(name, data, raw_dtype=Type[kind])

    def add_ternary(name: str, rows: int, depth: int) -> None:
        t = CODES[codes](random, rows, depth).astype(np.float32)
        count = {"one": (1, 1), "rows": (rows, 1), "groups": (rows, depth // 256)}[scales]
        scale = random.uniform(0.01, 0.05, count).astype(np.float16).astype(np.float32)
        add(name, t * np.repeat(np.broadcast_to(scale, (rows, count[1])), depth // count[1], axis=1), kind)

    add("token_embd.weight", random.normal(size=(vocabulary, dim)), table)
    add("output_norm.weight", random.uniform(0.5, 1.5, dim))
    if arch == "llama":
        add("output.weight", random.normal(size=(vocabulary, dim)) * 0.1, table)
    for i in range(2):
        at, keys = f"blk.{i}.", KV_HEADS * dim // HEADS
        norms = {"attn_norm": dim, "ffn_norm": dim} | (
            {} if arch == "llama" else {"attn_sub_norm": dim, "ffn_sub_norm": hidden}
        )
        for name, size in norms.items():
            add(f"{at}{name}.weight", random.uniform(0.5, 1.5, size))
        for name, rows, depth in (
            ("attn_q", dim, dim),
            ("attn_k", keys, dim),
            ("attn_v", keys, dim),
            ("attn_output", dim, dim),
            ("ffn_gate", hidden, dim),
            ("ffn_up", hidden, dim),
            ("ffn_down", dim, hidden),
        ):
            add_ternary(f"{at}{name}.weight", rows, depth)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return truth


# Names of GGUF's and ours.
NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_sub_norm": "self_attn.attn_sub_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_sub_norm": "mlp.ffn_sub_norm",
    "ffn_down": "mlp.down_proj",
}


def ours(name: str, values: np.ndarray, arch: str) -> tuple[str, np.ndarray]:
    """A tensor of GGUF's as a .bit file has it. Llama's queries and keys have the halves of a head as neighbours."""
    parts = name.split(".")
    place = f"layers.{parts[1]}." if parts[0] == "blk" else ""
    if arch == "llama" and parts[-2] in ("attn_q", "attn_k"):
        heads = HEADS if parts[-2] == "attn_q" else KV_HEADS
        values = values.reshape(heads, -1, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
    return f"{place}{NAMES[parts[-2]]}.weight", values


@pytest.mark.parametrize("arch", ["llama", "bitnet"])
@pytest.mark.parametrize("kind", ["TQ1_0", "TQ2_0"])
@pytest.mark.parametrize(
    ("codes", "scales", "table"),
    [("random", "groups", "F16"), ("minus", "rows", "BF16"), ("plus", "one", "Q8_0"), ("sparse", "rows", "F32")],
)
def test_every_weight_is_read_and_written_as_the_gguf_package_has_it(
    tmp_path: Path, arch: str, kind: str, codes: str, scales: str, table: str
) -> None:
    theirs, bit, mine = tmp_path / "theirs.gguf", tmp_path / "m.bit", tmp_path / "mine.gguf"
    truth = write_model(theirs, arch, kind, codes=codes, scales=scales, table=table)
    convert(theirs, bit)
    read = decoders.weights_of(bit)
    for name, values in truth.items():
        name, values = ours(name, values, arch)
        np.testing.assert_array_equal(read.pop(name), values, err_msg=name)
    assert not read
    convert(bit, mine, variant=kind.lower())
    tensors = {t.name: t for t in gguf.GGUFReader(mine).tensors}
    assert tensors.keys() == truth.keys()
    for name, values in truth.items():
        found = gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type)
        np.testing.assert_array_equal(found.reshape(values.shape), values, err_msg=name)


def test_q6_k_is_read_as_the_gguf_package_reads_it(tmp_path: Path) -> None:
    path, random = tmp_path / "m.gguf", np.random.default_rng(2)
    write_model(path, "bitnet")
    blocks = random.integers(0, 256, (VOCABULARY, 210), dtype=np.uint8)
    blocks[:, 208:] = random.uniform(-0.01, 0.01, (VOCABULARY, 1)).astype(np.float16).view(np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "k.gguf", "bitnet")
    reader = gguf.GGUFReader(path)
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture", "general.tags")):
            writer.add_key_value(field.name, field.contents(), field.types[0])
    for tensor in reader.tensors:
        if tensor.name == "token_embd.weight":
            writer.add_tensor(tensor.name, blocks, raw_dtype=Type.Q6_K)
        else:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    convert(tmp_path / "k.gguf", tmp_path / "m.bit")
    np.testing.assert_array_equal(
        decoders.weights_of(tmp_path / "m.bit")["embed_tokens.weight"], gguf.quants.dequantize(blocks, Type.Q6_K)
    )


def tensors_of(path: Path) -> dict[str, tuple[int, list[int], bytes]]:
    """Type, sizes from the fastest one on, and bytes up to the next tensor, by the format's description alone: the gguf package does not know every type."""
    data, at = path.read_bytes(), 24
    number = lambda size: int.from_bytes(data[at : at + size], "little")  # noqa: E731
    tensors, metadata = int.from_bytes(data[8:16], "little"), int.from_bytes(data[16:24], "little")
    for _ in range(metadata):
        at += 8 + number(8)
        kind, at = number(4), at + 4
        at += 8 + number(8) if kind == 8 else {4: 4, 6: 4}[kind]
    found = []
    for _ in range(tensors):
        name, at = data[at + 8 : at + 8 + number(8)].decode(), at + 8 + number(8)
        count, at = number(4), at + 4
        sizes = [int.from_bytes(data[at + 8 * i : at + 8 * i + 8], "little") for i in range(count)]
        at += 8 * count
        kind, offset, at = number(4), int.from_bytes(data[at + 4 : at + 12], "little"), at + 12
        found.append((offset, name, kind, sizes))
    begin, found = -(-at // 32) * 32, sorted(found)
    ends = [offset for offset, *_ in found[1:]] + [len(data) - begin]
    return {
        name: (kind, sizes, data[begin + offset : begin + end])
        for (offset, name, kind, sizes), end in zip(found, ends, strict=True)
    }


def unpacked_i2_s(data: bytes, rows: int, depth: int) -> np.ndarray:
    """Each 128 values in 32 bytes, 32 values in the two highest bits, then the next lower ones; a float32 scale behind all."""
    count = rows * depth
    packed = np.frombuffer(data, np.uint8, count // 4).reshape(-1, 1, 32)
    t = (packed >> np.array([6, 4, 2, 0], np.uint8)[:, None] & 3).reshape(rows, depth).astype(np.float32) - 1
    return t * np.frombuffer(data, np.float32, 1, count // 4)


def unpacked_q2_0(data: bytes, rows: int, depth: int) -> np.ndarray:
    blocks = np.frombuffer(data, np.uint8, rows * depth // 64 * 18).reshape(-1, 18)
    t = (blocks[:, 2:, None] >> np.array([0, 2, 4, 6], np.uint8) & 3).reshape(-1, 64).astype(np.float32) - 1
    return (t * blocks[:, :2].copy().view(np.float16).astype(np.float32)).reshape(rows, depth)


@pytest.mark.parametrize("arch", ["llama", "bitnet"])
@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize(("variant", "kind", "unpacked"), [("i2_s", 36, unpacked_i2_s), ("q2_0", 42, unpacked_q2_0)])
def test_types_of_other_engines_are_written_as_they_are_described(
    tmp_path: Path, arch: str, codes: str, variant: str, kind: int, unpacked
) -> None:
    theirs, bit, mine = tmp_path / "theirs.gguf", tmp_path / "m.bit", tmp_path / "mine.gguf"
    truth = write_model(theirs, arch, codes=codes)
    convert(theirs, bit)
    convert(bit, mine, variant=variant)
    for name, (found, sizes, data) in tensors_of(mine).items():
        if found == kind:
            np.testing.assert_array_equal(unpacked(data, sizes[1], sizes[0]), truth[name], err_msg=name)
    assert sum(found == kind for found, *_ in tensors_of(mine).values()) == 14
    convert(mine, tmp_path / "back.bit")
    assert (tmp_path / "back.bit").read_bytes() == bit.read_bytes()


def run(path: Path) -> np.ndarray:
    return np.asarray(bitlab.runtime.Session(path)(np.array([TOKENS])))[0]


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


# Of logits in double precision with the same activations: what is left is rounding, and values that it moves to the next of the 255 steps.
ROUNDING = 5e-4
# Between a scale for each token and one for 256 of its values.
ACTIVATIONS = 2e-2


@pytest.mark.parametrize("arch", ["llama", "bitnet"])
@pytest.mark.parametrize("scales", ["one", "groups"])
def test_the_network_is_that_of_the_file(tmp_path: Path, arch: str, scales: str) -> None:
    write_model(tmp_path / "m.gguf", arch, scales=scales)
    convert(tmp_path / "m.gguf", tmp_path / "m.bit")
    weights = decoders.weights_of(tmp_path / "m.bit")
    assert (
        relative(run(tmp_path / "m.bit"), decoders.logits(weights, TOKENS, HEADS, KV_HEADS, "silu", decoders.by_token))
        < ROUNDING
    )


@pytest.mark.parametrize("arch", ["llama", "bitnet"])
@pytest.mark.parametrize("kind", ["TQ1_0", "TQ2_0"])
def test_llama_cpp_computes_the_same_from_our_files(tmp_path: Path, arch: str, kind: str) -> None:
    pytest.importorskip("xllamacpp")
    import llama_cpp

    theirs, bit, mine = tmp_path / "theirs.gguf", tmp_path / "m.bit", tmp_path / "mine.gguf"
    write_model(theirs, arch, kind)
    convert(theirs, bit)
    convert(bit, mine, variant=kind.lower())
    found = llama_cpp.Model(mine).logits(TOKENS)
    np.testing.assert_array_equal(found, llama_cpp.Model(theirs).logits(TOKENS))
    weights = decoders.weights_of(bit)
    assert relative(found, decoders.logits(weights, TOKENS, HEADS, KV_HEADS, "silu", decoders.by_256)) < ROUNDING
    assert relative(run(bit), found) < ACTIVATIONS
    assert (run(bit).argmax(-1) == found.argmax(-1)).all()


@pytest.mark.parametrize("arch", ["llama", "bitnet"])
def test_llama_cpp_multiplies_by_the_scale_of_a_tensor(tmp_path: Path, arch: str) -> None:
    """0.1 is no float16, so that it stands in a tensor of its own."""
    pytest.importorskip("xllamacpp")
    import llama_cpp

    theirs, bit, mine = tmp_path / "theirs.gguf", tmp_path / "m.bit", tmp_path / "mine.gguf"
    write_model(theirs, arch)
    convert(theirs, bit)
    convert(bit, tmp_path / "i.gguf", variant="i2_s")
    data = bytearray((tmp_path / "i.gguf").read_bytes())
    for kind, sizes, tensor in tensors_of(tmp_path / "i.gguf").values():
        if kind == 36:
            at = data.find(tensor) + sizes[0] * sizes[1] // 4
            data[at : at + 4] = np.float32(0.1).tobytes()
    (tmp_path / "i.gguf").write_bytes(data)
    convert(tmp_path / "i.gguf", bit)
    convert(bit, mine, variant="tq2_0")
    assert "blk.1.ffn_up.scale" in tensors_of(mine)
    weights = decoders.weights_of(bit)
    assert weights["layers.0.mlp.up_proj.weight"].max() == np.float32(0.1)
    expected = decoders.logits(weights, TOKENS, HEADS, KV_HEADS, "silu", decoders.by_256)
    assert relative(llama_cpp.Model(mine).logits(TOKENS), expected) < ROUNDING
    convert(mine, tmp_path / "back.bit")
    assert (tmp_path / "back.bit").read_bytes() == bit.read_bytes()


def test_llama_cpp_unpacks_q2_0_as_we_do(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    import llama_cpp

    truth = write_model(tmp_path / "theirs.gguf", "bitnet")
    convert(tmp_path / "theirs.gguf", tmp_path / "m.bit")
    convert(tmp_path / "m.bit", tmp_path / "mine.gguf", variant="q2_0")
    _, sizes, data = tensors_of(tmp_path / "mine.gguf")["blk.1.ffn_down.weight"]
    found = llama_cpp.dequantized("q2_0", data, sizes[0] * sizes[1]).reshape(sizes[::-1])
    np.testing.assert_array_equal(found, truth["blk.1.ffn_down.weight"])


def test_a_decoder_generates_with_its_states(tmp_path: Path) -> None:
    """Tokens one by one have the logits of all at once."""
    write_model(tmp_path / "m.gguf", "bitnet")
    convert(tmp_path / "m.gguf", tmp_path / "m.bit")
    session = bitlab.runtime.Session(tmp_path / "m.bit")
    one_by_one = np.concatenate([np.asarray(session(np.array([[token]])))[0] for token in TOKENS])
    np.testing.assert_array_equal(one_by_one, run(tmp_path / "m.bit"))


@pytest.mark.parametrize(
    ("activation", "sub_norm", "variant"),
    [("swiglu", False, "tq2_0"), ("swiglu", True, "tq1_0"), ("squared_relu_glu", True, "i2_s")],
)
def test_networks_of_our_layers_become_files_of_llama_cpp(
    tmp_path: Path, activation: str, sub_norm: bool, variant: str
) -> None:
    """From PyTorch to GGUF; llama.cpp has no squared ReLU, so that our runtime reads that file back."""
    model, path = decoders.Network(activation, sub_norm).eval(), tmp_path / "m.gguf"
    tokens = torch.tensor([TOKENS])
    axes = {"input": {0: "batch", 1: "tokens"}}
    bitlab.deploy(model, tokens, path, variant=variant, dynamic_axes=axes, ranges={"tokens": (1, 64)})
    with torch.no_grad():
        expected = model(tokens)[0].numpy()
    convert(path, tmp_path / "back.bit")
    assert relative(run(tmp_path / "back.bit"), expected) < ROUNDING
    if activation == "swiglu":
        pytest.importorskip("xllamacpp")
        import llama_cpp

        assert relative(llama_cpp.Model(path).logits(TOKENS), expected) < ACTIVATIONS


def test_what_llama_cpp_has_no_form_for_is_refused_by_its_node(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with pytest.raises(bitlab.Unsupported, match=r"\[gguf\] a gated feed-forward part, got gelu \(node=.*\)"):
        bitlab.deploy(decoders.Network("gelu", False).eval(), torch.tensor([TOKENS]), path)
    assert not path.exists()
