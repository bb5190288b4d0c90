"""The panes of the monitor's screen, each a function from facts and a width to rows; `rows` stacks them.

Pure. Every row is built from columns of known width, and the one column that outside data fills (a path, a reason)
takes what is left and is shortened in the middle. A state is told by sign, word and tone, so that neither colour nor
a full font is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from qwen_api.events import FileState
from qwen_api.language import _, ngettext
from qwen_api.status import ComponentStatus, FileStatus, LoaderStatus, ModelStatus
from qwen_monitor.display import (
    PERCENT_WIDTH,
    RATE_WIDTH,
    SIZE_WIDTH,
    Glyphs,
    bar,
    bytes_text,
    cell_width,
    duration_text,
    padded,
    pair_text,
    percent_text,
    rate_text,
    safe,
)
from qwen_monitor.event_text import WORD_WIDTH, EventText, clock_text, parse_time
from qwen_monitor.sentences import FILE_STATES, LOADER_STATES

WIDTH_FULL = 80  # from here on every column is shown; the usual terminal
WIDTH_WIDE = 110  # from here on files have a bar of their own
WIDTH_NARROW = 45  # below this only sign, name and percentage are left
PAIR_WIDTH = 14  # "999.9/999.9 GB"
FILE_BAR_WIDTH = 12

Tone = Literal["plain", "head", "good", "active", "bad", "warn", "dim"]

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


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the screen: no newline, no control character, at most as wide as asked."""

    text: str
    tone: Tone = "plain"


def line(left: str, right: str, width: int, glyphs: Glyphs) -> str:
    """`left`, shortened if it must be, and `right` at the right edge, shortened only when alone too wide."""
    edge = safe(right, max(0, width - 1), glyphs)
    room = width - cell_width(edge) - (1 if edge else 0)
    body = padded(safe(left, max(0, room), glyphs), max(0, room))
    return safe(f"{body} {edge}" if edge else body, width, glyphs).rstrip()


def fitting(parts: Iterable[str], width: int, between: str = "   ") -> str:
    """As many of `parts`, in order, as fit into `width`; the ones that do not are left out."""
    text = ""
    for part in parts:
        longer = f"{text}{between}{part}" if text else part
        if part and cell_width(longer) <= width:
            text = longer
    return text


def heading(title: str, right: str, width: int, glyphs: Glyphs) -> Row:
    """`EVENTS ─────── x`."""
    edge = f" {right}" if right else ""
    text = f" {title} " + glyphs.line * (width - len(title) - len(edge) - 3)
    return Row(text=safe(text + edge, width, glyphs), tone="head")


def component_rows(model: ModelStatus, count: int, width: int, glyphs: Glyphs) -> list[Row]:
    """At most `count` rows: a heading, components in trouble, with work left, complete, and how many more there are."""
    parts = sorted(model.components(), key=lambda c: (c.is_complete, not (c.failed_files or c.retrying_files)))
    if count < 2 or not parts:
        return []
    rows = [Row(text=line(" " + _("COMPONENT"), _component_edge_titles(width), width, glyphs), tone="head")]
    shown = parts if len(parts) < count else parts[: count - 2]
    rows += [_component_row(c, width, glyphs) for c in shown]
    if hidden := parts[len(shown) :]:
        done = sum(c.is_complete for c in hidden)
        rows.append(
            Row(
                text=line(f"   {_('+{count} more, {done} complete', count=len(hidden), done=done)}", "", width, glyphs),
                tone="dim",
            )
        )
    return rows


def _component_edge_titles(width: int) -> str:
    if width < WIDTH_NARROW:
        return _("DONE")
    files = f"{_('FILES'):>9}  {_('STATE'):<12}"
    if width < WIDTH_FULL:
        return f"{_('DONE'):>{PERCENT_WIDTH}}{files}"
    return f"{_('SIZE'):>{SIZE_WIDTH}}  {_('ON DISK'):>{SIZE_WIDTH}} {'%':>{PERCENT_WIDTH}}{files}"


def _component_row(part: ComponentStatus, width: int, glyphs: Glyphs) -> Row:
    percent = f"{percent_text(part.done_bytes, part.size_bytes):>{PERCENT_WIDTH}}"
    sign, word, tone = _component_state(part, glyphs)
    files = f"{part.verified_files}/{part.files}"
    edge = percent
    if width >= WIDTH_NARROW:
        edge = f"{percent}{files:>9}  {word:<12}"
    if width >= WIDTH_FULL:
        edge = f"{bytes_text(part.size_bytes):>{SIZE_WIDTH}}  {bytes_text(part.done_bytes):>{SIZE_WIDTH}} {edge}"
    return Row(text=line(f" {sign} {part.name or _('(root)')}", edge, width, glyphs), tone=tone)


def _component_state(part: ComponentStatus, glyphs: Glyphs) -> tuple[str, str, Tone]:
    if part.failed_files:
        return glyphs.failed, _("{count} failed", count=part.failed_files), "bad"
    if part.is_complete:
        return glyphs.done, _("verified"), "good"
    if part.retrying_files:
        return glyphs.retry, _("{count} retrying", count=part.retrying_files), "warn"
    if part.active_files:
        return glyphs.active, rate_text(part.rate_bps) if part.rate_bps else _("active"), "active"
    if part.paused_files:
        return glyphs.paused, _("{count} paused", count=part.paused_files), "warn"
    return glyphs.idle, _("queued"), "plain"


def listed_files(model: ModelStatus, text: str, *, with_verified: bool) -> list[FileStatus]:
    """The files to list, troubles first; `text` narrows them to paths that hold it, whatever the case."""
    wanted = text.casefold()
    files = [f for f in model.files.values() if wanted in f.path.casefold()]
    if not with_verified and not wanted:
        files = [f for f in files if not f.is_verified]
    return sorted(files, key=lambda f: (_ORDER.index("queued") if f.is_held else _ORDER.index(f.state), f.path))


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
        block = [_file_row(file, width, now, glyphs, file.path == chosen), *_file_reason(file, width, glyphs)]
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


def file_heading(title: str, width: int, glyphs: Glyphs) -> Row:
    """The titles over `file_rows`."""
    titles = f"{'%':>{PERCENT_WIDTH}}"
    if width >= WIDTH_NARROW:
        titles += f"  {_('STATE'):>{RATE_WIDTH}}"
    if width >= WIDTH_FULL:
        titles = f"{_('DONE / SIZE'):>{PAIR_WIDTH}} {titles}"
    if width >= WIDTH_WIDE:
        titles = f"{'':{FILE_BAR_WIDTH}} {titles}"
    return Row(text=line(f" {title}", titles, width, glyphs), tone="head")


def _file_row(file: FileStatus, width: int, now: datetime, glyphs: Glyphs, is_chosen: bool) -> Row:
    edge = f"{percent_text(file.done_bytes, file.size_bytes):>{PERCENT_WIDTH}}"
    if width >= WIDTH_NARROW:
        edge += f"  {_file_word(file, now):>{RATE_WIDTH}}"
    if width >= WIDTH_FULL:
        edge = f"{pair_text(file.done_bytes, file.size_bytes):>{PAIR_WIDTH}} {edge}"
    if width >= WIDTH_WIDE:
        edge = f"{bar(file.done_bytes, file.size_bytes, FILE_BAR_WIDTH, glyphs)} {edge}"
    sign = glyphs.paused if file.is_held else _file_sign(file.state, glyphs)
    tone: Tone = "head" if is_chosen else "warn" if file.is_held else _TONES.get(file.state, "plain")
    mark = glyphs.chosen if is_chosen else " "
    return Row(text=line(f"{mark}{sign} {file.path}", edge, width, glyphs), tone=tone)


def _file_sign(state: FileState, glyphs: Glyphs) -> str:
    match state:
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


def until_text(ts: str, now: datetime) -> str:
    """How long until `ts`, such as `0:07`; "" if there is no such time or it has passed."""
    when = parse_time(ts)
    left = (when - now).total_seconds() if when else -1.0
    return duration_text(left) if left >= 0 else ""


def _has_reason(file: FileStatus) -> bool:
    return file.state in ("retrying", "failed") and bool(file.detail or file.code) and not file.is_held


def _file_reason(file: FileStatus, width: int, glyphs: Glyphs) -> list[Row]:
    if not _has_reason(file):
        return []
    tries = _("try {count}/{most}", count=file.attempt, most=file.attempts_max) + ": " if file.attempts_max else ""
    kept = (
        _(", goes on at {size}", size=bytes_text(file.done_bytes))
        if file.done_bytes and file.state == "retrying"
        else ""
    )
    why = f"{file.code} {file.detail}" if file.detail else file.code
    return [Row(text=line(f"     {tries}{why}", kept, width, glyphs), tone=_TONES.get(file.state, "plain"))]


def event_rows(
    events: Sequence[EventText], model_key: str, count: int, width: int, now: datetime, glyphs: Glyphs
) -> list[Row]:
    """A heading and the last events of this model and of the daemon, oldest first; at most `count` rows."""
    ours = [e for e in events if e.model in ("", model_key)]
    if count < 2 or not ours:
        return []
    rows = [heading(_("EVENTS"), "", width, glyphs)]
    return rows + [_event_row(e, width, now, glyphs) for e in ours[1 - count :]]


def _event_row(event: EventText, width: int, now: datetime, glyphs: Glyphs) -> Row:
    start = f" {clock_text(event.ts, now.tzinfo)} {event.word:<{WORD_WIDTH}} "
    room = max(0, width - cell_width(start))
    tone: Tone = "warn" if event.is_bad else "plain"
    if not event.subject or event.subject == event.model:
        return Row(text=safe(start + safe(event.detail, room, glyphs), width, glyphs), tone=tone)
    subject = safe(event.subject, max(room * 2 // 5, room - 2 - cell_width(event.detail)), glyphs)
    detail = safe(event.detail, max(0, room - 2 - cell_width(subject)), glyphs)
    return Row(text=safe(f"{start}{subject}  {detail}", width, glyphs), tone=tone)


def loader_row(loader: LoaderStatus, width: int, glyphs: Glyphs) -> Row:
    """`LOADER image-api pid 4121 is loading transformer 3.1 GB / 9.9 GB  cuda:0`."""
    pid = f" pid {loader.pid}" if loader.pid else ""
    what = _(LOADER_STATES.get(loader.state, loader.state))
    part = f" {loader.component}" if loader.component and loader.state == "loading" else ""
    held = ""
    if loader.state == "loading" and loader.component_size_bytes:
        held = f" {bytes_text(loader.component_bytes)} / {bytes_text(loader.component_size_bytes)}"
    elif loader.state == "loading" and loader.loaded_bytes:
        held = f" {bytes_text(loader.loaded_bytes)}"
    why = f": {loader.detail}" if loader.detail else ""
    memory = f"{loader.device} {bytes_text(loader.vram_bytes)}" if loader.vram_bytes else loader.device
    tone: Tone = "bad" if loader.state == "failed" else "good" if loader.state == "ready" else "plain"
    return Row(
        text=line(f" {_('LOADER')} {loader.name}{pid} {what}{part}{held}{why}", memory, width, glyphs), tone=tone
    )
