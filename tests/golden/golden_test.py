"""The committed model gives the committed logits, on every kernel; where an emulator runs the programs, as several CPUs."""

import os
import re
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "integration"))
from programs import run  # noqa: E402

SOURCE = Path(os.environ["BITLAB_SOURCE_DIR"])
EMULATED = bool(os.environ.get("BITLAB_EMULATOR"))


def rows(op):
    text = re.sub(r"//.*", "", (SOURCE / "bitlab/kernels" / op / "kernels.def").read_text())
    return re.findall(r"BITLAB_KERNEL\((\w+)", text)


class Golden(unittest.TestCase):
    def check_cpu(self, env):
        expected = (HERE / "lenet5.logits").read_bytes()
        served = 0
        with tempfile.TemporaryDirectory() as folder:
            logits = Path(folder) / "logits"
            for kernel in [f"ternary_gemm:{row}" for row in rows("ternary_gemm")] + [None]:
                result = run("bitlab-run", "run", HERE / "lenet5.bit", "--data", "synthetic", "--limit", "64", "--logits", logits,
                             kernel=kernel, env=env)  # fmt: skip
                if result.returncode == 4:
                    self.assertRegex(result.stderr, "MissingFeature|NotBuilt")
                    continue
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertEqual(logits.read_bytes(), expected, kernel)
                served += 1
        self.assertGreaterEqual(served, 2, "the reference and the choice of the machine")

    def test_logits(self):
        self.check_cpu({})

    @unittest.skipUnless(EMULATED, "the programs run on this machine's own CPU")
    def test_a_small_cpu_gives_the_same(self):
        small = {"BITLAB_QEMU_CPU": "cortex-a53"}
        self.check_cpu(small)
        machine = run("bitlab-run", "--version", env=small).stdout
        self.assertIn("neon", machine)
        self.assertNotIn("dotprod", machine)
        self.assertIn("dotprod", run("bitlab-run", "--version").stdout)


if __name__ == "__main__":
    unittest.main()
