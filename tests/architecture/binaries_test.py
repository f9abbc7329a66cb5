"""What the compiler and linker made: instruction-set objects define only the symbols of kernels.def, float products alone have fused
multiply-adds, bitlab-run needs no LibTorch, and what needs LibTorch finds the C++ library before it."""

import os
import re
import subprocess
import unittest
from pathlib import Path

SOURCE = Path(os.environ["BITLAB_SOURCE_DIR"])
BINARY = Path(os.environ["BITLAB_BINARY_DIR"])
NM, OBJDUMP, READELF = (os.environ.get(name) or name.lower() for name in ("NM", "OBJDUMP", "READELF"))
KERNELS = SOURCE / "bitlab" / "kernels"
FUSED = re.compile(r"\b(vf?n?m(add|sub)\w*|vfmaddsub\w*|vfmsubadd\w*|fn?m(add|sub)|fml[as])\b")


def core():
    """What is below the torch line: one library, static in builds for programs of one file."""
    found = [path for path in (BINARY / "lib" / "libbitlab_core.so", BINARY / "lib" / "libbitlab_core.a") if path.exists()]
    assert len(found) == 1, found
    return found[0]


def strong(path, *options):
    """The names of functions and objects that a file defines, besides those that may be defined many times and are one when loaded."""
    lines = run(NM, "--defined-only", "--extern-only", *options, str(path)).splitlines()
    return {fields[2].partition("@")[0] for fields in map(str.split, lines) if len(fields) == 3 and fields[1] in "TDBRG"}


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def isa_objects():
    """(kernel folder, stem, object) of every source that is compiled for an instruction set of its own."""
    for source in sorted(KERNELS.glob("*/*.cc")):
        if re.match(r"(x86|arm)_", source.stem):
            objects = list(BINARY.rglob(f"{source.parent.name}/{source.stem}.cc.o"))
            if objects:
                yield source.parent.name, source.stem, objects[0]


def rows(op):
    text = re.sub(r"//.*", "", (KERNELS / op / "kernels.def").read_text())
    return re.findall(r"BITLAB_KERNEL\((\w+)", text)


def needed(path):
    """The libraries that the loader brings a file, in its order."""
    return re.findall(r"\(NEEDED\).*\[(.*)\]", run(READELF, "-d", str(path)))


class InstructionSets(unittest.TestCase):
    def test_objects_define_only_their_kernels(self):
        found = list(isa_objects())
        if not found:
            self.skipTest("no kernel for an instruction set of this architecture")
        for op, stem, path in found:
            with self.subTest(f"{op}/{stem}"):
                defined = [line.split()[-1] for line in run(NM, "-C", "--defined-only", "--extern-only", "-P", str(path)).splitlines() if line]
                names = {
                    m[1]
                    for line in run(NM, "-C", "--defined-only", "--extern-only", str(path)).splitlines()
                    for m in [re.match(r"\S+ \S (?:bitlab::kernels::)?(\S+?)(\(|$)", line)]
                    if m
                }
                self.assertIn(stem, rows(op))
                self.assertTrue(defined)
                self.assertEqual(names, {f"{op}_{stem}"})

    def test_every_row_has_a_source(self):
        for definition in KERNELS.glob("*/kernels.def"):
            for row in rows(definition.parent.name):
                sources = [p.stem for p in definition.parent.glob("*.cc")]
                self.assertIn(row, sources, definition.parent.name)


class FloatingPoint(unittest.TestCase):
    def test_float_products_alone_below_the_torch_line_have_fused_multiply_adds(self):
        process = subprocess.Popen([OBJDUMP, "-dC", "--no-show-raw-insn", str(core())], stdout=subprocess.PIPE, text=True)
        function, fused = "", {}
        for line in process.stdout:
            if header := re.match(r"[0-9a-f]+ <(.*)>:$", line):
                function = header[1]
            elif FUSED.search(line):
                fused.setdefault(function, line.strip())
        process.wait()
        self.assertEqual(process.returncode, 0)
        product = re.compile(r"bitlab::(kernels::(float_gemm_\w+|\(anonymous namespace\)::(tile<|float_gemm_body))|profile::roof_fm\w+)")
        self.assertEqual({name: line for name, line in fused.items() if not product.search(name)}, {})
        self.assertTrue(fused)

    def test_the_pattern_knows_fused_instructions(self):
        for name in ("vfmadd231ps", "vfnmsub132sd", "fmla", "fmadd", "fmsub", "vfmaddsub213ps"):
            self.assertTrue(FUSED.search(f"  12: {name} a, b"), name)
        for name in ("vpmaddubsw", "vpmaddwd", "mulps", "addps", "fmul", "fadd", "madd"):
            self.assertFalse(FUSED.search(f"  12: {name} a, b"), name)


class TorchFree(unittest.TestCase):
    def test_bitlab_run_needs_no_libtorch(self):
        libraries = needed(BINARY / "bin" / "bitlab-run")
        self.assertTrue(libraries)
        for name in ("torch", "c10", "python", "gomp"):
            self.assertNotIn(name, "\n".join(libraries))

    def test_the_core_does_not_name_torch(self):
        self.assertIsNone(re.search(r"\b(at|c10|torch)::", run(NM, "-C", str(core()))))


class TheCppLibrary(unittest.TestCase):
    def test_the_loader_finds_it_before_libtorch(self):
        if not (BINARY / "bin" / "bitlab").exists():
            self.skipTest("built without training")
        files = [*(BINARY / "bin").iterdir(), *(BINARY / "lib").glob("*.so"), *(BINARY / "python" / "bitlab").glob("*.so")]
        lists = {path.name: needed(path) for path in files}
        first = {name: libraries[0] for name, libraries in lists.items() if any(library.startswith("libtorch") for library in libraries)}
        self.assertLessEqual({"bitlab", "libbitlab_ops.so"}, first.keys())
        self.assertEqual(set(first.values()), {"libstdc++.so.6"}, first)


class OneCore(unittest.TestCase):
    def test_nothing_of_the_core_is_in_another_file(self):
        if core().suffix == ".a":
            self.skipTest("a static core is part of each program")
        names = {name for name in strong(core(), "-D") if "bitlab" in name}
        self.assertIn("_ZN6bitlab16make_thread_poolEi", names)
        others = [*(BINARY / "bin").iterdir(), *(BINARY / "lib").glob("libbitlab_*.so")]
        for path in others:
            if path != core() and path.is_file() and os.access(path, os.X_OK):
                self.assertEqual(sorted(names & strong(path))[:3], [], path)


if __name__ == "__main__":
    unittest.main()
