#!/usr/bin/env python3
"""Checks the operators of libbitlab_ops on a CUDA device against the CPU's: forward to the bit, gradients within rounding.

    python3 tests/cuda/operators.py build/release/lib/libbitlab_ops.so

A machine with a GPU runs it; the tests of the operators themselves (bitlab/ops/*_test.cc) need none. Without one the host can play the device, in minutes:

    LD_PRELOAD=build/dev/lib/libbitlab_played_libtorch.so BITLAB_CUDA_PLUGIN=build/dev/lib/libbitlab_cuda_emulated.so \\
    BITLAB_EMULATED_OPEN_MEMORY=1 python3 tests/cuda/operators.py --played build/dev/lib/libbitlab_ops.so
"""

# ruff: noqa: B023 (functions in loops are called at once)
import argparse
import itertools
import sys

import torch

ops = torch.ops.bitlab
METHODS = {"absmean": 0, "absmedian": 0, "twn": 0, "twn_asymmetric": 0, "ttq": 2, "lsq": 1, "tga": 1, "fixed": 0, "int8": 0}
GROUPED = ("absmean", "absmedian", "twn", "fixed")
CONVOLUTIONS = [  # x, weight, stride, padding, dilation, transposed, output padding, groups
    ((2, 3, 9, 7), (17, 3, 3, 2), [2, 1], [1, 3], [1, 2], False, [0, 0], 1),
    ((1, 1, 28, 28), (20, 1, 5, 5), [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
    ((2, 64, 8, 8), (64, 64, 3, 3), [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
    ((2, 12, 9, 9), (18, 4, 3, 3), [1, 1], [1, 1], [1, 1], False, [0, 0], 3),
    ((2, 7, 9, 8), (7, 1, 3, 3), [2, 1], [1, 1], [1, 1], False, [0, 0], 7),
    ((2, 5, 40), (6, 5, 7), [2], [3], [2], False, [0], 1),
    ((1, 4, 5, 6, 7), (6, 4, 3, 2, 3), [2, 1, 1], [1, 0, 1], [1, 2, 1], False, [0, 0, 0], 1),
    ((2, 6, 6, 5), (6, 3, 4, 3), [2, 3], [1, 1], [1, 1], True, [1, 2], 3),
]
failures = []
checks = 0


class Lost(Exception):
    """The device does no more: whatever follows would fail as well."""


def finish():
    """Waits for the device, so that an error is that of the call before."""
    torch.cuda.synchronize()


def expect(condition, what):
    global checks
    checks += 1
    if not condition:
        failures.append(what)


def same(a, b):
    a, b = a.cpu().contiguous(), b.cpu().contiguous()
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def close(a, b, bound):
    a, b = a.cpu().double(), b.cpu().double()
    return bool((a - b).norm() <= bound * b.norm().clamp(min=1e-30))


def specs():
    for method, learned in METHODS.items():
        for granularity in ("tensor", "channel", "group64"):
            if granularity == "group64" and method not in GROUPED:
                continue
            yield f"{method}/{granularity}", learned, granularity
    yield "absmean/tensor/2:4", 0, "tensor"
    yield "absmean/channel/stochastic=77", 0, "channel"


def learned_of(count, granularity, rows):
    torch.manual_seed(5)
    return [torch.rand(1 if granularity == "tensor" else rows) + 0.5 for _ in range(count)]


def on_cuda(value):
    return [v.cuda() for v in value] if isinstance(value, list) else value.cuda() if isinstance(value, torch.Tensor) else value


def attempt(what, call):
    """The result of a call, or the first line of its error."""
    try:
        result = call()
        finish()
        return result
    except Exception as error:  # whatever an operator throws is a finding
        failures.append(f"{what}: {str(error).splitlines()[0][:160]}")
    try:
        finish()
    except Exception as error:
        raise Lost(what) from error
    return None


def check_encoders():
    shapes = ((1, 1), (7, 33), (64, 128), (130, 1000), (3, 9000), (12, 64, 3, 2))
    # Scales of sums of many blocks, which the plug-in makes of absmean alone: a tree in shared memory, and one that begins in front of it.
    many_blocks = itertools.product((("absmean/tensor", 0, "tensor"), ("absmean/channel", 0, "channel")), ((521, 1003), (2, 540000), (2900, 2901)))
    for (spec, count, granularity), shape in itertools.chain(itertools.product(specs(), shapes), many_blocks):
        if granularity == "group64" and len(shape) > 2 and shape[1] % 64 != 0:
            continue
        torch.manual_seed(1)
        weight, learned = torch.randn(shape), learned_of(count, granularity, shape[0])
        what = f"quantize_weight {spec} {shape}"
        found = attempt(what, lambda: ops.quantize_weight(weight.cuda(), spec, on_cuda(learned)))
        if found is not None:
            for name, a, b in zip(("t", "scale", "scale_neg", "threshold"), found, ops.quantize_weight(weight, spec, learned), strict=True):
                expect(same(a, b), f"{what}: {name}")
    for shape, start, kind in itertools.product(((1, 1), (5, 127), (3, 4, 1024), (2, 9000), (2, 40004), (3, 33001), (2, 3, 17, 13)), (1, -1), ("int8", "int4", "int8_static")):
        torch.manual_seed(2)
        x = torch.randn(shape)
        x.view(-1)[0] = 1e30
        step = torch.tensor([0.03]) if kind.endswith("static") else None
        what = f"quantize_activation {kind} {shape} from {start}"
        found = attempt(what, lambda: ops.quantize_activation(x.cuda(), start, kind, on_cuda(step)))
        if found is not None:
            for name, a, b in zip(("q", "a"), found, ops.quantize_activation(x, start, kind, step), strict=True):
                expect(same(a, b), f"{what}: {name}")
    for offset in range(5):  # where rows lie, of which a thread reads four values at once
        x = torch.randn(3 * 260 + offset)
        what = f"quantize_activation from value {offset} on"
        found = attempt(what, lambda: ops.quantize_activation(x.cuda()[offset:].view(3, 260), 1, "int8", None))
        if found is not None:
            for name, a, b in zip(("q", "a"), found, ops.quantize_activation(x[offset:].view(3, 260), 1, "int8", None), strict=True):
                expect(same(a, b), f"{what}: {name}")


def linear_cases():
    for spec, count, granularity in specs():
        for kind in ("int8", "int4", "int8_static", "none"):
            for tokens, depth, rows in ((1, 1, 1), (5, 33, 7), (40, 128, 64), (3, 1000, 130)):
                yield spec, count, granularity, kind, tokens, depth, rows


def check_products():
    for spec, count, granularity, kind, tokens, depth, rows in linear_cases():
        torch.manual_seed(3)
        x, weight, bias = torch.randn(tokens, depth), torch.randn(rows, depth), torch.randn(rows)
        learned, step = learned_of(count, granularity, rows), torch.tensor([0.03]) if kind.endswith("static") else None
        exact = kind != "none" and granularity != "group64"
        compare(f"bit_linear {spec} {kind} {tokens}x{depth}x{rows}", exact, [x, weight, bias, *learned],
                lambda x, weight, bias, *learned: ops.bit_linear(x, weight, bias, spec, kind, list(learned),
                                                                 None if step is None else step.to(x.device)))  # fmt: skip
    for spec, count, granularity in specs():
        if granularity == "group64":
            continue
        for shape, kernel, stride, padding, dilation, transposed, output, groups in CONVOLUTIONS:
            torch.manual_seed(4)
            rows = kernel[1] * groups if transposed else kernel[0]
            x, weight, bias, learned = torch.randn(shape), torch.randn(kernel), torch.randn(rows), learned_of(count, granularity, rows)
            compare(f"bit_conv {spec} {shape} {kernel} groups={groups} transposed={transposed}", True, [x, weight, bias, *learned],
                    lambda x, weight, bias, *learned: ops.bit_conv(x, weight, bias, stride, padding, dilation, transposed, output, groups,
                                                                   spec, "int8", list(learned)))  # fmt: skip


def evaluated(what, call, leaves, expected):
    """A call without gradients, which computes on codes; None where the CPU's has no such result, since no layer of the runtime is one of these."""
    with torch.no_grad():
        if leaves[0].is_cuda:
            return None if expected is None else attempt(f"{what} without gradients", lambda: call(*[t.detach() for t in leaves]))
        try:
            return call(*[t.detach() for t in leaves])
        except Exception:
            return None


def compare(what, exact, tensors, call):
    """A call and its gradients on both devices."""
    results, without = [], None
    for device in ("cpu", "cuda"):
        leaves = [t.to(device).requires_grad_() for t in tensors]
        y = attempt(f"{what} on {device}", lambda: call(*leaves))
        if y is None:
            return
        torch.manual_seed(6)
        gradients = attempt(f"{what} backward on {device}", lambda: torch.autograd.grad(y, leaves, torch.randn(y.shape).to(device)))
        without = evaluated(what, call, leaves, without)
        results.append((y.detach(), gradients, without))
    (y, gradients, without), (y_cuda, gradients_cuda, without_cuda) = results
    expect(same(y_cuda, y) if exact else close(y_cuda, y, 1e-5), f"{what}: y")
    if without is not None:
        expect(without_cuda is not None and same(without_cuda, without), f"{what}: y without gradients")
    if gradients is not None and gradients_cuda is not None:
        for i, (a, b) in enumerate(zip(gradients_cuda, gradients, strict=True)):
            # That of a learned scale or threshold is a sum whose terms cancel.
            expect(close(a, b, 3e-5 if i < 3 else 1e-3), f"{what}: gradient {i}")


PACKED = ("absmean/tensor", "absmean/channel", "twn_asymmetric/channel", "absmean/group64", "twn/group64", "int8/channel")


def check_packed():
    """Operators that read codes as ternary_pack makes them, or weights in int8."""
    for spec in PACKED:
        for kind, (tokens, depth, rows) in itertools.product(
            ("int8", "int4", "int8_static", "none"), ((1, 1, 1), (5, 33, 7), (40, 128, 64), (3, 1000, 130), (70, 4096, 260))
        ):
            if kind == "none" and spec not in ("absmean/tensor", "absmean/channel"):
                continue
            torch.manual_seed(9)
            x, bias = torch.randn(tokens, depth), torch.randn(rows)
            arguments = (x, *packed(torch.randn(rows, depth), spec), bias, step_of(kind), kind, 64 if "group" in spec else 0)
            compare_packed(f"ternary_linear {spec} {kind} {tokens}x{depth}x{rows}", ops.ternary_linear, arguments)
        torch.manual_seed(10)
        arguments = (*packed(torch.randn(33, 130), spec), torch.randint(33, (4, 5)), 130, 64 if "group" in spec else 0)
        compare_packed(f"ternary_embedding {spec}", ops.ternary_embedding, arguments)
    for spec, kind in itertools.product(("absmean/channel", "twn_asymmetric/tensor", "int8/channel"), ("int8", "int8_static", "none")):
        if kind == "none" and spec != "absmean/channel":
            continue
        for shape, kernel, *window, groups in CONVOLUTIONS:
            torch.manual_seed(11)
            x, rows = torch.randn(shape), kernel[1] * groups if window[3] else kernel[0]
            weight = packed(torch.randn(kernel), spec, window[3], groups)
            arguments = (x, *weight, torch.randn(rows), step_of(kind), kernel[2:], *(tuple(v) if isinstance(v, list) else v for v in window), groups, kind, 0)
            compare_packed(f"ternary_conv {spec} {kind} {shape} {kernel} groups={groups}", ops.ternary_conv, arguments)
    codes = torch.full((4, 8), 0xFF, dtype=torch.uint8, device="cuda")
    try:
        ops.ternary_linear(torch.randn(2, 32, device="cuda"), codes, torch.ones(1, device="cuda"), None, None, None, "int8", 0)
        expect(False, "codes that do not exist are taken")
    except RuntimeError as error:
        expect("code" in str(error), f"codes that do not exist: {error}")


def packed(weight, spec, transposed=False, groups=1):
    codes, scale, scale_neg = ops.ternary_pack(weight, spec, [], transposed, groups)
    return codes, scale, scale_neg if scale_neg.numel() else None


def step_of(kind):
    return torch.tensor([0.03]) if kind.endswith("static") else None


def compare_packed(what, operator, arguments):
    """An operator twice on the device: as it packs the codes, and by those that it kept."""
    with torch.no_grad():
        on_device = [on_cuda(a) for a in arguments]
        found = attempt(what, lambda: operator(*on_device))
        if found is not None:
            expected = operator(*arguments)
            expect(same(found, expected), what)
            again = attempt(f"{what}, again", lambda: operator(*on_device))
            expect(again is not None and same(again, expected), f"{what}, again")


def check_autocast():
    torch.manual_seed(7)
    x, weight = torch.randn(64, 256, device="cuda", requires_grad=True), torch.randn(128, 256, device="cuda", requires_grad=True)
    plain = ops.bit_linear(x, weight, None, "absmean/tensor", "int8", [])
    g = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, (x, weight), g)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cuda", dtype):
            y = ops.bit_linear(x, weight, None, "absmean/tensor", "int8", [])
        expect(same(y, plain.to(dtype)), f"autocast {dtype}: y")
        for a, b in zip(torch.autograd.grad(y, (x, weight), g.to(dtype)), expected, strict=True):
            expect(a.dtype == torch.float32 and close(a, b, 1e-2), f"autocast {dtype}: gradients")
        for kind, spec in itertools.product(("int8", "int4", "int8_static", "none"), ("absmean/channel", "twn_asymmetric/channel", "int8/channel", "absmean/group64")):
            check_short(f"bit_linear {spec} {kind} {dtype}", dtype, torch.randn(40, 192), torch.randn(33, 192), kind != "none" and "group" not in spec,
                        lambda x, weight: ops.bit_linear(x, weight, None, spec, kind, [], on_device(step_of(kind), x)))  # fmt: skip
        for shape, kernel, *window in CONVOLUTIONS:
            for spec in ("absmean/tensor", "int8/channel"):
                check_short(f"bit_conv {spec} {dtype} {shape} {kernel}", dtype, torch.randn(shape), torch.randn(kernel), True,
                            lambda x, weight: ops.bit_conv(x, weight, None, *window, spec, "int8", []))  # fmt: skip


def on_device(value, like):
    return None if value is None else value.to(like.device)


def check_short(what, dtype, x, weight, exact, call):
    """Results of a type of 16 bits, of x in it: those of float32, rounded."""
    x = x.to(dtype)
    expected = call(x.float(), weight).to(dtype)
    leaves = [x.cuda().requires_grad_(), weight.cuda().requires_grad_()]
    with torch.autocast("cuda", dtype):
        y = attempt(what, lambda: call(*leaves))
    if y is None:
        return
    expect(same(y.detach(), expected) if exact else y.dtype == dtype and close(y.detach(), expected, 1e-2), f"{what}: y")
    gradients = attempt(f"{what} backward", lambda: torch.autograd.grad(y, leaves, torch.ones_like(y)))
    if gradients is not None:
        expect([g.dtype for g in gradients] == [dtype, torch.float32], f"{what}: types of gradients")


def check_streams_and_nan():
    torch.manual_seed(8)
    x, weight = torch.randn(64, 512, device="cuda"), torch.randn(256, 512, device="cuda")
    expected = ops.bit_linear(x, weight, None, "absmean/tensor", "int8", [])
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(4)]
    found = []
    for stream in streams * 4:
        with torch.cuda.stream(stream):
            found.append(ops.bit_linear(x, weight, None, "absmean/tensor", "int8", []))
    torch.cuda.synchronize()
    expect(all(same(y, expected) for y in found), "four streams")
    for bad in (float("nan"), float("inf")):
        broken = x.clone()
        broken[3, 7] = bad
        y = attempt("a row that is not finite", lambda: ops.bit_linear(broken, weight, None, "absmean/tensor", "int8", []))
        if y is not None:
            expect(bool(y[3].isnan().all()) and same(y[4:], expected[4:]), f"a row with {bad}")


def check_kept_codes():
    """Codes that an evaluation keeps, read on other streams than that they were made on, and dropped while those read them."""
    torch.manual_seed(12)
    x, weights = torch.randn(4096, 2048, device="cuda"), [torch.randn(2048, 2048, device="cuda") for _ in range(3)]
    with torch.no_grad():
        expected = [ops.bit_linear(x, weight, None, "absmean/tensor", "int8", []) for weight in weights]
        weight, found = torch.empty_like(weights[0]), []
        side = torch.cuda.Stream()
        for own in weights:
            torch.cuda.current_stream().wait_stream(side)  # the weight is no one's but for this
            weight.copy_(own)
            ops.bit_linear(x[:1], weight, None, "absmean/tensor", "int8", [])
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                torch.cuda._sleep(20_000_000)  # cycles, while the other stream goes on
                found += [ops.bit_linear(x, weight, None, "absmean/tensor", "int8", []) for _ in range(4)]
            weight.data = weight.clone()  # another one, so that the codes go, and their memory is asked for at once
            ops.bit_linear(x[:1], weight, None, "absmean/tensor", "int8", [])
            torch.full((weight.numel() // 4,), 255, dtype=torch.uint8, device="cuda")
        finish()
    for i, y in enumerate(found):
        expect(same(y, expected[i // 4]), f"codes kept for another stream, weight {i // 4}")


def check_graphs():
    """What a CUDA graph replays is computed of the inputs and weights that are there then."""
    window = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
    layers = {
        "bit_linear": ((64, 500), (256, 500), lambda x, weight: ops.bit_linear(x, weight, None, "absmean/tensor", "int8", [])),
        "bit_conv": ((8, 64, 14, 14), (96, 64, 3, 3), lambda x, weight: ops.bit_conv(x, weight, None, *window, "absmean/channel", "int8", [])),
    }
    for (name, (shape, kernel, layer)), learns in itertools.product(layers.items(), (False, True)):
        what = f"{name} in a graph, {'forward and back' if learns else 'evaluated'}"
        torch.manual_seed(13)
        x, weight = torch.randn(shape, device="cuda"), torch.randn(kernel, device="cuda", requires_grad=learns)

        def step():
            with torch.set_grad_enabled(learns):
                y = layer(x, weight)
                return (y.detach(), *torch.autograd.grad(y, weight, torch.ones_like(y))) if learns else (y,)

        def captured():
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    step()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                return graph, step()

        found = attempt(what, captured)
        if found is None:
            continue
        graph, results = found
        for _ in range(2):
            with torch.no_grad():
                x.normal_(), weight.normal_()
            graph.replay()
            for i, (a, b) in enumerate(zip(results, step(), strict=True)):
                expect(same(a, b) if i == 0 else close(a, b, 3e-5), f"{what}: {'gradient' if i else 'y'}")


def check_devices():
    """Memory of the host's is refused; another device than the current one serves, where there is one."""
    x, weight, bias = torch.randn(100, 1024), torch.randn(640, 1024), torch.randn(640)
    spec = "absmean/tensor", "int8", []
    for name, tensors in {"weight": (x.cuda(), weight, None), "bias": (x.cuda(), weight.cuda(), bias), "x": (x, weight.cuda(), None)}.items():
        try:
            ops.bit_linear(*tensors, *spec)
            expect(False, f"{name} of the host is taken")
        except RuntimeError as error:
            expect("tensors on" in str(error), f"{name} of the host: {error}")
    last = torch.device("cuda", torch.cuda.device_count() - 1)
    for tokens in (1, 100):
        for gradients in (False, True):
            with torch.set_grad_enabled(gradients):
                found = attempt(f"bit_linear on {last}", lambda: ops.bit_linear(x[:tokens].to(last), weight.to(last), bias.to(last), *spec))
            if found is not None:
                expect(found.device == last and same(found, ops.bit_linear(x[:tokens], weight, bias, *spec)), f"bit_linear on {last}: y")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", help="libbitlab_ops.so, with libbitlab_cuda.so beside libbitlab.so or on the loader's path")
    parser.add_argument("--played", action="store_true", help="the device is the one that the host plays, whose library is loaded first")
    options = parser.parse_args()
    if options.played:
        global finish
        finish = torch.cuda._lazy_init = lambda: None
        torch.cuda.is_available = torch.cuda.is_bf16_supported = lambda: True  # or autocast stays off
    torch.ops.load_library(options.library)
    torch.backends.cudnn.allow_tf32 = False  # whose gradients have 10 bits
    parts = [check_encoders, check_products, check_packed, check_autocast]
    if not options.played:
        parts += [check_streams_and_nan, check_kept_codes, check_graphs, check_devices]
    try:
        for part in parts:
            part()
    except Lost as lost:
        failures.append(f"the device is lost behind {lost}; the checks that follow were not made")
    except Exception as error:
        failures.append(f"{part.__name__} ended, and the checks behind it were not made: {error!r:.300}")
    for line in failures[:60]:
        print("  " + line)
    print(f"{checks - len(failures)} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
