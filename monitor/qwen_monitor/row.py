"""What every part of the screen is made of: a row, its columns and headings, and how much a width has room for.

Pure. A row is built from columns of known width, and the one column that outside data fills (a path, a reason) takes
what is left and is shortened in the middle. A state is told by sign, word and tone, so that neither colour nor a full
font is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from qwen_monitor.display import Glyphs, cell_width, duration_text, padded, safe
from qwen_monitor.event_text import parse_time

WIDTH_FULL = 78  # from here on every column is shown; the usual terminal, but for two cells (progress)
WIDTH_WIDE = 110  # from here on files have a bar of their own
WIDTH_NARROW = 45  # below this only sign, name and percentage are left

Tone = Literal["plain", "head", "good", "active", "bad", "warn", "dim"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the screen: no newline, no control character, at most as wide as asked.

    `file` is the path of the file that it is about, which a click chooses; "" for none.
    """

    text: str
    tone: Tone = "plain"
    file: str = ""


def line(left: str, right: str, width: int, glyphs: Glyphs) -> str:
    """`left`, shortened if it must be, and `right` at the right edge, shortened only when alone too wide."""
    edge = safe(right, max(0, width - 1), glyphs)
    room = width - cell_width(edge) - (1 if edge else 0)
    body = padded(safe(left, max(0, room), glyphs), max(0, room))
    return safe(f"{body} {edge}" if edge else body, width, glyphs).rstrip()


def fitting(parts: Iterable[str], width: int, between: str = "   ", ranks: Sequence[int] = ()) -> str:
    """As many of `parts` as fit into `width`, in order; the ones that do not are left out.

    The first ones have the first choice, or with `ranks` (one for each part) those with the lowest.
    """
    known, taken, left = list(parts), set[int](), width + len(between)
    for index in sorted(range(len(known)), key=lambda place: ranks[place] if ranks else place):
        needed = cell_width(known[index]) + len(between)
        if known[index] and needed <= left:
            taken.add(index)
            left -= needed
    return between.join(known[index] for index in sorted(taken))


def heading(title: str, right: str, width: int, glyphs: Glyphs) -> Row:
    """`EVENTS ─────── x`."""
    edge = f" {right}" if right else ""
    text = f" {title} " + glyphs.line * (width - len(title) - len(edge) - 3)
    return Row(text=safe(text + edge, width, glyphs), tone="head")


def age_text(ts: str, now: datetime) -> str:
    """How long ago `ts` was, such as `0:35`; `-` if it is no time."""
    when = parse_time(ts)
    return duration_text((now - when).total_seconds()) if when else "-"


def until_text(ts: str, now: datetime) -> str:
    """How long until `ts`, such as `0:07`; "" if there is no such time or it has passed."""
    when = parse_time(ts)
    left = (when - now).total_seconds() if when else -1.0
    return duration_text(left) if left >= 0 else ""
