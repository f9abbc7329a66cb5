"""BitLab's kernels and the machine's roofs as tasks: libbitlab_bench.so through ctypes."""

from __future__ import annotations

import ctypes
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Unavailable(RuntimeError):
    """A task that this machine, or this installation, cannot run."""


class Library:
    def __init__(self, path: Path | None = None):
        path = path or ROOT / "build" / "bench" / "lib" / "libbitlab_bench.so"
        if not path.exists():
            raise SystemExit(f"expected {path}, found nothing (build it: make bench)")
        self.c = ctypes.CDLL(str(path))
        text, handle, i64 = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64
        for name, result, arguments in (
            ("error", text, []),
            ("cpu", text, []),
            ("features", text, []),
            ("gemm", handle, [i64, i64, i64, i64, ctypes.c_int, text, ctypes.c_int]),
            ("conv", handle, [i64, i64, i64, i64, i64, text, ctypes.c_int]),
            ("quant", handle, [i64, text]),
            ("pack", handle, [i64, i64]),
            ("roof", handle, [text, i64, ctypes.c_int]),
            ("kernel", text, [handle]),
            ("work", ctypes.c_double, [handle]),
            ("run", ctypes.c_double, [handle, ctypes.c_int]),
            ("free", None, [handle]),
        ):
            function = getattr(self.c, f"bitlab_bench_{name}")
            function.restype, function.argtypes = result, arguments

    def cpu(self) -> str:
        return self.c.bitlab_bench_cpu().decode()

    def features(self) -> list[str]:
        return self.c.bitlab_bench_features().decode().split()

    def gemm(self, tokens, rows, depth, group=0, from_float=False, policy="", threads=1) -> Task:
        return Task(self, self.c.bitlab_bench_gemm(tokens, rows, depth, group, int(from_float), policy.encode(), threads))

    def conv(self, batch, channels, side, filters, kernel=3, policy="", threads=1) -> Task:
        return Task(self, self.c.bitlab_bench_conv(batch, channels, side, filters, kernel, policy.encode(), threads))

    def quant(self, values, policy="") -> Task:
        return Task(self, self.c.bitlab_bench_quant(values, policy.encode()))

    def pack(self, rows, depth) -> Task:
        return Task(self, self.c.bitlab_bench_pack(rows, depth))

    def roof(self, name, size=0, threads=1) -> Task:
        return Task(self, self.c.bitlab_bench_roof(name.encode(), size, threads))


class Task:
    def __init__(self, library: Library, handle):
        if not handle:
            raise Unavailable(library.c.bitlab_bench_error().decode())
        self.library, self.handle = library, handle
        self.kernel = library.c.bitlab_bench_kernel(handle).decode()
        self.work = library.c.bitlab_bench_work(handle)

    def run(self, repeats: int) -> float:
        return self.library.c.bitlab_bench_run(self.handle, repeats)

    def __del__(self):
        if getattr(self, "handle", None):
            self.library.c.bitlab_bench_free(self.handle)
