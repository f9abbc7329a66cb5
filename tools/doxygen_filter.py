#!/usr/bin/env python3
"""Doxygen's input filter: a plain comment in front of a declaration, or behind one, becomes a documentation comment."""

import re
import sys
from pathlib import Path

HEADING = re.compile(r"^(\s*)// ?(.*)$")
DESIGNATED = re.compile(r"( = )?\{\.\w+ = .*\};")  # values of members by name, which C++ of Sphinx lacks
TRAILING = re.compile(r"^(\s*[^\s/].*?[;,{)\w])\s+// (.*)$")


def escaped(comment: str) -> str:
    """A placeholder as <name> is no tag of HTML; code stands between backticks as it is."""
    parts = comment.split("`")
    parts[::2] = [part.replace("<", "\\<") for part in parts[::2]]
    return "`".join(parts)


def filtered(text: str) -> str:
    lines = text.splitlines()
    # The block at the top describes the file.
    top = 0
    while top < len(lines) and lines[top].startswith("//"):
        top += 1
    out = ["/// \\file"] + ["/// " + escaped(line[2:].strip()) for line in lines[:top]]
    out += [""]
    for line in (DESIGNATED.sub(";", line) for line in lines[top:]):
        heading, trailing = HEADING.match(line), TRAILING.match(line)
        if heading:
            out.append(f"{heading[1]}/// {escaped(heading[2])}")
        elif trailing and not line.lstrip().startswith("#"):
            out.append(f"{trailing[1]}  ///< {escaped(trailing[2])}")
        else:
            out.append(line)
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    sys.stdout.write(filtered(Path(sys.argv[1]).read_text(encoding="utf-8")))
