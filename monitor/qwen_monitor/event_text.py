"""Durable events as short lines for people: one word, whom it is about, and the facts behind it.

Pure. Progress has no line, and the wire's frames (hello, snapshot, bookmark) have none. The words are the same in the
monitor's event pane and in plain mode; only how much fits differs.
"""

from __future__ import annotations

from datetime import datetime, tzinfo

import msgspec

from qwen_api import events as e
from qwen_api.language import N_, _, ngettext
from qwen_monitor.display import UNICODE, Glyphs, bytes_text, duration_text, pair_text, rate_text, safe
from qwen_monitor.limits import connections_text, files_text, rate_words
from qwen_monitor.sentences import LOADER_STATES, MODEL_STATES, short_reason

WORD_WIDTH = 9  # the longest word: "throttled"

STOP_REASONS = {"asked to": N_("asked to")}  # events.DaemonStopping

CORRUPT_WHERE = {"disk": N_("on the disk"), "network": N_("from the network")}  # events.FileCorrupt

# Why a model was compared with the listing (events.ModelChecked).
CHECK_REASONS = {
    "start": N_("start"),
    "change": N_("change"),
    "timer": N_("timer"),
    "command": N_("command"),
    "signal": N_("signal"),
    "recheck": N_("recheck"),
}


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
            again = _("try {number}", number=event.attempt) + ", " if event.attempt > 1 else ""
            start = _(" from {size}", size=bytes_text(event.offset_bytes)) if event.offset_bytes else ""
            return _("started"), event.path, f"{again}{bytes_text(event.size_bytes)}{start}", False
        case e.FileSource():
            why = f" ({short_reason(event.code, event.detail, glyphs)})" if event.code else ""
            return _("source"), event.path, _("now comes from {endpoint}", endpoint=event.endpoint) + why, False
        case e.FileResumed():
            return _("resumed"), event.path, _("{size} kept", size=pair_text(event.kept_bytes, event.size_bytes)), False
        case e.FileStalled():
            return _("stalled"), event.path, _("no byte for {time}", time=duration_text(event.idle_s)), True
        case _:
            why = short_reason(event.code, event.detail, glyphs)
            tries = _("try {count}/{most}", count=event.attempt, most=event.attempts_max)
            return _("retry"), event.path, f"{tries}{_soon(event)}: {why}", True


def _soon(event: e.FileRetry | e.FileFailed | e.HubThrottled | e.EndpointChanged) -> str:
    start, end = parse_time(event.ts), parse_time(event.retry_at)
    return _(" in {time}", time=duration_text((end - start).total_seconds())) if start and end else ""


def _judged(event: e.FileVerified | e.FileAdopted | e.FileCorrupt | e.FileFailed, glyphs: Glyphs) -> _Words:
    match event:
        case e.FileVerified():
            how = _("{algorithm} ok, {size}", algorithm=event.algorithm, size=bytes_text(event.size_bytes))
            if not event.received_bytes:
                return _("verified"), event.path, _("{how}, was on disk", how=how), False
            return _("verified"), event.path, f"{how}{_speed(event.received_bytes, event.duration_s)}", False
        case e.FileAdopted():
            source = event.source_repo or _("the shared store")
            size = bytes_text(event.size_bytes)
            return (
                _("adopted"),
                event.path,
                _("{size} from {source}, by {how}", size=size, source=source, how=event.how),
                False,
            )
        case e.FileCorrupt():
            kept = _(", {size} of it good", size=bytes_text(event.kept_bytes)) if event.kept_bytes else ""
            if event.found:
                hashes = _("expected {hash}, found {other}", hash=event.expected[:12], other=event.found[:12])
            else:
                hashes = _("expected {hash}, it cannot be read", hash=event.expected[:12])
                hashes += f" ({event.detail})" if event.detail else ""
            return _("corrupt"), event.path, f"{_(CORRUPT_WHERE.get(event.where, event.where))}: {hashes}" + kept, True
        case _:
            again = _("; again{soon}", soon=_soon(event)) if event.retry_at else _("; tried again later")
            then = _("; a person must act") if event.needs_human else again
            return _("failed"), event.path, short_reason(event.code, event.detail, glyphs) + then, True


def _speed(received_bytes: int, duration_s: float) -> str:
    if duration_s <= 0:
        return ""
    return _(" in {time} ({rate})", time=duration_text(duration_s), rate=rate_text(received_bytes / duration_s))


def _model_work(
    event: e.ModelStateChanged | e.ModelResolved | e.ModelChecked | e.ModelPlanned | e.ModelComplete, glyphs: Glyphs
) -> _Words:
    match event:
        case e.ModelStateChanged() if event.state == "checking" and event.retry_at:
            return _("model"), event.model, _asks_again(event, glyphs), True
        case e.ModelStateChanged():
            why = f": {short_reason(event.code, event.detail, glyphs)}" if event.code or event.detail else ""
            bad = event.state in ("failed", "waiting", "incomplete")
            return _("model"), event.model, _(MODEL_STATES.get(event.state, event.state)) + why, bad
        case e.ModelResolved():
            what = f"{_files_size(len(event.files), event.size_bytes)} ({_of_source(event.source)})"
            return _("resolved"), event.model, f"{_('commit {commit}', commit=event.commit[:8])}, {what}", False
        case e.ModelChecked():
            bad = event.missing + event.incomplete + event.unverified > 0
            count = len(event.files)
            if bad:
                found = ngettext(
                    "{missing} missing, {incomplete} incomplete, {unverified} to be hashed of {count} file",
                    "{missing} missing, {incomplete} incomplete, {unverified} to be hashed of {count} files",
                    count,
                    missing=event.missing,
                    incomplete=event.incomplete,
                    unverified=event.unverified,
                )
            else:
                found = ngettext("all {count} file present", "all {count} files present", count)
            return _("checked"), event.model, f"{found} ({_(CHECK_REASONS.get(event.reason, event.reason))})", bad
        case e.ModelPlanned():
            kept = ", " + _("{size} kept", size=bytes_text(event.kept_bytes)) if event.kept_bytes else ""
            fetch = _("{files} to fetch", files=_files_size(event.fetch_files, event.fetch_bytes))
            return (
                _("planned"),
                event.model,
                fetch + kept + _(", {size} free", size=bytes_text(event.free_bytes)),
                False,
            )
        case _:
            return _("complete"), event.model, f"{_files_size(event.files, event.size_bytes)}: {event.path}", False


def _asks_again(event: e.ModelStateChanged, glyphs: Glyphs) -> str:
    """Nothing moves while the Hub's list of files is asked for: why, and when the next try is, must be said."""
    why = event.detail or short_reason(event.code, glyphs=glyphs)
    start, end = parse_time(event.ts), parse_time(event.retry_at)
    soon = _(" in {seconds:.0f} s", seconds=max(0.0, (end - start).total_seconds())) if start and end else ""
    if event.code == "E_RATE_LIMITED":
        return _("the Hub asks to wait ({why}), trying again{soon}", why=why, soon=soon)
    return _("the Hub does not answer ({why}), trying again{soon}", why=why, soon=soon)


def _files_size(count: int, size_bytes: int) -> str:
    return ngettext("{count} file, {size}", "{count} files, {size}", count, size=bytes_text(size_bytes))


def _of_source(source: str) -> str:
    known = {"hub": N_("from the hub"), "cache": N_("from the cache")}
    return _(known[source]) if source in known else source


def _read_again(event: e.ModelScrubbed | e.ModelVerified) -> _Words:
    how_fast = f"{bytes_text(event.size_bytes)}{_speed(event.size_bytes, event.duration_s)}"
    damaged = _("{count} damaged", count=event.damaged)
    if isinstance(event, e.ModelVerified):
        what = ngettext("{count} file hashed", "{count} files hashed", event.files)
        return _("hashed"), event.model, f"{what}, {how_fast}, {damaged}", event.damaged > 0
    what = ngettext("{count} file read again", "{count} files read again", event.files)
    return _("scrubbed"), event.model, f"{what}, {how_fast}, {damaged}", event.damaged > 0


def _model_facts(
    event: e.ModelAdded | e.ModelRemoved | e.ModelMoved | e.ModelChanged | e.ComponentComplete,
) -> _Words:
    match event:
        case e.ModelAdded():
            return _("added"), event.model, _("{repo} at {revision}", repo=event.repo, revision=event.revision), False
        case e.ModelRemoved():
            freed = (
                _(", {size} freed", size=bytes_text(event.freed_bytes)) if event.freed_bytes else _(", its files stay")
            )
            return _("removed"), event.model, _("no longer wanted") + freed, False
        case e.ModelMoved():
            commits = _("{old} is now {new}", old=event.commit[:8], new=event.new_commit[:8])
            return _("moved"), event.model, f"{commits} ({event.follow})", False
        case e.ModelChanged():
            return (
                _("changed"),
                event.model,
                ngettext(
                    "{count} file touched on disk: {paths}",
                    "{count} files touched on disk: {paths}",
                    len(event.paths),
                    paths=", ".join(event.paths[:3]),
                ),
                True,
            )
        case _:
            name = event.component or _("(root)")
            return _("component"), name, _("complete, {files}", files=_files_size(event.files, event.size_bytes)), False


def _files(event: e.FilesPaused | e.FilesResumed | e.FilesPrioritised) -> _Words:
    names = ", ".join(event.paths[:3])
    names += _(" and {count} more", count=len(event.paths) - 3) if len(event.paths) > 3 else ""
    match event:
        case e.FilesPaused():
            return _("paused"), event.model, names, False
        case e.FilesResumed():
            return _("unpaused"), event.model, names, False
        case e.FilesPrioritised():
            return _("priority"), event.model, f"{event.priority}: {names}", False


def _limits(event: e.LimitsChanged | e.ModelLimitsChanged) -> _Words:
    rate = rate_words(event.rate_limit_bps)
    match event:
        case e.LimitsChanged():
            counts = (files_text(event.max_files), connections_text(event.max_connections))
            both = _("{files}, {connections} at once", files=counts[0], connections=counts[1])
            return _("limits"), _("daemon"), f"{rate}, {both}", False
        case e.ModelLimitsChanged():
            return _("limits"), event.model, f"{rate}, {_('priority {priority}', priority=event.priority)}", False


def _daemon(event: e.Event, glyphs: Glyphs) -> _Words:
    match event:
        case e.DaemonStarted():
            return _("daemon"), f"pid {event.pid}", _("started, version {version}", version=event.version), False
        case e.DaemonStopping():
            return (
                _("daemon"),
                "",
                _("is stopping") + (f" ({_(STOP_REASONS.get(event.reason, event.reason))})" if event.reason else ""),
                True,
            )
        case e.ConfigReloaded():
            return (
                _("config"),
                event.path,
                ngettext("in force, {count} model", "in force, {count} models", len(event.models)),
                False,
            )
        case e.ConfigRejected():
            return _("config"), event.path, _("refused, the one before stays: {why}", why=event.detail), True
        case e.HubThrottled():
            return (
                _("throttled"),
                event.origin,
                _("the next request{soon}", soon=_soon(event)),
                True,
            )
        case e.HubRenamed():
            return (
                _("renamed"),
                event.repo,
                _("is {name} on the Hub now; ask for it by that name", name=event.name),
                True,
            )
        case e.EndpointChanged():
            return _("endpoint"), event.endpoint, _of_endpoint(event, glyphs), event.state == "aside"
        case e.DiskChanged():
            free, needed = bytes_text(event.free_bytes), bytes_text(event.needed_bytes)
            room = _("{free} free, {needed} still needed", free=free, needed=needed)
            return _("disk"), event.path, room, event.state != "ok"
        case e.LoaderChanged():
            what = _(LOADER_STATES.get(event.state, event.state))
            part = f" {event.component}" if event.component else ""
            more = f": {event.detail}" if event.detail else ""
            return _("loader"), event.name, f"{what}{part}{more}", event.state == "failed"
        case _:
            return e.type_of(event), "", "", False


def _of_endpoint(event: e.EndpointChanged, glyphs: Glyphs) -> str:
    match event.state:
        case "aside":
            why = short_reason(event.code, event.detail, glyphs)
            return _("set aside, asked again{soon}: {why}", soon=_soon(event), why=why)
        case "gone":
            return _("no longer in the configuration")
        case _:
            return _("in use: {url}", url=event.url)
