"""The examples for phones, as far as this machine has what they need. Android's on a JVM: what Java gets of the golden network are the runtime's bits,
and what it gets wrong are exceptions. Apple's: the module of C that Swift imports."""

import os
import shutil
import struct
import subprocess
import tempfile
import unittest
from pathlib import Path

from programs import BINARY, grey_png
from programs import run as run_program

SOURCE = Path(os.environ["BITLAB_SOURCE_DIR"])
EXAMPLE = SOURCE / "examples" / "deployment" / "android"
MODEL = SOURCE / "tests" / "golden" / "lenet5.bit"
CLANG = "clang-14"

# Prints the class and message of what each misuse throws.
MISUSES = """
import java.nio.*;
import java.util.Arrays;
import org.bitlab.*;

public final class Misuses {
    interface Code { void run() throws Exception; }

    static void misuse(String name, Code code) {
        try {
            code.run();
            System.out.println(name + ": nothing");
        } catch (Exception error) {
            String status = error instanceof BitlabException ? " " + ((BitlabException) error).status : "";
            System.out.println(name + ": " + error.getClass().getSimpleName() + status + " " + error.getMessage());
        }
    }

    public static void main(String[] arguments) throws Exception {
        FloatBuffer image = Tensor.floats(784);
        misuse("path", () -> Session.load("/none/\\u00e4.bit", 1));
        misuse("bytes", () -> Session.load(new byte[] {1, 2, 3}, 1));
        misuse("threads", () -> Session.load(arguments[0], -1));
        Session session = Session.load(arguments[0], 2);
        misuse("early", () -> session.output(0));
        misuse("count", () -> session.run());
        misuse("shape", () -> session.run(new Tensor(image, 1, 1, 7, 112)));
        misuse("negative", () -> session.run(new Tensor(image, -1, 1, 28, 28)));
        misuse("overflow", () -> session.run(new Tensor(image, 1L << 40, 1L << 40, 28, 28)));
        misuse("short", () -> session.run(new Tensor(image, 2, 1, 28, 28)));
        misuse("heap", () -> session.run(new Tensor(FloatBuffer.allocate(784), 1, 1, 28, 28)));
        misuse("order", () -> session.run(new Tensor(ByteBuffer.allocateDirect(3136).order(ByteOrder.BIG_ENDIAN).asFloatBuffer(), 1, 1, 28, 28)));
        misuse("dtype", () -> session.run(new Tensor(ByteBuffer.allocateDirect(8000).order(ByteOrder.nativeOrder()).asLongBuffer(), 1, 1, 28, 28)));
        image.put(3, Float.NaN);
        misuse("nan", () -> session.run(new Tensor(image, 1, 1, 28, 28)));
        image.put(3, 0);
        // Behind a position, and of two samples: what stands before it is not read.
        FloatBuffer two = Tensor.floats(7 + 2 * 784);
        for (int i = 0; i < 7; i++) two.put(i, Float.NaN);
        two.position(7);
        session.run(new Tensor(two, 2, 1, 28, 28));
        System.out.println(Arrays.toString(session.outputShape(0)));
        misuse("place", () -> session.output(1));
        misuse("before", () -> session.copyOutput(-1, image));
        misuse("small", () -> session.copyOutput(0, Tensor.floats(19)));
        misuse("read-only", () -> session.copyOutput(0, Tensor.floats(20).asReadOnlyBuffer()));
        FloatBuffer part = Tensor.floats(22);
        part.position(1);
        session.copyOutput(0, part);
        FloatBuffer all = session.output(0);
        System.out.println(part.get(0) + " " + part.get(21) + " " + (part.get(1) == all.get(0)) + (part.get(20) == all.get(19)));
        System.out.println(session.metadata("nothing") + " " + session.outputs()[0].shape[0] + " " + session.outputs()[0].dims[0]);
        session.close();
        session.close();
        misuse("closed", () -> session.run(new Tensor(image, 1, 1, 28, 28)));
    }
}
"""


def run(*command, **options):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300, **options)
    if result.returncode != 0:
        raise AssertionError(f"{command}\n{result.stdout}\n{result.stderr}")
    return result.stdout


def jdk():
    """The folder of the JDK that javac is part of, with its headers."""
    javac = shutil.which("javac")
    folder = Path(javac).resolve().parent.parent if javac else None
    return folder if folder and (folder / "include" / "jni.h").exists() else None


@unittest.skipUnless(jdk(), "no JDK: javac on PATH and its include/jni.h")
class Jni(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="bitlab_jni_"))
        prefix = cls.folder / "prefix"
        (prefix / "lib").mkdir(parents=True)
        (prefix / "include" / "bitlab" / "runtime").mkdir(parents=True)
        shutil.copy(BINARY / "lib" / "libbitlab.so", prefix / "lib" / "libbitlab.so")
        (prefix / "lib" / "libbitlab.so.0").symlink_to("libbitlab.so")
        shutil.copy(SOURCE / "bitlab/runtime/bitlab.h", prefix / "include/bitlab/runtime")
        cls.native = cls.folder / "native"
        run("cmake", "-S", EXAMPLE, "-B", cls.native, "-G", "Ninja", f"-DBITLAB_PREFIX={prefix}", f"-DJNI_INCLUDE={jdk() / 'include'}",
            "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS=-Werror")  # fmt: skip
        run("cmake", "--build", cls.native)
        (cls.folder / "Misuses.java").write_text(MISUSES, encoding="utf-8")
        cls.classes = cls.folder / "classes"
        run("javac", "-Xlint:all", "-Werror", "--release", "11", "-encoding", "UTF-8", "-d", cls.classes,
            *EXAMPLE.glob("java/**/*.java"), cls.folder / "Misuses.java")  # fmt: skip

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def java(self, program, *arguments):
        return run("java", "-Xcheck:jni", "-Xmx256m", f"-Djava.library.path={self.native}", "-Dfile.encoding=UTF-8", "-cp", self.classes, program, *arguments,
                   env={**os.environ, "LD_LIBRARY_PATH": str(self.folder / "prefix" / "lib")}).splitlines()  # fmt: skip

    def test_java_has_the_runtimes_bits(self):
        def value(y, x):
            return min(255, (7 * y * y + 11 * x + 3 * x * y) % 301)

        picture, logits, grey = (self.folder / name for name in ("digit.png", "logits", "digit.gray"))
        picture.write_bytes(grey_png(28, 28, value))
        grey.write_bytes(bytes(value(y, x) for y in range(28) for x in range(28)))
        result = run_program("bitlab-run", "run", MODEL, "--input", picture, "--logits", logits)
        self.assertEqual(result.returncode, 0, result.stderr)
        expected = struct.unpack("<10f", logits.read_bytes())
        lines = self.java("Classify", MODEL, grey)
        self.assertEqual(lines[0], "input FLOAT32 [batch, 1, 28, 28] of lenet5")
        self.assertEqual([float.fromhex(line.split(": ")[1]) for line in lines[1:11]], list(expected))
        self.assertEqual(lines[11], f"a {expected.index(max(expected))}")

    def test_misuses_are_exceptions(self):
        lines = self.java("Misuses", MODEL)
        said = dict(line.split(": ", 1) for line in lines if ": " in line)
        for name, *texts in (
            ("path", "BitlabException 3", "/none/\u00e4.bit"),
            ("bytes", "BitlabException 3"),
            ("threads", "BitlabException 2", "threads", "-1"),
            ("early", "BitlabException 2", "a run that succeeded"),
            ("count", "IllegalArgumentException", "1 inputs, got 0"),
            ("shape", "BitlabException 2", "28"),
            ("negative", "IllegalArgumentException", "[-1, 1, 28, 28]"),
            ("overflow", "ArithmeticException"),
            ("short", "IllegalArgumentException", "6272 bytes", "got 3136"),
            ("heap", "IllegalArgumentException", "a direct buffer"),
            ("order", "IllegalArgumentException", "byte order"),
            ("dtype", "IllegalArgumentException", "FLOAT32", "INT64"),
            ("nan", "BitlabException 2", "finite"),
            ("place", "BitlabException 2"),
            ("before", "BitlabException 2"),
            ("small", "IllegalArgumentException", "80 bytes", "got 76"),
            ("read-only", "IllegalArgumentException", "read-only"),
            ("closed", "IllegalStateException"),
        ):
            for text in texts:
                self.assertIn(text, said[name])
        self.assertIn("[2, 10]", lines)
        self.assertIn("0.0 0.0 truetrue", lines)
        self.assertIn("null -1 batch", lines)


@unittest.skipUnless(shutil.which(CLANG), f"no {CLANG}")
class Ios(unittest.TestCase):
    def test_the_module_is_c(self):
        use = "#include <bitlab/runtime/bitlab.h>\nint abi(void) { return bitlab_abi_version() + BITLAB_FLOAT32; }\n"
        with tempfile.TemporaryDirectory() as folder:
            headers = Path(folder) / "headers"
            shutil.copytree(SOURCE / "examples/deployment/ios/headers", headers)
            (headers / "bitlab" / "runtime").mkdir(parents=True)
            shutil.copy(SOURCE / "bitlab/runtime/bitlab.h", headers / "bitlab" / "runtime")
            (Path(folder) / "use.c").write_text(use)
            for standard in ("c99", "c11"):
                said = subprocess.run(
                    [CLANG, f"-std={standard}", "-Wall", "-Wextra", "-pedantic", "-Werror", "-fmodules", "-Rmodule-build", f"-fmodules-cache-path={folder}/cache",
                     "-I", str(headers), "-fsyntax-only", f"{folder}/use.c"], capture_output=True, text=True)  # fmt: skip
                self.assertEqual(said.returncode, 0, said.stderr)
                self.assertIn("building module 'CBitlab'", said.stderr)


if __name__ == "__main__":
    unittest.main()
