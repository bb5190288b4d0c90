"""The panes of the monitor's screen beside the list of files: components, events, the loader.

Pure: each is a function from facts and a width to rows; `rows` stacks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from qwen_api.language import _
from qwen_api.status import ComponentStatus, LoaderStatus, ModelStatus
from qwen_monitor.display import (
    PERCENT_WIDTH,
    SIZE_WIDTH,
    Glyphs,
    bytes_text,
    cell_width,
    percent_text,
    rate_text,
    safe,
)
from qwen_monitor.event_text import WORD_WIDTH, EventText, clock_text
from qwen_monitor.row import WIDTH_FULL, WIDTH_NARROW, Row, Tone, fitting, heading, line
from qwen_monitor.sentences import LOADER_STATES

TABLE_ROWS = 4  # fewer rows of components than that are better used as a single line
VERIFIED_WIDTH = 9  # "ПРОВЕРЕНО"
HALF_ROOM = 12  # rows, below which the files need all but a third


def component_room(model: ModelStatus, room: int) -> int:
    """How many of `room` rows they get: a third, or where there is much room up to half, while they have work left."""
    unfinished = sum(not part.is_complete for part in model.components())
    return max(room // 3, min(room // 2, unfinished + 2)) if room >= HALF_ROOM else room // 3


def component_rows(model: ModelStatus, count: int, width: int, glyphs: Glyphs) -> list[Row]:
    """At most `count` rows: a heading, components in trouble, with work left, complete, and how many more there are.

    With less than four rows one has to do for all.
    """
    parts = sorted(model.components(), key=lambda c: (c.is_complete, not _is_in_trouble(c)))
    if count < 1 or not parts:
        return []
    if count < TABLE_ROWS:
        return [_components_row(parts, width, glyphs)]
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


def _components_row(parts: Sequence[ComponentStatus], width: int, glyphs: Glyphs) -> Row:
    """`! vae 16%  > transformer 68%  v 4/7`: whole percent, rounded down, and how many are complete."""
    facts = [
        f"{_component_state(part, glyphs)[0]} {safe(part.name or _('(root)'), glyphs=glyphs)} "
        f"{part.done_bytes * 100 // max(1, part.size_bytes)}%"
        for part in parts
        if not part.is_complete
    ]
    complete = f"{glyphs.done} {len(parts) - len(facts)}/{len(parts)}"
    shown = fitting([*facts, complete], width - 2, between="  ", ranks=[*range(1, len(facts) + 1), 0])
    return Row(text=line(f" {_('COMPONENT')}  {shown}" if not facts else f" {shown}", "", width, glyphs))


def _component_edge_titles(width: int) -> str:
    if width < WIDTH_NARROW:
        return _("DONE")
    files = f"{_('FILES'):>7}  {_('STATE'):<12}"
    if width < WIDTH_FULL:
        return f"{_('DONE'):>{PERCENT_WIDTH}}{files}"
    sizes = f"{_('SIZE'):>{SIZE_WIDTH}}  {_('ON DISK'):>{SIZE_WIDTH}} {'%':>{PERCENT_WIDTH}}"
    return f"{sizes} {_('VERIFIED'):>{VERIFIED_WIDTH}}{files}"


def _component_row(part: ComponentStatus, width: int, glyphs: Glyphs) -> Row:
    percent = f"{percent_text(part.done_bytes, part.size_bytes):>{PERCENT_WIDTH}}"
    sign, word, tone = _component_state(part, glyphs)
    files = f"{part.verified_files}/{part.files}"
    edge = percent
    if width >= WIDTH_NARROW:
        edge = f"{percent}{files:>7}  {word:<12}"
    if width >= WIDTH_FULL:
        sizes = f"{bytes_text(part.size_bytes):>{SIZE_WIDTH}}  {bytes_text(part.done_bytes):>{SIZE_WIDTH}} {percent}"
        edge = f"{sizes} {bytes_text(part.verified_bytes):>{VERIFIED_WIDTH}}{files:>7}  {word:<12}"
    return Row(text=line(f" {sign} {part.name or _('(root)')}", edge, width, glyphs), tone=tone)


def _is_in_trouble(part: ComponentStatus) -> bool:
    return bool(part.failed_files or part.retrying_files or part.stalled_files)


def _component_state(part: ComponentStatus, glyphs: Glyphs) -> tuple[str, str, Tone]:
    if part.failed_files:
        return glyphs.failed, _("{count} failed", count=part.failed_files), "bad"
    if part.is_complete:
        return glyphs.done, _("verified"), "good"
    if part.retrying_files:
        return glyphs.retry, _("{count} retrying", count=part.retrying_files), "warn"
    if part.stalled_files:
        return glyphs.retry, _("{count} stalled", count=part.stalled_files), "warn"
    if part.active_files:
        return glyphs.active, rate_text(part.rate_bps) if part.rate_bps else _("active"), "active"
    if part.paused_files:
        return glyphs.paused, _("{count} paused", count=part.paused_files), "warn"
    return glyphs.idle, _("queued"), "plain"


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
    subject = safe(event.subject, max(room // 3, room - 2 - cell_width(event.detail)), glyphs)
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
    memory = f"{loader.device} {bytes_text(loader.vram_bytes)}" if loader.vram_bytes else loader.device
    tone: Tone = "bad" if loader.state == "failed" else "good" if loader.state == "ready" else "plain"
    name = f" {_('LOADER')} {safe(loader.name, max(8, width // 4), glyphs)}"
    doing = f" {what}{safe(part, max(8, width // 4), glyphs)}{held}"
    why = f": {loader.detail}" if loader.detail else ""
    # What it does and what happened must be whole: before that the device and the pid are left out.
    wholes = ((f"{name}{pid}{doing}{why}", memory), (f"{name}{doing}{why}", memory), (f"{name}{doing}{why}", ""))
    fits = (whole for whole in wholes if cell_width("  ".join(whole)) <= width)
    text, edge = next(fits, (f"{name}{doing}: {safe(loader.detail, width - cell_width(name + doing) - 2, glyphs)}", ""))
    return Row(text=line(text, edge, width, glyphs), tone=tone)
