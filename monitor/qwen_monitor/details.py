"""One file as far as it is known: tries, where its bytes are and come from, how far its hash is, what went wrong.

Pure. Most stands in the status; where the bytes are is asked of the daemon for this one file (`lens`) and may not be
known yet, or not at all of an older daemon.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime
from textwrap import wrap

from qwen_api.commands import Connection, Whereabouts
from qwen_api.language import _
from qwen_api.status import FileStatus, ModelStatus
from qwen_monitor.display import Glyphs, bar, bytes_text, duration_text, pair_text, percent_text, rate_text, safe
from qwen_monitor.event_text import clock_text
from qwen_monitor.file_pane import file_sign, file_tone, stalled_text
from qwen_monitor.limits import connections_text
from qwen_monitor.panes import event_rows
from qwen_monitor.row import Row, Tone, heading, line, until_text
from qwen_monitor.scene import Scene
from qwen_monitor.sentences import FILE_WORDS, reason

LABEL_WIDTH = 12
LINES_MAX = 3  # of one fact: a stranger's words may be long
CONNECTIONS_SHOWN = 4  # what is left of the height is for the file's events


def details_rows(
    scene: Scene, model: ModelStatus, file: FileStatus, room: int, width: int, now: datetime, glyphs: Glyphs
) -> list[Row]:
    """At most `room` rows, what matters most first."""
    rows = [heading(safe(file.path, max(8, width - 8), glyphs), "", width, glyphs)]
    facts = _facts(scene, model, file, width, now, glyphs)
    for label, text, tone in facts:
        lines = wrap(safe(text, glyphs=glyphs), max(1, width - LABEL_WIDTH - 2))[:LINES_MAX]
        for number, part in enumerate(lines):
            rows.append(Row(text=line(_labelled("" if number else label, part), "", width, glyphs), tone=tone))
    # A daemon that ended or began anew is part of every file's story: its tries are counted from the first again.
    own = tuple(event for event in scene.events if event.subject == file.path or event.word == _("daemon"))
    rows += event_rows(own, model.model, max(0, room - len(rows)), width, now, glyphs)
    return rows[: max(0, room)]


def segment_map(
    size: int, present: Sequence[tuple[int, int]], connections: Sequence[Connection], cells: int, glyphs: Glyphs
) -> str:
    """The file from its first byte to its last in so many cells: here, partly here, coming, to come."""
    if size <= 0:
        return glyphs.full * cells
    edges = [cell * size // cells for cell in range(cells + 1)] if cells > 0 else []
    here = _overlaps(edges, present)
    coming = _overlaps(edges, [(each.position, each.end) for each in connections])
    drawn = []
    for cell in range(cells):
        length = edges[cell + 1] - edges[cell]
        if here[cell] >= length:
            drawn.append(glyphs.full)
        elif coming[cell]:
            drawn.append(glyphs.coming)
        else:
            drawn.append(glyphs.partly if here[cell] else glyphs.empty)
    return "".join(drawn)


def _overlaps(edges: Sequence[int], stretches: Sequence[tuple[int, int]]) -> list[int]:
    """How many bytes of the stretches lie in each cell; `edges` are where cells begin, and the end of the last."""
    found = [0] * max(0, len(edges) - 1)
    for start, end in stretches:
        cell = max(0, bisect_right(edges, start) - 1)
        while cell < len(found) and edges[cell] < end:
            found[cell] += max(0, min(end, edges[cell + 1]) - max(start, edges[cell]))
            cell += 1
    return found


_Fact = tuple[str, str, Tone]


def _facts(
    scene: Scene, model: ModelStatus, file: FileStatus, width: int, now: datetime, glyphs: Glyphs
) -> Iterator[_Fact]:
    known, cells = scene.whereabouts, max(0, width - LABEL_WIDTH - 2)
    yield _("status"), _state(file, glyphs), file_tone(file)
    yield "", _next(scene, model, file, now), file_tone(file)
    yield _("bytes"), _amounts(file, known), "plain"
    yield _("hash"), bar(_hashed(file, known), file.size_bytes, cells, glyphs), "good"
    present = [(0, file.size_bytes)] if file.is_verified else known.present if known else []
    yield (
        _("segments"),
        segment_map(file.size_bytes, present, known.connections if known else (), cells, glyphs),
        "plain",
    )
    yield _("source"), _source(file, known), "plain"
    if known is not None:
        yield "", _transport(known), "plain"
    yield _("tries"), _tries(file), "plain"
    yield from _error(model, file, now, glyphs)
    connections = sorted(known.connections, key=lambda each: each.start) if known else []
    for number, each in enumerate(connections[:CONNECTIONS_SHOWN]):
        yield "" if number else _("connections"), _connection(each), "dim"
    if len(connections) > CONNECTIONS_SHOWN:
        yield "", _("and {count} more", count=len(connections) - CONNECTIONS_SHOWN), "dim"


def _labelled(label: str, text: str) -> str:
    return f" {label:<{LABEL_WIDTH}}{text}"


def _state(file: FileStatus, glyphs: Glyphs) -> str:
    word = _("paused") if file.is_held else _(FILE_WORDS.get(file.state, file.state))
    done = file.hashed_bytes if file.state == "verifying" else file.done_bytes
    facts = [f"{file_sign(file, glyphs)} {word}", percent_text(done, file.size_bytes)]
    if file.rate_bps:
        facts.append(rate_text(file.rate_bps))
    if file.priority:
        facts.append(_("priority {priority}", priority=file.priority))
    return "  ".join(facts)


def _next(scene: Scene, model: ModelStatus, file: FileStatus, now: datetime) -> str:
    """What happens to it next, and when."""
    if file.is_verified:
        return _("its hash is the Hub's")
    if file.is_held:
        return _("a person paused it; the space bar lets it go on")
    wait = until_text(file.retry_at, now)
    if file.state == "stalled":
        return stalled_text(file, now)
    if file.state == "retrying":
        return (
            _("the next try begins in {time}, at {clock}", time=wait, clock=_clock(file.retry_at, now)) if wait else ""
        )
    if file.state == "failed":
        return _after_failure(model, file, now)
    if file.state in ("downloading", "verifying"):
        left_bytes = file.size_bytes - file.done_bytes
        return _("{time} left", time=duration_text(left_bytes / file.rate_bps)) if file.rate_bps else ""
    if model.state == "paused":
        return _("the model is paused; p lets it go on")
    if wait := until_text(model.retry_at, now):
        return _("the daemon tries again in {time}", time=wait)
    most = scene.status.limits.max_files
    return _("waits for its turn; {count} at once", count=most) if most else _("waits for its turn")


def _after_failure(model: ModelStatus, file: FileStatus, now: datetime) -> str:
    if file.needs_human or model.state == "failed":
        return _("a person must act")
    wait = until_text(file.retry_at or model.retry_at, now)
    if wait:
        return _("the daemon tries again in {time}", time=wait)
    return _("tried again when the other files are done (r: now)")


def _clock(ts: str, now: datetime) -> str:
    return clock_text(ts, now.tzinfo)


def _amounts(file: FileStatus, known: Whereabouts | None) -> str:
    facts = [
        _("on disk {size}", size=pair_text(file.done_bytes, file.size_bytes)),
        _("hashed {size}", size=bytes_text(_hashed(file, known))),
        _("from the network {size}", size=bytes_text(file.received_bytes)),
    ]
    return "   ".join(facts)


def _hashed(file: FileStatus, known: Whereabouts | None) -> int:
    if file.is_verified:
        return file.size_bytes
    return file.hashed_bytes if file.state == "verifying" or known is None else known.hashed_bytes


def _source(file: FileStatus, known: Whereabouts | None) -> str:
    """Who is asked for the bytes, and who gives them."""
    endpoint = file.endpoint or (known.endpoint if known else "")
    if known is None:
        return endpoint or _("not known yet")
    return f"{endpoint} ({known.host})" if known.host and known.host not in endpoint else endpoint


def _transport(known: Whereabouts) -> str:
    if not known.has_ranges:
        return _("HTTP, the whole file each time: the server gives no ranges")
    count = len(known.connections)
    return f"HTTP, {connections_text(count)}" if count else "HTTP"


def _tries(file: FileStatus) -> str:
    if not file.attempt:
        return _("none yet")
    if not file.attempts_max:
        return _("this is try {number}", number=file.attempt)
    return _("try {count} of {most} in a row without progress", count=file.attempt, most=file.attempts_max)


def _error(model: ModelStatus, file: FileStatus, now: datetime, glyphs: Glyphs) -> Iterator[_Fact]:
    """The last one, its cause, and what a person can do about it: also while the next try is under way."""
    last = file.last_trouble
    if last is None:
        yield _("last error"), _("none"), "plain"
        return
    why, fix = reason(last.code, str(model.ref))
    tone: Tone = "plain" if file.is_verified else file_tone(file)
    yield _("last error"), f"{_clock(last.at, now)} {safe(last.code, glyphs=glyphs)}: {why}", tone
    if last.detail and last.detail != why:
        yield "", last.detail, tone
    if file.state in ("failed", "retrying"):
        yield "", f"{_('fix:')} {fix}", tone


def _connection(each: Connection) -> str:
    stretch = f"{bytes_text(each.position)} .. {bytes_text(each.end)}"
    return f"{stretch:<26}" + (f"  {rate_text(each.rate_bps)}" if each.rate_bps else "")
