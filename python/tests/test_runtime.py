"""The runtime over NumPy, beside the bits that the golden files keep, and without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import ROOT

import bitlab

GOLDEN = ROOT / "tests/golden/lenet5.bit"


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((5, 1, 28, 28), dtype=np.float32)


def test_errors_tell_paths_that_are_no_utf8() -> None:
    with pytest.raises(bitlab.NotFound, match="/none/\ufffd.bit"):
        bitlab.runtime.Session(b"/none/\xff.bit")


def test_golden_logits() -> None:
    images = bitlab.data.load_dataset("synthetic", "test", limit=16)
    batch = np.stack([images[i][0] for i in range(len(images))])
    logits = bitlab.runtime.Session(GOLDEN)(batch)
    expected = np.fromfile(ROOT / "tests/golden/lenet5.logits", np.float32).reshape(-1, 10)
    assert logits.tobytes() == expected[:16].tobytes()


def test_what_a_model_says() -> None:
    model = bitlab.runtime.Model.load(GOLDEN)
    (port,) = model.inputs
    assert (port.name, port.dtype, port.shape) == ("input", "float32", ["batch", 1, 28, 28])
    assert model.outputs[0].shape == ["batch", 10]
    assert model.symbols["batch"][0] == 0
    assert model.metadata["model"] and model.is_exact
    assert 10 * model.weight_bytes < model.float32_weight_bytes
    assert repr(bitlab.runtime.Model.from_bytes(GOLDEN.read_bytes())) == repr(model)


def test_same_bits_by_name_by_place_in_parts_and_threads(x: np.ndarray) -> None:
    model = bitlab.runtime.Model.load(GOLDEN)
    whole = bitlab.runtime.Session(model)(x)
    for threads in (1, 3):
        session = bitlab.runtime.Session(model, threads=threads)
        assert session.run({"input": x})["output"].tobytes() == whole.tobytes()
        parts = [session(x[i : i + 2]) for i in range(0, 5, 2)]
        assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert session(x[:0]).shape == (0, 10)


def test_outputs_are_the_callers_or_the_sessions(x: np.ndarray) -> None:
    session = bitlab.runtime.Session(GOLDEN)
    mine = session(x[:1])
    kept = mine.copy()
    view = session.run({"input": x[1:2]}, copy=False)["output"]
    before = view.copy()
    other = session.run({"input": x[2:3]}, copy=False)["output"]
    assert np.array_equal(mine, kept)
    assert np.shares_memory(view, other) and not np.array_equal(view, before)
    del session
    assert np.isfinite(other).all()  # the memory lives as long as the array


def test_layouts_of_arrays(x: np.ndarray) -> None:
    session = bitlab.runtime.Session(GOLDEN)
    expected = session(x)
    strided = np.asfortranarray(x)
    assert not strided.flags.c_contiguous
    assert session(strided).tobytes() == expected.tobytes()
    x.flags.writeable = False
    assert session(x).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda s, x: s(x.astype(np.int64)), bitlab.TypeMismatch, "float32 values, got int64"),
        (lambda s, x: s(x[:, :, :5]), bitlab.ShapeMismatch, r"\[5, 1, 5, 28\]"),
        (lambda s, x: s.run({"image": x}), bitlab.InvalidArgument, "'?input"),
        (lambda s, x: s(), bitlab.InvalidArgument, "1"),
        (lambda s, x: s("x"), bitlab.TypeMismatch, "got str"),
        (lambda s, x: s(x.astype(complex)), bitlab.TypeMismatch, "complex128"),
        (lambda s, x: s(np.full_like(x, np.nan)), bitlab.NotFinite, "finite"),
        (lambda s, x: bitlab.runtime.Session("nowhere.bit"), bitlab.NotFound, "nowhere.bit"),
        (lambda s, x: bitlab.runtime.Model.from_bytes(b"nothing"), bitlab.Corrupt, "got"),
        (lambda s, x: bitlab.runtime.Session(GOLDEN, threads=-1), bitlab.InvalidArgument, "threads"),
        (lambda s, x: bitlab.runtime.Session(GOLDEN, device="gpu"), bitlab.InvalidArgument, "'cuda:<number>', got 'gpu'"),
    ],
)
def test_errors(call: object, error: type[Exception], text: str, x: np.ndarray) -> None:
    with pytest.raises(error, match=text) as raised:
        call(bitlab.runtime.Session(GOLDEN), x)  # type: ignore[operator]
    assert "\n" not in str(raised.value)


def test_errors_are_pythons_too() -> None:
    assert issubclass(bitlab.NotFound, FileNotFoundError) and issubclass(bitlab.ShapeMismatch, ValueError)
    assert issubclass(bitlab.TypeMismatch, TypeError) and issubclass(bitlab.Unsupported, NotImplementedError)
    assert issubclass(bitlab.Error, RuntimeError)


def test_profile(x: np.ndarray) -> None:
    model = bitlab.runtime.Model.load(GOLDEN)
    profile = bitlab.profile(GOLDEN, x, runs=4, roofs=False)
    report = profile.to_dict()
    assert report == json.loads(profile.json())
    assert report["model"] == str(GOLDEN) and report["sizes"] == {"batch": 5}
    nodes = {node["node"]: node for node in report["nodes"]}
    assert nodes["fc1"]["macs"] == 5 * 500 * 800 and nodes["fc1"]["calls"] == 4
    assert sum(node["share"] for node in nodes.values()) == pytest.approx(1)
    assert "roofs" not in report and "roof_share" not in nodes["fc1"]
    trace = json.loads(profile.chrome_trace())["traceEvents"]
    assert sum(event["ph"] == "X" for event in trace) == 4 * (len(nodes) + 1)
    assert "conv1" in profile.table() and str(profile) == profile.table()
    assert "conv1" in profile.memory_table()
    page = bitlab.runtime.profile(model, {"input": x}, runs=1, threads=2).html()
    assert page.startswith("<!doctype html>") and 'id="roofline"' in page
    with pytest.raises(bitlab.InvalidArgument, match="'1'"):
        bitlab.profile(model, (x, x))
    with pytest.raises(bitlab.InvalidArgument, match="one run"):
        bitlab.profile(model, x, runs=0)


def test_threads_share_a_session(x: np.ndarray) -> None:
    session = bitlab.runtime.Session(GOLDEN)
    expected = [session(x[i : i + 1]).tobytes() for i in range(5)]
    wrong: list[int] = []

    def work(i: int) -> None:
        wrong.extend(i for _ in range(50) if session(x[i : i + 1]).tobytes() != expected[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_without_torch() -> None:
    """Nothing of the runtime imports PyTorch, and what needs it says so."""
    program = f"""
import sys
sys.modules["torch"] = None
import bitlab, numpy as np
assert bitlab.runtime.Session({str(GOLDEN)!r})(np.zeros((1, 1, 28, 28), np.float32)).shape == (1, 10)
assert not any(name.startswith("torch.") for name in sys.modules)
try:
    bitlab.BitModel
except ImportError as error:
    assert "pip install" in str(error), error
else:
    raise AssertionError
from bitlab import *
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
