#!/usr/bin/env python3
"""bitlab-bench: BitLab's kernels beside the machine's roofs and other runtimes, interleaved in one run.

  benchmarks/bitlab_bench.py                       every suite; prints a table and writes out/bench/kernels.json
  benchmarks/bitlab_bench.py --suite gemm,conv     some suites
  benchmarks/bitlab_bench.py --take                adopts the result as benchmarks/results/<cpu>.json

Absolute times mean little on a shared machine: every round runs each candidate of a case once, in turn, and what counts is the median over
the rounds of the ratio of two candidates' times in the same round. A peer counts only for kernels of the same or a wider instruction set.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.native import ROOT, Library, Unavailable  # noqa: E402

# Instruction sets, narrow to wide; a kernel of a name that begins so uses that one.
LEVELS = ["baseline", "avx2", "avx512", "avx512vnni"]
POLICIES = {"avx2": "ternary_gemm:x86_avx2", "avx512": "ternary_gemm:x86_avx512", "avx512vnni": ""}
SHAPES = [(2048, 2048), (8192, 2048)]
SECONDS_A_TURN = 0.004
THREADS = re.compile(r"^BitLab \w+ (\d+)$")


def machine_level(features):
    if "avx512vnni" in features:
        return "avx512vnni"
    return "avx512" if "avx512bw" in features else "avx2" if "avx2" in features else "baseline"


said = set()


def left_out(what, reason, case):
    """Says once a run why a candidate is left out: what one case lacks, the others mostly lack too."""
    line = f"without {what}: {reason}"
    if line not in said:
        said.add(line)
        print(f"  {line} (first in {case})", file=sys.stderr)


class Case:
    """Candidates that do the same work; `work` in operations or bytes."""

    def __init__(self, name: str, work: float, **facts):
        self.name, self.work, self.facts, self.candidates = name, work, facts, {}

    def add(self, name: str, make, *arguments, **options):
        """`make` returns something with run(repeats), or raises Unavailable."""
        try:
            self.candidates[name] = make(*arguments, **options)
        except Unavailable as reason:
            left_out(name, reason, self.name)

    def measure(self, rounds: int):
        turns = {}
        for name, candidate in self.candidates.items():
            candidate.run(2)
            seconds = max(candidate.run(1), 1e-7)
            turns[name] = max(1, round(SECONDS_A_TURN / seconds))
        times = {name: [] for name in self.candidates}
        order = list(self.candidates)
        for r in range(rounds):
            for name in order[r % len(order) :] + order[: r % len(order)]:
                # Of a task whose work differs from the case's (a roof), the time for as much work.
                share = self.work / getattr(self.candidates[name], "work", self.work)
                times[name].append(self.candidates[name].run(turns[name]) / turns[name] * share)
        return times

    def result(self, rounds: int):
        times = self.measure(rounds)
        candidates = {}
        for name, candidate in self.candidates.items():
            entry = {"giga_per_s": round(self.work / statistics.median(times[name]) / 1e9, 2)}
            for fact in ("kernel", "isa", "version", "note"):
                if getattr(candidate, fact, ""):
                    entry[fact] = getattr(candidate, fact)
            entry["speed"] = {
                other: round(statistics.median(b / a for a, b in zip(times[name], times[other], strict=True)), 3) for other in times if other != name
            }
            candidates[name] = entry
        return with_entries({"name": self.name, **self.facts, "candidates": candidates})


def is_peer(name):
    return not name.startswith(("BitLab", "roof"))


def roof_of(name, candidates):
    """The roof that bounds a candidate of ours: reading where memory does, else the multiplier of its instruction set, with as many threads."""
    threads = THREADS.search(name)
    for roof in ["roof read", "roof vpdpbusd" if "vnni" in name or name == "BitLab" else "roof vpmaddubsw"]:
        for full in (roof, f"{roof} {threads[1]}" if threads else roof):
            if full in candidates:
                return full
    return None


def with_entries(result):
    """Adds `entries`: for each candidate of ours what it is worth beside its roof, and beside peers with its instruction set or a lesser one."""
    candidates, entries = result["candidates"], []
    for name, ours in candidates.items():
        if not name.startswith("BitLab"):
            continue
        isa = next((level for level in reversed(LEVELS) if re.search(rf"\b{level}\b", name)), "")
        takes_float = "from float" in name
        peers = {
            peer: entry
            for peer, entry in candidates.items()
            if is_peer(peer) and (not isa or LEVELS.index(entry.get("isa", LEVELS[0])) <= LEVELS.index(isa)) and takes_float_too(peer) == takes_float
        }
        roof = roof_of(name, candidates)
        ratios = [ours["speed"][peer] for peer in peers if peer in ours["speed"]]
        threads = THREADS.search(name)
        entries.append({
            "case": result["name"], "name": name, "m": result.get("tokens", result.get("batch")), "n": result.get("rows", result.get("channels")),
            "k": result.get("depth"), "threads": int(threads[1]) if threads else 1, "isa": isa, "kernel": ours.get("kernel", ""),
            "gops": ours["giga_per_s"], "roof_fraction": ours["speed"].get(roof) if roof else None,
            "peers": {peer: entry["giga_per_s"] for peer, entry in peers.items()}, "peer_isa": {peer: entry.get("isa", "") for peer, entry in peers.items()},
            "ratio": min(ratios) if ratios else None,
        })  # fmt: skip
    return {**result, "entries": entries}


def takes_float_too(peer):
    return "MatMulNBits" in peer or "TQ2_0" in peer or "LibTorch" in peer


def results_of(cpu):
    """Where the committed result of a machine lies."""
    return ROOT / "benchmarks" / "results" / (re.sub(r"[^a-z0-9]+", "-", cpu.lower()).strip("-") + ".json")


def as_text(report):
    """JSON with a line for each case."""
    head = json.dumps({**report, "cases": None})[: -len("null}")]
    text = head + "[\n" + ",\n".join(json.dumps(case) for case in report["cases"]) + "\n]}\n"
    json.loads(text)
    return text


def optional(module, suite):
    try:
        return __import__(f"benchmarks.peers.{module}", fromlist=["gemm"])
    except ImportError as error:
        left_out(module, f"{error} (python -m pip install -r benchmarks/peers/requirements.txt)", f"suite {suite}")
        return None


def add_peers(case, modules, kind, arguments, level):
    for module in modules:
        if module is None:
            continue
        try:
            for name, peer in getattr(module, kind)(*arguments, level).items():
                case.candidates[name] = peer
        except Exception as error:  # a peer's failure must not cost the others' figures
            left_out(module.__name__, error, case.name)


def levels_of(level):
    return [name for name in ("avx2", "avx512", "avx512vnni") if LEVELS.index(name) <= LEVELS.index(level)]


def gemm_cases(library, level, peers, quick):
    tokens = [1, 8, 64] if quick else [1, 2, 4, 8, 12, 16, 32, 63, 64, 128, 256, 512]
    for rows, depth in SHAPES[:1] if quick else SHAPES:
        for n in tokens:
            case = Case(f"gemm {n} tokens {rows}x{depth}", 2.0 * n * rows * depth, suite="gemm", tokens=n, rows=rows, depth=depth)
            for name in levels_of(level):
                if name == "avx512" and level == "avx512vnni":
                    continue  # the same prefix: measured on machines without VNNI
                case.add(f"BitLab {name}", library.gemm, n, rows, depth, policy=POLICIES[name])
                case.add(f"BitLab {name} from float", library.gemm, n, rows, depth, from_float=True, policy=POLICIES[name])
                case.add(f"BitLab {name} groups of 128", library.gemm, n, rows, depth, group=128, policy=POLICIES[name])
            case.add("roof vpdpbusd", library.roof, "vpdpbusd")
            case.add("roof vpmaddubsw", library.roof, "vpmaddubsw")
            add_peers(case, peers, "gemm", (n, rows, depth, 1), level)
            yield case


def memory_cases(library, level, _peers, _quick):
    rows, depth = 16384, 16384  # 64 MiB of weights
    case = Case("gemv from memory", rows * depth / 4, suite="memory", tokens=1, rows=rows, depth=depth)
    for name in levels_of(level):
        if name == "avx512" and level == "avx512vnni":
            continue

        def task(policy=POLICIES[name]):
            made = library.gemm(1, rows, depth, policy=policy)
            made.work = rows * depth / 4
            return made

        case.add(f"BitLab {name}", task)
    case.add("roof read", library.roof, "read", rows * depth // 4)
    yield case


def conv_cases(library, level, peers, quick):
    for channels, side in ((64, 32), (256, 14)):
        for batch in (1,) if quick else (1, 8):
            work = 2.0 * batch * side * side * channels * channels * 9
            case = Case(f"conv 3x3 {channels} channels {side}x{side} batch {batch}", work, suite="conv", batch=batch, channels=channels, side=side)
            for name in levels_of(level):
                if name == "avx512" and level == "avx512vnni":
                    continue
                case.add(f"BitLab {name}", library.conv, batch, channels, side, channels, policy=POLICIES[name])
            case.add("roof vpdpbusd", library.roof, "vpdpbusd")
            add_peers(case, peers, "conv", (batch, channels, side, channels, 1), level)
            yield case


def thread_cases(library, level, _peers, quick):
    for n in (64,) if quick else (32, 64, 128, 512):
        case = Case(f"threads {n} tokens", 2.0 * n * 2048 * 2048, suite="threads", tokens=n, rows=2048, depth=2048)
        for threads in (1, 2):
            case.add(f"BitLab {level} {threads}", library.gemm, n, 2048, 2048, threads=threads)
            roof = "vpdpbusd" if level == "avx512vnni" else "vpmaddubsw"
            case.add(f"roof {roof} {threads}", library.roof, roof, threads=threads)
        yield case


def quant_cases(library, level, _peers, quick):
    for kib in (256,) if quick else (256, 4096, 65536):
        values = kib * 256
        case = Case(f"activation_quant {kib} KiB", values * 4.0, suite="quant", values=values)
        case.add("BitLab", library.quant, values)
        case.add("roof read", library.roof, "read", values * 4)
        yield case


def pack_cases(library, _level, _peers, _quick):
    case = Case("packing 2048x2048", 2048 * 2048 / 4, suite="pack")
    case.add("BitLab", library.pack, 2048, 2048)
    yield case


SUITES = {
    "gemm": (gemm_cases, ["onnxruntime_peer", "litert_peer", "ggml_peer", "torch_peer"]),
    "memory": (memory_cases, []),
    "conv": (conv_cases, ["onnxruntime_peer", "torch_peer"]),
    "threads": (thread_cases, []),
    "quant": (quant_cases, []),
    "pack": (pack_cases, []),
}


def show(result):
    print(result["name"])
    for name, entry in result["candidates"].items():
        label = f"{name} ({entry['kernel']})" if "kernel" in entry and entry["kernel"] != name else name
        print(f"  {label:<52} {entry['giga_per_s']:>9.1f} G/s")


def write(path: Path, text: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default=",".join(SUITES), help="suites, separated by commas (%(default)s)")
    parser.add_argument("--rounds", type=int, default=21, help="turns of each candidate (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="fewer sizes")
    parser.add_argument("--no-peers", action="store_true", help="BitLab and roofs alone")
    parser.add_argument("--library", type=Path, help="libbitlab_bench.so (build/bench/lib)")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "out" / "bench" / "kernels.json")
    parser.add_argument("--take", action="store_true", help="also write benchmarks/results/<cpu>.json")
    arguments = parser.parse_args()
    names = arguments.suite.split(",")
    for name in names:
        if name not in SUITES:
            raise SystemExit(f"expected a suite of {', '.join(SUITES)}, got '{name}'")
    if arguments.rounds < 1:
        raise SystemExit(f"expected at least one round, got {arguments.rounds}")
    library = Library(arguments.library)
    level = machine_level(library.features())
    report = {"cpu": library.cpu(), "features": library.features(), "level": level, "rounds": arguments.rounds, "cases": []}
    for name in names:
        cases, modules = SUITES[name]
        peers = [] if arguments.no_peers else [optional(module, name) for module in modules]
        for case in cases(library, level, peers, arguments.quick):
            result = case.result(arguments.rounds)
            show(result)
            report["cases"].append(result)
    text = as_text(report)
    write(arguments.output, text)
    print(f"wrote {arguments.output}")
    if arguments.take:
        write(results_of(report["cpu"]), text)


if __name__ == "__main__":
    main()
