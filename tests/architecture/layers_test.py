"""The include graph of bitlab/ is the one of tools/check_layers.py, and that checker finds what it must."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(os.environ.get("BITLAB_SOURCE_DIR", Path(__file__).resolve().parents[2]))
CHECKER = ROOT / "tools" / "check_layers.py"


def check(root):
    return subprocess.run([sys.executable, str(CHECKER), "--root", str(root)], capture_output=True, text=True)


class Layers(unittest.TestCase):
    def test_the_repository_keeps_them(self):
        result = check(ROOT)
        self.assertEqual(result.returncode, 0, result.stdout)

    def test_violations_are_found(self):
        cases = {
            "bitlab/base/a.h": '#include "bitlab/kernels/b.h"',
            "bitlab/kernels/a.cc": "#include <torch/torch.h>",
            "bitlab/nn/a.h": "#include <torch/torch.h>",
            "bitlab/runtime/a.cc": '#include "bitlab/config/b.h"',
            "bitlab/strange/a.cc": "",
            "bitlab/base/b_test.cc": '#include "bitlab/nn/a.h"',
            "bitlab/base/c.cc": '#include "bitlab/base/test_support.h"',
        }
        for path, text in cases.items():
            with self.subTest(path), tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / path
                file.parent.mkdir(parents=True)
                file.write_text(text + "\n")
                result = check(folder)
                self.assertEqual(result.returncode, 1, path)
                self.assertIn(path, result.stdout)

    def test_allowed_includes_pass(self):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "bitlab/runtime/a.cc"
            file.parent.mkdir(parents=True)
            file.write_text('#include "bitlab/kernels/b.h"\n#include "bitlab/format/bit/c.h"\n')
            self.assertEqual(check(folder).returncode, 0)


if __name__ == "__main__":
    unittest.main()
