"""Writes bitlab/data/internal/unicode_tables.inc, what tokenizers need to know of characters: python3 tools/unicode_tables.py"""

import sys
import unicodedata
from pathlib import Path

OUT = Path(__file__).resolve().parent.parent / "bitlab/data/internal/unicode_tables.inc"
ALL = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]

WORD_PARTS = {0x200C, 0x200D, *range(0x24B6, 0x24EA), *range(0x1F130, 0x1F14A), *range(0x1F150, 0x1F16A), *range(0x1F170, 0x1F18A)}


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


def decompositions(form, than=""):
    """Each character that `form` decomposes otherwise than `than`, and into what; Hangul, which a formula decomposes, is not there."""
    for char in ALL:
        parts = unicodedata.normalize(form, char)
        if parts != (unicodedata.normalize(than, char) if than else char) and not 0xAC00 <= ord(char) <= 0xD7A3:
            yield char + parts


def compositions():
    """Each two characters that NFC makes one, and that one; without Hangul."""
    for char in ALL:
        parts = unicodedata.decomposition(char).split()
        if len(parts) == 2 and not parts[0].startswith("<") and unicodedata.normalize("NFC", char) == char:
            yield "".join(chr(int(part, 16)) for part in parts) + char


def classes():
    """(first, last, combining class) of characters that have one."""
    found = []
    for char in ALL:
        number = unicodedata.combining(char)
        if found and found[-1][1] == ord(char) - 1 and found[-1][2] == number:
            found[-1][1] = ord(char)
        elif number:
            found.append([ord(char), ord(char), number])
    return [f"{{{a:#x}, {b:#x}, {number}}}," for a, b, number in found]


def literal(c):
    if ord(c) > 0x2FFF:
        return f"\\U{ord(c):08x}"
    if ord(c) < 160:  # no universal character name may stand for these
        return "\\" + c if c in '"\\' else c
    return f"\\u{ord(c):04x}"


def literals(entries):
    lines, line = [], ""
    for entry in entries:
        escaped = "".join(map(literal, entry))
        if len(line) + len(escaped) > 140:
            lines.append(f'    U"{line}"')
            line = ""
        line += escaped + r"\uffff"
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
        ranges("kSpacingMarks", "Mc, Me", lambda c: category(c) in ("Mc", "Me")),
        ranges(
            "kWordParts",
            "What words are made of besides letters and marks: Nd, Nl, Pc, letters in circles and squares, the two joiners",
            lambda c: category(c) in ("Nd", "Nl", "Pc") or ord(c) in WORD_PARTS,
        ),
        ranges("kControls", "Cc, Cf, Co", lambda c: category(c) in ("Cc", "Cf", "Co")),
        f"// From first to last in steps of stride, c becomes c + delta.\nconstexpr LowerRule kLower[]{{\n{wrapped(rules)}}};\n",
        f"// Canonical combining classes.\nconstexpr CombiningClass kClasses[]{{\n{wrapped(classes())}}};\n",
        *(
            f"// {text}; a U+FFFF behind each.\nconstexpr std::u32string_view {name} =\n{literals(entries)};\n"
            for name, text, entries in (
                ("kCanonical", "A character, and its canonical decomposition", decompositions("NFD")),
                ("kCompatible", "A character, and its compatibility decomposition, where that is another one", decompositions("NFKD", "NFD")),
                ("kComposed", "Two characters, and the one that they compose", compositions()),
            )
        ),
    ]
    OUT.write_text("".join(text))


main()
