"""Pictures in a folder, texts and texts with labels: trained, deployed and run without LibTorch, which measures what training did."""

import json
import random
import shutil
import tempfile
import unittest
from pathlib import Path

from programs import check_refused, grey_png, run


class Domains(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="bitlab_domains_"))
        self.random = random.Random(1)

    def tearDown(self):
        shutil.rmtree(self.folder)

    def trained(self, data, root, model, options, settings=()):
        """The test metrics of training, and the report of the runtime."""
        folder, bit = self.folder / "run", self.folder / "net.bit"
        yaml = "{" + ", ".join(f"{name}: {value}" for name, value in options.items()) + "}"
        result = run("bitlab", "train", "--model", model, "--data", data, "--data-root", root, "--data-options", yaml, "--epochs", "1",
                     "--batch-size", "16", "--threads", "1", "--validation", "0.1", *settings, "-o", folder)  # fmt: skip
        self.assertEqual(result.returncode, 0, result.stderr)
        result = run("bitlab", "deploy", folder, "-o", bit)
        self.assertEqual(result.returncode, 0, result.stderr)
        flags = [word for name, value in options.items() for word in ("--data-option", f"{name}={value}")]
        self.command = ["run", bit, "--data", data, "--data-root", root]
        result = run("bitlab-run", *self.command, *flags, "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads((folder / "report.json").read_text())["test"], json.loads(result.stdout)

    def test_pictures(self):
        for i in range(60):
            path = self.folder / "data" / ("bright" if i % 2 else "dark") / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(grey_png(9, 11, lambda y, x, i=i: min(255, (i % 2) * 90 + self.random.randrange(120))))
        settings = ("--set", "model.depth=8", "--set", "model.filters=4", "--randaugment", "1", "--cutout", "3")
        test, report = self.trained("folder", self.folder / "data", "resnet", {"height": 8, "width": 8, "errors": "skip"}, settings)
        self.assertEqual(report["images"], 6)
        self.assertAlmostEqual(report["accuracy"], test["accuracy"], places=6)
        check_refused(self, run("bitlab-run", *self.command), 2, "[run] data of the model's form", "height 8", "height 9")

    def test_texts(self):
        path = self.folder / "a.txt"
        path.write_text("".join(self.random.choice(("to be ", "or not ", "that is ", "é ")) for _ in range(600)))
        settings = [f"model.{name}={value}" for name, value in {"layers": 1, "dim": 32, "heads": 2, "hidden": 48, "sub_norm": "false"}.items()]
        test, report = self.trained("text", path, "gpt", {"tokens": 16}, [word for s in settings for word in ("--set", s)])
        self.assertEqual(report["tokens"] % 16, 0)
        self.assertAlmostEqual(report["perplexity"] / test["perplexity"], 1, places=3)
        check_refused(self, run("bitlab-run", *self.command, "--data-option", "tokens=17"), 2, "17")

    def test_texts_with_labels(self):
        lines = [f"{self.random.choice(('good', 'fine'))} film {i}\t1\n{self.random.choice(('bad', 'dull'))} one {i}\t0\n" for i in range(40)]
        (self.folder / "train.tsv").write_text("".join(lines[:30]))
        (self.folder / "test.jsonl").write_text("".join(json.dumps({"text": f"{w} {i}", "label": y}) + "\n" for i in range(9) for w, y in (("good", 1), ("bad", 0))))
        settings = [f"model.{name}={value}" for name, value in {"layers": 1, "dim": 32, "heads": 2, "hidden": 48}.items()]
        test, report = self.trained("labelled_text", self.folder, "text_classifier", {"tokens": 20}, [word for s in settings for word in ("--set", s)])
        self.assertEqual(report["texts"], 18)
        self.assertAlmostEqual(report["accuracy"], test["accuracy"], places=6)


if __name__ == "__main__":
    unittest.main()
