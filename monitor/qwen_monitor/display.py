"""How numbers and names look on a terminal: sizes, rates, durations, bars, and names that cannot hurt.

Pure but for the language spoken. Units are decimal (kB, MB, GB), as on the Hub's own pages. A name from the Hub is
outside data: `safe` shows what could move the cursor, hide, or reorder text as a visible escape. Which facts are shown
is `rows`' business.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec

from qwen_api.language import N_, _, decimal

SIZE_WIDTH = 8  # "999.9 GB"
RATE_WIDTH = 10  # "999.9 MB/s"
PERCENT_WIDTH = 6  # "100.0%"

_UNITS = (N_("B"), N_("kB"), N_("MB"), N_("GB"), N_("TB"), N_("PB"), N_("EB"))
CHARS_KEPT = 1024  # the signs and letters of a screen; what a hostile name adds is forgotten again
_MARKS_MAX = 2  # combining marks on one letter; more is "zalgo", which paints over the lines above and below
_VARIATION_SELECTORS = {*map(chr, range(0xFE00, 0xFE10)), *map(chr, range(0xE0100, 0xE01F0))}
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})
_HANGUL_FILLERS = {"\u115f", "\u1160", "\u3164", "\uffa0"}  # letters that are drawn as nothing


class Glyphs(msgspec.Struct, frozen=True, kw_only=True):
    """The signs of one terminal; every one of them is a single cell wide."""

    done: str
    active: str
    failed: str
    retry: str
    idle: str
    paused: str
    chosen: str
    live: str
    down: str
    ellipsis: str
    line: str
    full: str
    partial: tuple[str, ...]
    empty: str
    coming: str
    partly: str
    spark: tuple[str, ...]
    is_ascii: bool


UNICODE = Glyphs(
    done="✓",
    active="▶",
    failed="✗",
    retry="↻",
    idle="·",
    paused="‖",
    chosen="›",
    live="●",
    down="○",
    ellipsis="…",
    line="─",
    full="█",
    partial=("", "▏", "▎", "▍", "▌", "▋", "▊", "▉"),
    empty="░",
    coming="▒",
    partly="▓",
    spark=tuple(" ▁▂▃▄▅▆▇█"),
    is_ascii=False,
)
ASCII = Glyphs(
    done="v",
    active=">",
    failed="x",
    retry="!",
    idle=".",
    paused="=",
    chosen=">",
    live="*",
    down="o",
    ellipsis="~",
    line="-",
    full="#",
    partial=("",),
    empty=".",
    coming="+",
    partly=":",
    spark=tuple(" .:-=+*#%"),
    is_ascii=True,
)


def choose_glyphs(env: Mapping[str, str], encoding: str | None, ascii_flag: bool = False) -> Glyphs:
    """ASCII if asked for, if the stream is not UTF-8, or on the Linux console, whose font lacks the signs."""
    utf8 = (encoding or "").lower().replace("-", "").replace("_", "") == "utf8"
    return ASCII if ascii_flag or not utf8 or env.get("TERM") == "linux" else UNICODE


def bytes_text(count: int) -> str:
    """`57.7 GB`, `485 B`: decimal, at most SIZE_WIDTH cells."""
    power = _power(count)
    return f"{_scaled(count, power)} {_(_UNITS[power])}"


def pair_text(done: int, size: int) -> str:
    """`30.1/57.7 GB`: both in the unit of `size`, which is named once."""
    power = _power(size)
    return f"{_scaled(done, power)}/{bytes_text(size)}"


def rate_text(bps: float) -> str:
    """`84.9 MB/s`; `bps` is bytes per second."""
    return _("{size}/s", size=bytes_text(int(bps))) if math.isfinite(bps) else "-"


def duration_text(seconds: float) -> str:
    """`0:05`, `5:25`, `1:02:03`, `4d 05h`; `-` for what is not a finite number."""
    if not math.isfinite(seconds):
        return "-"
    total = max(0, int(seconds))
    hours, rest = divmod(total, 3600)
    minutes, left = divmod(rest, 60)
    if hours >= 10_000 * 24:
        return "-"  # an estimate of decades says only that nothing moves
    if hours >= 100:
        return _("{days}d {hours:02}h", days=hours // 24, hours=hours % 24)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def percent_text(done: int, size: int) -> str:
    """`52.1%`, rounded down: `100.0%` is said only of what is whole."""
    return decimal(f"{_share(done, size, 1000) / 10:.1f}%")


def bar(done: int, size: int, width: int, glyphs: Glyphs = UNICODE) -> str:
    """A bar of exactly `width` cells; full only when `done` has reached `size`."""
    steps = len(glyphs.partial)
    whole, part = divmod(_share(done, size, max(0, width) * steps), steps)
    drawn = glyphs.full * whole + glyphs.partial[part]
    return drawn + glyphs.empty * (max(0, width) - len(drawn))


def spark(values: Sequence[float], glyphs: Glyphs = UNICODE) -> str:
    """One cell for each value, scaled to the largest."""
    top = max(values, default=0.0)
    last = len(glyphs.spark) - 1
    if top <= 0:
        return glyphs.spark[0] * len(values)
    return "".join(glyphs.spark[math.ceil(max(0.0, value) / top * last)] for value in values)


def chart(values: Sequence[float], height: int, glyphs: Glyphs = UNICODE) -> list[str]:
    """The same over `height` lines, from top to bottom."""
    top, steps = max(values, default=0.0), len(glyphs.spark) - 1
    levels = [math.ceil(max(0.0, value) / top * steps * height) if top > 0 else 0 for value in values]
    floors = [steps * line for line in reversed(range(height))]
    return ["".join(glyphs.spark[min(steps, max(0, level - floor))] for level in levels) for floor in floors]


def safe(text: str, width: int | None = None, glyphs: Glyphs = UNICODE) -> str:
    """A name for one line: escapes for all that is not plainly visible, and an ellipsis in the middle over `width`.

    Control, format, direction, zero-width, private and unassigned characters, line separators and piled-up marks
    become `\\x1b`, `\\u202e`, `\\U000e0041`. With ASCII glyphs all else but ASCII is escaped too. `width` is in cells.
    """
    if text.isascii() and text.isprintable() and (width is None or len(text) <= width):
        return text  # as most rows are, twice a second
    cells = _cells(text, glyphs)
    if width is None or sum(w for _, w in cells) <= width:
        return "".join(shown for shown, _ in cells)
    return _shortened(cells, width, glyphs.ellipsis)


def cell_width(text: str) -> int:
    """How many terminal cells `text` takes, for text that `safe` has made or that we wrote."""
    return len(text) if text.isascii() else sum(_char_width(char) for char in text)


def padded(text: str, width: int, *, right: bool = False) -> str:
    """`text` filled with spaces to `width` cells; `right` puts it at the right edge."""
    space = " " * max(0, width - cell_width(text))
    return space + text if right else text + space


def _power(count: int) -> int:
    """Which unit a size is told in: what would be rounded to 1000.0 belongs to the next one."""
    if count < 1000:
        return 0
    return next((power for power in range(1, len(_UNITS)) if count / 1000**power < 999.95), len(_UNITS) - 1)


def _scaled(count: int, power: int) -> str:
    value = max(0, count) / 1000**power
    is_whole = not power or (power == len(_UNITS) - 1 and value >= 999.95)
    return f"{value:.0f}" if is_whole else decimal(f"{value:.1f}")


def _share(done: int, size: int, steps: int) -> int:
    if size <= 0:
        return steps if done >= size else 0
    return min(max(0, done), size) * steps // size


def _cells(text: str, glyphs: Glyphs) -> list[tuple[str, int]]:
    cells: list[tuple[str, int]] = []
    marks = _MARKS_MAX  # a mark with no letter before it would sit on the column to its left
    for char in text:
        if _char_width(char) == 0 and not _is_unsafe(char):
            marks += 1
        else:
            marks = 0
        if _is_unsafe(char) or marks > _MARKS_MAX or (glyphs.is_ascii and not char.isascii()):
            escape = _escape(char)
            cells.append((escape, len(escape)))
        else:
            cells.append((char, _char_width(char)))
    return cells


@lru_cache(CHARS_KEPT)
def _is_unsafe(char: str) -> bool:
    if " " <= char <= "~":
        return False
    return unicodedata.category(char) in _UNSAFE_CATEGORIES or char in _VARIATION_SELECTORS or char in _HANGUL_FILLERS


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@lru_cache(CHARS_KEPT)
def _char_width(char: str) -> int:
    if char.isascii():
        return 1
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _shortened(cells: list[tuple[str, int]], width: int, ellipsis: str) -> str:
    if width < 1:
        return ""
    room = width - 1
    folder = next((i + 1 for i, cell in enumerate(cells) if cell[0] == "/"), 0)
    head = cells[:folder]  # of a path, the folder and the end of the name say most
    if not head or sum(w for _, w in head) > room // 2:
        head = _taken(cells, room // 3)
    tail = _taken(cells[::-1], room - sum(w for _, w in head))[::-1]
    while tail and tail[0][1] == 0:
        tail = tail[1:]  # its letter was cut off
    return "".join(shown for shown, _ in head) + ellipsis + "".join(shown for shown, _ in tail)


def _taken(cells: Sequence[tuple[str, int]], room: int) -> list[tuple[str, int]]:
    taken: list[tuple[str, int]] = []
    for cell in cells:
        room -= cell[1]
        if room < 0:
            break
        taken.append(cell)
    return taken
