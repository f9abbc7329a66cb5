"""Train a tiny network, deploy it, run it without LibTorch: the same bytes on every kernel, thread count and batch split, and one
clear line for everything that is wrong."""

import json
import os
import platform
import re
import shutil
import struct
import tempfile
import unittest
from pathlib import Path

from programs import check_refused, grey_png, run

SOURCE = Path(os.environ["BITLAB_SOURCE_DIR"])


def rows(op):
    text = re.sub(r"//.*", "", (SOURCE / "bitlab/kernels" / op / "kernels.def").read_text())
    return re.findall(r"BITLAB_KERNEL\((\w+)", text)


class Slice(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="bitlab_slice_"))
        cls.run_folder = cls.folder / "runs" / "tiny"
        cls.bit = cls.folder / "tiny.bit"
        cls.trained = run("bitlab", "train", "--model", "lenet5", "--data", "synthetic", "--quant", "absmean", "--epochs", "1",
                          "--limit", "300", "--threads", "2", "-o", cls.run_folder)  # fmt: skip
        cls.deployed = run("bitlab", "deploy", cls.run_folder, "-o", cls.bit)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def test_training_leaves_its_folder(self):
        self.assertEqual(self.trained.returncode, 0, self.trained.stderr)
        files = {"config.yaml", "preprocess.json", "best.ckpt", "last.ckpt", "report.json", "environment.json", "log.jsonl", "metrics.csv"}
        self.assertEqual({p.name for p in self.run_folder.iterdir()}, files)
        report = json.loads((self.run_folder / "report.json").read_text())
        self.assertEqual(len(report["epochs"]), 1)
        self.assertIn("name: lenet5", (self.run_folder / "config.yaml").read_text())

    def test_deployment_is_exact(self):
        self.assertEqual(self.deployed.returncode, 0, self.deployed.stderr)
        self.assertIn("same bits", self.deployed.stdout)

    def test_a_run_and_its_file_become_the_same_file_of_another_format(self):
        of_run, of_file = self.folder / "run.onnx", self.folder / "onnx"
        result = run("bitlab", "deploy", self.run_folder, "-o", of_run, "--variant", "int2")
        self.assertEqual(result.returncode, 0, result.stderr)
        result = run("bitlab", "deploy", self.bit, "-o", of_file, "--format", "onnx", "--variant", "int2")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(of_run.read_bytes(), of_file.read_bytes())
        sizes = {row.split()[0]: row.split()[1] for row in result.stdout.splitlines()[2:]}
        self.assertEqual(sizes[str(self.bit)], str(self.bit.stat().st_size))
        self.assertEqual(sizes[str(of_file)], str(of_file.stat().st_size))
        check_refused(self, run("bitlab", "deploy", self.bit, "-o", self.folder / "a.txt"), 2, "'.txt'", ".onnx")
        check_refused(self, run("bitlab", "deploy", __file__, "-o", of_run), 2, "'.py'", ".onnx")
        check_refused(self, run("bitlab", "deploy", self.bit, "-o", of_run, "--variant", "int3"), 2, "'int3'", "matmulnbits")
        check_refused(self, run("bitlab", "deploy", self.bit, "-o", of_run, "--samples", "4"), 2, "--samples")
        again = self.folder / "again.bit"
        result = run("bitlab", "deploy", of_run, "-o", again)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(run("bitlab", "verify", self.bit, again).returncode, 0)

    def test_a_run_reports_as_training_did(self):
        result = run("bitlab-run", "run", self.bit, "--data", "synthetic", "--limit", "300", "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        deployed = json.loads(result.stdout)
        trained = json.loads((self.run_folder / "report.json").read_text())
        self.assertEqual(deployed["images"], trained["samples_test"])
        self.assertAlmostEqual(deployed["accuracy"], trained["test"]["accuracy"], places=12)
        self.assertEqual(trained["best_by"], "accuracy")

    def test_the_same_bytes_whatever_runs_them(self):
        expected = None
        logits = self.folder / "logits"
        for row in rows("ternary_gemm"):
            for threads in (1, 2):
                for batch in (1, 64):
                    result = run("bitlab-run", "run", self.bit, "--data", "synthetic", "--limit", "150", "--threads", threads,
                                 "--batch", batch, "--logits", logits, kernel=f"ternary_gemm:{row}")  # fmt: skip
                    if result.returncode == 4:
                        self.assertRegex(result.stderr, "MissingFeature|NotBuilt")
                        continue
                    self.assertEqual(result.returncode, 0, result.stderr)
                    data = logits.read_bytes()
                    self.assertEqual(len(data), 150 * 10 * 4)
                    expected = expected or data
                    self.assertEqual(data, expected, f"{row}, {threads} threads, batch {batch}")
        self.assertIsNotNone(expected)
        self.assertEqual(run("bitlab", "run", self.bit, "--data", "synthetic", "--limit", "150", "--logits", logits).returncode, 0)
        self.assertEqual(logits.read_bytes(), expected)

    def test_verify_agrees_or_names_the_first_node(self):
        result = run("bitlab", "verify", self.bit, "--against", self.run_folder, "--samples", "3")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("agree to the bit on 3 samples", result.stdout)
        other = self.folder / "other"
        result = run("bitlab", "train", "--config", self.run_folder / "config.yaml", "--seed", "2", "--limit", "60", "-o", other)
        self.assertEqual(result.returncode, 0, result.stderr)
        result = run("bitlab", "verify", self.bit, "--against", other, "--samples", "3")
        check_refused(self, result, 1, "node 'conv1'", "tiny.bit")
        self.assertIn(">1e-1", result.stdout)
        result = run("bitlab", "train", "--model", "mlp", "--data", "synthetic", "--limit", "20", "--epochs", "1", "-o", self.folder / "mlp")
        self.assertEqual(result.returncode, 0, result.stderr)
        check_refused(self, run("bitlab", "verify", self.bit, "--against", self.folder / "mlp"), 2, "graph")

    def test_a_run_teaches_another(self):
        teacher, student = self.folder / "teacher", self.folder / "student"
        arguments = ["--data", "synthetic", "--limit", "60", "--epochs", "1", "--threads", "1"]
        result = run("bitlab", "train", "--model", "lenet5", "--quant", "none", *arguments, "-o", teacher)
        self.assertEqual(result.returncode, 0, result.stderr)
        arguments += ["--model", "mlp"]
        taught = [*arguments, "--distillation", "0.5", "--temperature", "4"]
        check_refused(self, run("bitlab", "train", *taught, "-o", student), 2, "a teacher for distillation")
        check_refused(self, run("bitlab", "train", *taught, "--teacher", student / "x", "-o", student), 3, "config.yaml")
        losses = []
        layers = self.folder / "layers.yaml"
        layers.write_text('train: {feature_distillation: 1, feature_layers: [{path: fc3, teacher: fc2}]}')
        for chosen in (arguments, [*taught, "--teacher", teacher], ["--config", layers, *arguments, "--teacher", teacher]):
            result = run("bitlab", "train", *chosen, "-o", student)
            self.assertEqual(result.returncode, 0, result.stderr)
            losses.append(json.loads((student / "report.json").read_text())["epochs"][0]["loss"])
        self.assertEqual(len(set(losses)), 3)
        result = run("bitlab", "train", *arguments, "--relation-distillation", "1", "--teacher", teacher, "-o", student)
        check_refused(self, result, 2, "an attention with projections", "fc3")

    def test_a_run_begins_with_another(self):
        first, second = self.folder / "first", self.folder / "second"
        arguments = ["--model", "lenet5", "--data", "synthetic", "--limit", "200", "--threads", "1"]
        result = run("bitlab", "train", *arguments, "--quant", "none", "--epochs", "8", "-o", first)
        self.assertEqual(result.returncode, 0, result.stderr)
        losses = []
        for chosen in ([], ["--init-from", first]):
            result = run("bitlab", "train", *arguments, "--quant", "lsq", "--epochs", "1", *chosen, "-o", second)
            self.assertEqual(result.returncode, 0, result.stderr)
            losses.append(json.loads((second / "report.json").read_text())["epochs"][0]["loss"])
        self.assertLess(losses[1], 0.9 * losses[0])
        result = run("bitlab", "train", "--data", "synthetic", "--model", "mlp", "--init-from", first, "-o", second)
        check_refused(self, result, 2, "parameters of one architecture, got [512] and [500] (name=fc1.bias)")
        check_refused(self, run("bitlab", "train", *arguments, "--init-from", first / "x", "-o", second), 3, "config.yaml")

    def test_rules_for_a_network_of_the_zoo(self):
        rules, folder, bit = self.folder / "mixed.yaml", self.folder / "mixed", self.folder / "mixed.bit"
        rules.write_text(
            "granularity: channel\nrules:\n  - {position: first, quant: {method: int8}}\n  - {position: last, quant: {method: int8}}\n"
        )
        arguments = ["--model", "lenet5", "--data", "synthetic", "--epochs", "1", "--limit", "60", "-o", folder]
        result = run("bitlab", "train", "--rules", rules, *arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stdout, r"conv1 +conv2d +520 +built +int8/channel/int8 +rule 1 \(position=first, method=int8\)")
        self.assertRegex(result.stdout, r"fc1 +linear +400500 +built +absmean/channel/int8 +default")
        result = run("bitlab", "deploy", folder, "-o", bit)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("same bits", result.stdout)
        nodes = {n["node"]: n for n in json.loads(run("bitlab-run", "inspect", bit, "--json").stdout)["nodes"]}
        types = {name: nodes[name]["weights"][0]["type"] for name in ("conv1", "conv2", "fc1", "fc2")}
        self.assertEqual(types, {"conv1": "int8", "conv2": "ternary", "fc1": "ternary", "fc2": "int8"})
        check_refused(self, run("bitlab", "train", "--set", "model.clases=3", *arguments), 2, "did you mean 'classes'?")

    def test_the_quickstart_runs(self):
        page = (SOURCE / "docs/getting_started/quickstart.md").read_text()
        blocks = re.findall(r"```sh\n(.*?)```", page, re.S)
        lines = [line for block in blocks for line in block.strip().splitlines()]
        self.assertGreater(len(lines), 5)
        for line in lines:
            with self.subTest(line):
                words = line.replace("--data mnist", "--data synthetic --limit 60").split()
                words = [str(self.folder / w) if w.startswith(("runs/", "lenet5.bit")) else w for w in words]
                if "--epochs" in words:
                    words[words.index("--epochs") + 1] = "1"
                result = run(*words)
                self.assertEqual(result.returncode, 0, result.stderr)

    def test_pictures(self):
        picture = self.folder / "grey.png"
        picture.write_bytes(grey_png(28, 28))
        result = run("bitlab-run", "run", self.bit, "--input", picture, picture, "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        predictions = json.loads(result.stdout)["predictions"]
        self.assertEqual(len(predictions), 2)
        self.assertEqual(predictions[0], predictions[1])
        self.assertGreater(predictions[0]["probability"], 0)
        picture.write_bytes(grey_png(28, 27))
        check_refused(self, run("bitlab-run", "run", self.bit, "--input", picture), 2, "28x28", "28x27")
        picture.write_bytes(b"GIF89a")
        check_refused(self, run("bitlab-run", "run", self.bit, "--input", picture), 3, "PNG")

    def test_damaged_models(self):
        data = self.bit.read_bytes()
        damaged = self.folder / "damaged.bit"
        length = struct.unpack("<Q", data[:8])[0]
        for at in (0, 8, 8 + length // 2, 7 + length, 8 + length, len(data) - 1):
            broken = bytearray(data)
            broken[at] ^= 0x04
            damaged.write_bytes(broken)
            check_refused(self, run("bitlab-run", "run", damaged, "--data", "synthetic"), 3, "damaged.bit")
        for size in (0, 7, 100, 8 + length, len(data) - 1):
            damaged.write_bytes(data[:size])
            check_refused(self, run("bitlab-run", "run", damaged, "--data", "synthetic"), 3, "damaged.bit")

    def test_unknown_names(self):
        output = self.folder / "unknown"
        for flag, value, known in (("--model", "lenet6", "lenet5"), ("--data", "mnst", "mnist"), ("--quant", "absmeen", "absmean")):
            arguments = {"--model": "lenet5", "--data": "synthetic", "--limit": "20", flag: value}
            flat = [text for pair in arguments.items() for text in pair]
            check_refused(self, run("bitlab", "train", *flat, "-o", output), 2, value, known)
            self.assertFalse(output.exists(), "nothing is left behind")
        check_refused(self, run("bitlab", "train", "--epochs", "three", "-o", output), 2, "--epochs", "three")
        check_refused(self, run("bitlab", "train", "--model", "mlp"), 2, "--output")

    def test_kernels_of_another_architecture(self):
        foreign = "x86" if platform.machine() == "aarch64" else "arm"
        result = run("bitlab-run", "run", self.bit, "--data", "synthetic", kernel=f"ternary_gemm:{foreign}")
        check_refused(self, result, 4, "reference: DisabledByPolicy")

    def test_unwritable_outputs(self):
        blocked = "/proc/bitlab"  # refuses root, too
        check_refused(self, run("bitlab", "train", "--data", "synthetic", "--limit", "20", "-o", blocked), 3, blocked)
        check_refused(self, run("bitlab", "deploy", self.run_folder, "-o", blocked + "/a.bit"), 3, blocked)
        check_refused(self, run("bitlab-run", "run", self.bit, "--data", "synthetic", "--limit", "5", "--logits", blocked), 3, blocked)

    def test_broken_run_folders(self):
        copy = self.folder / "copy"
        for name, content, text in (
            ("config.yaml", "model: {nam: lenet5}\n", "did you mean 'name'"),
            ("config.yaml", "model: {name: mlp}\n", "parameter"),
            ("preprocess.json", "{}", "a kind"),
            ("best.ckpt", "nothing", "torch.save"),
        ):
            shutil.copytree(self.run_folder, copy)
            (copy / name).write_text(content)
            result = run("bitlab", "deploy", copy, "-o", self.folder / "copy.bit")
            self.assertNotEqual(result.returncode, 0, name)
            check_refused(self, result, result.returncode, text)
            self.assertFalse((self.folder / "copy.bit").exists())
            shutil.rmtree(copy)
        check_refused(self, run("bitlab", "deploy", self.folder / "none", "-o", self.folder / "copy.bit"), 3, "config.yaml")

    def test_a_float_network_goes_the_same_way(self):
        folder = self.folder / "float"
        result = run("bitlab", "train", "--config", self.run_folder / "config.yaml", "--quant", "none", "--limit", "50", "-o", folder)
        self.assertEqual(result.returncode, 0, result.stderr)
        result = run("bitlab", "deploy", folder, "-o", self.folder / "float.bit")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("differ by at most", result.stdout)
        result = run("bitlab-run", "run", self.folder / "float.bit", "--data", "synthetic", "--limit", "20")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("accuracy", result.stdout)
        # What each layer would cost, and rules for it that can be read again.
        rules = self.folder / "rules.yaml"
        result = run("bitlab", "analyze", folder, "--quant", "twn", "--samples", "40", "--budget", "0", "-o", rules)
        self.assertEqual(result.returncode, 0, result.stderr)
        for layer in ("conv1", "conv2", "fc1", "fc2"):
            self.assertRegex(result.stdout, rf"{layer} +\d+ +\d+\.\d+ +[+-]\d")
        self.assertIn("method: twn", rules.read_text())
        result = run("bitlab", "analyze", folder, "--data", "mnist", "--samples", "30")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("30 samples of mnist", result.stdout)
        check_refused(self, run("bitlab", "analyze", folder, "--data", "mnits"), 2, "mnits")
        result = run("bitlab", "analyze", folder, "--activation", "int8_static")
        check_refused(self, result, 4, "int8_static")


if __name__ == "__main__":
    unittest.main()
