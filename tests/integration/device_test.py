"""Training on the device that the host plays (tests/cuda/played_libtorch.cc): steps of the CPU, checkpoints that a machine without a device reads, and
how often the host waits for it."""

import collections
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from programs import BINARY, check_refused, losses, run, start_two

DEVICE = {
    "LD_PRELOAD": str(BINARY / "lib" / "libbitlab_played_libtorch.so"),
    "BITLAB_CUDA_PLUGIN": str(BINARY / "lib" / "libbitlab_cuda_emulated.so"),
    "BITLAB_EMULATED_OPEN_MEMORY": "1",
}
PLAYED_NCCL = {"BITLAB_NCCL_PLUGIN": DEVICE["LD_PRELOAD"]}
PICTURES = ["train", "--data", "synthetic", "--limit", "96", "--batch-size", "24", "--threads", "1", "--log.steps", "1"]
MLP = [*PICTURES, "--model", "mlp", "--set", "model.hidden=[40]"]
TEXT = ["train", "--model", "gpt", "--data", "tinyshakespeare", "--limit", "48", "--batch-size", "8", "--threads", "1", "--log.steps", "1",
        "--data-options", "{tokens: 24}", "--model.dim", "32", "--model.layers", "2", "--model.heads", "2"]  # fmt: skip


class Device(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="bitlab_device_"))
        self.addCleanup(shutil.rmtree, self.folder)

    def train(self, name, *arguments, epochs=2, **environment):
        """The folder of a run, on the device where `environment` has one."""
        folder = self.folder / name
        device = ["--device", "cuda"] if environment else []
        result = run("bitlab", *arguments, "--epochs", epochs, *device, "-o", folder, env=environment)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stderr, "")
        return folder

    def check_same_steps(self, found, expected, tolerance=2e-3):
        self.assertEqual(len(found), len(expected))
        for a, b in zip(found, expected, strict=True):
            self.assertAlmostEqual(a, b, delta=tolerance * abs(b))

    def test_steps_are_those_of_the_cpu(self):
        teacher = self.train("teacher", *MLP, "--quant", "none")
        for name, arguments in {
            "pictures": [*PICTURES, "--model", "lenet5"],
            "text": TEXT,
            "warm-up, stochastic rounding": [*MLP, "--ternary-warmup", "0.5", "--rounding", "stochastic", "--granularity", "channel"],
            "averages, clipping, mixup": [*MLP, "--ema", "0.9", "--clip-norm", "0.5", "--mixup", "0.2", "--accumulate", "2"],
            "muon, statistics": [*MLP, "--quant", "lsq", "--optimizer", "muon", "--statistics-batches", "2", "--freeze-oscillation", "0.05"],
            "a teacher": [*MLP, "--activation", "int8_static", "--optimizer", "sgd", "--teacher", teacher, "--distillation", "0.5"],
        }.items():
            with self.subTest(name):
                cpu, device = self.train("cpu " + name, *arguments), self.train(name, *arguments, **DEVICE)
                self.check_same_steps(losses(device), losses(cpu))
                self.assertEqual(json.loads((device / "environment.json").read_text())["device"], "cuda")

    def test_half_precision_scales_the_loss(self):
        half = [*MLP, "--precision", "float16"]
        self.check_same_steps(losses(self.train("half", *half, **DEVICE)), losses(self.train("cpu", *half)), 2e-2)

    def test_checkpoints_are_read_without_a_device(self):
        device = self.train("device", *PICTURES, "--model", "lenet5", **DEVICE)
        bit = self.folder / "lenet5.bit"
        for command in (["deploy", device, "-o", bit], ["verify", bit, "--against", device]):
            result = run("bitlab", *command)
            self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("agree", result.stdout)
        (device / "report.json").unlink()
        result = run("bitlab", "train", "--resume", "--device", "cpu", "--train.device", "cpu", "-o", device)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertTrue((device / "report.json").exists())

    def test_goes_on_to_the_same_bits(self):
        """Random numbers of the device among them, as dropout draws."""
        arguments = [*TEXT, "--model.dropout", "0.2", "--ema", "0.9", "--precision", "float16", "--freeze-oscillation", "0.05"]
        whole = self.train("whole", *arguments, "--keep-last", "20", "--checkpoint-steps", "1", **DEVICE)
        begun = self.folder / "begun"
        shutil.copytree(whole, begun)
        for name in ("last.ckpt", "best.ckpt", "report.json"):
            (begun / name).unlink()
        shutil.copy(begun / "last-000004.ckpt", begun / "last.ckpt")
        result = run("bitlab", "train", "--resume", "-o", begun, env=DEVICE)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(losses(begun), losses(whole))
        self.assertEqual((begun / "best.ckpt").read_bytes(), (whole / "best.ckpt").read_bytes())

    def waits(self, name, *arguments):
        """What the host waited for in a step, and how often: of two runs that differ in their steps alone."""
        counts, steps = [], []
        for samples in (96, 192):
            log, limit = self.folder / f"{name} {samples}", ["--data.limit", samples]
            environment = {**DEVICE, "BITLAB_PLAYED_WAITS": str(log)}
            folder = self.train(f"{name} {samples} run", *arguments, *limit, "--validation", "0", epochs=1, **environment)
            counts.append(collections.Counter(log.read_text().splitlines()))
            steps.append(len(losses(folder)))
        counts[1].subtract(counts[0])
        return {what: count / (steps[1] - steps[0]) for what, count in counts[1].items() if count > 0}

    def test_how_often_the_host_waits(self):
        for name, arguments, expected in (
            ("positions", TEXT, {"aten::item": 1}),
            ("norm", [*PICTURES, "--model", "lenet5", "--ternary-warmup", "0.5", "--clip-norm", "1"], {"aten::item": 1, "copy to the host": 1}),
            ("scaled", [*MLP, "--precision", "float16", "--mixup", "0.2"], {"aten::item": 2, "copy from the host": 1}),
            # In each of the two layers: the step is looked at and read; other encoders than the plug-in's look for NaN.
            ("static", [*MLP, "--activation", "int8_static"], {"aten::item": 1 + 2 * 2}),
            ("lsq", [*MLP, "--quant", "lsq"], {"aten::item": 1 + 2}),
        ):
            with self.subTest(name):
                self.assertEqual(self.waits(name, *arguments), expected)

    def profiled(self, name, *arguments, steps=2, **environment):
        """The folder of a run of one epoch, what it printed, and how often it waited for the device and for what."""
        log, folder = self.folder / f"{name} waits", self.folder / name
        options = ["--epochs", 1, *(["--profile", steps] if steps else []), *(["--device", "cuda"] if environment else [])]
        result = run("bitlab", *arguments, *options, "-o", folder, env={**environment, "BITLAB_PLAYED_WAITS": str(log)})
        self.assertEqual(result.returncode, 0, result.stderr)
        return folder, result.stdout, collections.Counter(log.read_text().splitlines() if environment else ())

    def test_profiles_are_those_of_the_cpu(self):
        """All but times: products, outputs, calls and bytes of layers, and the memory that lives behind each, forward and back."""

        def facts(folder, *left_out):
            profile = json.loads((folder / "profile.json").read_text())
            # Encoders of the CPU read a number, for which a device would be waited for.
            layers = {layer["layer"]: layer for layer in profile["layers"] if layer["calls"] > 0 and layer["layer"] != "item"}
            for name, layer in layers.items():
                self.assertTrue(layer["forward"]["least_ms"] > 0, name)
                self.assertTrue(layer["backward"]["least_ms"] > 0 or layer["parameter_bytes"] == 0, name)
                for fact in ("share", "forward", "backward", *left_out):
                    layer.pop(fact)
            live = [step for step in profile["memory"]["steps"] if step["layer"] != "item"]
            if "transformer.embedding" in layers or left_out:
                # Attention, dropout, tables of positions and casts are other operators on a device.
                layers, live = {name: layer for name, layer in layers.items() if layer["parameter_bytes"] > 0}, []
            return layers, live, list(profile["phases"]), profile["macs"], profile["memory"]

        for name, arguments in {
            "pictures": [*PICTURES, "--model", "lenet5"],
            "text": [*TEXT, "--model.dropout", "0.2"],
            "static steps, accumulated": [*MLP, "--activation", "int8_static", "--accumulate", "2", "--optimizer", "sgd"],
            "half precision, averages": [*MLP, "--precision", "bfloat16", "--ema", "0.9", "--clip-norm", "0.5"],
        }.items():
            with self.subTest(name):
                cpu, told, _ = self.profiled("cpu " + name, *arguments)
                self.assertNotIn("waits", told)
                device, told, _ = self.profiled(name, *arguments, **DEVICE)
                line = "cuda:0, the host waits behind each layer"
                self.assertRegex(told, rf"\ndevice +{line}\n")
                self.assertIn(line, (device / "profile.html").read_text())
                # On a device autocast's results take two bytes a value.
                in_16_bits = "bfloat16" in arguments
                left_out = ("activation_bytes",) if in_16_bits else ()
                (*found, memory), (*expected, memory_of_cpu) = facts(device, *left_out), facts(cpu, *left_out)
                for own, theirs in zip(found, expected, strict=True):
                    self.assertEqual(own, theirs)
                self.assertEqual(memory["parameter_bytes"], memory_of_cpu["parameter_bytes"])
                self.assertAlmostEqual(memory["peak_bytes"] / memory_of_cpu["peak_bytes"], 1, delta=0.1 if name == "text" or in_16_bits else 1e-3)
                if in_16_bits:
                    self.assertLess(memory["peak_bytes"], memory_of_cpu["peak_bytes"])
                self.assertEqual(json.loads((device / "profile.json").read_text())["device"], "cuda:0")

    def test_a_profile_waits_at_each_boundary_and_changes_no_bit(self):
        """What it waits for more, step by step: before and behind each layer and part that the trace shows, and where the step begins."""
        arguments = [*PICTURES, "--model", "lenet5", "--data.limit", "192"]
        plain, _, without = self.profiled("plain", *arguments, steps=0, **DEVICE)
        self.assertEqual(without.pop("synchronize"), 1 + 2 * 4, "at the end of the epoch, for its seconds by phase, and in both evaluations for the codes of four layers")
        shown, waits = [], []
        for steps in (1, 3):
            folder, _, counts = self.profiled(f"profiled {steps}", *arguments, steps=steps, **DEVICE)
            trace = json.loads((folder / "trace.json").read_text())["traceEvents"]
            shown.append(collections.Counter(event.get("cat") for event in trace))
            waits.append(counts.pop("synchronize"))
            self.assertEqual(counts, without, "and for nothing else")
            self.assertEqual(losses(folder), losses(plain))
            self.assertEqual((folder / "best.ckpt").read_bytes(), (plain / "best.ckpt").read_bytes())
        more = {kind: (count - shown[0][kind]) / 2 for kind, count in shown[1].items()}
        self.assertEqual(more["phase"], 4)
        self.assertEqual((waits[1] - waits[0]) / 2, more["forward"] + more["backward"] + 2 * more["phase"] + 1)

    def test_seconds_by_phase_are_those_of_the_device(self):
        """Of one on which an operator takes a second, and nothing else does: so many are added step by step, and a parameter's update is of none but its own phase."""

        def seconds(name, *arguments):
            folder = self.train(name, *MLP, *arguments, epochs=1, **DEVICE, BITLAB_PLAYED_SECONDS="1")
            phases = json.loads((folder / "report.json").read_text())["epochs"][0]["seconds_by_phase"]
            for phase, value in phases.items():
                self.assertAlmostEqual(value, round(value), places=6, msg=phase)
            return {phase: round(value) for phase, value in phases.items()}

        four, eight, twelve = (seconds(f"{steps} steps", "--data.limit", 24 * steps, "--validation", 0) for steps in (4, 8, 12))
        sgd = seconds("sgd", "--data.limit", 96, "--validation", 0, "--optimizer", "sgd")
        evaluated = seconds("evaluated", "--data.limit", 120, "--validation", 0.2)
        for phase in ("forward", "backward", "update"):
            self.assertGreater(four[phase], 4, phase)
            self.assertEqual(eight[phase] - four[phase], twelve[phase] - eight[phase], phase)
            self.assertEqual(sgd[phase] == four[phase], phase != "update", phase)
            self.assertEqual(evaluated[phase], four[phase], phase)
        self.assertEqual([phases["data"] for phases in (four, eight, twelve, sgd, evaluated)], [0] * 5)
        self.assertGreater(evaluated["evaluation"], four["evaluation"])

    def in_two(self, name, *arguments, **environment):
        """What two processes of one run lost."""
        device = ["--device", "cuda"] if environment else []
        environment["LOCAL_RANK"] = "0"
        processes = start_two(*MLP, "--epochs", "2", *device, *arguments, "-o", self.folder / name, env=environment)
        errors = [process.communicate(timeout=120)[1] for process in processes]
        self.assertEqual([process.returncode for process in processes], [0, 0], errors)
        return losses(self.folder / name)

    def test_processes_share_gradients(self):
        expected, waits = self.in_two("cpu"), {}
        for name, more in (("host", {}), ("device", PLAYED_NCCL)):
            log = self.folder / f"waits {name}"
            self.check_same_steps(self.in_two(name, **DEVICE, **more, BITLAB_PLAYED_WAITS=str(log)), expected)
            waits[name] = collections.Counter(log.read_text().splitlines())
        there = waits["device"]["sum on the device"]
        self.assertGreater(there, len(expected))
        self.assertEqual(waits["host"]["copy to the host"] - waits["device"]["copy to the host"], there)
        narrow = self.in_two("narrow", "--ternary-gradients", "bfloat16", **DEVICE, **PLAYED_NCCL)
        self.check_same_steps(narrow, expected, 2e-2)

    def test_a_plug_in_for_processes_that_is_none(self):
        environment = {**DEVICE, "LOCAL_RANK": "0", "BITLAB_NCCL_PLUGIN": "/nowhere.so"}
        for process in start_two(*MLP, "--device", "cuda", "-o", self.folder / "run", env=environment):
            error = process.communicate(timeout=120)[1]
            self.assertEqual(process.returncode, 4, error)
            self.assertRegex(error, r"^bitlab: error: \[plugin\] /nowhere.so, got: .*\n$")

    def test_the_benchmark_of_products_passes_what_they_take(self):
        """Its structures are the plug-in's, and its checks hold to the bit."""
        script = Path(__file__).resolve().parents[2] / "benchmarks" / "cuda" / "ternary_gemm.py"
        command = [sys.executable, script, "--played", DEVICE["BITLAB_CUDA_PLUGIN"]]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **DEVICE})
        self.assertRegex(result.stdout, r"^[1-9]\d+ passed, 0 failed\n$", result.stderr)

    def test_a_device_that_is_not_there(self):
        folder = self.folder / "run"
        check_refused(self, run("bitlab", *MLP, "--device", "cuda", "-o", folder), 4, "[train] a LibTorch with CUDA", "'cuda'")
        self.assertFalse(folder.exists())
        refused = run("bitlab", *MLP, "--device", "cuda:1", "-o", folder, env=DEVICE)
        check_refused(self, refused, 4, "[train] a device from 'cuda:0' to 'cuda:0', got 'cuda:1'")
        for name in ("tpu", "cuda:-1", "cpu:1"):
            check_refused(self, run("bitlab", *MLP, "--device", name, "-o", folder), 2, "[train] a device 'cpu', 'cuda' or 'cuda:<number>'", name)


if __name__ == "__main__":
    unittest.main()
