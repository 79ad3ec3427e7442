"""Curves in a terminal, for machines without a screen or matplotlib.

They are drawn with Unicode's Braille dots, eight to a character.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.text import Text

from poise.errors import shown
from poise.tracking.curves import Panel

COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
_BRAILLE = 0x2800
"""The Braille character without a dot; each dot adds its bit to it."""
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""The bits of the dots `[4 rows, 2 columns]` of a character."""


def print_chart(console: Console, panel: Panel, height: int = 12) -> None:
    """Prints a panel as wide as the console."""
    low = min(curve.y.min() for curve in panel.curves)
    high = max(curve.y.max() for curve in panel.curves)
    start = min(curve.x[0] for curve in panel.curves)
    end = max(curve.x[-1] for curve in panel.curves)
    ticks = [rounded(high, 3), *[""] * (height - 2), rounded(low, 3)]
    margin = max(map(len, ticks))
    width = max(console.width - margin - 2, 8)
    console.print(Text(f"{shown(panel.y_label)}, {panel.explanation}", "bold"))
    rows = _rows(panel, width, height, (start, end), (low, high))
    for tick, row in zip(ticks, rows, strict=True):
        plain = row if console.encoding.startswith("utf") else _ascii(row)
        console.print(Text(f"{tick:>{margin}} |").append(plain), no_wrap=True, crop=True)
    left, right = rounded(start, 3), f"{rounded(end, 3)} {panel.x_label}"
    ends = f"{'':{margin}}  {left}{right:>{max(width - len(left), 1)}}"
    console.print(Text(ends), no_wrap=True, crop=True)
    if len(panel.curves) > 1 or panel.curves[0].low is not None:
        for number, curve in enumerate(panel.curves):
            colour = COLOURS[number % len(COLOURS)]
            console.print(Text(f"{'':{margin}}  ").append(f"-- {shown(curve.label)}", colour))


def _rows(
    panel: Panel, width: int, height: int, x: tuple[float, float], y: tuple[float, float]
) -> Iterator[Text]:
    """The lines of characters that show a panel's curves; `x` and `y` are the ends of the axes."""
    bits = np.zeros((height, width), np.int64)
    colours = np.zeros((height, width), np.int64)
    at = np.linspace(*x, 2 * width)
    for number, curve in enumerate(panel.curves):
        inside = np.flatnonzero((curve.x[0] <= at) & (at <= curve.x[-1]))
        share = (y[1] - np.interp(at[inside], curve.x, curve.y)) / ((y[1] - y[0]) or 1)
        levels = np.rint(share * (4 * height - 1)).astype(int)
        for column, level, before in zip(inside, levels, [*levels[:1], *levels[:-1]], strict=True):
            # From the level of the column before to this one's: no gaps where a curve is steep.
            for row in range(min(level, before), max(level, before) + 1):
                bits[row // 4, column // 2] |= _DOTS[row % 4, column % 2]
                colours[row // 4, column // 2] = number
    for line, line_colours in zip(bits.tolist(), colours.tolist(), strict=True):
        row_text = Text()
        for cell, number in zip(line, line_colours, strict=True):
            row_text.append(chr(_BRAILLE + cell) if cell else " ", COLOURS[number % len(COLOURS)])
        yield row_text


def _ascii(row: Text) -> Text:
    """The same for terminals that know no Unicode."""
    plain = row.copy()
    plain.plain = "".join(" " if cell == " " else "*" for cell in row.plain)
    return plain


def rounded(number: float, digits: int) -> str:
    """A number with so many significant digits; from 100 on with commas, not with an exponent."""
    return f"{number:,.{digits - 3}f}" if abs(number) >= 100 else f"{number:.{digits}g}"
