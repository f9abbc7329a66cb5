"""ExecuTorch: its runtime computes what ours does, of files with weights in two bits. Skipped where `pip install 'bitlab[executorch]'` was not run."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bitlab.torch_formats import _network
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
from test_formats_torchscript import (
    KERNELS,
    LENET5,
    TABLES,
    Several,
    decoder,
    exactness,
    fixed_inputs,
    lenet_images,
    several,
    tensors,
)
from torch import nn

import bitlab
from bitlab import _command, _torch

with_executorch = pytest.mark.skipif(
    importlib.util.find_spec("executorch") is None, reason="executorch is not installed: pip install 'bitlab[executorch]', 500 MB"
)


def outputs_of(program: Any, bit: Path, inputs: Arrays) -> Arrays:
    """What ExecuTorch's runtime computes, by the names of the outputs."""
    from executorch.runtime import Runtime

    found = Runtime.get().load_program(program.buffer).load_method("forward").execute(tensors(inputs))
    names = [port.name for port in bitlab.runtime.Model.load(bit).outputs]
    return {name: y.numpy().copy() for name, y in zip(names, found, strict=True)}


def difference(bit: Path, *runs: Arrays, **options: Any) -> float:
    """Of ExecuTorch's outputs and the runtime's: the largest, relative to the largest output; 0 for equal bits."""
    program = bitlab.to_executorch(bit, **options)
    return max(apart(outputs_of(program, bit, inputs), bitlab.runtime.Session(bit).run(inputs)) for inputs in runs)


def first(inputs: Arrays, count: int = 1) -> Arrays:
    return {name: x[:count] for name, x in inputs.items()}


# --- ternary products


@with_executorch
@pytest.mark.parametrize("quantization", [QUANTIZATIONS[i] for i in (0, 7, 10)], ids=lambda q: "-".join(q.values()))
def test_products_have_the_bits_of_the_runtime(quantization: dict[str, str], tmp_path: Path) -> None:
    model = bitlab.BitModel(Products(), bitlab.BitQuantConfig(**quantization))
    inputs = deployed(model, examples(), tmp_path / "m.bit")
    assert difference(tmp_path / "m.bit", inputs, first(inputs), ranges={"batch": (1, 3)}) == 0


@with_executorch
def test_static_activations_have_the_bits_of_the_runtime(tmp_path: Path) -> None:
    model = bitlab.BitModel(Products(), bitlab.BitQuantConfig(activation="int8_static"))
    model.train()
    model(*examples())
    inputs = deployed(model, examples(), tmp_path / "m.bit")
    assert difference(tmp_path / "m.bit", first(inputs)) == 0


@with_executorch
@pytest.mark.parametrize("options", [{"activation": "none"}, {"granularity": "group", "group_size": 64}], ids=["float", "group"])
def test_sums_of_scaled_products_are_rounded(options: dict[str, Any], tmp_path: Path) -> None:
    inputs = deployed(bitlab.BitModel(nn.Sequential(nn.Linear(200, 7)), bitlab.BitQuantConfig(**options)), torch.randn(3, 200), tmp_path / "m.bit")
    assert difference(tmp_path / "m.bit", first(inputs)) < ROUNDING


@with_executorch
@pytest.mark.parametrize(("method", "depth"), [("absmean", 132_111), ("int8", 2311)])
def test_the_largest_sums(method: str, depth: int, tmp_path: Path) -> None:
    inputs = largest_sums(method, depth, tmp_path / "m.bit")
    assert difference(tmp_path / "m.bit", inputs, ranges={"batch": (2, 2)}) == 0


@with_executorch
@pytest.mark.parametrize("quantization", TABLES, ids=lambda q: "-".join(map(str, q.values())))
def test_tables(quantization: dict[str, Any], tmp_path: Path) -> None:
    model = bitlab.nn.BitEmbedding(11, 70, quant=bitlab.BitQuantConfig(**quantization))
    inputs = deployed(model, torch.randint(0, 11, (2, 5)), tmp_path / "m.bit")
    assert difference(tmp_path / "m.bit", first(inputs)) == 0


# --- each operation

# ExecuTorch 1.5 has no kernels for these, nor for scatter in other modes than to set and to add.
WITHOUT_KERNELS = {"adaptive_max_pool", "cummax", "cumprod", "erfinv", "sort"}


class Some(nn.Module):
    """Some of a network's outputs, from empty states."""

    def __init__(self, network: nn.Module, names: list[str], states: list[torch.Tensor]) -> None:
        super().__init__()
        self.network, self.names, self.states = network, names, states

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.network(*inputs, *self.states)
        return tuple(outputs[name] for name in self.names)


@with_executorch
@pytest.mark.parametrize("bit", sorted((ROOT / "tests/golden").glob("operations_*.bit")), ids=lambda bit: bit.stem)
def test_every_operation_in_all_its_forms(bit: Path) -> None:
    """Those with a kernel at once; each of the others is refused."""
    from executorch.exir import EdgeCompileConfig, to_edge
    from executorch.runtime import Runtime

    def lowered(names: list[str]) -> tuple[Any, set[str]]:
        exported = torch.export.export(Some(network, names, states), tuple(tensors(inputs)))
        program = to_edge(exported, compile_config=EdgeCompileConfig(_check_ir_validity=False)).to_executorch()
        called = {f"{operator.name}.{operator.overload}" for operator in program.executorch_program.execution_plan[0].operators}
        return program, called - Runtime.get().operator_registry.operator_names

    model = bitlab.runtime.Model.load(bit)
    ops = dict(re.findall(r"^(\w+)\.y: .* = (\w+)\(", str(model), re.MULTILINE))
    inputs = fixed_inputs(model)
    expected = bitlab.runtime.Session(bit).run(inputs)
    network = _network(bit, "portable")
    parameters = list(inspect.signature(network.forward).parameters)[len(inputs) :]
    states = [torch.from_numpy(inputs[name.replace("_keys", ".x2").replace("_values", ".x3")][:, :, :0]) for name in parameters]
    missing = [name for name in expected if ops[name.split(".")[0]] in WITHOUT_KERNELS or name == "scatter2.y"]
    for name in missing:
        assert lowered([name])[1], name
    program, absent = lowered([name for name in expected if name not in missing])
    assert not absent
    found = iter(Runtime.get().load_program(program.buffer).load_method("forward").execute(tensors(inputs)))
    for name, y in expected.items():
        op = ops[name.split(".")[0]]
        if name not in missing:
            exact = exactness()[op] != "kBounded" and op not in KERNELS
            assert apart({name: next(found).numpy()}, {name: y}) <= (0 if exact else ROUNDING), name


# --- networks


@with_executorch
def test_lenet5_has_the_bits_of_the_runtime_and_two_bits_a_weight(tmp_path: Path) -> None:
    program = bitlab.to_executorch(LENET5, path=tmp_path / "m.pte", ranges={"batch": (1, 7)})
    images = lenet_images(7)
    images["input"][2] = 0.0
    images["input"][3] *= 1e30
    for count in (7, 1, 3):
        inputs = first(images, count)
        assert apart(outputs_of(program, LENET5, inputs), bitlab.runtime.Session(LENET5).run(inputs)) == 0
    bytes_of_file = (tmp_path / "m.pte").read_bytes()
    assert bytes_of_file == program.buffer
    constants = 0
    for name, tensor in _torch.script_of(str(LENET5), "portable")[1].items():
        assert tensor.numpy().tobytes() in bytes_of_file, name
        constants += tensor.nbytes
    assert constants < 113_000 and len(bytes_of_file) < constants + 32_768  # float32 weights: 1,724,320


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(image)))
        x = torch.relu(x + self.second(torch.relu(self.first(x))))
        return self.head(nn.functional.adaptive_avg_pool2d(nn.functional.max_pool2d(x, 2), 1).flatten(1))


@with_executorch
def test_a_residual_network(tmp_path: Path) -> None:
    model = bitlab.BitModel(Residual(), bitlab.BitQuantConfig(granularity="channel"))
    model.train()
    model(torch.randn(6, 3, 13, 11))  # statistics of the norm
    inputs = deployed(model, torch.randn(5, 3, 13, 11), tmp_path / "m.bit")
    assert difference(tmp_path / "m.bit", inputs, first(inputs), ranges={"batch": (1, 5)}) < BEHIND_QUANTIZERS


@with_executorch
def test_a_transformer_takes_other_sizes(tmp_path: Path) -> None:
    inputs, bit = decoder(tmp_path / "m.bit"), tmp_path / "m.bit"
    assert {"rotary", "attention", "ternary_linear", "ternary_embedding"} <= ops_of(bit)
    others = [{"ids": np.random.default_rng(1).integers(0, 99, size)} for size in [(1, 1), (3, 32)]]
    assert difference(bit, inputs, *others, ranges={"batch": (1, 3)}) < BEHIND_QUANTIZERS


@with_executorch
@pytest.mark.parametrize("layer", [bitlab.nn.BitLSTM, bitlab.nn.BitGRU])
def test_recurrent_layers(layer: type[nn.Module], tmp_path: Path) -> None:
    model = layer(4, 6, batch_first=True, bidirectional=True, quant=bitlab.BitQuantConfig())
    inputs = deployed(model, torch.randn(2, 5, 4), tmp_path / "m.bit")
    assert "ternary_recurrent" in ops_of(tmp_path / "m.bit")
    assert difference(tmp_path / "m.bit", first(inputs)) < BEHIND_QUANTIZERS


@with_executorch
def test_float_recurrent_layers(tmp_path: Path) -> None:
    inputs = deployed(nn.GRU(4, 6, batch_first=True), torch.randn(2, 5, 4), tmp_path / "m.bit")
    assert "recurrent" in ops_of(tmp_path / "m.bit")
    assert difference(tmp_path / "m.bit", first(inputs)) < ROUNDING


@with_executorch
def test_a_module_with_several_inputs_and_outputs(tmp_path: Path) -> None:
    model, axes = bitlab.BitModel(Several()).eval(), {0: "batch", 1: "tokens"}
    example = dict(zip(("ids", "mask", "shift"), several(2, 5), strict=True))
    dynamic = {"ids": axes, "mask": axes, "shift": {0: "batch"}}
    program = bitlab.to_executorch(model, example, tmp_path / "m.pte", dynamic_axes=dynamic, ranges={"batch": (1, 7), "tokens": (1, 9)})
    bitlab.deploy(model, example, tmp_path / "m.bit", dynamic_axes=dynamic)
    for sizes in [(2, 5), (1, 1), (7, 9)]:
        inputs = dict(zip(example, (x.numpy() for x in several(*sizes)), strict=True))
        expected = bitlab.runtime.Session(tmp_path / "m.bit").run(inputs)
        assert apart(outputs_of(program, tmp_path / "m.bit", inputs), expected) == 0 and len(expected) == 3


# --- files and errors


@with_executorch
def test_the_command_writes_a_file_that_needs_no_bitlab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = lenet_images(2)
    np.savez(tmp_path / "expected.npz", x=inputs["input"], y=bitlab.runtime.Session(LENET5).run(inputs)["output"])
    monkeypatch.setattr(sys, "argv", ["bitlab", "deploy", str(LENET5), "-o", str(tmp_path / "m.pte"), "--range", "batch=1:2"])
    _command.main()
    assert f"m.pte: {(tmp_path / 'm.pte').stat().st_size} bytes, " in capsys.readouterr().out
    code = """if True:
        import sys, numpy, torch
        from executorch.runtime import Runtime
        data = numpy.load("expected.npz")
        forward = Runtime.get().load_program("m.pte").load_method("forward")
        for count in (2, 1):
            found = forward.execute([torch.from_numpy(data["x"][:count])])[0]
            assert found.numpy().tobytes() == data["y"][:count].tobytes(), count
        try:
            forward.execute([torch.zeros(3, 1, 28, 28)])
        except RuntimeError:
            print("refused")
        assert "bitlab" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env={"PATH": "/usr/bin"}, stdout=subprocess.PIPE, text=True)
    assert "refused" in done.stdout


@with_executorch
def test_what_is_refused(tmp_path: Path) -> None:
    bit = tmp_path / "m.bit"
    write_model(tmp_path / "m.gguf", "llama")
    with pytest.raises(bitlab.Unsupported, match="without states"):
        bitlab.to_executorch(tmp_path / "m.gguf", ranges={"tokens": (1, 4)})
    with pytest.raises(bitlab.InvalidArgument, match="an example"):
        bitlab.to_executorch(nn.Linear(2, 2))
    with pytest.raises(bitlab.UnknownName, match="ranges of batch, got one of 'tokens'"):
        bitlab.to_executorch(LENET5, ranges={"tokens": (1, 2)})
    with pytest.raises(bitlab.InvalidArgument, match="a range of batch within 1 to .*, got 3 to 2"):
        bitlab.to_executorch(LENET5, ranges={"batch": (3, 2)})
    axes = {"input": {0: "batch", 1: "tokens"}}
    deployed(nn.ReLU(), {"input": torch.zeros(2, 5)}, bit, dynamic_axes=axes)
    with pytest.raises(bitlab.InvalidArgument, match="a largest size of tokens.*ranges={'tokens': "):
        bitlab.to_executorch(bit)
    deployed(bitlab.nn.BitGRU(3, 2, batch_first=True), {"input": torch.zeros(2, 5, 3)}, bit, dynamic_axes=axes, ranges={"tokens": (2, 9)})
    with pytest.raises(bitlab.Unsupported, match=r"sizes that may differ in an exported program, got.*\(tokens\)"):
        bitlab.to_executorch(bit)
    (tmp_path / "m.pte").write_text("there before")
    deployed(nn.AdaptiveMaxPool2d(2), torch.zeros(2, 3, 5, 5), bit)
    with pytest.raises(bitlab.Unsupported, match="operators with a kernel, got aten::adaptive_max_pool2d.out"):
        bitlab.to_executorch(bit, path=tmp_path / "m.pte")
    assert (tmp_path / "m.pte").read_text() == "there before"


def test_without_executorch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(ImportError, match=r"expects ExecuTorch: pip install 'bitlab\[executorch\]'"):
        bitlab.to_executorch(LENET5)
    monkeypatch.setattr(sys, "argv", ["bitlab", "deploy", str(LENET5), f"--output={tmp_path}/m.pte"])
    with pytest.raises(SystemExit) as stopped:
        _command.main()
    assert stopped.value.code == 4 and "bitlab[executorch]" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def code_of(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["bitlab", "deploy", *arguments])
        with pytest.raises(SystemExit) as stopped:
            _command.main()
        return stopped.value.code

    assert code_of("a.bit", "-o", "m.pte", "--range", "batch") == 2
    assert "NAME=LEAST:MOST expected, got 'batch'" in capsys.readouterr().err
    assert code_of(str(tmp_path), "-o", "m.pte") == 2
    assert "a file for PyTorch's compilers" in capsys.readouterr().err
    became: list[list[str]] = []
    monkeypatch.setattr(_command.os, "execv", lambda program, arguments: became.append(arguments))
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(sys, "argv", ["bitlab", "deploy", "a.bit", "-o", "m.pt"])
    _command.main()
    assert became[0][1:] == ["deploy", "a.bit", "-o", "m.pt"]
