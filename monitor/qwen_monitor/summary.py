"""One model in one line, and the three lines left in the scrollback: what plain mode, `--once` and leaving print.

Pure. The same numbers as in the monitor's header and bar, in words that survive a pipe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from qwen_api.language import N_, _, ngettext
from qwen_api.status import ModelStatus, Status
from qwen_monitor.display import UNICODE, Glyphs, cell_width, duration_text, pair_text, percent_text, rate_text, safe
from qwen_monitor.event_text import parse_time
from qwen_monitor.pace import Pace
from qwen_monitor.row import fitting
from qwen_monitor.sentences import short_reason, state_word


def model_name(model: ModelStatus, commit_digits: int = 8) -> str:
    """`org/name@6f3ccc0b`, or with the revision while no commit is known; still unsafe."""
    return f"{model.repo}@{model.commit[:commit_digits] or model.revision}"


def verified_files(model: ModelStatus) -> int:
    """How many files are known to be the Hub's."""
    return sum(f.is_verified for f in model.files.values())


def verified_text(model: ModelStatus) -> str:
    """`19/27 files verified`."""
    total = len(model.files)
    return ngettext("{done}/{count} file verified", "{done}/{count} files verified", total, done=verified_files(model))


def left_bytes(model: ModelStatus) -> int:
    """Bytes still to come."""
    return max(0, model.size_bytes - model.done_bytes)


def model_line(model: ModelStatus, pace: Pace, glyphs: Glyphs = UNICODE) -> str:
    """`org/name@6f3ccc0b downloading 52.1% 30.1/57.7 GB, 19/27 files verified, 84.9 MB/s, ETA 5:25, 1 retrying`."""
    facts = [_amount(model)]
    if model.state == "downloading":
        facts += [rate_text(rate_bps(model, pace)), _("ETA {time}", time=duration_text(eta_s(model, pace)))]
    facts += verifying(model)
    facts += troubles(model)
    if model.code:
        facts.append(short_reason(model.code, model.detail, glyphs))
    return f"{safe(model_name(model), glyphs=glyphs)} {state_word(model.state)} " + ", ".join(facts)


def verifying(model: ModelStatus) -> list[str]:
    """`verifying 12/35 files 20.1/57.7 GB, 1.6 GB/s, 0:23 left`; nothing while no file is hashed."""
    now = model.verifying
    if now is None:
        return []
    left_s = (now.size_bytes - now.done_bytes) / now.rate_bps if now.rate_bps else math.inf
    files = ngettext("{done}/{count} file", "{done}/{count} files", now.files, done=now.done_files)
    how_far = _("verifying {files} {sizes}", files=files, sizes=pair_text(now.done_bytes, now.size_bytes))
    return [how_far, rate_text(now.rate_bps), _("{time} left", time=duration_text(left_s))]


def rate_bps(model: ModelStatus, pace: Pace) -> float:
    """Bytes per second by our own history, while that is short by the daemon's rates."""
    return pace.rate_bps() if pace.is_settled else float(model.rate_bps)


def eta_s(model: ModelStatus, pace: Pace) -> float:
    """Seconds left, infinite when nothing moves."""
    left = left_bytes(model)
    if pace.is_settled or not left:
        return pace.eta_s(left)
    return left / model.rate_bps if model.rate_bps > 0 else math.inf


def troubles(model: ModelStatus) -> list[str]:
    """`1 retrying`, `2 stalled`, `1 failed`, `1 paused`; nothing for zero."""
    states = [f.state for f in model.files.values()]
    counts = {
        N_("{count} retrying"): states.count("retrying"),
        N_("{count} stalled"): states.count("stalled"),
        N_("{count} failed"): states.count("failed"),
        N_("{count} paused"): sum(f.is_held for f in model.files.values()),
    }
    return [_(words, count=count) for words, count in counts.items() if count]


PATH_MIN = 24  # cells of a path, below which it says nothing


def farewell(
    models: Sequence[ModelStatus],
    status: Status,
    paces: dict[str, Pace],
    now: datetime,
    *,
    lost_s: float = 0.0,
    width: int = 80,
    glyphs: Glyphs = UNICODE,
) -> tuple[str, ...]:
    """Three lines: the model, what is behind and ahead, and that the daemon goes on; fewer if it was never reached.

    Each fits `width` cells, but the path of a complete model, which must be whole. `lost_s`: for how long the daemon
    has not answered.
    """
    if not models and not status.version:
        return (daemon_line(status, now), _("what holds it up: qwenctl doctor"))
    if not models:
        return (
            _("qwen-monitor: no model is wanted"),
            _("add one: qwenctl add qwen-image-edit"),
            _daemon_left(status, now, lost_s),
        )
    first = models[0]
    pace = paces.get(first.model, Pace())
    return (
        _model_left(first, pace, width, glyphs),
        _whereabouts(first, len(models) - 1, width, glyphs),
        safe(_daemon_left(status, now, lost_s), width, glyphs),
    )


def _model_left(model: ModelStatus, pace: Pace, width: int, glyphs: Glyphs) -> str:
    """As `model_line`, with as many facts as fit; how many files are verified stands in the next line."""
    done, size = model.done_bytes, model.size_bytes
    far = f" {percent_text(done, size)}" if model.files else ""
    facts = [pair_text(done, size) if model.files else _("no file list yet")]
    facts += [short_reason(model.code, model.detail, glyphs)] if model.code else []
    if model.state == "downloading":
        facts += [rate_text(rate_bps(model, pace)), _("ETA {time}", time=duration_text(eta_s(model, pace)))]
    head = safe(f"{model_name(model)} {state_word(model.state)}{far}", width, glyphs)
    return f"{head} {fitting([*facts, *verifying(model)], width - cell_width(head) - 1, between=', ')}".rstrip()


def _daemon_left(status: Status, now: datetime, lost_s: float) -> str:
    if not lost_s:
        return daemon_line(status, now)
    return _("qwen-daemon has not answered for {time}; look closer: qwenctl doctor", time=duration_text(lost_s))


def daemon_line(status: Status, now: datetime) -> str:
    """`qwen-daemon 1.2.0 (pid 4100, up 0:14:02) goes on without the monitor`."""
    if not status.version:
        return _("qwen-daemon was not reached")
    started = parse_time(status.started_at)
    up = _(", up {time}", time=duration_text((now - started).total_seconds())) if started else ""
    return _(
        "qwen-daemon {version} (pid {pid}{up}) goes on without the monitor",
        version=safe(status.version),
        pid=status.pid,
        up=up,
    )


def _amount(model: ModelStatus) -> str:
    done, size = model.done_bytes, model.size_bytes
    if not model.files:
        return _("no file list yet")
    files = verified_text(model)
    return f"{percent_text(done, size)} {pair_text(done, size)}, {files}"


def _whereabouts(model: ModelStatus, others: int, width: int, glyphs: Glyphs) -> str:
    """Where it is, or how much of it is verified and which file is not; rather that than how the others fare."""
    more = _(" (+{count} more: qwen-monitor --once)", count=others) if others else ""
    if model.path:
        return "  " + _("at {path}", path=safe(model.path, glyphs=glyphs)) + more
    room = width - 2 - cell_width(more)
    missing = [f.path for f in model.files.values() if not f.is_verified]
    if not missing:
        return f"  {safe(_('qwenctl status shows every file'), room, glyphs)}{more}"
    left = _(" and {count} more", count=len(missing) - 1) if len(missing) > 1 else ""
    verified = verified_text(model)
    for facts in ([verified, *troubles(model)], [verified]):
        start = ", ".join(facts) + "; "
        path_room = room - cell_width(start + _("not verified yet: {path}{more}", path="", more=left))
        if path_room >= min(PATH_MIN, cell_width(missing[0])):
            path = safe(missing[0], path_room, glyphs)
            return f"  {start}{_('not verified yet: {path}{more}', path=path, more=left)}{more}"
    return f"  {fitting([verified, *troubles(model)], room, between=', ')}{more}"
