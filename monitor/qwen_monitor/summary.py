"""One model in one line, and the three lines left in the scrollback: what plain mode, `--once` and leaving print.

Pure. The same numbers as in the monitor's header and bar, in words that survive a pipe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from qwen_api.status import ModelStatus, Status
from qwen_monitor.display import UNICODE, Glyphs, duration_text, pair_text, percent_text, rate_text, safe
from qwen_monitor.event_text import parse_time
from qwen_monitor.pace import Pace
from qwen_monitor.sentences import short_reason


def model_name(model: ModelStatus, commit_digits: int = 8) -> str:
    """`org/name@6f3ccc0b`, or with the revision while no commit is known; still unsafe."""
    return f"{model.repo}@{model.commit[:commit_digits] or model.revision}"


def verified_files(model: ModelStatus) -> int:
    """How many files are known to be the Hub's."""
    return sum(f.is_verified for f in model.files.values())


def left_bytes(model: ModelStatus) -> int:
    """Bytes still to come."""
    return max(0, model.size_bytes - model.done_bytes)


def model_line(model: ModelStatus, pace: Pace, glyphs: Glyphs = UNICODE) -> str:
    """`org/name@6f3ccc0b downloading 52.1% 30.1/57.7 GB, 19/27 files verified, 84.9 MB/s, ETA 5:25, 1 retrying`."""
    facts = [_amount(model)]
    if model.state == "downloading":
        facts += [rate_text(rate_bps(model, pace)), f"ETA {duration_text(eta_s(model, pace))}"]
    facts += verifying(model)
    facts += troubles(model)
    if model.code:
        facts.append(short_reason(model.code, model.detail, glyphs))
    return f"{safe(model_name(model), glyphs=glyphs)} {model.state} " + ", ".join(facts)


def verifying(model: ModelStatus) -> list[str]:
    """`verifying 12/35 files 20.1/57.7 GB, 1.6 GB/s, 0:23 left`; nothing while no file is hashed."""
    now = model.verifying
    if now is None:
        return []
    left_s = (now.size_bytes - now.done_bytes) / now.rate_bps if now.rate_bps else math.inf
    how_far = f"verifying {now.done_files}/{now.files} files {pair_text(now.done_bytes, now.size_bytes)}"
    return [how_far, rate_text(now.rate_bps), f"{duration_text(left_s)} left"]


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
    told = [f"{states.count(s)} {s}" for s in ("retrying", "stalled", "failed") if s in states]
    held = sum(f.is_held for f in model.files.values())
    return [*told, f"{held} paused"] if held else told


def farewell(models: Sequence[ModelStatus], status: Status, paces: dict[str, Pace], now: datetime) -> tuple[str, ...]:
    """Three lines: the model, what is behind and ahead, and that the daemon goes on."""
    if not models:
        return ("qwen-monitor: no model is wanted", "add one: qwenctl add qwen-image-edit", daemon_line(status, now))
    first = models[0]
    more = f" (+{len(models) - 1} more: qwen-monitor --once)" if len(models) > 1 else ""
    return (
        model_line(first, paces.get(first.model, Pace())) + more,
        _whereabouts(first),
        daemon_line(status, now),
    )


def daemon_line(status: Status, now: datetime) -> str:
    """`qwen-daemon 1.2.0 (pid 4100, up 0:14:02) goes on without the monitor`."""
    if not status.version:
        return "qwen-daemon was not reached"
    started = parse_time(status.started_at)
    up = f", up {duration_text((now - started).total_seconds())}" if started else ""
    return f"qwen-daemon {safe(status.version)} (pid {status.pid}{up}) goes on without the monitor"


def _amount(model: ModelStatus) -> str:
    done, size = model.done_bytes, model.size_bytes
    if not model.files:
        return "no file list yet"
    files = f"{verified_files(model)}/{len(model.files)} files verified"
    return f"{percent_text(done, size)} {pair_text(done, size)}, {files}"


def _whereabouts(model: ModelStatus) -> str:
    if model.path:
        return f"  at {safe(model.path)}"
    missing = [f.path for f in model.files.values() if not f.is_verified]
    if not missing:
        return "  qwenctl status shows every file"
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"  not verified yet: {safe(missing[0], 60)}{more}"
