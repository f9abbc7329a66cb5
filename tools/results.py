#!/usr/bin/env python3
"""Writes what the documents quote: tables and pictures from benchmarks/results and from lists in the sources, code from the sources.

  tools/results.py --take out/demo/report.json   adopts a new result as benchmarks/results/demo.json, then writes
  tools/results.py                               writes
  tools/results.py --check                       fails where a file is not what would be written
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List

import pictures

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "bitlab" / "kernels" / "README.md",
    ROOT / "docs" / "tutorials" / "quantization.md",
    ROOT / "docs" / "tutorials" / "training.md",
    ROOT / "docs" / "advanced" / "formats.md",
    ROOT / "docs" / "advanced" / "gpu.md",
    ROOT / "docs" / "benchmarks" / "index.md",
]
KERNELS = ROOT / "bitlab" / "kernels"
RESULTS = ROOT / "benchmarks" / "results"


def kibibytes(count: int) -> str:
    return f"{count / 1024:,.1f} KiB"


def demo() -> dict:
    return json.loads((RESULTS / "demo.json").read_text())


def demo_rows() -> List[pictures.Row]:
    r = demo()
    accuracy, float_bytes = (r["accuracy_float"], r["accuracy_deployed"]), r["weights_bytes_float32"]
    latency = (r["latency_ms_b1_libtorch_float32"], r["latency_ms_b1"])
    throughput = (r["images_per_s_b64_libtorch_float32"], r["images_per_s_b64"])
    rows = [pictures.Row(f"accuracy, {r['images']:,} test images", f"{accuracy[0]:.2%}", f"{accuracy[1]:.2%}", "", accuracy)]
    for place, key in (("on disk", "file"), ("in memory", "memory")):
        size = (float_bytes, r[f"weights_bytes_{key}"])
        rows.append(pictures.Row(f"weights {place}", *map(kibibytes, size), f"{r[f'weights_{key}_ratio']:.1f}×", size))
    rows.append(pictures.Row("latency, batch 1", "", "", f"{latency[0] / latency[1]:.1f}×", latency))
    rows.append(pictures.Row("throughput, batch 64", "", "", f"{throughput[1] / throughput[0]:.1f}×", throughput))
    return rows


def demo_notes() -> List[str]:
    """What is the same in both, and what the speed is of."""
    r = demo()
    equal = "equal byte for byte" if r["logits_equal"] else "different"
    return [
        f"The logits of LibTorch's eval and of `bitlab-run` are {equal} on all {r['images']:,} images.",
        f"Speed is a ratio within one run: {r['threads']} threads of an {r['cpu']}.",
    ]


def demo_table() -> str:
    lines = [
        f"| LeNet-5 on MNIST, {demo()['epochs']} epochs | LibTorch float32 | BitLab ternary, `bitlab-run` | gain |",
        "|---|---:|---:|---:|",
        *(f"| {row.name} | {row.float32} | {row.ternary} | {row.gain} |" for row in demo_rows()),
        "",
        *demo_notes(),
    ]
    return "\n" + "\n".join(lines) + "\n"


def demo_picture() -> str:
    steps = [
        ("train with LibTorch", f"LeNet-5 on MNIST, {demo()['epochs']} epochs"),
        ("deploy", "one file, lenet5.bit"),
        ("run with bitlab-run", "the file alone, no LibTorch"),
    ]
    return pictures.demo("make demo", steps, demo_rows(), [note.replace("`", "") for note in demo_notes()])


# A badge's name, and its value as the match of a pattern in a file that decides it.
BADGES = {
    "licence": ("licence", r"Apache-\1", "LICENSE", r"Apache License\s+Version ([\d.]+)"),
    "language": ("language", r"C++\1", "cmake/options.cmake", r"CMAKE_CXX_STANDARD (\d+)"),
    "platforms": ("tested", "Linux: x86-64, aarch64 in qemu", "Makefile", r"^test:.*: natively, .*, and for 64-bit Arm under qemu$"),
}


def badge(name: str) -> str:
    title, value, path, pattern = BADGES[name]
    match = re.search(pattern, (ROOT / path).read_text(), re.M)
    if not match:
        raise SystemExit(f"{path}: expected what the badge '{name}' claims, found nothing like {pattern}")
    return pictures.badge(title, match.expand(value))


# Peers by what they take: only like is compared with like.
INT8_PEERS = ["onnxruntime MatMulInteger", "LiteRT INT8", "LiteRT INT2"]
FLOAT_PEERS = ["onnxruntime MatMulNBits 2-bit"]


def times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}×"


def speed(case: dict, name: str, other: str) -> float | None:
    return case["candidates"].get(name, {}).get("speed", {}).get(other)


def against_peers(case: dict, name: str) -> str:
    """The smallest ratio, and whose it is."""
    ratios = [(speed(case, name, peer), peer) for peer in INT8_PEERS]
    ratios += [(speed(case, f"{name} from float", peer), peer) for peer in FLOAT_PEERS]
    ratios = [r for r in ratios if r[0] is not None]
    return f"{times(min(ratios)[0])} {min(ratios)[1]}" if ratios else ""


def kernel(case: dict, name: str) -> str:
    return case["candidates"].get(name, {}).get("kernel", "")


def bench() -> dict:
    """The kernels' figures; of several machines those of the first one by name."""
    reports = (json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json")))
    return next(report for report in reports if "features" in report)


def cases(suite: str) -> list:
    return [case for case in bench()["cases"] if case.get("suite") == suite]


def gemm_table() -> str:
    r = bench()
    wide = r["level"]
    roof = "vpdpbusd" if wide == "avx512vnni" else "vpmaddubsw"
    lines = [
        f"One thread of an {r['cpu']}, medians of {r['rounds']} interleaved rounds; scales per channel.",
        "",
        f"| tokens | rows × K | kernel | fastest int8 or 2-bit peer | `{roof}` roof | groups of 128 | AVX2 kernel | ggml TQ2_0 (AVX2) | `vpmaddubsw` roof |",
        "|---:|---|---|---|---:|---:|---|---:|---:|",
    ]
    for case in cases("gemm"):
        name = f"BitLab {wide}"
        lines.append(
            f"| {case['tokens']} | {case['rows']} × {case['depth']} | `{kernel(case, name)}` | {against_peers(case, name)} | "
            f"{times(speed(case, name, f'roof {roof}'))} | {times(speed(case, f'{name} groups of 128', name))} | `{kernel(case, 'BitLab avx2')}` | "
            f"{times(speed(case, 'BitLab avx2 from float', 'ggml TQ2_0'))} | {times(speed(case, 'BitLab avx2', 'roof vpmaddubsw'))} |"
        )
    return "\n" + "\n".join(lines) + "\n"


def other_table() -> str:
    wide = bench()["level"]
    name = f"BitLab {wide}"
    lines = ["| case | ratio |", "|---|---|"]
    for case in cases("conv"):
        lines.append(
            f"| {case['name']}, int8 in and out | {times(speed(case, name, 'onnxruntime QLinearConv'))} ONNX Runtime QLinearConv, "
            f"{times(speed(case, name, 'LibTorch float32'))} LibTorch float32 |"
        )
    for case in cases("memory"):
        for candidate in case["candidates"]:
            if candidate.startswith("BitLab"):
                lines.append(f"| one token, 64 MiB of weights, `{kernel(case, candidate)}` | {times(speed(case, candidate, 'roof read'))} the measured read bandwidth |")
    for case in cases("threads"):
        roof = "vpdpbusd" if wide == "avx512vnni" else "vpmaddubsw"
        ours, theirs = speed(case, f"{name} 2", f"{name} 1"), speed(case, f"roof {roof} 2", f"roof {roof} 1")
        lines.append(f"| two threads, {case['tokens']} tokens | {times(ours)} one thread; the roof's own gain is {times(theirs)} |")
    for case in cases("quant"):
        lines.append(f"| {case['name']} | {times(speed(case, 'BitLab', 'roof read'))} the measured read bandwidth |")
    for case in cases("pack"):
        lines.append(f"| {case['name']} | {case['candidates']['BitLab']['giga_per_s']:.1f} GB/s of packed weights |")
    return "\n" + "\n".join(lines) + "\n"


def support_table() -> str:
    lines = ["| op | kernel | needs | reads | serves |", "|---|---|---|---|---|"]
    for definition in sorted(KERNELS.glob("*/kernels.def")):
        for match in re.finditer(r"^BITLAB_KERNEL\((\w+), (\w+), \(FeatureSet\{(.*?)\}\)(.*)$", definition.read_text(), re.M):
            name, target, features, rest = match.groups()
            needs = " ".join(re.findall(r"Feature::(\w+)", features)) or "nothing"
            layout = re.search(r"\bk(Rows|Vn)\b", rest)
            serves = {"kAllScales": "every scaling", "kPlainOnly": "one scale a row"}.get((re.search(r"kAllScales|kPlainOnly", rest) or [""])[0], "")
            where = "" if target in ("any", "spare") else f" ({target})"
            lines.append(f"| `{definition.parent.name}` | `{name}`{where} | {needs} | {layout[1].lower() if layout else ''} | {serves} |")
    return "\n" + "\n".join(lines) + "\n"


def methods_table() -> str:
    r = json.loads((RESULTS / "mnist_methods.json").read_text())
    seeds, epochs = r["settings"]["seeds"], r["settings"]["flags"]["epochs"]
    complete = [row for row in r["rows"] if len(row["accuracy"]) == seeds]
    means = {json.dumps(row["case"], sort_keys=True): sum(row["accuracy"].values()) / seeds for row in complete}
    base = means[json.dumps({"quant": "none"}, sort_keys=True)]
    lines = [
        f"LeNet-5, {epochs} epochs on all 60,000 training images, the last epoch's accuracy on the 10,000 test images, mean of {seeds} seeds; int8",
        f"activations, every layer ternary. By `{r['command']}`.",
        "",
        "| method | scales | accuracy | below float32 | seeds |",
        "|---|---|---:|---:|---|",
    ]
    for row in complete:
        case, mean = row["case"], means[json.dumps(row["case"], sort_keys=True)]
        threshold = f", c = {case['threshold']}" if "threshold" in case else ""
        name = "float32" if case["quant"] == "none" else f"`{case['quant']}`{threshold}"
        below = "" if case["quant"] == "none" else f"{base - mean:.2f}"
        values = ", ".join(f"{row['accuracy'][seed]:.2f}" for seed in sorted(row["accuracy"], key=int))
        lines.append(f"| {name} | {case.get('granularity', '')} | {mean:.2f} % | {below} | {values} |")
    return "\n" + "\n".join(lines) + "\n"


def training_table() -> str:
    r = json.loads((RESULTS / "training_cost.json").read_text())
    names = list(r["cases"][0]["candidates"])
    lines = [
        f"Time of a step as a multiple of float32's, median of {r['rounds']} interleaved rounds, {r['threads']} thread, {r['isa']}, LibTorch {r['torch']}, brevitas",
        f"{r['brevitas']}. By `{r['command']}`.",
        "",
        "| a step of | " + " | ".join(names) + " |",
        "|---" + "|---:" * len(names) + "|",
    ]
    for case in r["cases"]:
        measured = (case["candidates"].get(name) for name in names)
        ratios = " | ".join("" if of is None else f"{of['ratio_median']:.2f}" for of in measured)
        lines.append(f"| {case['name']} | {ratios} |")
    return "\n" + "\n".join(lines) + "\n"


def accuracy_table() -> str:
    r = json.loads((RESULTS / "accuracy.json").read_text())
    lines = [
        f"Test samples; each network beside its float32 twin of the same preset, data and seeds, by `{r['command']}` on {r['cpu']}.",
        "",
        "| preset | epochs | metric | float32 | as many epochs again | ternary | gap | seeds: float32 / ternary |",
        "|---|---:|---|---:|---:|---:|---:|---|",
    ]
    untrained = [
        "",
        "Without training: the float32 twins of seed 1, quantized by `bitlab deploy --samples` and run by the torch-free runtime.",
        "",
        "| preset | samples | metric | float32 | int8 | ternary |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for name, run in r["runs"].items():
        pairs = list(run["seeds"].values())
        means = {kind: statistics.mean(pair[kind]["test"] for pair in pairs) for kind in pairs[0]}
        ternary, beside = means["ternary"], means.get("float_continued", means["float"])
        is_loss = run["metric"] == "loss"
        show = "{:.3f}".format if is_loss else "{:.2f} %".format
        gap = f"{100 * (ternary / beside - 1):+.1f} % of it" if is_loss else f"{beside - ternary:+.2f} points"
        seeds = ", ".join(f"{show(pair['float']['test'])} / {show(pair['ternary']['test'])}" for pair in pairs)
        epochs, again = len(pairs[0]["ternary"]["curve"]), show(means["float_continued"]) if run["from_float"] else ""
        behind = ", from its twin" if run["from_float"] else ""
        lines.append(f"| `{name}` | {epochs}{behind} | {run['metric']} | {show(means['float'])} | {again} | {show(ternary)} | {gap} | {seeds} |")
        if (of := run.get("without_training")) is not None:
            row = f"| `{name}` | {of['samples']} | {run['metric']} | {show(pairs[0]['float']['test'])} | {show(of['int8'])} | {show(of['ternary'])} |"
            untrained.append(row)
    under_way = []
    for name, run in r.get("under_way", {}).items():
        done = min(len(run["float"]), len(run["ternary"]))
        curves = ("{}: {}".format(kind, ", ".join(f"{100 * epoch['accuracy']:.2f} %" for epoch in run[kind][:done])) for kind in ("float", "ternary"))
        under_way += ["", f"Under way, `{name}` after {done} of {run['epochs']} epochs, on the validation samples: {'; '.join(curves)}."]
    return "\n" + "\n".join(lines + untrained + under_way) + "\n"


def recipes_table() -> str:
    r = json.loads((RESULTS / "recipes.json").read_text())
    means = {recipe: statistics.mean(of) for recipe, of in r["losses"].items()}
    many = len(r["losses"]["ternary"]) > 1
    lines = [
        f"A language model of bytes (2 blocks, width 64, int8 activations, every layer ternary) on tinyshakespeare, {r['epochs']} epochs; the loss on the test text,",
        f"{'one seed' if not many else 'the mean of seeds'}: differences below 0.01 say little. By `{r['command']}` on {r['cpu']}.",
        "",
        "| recipe | loss | beside ternary without |" + (" seeds |" if many else ""),
        "|---|---:|---:|" + ("---|" if many else ""),
    ]
    for recipe, losses in r["losses"].items():
        beside = "" if recipe == "ternary" else f"{means[recipe] - means['ternary']:+.3f}"
        name = recipe if recipe in ("float32", "ternary") else f"`{recipe}`"
        seeds = f" {', '.join(f'{loss:.3f}' for loss in losses)} |" if many else ""
        lines.append(f"| {name} | {means[recipe]:.3f} | {beside} |{seeds}")
    return "\n" + "\n".join(lines) + "\n"


def models_table() -> str:
    head = "\nOne sample at a time; × is BitLab's speed as a multiple of the column's. ONNX Runtime's int8 is QDQ, weights by channel. By\n`make bench-models BENCH_ARGS=--take`.\n"
    return head + "".join(models_of(json.loads(path.read_text())) for path in sorted(RESULTS.glob("models_*.json"), reverse=True))


def models_of(r: Dict[str, Any]) -> str:
    peers = [name for name in r["cases"][0]["candidates"] if name != "BitLab"]
    lines = [
        f"{r['isa']}: {r['cpu']}, LibTorch {r['torch']}, ONNX Runtime {r['onnxruntime']}; median of {r['rounds']} interleaved rounds.",
        "",
        "| network | threads | BitLab | " + " | ".join(peers) + " | weights in memory, below float32 |",
        "|---|---:|---:" + "|---:" * len(peers) + "|---:|",
    ]
    for case in r["cases"]:
        ratios = " | ".join(f"{case['candidates'][name]['ratio_median']:.2f}×" for name in peers)
        own = f"{case['candidates']['BitLab']['ms']:.1f} ms"
        lines.append(f"| {case['network']} | {case['threads']} | {own} | {ratios} | {case['memory_ratio']:.1f}× |")
    return "\n" + "\n".join(lines) + "\n"


def sizes_table() -> str:
    r = json.loads((RESULTS / "sizes.json").read_text())
    settings = list(r["cases"][0]["settings"])
    lines = [
        f"× is how many times less than float32, the file on disk and the weights in memory. By `{r['command']}`.",
        "",
        "| network | float32 | " + " | ".join(f"{name}: file | in memory" for name in settings) + " |",
        "|---|---:" + "|---:|---:" * len(settings) + "|",
    ]
    for case in r["cases"]:
        if "reason" in case:
            lines.append(f"| {case['network']} | is refused: {case['reason']} |" + " |" * 2 * len(settings))
            continue
        found = [case["settings"][name] for name in settings]
        ratios = " | ".join(f"{v['file_ratio']:.1f}× | {v['memory_ratio']:.1f}×" for v in found)
        lines.append(f"| {case['network']} | {found[0]['float32_mb']:.1f} MB | {ratios} |")
    return "\n" + "\n".join(lines) + "\n"


def formats_table() -> str:
    r = json.loads((RESULTS / "formats.json").read_text())
    lines = [
        "Bytes are those of the files; of C, of its constants. A difference is that of the program's outputs from the runtime's, the largest, as a part of the",
        "largest output; 0: the same bits. Speed: one sample, one",
        f"thread, as a multiple of the runtime's, median of {r['rounds']} interleaved rounds. {r['cpu']} ({r['isa']}); {r['versions']}. By",
        f"`{r['command']}`.",
        "",
        "| network | format | run by | bytes | below float32 | difference | speed |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for case in r["cases"]:
        title = case["network"]
        for form, v in case["forms"].items():
            size = f"{v['bytes'] / 1e6:.2f} MB" if v["bytes"] >= 1e6 else f"{v['bytes'] / 1e3:.0f} kB"
            run = f"{v['difference']:g} | {1 / v['times_the_runtime']:.2g}×" if "ms" in v else "| "
            lines.append(f"| {title} | `{form.replace('-', '` `')}` | {v['engine']} | {size} | {v['of_float32']:.1f}× | {run} |")
            title = ""
    return "\n" + "\n".join(lines) + "\n"


def integers_table() -> str:
    r = json.loads((RESULTS / "integers.json").read_text())
    accuracy = r["cases"][0]["forms"]["runtime"]["accuracy"]
    lines = [
        f"LeNet-5 is that of `{r['training']}`, and classifies MNIST's test images, the runtime {accuracy:.2f} % of them. A difference is that of an output from the",
        "runtime's, as a part of the largest one; changed are those samples whose largest output is another one. Memory and code of integers are those without floats",
        "(`_NO_FLOATS`), code by arm-none-eabi-gcc -Os for a Cortex-M3, without the C library's. Instructions are those of a run from floats to floats, compiled with -O2,",
        f"as QEMU counts them. By `{r['command']}`.",
        "",
        "| network | variant | accuracy | changed | difference: largest, mean | constants | memory | code | instructions: Cortex-M0, M3 |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for case in r["cases"]:
        title = case["network"]
        for variant, v in case["forms"].items():
            if variant == "runtime":
                continue
            share = f"{v['accuracy']:.2f} %" if "accuracy" in v else ""
            code = "" if v["code"] is None else kibibytes(v["code"])
            counted = ", ".join("" if n is None else f"{n / 1e6:.1f} M" for n in v["instructions"].values())
            lines.append(
                f"| {title} | `{variant}` | {share} | {v['other_classes']} | {v['difference']:g}, {v['mean_difference']:g} | {kibibytes(v['constants'])} | "
                f"{kibibytes(v['memory'])} | {code} | {counted} |"
            )
            title = ""
    return "\n" + "\n".join(lines) + "\n"


def cuda_gemm_table() -> str:
    r = json.loads((RESULTS / "cuda_ternary_gemm.json").read_text())
    copy, int8 = r["roofs"]["copy_bytes_per_s"], r["roofs"]["int8_ops_per_s"]
    head = f"""
{r["device"]}, PyTorch {r["torch"]}; a copy moves {copy / 1e12:.2f} TB/s, `torch._int_mm` of 8192³ does {int8 / 1e12:.0f} TOPS.

| rows × K | tokens | µs | of the copy's TB/s | TOPS | × `_int_mm` | × bf16 `mm` |
|---|---:|---:|---:|---:|---:|---:|
"""
    rows = []
    for case in r["cases"]:
        us = case["microseconds"]
        rows.append(
            f"| {case['rows']} × {case['depth']} | {case['tokens']} | {us['any']:.1f} | {case['bytes_per_s'] / copy:.2f} | "
            f"{case['ops_per_s'] / 1e12:.0f} | {us['int_mm'] / us['any']:.2f} | {us['bf16'] / us['any']:.2f} |\n"
        )
    return head + "".join(rows)


def cuda_training_table() -> str:
    r = json.loads((RESULTS / "cuda_training_step.json").read_text())
    rows = [f"\n{r['device']}, PyTorch {r['torch']}.\n\n| network | type | float | ternary | ternary / float |\n|---|---|---:|---:|---:|\n"]
    for case in r["cases"]:
        ms = case["milliseconds"]
        rows.append(
            f"| {case['network']} | {case['type']} | {ms['float']:.1f} ms | {ms['ternary']:.1f} ms | "
            f"{ms['ternary'] / ms['float']:.2f} |\n"
        )
    return "".join(rows)


TABLES: Dict[str, Callable[[], str]] = {
    "demo": demo_table,
    "gemm": gemm_table,
    "kernels": other_table,
    "support": support_table,
    "methods": methods_table,
    "training": training_table,
    "accuracy": accuracy_table,
    "recipes": recipes_table,
    "models": models_table,
    "sizes": sizes_table,
    "formats": formats_table,
    "integers": integers_table,
    "cuda_gemm": cuda_gemm_table,
    "cuda_training": cuda_training_table,
}


def code(path: str, marker: str) -> str:
    text = (ROOT / path).read_text()
    comment, language = ("#", "python") if path.endswith(".py") else ("//", "cpp")
    match = re.search(rf"^{comment} docs: {re.escape(marker)}\n(.*?)^{comment} docs: end$", text, re.M | re.S)
    if not match:
        raise SystemExit(f"{path}: no part between '{comment} docs: {marker}' and '{comment} docs: end'")
    return f"\n```{language}\n{match[1].strip()}\n```\n"


def written(text: str) -> str:
    def table(match: re.Match) -> str:
        return f"{match[1]}{TABLES[match[2]]()}<!-- results: end -->"

    def snippet(match: re.Match) -> str:
        return f"{match[1]}{code(match[2], match[3])}<!-- code: end -->"

    text = re.sub(r"(<!-- results: (\w+)[^>]*-->\n).*?<!-- results: end -->", table, text, flags=re.S)
    return re.sub(r"(<!-- code: (\S+) (\S+) -->\n).*?<!-- code: end -->", snippet, text, flags=re.S)


def files() -> Dict[Path, str]:
    """What every file should hold."""
    images = ROOT / "docs" / "images"
    texts = {document: written(document.read_text()) for document in DOCUMENTS}
    return {**texts, images / "demo.svg": demo_picture(), **{images / f"{name}.svg": badge(name) for name in BADGES}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", type=Path, metavar="REPORT", help="a report.json of bitlab demo")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.take:
        shutil.copyfile(arguments.take, RESULTS / "demo.json")
    stale = 0
    for path, text in files().items():
        if path.exists() and path.read_text() == text:
            continue
        if arguments.check:
            print(f"{path.relative_to(ROOT)} is not what tools/results.py writes; run it", file=sys.stderr)
            stale = 1
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    return stale


if __name__ == "__main__":
    sys.exit(main())
