"""The list of files: which are shown, in which order, and a row or two for each.

Pure. What is chosen and which order is wanted is `view`'s; the details of one file stand in `details`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from qwen_api.events import FileState
from qwen_api.language import N_, _, ngettext
from qwen_api.status import FileStatus, ModelStatus
from qwen_monitor.display import (
    PERCENT_WIDTH,
    RATE_WIDTH,
    Glyphs,
    bar,
    bytes_text,
    cell_width,
    pair_text,
    percent_text,
    rate_text,
    safe,
)
from qwen_monitor.row import WIDTH_FULL, WIDTH_NARROW, WIDTH_WIDE, Row, Tone, age_text, line, until_text
from qwen_monitor.sentences import FILE_STATES

PAIR_WIDTH = 14  # "999.9/999.9 GB"
FILE_BAR_WIDTH = 12

# What moves or troubles comes first; what is done comes last.
_ORDER: tuple[FileState, ...] = (
    "failed",
    "retrying",
    "stalled",
    "downloading",
    "verifying",
    "queued",
    "missing",
    "verified",
)
_TONES: dict[FileState, Tone] = {
    "failed": "bad",
    "retrying": "warn",
    "stalled": "warn",
    "downloading": "active",
    "verifying": "active",
    "verified": "good",
}


Sort = Literal["state", "path", "size", "rate"]
SORTS: dict[Sort, str] = {
    "state": "",  # what people want most: troubles first
    "path": N_("by name"),
    "size": N_("by size"),
    "rate": N_("by rate"),
}


def listed_files(model: ModelStatus, text: str, *, with_verified: bool, sort: Sort = "state") -> list[FileStatus]:
    """The files to list, in this order; `text` narrows them to paths that hold it, in any case, `!text` to others."""
    wanted, is_without = text.removeprefix("!").casefold(), text.startswith("!")
    files = [f for f in model.files.values() if not wanted or (wanted in f.path.casefold()) != is_without]
    if not with_verified and not wanted:
        files = [f for f in files if not f.is_verified]
    return sorted(files, key=lambda file: _place(file, sort))


def _place(file: FileStatus, sort: Sort) -> tuple[float, str]:
    match sort:
        case "state":
            return _ORDER.index("queued" if file.is_held else file.state), file.path
        case "path":
            return 0, file.path
        case "size":
            return -file.size_bytes, file.path
        case "rate":
            return -file.rate_bps, file.path


def first_shown(files: Sequence[FileStatus], chosen: str, count: int) -> int:
    """Which file is drawn first in `count` rows so that the chosen one is seen; the first, if there is none."""
    start = next((index for index, file in enumerate(files) if file.path == chosen), 0)
    room = count - 1  # a row tells how many files are left
    while start > 0:
        room -= 2 if _has_reason(files[start]) else 1
        if room < (2 if _has_reason(files[start - 1]) else 1):
            break
        start -= 1
    return start


def file_rows(
    files: Sequence[FileStatus], count: int, width: int, now: datetime, glyphs: Glyphs, chosen: str = ""
) -> list[Row]:
    """At most `count` rows; a file in trouble takes a second one for its reason; the last says how many are left."""
    rows: list[Row] = []
    for index, file in enumerate(files):
        block = [_file_row(file, width, now, glyphs, file.path == chosen), *_file_reason(file, width, now, glyphs)]
        block = [msgspec.structs.replace(row, file=file.path) for row in block]
        is_last = index == len(files) - 1
        if len(rows) + len(block) > count - (0 if is_last else 1):
            left = len(files) - index
            if count > len(rows):
                rows.append(
                    Row(
                        text=line(
                            f"   {ngettext('+{count} more file', '+{count} more files', left)}", "", width, glyphs
                        ),
                        tone="dim",
                    )
                )
            break
        rows += block
    return rows


def file_heading(title: str, notes: Sequence[str], width: int, glyphs: Glyphs) -> Row:
    """The titles over `file_rows`, and the first of `notes` that has room beside them."""
    titles = f"{'%':>{PERCENT_WIDTH}}"
    if width >= WIDTH_NARROW:
        titles += f"  {_('STATE'):>{RATE_WIDTH}}"
    if width >= WIDTH_FULL:
        titles = f"{_('DONE / SIZE'):>{PAIR_WIDTH}} {titles}"
    if width >= WIDTH_WIDE:
        titles = f"{'':{FILE_BAR_WIDTH}} {titles}"
    room = width - cell_width(title) - cell_width(titles) - 5
    note = next((f"  {note}" for note in notes if cell_width(note) <= room), "")
    return Row(text=line(f" {title}{note}", titles, width, glyphs), tone="head")


def _file_row(file: FileStatus, width: int, now: datetime, glyphs: Glyphs, is_chosen: bool) -> Row:
    done_bytes = file.hashed_bytes if file.state == "verifying" else file.done_bytes
    edge = f"{percent_text(done_bytes, file.size_bytes):>{PERCENT_WIDTH}}"
    if width >= WIDTH_NARROW:
        edge += f"  {_file_word(file, now):>{RATE_WIDTH}}"
    if width >= WIDTH_FULL:
        edge = f"{pair_text(done_bytes, file.size_bytes):>{PAIR_WIDTH}} {edge}"
    if width >= WIDTH_WIDE:
        edge = f"{bar(done_bytes, file.size_bytes, FILE_BAR_WIDTH, glyphs)} {edge}"
    sign = file_sign(file, glyphs)
    tone: Tone = "head" if is_chosen else file_tone(file)
    mark = glyphs.chosen if is_chosen else " "
    return Row(text=line(f"{mark}{sign} {file.path}", edge, width, glyphs), tone=tone)


def file_tone(file: FileStatus) -> Tone:
    """How its state is coloured."""
    return "warn" if file.is_held else _TONES.get(file.state, "plain")


def file_sign(file: FileStatus, glyphs: Glyphs) -> str:
    """Its state as a sign."""
    if file.is_held:
        return glyphs.paused
    match file.state:
        case "verified":
            return glyphs.done
        case "failed":
            return glyphs.failed
        case "retrying" | "stalled":
            return glyphs.retry
        case "downloading" | "verifying":
            return glyphs.active
        case _:
            return glyphs.idle


def _file_word(file: FileStatus, now: datetime) -> str:
    if file.is_held:
        return _("paused")
    if file.state == "downloading" and file.rate_bps:
        return rate_text(file.rate_bps)
    wait = until_text(file.retry_at, now)
    if file.state == "retrying" and wait:
        return _("retry {time}", time=wait)
    if file.state == "stalled" and wait:
        return _("stall {time}", time=wait)
    if file.state == "failed" and wait:
        return _("fail {time}", time=wait)
    first = f" {file.priority:+d}" if file.priority and file.state in ("queued", "missing") else ""
    return _(FILE_STATES.get(file.state, file.state)) + first


def _has_reason(file: FileStatus) -> bool:
    if file.state == "stalled":
        return bool(file.last_byte_at)
    return file.state in ("retrying", "failed") and bool(file.detail or file.code) and not file.is_held


def stalled_text(file: FileStatus, now: datetime) -> str:
    """`no byte for 0:35, the connection is cut in 0:25`: how long it is silent, and what happens when."""
    silent = _("no byte for {time}", time=age_text(file.last_byte_at, now))
    wait = until_text(file.retry_at, now)
    return f"{silent}, {_('the connection is cut in {time}', time=wait)}" if wait else silent


def _file_reason(file: FileStatus, width: int, now: datetime, glyphs: Glyphs) -> list[Row]:
    if not _has_reason(file):
        return []
    if file.state == "stalled":
        return [Row(text=line(f"     {stalled_text(file, now)}", "", width, glyphs), tone=file_tone(file))]
    tries = _("try {count}/{most}", count=file.attempt, most=file.attempts_max) + ": " if file.attempts_max else ""
    goes_on = file.done_bytes and file.state == "retrying"
    edge = _("goes on at {size}", size=bytes_text(file.done_bytes)) if goes_on else ""
    why = f"{file.code} {file.detail}" if file.detail else file.code
    room = width - len(edge) - len(tries) - 7  # shortened by itself: in the middle of it, not of the tries
    return [Row(text=line(f"     {tries}{safe(why, max(0, room), glyphs)}", edge, width, glyphs), tone=file_tone(file))]
