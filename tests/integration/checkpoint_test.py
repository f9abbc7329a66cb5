"""A LeNet-5 that PyTorch saved (bitlab/train/testdata/make_fixtures.py) becomes a run, a .bit file, and the logits that PyTorch had."""

import json
import os
import shutil
import struct
import tempfile
import unittest
from pathlib import Path

from programs import check_refused, grey_png, run

FIXTURES = Path(os.environ["BITLAB_SOURCE_DIR"]) / "bitlab" / "train" / "testdata"
CONFIG = "model: {name: lenet5}\nquant: {method: %s, activation: %s}\ndata: {name: synthetic}\n"


class Checkpoint(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="bitlab_checkpoint_"))
        self.addCleanup(shutil.rmtree, self.folder)

    def convert(self, checkpoint, method="none", activation="int8", *more):
        config = self.folder / "config.yaml"
        config.write_text(CONFIG % (method, activation))
        return run("bitlab", "convert", checkpoint, "--config", config, "-o", self.folder / "run", *more)

    def logits(self):
        """Those of the picture of make_fixtures.py, by the runtime."""
        bit, picture, logits = self.folder / "lenet5.bit", self.folder / "picture.png", self.folder / "logits"
        result = run("bitlab", "deploy", self.folder / "run", "-o", bit)
        self.assertEqual(result.returncode, 0, result.stderr)
        picture.write_bytes(grey_png(28, 28, lambda y, x: (37 * y + 91 * x + 5 * x * y) % 256))
        result = run("bitlab-run", "run", bit, "--input", picture, "--logits", logits)
        self.assertEqual(result.returncode, 0, result.stderr)
        return struct.unpack("<10f", logits.read_bytes())

    def test_a_float_network_keeps_its_logits(self):
        result = self.convert(FIXTURES / "lenet5.pth")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stdout, r"conv1.weight +\[20, 1, 5, 5\] +500 +file")
        self.assertEqual({p.name for p in (self.folder / "run").iterdir()}, {"config.yaml", "preprocess.json", "best.ckpt"})
        self.check_logits()

    def test_a_ternary_network_begins_from_the_float_weights(self):
        for method in ("absmean", "ttq", "lsq"):
            with self.subTest(method):
                result = self.convert(FIXTURES / "lenet5.pth", method)
                self.assertEqual(result.returncode, 0, result.stderr)
                if method != "absmean":
                    self.assertRegex(result.stdout, r"fc2.weight_scale +\[1\] +1 +initialized")
                self.assertGreater(max(self.logits()) - min(self.logits()), 0.01)

    def check_logits(self):
        expected = json.loads((FIXTURES / "lenet5_logits.json").read_text())
        for ours, theirs in zip(self.logits(), expected, strict=True):
            self.assertAlmostEqual(ours, theirs, delta=1e-4)

    def test_weights_are_found_in_a_checkpoint(self):
        # Settings under "model", negated weights of a wrapped module under "state_dict_ema".
        result = self.convert(FIXTURES / "lenet5_ema.pth")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("Weights: 'state_dict_ema' of the file (names of the model: 8)\n", result.stdout)
        self.assertIn("Names: without 'module.', in 8 of them\n", result.stdout)
        self.assertIn("Skipped: model (dict), epoch (int)\n", result.stdout)
        self.check_logits()

    def test_a_key_chooses_among_equals(self):
        file = FIXTURES / "lenet5_student.pth"
        check_refused(self, self.convert(file), 2, "got 'student', 'teacher'; --key chooses one", "lenet5_student.pth")
        result = self.convert(file, "none", "int8", "--key", "studnt")
        check_refused(self, result, 2, "got 'studnt'; did you mean 'student'? (keys: 'student', 'teacher')")
        self.assertFalse((self.folder / "run").exists(), "nothing is left behind")
        result = self.convert(file, "none", "int8", "--key", "student")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.check_logits()

    def test_nan_is_refused_where_it_is(self):
        result = self.convert(FIXTURES / "lenet5_nan.pth")
        check_refused(self, result, 2, "finite values, got nan at [3, 0, 2, 1] and 1 more (name=conv1.weight)")
        self.assertFalse((self.folder / "run").exists(), "nothing is left behind")

    def test_other_networks_are_compared(self):
        # The layers of another network under names that lenet5 has.
        result = self.convert(FIXTURES / "wrapped.pth")
        check_refused(self, result, 2, "got 'module.bias' and 2 more")
        self.assertIn("Missing in the file: 8", result.stdout)
        self.assertFalse((self.folder / "run").exists(), "nothing is left behind")
        result = self.convert(FIXTURES / "wrapped.pth", "none", "int8", "--strip-prefix", "module.")
        check_refused(self, result, 2, "got 'bias' and 2 more")

    def test_what_is_missing_is_said(self):
        check_refused(self, self.convert(FIXTURES / "lenet5.pth", "absmean", "int8_static"), 4, "dynamic activations", "act_scale")
        check_refused(self, self.convert(FIXTURES / "module.pth"), 4, "module.state_dict()", "module.pth")
        check_refused(self, self.convert(FIXTURES / "none.pth"), 3, "none.pth")
        check_refused(self, self.convert(FIXTURES / "make_fixtures.py"), 3, "torch.save")


if __name__ == "__main__":
    unittest.main()
