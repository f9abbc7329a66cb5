"""The includes of bitlab/ are the edges that bitlab/CMakeLists.txt lists, and the checker of both finds what it must."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(os.environ.get("BITLAB_SOURCE_DIR", Path(__file__).resolve().parents[2]))
CHECKER = ROOT / "tools" / "check_layers.py"


LIBRARIES = """
bitlab_library(base)  # bitlab_library(none DEPS base)
if(SOMETHING)
  bitlab_library(config DEPS base PRIVATE_LINK yaml-cpp)
endif()
bitlab_library(kernels DEPS base)
bitlab_library(format/bit DEPS base)
bitlab_library(runtime DEPS kernels
               format_bit)
bitlab_library(nn TORCH DEPS base TEST_DEPS runtime)
"""
FILES = {
    "bitlab/CMakeLists.txt": LIBRARIES,
    "bitlab/base/b.h": "",
    "bitlab/config/b.h": '#include "bitlab/base/b.h"',
    "bitlab/kernels/b.h": '#include "bitlab/base/b.h"',
    "bitlab/format/bit/b.h": '#include "bitlab/base/b.h"',
    "bitlab/runtime/b.cc": '#include "bitlab/kernels/b.h"\n#include "bitlab/format/bit/b.h"',
    "bitlab/nn/b.h": '#include "bitlab/base/b.h"\n#include <torch/types.h>',
    "bitlab/nn/b_test.cc": '#include "bitlab/runtime/b.h"',
}


def check(root):
    return subprocess.run([sys.executable, str(CHECKER), "--root", str(root)], capture_output=True, text=True)


def check_with(**changes):
    """The verdict about FILES with some of them changed."""
    with tempfile.TemporaryDirectory() as folder:
        for path, text in {**FILES, **changes}.items():
            file = Path(folder) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")
        return check(folder)


class Layers(unittest.TestCase):
    def test_the_repository_keeps_them(self):
        result = check(ROOT)
        self.assertEqual(result.returncode, 0, result.stdout)

    def test_violations_are_found(self):
        cases = {
            "bitlab/base/a.h": '#include "bitlab/kernels/b.h"',
            "bitlab/kernels/a.cc": "#include <torch/torch.h>",
            "bitlab/config/a.h": '#include "bitlab/config/internal/a.h"',
            "bitlab/nn/a.h": "#include <torch/torch.h>",
            "bitlab/runtime/a.cc": '#include "bitlab/config/b.h"',
            "bitlab/strange/a.cc": "",
            "bitlab/base/b_test.cc": '#include "bitlab/nn/a.h"',
            "bitlab/base/c.cc": '#include "bitlab/base/test_support.h"',
        }
        for path, text in cases.items():
            with self.subTest(path):
                result = check_with(**{path: text})
                self.assertEqual(result.returncode, 1, path)
                self.assertIn(path, result.stdout)

    def test_what_is_listed_passes(self):
        self.assertEqual(check_with().stdout, "ok\n")

    def test_a_missing_edge_is_named(self):
        for path, edge, line in (("bitlab/kernels/a.cc", "kernels -> config", 6), ("bitlab/nn/a.cc", "nn -> config", 10)):
            result = check_with(**{path: '#include "bitlab/config/b.h"'})
            self.assertIn(f"{path}:1: the edge {edge} is missing: add 'config' to the list", result.stdout)
            self.assertIn(f"bitlab/CMakeLists.txt:{line}", result.stdout)

    def test_an_edge_without_an_include_is_named(self):
        result = check_with(**{"bitlab/config/b.h": "", "bitlab/config/b_test.cc": '#include "bitlab/base/b.h"'})
        self.assertEqual(result.returncode, 1)
        self.assertIn("bitlab/CMakeLists.txt:4: no include uses the edge config -> base", result.stdout)

    def test_an_edge_to_nowhere_and_a_library_without_a_folder_are_named(self):
        libraries = LIBRARIES.replace("kernels\n", "kernels hub\n") + "bitlab_library(serve DEPS base)\n"
        result = check_with(**{"bitlab/CMakeLists.txt": libraries})
        self.assertIn("bitlab/CMakeLists.txt:11: there is no folder bitlab/serve", result.stdout)
        self.assertIn("the edge runtime -> hub leads to no library", result.stdout)

    def test_cycles_are_named(self):
        result = check_with(**{"bitlab/CMakeLists.txt": LIBRARIES.replace("(base)", "(base DEPS kernels)")})
        self.assertIn("cycle: base -> kernels -> base", result.stdout)


if __name__ == "__main__":
    unittest.main()
