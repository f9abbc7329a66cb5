"""Experiments: a config file with everything, what a run writes down, and the page about it."""

import csv
import importlib.util
import json
import re
import shutil
import struct
import subprocess
import tempfile
import time
import unittest
from html.parser import HTMLParser
from pathlib import Path

from programs import check_refused, command_of, run

SMALL = ["--data", "synthetic", "--threads", "1"]


def events(folder):
    """What a log says, but for times, which differ from run to run."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not re.search("second|eta|phase", k)} for line in lines]


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert all(None not in row and None not in row.values() for row in table), "every line has every column"
    return [{k: v for k, v in row.items() if not re.search("second|eta|phase", k)} for row in table]


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF


def fields(data):
    """The fields of a protocol buffer."""
    at = 0

    def varint():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        size = {0: 0, 1: 8, 5: 4}.get(key & 7)
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = varint() if size is None else size
        yield key >> 3, data[at : at + size]
        at += size


def scalars(folder):
    """(step, {tag: value}) of each record of the event file, but for times."""
    data = (folder / "events.out.tfevents.0.bitlab").read_bytes()
    records = []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12])[0] == masked(data[:8])
        content = data[12 : 12 + size]
        assert struct.unpack("<I", data[12 + size : 16 + size])[0] == masked(content)
        data = data[16 + size :]
        event = dict(fields(content))
        values = {}
        for _, value in fields(event.get(5, b"")):
            parts = dict(fields(value))
            if not re.search(b"second|eta|phase", parts[1]):
                values[parts[1].decode()] = struct.unpack("<f", parts[2])[0]
        records.append((event[2], values) if 5 in event else event[3].decode())
    return records


class Page(HTMLParser):
    """Whether elements are closed in their order, and what is inside."""

    VOID = ("meta",)

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.texts, self.links = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.links += [v for k, v in attributes if k in ("src", "href")]
        self.ids += [v for k, v in attributes if k == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.ids += [v for k, v in attributes if k == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        self.texts.append(data)


class Experiment(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="bitlab_experiment_"))
        self.addCleanup(shutil.rmtree, self.folder)

    def train(self, *arguments):
        result = run("bitlab", "train", *arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def test_the_example_is_valid_and_is_what_runs(self):
        example, repeated = self.folder / "example.yaml", self.folder / "repeated.yaml"
        example.write_text(self.train("--example", "--model", "mlp", "--train.epochs", "2", "--model.hidden", "[7]"))
        text = example.read_text()
        for part in ("# passes over the training data (INT in [1, inf))\n  epochs: 2\n", "  hidden: [7]\n", "# With lenet5 instead:"):
            self.assertIn(part, text)
        self.assertIn("is valid", self.train("--validate", example))
        repeated.write_text(self.train("--example", "--config", example))
        self.assertEqual(repeated.read_text(), text)

    def test_presets(self):
        root = Path(__file__).resolve().parents[2] / "presets"
        names = sorted(file.stem for file in root.glob("*.yaml"))
        shown = run("bitlab", "train", "--help").stdout
        for name in names:
            self.assertIn(f"\n  {name} ", shown)
            result = run("bitlab", "train", "--validate", root / f"{name}.yaml")
            self.assertEqual(result.returncode, 0, result.stderr)
        result = run("bitlab", "train", "--preset", "lenet5_mnist", "--epochs", "3", "--example")
        self.assertIn("\n  epochs: 3\n", result.stdout)
        self.assertIn("\n  method: twn\n", result.stdout)
        check_refused(self, run("bitlab", "train", "--preset", "lenet5_mnst", "--example"), 2, "did you mean 'lenet5_mnist'?")
        both = run("bitlab", "train", "--preset", "lenet5_mnist", "--config", root / "lenet5_mnist.yaml", "--example")
        check_refused(self, both, 2, "one of --preset and --config")

    def test_invalid_files(self):
        file = self.folder / "exp.yaml"
        for text, code, parts in (
            ("train:\n  seed: 1\n  epoch: 2\n", 2, ("'train.epoch'", "did you mean 'epochs'", "exp.yaml, line=3")),
            ("train:\n  epochs: 0\n", 2, ("in [1, inf)", "'train.epochs'", "got 0", "line=2")),
            ("quant:\n  rules:\n    - quant: {method: none}\n      position: middle\n", 2, ("{any, first, last}", "line=4")),
            ("log:\n  formats:\n    - jsonl\n    - cvs\n", 2, ("csv", "'cvs'", "line=4")),
            ("data: {name: mnits}\n", 2, ("did you mean 'mnist'?", "exp.yaml")),
            ("model: {name: lenet5, height: 3}\n", 2, ("16x16", "exp.yaml")),
            ("train: {epochs: 1\n", 3, ("exp.yaml", "YAML")),
            ("train:\n  seed: 1\n  seed: 2\n", 3, ("'seed' twice", "line=3")),
        ):
            file.write_text(text)
            result = run("bitlab", "train", "--validate", file)
            with self.subTest(text):
                check_refused(self, result, code, *parts)
        check_refused(self, run("bitlab", "train", "--validate", self.folder / "none.yaml"), 3, "none.yaml")
        check_refused(self, run("bitlab", "train", "--threads", "100000", "-o", self.folder / "x"), 2, "[0, 1024]", "100000")
        tiny = ("train", "--data", "synthetic", "--limit", "40", "--distillation", "0.5", "-o", self.folder / "x")
        check_refused(self, run("bitlab", *tiny, "--teacher", self.folder / "none"), 3, "none/config.yaml")
        check_refused(self, run("bitlab", *tiny, "--ternary-delay", "0.7", "--ternary-warmup", "0.7"), 2, "at most 1 together")
        self.assertFalse((self.folder / "x").exists(), "a run that cannot begin leaves a folder")
        check_refused(self, run("bitlab", "train", "--train.epoch", "3", "-o", self.folder / "x"), 2, "--train.epochs")
        check_refused(self, run("bitlab", "train", "--train.warmup", "2", "-o", self.folder / "x"), 2, "in [0, 1]", "'warmup'", "in=train")
        check_refused(self, run("bitlab", "train", "--warmup", "2", "-o", self.folder / "x"), 2, "in [0, 1]", "--warmup")
        check_refused(self, run("bitlab", "train", "--model.hidden", "[2]", "-o", self.folder / "x"), 2, "hidden")
        self.assertFalse((self.folder / "x").exists())

    def test_help_has_types_and_ranges(self):
        text = run("bitlab", "train", "--help").stdout
        for part in ("--epochs INT in [1, inf)=5", "--warmup FLOAT in [0, 1]=0.1", "--flip BOOL=false", "--schedule NAME=cosine"):
            self.assertIn(part, re.sub(r"\s+", " ", text))

    @unittest.skipUnless(importlib.util.find_spec("jsonschema"), "the package jsonschema is not installed")
    def test_the_schema_takes_what_the_program_takes(self):
        import jsonschema

        schema = json.loads(self.train("--schema"))
        validator = jsonschema.Draft7Validator(schema)
        validator.check_schema(schema)
        file = self.folder / "exp.json"
        for text in (
            "{}",
            '{"model": {"name": "mlp", "hidden": [3]}}',
            '{"model": {"hidden": [3]}}',
            '{"model": {"classes": 3}, "quant": {"rules": [{"path": "a", "quant": {"granularity": "channel"}}]}}',
            '{"quant": {"rules": [{"path": 1}]}}',
            '{"train": {"epochs": 0}}',
            '{"train": {"epochs": 1.5}}',
            '{"train": {"beta1": 1}}',
            '{"train": {"optimizer": "sgdd"}}',
            '{"train": {"learning_rate": 1}, "data": {"options": {"tokens": 64}}}',
            '{"train": {"parameters": [{"rate": -1}]}}',
            '{"log": {"formats": ["tensorboard"]}}',
            '{"lgo": {}}',
        ):
            file.write_text(text)
            accepted = run("bitlab", "train", "--validate", file).returncode == 0
            self.assertEqual(validator.is_valid(json.loads(text)), accepted, text)

    def test_the_config_of_a_run_repeats_it_to_the_bit(self):
        first, second = self.folder / "first", self.folder / "second"
        arguments = ["--model", "mlp", "--model.hidden", "[24]", "--limit", "200", "--batch-size", "16", "--crop", "2", "--quant", "twn"]
        self.train(*SMALL, *arguments, "--train.epochs", "2", "--train.learning_rate", "0.01", "--log.steps", "4", "-o", first)
        self.train("--config", first / "config.yaml", "-o", second)
        for name in ("best.ckpt", "config.yaml", "preprocess.json"):
            self.assertEqual((first / name).read_bytes(), (second / name).read_bytes(), name)
        self.assertEqual(events(first), events(second))
        self.assertIn("learning_rate: 0.01", (first / "config.yaml").read_text())

    def test_sinks(self):
        folder, logs = self.folder / "run", self.folder / "logs"
        self.train(*SMALL, "--limit", "190", "--batch-size", "20", "--epochs", "2", "--log.steps", "3", "--log.folder", logs,
                   "--log.formats", "[jsonl, csv, tensorboard]", "-o", folder)  # fmt: skip
        log = events(logs)
        # 181 samples in 10 batches: every third of 20, two epochs, the end.
        self.assertEqual([(e["event"], e["step"], e["epoch"]) for e in log],
                         [("step", 3, 1), ("step", 6, 1), ("step", 9, 1), ("evaluation", 10, 1), ("epoch", 10, 1), ("step", 12, 2),
                          ("step", 15, 2), ("step", 18, 2), ("evaluation", 20, 2), ("epoch", 20, 2), ("end", 20, 2)])  # fmt: skip
        report = json.loads((folder / "report.json").read_text())
        for event, epoch in zip((e for e in log if e["event"] == "epoch"), report["epochs"], strict=True):
            self.assertEqual(event["loss"], epoch["loss"])
        for event, epoch in zip((e for e in log if e["event"] == "evaluation"), report["epochs"], strict=True):
            self.assertEqual({k: v for k, v in event.items() if k.startswith("validation.")}, {f"validation.{k}": v for k, v in epoch["validation"].items()})
        self.assertEqual(log[-1]["best.accuracy"], report["validation"]["accuracy"])
        self.assertGreater(log[0]["learning_rate"], 0)
        table = rows(logs)
        self.assertEqual(len(table), len(log))
        for row, event in zip(table, log, strict=True):
            self.assertEqual({key for key, cell in row.items() if cell}, set(event))
            for key, value in event.items():
                self.assertEqual(row[key] if isinstance(value, str) else float(row[key]), value, key)
        version, *records = scalars(logs)
        self.assertEqual(version, "brain.Event:2")
        for (step, values), event in zip(records, log, strict=True):
            self.assertEqual(step, event["step"])
            for key in ("loss", "validation.accuracy", "learning_rate"):
                tag = key.replace(".", "/") if "." in key else {"step": "train"}.get(event["event"], event["event"]) + "/" + key
                self.assertEqual(key in event, tag in values)
                if key in event:
                    self.assertAlmostEqual(values[tag], event[key], delta=1e-6 * abs(event[key]))
        # Another run in the same place begins anew.
        self.train("--config", folder / "config.yaml", "--train.epochs", "1", "-o", folder)
        self.assertEqual([e["event"] for e in events(logs)], ["step", "step", "step", "evaluation", "epoch", "end"])
        self.assertEqual(len(scalars(logs)), 7)

    def test_a_killed_run_goes_on_without_duplicates(self):
        whole, cut = self.folder / "whole", self.folder / "cut"
        arguments = [*SMALL, "--model", "mlp", "--model.hidden", "[48]", "--limit", "300", "--batch-size", "10", "--epochs", "4",
                     "--checkpoint-steps", "7", "--log.steps", "1", "--log.formats", "[jsonl, csv, tensorboard]"]  # fmt: skip
        self.train(*arguments, "-o", whole)
        count = len(events(whole))
        for kills, lines in enumerate((12, 40, 75)):
            resume = ["--resume"] if kills else arguments
            with subprocess.Popen(command_of("bitlab", "train", *resume, "-o", cut), stdout=subprocess.DEVNULL) as process:
                while process.poll() is None:
                    log = cut / "log.jsonl"
                    if log.exists() and log.read_bytes().count(b"\n") > lines and (cut / "last.ckpt").exists():
                        break
                    time.sleep(0.001)
                process.kill()
        with (cut / "log.jsonl").open("a") as log:  # as if it had been killed while it wrote
            log.write('{"event":"step","step":')
        with (cut / "events.out.tfevents.0.bitlab").open("ab") as log:
            log.write(b"\x50\0\0\0\0\0\0\0\x12")
        self.train("--resume", "-o", cut)
        self.assertEqual(events(cut), events(whole))
        self.assertEqual(rows(cut), rows(whole))
        self.assertEqual(scalars(cut), scalars(whole))
        self.assertEqual(len(events(cut)), count)
        self.assertEqual((cut / "best.ckpt").read_bytes(), (whole / "best.ckpt").read_bytes())
        # Resumed once more, there is nothing left to do but to end.
        self.train("--resume", "-o", cut)
        self.assertEqual(events(cut), events(whole))

    def test_a_float_run_deploys_ternary_without_training(self):
        folder, bit = self.folder / "float", self.folder / "a.bit"
        self.train(*SMALL, "--quant", "none", "--limit", "300", "--epochs", "1", "--deploy.correct_bias", "false", "-o", folder)
        self.assertIn("correct_bias: false", (folder / "config.yaml").read_text())
        result = run("bitlab", "deploy", folder, "--samples", "70", "--quant", "twn", "--granularity", "channel", "-o", bit)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("same bits", result.stdout)
        for layer in ("conv1", "conv2", "fc1", "fc2"):
            row = re.search(rf"(?m)^{layer} +(\S+) +(\S+) +(\S+)(, undone)?$", result.stdout)
            before, after, of_network = map(float, row.groups()[:3])
            self.assertLess(after, before, layer)
            self.assertTrue(0 < of_network < 1, row[0])
        in_float, fitted = map(float, re.search(r"accuracy on the test samples: ([\d.]+) in float, .*, ([\d.]+) fitted to 70 samples", result.stdout).groups())
        report = json.loads((folder / "report.json").read_text())
        self.assertAlmostEqual(in_float, report["test"]["accuracy"], delta=1e-4)
        deployed = json.loads(run("bitlab-run", "run", bit, "--data", "synthetic", "--limit", "300", "--json").stdout)
        self.assertAlmostEqual(deployed["accuracy"], fitted, delta=1e-4)
        rules = self.folder / "rules.yaml"
        rules.write_text("rules: [{position: last, quant: {method: none}}]\n")
        result = run("bitlab", "deploy", folder, "--samples", "9", "--rules", rules, "-o", bit)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertNotRegex(result.stdout, "(?m)^fc2 ")
        check_refused(self, run("bitlab", "deploy", folder, "--quant", "twn", "-o", bit), 2, "--samples", "--quant")
        self.check_files(folder, in_float, fitted)

    def check_files(self, folder, in_float, fitted):
        """The float run's files in other formats, made ternary as the run is."""
        onnx, script, bit = (self.folder / f"float.{ending}" for ending in ("onnx", "pt", "bit"))
        for file in (onnx, script):
            result = run("bitlab", "deploy", folder, "-o", file)
            self.assertEqual(result.returncode, 0, result.stderr)
        data = ("--data", "synthetic", "--limit", "300", "--validation", "0")
        result = run("bitlab", "deploy", onnx, "--samples", "70", *data, "--quant", "twn", "--granularity", "channel", "-o", bit)
        self.assertEqual(result.returncode, 0, result.stderr)
        found = re.search(r"accuracy on the test samples: ([\d.]+) in float, .*, ([\d.]+) fitted to 70 samples", result.stdout).groups()
        self.assertAlmostEqual(float(found[0]), in_float, delta=1e-4)
        self.assertAlmostEqual(float(found[1]), fitted, delta=0.05)
        deployed = json.loads(run("bitlab-run", "run", bit, "--data", "synthetic", "--limit", "300", "--json").stdout)
        self.assertAlmostEqual(deployed["accuracy"], float(found[1]), delta=1e-4)
        image = "input=float32[batch, 1, 28, 28]"
        result = run("bitlab", "deploy", script, "--input", image, "-o", bit)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(run("bitlab", "verify", onnx, bit, "--tolerance", "1e-5").returncode, 0)
        for inputs, words in (((), "{input}"), (("--input", image, "--input", image), "got 2"), (("--input", "input=float32"), "'input=float32'"),
                              (("--input", "input=float32[batch, 0]"), "'input=float32[batch, 0]'"), (("--input", "input=float[batch]"), "'float'")):
            check_refused(self, run("bitlab", "deploy", script, *inputs, "-o", bit), 2, words)
        check_refused(self, run("bitlab", "deploy", onnx, "--input", image, "-o", bit), 2, "tells its inputs")
        check_refused(self, run("bitlab", "deploy", onnx, "--samples", "7", "-o", bit), 2, "--data")
        check_refused(self, run("bitlab", "deploy", onnx, "--quant", "twn", "-o", bit), 2, "--samples")
        check_refused(self, run("bitlab", "deploy", onnx, "--data", "synthetic", "-o", bit), 2, "--data", "--samples")
        check_refused(self, run("bitlab", "deploy", folder, "--data", "synthetic", "-o", bit), 2, "--data")
        check_refused(self, run("bitlab", "deploy", folder, "--input", image, "-o", bit), 2, "--input")
        check_refused(self, run("bitlab", "deploy", script, "--input", "input=float32[batch:]", "-o", bit), 2, "'input=float32[batch:]'")

    def test_a_report(self):
        folder, output = self.folder / "run <b>&", self.folder / "page.html"
        self.train(*SMALL, "--limit", "200", "--epochs", "2", "--log.steps", "1", "-o", folder)
        for program in ("bitlab", "bitlab-run"):
            result = run(program, "report", folder, "-o", output)
            self.assertEqual(result.returncode, 0, result.stderr)
        report = json.loads((folder / "report.json").read_text())
        counts = report["confusion"]["counts"]
        self.assertEqual(sum(map(sum, counts)), report["samples_test"])
        right = sum(counts[i][i] for i in range(len(counts)))
        self.assertAlmostEqual(right / report["samples_test"], report["test"]["accuracy"], places=12)
        page = Page()
        page.feed(output.read_text())
        self.assertEqual(page.open, [])
        self.assertEqual(page.links, [], "one file that needs nothing else")
        for name in ("loss", "validation.accuracy", "learning_rate"):
            self.assertIn(name, page.ids)
        texts = "".join(page.texts)
        for part in ("run <b>&", "Confusion", "Epochs", "name: lenet5", json.loads((folder / "environment.json").read_text())["cpu"]):
            self.assertIn(part, texts)
        self.assertNotIn("<b>", output.read_text())

    def test_reports_of_broken_folders(self):
        folder = self.folder / "broken"
        folder.mkdir()
        check_refused(self, run("bitlab", "report", folder), 3, "log.jsonl", "broken")
        (folder / "log.jsonl").write_text('{"event": "step", "step": 1, "loss": null}\nnonsense\n{"event": 3}\n[1]\n'
                                          '{"event": "epoch", "epoch": 1, "layer.": 1, "layer.a.flips": 1e308, "phase.x": -1}\n'
                                          '{"event": "epoch", "epoch": 2, "layer.<i>.flips": -1e308, "<script>": 2}\n')  # fmt: skip
        (folder / "report.json").write_text('{"confusion": {"classes": ["a"], "counts": [["x"]]}, "test": 3, "model": "<script>"}')
        result = run("bitlab", "report", folder)
        self.assertEqual(result.returncode, 0, result.stderr)
        text = (folder / "report.html").read_text()
        self.assertEqual(text.count("<script>"), 1, "the page's own alone")
        self.assertNotIn("<i>", text)
        (folder / "report.json").write_text("[]")
        check_refused(self, run("bitlab", "report", folder), 3, "report.json")


if __name__ == "__main__":
    unittest.main()
