#!/usr/bin/env python3
"""Checks the machine code of libbitlab_cuda.so for what its sources ask of an assembler and no run without a GPU can show.

    tools/check_cuda_code.py build/cuda/lib/libbitlab_cuda.so

For each architecture in it, of each kernel:

- no multiplication and addition are one operation (the numeric contract: one rounding an operation), but where the sources ask for it. Division and square
  root are made of such operations, so the machine code of kernels that have them is left out here, and their PTX is read;
- a kernel that begins before earlier work on its stream has ended touches no memory before it waits for that, on any path, but codes of weights, which it
  reads 16 bytes at a time;
- the products use matrix units, and no loop around these writes registers to memory; what does not change in one may be read from there.

Needs cuobjdump and nvdisasm of the CUDA toolkit, or of tools/setup.sh --cuda.
"""

import argparse
import collections
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
FUSED = {"FFMA", "FFMA2", "DFMA"}  # HFMA2 and IMAD are how constants come to registers, too
ROOTS = ("FCHK", "MUFU.RSQ", "MUFU.RCP64H")  # what division and square root of floats have, and nothing else
# Names of functions and types, as kernels' names have them.
ASKS_FOR_FUSED = ("FloatProduct", "Attend", "EachPlace")  # sums of float products; fmod
BEGINS_EARLY = ("mma_kernel", "wgmma_kernel")
MATRIX_UNIT = {"mma_kernel": "IMMA", "MmaTiles": "IMMA", "wgmma_kernel": "IGMMA"}
HOPPER = "sm_90a"

Instruction = collections.namedtuple("Instruction", "address guard op text")


def parse(lines):
    """{(architecture, kernel): [Instruction]} of what cuobjdump --dump-sass prints."""
    kernels, architecture, current = {}, None, None
    for line in lines:
        if found := re.match(r"\s*code for (sm_\w+)", line):
            architecture = found[1]
        elif found := re.match(r"\s*Function : (\S+)", line):
            current = kernels.setdefault((architecture, found[1]), [])
        elif (found := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@(\S+)\s+)?(\S+?)(\s.*?)?\s*;", line)) and current is not None:
            current.append(Instruction(int(found[1], 16), found[2], found[3], (found[4] or "").strip()))
    return kernels


def has_name(kernel, name):
    """In a mangled name, where names stand behind their lengths."""
    return f"{len(name)}{name}" in kernel


def target(instruction):
    """Where a branch or a call goes, or None."""
    if not instruction.op.startswith(("BRA", "CALL", "JMP")):
        return None
    numbers = re.findall(r"\b0x[0-9a-f]+\b", instruction.text)
    return int(numbers[-1], 16) if numbers else None


def successors(code, places, i):
    """The places in `code` that may follow."""
    instruction = code[i]
    if instruction.op.startswith(("BRX", "JMX")):
        raise ValueError(f"expected branches to places, found {instruction.op} at {instruction.address:#x}")
    name = instruction.op.split(".")[0]
    # A branch that says more than its place depends on that.
    goes_on = instruction.guard is not None or not (name in ("EXIT", "RET", "JMP") or (name == "BRA" and re.fullmatch(r"0x\w+", instruction.text)))
    following = [i + 1] if goes_on and i + 1 < len(code) else []
    to = target(instruction)
    if to is not None and to in places:
        following.append(places[to])
    return following


def before_wait(code):
    """The instructions that a path may reach without a wait for earlier work."""
    places = {instruction.address: i for i, instruction in enumerate(code)}
    seen, left = set(), [0]
    while left:
        i = left.pop()
        if i in seen:
            continue
        seen.add(i)
        if not code[i].op.startswith("ACQBULK"):
            left += successors(code, places, i)
    return [code[i] for i in sorted(seen)]


def touches_memory(instruction):
    """Of the device, or of a cluster; shared memory and constants aside."""
    name = instruction.op.split(".")[0]
    return name in ("LD", "ST", "LDG", "STG", "LDGSTS", "ATOM", "ATOMG", "RED", "REDG", "UBLKCP", "UTMALDG", "UTMASTG", "UBLKRED", "UTMAREDG")


def in_reverse_postorder(following):
    """The nodes that the first one reaches, each behind those in front of it, but for loops."""
    order, seen, stack = [], {0}, [(0, iter(following[0]))]
    while stack:
        node, rest = stack[-1]
        to = next((each for each in rest if each not in seen), None)
        if to is None:
            order.append(node)
            stack.pop()
        else:
            seen.add(to)
            stack.append((to, iter(following[to])))
    return order[::-1]


def loops_of(code):
    """{the first instruction: those of the loop}, as places: what leads back to an instruction that all ways there pass."""
    places = {instruction.address: i for i, instruction in enumerate(code)}
    following = [successors(code, places, i) for i in range(len(code))]
    order = in_reverse_postorder(following)
    rank = {node: i for i, node in enumerate(order)}
    before = collections.defaultdict(list)
    for node in order:
        for to in following[node]:
            before[to].append(node)
    # Immediate dominators, after Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm".
    dominator = {0: 0}
    changed = True
    while changed:
        changed = False
        for node in order[1:]:
            best = None
            for other in before[node]:
                if other not in dominator:
                    continue
                if best is None:
                    best = other
                while best != other:
                    if rank[best] > rank[other]:
                        best = dominator[best]
                    else:
                        other = dominator[other]
            if dominator.get(node) != best:
                dominator[node] = best
                changed = True
    loops = {}
    for node in order:
        for head in following[node]:
            above = node
            while rank[above] > rank[head]:
                above = dominator[above]
            if above != head:
                continue
            body, left = loops.setdefault(head, {head}), [node]
            while left:
                each = left.pop()
                if each not in body:
                    body.add(each)
                    left += before[each]
    return loops


def matrix_loops(code):
    """The innermost loops around matrix instructions."""
    loops = [body for body in loops_of(code).values() if any("MMA." in code[i].op for i in body)]
    return [sorted(a) for a in loops if not any(b < a for b in loops)]


def problems_of(architecture, kernel, code):
    ops = {instruction.op.split(".")[0] for instruction in code}
    asks_for_fused = any(has_name(kernel, name) for name in ASKS_FOR_FUSED)
    if ops & FUSED and not asks_for_fused and not any(instruction.op.startswith(ROOTS) for instruction in code):
        yield f"expected a rounding an operation, found {' '.join(sorted(ops & FUSED))}"
    if architecture == HOPPER and "ACQBULK" in ops:
        for early in before_wait(code):
            if touches_memory(early) and not re.match(r"LDG\.E(\.\w+)*\.128\b", early.op):
                yield f"expected a wait for earlier work, found {early.op} {early.text} at {early.address:#x} in front of it"
    elif architecture == HOPPER and any(has_name(kernel, name) for name in BEGINS_EARLY):
        yield "expected a wait for earlier work, found none"
    for name, unit in MATRIX_UNIT.items():
        if not has_name(kernel, name) or (unit == "IGMMA" and architecture != HOPPER):
            continue
        loops = matrix_loops(code) if unit in ops else []
        if not loops:
            yield f"expected a loop around {unit}, found none"
        for loop in loops:
            spilled = [code[i] for i in loop if code[i].op.startswith("STL")]
            if spilled:
                yield f"expected a loop over registers, found {len(spilled)} of them written to memory from {spilled[0].address:#x} on"


def problems_of_ptx(lines):
    """Fused operations, and those that the assembler may fuse: the ones that do not say how they round."""
    kernel = ""
    for line in lines:
        text = re.sub(r"^@\S+\s+", "", line.strip())
        if found := re.search(r"\.(?:entry|func)\s.*?(\w+)\($", text):
            kernel = found[1]
        fused = re.match(r"(fma|mad)\.\S*f(16|32|64)\b", text) and not any(has_name(kernel, name) for name in ASKS_FOR_FUSED)
        if fused or re.match(r"(add|sub|mul)\.(ftz\.|sat\.)*f(16|32|64)\b", text):
            yield f"PTX {kernel}: expected a rounding an operation, found '{text}'"


def check(kernels):
    """The kernels by architecture, and what is wrong with them."""
    counts, problems = collections.Counter(), []
    for (architecture, kernel), code in kernels.items():
        counts[architecture] += 1
        try:
            found = list(problems_of(architecture, kernel, code))
        except ValueError as error:
            found = [str(error)]
        problems += [f"{architecture} {kernel}: {problem}" for problem in found]
    return counts, problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", help="libbitlab_cuda.so, or a cubin")
    arguments = parser.parse_args()
    folders = [os.environ.get("PATH", ""), "/usr/local/cuda/bin", *map(str, ROOT.glob(".venv/lib/python3*/site-packages/nvidia/cu13/bin"))]
    path = os.pathsep.join(folders)
    for tool in ("cuobjdump", "nvdisasm"):  # which the former calls
        if shutil.which(tool, path=path) is None:
            parser.exit(4, f"check_cuda_code: expected {tool} on PATH, in /usr/local/cuda/bin or in .venv, found none: run tools/setup.sh --cuda\n")

    def listing(what):
        run = subprocess.run(["cuobjdump", what, arguments.library], capture_output=True, text=True, env={**os.environ, "PATH": path})
        if run.returncode != 0:
            parser.exit(3, f"check_cuda_code: {arguments.library}: {run.stderr.strip() or run.stdout.strip()}\n")
        return run.stdout.splitlines()

    counts, problems = check(parse(listing("--dump-sass")))
    if not counts:
        parser.exit(3, f"check_cuda_code: {arguments.library}: expected kernels, found none\n")
    problems += problems_of_ptx(listing("--dump-ptx"))
    for problem in problems:
        print(problem, file=sys.stderr)
    print(", ".join(f"{count} kernels of {architecture}" for architecture, count in sorted(counts.items())), f"{len(problems)} problems", sep=": ")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
