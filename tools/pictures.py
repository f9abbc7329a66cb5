"""Pictures as SVG, for tools/results.py, which knows the figures. They bring their own background: pages are light or dark."""

from __future__ import annotations

from html import escape
from typing import List, NamedTuple, Sequence, Tuple

SANS = "-apple-system, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
PAPER, BORDER, CHIP, INK, FAINT = "#12161c", "#3d444d", "#222933", "#e6edf3", "#9aa5b1"
PLAIN, OURS = "#6b7683", "#3fb68b"  # float32's bars and the ternary ones


class Row(NamedTuple):
    """What is compared; `bars` are the lengths beside each other, in any unit."""

    name: str
    float32: str
    ternary: str
    gain: str
    bars: Tuple[float, float]


def svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", *parts, "</svg>"]) + "\n"


def box(x: float, y: float, width: float, height: float, fill: str, more: str = 'rx="3"') -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" {more}/>'


def text(x: float, y: float, content: str, fill: str = INK, size: int = 14, font: str = SANS, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{fill}" font-size="{size}" font-family="{font}"{more}>{escape(content, quote=False)}</text>'


def chips(steps: Sequence[Tuple[str, str]], y: int) -> List[str]:
    """A step beside the next, each with a name and what happens in it."""
    width, gap = 240, 36
    parts = []
    for i, (name, what) in enumerate(steps):
        x = 24 + i * (width + gap)
        parts.append(box(x, y, width, 56, CHIP, f'rx="6" stroke="{BORDER}"'))
        parts.append(text(x + 14, y + 23, name, OURS, 15, SANS, ' font-weight="bold"'))
        parts.append(text(x + 14, y + 43, what, INK, 13))
        if i > 0:
            parts.append(
                f'<path d="M{x - gap + 8} {y + 28}h{gap - 18}m-6 -5l6 5l-6 5" fill="none" stroke="{FAINT}" stroke-width="2"/>'
            )
    return parts


def demo(command: str, steps: Sequence[Tuple[str, str]], rows: Sequence[Row], notes: Sequence[str]) -> str:
    """The steps of the demo, then two bars for each row, float32's above."""
    width, left, longest = 840, 264, 330
    parts = [text(24, 36, f"$ {command}", INK, 16, MONO), *chips(steps, 54)]
    y = 138
    for i, (name, fill) in enumerate((("LibTorch float32", PLAIN), ("BitLab ternary, bitlab-run", OURS))):
        parts += [box(left + 160 * i, y, 12, 12, fill), text(left + 18 + 160 * i, y + 11, name, FAINT, 13)]
    for row in rows:
        y += 46
        parts.append(text(24, y + 5, row.name))
        for offset, bar, label, fill in ((-17, row.bars[0], row.float32, PLAIN), (1, row.bars[1], row.ternary, OURS)):
            length = max(2, longest * bar / max(row.bars))
            parts.append(box(left, y + offset, round(length, 1), 14, fill))
            parts.append(text(left + round(length, 1) + 8, y + offset + 12, label, INK, 13))
        parts.append(text(width - 24, y + 6, row.gain, OURS, 20, SANS, ' text-anchor="end" font-weight="bold"'))
    y += 26
    for note in notes:
        y += 22
        parts.append(text(24, y, note, FAINT, 13))
    height = y + 20
    paper = box(0.5, 0.5, width - 1, height - 1, PAPER, f'rx="10" stroke="{BORDER}"')
    return svg(width, height, "What the demo measures, float32 beside ternary", [paper, *parts])


def badge(name: str, value: str) -> str:
    """Two fields, wide enough for any font's letters."""
    widths = [7 * len(field) + 12 for field in (name, value)]
    height = 20
    parts = [box(0, 0, sum(widths), height, "#4a525c"), box(widths[0], 0, widths[1], height, "#1f6f54")]
    for middle, field in ((widths[0] / 2, name), (widths[0] + widths[1] / 2, value)):
        parts.append(text(middle, 14, field, "#ffffff", 11, SANS, ' text-anchor="middle"'))
    return svg(sum(widths), height, f"{name}: {value}", parts)
