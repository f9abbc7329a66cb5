#!/usr/bin/env python3
"""Checks ternary_gemm on a CUDA device to the bit, and measures it beside cuBLASLt's int8 and bf16 products and, where triton is installed, a kernel
of two bits in Triton.

    python3 benchmarks/cuda/ternary_gemm.py build/cuda/lib/libbitlab_cuda.so --json result.json

Every comparison is of one interleaved run: CUDA graphs of many products over copies of the operands that together exceed the cache of the
device, the median of several replays.

Without a GPU the host can play the device for the checks of small shapes:

    LD_PRELOAD=build/dev/lib/libbitlab_played_libtorch.so BITLAB_CUDA_PLUGIN=build/dev/lib/libbitlab_cuda_emulated.so \\
    BITLAB_EMULATED_OPEN_MEMORY=1 python3 benchmarks/cuda/ternary_gemm.py --played build/dev/lib/libbitlab_cuda_emulated.so
"""

import argparse
import ctypes
import itertools
import json
import math
import statistics
import sys

import torch

PRODUCTS = {"any": 0, "reference": 1, "mma": 2, "mma_tiles": 3, "wgmma": 4}
FLOAT32, FLOAT16, BFLOAT16 = 0, 4, 5  # CudaType
ROWS, DEPTH = 16, 128  # of a tile: bitlab/kernels/ternary_gemm/cuda/layout.h


class Args(ctypes.Structure):
    """TernaryGemmArgs."""

    _fields_ = [
        ("weights", ctypes.c_void_p), ("rows", ctypes.c_int64), ("depth", ctypes.c_int64), ("scale", ctypes.c_void_p),
        ("scale_stride", ctypes.c_int64), ("scale_neg", ctypes.c_void_p), ("group", ctypes.c_int64),
        ("group_scale", ctypes.c_void_p), ("q", ctypes.c_void_p), ("q_stride", ctypes.c_int64), ("run", ctypes.c_int64),
        ("run_stride", ctypes.c_int64), ("a", ctypes.c_void_p), ("a_stride", ctypes.c_int64), ("bias", ctypes.c_void_p),
        ("alpha", ctypes.c_void_p), ("beta", ctypes.c_void_p), ("residual", ctypes.c_void_p), ("relu", ctypes.c_bool),
        ("clamps", ctypes.c_bool), ("y_type", ctypes.c_uint8), ("has_new_weights", ctypes.c_bool), ("low", ctypes.c_float), ("high", ctypes.c_float), ("y", ctypes.c_void_p),
        ("y_q", ctypes.c_void_p), ("y_inv", ctypes.c_float), ("y_limit", ctypes.c_float), ("y_stride", ctypes.c_int64),
    ]  # fmt: skip


def round_up(value, unit):
    return -(-value // unit) * unit


def packed(t):
    """t, int8 [rows, depth] in {-1, 0, 1}, in the layout kMma."""
    rows, depth = round_up(t.shape[0], ROWS), round_up(t.shape[1], DEPTH)
    whole = torch.zeros(rows, depth, dtype=torch.uint8, device=t.device)
    whole[: t.shape[0], : t.shape[1]] = t.view(torch.uint8) & 3
    # tile, half of the rows, row, chunk, step, half of the step, column, byte
    fields = whole.view(rows // 16, 2, 8, depth // 128, 4, 2, 4, 4).permute(0, 3, 2, 6, 4, 7, 5, 1).reshape(-1, 4)
    return (fields << torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=t.device)).sum(1, dtype=torch.uint8)


class Plugin(ctypes.Structure):
    """The beginning of CudaPlugin."""

    VERSION = 5
    GEMM = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.POINTER(Args), ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p)
    _fields_ = [
        ("version", ctypes.c_int32), ("encode_absmean", ctypes.c_void_p), ("pack_ternary", ctypes.c_void_p),
        ("finish_sums", ctypes.c_void_p), ("ternary_gemm", GEMM),
    ]  # fmt: skip


class Library:
    def __init__(self, path, is_played):
        table = ctypes.CDLL(path).bitlab_cuda_plugin
        table.restype = ctypes.POINTER(Plugin)
        plugin = table().contents
        if plugin.version != Plugin.VERSION:
            raise SystemExit(f"expected a plug-in of version {Plugin.VERSION}, got {plugin.version}: {path}")
        self.function, self.is_played = plugin.ternary_gemm, is_played
        self.has_wgmma = is_played or torch.cuda.get_device_capability()[0] == 9

    def synchronize(self):
        if not self.is_played:
            torch.cuda.synchronize()

    def __call__(self, product, tokens, **arguments):
        args = Args(y_limit=127, a_stride=1, low=-math.inf, high=math.inf)
        for name, value in arguments.items():
            setattr(args, name, value.data_ptr() if isinstance(value, torch.Tensor) else value)
        stream = None if self.is_played else torch.cuda.current_stream().cuda_stream
        wrong = self.function(ctypes.byref(args), tokens, PRODUCTS[product], stream)
        if wrong is not None:
            raise RuntimeError(wrong.decode())


# --- to the bit


BEHIND = 3  # values between the results of two tokens
LOW, HIGH = -1.75, 6.0  # exact in float32


class Problem:
    def __init__(self, tokens, rows, depth, scaling, worst, seed):
        torch.manual_seed(seed)
        self.tokens, self.rows, self.depth, self.scaling = tokens, rows, depth, scaling
        device = {"device": "cuda"}
        self.t = torch.randint(-1, 2, (rows, depth), dtype=torch.int8, **device)
        # What stands behind a row of q is not to be seen.
        self.q_stride = round_up(depth, DEPTH) + 16 * (seed % 3)
        storage = torch.full((tokens * self.q_stride + DEPTH,), 77, dtype=torch.int8, **device)
        self.q = storage[: tokens * self.q_stride].view(tokens, self.q_stride)
        self.q[:, :depth] = torch.randint(-127, 128, (tokens, depth), dtype=torch.int8, **device)
        if worst:
            self.t[:] = (torch.arange(rows, **device) % 3 - 1).to(torch.int8)[:, None]
            self.q[:, :depth] = (127 * (1 - 2 * (torch.arange(tokens, **device) % 2))).to(torch.int8)[:, None]
        self.a = torch.rand(tokens, **device) + 0.01
        self.arguments = {"a": self.a, "rows": rows, "depth": depth, "q": self.q, "q_stride": self.q_stride}
        self.arguments["weights"] = self.weights = packed(self.t)
        stride = 0 if scaling == "tensor" else 1
        if scaling.startswith("group"):
            self.group = int(scaling[5:])
            groups = -(-depth // self.group)
            self.group_scale = (torch.rand(groups, rows, **device) + 0.01).half()
            self.arguments.update(group=self.group, group_scale=self.group_scale)
        else:
            self.scale = torch.rand(rows if stride else 1, **device) + 0.01
            self.arguments.update(scale=self.scale, scale_stride=stride)
        if scaling == "two":
            self.scale_neg = torch.rand(rows, **device) + 0.01
            self.arguments["scale_neg"] = self.scale_neg
        self.relu, self.int8, self.clamps = seed % 5 == 1, seed % 7 == 2, seed % 4 == 3
        self.type, number = ((torch.float32, FLOAT32), (torch.bfloat16, BFLOAT16), (torch.float16, FLOAT16))[seed // 2 % 4 % 3]
        self.arguments["y_type"] = number
        self.residual = torch.randn(tokens, rows + BEHIND, device="cuda") if seed % 6 == 3 else None
        if seed % 2:
            self.arguments["bias"] = self.bias = torch.randn(rows, **device)
        if seed % 3 == 1:
            self.arguments["alpha"] = self.alpha = torch.randn(rows, **device)
            self.arguments["beta"] = self.beta = torch.randn(rows, **device)
        self.arguments["relu"] = self.relu
        if self.clamps:
            self.arguments.update(clamps=True, low=LOW, high=HIGH)
        if self.residual is not None:
            self.arguments["residual"] = self.residual

    def sums(self, q, t):
        return (q.double() @ t.double().t()).to(torch.int64)

    def expected(self):
        q, a = self.q[:, : self.depth], self.a[:, None]
        if self.scaling.startswith("group"):
            y = torch.zeros(self.tokens, self.rows, device="cuda")
            for g, k in enumerate(range(0, self.depth, self.group)):
                part = slice(k, k + self.group)
                y = y + self.sums(q[:, part], self.t[:, part]).float() * self.group_scale[g].float()
            y = y * a
        elif self.scaling == "two":
            plus, minus = self.sums(q, (self.t > 0).to(torch.int8)), self.sums(q, (self.t < 0).to(torch.int8))
            y = plus.float() * a * self.scale - minus.float() * a * self.scale_neg
        else:
            y = self.sums(q, self.t).float() * a * self.scale
        if "bias" in self.arguments:
            y = y + self.bias
        if "alpha" in self.arguments:
            y = y * self.alpha
            y = y + self.beta
        if self.residual is not None:
            y = y + self.residual[:, : self.rows]
        if self.relu:
            y = torch.where(y < 0, torch.zeros_like(y), y)
        if self.clamps:
            y = torch.clamp(y, LOW, HIGH)
        if self.int8:
            return torch.round(torch.clamp(y * 0.37, -127, 127)).to(torch.int8)
        return y.to(self.type)

    def result(self, library, product):
        stride = self.rows + BEHIND
        y = torch.full((self.tokens, stride), 99, dtype=torch.int8 if self.int8 else self.type, device="cuda")
        out = {"y_q": y, "y_inv": 0.37} if self.int8 else {"y": y}
        library(product, self.tokens, y_stride=stride, **out, **self.arguments)
        library.synchronize()
        if not bool((y[:, self.rows :] == 99).all()):
            raise AssertionError("wrote behind the rows")
        return y[:, : self.rows]


def check(library):
    shapes = list(itertools.product((1, 2, 5, 8), (1, 16, 17, 130), (1, 33, 128, 700)))
    shapes += list(itertools.product((9, 33, 64, 130), (15, 128, 300), (127, 129, 1100)))
    shapes += [(16, 4096, 4096), (64, 2560, 2560), (300, 520, 4096), (257, 4224, 1024), (3, 4200, 9000), (17, 128, 264192),
               (2, 33, 300000)]  # fmt: skip
    if library.is_played:
        shapes = [shape for shape in shapes if math.prod(shape) < 1 << 18][::5]
    scalings = ["tensor", "channel", "two", "group64", "group128", "group256"]
    done, failed = 0, []
    for i, (tokens, rows, depth) in enumerate(shapes):
        for scaling in scalings if depth < 5000 else ["channel", scalings[i % 6]]:
            problem = Problem(tokens, rows, depth, scaling, worst=(i + done) % 4 == 0 or depth > 200000, seed=i + done)
            expected = problem.expected()
            for product in PRODUCTS:
                if product not in ("any", "reference") and depth > 264192:
                    continue
                if product == "wgmma" and (scaling not in ("tensor", "channel") or not library.has_wgmma):
                    continue
                if product == "reference" and depth * tokens * rows > 1 << 27:
                    continue
                done += 1
                try:
                    got = problem.result(library, product)
                except (RuntimeError, AssertionError) as error:
                    failed.append(f"{product} tokens={tokens} rows={rows} depth={depth} {scaling}: {error}")
                    library.synchronize()  # ends here where the device is lost
                    continue
                if not torch.equal(got.contiguous().view(torch.int8), expected.contiguous().view(torch.int8)):
                    wrong = int((got != expected).sum())
                    failed.append(f"{product} tokens={tokens} rows={rows} depth={depth} {scaling}: {wrong} results differ")
    print(f"{done} passed, 0 failed" if not failed else f"{done - len(failed)} passed, {len(failed)} failed")
    for line in failed[:40]:
        print("  " + line)
    return not failed


# --- speed


def graph_of(call, copies):
    """Replays `call(i)` for the copies, at least 8 times."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call(0)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        count = max(copies, 8)
        with torch.cuda.graph(graph, stream=stream):
            for i in range(count):
                call(i % copies)
    return graph, count


def interleaved(graphs, rounds=7):
    """Microseconds of one product of each, medians of interleaved rounds."""
    times = {name: [] for name in graphs}
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for round_ in range(rounds + 1):
        for name, (graph, count) in graphs.items():
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            if round_ > 0:
                times[name].append(begin.elapsed_time(end) * 1000 / count)
    return {name: statistics.median(values) for name, values in times.items()}


def of_two_bits():
    """product(q, weights, a, scale, y) of int8 [tokens, depth] and codes of two bits in Triton, as users write it, and what packs t for it; None without triton."""
    try:
        import triton
        import triton.language as tl
    except ImportError:
        return None

    sizes = [(16, 32, 128, 4), (16, 64, 128, 4), (16, 128, 128, 4), (32, 64, 128, 4), (64, 64, 128, 4), (64, 128, 64, 4), (128, 128, 64, 8), (128, 256, 64, 8)]
    configs = [triton.Config({"m": m, "n": n, "k": k}, num_warps=warps, num_stages=3) for m, n, k, warps in sizes]

    @triton.autotune(configs, key=["tokens", "rows", "depth"])
    @triton.jit
    def kernel(q, w, a, scale, y, tokens, rows, depth, m: tl.constexpr, n: tl.constexpr, k: tl.constexpr):
        token, row, quarter = tl.program_id(1) * m + tl.arange(0, m), tl.program_id(0) * n + tl.arange(0, n), depth // 4
        sums = tl.zeros((m, n), dtype=tl.int32)
        for begin in range(0, quarter, k):
            at = begin + tl.arange(0, k)
            there = at < quarter
            codes = tl.load(w + row[None, :] * quarter + at[:, None], mask=(row < rows)[None, :] & there[:, None], other=0)
            for field in tl.static_range(4):  # of a byte: a quarter of the depth each
                t = ((codes >> (2 * field)) & 3).to(tl.int8) - 1
                x = tl.load(q + token[:, None] * depth + field * quarter + at[None, :], mask=(token < tokens)[:, None] & there[None, :], other=0)
                sums += tl.dot(x, t, out_dtype=tl.int32)
        scales = tl.load(a + token, mask=token < tokens, other=0)[:, None], tl.load(scale + row, mask=row < rows, other=0)[None, :]
        where = (token < tokens)[:, None] & (row < rows)[None, :]
        tl.store(y + token[:, None] * rows + row[None, :], sums.to(tl.float32) * scales[0] * scales[1], mask=where)

    def pack(t):
        codes = (t + 1).view(torch.uint8).view(t.shape[0], 4, t.shape[1] // 4)
        return codes[:, 0] | codes[:, 1] << 2 | codes[:, 2] << 4 | codes[:, 3] << 6

    def product(q, weights, a, scale, y):
        (tokens, depth), rows = q.shape, weights.shape[0]
        kernel[lambda size: (triton.cdiv(rows, size["n"]), triton.cdiv(tokens, size["m"]))](q, weights, a, scale, y, tokens, rows, depth)

    return product, pack


def roofs():
    x = torch.empty(1 << 30, dtype=torch.int8, device="cuda").random_()
    y = torch.empty_like(x)
    graph = {"copy": graph_of(lambda i: y.copy_(x), 1)}
    copy = 2 * x.numel() / interleaved(graph)["copy"] * 1e6
    a = torch.randint(-127, 128, (8192, 8192), dtype=torch.int8, device="cuda")
    graph = {"int8": graph_of(lambda i: torch._int_mm(a, a.t()), 1)}
    int8 = 2 * 8192**3 / interleaved(graph)["int8"] * 1e6
    return {"copy_bytes_per_s": copy, "int8_ops_per_s": int8}


def measure(library, tokens, rows, depth, extra, triton):
    generator = torch.Generator(device="cuda").manual_seed(7)
    own = rows * depth // 4
    copies = min(max(1, -(-(160 << 20) // (own + tokens * depth))), 24)
    t = [torch.randint(-1, 2, (rows, depth), dtype=torch.int8, device="cuda", generator=generator) for _ in range(1)]
    weights = [packed(t[0]).clone() for _ in range(copies)]
    q = [torch.randint(-127, 128, (tokens, depth), dtype=torch.int8, device="cuda", generator=generator) for _ in range(copies)]
    a, scale = torch.rand(tokens, device="cuda"), torch.rand(rows, device="cuda")
    y = torch.empty(tokens, rows, device="cuda")
    common = {"rows": rows, "depth": depth, "q_stride": depth, "a": a, "scale": scale, "scale_stride": 1, "y": y, "y_stride": rows}

    def ours(product):
        return lambda i: library(product, tokens, weights=weights[i], q=q[i], **common)

    graphs = {name: graph_of(ours(name), copies) for name in ["any", *extra]}
    # cuBLASLt wants more than 16 rows.
    padded = [torch.nn.functional.pad(x, (0, 0, 0, max(0, 32 - tokens))) for x in q]
    peers = min(copies, max(1, -(-(160 << 20) // (4 * own))))
    int8 = [t[0].clone() for _ in range(peers)]
    graphs["int_mm"] = graph_of(lambda i: torch._int_mm(padded[i % copies], int8[i % peers].t()), peers)
    if triton is not None:
        product, pack = triton
        codes, other = [pack(t[0]).clone() for _ in range(copies)], torch.empty_like(y)
        library("any", tokens, weights=weights[0], q=q[0], **common)
        product(q[0], codes[0], a, scale, other)
        if not torch.equal(y, other):
            raise AssertionError("the kernel in Triton has other results")
        graphs["triton"] = graph_of(lambda i: product(q[i], codes[i], a, scale, other), copies)
    bf16 = [t[0].bfloat16() for _ in range(max(1, peers // 2))]
    x16 = q[0].bfloat16()
    graphs["bf16"] = graph_of(lambda i: torch.mm(x16, bf16[i % len(bf16)].t()), len(bf16))
    times = interleaved(graphs)
    ops = 2 * tokens * rows * depth
    moved = own + tokens * depth + 4 * tokens * rows
    return {
        "tokens": tokens, "rows": rows, "depth": depth, "microseconds": times,
        "bytes_per_s": moved / times["any"] * 1e6, "ops_per_s": ops / times["any"] * 1e6,
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("--json", help="where to write the results")
    parser.add_argument("--no-check", action="store_true")
    parser.add_argument("--no-measure", action="store_true")
    parser.add_argument("--played", action="store_true", help="the host plays the device: check some shapes")
    parser.add_argument("--shapes", default="2560x2560,13824x2560,20480x3200,4096x4096,8192x28672", help="rows x depth")
    parser.add_argument("--tokens", default="1,8,16,64,512,4096")
    parser.add_argument("--also", default="", help="more of: reference,mma,mma_tiles,wgmma")
    options = parser.parse_args()
    if options.played:
        torch.cuda._lazy_init = lambda: None
    library = Library(options.library, options.played)
    if not options.no_check and not check(library):
        return 1
    if options.no_measure or options.played:
        return 0
    result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "roofs": roofs(), "cases": []}
    print(f"{result['device']}: copy {result['roofs']['copy_bytes_per_s'] / 1e12:.2f} TB/s, "
          f"_int_mm of 8192^3 {result['roofs']['int8_ops_per_s'] / 1e12:.0f} TOPS")  # fmt: skip
    triton = of_two_bits()
    print("tokens  rows x depth      us      TB/s   roof   TOPS  x int_mm   x bf16   others")
    for shape in options.shapes.split(","):
        rows, depth = map(int, shape.split("x"))
        for tokens in map(int, options.tokens.split(",")):
            case = measure(library, tokens, rows, depth, [name for name in options.also.split(",") if name], triton)
            result["cases"].append(case)
            us = case["microseconds"]
            others = " ".join(f"{k}={v:.1f}" for k, v in us.items() if k not in ("any", "int_mm", "bf16"))
            print(f"{tokens:6} {rows:6} x {depth:5} {us['any']:8.2f} {case['bytes_per_s'] / 1e12:8.2f} "
                  f"{case['bytes_per_s'] / result['roofs']['copy_bytes_per_s']:6.2f} {case['ops_per_s'] / 1e12:6.0f} "
                  f"{us['int_mm'] / us['any']:8.2f} {us['bf16'] / us['any']:8.2f}   {others}", flush=True)  # fmt: skip
            torch.cuda.empty_cache()
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
