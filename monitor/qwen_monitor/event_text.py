"""Durable events as short lines for people: one word, whom it is about, and the facts behind it.

Pure. Progress has no line, and the wire's frames (hello, snapshot, bookmark) have none. The words are the same in the
monitor's event pane and in plain mode; only how much fits differs.
"""

from __future__ import annotations

from datetime import datetime, tzinfo

import msgspec

from qwen_api import events as e
from qwen_monitor.display import UNICODE, Glyphs, bytes_text, duration_text, pair_text, rate_text, safe
from qwen_monitor.sentences import LOADER_STATES, MODEL_STATES, short_reason

WORD_WIDTH = 9  # the longest word: "throttled"


class EventText(msgspec.Struct, frozen=True, kw_only=True):
    """One event in words; `subject` is unshortened and still unsafe, `detail` is ready to print."""

    word: str
    subject: str
    detail: str
    ts: str
    model: str = ""
    is_bad: bool = False


def event_text(event: e.Event, glyphs: Glyphs = UNICODE) -> EventText | None:
    """What to say of `event`; None for progress."""
    if isinstance(event, e.FileProgress | e.ModelVerifying):
        return None
    word, subject, detail, is_bad = _words(event, glyphs)
    return EventText(
        word=word,
        subject=subject,
        detail=safe(detail, glyphs=glyphs),
        ts=event.ts,
        model=getattr(event, "model", ""),
        is_bad=is_bad,
    )


def clock_text(ts: str, zone: tzinfo | None, pattern: str = "%H:%M:%S") -> str:
    """An RFC 3339 time as wall time in `zone`; `--:--:--` if it is not one."""
    when = parse_time(ts)
    return when.astimezone(zone).strftime(pattern) if when else "--:--:--"


def parse_time(ts: str) -> datetime | None:
    """An RFC 3339 time with its zone; None for anything else (a hostile or newer daemon)."""
    try:
        when = datetime.fromisoformat(ts)
        return when if when.tzinfo and 1970 <= when.year < 9000 else None
    except ValueError:
        return None


_Words = tuple[str, str, str, bool]


def _words(event: e.Event, glyphs: Glyphs) -> _Words:
    if isinstance(event, e.FileStarted | e.FileSource | e.FileResumed | e.FileStalled | e.FileRetry):
        return _trying(event, glyphs)
    if isinstance(event, e.FileVerified | e.FileAdopted | e.FileCorrupt | e.FileFailed):
        return _judged(event, glyphs)
    if isinstance(event, e.ModelStateChanged | e.ModelResolved | e.ModelChecked | e.ModelPlanned | e.ModelComplete):
        return _model_work(event, glyphs)
    if isinstance(event, e.ModelScrubbed | e.ModelVerified):
        return _read_again(event)
    if isinstance(event, e.ModelAdded | e.ModelRemoved | e.ModelMoved | e.ModelChanged | e.ComponentComplete):
        return _model_facts(event)
    if isinstance(event, e.FilesPaused | e.FilesResumed | e.FilesPrioritised):
        return _files(event)
    if isinstance(event, e.LimitsChanged | e.ModelLimitsChanged):
        return _limits(event)
    return _daemon(event, glyphs)


def _trying(
    event: e.FileStarted | e.FileSource | e.FileResumed | e.FileStalled | e.FileRetry, glyphs: Glyphs
) -> _Words:
    match event:
        case e.FileStarted():
            again = f"try {event.attempt}, " if event.attempt > 1 else ""
            start = f" from {bytes_text(event.offset_bytes)}" if event.offset_bytes else ""
            return "started", event.path, f"{again}{bytes_text(event.size_bytes)}{start}", False
        case e.FileSource():
            why = f" ({short_reason(event.code, event.detail, glyphs)})" if event.code else ""
            return "source", event.path, f"now comes from {event.endpoint}{why}", False
        case e.FileResumed():
            return "resumed", event.path, f"{pair_text(event.kept_bytes, event.size_bytes)} kept", False
        case e.FileStalled():
            return "stalled", event.path, f"no byte for {duration_text(event.idle_s)}", True
        case _:
            why = short_reason(event.code, event.detail, glyphs)
            return "retry", event.path, f"try {event.attempt}/{event.attempts_max}{_soon(event)}: {why}", True


def _soon(event: e.FileRetry | e.FileFailed | e.HubThrottled | e.EndpointChanged) -> str:
    start, end = parse_time(event.ts), parse_time(event.retry_at)
    return f" in {duration_text((end - start).total_seconds())}" if start and end else ""


def _judged(event: e.FileVerified | e.FileAdopted | e.FileCorrupt | e.FileFailed, glyphs: Glyphs) -> _Words:
    match event:
        case e.FileVerified():
            how = f"{event.algorithm} ok, {bytes_text(event.size_bytes)}"
            if not event.received_bytes:
                return "verified", event.path, f"{how}, was on disk", False
            return "verified", event.path, f"{how}{_speed(event.received_bytes, event.duration_s)}", False
        case e.FileAdopted():
            source = event.source_repo or "the shared store"
            return "adopted", event.path, f"{bytes_text(event.size_bytes)} from {source}, by {event.how}", False
        case e.FileCorrupt():
            kept = f", {bytes_text(event.kept_bytes)} of it good" if event.kept_bytes else ""
            found = f"found {event.found[:12]}" if event.found else "it cannot be read"
            hashes = f"expected {event.expected[:12]}, {found}"
            return "corrupt", event.path, f"on {event.where}: {hashes}{kept}", True
        case _:
            then = f"; again{_soon(event)}" if event.retry_at else "; a person must act"
            return "failed", event.path, short_reason(event.code, event.detail, glyphs) + then, True


def _speed(received_bytes: int, duration_s: float) -> str:
    if duration_s <= 0:
        return ""
    return f" in {duration_text(duration_s)} ({rate_text(received_bytes / duration_s)})"


def _model_work(
    event: e.ModelStateChanged | e.ModelResolved | e.ModelChecked | e.ModelPlanned | e.ModelComplete, glyphs: Glyphs
) -> _Words:
    match event:
        case e.ModelStateChanged() if event.state == "checking" and event.retry_at:
            return "model", event.model, _asks_again(event, glyphs), True
        case e.ModelStateChanged():
            why = f": {short_reason(event.code, event.detail, glyphs)}" if event.code or event.detail else ""
            bad = event.state in ("failed", "waiting", "incomplete")
            return "model", event.model, MODEL_STATES.get(event.state, event.state) + why, bad
        case e.ModelResolved():
            what = f"{len(event.files)} files, {bytes_text(event.size_bytes)} (from the {event.source})"
            return "resolved", event.model, f"commit {event.commit[:8]}, {what}", False
        case e.ModelChecked():
            bad = event.missing + event.incomplete + event.unverified > 0
            counts = f"{event.missing} missing, {event.incomplete} incomplete, {event.unverified} to be hashed"
            found = f"{counts} of {len(event.files)} files" if bad else f"all {len(event.files)} files present"
            return "checked", event.model, f"{found} ({event.reason})", bad
        case e.ModelPlanned():
            kept = f", {bytes_text(event.kept_bytes)} kept" if event.kept_bytes else ""
            fetch = f"{event.fetch_files} files, {bytes_text(event.fetch_bytes)} to fetch"
            return "planned", event.model, f"{fetch}{kept}, {bytes_text(event.free_bytes)} free", False
        case _:
            return "complete", event.model, f"{event.files} files, {bytes_text(event.size_bytes)}: {event.path}", False


def _asks_again(event: e.ModelStateChanged, glyphs: Glyphs) -> str:
    """Nothing moves while the Hub's list of files is asked for: why, and when the next try is, must be said."""
    why = event.detail or short_reason(event.code, glyphs=glyphs)
    said = "asks to wait" if event.code == "E_RATE_LIMITED" else "does not answer"
    start, end = parse_time(event.ts), parse_time(event.retry_at)
    soon = f" in {max(0.0, (end - start).total_seconds()):.0f} s" if start and end else ""
    return f"the Hub {said} ({why}), trying again{soon}"


def _read_again(event: e.ModelScrubbed | e.ModelVerified) -> _Words:
    if isinstance(event, e.ModelVerified):
        how_fast = _speed(event.size_bytes, event.duration_s)
        what = f"{event.files} files hashed, {bytes_text(event.size_bytes)}{how_fast}, {event.damaged} damaged"
        return "hashed", event.model, what, event.damaged > 0
    what = f"{event.files} files read again, {bytes_text(event.size_bytes)}{_speed(event.size_bytes, event.duration_s)}"
    return "scrubbed", event.model, f"{what}, {event.damaged} damaged", event.damaged > 0


def _model_facts(
    event: e.ModelAdded | e.ModelRemoved | e.ModelMoved | e.ModelChanged | e.ComponentComplete,
) -> _Words:
    match event:
        case e.ModelAdded():
            return "added", event.model, f"{event.repo} at {event.revision}", False
        case e.ModelRemoved():
            freed = f", {bytes_text(event.freed_bytes)} freed" if event.freed_bytes else ", its files stay"
            return "removed", event.model, f"no longer wanted{freed}", False
        case e.ModelMoved():
            return "moved", event.model, f"{event.commit[:8]} is now {event.new_commit[:8]} ({event.follow})", False
        case e.ModelChanged():
            return (
                "changed",
                event.model,
                f"{len(event.paths)} files touched on disk: {', '.join(event.paths[:3])}",
                True,
            )
        case _:
            name = event.component or "(root)"
            return "component", name, f"complete, {event.files} files, {bytes_text(event.size_bytes)}", False


def _files(event: e.FilesPaused | e.FilesResumed | e.FilesPrioritised) -> _Words:
    names = ", ".join(event.paths[:3]) + (f" and {len(event.paths) - 3} more" if len(event.paths) > 3 else "")
    match event:
        case e.FilesPaused():
            return "paused", event.model, names, False
        case e.FilesResumed():
            return "unpaused", event.model, names, False
        case e.FilesPrioritised():
            return "priority", event.model, f"{event.priority}: {names}", False


def _limits(event: e.LimitsChanged | e.ModelLimitsChanged) -> _Words:
    rate = f"at most {rate_text(event.rate_limit_bps)}" if event.rate_limit_bps else "no speed limit"
    match event:
        case e.LimitsChanged():
            counts = f"{event.max_files} files, {event.max_connections} connections at once"
            return "limits", "daemon", f"{rate}, {counts}", False
        case e.ModelLimitsChanged():
            return "limits", event.model, f"{rate}, priority {event.priority}", False


def _daemon(event: e.Event, glyphs: Glyphs) -> _Words:
    match event:
        case e.DaemonStarted():
            return "daemon", f"pid {event.pid}", f"started, version {event.version}", False
        case e.DaemonStopping():
            return "daemon", "", f"is stopping{f' ({event.reason})' if event.reason else ''}", True
        case e.ConfigReloaded():
            return "config", event.path, f"in force, {len(event.models)} models", False
        case e.ConfigRejected():
            return "config", event.path, f"refused, the one before stays: {event.detail}", True
        case e.HubThrottled():
            return "throttled", event.origin, f"asked us to wait{_soon(event)} (HTTP {event.status})", True
        case e.EndpointChanged():
            return "endpoint", event.endpoint, _of_endpoint(event, glyphs), event.state == "aside"
        case e.DiskChanged():
            room = f"{bytes_text(event.free_bytes)} free, {bytes_text(event.needed_bytes)} still needed"
            return "disk", event.path, room, event.state != "ok"
        case e.LoaderChanged():
            what = LOADER_STATES.get(event.state, event.state)
            part = f" {event.component}" if event.component else ""
            more = f": {event.detail}" if event.detail else ""
            return "loader", event.name, f"{what}{part}{more}", event.state == "failed"
        case _:
            return e.type_of(event), "", "", False


def _of_endpoint(event: e.EndpointChanged, glyphs: Glyphs) -> str:
    match event.state:
        case "aside":
            return f"set aside, asked again{_soon(event)}: {short_reason(event.code, event.detail, glyphs)}"
        case "gone":
            return "no longer in the configuration"
        case _:
            return f"in use: {event.url}"
