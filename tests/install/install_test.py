"""An installation serves programs outside of the repository: C++ with and without LibTorch, and C99 by pkg-config."""

import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

SOURCE = Path(os.environ["BITLAB_SOURCE_DIR"])
BINARY = Path(os.environ["BITLAB_BINARY_DIR"])
CONSUMERS = SOURCE / "tests" / "install"


def run(*command, **options):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if result.returncode != 0:
        raise AssertionError(f"{command}\n{result.stdout}\n{result.stderr}")
    return result.stdout


def cache(name):
    found = re.search(rf"^{name}:\w+=(.*)$", (BINARY / "CMakeCache.txt").read_text(), re.M)
    return found[1] if found else ""


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="bitlab_install_"))
        cls.prefix = cls.folder / "prefix"
        run("cmake", "--install", BINARY, "--prefix", cls.prefix)
        cls.trains = cache("BITLAB_TRAIN") == "ON"
        cls.bit = cls.folder / "lenet5.bit"
        if cls.trains:
            consumer = cls.build("train", f"-DTorch_DIR={cache('Torch_DIR')}")
            run(consumer / "consumer", cls.bit)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    @classmethod
    def build(cls, name, *options, source=None):
        build = cls.folder / name
        run("cmake", "-S", source or CONSUMERS / name, "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={cls.prefix}", "-DCMAKE_BUILD_TYPE=Release", *options)
        run("cmake", "--build", build)
        return build

    def setUp(self):
        if not self.trains:
            self.skipTest("built without training: no model to run")

    def test_runtime_in_cpp_and_c_without_libtorch(self):
        build = self.build("runtime")
        expected = run(build / "consumer_runtime", self.bit)
        self.assertEqual(len(expected.split()), 10)
        self.assertEqual(run(build / "consumer_runtime_shared", self.bit), expected)
        libraries = self.prefix / "lib"
        flags = run("pkg-config", "--cflags", "--libs", "bitlab", env={**os.environ, "PKG_CONFIG_PATH": str(libraries / "pkgconfig")}).split()
        program = self.folder / "consumer_c"
        run("cc", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", CONSUMERS / "c" / "main.c", "-o", program, *flags, f"-Wl,-rpath,{libraries}")
        self.assertEqual(run(program, self.bit), expected)
        for path in (build / "consumer_runtime", build / "consumer_runtime_shared", program):
            self.assertNotRegex(run("ldd", path), r"lib(torch|c10)")

    def test_the_loader_finds_the_cpp_library_before_libtorch(self):
        needed = re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", self.folder / "train" / "consumer"))
        self.assertEqual(needed[0], "libstdc++.so.6", needed)

    def test_a_missing_model_is_one_line(self):
        build = self.build("runtime")
        result = subprocess.run([build / "consumer_runtime_shared", "/none.bit"], capture_output=True, text=True)
        self.assertEqual(result.returncode, 1)
        self.assertIn("/none.bit", result.stderr)

    def test_a_kernel_of_ones_own(self):
        build = self.build("custom_kernel", source=SOURCE / "examples" / "custom_kernel")
        output = run(build / "custom_kernel", self.bit)
        self.assertRegex(output, r"skip_zeros +Chosen")
        self.assertIn("products: the same bits", output)
        self.assertIn("logits: the same bits", output)

    def test_the_installed_programs_run(self):
        self.assertIn("build", run(self.prefix / "bin" / "bitlab-run", "--version"))
        self.assertIn("build", run(self.prefix / "bin" / "bitlab", "--version"))
        self.assertTrue((self.prefix / "share/bitlab/data/mnist/README.md").exists())

    def test_only_the_documented_interface_is_visible(self):
        symbols = run("nm", "-D", "-C", "--defined-only", self.prefix / "lib" / "libbitlab.so").splitlines()
        names = [line.split(" ", 2)[2] for line in symbols]
        allowed = re.compile(r"bitlab_|bitlab::(runtime::(Model|Session)|program::|error_|this_machine|named_machine|make_thread_pool|kernels::Policy|Exception|Failure)|(typeinfo|typeinfo name|vtable) for bitlab::Exception|BITLAB_0")
        self.assertEqual([name for name in names if not allowed.match(name)], [])
        header = (SOURCE / "bitlab/runtime/bitlab.h").read_text()
        for function in re.findall(r"\b(bitlab_\w+)\(", header):
            self.assertIn(f"{function}@@BITLAB_0", names)

    def test_headers_are_complete(self):
        installed = self.prefix / "include" / "bitlab"
        for header in installed.rglob("*"):
            self.assertNotEqual(header.name, "internal")
            self.assertNotIn("test", header.name)
            if header.suffix in (".h", ".def"):
                for target in re.findall(r'#include "(bitlab/[^"]+)"', header.read_text()):
                    self.assertTrue((self.prefix / "include" / target).exists(), f"{header}: {target}")


if __name__ == "__main__":
    unittest.main()
