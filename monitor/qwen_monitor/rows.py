"""The monitor's whole screen as lines: (status, terminal size, now, signs) and the person's choices -> rows.

Pure: given the same facts it gives the same screen, so that every size and every hostile name is tested without a
terminal. `panes` draws the parts; this module decides which parts a size has room for. Header, bar and key line
always stay; with less height go first the graph, then events, then components.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from qwen_api.language import _, ngettext
from qwen_api.status import LimitsStatus, ModelStatus, Status
from qwen_monitor.display import (
    Glyphs,
    bar,
    bytes_text,
    cell_width,
    duration_text,
    pair_text,
    percent_text,
    rate_text,
    safe,
    spark,
)
from qwen_monitor.event_text import EventText, parse_time
from qwen_monitor.limits import connections_text, files_text
from qwen_monitor.pace import Pace
from qwen_monitor.panes import (
    Row,
    Tone,
    component_rows,
    event_rows,
    file_heading,
    file_rows,
    first_shown,
    fitting,
    heading,
    line,
    loader_row,
    until_text,
)
from qwen_monitor.sentences import DISK_STATES, reason, state_word
from qwen_monitor.summary import eta_s, model_name, rate_bps, troubles, verified_files, verifying
from qwen_monitor.view import KEYS, View, chosen, files_shown, models_shown

HEIGHT_SPARK = 20  # rows from which the graph is drawn
HEIGHT_LOADER = 12
EVENTS_SURE = 6  # rows of the event pane that long file lists cannot take


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """A terminal, in cells."""

    width: int
    height: int


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """The connection to the daemon as a person sees it; seconds are ages, counted by the caller."""

    is_live: bool = True
    lost_s: float = 0.0
    retry_in_s: float = 0.0
    code: str = ""
    why: str = ""
    fix: str = ""
    was_live: bool = True


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a screen is drawn from, apart from the terminal and the time."""

    status: Status
    view: View = View()
    pace: Pace = Pace()
    link: Link = Link()
    events: tuple[EventText, ...] = ()
    message: str = ""


def draw(scene: Scene, size: Size, now: datetime, glyphs: Glyphs) -> tuple[Row, ...]:
    """At most `size.height` rows of at most `size.width` cells; `now` carries the zone that times are shown in."""
    rows = _help_rows(size, glyphs) if scene.view.help else _screen(scene, size, now, glyphs)
    if not scene.link.is_live and not scene.view.help:
        rows = [rows[0], *(_dimmed(r) for r in rows[1:])]
    return tuple(rows[: max(0, size.height)])


def _screen(scene: Scene, size: Size, now: datetime, glyphs: Glyphs) -> list[Row]:
    width = size.width
    model = chosen(scene.status, scene.view)
    top = [_header(scene, model, width, now, glyphs)]
    bottom = [_key_row(scene, model, width, glyphs)]
    if message := _message(scene):
        bottom.insert(0, Row(text=line(f" {message}", "", width, glyphs), tone="warn"))
    if model is None:
        return [*top, *_pad(_nothing(scene, width, glyphs), size.height - len(top) - len(bottom)), *bottom]
    top += [_bar_row(model, width, glyphs), _facts_row(scene, model, width, now, glyphs)]
    top += _trouble_rows(model, width, now, glyphs)
    if size.height >= HEIGHT_SPARK:
        top.append(_spark_row(scene.pace, width, glyphs))
    if size.height >= HEIGHT_LOADER:
        bottom[:0] = _loader_rows(scene.status, model, width, glyphs)
    room = size.height - len(top) - len(bottom)
    return _trimmed(top, _middle(scene, model, max(0, room), width, now, glyphs), bottom, size.height)


def _trimmed(top: list[Row], middle: list[Row], bottom: list[Row], height: int) -> list[Row]:
    if height >= len(top) + len(bottom):
        return [*top, *middle, *bottom]
    kept = max(1, height - 1)
    return [*top[:kept], *bottom[-1:]]


def _middle(scene: Scene, model: ModelStatus, room: int, width: int, now: datetime, glyphs: Glyphs) -> list[Row]:
    """Components, files and events: events have a small share of the height for certain, and all that files leave."""
    sure = min(EVENTS_SURE, max(2, room // 4)) if room >= 8 and scene.events else 0
    parts = component_rows(model, (room - sure) // 3 if room >= 6 else 0, width, glyphs)
    files = _file_pane(scene, model, room - sure - len(parts), width, now, glyphs)
    left = room - len(parts) - len(files)
    events = event_rows(scene.events, model.model, left if sure else 0, width, now, glyphs)
    return [*parts, *_pad(files, room - len(parts) - len(events)), *events]


def _file_pane(scene: Scene, model: ModelStatus, room: int, width: int, now: datetime, glyphs: Glyphs) -> list[Row]:
    if room < 2 or not model.files:
        return []
    view = scene.view
    files = files_shown(scene.status, view)
    hidden = 0 if view.all_files or view.filter else verified_files(model)
    title = f"{_('FILE')} [{view.filter}]" if view.filter else _("FILE")
    rows = [file_heading(safe(title, max(8, width // 2), glyphs), width, glyphs)]
    count = room - 1 - bool(hidden)
    start = first_shown(files, view.file, count)
    rows += file_rows(files[start:], count, width, now, glyphs, view.file)
    if hidden:
        words = ngettext("{count} file verified (a: all)", "{count} files verified (a: all)", hidden)
        rows.append(Row(text=line(f" {glyphs.done} {words}", "", width, glyphs), tone="good"))
    return rows[:room]


def _header(scene: Scene, model: ModelStatus | None, width: int, now: datetime, glyphs: Glyphs) -> Row:
    if not scene.link.is_live:
        return _lost_header(scene.link, width, now, glyphs)
    up = _up_text(scene.status, now) if width >= 80 else ""
    ready = _("stopping") if scene.status.stopping else _("live")
    if model is None:
        return Row(text=line(" qwen-daemon", f"{glyphs.live} {ready}{up} ", width, glyphs), tone="head")
    models = models_shown(scene.status, scene.view)
    place = f" [{models.index(model) + 1}/{len(models)}]" if len(models) > 1 else ""
    digits = 8 if width >= 80 else 7
    edge = f"{state_word(model.state).upper()}  {glyphs.live} {ready}{up} "
    return Row(text=line(f" {model_name(model, digits)}{place}", edge, width, glyphs), tone="head")


def _up_text(status: Status, now: datetime) -> str:
    started = parse_time(status.started_at)
    return "  " + _("up {time}", time=duration_text((now - started).total_seconds())) if started else ""


def _lost_header(link: Link, width: int, now: datetime, glyphs: Glyphs) -> Row:
    wait = _("next try in {time}", time=duration_text(link.retry_in_s))
    if not link.was_live:
        return Row(text=line(f" {glyphs.down} {_('waiting for the daemon')}, {wait}", "", width, glyphs), tone="bad")
    text = f" {glyphs.down} {_('disconnected {time}', time=duration_text(link.lost_s))}, {wait}"
    last = _("last data {time}", time=(now - timedelta(seconds=link.lost_s)).strftime("%H:%M:%S"))
    return Row(text=line(text, f"{last} " if width >= 80 else "", width, glyphs), tone="bad")


def _bar_row(model: ModelStatus, width: int, glyphs: Glyphs) -> Row:
    if not model.files:
        return Row(text=line(" " + _("the list of files is not known yet"), "", width, glyphs), tone="dim")
    done, size = model.done_bytes, model.size_bytes
    files = ngettext("{done}/{count} file", "{done}/{count} files", len(model.files), done=verified_files(model))
    room = max(0, width - 12)
    edge = fitting([f"{percent_text(done, size):>6}", pair_text(done, size), files], room, between="  ")
    drawn = bar(done, size, width - cell_width(edge) - 4, glyphs)
    return Row(text=line(f" {drawn}", f"{edge} ", width, glyphs), tone=_model_tone(model))


def _model_tone(model: ModelStatus) -> Tone:
    match model.state:
        case "complete":
            return "good"
        case "failed" | "incomplete":
            return "bad"
        case "waiting" | "paused":
            return "warn"
        case _:
            return "active"


def _facts_row(scene: Scene, model: ModelStatus, width: int, now: datetime, glyphs: Glyphs) -> Row:
    facts = _speed_facts(scene.pace, model, now) if model.state == "downloading" else []
    active = sum(f.state in ("downloading", "verifying") for f in model.files.values())
    facts += [*verifying(model), *troubles(model), _("{count} active", count=active) if active else ""]
    if wait := until_text(scene.status.throttled_until, now):
        facts.append(_("the Hub asks to wait {time}", time=wait))
    for endpoint in scene.status.endpoints.values():
        if wait := until_text(endpoint.retry_at, now):
            facts.append(_("{endpoint} set aside {time}", endpoint=endpoint.endpoint, time=wait))
    facts += _limit_facts(scene.status.limits, model)
    for disk in scene.status.disks.values():
        free = _("free {size}", size=bytes_text(disk.free_bytes))
        facts.append(free if disk.state == "ok" else f"{_(DISK_STATES[disk.state])} {free}")
    facts.append(_("newer commit {commit}", commit=model.newer_commit[:8]) if model.newer_commit else "")
    average = scene.pace.average_bps()
    facts.append(
        _("avg {rate}", rate=rate_text(average))
        if average and scene.pace.is_settled and model.state == "downloading"
        else ""
    )
    limits = scene.status.limits
    if limits.max_files:
        files, connections = files_text(limits.max_files), connections_text(limits.max_connections)
        facts.append(_("up to {files}, {connections}", files=files, connections=connections))
    return Row(text=line(" " + fitting([safe(f, None, glyphs) for f in facts], width - 2), "", width, glyphs))


def _limit_facts(limits: LimitsStatus, model: ModelStatus) -> list[str]:
    rates = [rate for rate in (limits.rate_limit_bps, model.rate_limit_bps) if rate]
    facts = [_("limit {rate}", rate=rate_text(min(rates)))] if rates else []
    return [*facts, _("priority {priority}", priority=model.priority)] if model.priority else facts


def _speed_facts(pace: Pace, model: ModelStatus, now: datetime) -> list[str]:
    rate = rate_bps(model, pace)
    left = eta_s(model, pace)
    text = duration_text(left)
    if text == "-" or left >= 86_400:
        return [rate_text(rate), _("ETA {time}", time=text)]
    arrival = datetime.fromtimestamp(now.timestamp() + left, tz=now.tzinfo)
    return [rate_text(rate), _("ETA {time}", time=text) + f" ~{arrival.strftime('%H:%M')}"]


def _trouble_rows(model: ModelStatus, width: int, now: datetime, glyphs: Glyphs) -> list[Row]:
    if not model.code:
        return []
    why, fix = reason(model.code)
    wait = until_text(model.retry_at, now)
    again = _("again in {time}", time=wait) + " " if wait else ""
    detail = f" ({model.detail})" if model.detail else ""
    tone = _model_tone(model)
    rows = [Row(text=line(f" {glyphs.failed} {model.code}: {why}{detail}", again, width, glyphs), tone=tone)]
    return rows if wait else [*rows, Row(text=line(f"   {_('fix:')} {fix}", "", width, glyphs), tone=tone)]


def _spark_row(pace: Pace, width: int, glyphs: Glyphs) -> Row:
    cells = max(0, width - 20)
    rates = pace.history(cells)
    if not any(rates):
        return Row(text="", tone="dim")
    return Row(
        text=line(f" {spark(rates, glyphs)}", _("max {rate}", rate=rate_text(max(rates))) + " ", width, glyphs),
        tone="active",
    )


def _loader_rows(status: Status, model: ModelStatus, width: int, glyphs: Glyphs) -> list[Row]:
    ours = [x for x in status.loaders.values() if x.state != "gone" and x.model in ("", model.model, model.repo)]
    latest = max(ours, key=lambda x: x.since, default=None)
    return [loader_row(latest, width, glyphs)] if latest else []


def _message(scene: Scene) -> str:
    if scene.view.typing:
        return ""
    if not scene.link.is_live and scene.link.why:
        return f"{scene.link.why}; {scene.link.fix}"
    return scene.message


def _key_row(scene: Scene, model: ModelStatus | None, width: int, glyphs: Glyphs) -> Row:
    if scene.view.typing:
        return Row(
            text=line(f" / {scene.view.filter}_", _("Enter keeps, Esc clears") + " ", width, glyphs), tone="head"
        )
    paused = model is not None and model.state == "paused"
    labels = {
        "p": _("Resume") if paused else _("Pause"),
        "a": _("Unverified") if scene.view.all_files else _("All files"),
    }
    hidden = {"p", "r", "v", "Spc", "<>", "+-"} if scene.view.read_only else set()
    hidden |= set() if scene.view.file else {"Spc", "<>"}
    hidden |= set() if len(models_shown(scene.status, scene.view)) > 1 else {"Tab"}
    parts = [f"{key} {labels.get(key) or _(label)}" for key, label, *_rest in KEYS if key not in hidden]
    help_part = parts.pop()
    shown = fitting(parts, width - len(help_part) - 4, between="  ")
    return Row(text=line(f" {shown}  {help_part}", "", width, glyphs), tone="head")


def _nothing(scene: Scene, width: int, glyphs: Glyphs) -> list[Row]:
    if not scene.link.is_live:
        return []
    if scene.view.wanted is not None:
        ref = str(scene.view.wanted)
        lines = [_("{ref} is not wanted by this daemon", ref=ref), _("ask for it: qwenctl add {ref}", ref=ref)]
    else:
        lines = [_("no model is wanted"), _("ask for one: qwenctl add qwen-image-edit")]
    return [Row(text=line(f" {text}", "", width, glyphs)) for text in ["", *lines]]


def _help_rows(size: Size, glyphs: Glyphs) -> list[Row]:
    width = size.width
    rows = [heading(_("KEYS"), _("any key goes back"), width, glyphs)]
    for key, _label, what, command in KEYS:
        rows.append(Row(text=line(f" {key:<4} {_(what)}", f"{command} " if width >= 80 else "", width, glyphs)))
        if width < 80 and command:
            rows.append(Row(text=line(f"      {command}", "", width, glyphs), tone="dim"))
    rows.append(Row(text=line(" " + _("up, down, PageUp, PageDown, Home, End choose a file"), "", width, glyphs)))
    signs = (
        f"{glyphs.done} {_('verified')}  {glyphs.active} {_('active')}  {glyphs.retry} {_('retry, stalled')}  "
        f"{glyphs.failed} {_('failed')}  {glyphs.idle} {_('queued')}  {glyphs.paused} {_('paused')}"
    )
    return [*rows, Row(text=line(f" {signs}", "", width, glyphs))]


def _pad(rows: list[Row], height: int) -> list[Row]:
    return [*rows, *[Row(text="")] * (height - len(rows))][: max(0, height)]


def _dimmed(row: Row) -> Row:
    return Row(text=row.text, tone="dim")
