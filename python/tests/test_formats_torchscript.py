"""TorchScript, phones' TorchScript and exported programs: PyTorch computes what the runtime does, without BitLab where a file promises it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.jit.mobile
from conftest import ROOT
from products import (
    BEHIND_QUANTIZERS,
    QUANTIZATIONS,
    ROUNDING,
    Arrays,
    Products,
    apart,
    deployed,
    examples,
    largest_sums,
    ops_of,
)
from test_formats_gguf import write_model
from torch import nn

import bitlab
import bitlab.ops  # registers torch.ops.bitlab
from bitlab import _command

VARIANTS = ["packed", "portable"]
# In the packed variant these are BitLab's, with the runtime's bits, and in the portable one made of PyTorch's operators.
KERNELS = {"sigmoid", "tanh", "rotary", "ternary_recurrent"}


def outputs_of(bit: Path, results: Any) -> Arrays:
    """What a forward() returned, by the names of the outputs."""
    names = [port.name for port in bitlab.runtime.Model.load(bit).outputs]
    if isinstance(results, torch.Tensor):
        results = (results,)
    if not isinstance(results, dict):
        results = dict(zip(names, results, strict=True))
    return {name: y.numpy() for name, y in results.items()}


def tensors(inputs: Arrays) -> list[torch.Tensor]:
    return [torch.from_numpy(x) for x in inputs.values()]


def difference(bit: Path, inputs: Arrays, variant: str, write: Callable[..., Any] = bitlab.to_torchscript, runs: int = 1) -> float:
    """Of PyTorch's outputs and the runtime's: the largest, relative to the largest output; 0 for equal bits. TorchScript optimizes what runs three times."""
    module = write(bit, variant=variant)
    expected = bitlab.runtime.Session(bit).run(inputs)
    return max(apart(outputs_of(bit, module(*tensors(inputs))), expected) for _ in range(runs))


# --- ternary products


@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=lambda q: "-".join(q.values()))
def test_products_have_the_bits_of_the_runtime(quantization: dict[str, str], tmp_path: Path) -> None:
    model = bitlab.BitModel(Products(), bitlab.BitQuantConfig(**quantization))
    inputs = deployed(model, examples(), tmp_path / "m.bit")
    assert bitlab.runtime.Model.load(tmp_path / "m.bit").is_exact
    for variant in VARIANTS:
        assert difference(tmp_path / "m.bit", inputs, variant) == 0


@pytest.mark.parametrize("activation", ["none", "int8_static", "int4_static"])
def test_float_and_static_activations(activation: str, tmp_path: Path) -> None:
    model = bitlab.BitModel(Products(), bitlab.BitQuantConfig(activation=activation))
    model.train()
    for _ in range(2):
        model(*examples())  # steps of static activations
    inputs = deployed(model, examples(), tmp_path / "m.bit")
    assert difference(tmp_path / "m.bit", inputs, "packed") == 0
    assert difference(tmp_path / "m.bit", inputs, "portable") <= (ROUNDING if activation == "none" else 0)


@pytest.mark.parametrize(
    ("layer", "example"), [(nn.Linear(200, 7), torch.randn(2, 3, 200)), (nn.Conv2d(64, 5, 3), torch.randn(2, 64, 5, 4))], ids=["linear", "conv"]
)
def test_scales_of_groups(layer: nn.Module, example: torch.Tensor, tmp_path: Path) -> None:
    """Sums with scales in them have an order."""
    model = bitlab.BitModel(nn.Sequential(layer), bitlab.BitQuantConfig(granularity="group", group_size=64))
    inputs = deployed(model, example, tmp_path / "m.bit")
    assert difference(tmp_path / "m.bit", inputs, "packed") == 0
    assert difference(tmp_path / "m.bit", inputs, "portable") < ROUNDING


@pytest.mark.parametrize(("method", "depth"), [("absmean", 132_111), ("int8", 1040), ("int8", 2311)])
def test_the_largest_sums(method: str, depth: int, tmp_path: Path) -> None:
    inputs = largest_sums(method, depth, tmp_path / "m.bit")
    for variant in VARIANTS:
        assert difference(tmp_path / "m.bit", inputs, variant) == 0


def test_windows_deeper_than_float32_counts(tmp_path: Path) -> None:
    model = bitlab.BitModel(nn.Sequential(nn.Conv2d(130, 3, 3)), bitlab.BitQuantConfig(method="int8"))
    inputs = deployed(model, torch.rand(2, 130, 4, 4), tmp_path / "m.bit")
    assert difference(tmp_path / "m.bit", inputs, "portable") == 0


TABLES = [{"granularity": "channel"}, {"method": "twn_asymmetric"}, {"granularity": "group", "group_size": 64}, {"method": "int8"}]


@pytest.mark.parametrize("quantization", TABLES, ids=lambda q: "-".join(map(str, q.values())))
def test_tables(quantization: dict[str, Any], tmp_path: Path) -> None:
    model = bitlab.nn.BitEmbedding(11, 70, quant=bitlab.BitQuantConfig(**quantization))
    inputs = deployed(model, torch.randint(0, 11, (2, 5)), tmp_path / "m.bit")
    assert "ternary_embedding" in ops_of(tmp_path / "m.bit")
    for variant in VARIANTS:
        assert difference(tmp_path / "m.bit", inputs, variant) == 0


@pytest.mark.parametrize("layer", [bitlab.nn.BitLSTM, bitlab.nn.BitGRU])
def test_recurrent_layers(layer: type[nn.Module], tmp_path: Path) -> None:
    model = layer(4, 6, batch_first=True, bidirectional=True, quant=bitlab.BitQuantConfig())
    inputs = deployed(model, torch.randn(2, 5, 4), tmp_path / "m.bit")
    assert "ternary_recurrent" in ops_of(tmp_path / "m.bit")
    assert difference(tmp_path / "m.bit", inputs, "packed") == 0
    assert difference(tmp_path / "m.bit", inputs, "portable") < BEHIND_QUANTIZERS


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_float_recurrent_layers(layer: type[nn.Module], tmp_path: Path) -> None:
    inputs = deployed(layer(4, 6, num_layers=2, batch_first=True, bidirectional=True), torch.randn(2, 5, 4), tmp_path / "m.bit")
    assert "recurrent" in ops_of(tmp_path / "m.bit")
    for variant in VARIANTS:
        assert difference(tmp_path / "m.bit", inputs, variant) < ROUNDING


# --- each operation


def exactness() -> dict[str, str]:
    """Of every operation of programs, by name."""
    found: dict[str, str] = {}
    for path in ("ops.def", "elementwise.def"):
        text = (ROOT / "bitlab/program" / path).read_text()
        found |= re.findall(r"^BITLAB_(?:OP|UNARY|BINARY)\((\w+), (\w+)", text, re.MULTILINE)
        found |= {name: "kIeeeExact" for name in re.findall(r"^BITLAB_(?:COMPARISON|INTEGER)\((\w+)", text, re.MULTILINE)}
    return found


def test_every_operation_has_a_row() -> None:
    text = (ROOT / "bitlab/deploy/torchscript/ops.def").read_text()
    assert set(re.findall(r"^BITLAB_SCRIPT(?:_WRITER)?\((\w+)", text, re.MULTILINE)) == exactness().keys()


def fixed_inputs(model: bitlab.runtime.Model) -> Arrays:
    """Of two samples of three tokens: floats from -8 to 8, whole numbers from 0 to 2."""
    random, inputs = np.random.default_rng(0), {}
    for port in model.inputs:
        shape = [size if isinstance(size, int) else eval(size.replace("^", "**"), {"batch": 2, "tokens": 3}) for size in port.shape]
        if port.dtype.startswith("float"):
            inputs[port.name] = (random.integers(-128, 129, shape) / 16).astype(port.dtype)
        else:
            inputs[port.name] = random.integers(0, 2 if port.dtype == "bool" else 3, shape).astype(port.dtype)
    return inputs


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_operation_in_all_its_forms(variant: str) -> None:
    """Each is an output of its own in tests/golden."""
    there = set()
    for bit in sorted((ROOT / "tests/golden").glob("operations_*.bit")):
        model = bitlab.runtime.Model.load(bit)
        ops = dict(re.findall(r"^(\w+)\.y: .* = (\w+)\(", str(model), re.MULTILINE))
        inputs = fixed_inputs(model)
        module = bitlab.to_torchscript(bit, variant=variant)
        parameters = [argument.name for argument in module.forward.schema.arguments][1 + len(inputs) :]
        states = [inputs[name.replace("_keys", ".x2").replace("_values", ".x3")][:, :, :0] for name in parameters]
        found = module(*tensors(inputs), *map(torch.from_numpy, states))
        for name, y in bitlab.runtime.Session(bit).run(inputs).items():
            op = ops[name.split(".")[0]]
            exact = exactness()[op] != "kBounded" and (variant == "packed" or op not in KERNELS)
            assert apart({name: found[name].numpy()}, {name: y}) <= (0 if exact else ROUNDING), name
            there.add(op)
    assert there == exactness().keys()


# --- networks


class Decoder(nn.Module):
    """A decoder of one block, of any number of tokens."""

    def __init__(self) -> None:
        super().__init__()
        quant = bitlab.BitQuantConfig(granularity="channel")
        self.table = bitlab.nn.BitEmbedding(99, 32, quant=quant)
        self.block = bitlab.nn.BitTransformerBlock(
            32, 4, num_kv_heads=2, norm="rms", norm_first=True, causal=True, rope_theta=1e4, bias=False, activation="swiglu", quant=quant
        )
        self.head = nn.Linear(32, 99)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.table(ids)))


def decoder(bit: Path) -> Arrays:
    """Written with its symbols; an example."""
    axes = {"ids": {0: "batch", 1: "tokens"}}
    return deployed(Decoder(), {"ids": torch.randint(0, 99, (2, 12))}, bit, dynamic_axes=axes, ranges={"tokens": (1, 32)})


@pytest.mark.parametrize("write", [bitlab.to_torchscript, bitlab.to_mobile])
def test_a_transformer_takes_other_sizes(write: Callable[..., Any], tmp_path: Path) -> None:
    inputs, bit = decoder(tmp_path / "m.bit"), tmp_path / "m.bit"
    assert {"rotary", "attention", "ternary_linear", "ternary_embedding"} <= ops_of(bit)
    others = [{"ids": np.random.default_rng(1).integers(0, 99, size)} for size in [(1, 1), (3, 32)]]
    for variant in VARIANTS:
        module = write(bit, variant=variant)
        for values in [inputs, *others]:
            expected = bitlab.runtime.Session(bit).run(values)
            assert apart(outputs_of(bit, module(*tensors(values))), expected) < BEHIND_QUANTIZERS


LENET5 = ROOT / "tests/golden/lenet5.bit"


def lenet_images(count: int = 5) -> Arrays:
    return {"input": np.random.default_rng(0).standard_normal((count, 1, 28, 28), dtype=np.float32)}


@pytest.mark.parametrize("write", [bitlab.to_torchscript, bitlab.to_mobile])
def test_lenet5_has_the_bits_of_the_runtime(write: Callable[..., Any]) -> None:
    for variant in VARIANTS:
        for count in (5, 0, 1):
            assert difference(LENET5, lenet_images(count), variant, write, runs=3) == 0


def test_a_decoder_goes_on_from_its_states(tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf", "llama")
    bitlab.formats.convert(tmp_path / "m.gguf", tmp_path / "m.bit")
    for variant in VARIANTS:
        module = bitlab.to_torchscript(tmp_path / "m.bit", variant=variant)
        session = bitlab.runtime.Session(tmp_path / "m.bit")
        (ids,), (logits,) = (port.name for port in session.model.inputs), (port.name for port in session.model.outputs)
        past = [torch.zeros(1, 2, 0, 64)] * 4  # keys and values of two layers
        for count in (5, 1, 3):
            tokens = np.random.default_rng(count).integers(0, 300, (1, count))
            expected = session.run({ids: tokens})[logits]
            found = module(torch.from_numpy(tokens), *past)
            past = [state for name, state in found.items() if name.endswith(".next")]
            assert np.abs(found[logits].numpy() - expected).max() < BEHIND_QUANTIZERS * np.abs(expected).max()
            assert len(past) == 4 and all(state.shape[2] == session.position for state in past)


class Several(nn.Module):
    """Inputs of several dtypes, outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.dense = nn.Embedding(9, 6), nn.Linear(6, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, shift: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = torch.where(mask.unsqueeze(-1), self.table(ids), shift)
        return {"lambda": self.dense(hidden), "places": ids * 2, "hidden": hidden}


def several(batch: int, tokens: int) -> tuple[torch.Tensor, ...]:
    return torch.randint(0, 9, (batch, tokens)), torch.rand(batch, tokens) > 0.5, torch.randn(batch, 1, 6)


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    example = several(2, 5)
    bit, model = tmp_path / "m.bit", bitlab.BitModel(Several())
    inputs = deployed(model, example, bit)
    for variant in VARIANTS:
        assert difference(bit, inputs, variant) == 0
    found = bitlab.to_torchscript(model, example, tmp_path / "m.pt")(*example)
    assert list(found) == ["lambda", "places", "hidden"] and (tmp_path / "m.pt").exists()
    assert torch.equal(found["lambda"], model(*example)["lambda"])


# --- files


def test_portable_files_need_no_bitlab(tmp_path: Path) -> None:
    inputs = lenet_images()
    np.savez(tmp_path / "expected.npz", x=inputs["input"], y=bitlab.runtime.Session(LENET5).run(inputs)["output"])
    bitlab.formats.convert(LENET5, tmp_path / "m.pt", variant="portable")
    bitlab.formats.convert(LENET5, tmp_path / "m.ptl")
    code = """if True:
        import sys, numpy, torch, torch.jit.mobile
        data = numpy.load("expected.npz")
        torch.set_num_threads(1)
        for module in (torch.jit.load("m.pt"), torch.jit.mobile._load_for_lite_interpreter("m.ptl")):
            assert module(torch.from_numpy(data["x"])).numpy().tobytes() == data["y"].tobytes(), module
        assert "bitlab" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env={"PATH": "/usr/bin"})


def test_statements_are_called_as_the_nodes(tmp_path: Path) -> None:
    module = bitlab.to_torchscript(LENET5)
    nodes = re.findall(r"^(\w+): .* = \w+\(", str(bitlab.runtime.Model.load(LENET5)), re.MULTILINE)
    assert nodes[0] == "conv1" and all(f"{name} = " in module.code for name in nodes[:-1])  # the last one is returned
    assert "ops.bitlab.ternary_conv" in module.code
    buffers = dict(module.named_buffers())
    assert buffers["conv1_weight"].dtype == torch.uint8 and buffers["conv1_weight"].shape == (20, 7)
    text = {"capture": ""}
    bitlab.deploy(nn.Linear(3, 2), torch.randn(1, 3), tmp_path / "m.pt")
    torch.jit.load(tmp_path / "m.pt", _extra_files=text)
    assert b"recorded" in text["capture"]


def test_deploy_writes_a_format(tmp_path: Path) -> None:
    model, x = bitlab.BitModel(nn.Sequential(nn.Linear(12, 3))).eval(), torch.randn(2, 12)
    done = bitlab.deploy(model, x, tmp_path / "m.pt", variant="portable")
    assert done.file_bytes == (tmp_path / "m.pt").stat().st_size
    bitlab.deploy(model, x, tmp_path / "model", format="torchscript", variant="portable")
    assert (tmp_path / "model").read_bytes() == (tmp_path / "m.pt").read_bytes()
    with torch.no_grad():
        assert torch.equal(torch.jit.load(tmp_path / "model")(x), model(x))
    with pytest.raises(bitlab.UnknownName, match="a variant of torchscript of"):
        bitlab.deploy(model, x, tmp_path / "m.pt", variant="float")
    with pytest.raises(bitlab.Unsupported, match="a file to write"):
        bitlab.formats.convert(tmp_path / "m.pt", tmp_path / "m.bit")
    formats = {f.name: f for f in bitlab.formats.available()}
    assert formats["torchscript"].variants == VARIANTS and formats["ptl"].variants == VARIANTS[::-1]


# --- exported programs


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_exported_program_has_the_bits_of_the_runtime(variant: str, tmp_path: Path) -> None:
    bitlab.to_exported_program(LENET5, path=tmp_path / "m.pt2", variant=variant)
    program = torch.export.load(tmp_path / "m.pt2")
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert ("bitlab.ternary_conv.default" in targets) == any("bitlab" in target for target in targets) == (variant == "packed")
    for count in (5, 1):
        inputs = lenet_images(count)
        assert torch.equal(program.module()(*tensors(inputs)), torch.from_numpy(bitlab.runtime.Session(LENET5).run(inputs)["output"]))


def test_the_command_writes_an_exported_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.pt2"
    monkeypatch.setattr(sys, "argv", ["bitlab", "deploy", str(LENET5), "-o", str(path), "--variant", "portable"])
    _command.main()
    assert f"m.pt2: {path.stat().st_size} bytes" in capsys.readouterr().out
    inputs = lenet_images()
    found = torch.export.load(path).module()(*tensors(inputs))
    assert torch.equal(found, torch.from_numpy(bitlab.runtime.Session(LENET5).run(inputs)["output"]))
    monkeypatch.setattr(sys, "argv", ["bitlab", "deploy", str(tmp_path / "absent.bit"), "-o", str(path)])
    with pytest.raises(SystemExit) as stopped:
        _command.main()
    assert stopped.value.code == 3 and "absent.bit" in capsys.readouterr().err


def test_an_exported_program_of_a_module_takes_other_sizes() -> None:
    model = bitlab.BitModel(Several()).eval()
    axes = {0: "batch", 1: "tokens"}
    example = dict(zip(("ids", "mask", "shift"), several(2, 5), strict=True))
    exported = bitlab.to_exported_program(
        model, example, dynamic_axes={"ids": axes, "mask": axes, "shift": {0: "batch"}}, ranges={"tokens": (1, 32)}
    )
    for sizes in [(2, 5), (1, 1), (7, 32)]:
        inputs = several(*sizes)
        found, expected = exported.module()(*inputs), model(*inputs)
        assert all(torch.equal(found[name], y) for name, y in expected.items()) and len(found) == 3


def test_states_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf", "llama")
    with pytest.raises(bitlab.Unsupported, match="without states"):
        bitlab.to_exported_program(tmp_path / "m.gguf")
    with pytest.raises(bitlab.InvalidArgument, match="an example"):
        bitlab.to_torchscript(nn.Linear(2, 2))
