"""Writes bitlab/data/internal/unicode_tables.inc, what tokenizers need to know of characters: python3 tools/unicode_tables.py"""

import sys
import unicodedata
from pathlib import Path

OUT = Path(__file__).resolve().parent.parent / "bitlab/data/internal/unicode_tables.inc"
ALL = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]


def ranges(name, text, has):
    found = []
    for char in filter(has, ALL):
        if found and found[-1][1] == ord(char) - 1:
            found[-1][1] = ord(char)
        else:
            found.append([ord(char), ord(char)])
    return f"// {text}\nconstexpr Range {name}[]{{\n{wrapped([f'{{{a:#x}, {b:#x}}},' for a, b in found])}}};\n"


def wrapped(items):
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) > 150:
            lines.append(line)
            line = "   "
        line += " " + item
    return "\n".join([*lines, line]) + "\n"


def lower_rules():
    """(first, last, stride, delta) of characters with one lower one."""
    rules = []
    for char in ALL:
        low = char.lower()
        if low == char or len(low) != 1:
            continue
        code, delta = ord(char), ord(low) - ord(char)
        for rule in reversed(rules[-2:]):
            stride = code - rule[1]
            if rule[3] == delta and stride in (1, 2) and (rule[0] == rule[1] or rule[2] == stride):
                rule[1], rule[2] = code, stride
                break
        else:
            rules.append([code, code, 1, delta])
    return rules


def bases():
    """Each character whose canonical decomposition has others once its marks are left out, and these; Hangul, which a formula decomposes, is not there."""
    for char in ALL:
        base = "".join(c for c in unicodedata.normalize("NFD", char) if unicodedata.category(c) != "Mn")
        if base != char and unicodedata.category(char) != "Mn" and not 0xAC00 <= ord(char) <= 0xD7A3:
            yield char + base


def literals(entries):
    lines, line = [], ""
    for entry in entries:
        escaped = "".join(f"\\U{ord(c):08x}" if ord(c) > 0x2FFF else c if 32 < ord(c) < 127 else f"\\u{ord(c):04x}" for c in entry)
        if len(line) + len(escaped) > 140:
            lines.append(f'    U"{line}"')
            line = ""
        line += escaped + " "
    return "\n".join([*lines, f'    U"{line}"'])


def main():
    category = unicodedata.category
    rules = [f"{{{a:#x}, {b:#x}, {s}, {d}}}," for a, b, s, d in lower_rules()]
    text = [
        f"// Of Unicode {unicodedata.unidata_version}; tools/unicode_tables.py wrote it.\n",
        ranges("kLetters", "General categories L*", lambda c: category(c)[0] == "L"),
        ranges("kNumbers", "N*", lambda c: category(c)[0] == "N"),
        ranges("kPunctuation", "P*", lambda c: category(c)[0] == "P"),
        ranges("kMarks", "Mn", lambda c: category(c) == "Mn"),
        ranges("kControls", "Cc, Cf, Co", lambda c: category(c) in ("Cc", "Cf", "Co")),
        f"// From first to last in steps of stride, c becomes c + delta.\nconstexpr LowerRule kLower[]{{\n{wrapped(rules)}}};\n",
        "// A character, and what is left of its canonical decomposition without marks; a space behind each.\n"
        f"constexpr std::u32string_view kBases =\n{literals(bases())};\n",
    ]
    OUT.write_text("".join(text))


main()
