"""bitlab-bench on a machine that lacks something."""

import contextlib
import io
import os
import sys
import unittest
from pathlib import Path

sys.path.insert(0, os.environ.get("BITLAB_SOURCE_DIR", str(Path(__file__).resolve().parents[2])))
from benchmarks import bitlab_bench  # noqa: E402
from benchmarks.native import Unavailable  # noqa: E402


class Narrow:
    """A library on a machine with AVX2 alone; its tasks are never run."""

    def gemm(self, *_shape, **_options):
        return object()

    conv = gemm

    def roof(self, name, *_size, **_options):
        if name == "vpdpbusd":
            raise Unavailable("a roof of AVX2")
        return object()


class Broken:
    """A peer that fails in every case, each time for another reason."""

    __name__ = "broken"

    @staticmethod
    def gemm(tokens, *_shape):
        raise RuntimeError(f"{tokens} tokens")


class LeftOut(unittest.TestCase):
    def setUp(self):
        bitlab_bench.said.clear()
        stderr = contextlib.redirect_stderr(io.StringIO())
        self.stderr = stderr.__enter__()
        self.addCleanup(stderr.__exit__, None, None, None)

    def test_what_every_case_lacks_is_said_once(self):
        cases = [
            *bitlab_bench.gemm_cases(Narrow(), "avx2", [], False),
            *bitlab_bench.conv_cases(Narrow(), "avx2", [], False),
        ]
        self.assertGreater(len(cases), 1)
        said = "  without roof vpdpbusd: a roof of AVX2 (first in gemm 1 tokens 2048x2048)\n"
        self.assertEqual(self.stderr.getvalue(), said)

    def test_every_reason_is_said(self):
        tokens = [case.facts["tokens"] for case in bitlab_bench.gemm_cases(Narrow(), "avx2", [Broken()], True)]
        for n in tokens:
            self.assertIn(f"  without broken: {n} tokens (first in gemm {n} tokens", self.stderr.getvalue())

    def test_a_missing_peer_is_said_once(self):
        for suite in ("gemm", "conv"):
            self.assertIsNone(bitlab_bench.optional("no_such_peer", suite))
        self.assertEqual(self.stderr.getvalue().count("without no_such_peer"), 1)


if __name__ == "__main__":
    unittest.main()
