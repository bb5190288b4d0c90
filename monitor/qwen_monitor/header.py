"""The rows above the lists: which model, how far, how fast, until when, and what is in the way.

Pure. `rows` decides how many of them a size has room for.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from textwrap import wrap

from qwen_api.language import _, ngettext
from qwen_api.status import DiskStatus, LimitsStatus, ModelStatus, Status
from qwen_monitor.amounts import Amounts
from qwen_monitor.display import (
    Glyphs,
    bar,
    bytes_text,
    cell_width,
    chart,
    duration_text,
    pair_text,
    percent_text,
    rate_text,
    safe,
)
from qwen_monitor.event_text import parse_time
from qwen_monitor.limits import connections_text, files_text
from qwen_monitor.pace import Pace
from qwen_monitor.row import Row, Tone, fitting, line, until_text
from qwen_monitor.scene import Scene, Size
from qwen_monitor.sentences import DISK_STATES, reason, state_word
from qwen_monitor.summary import eta_s, model_name, rate_bps, troubles, verified_files, verifying
from qwen_monitor.view import models_shown

NAME_MIN = 12  # cells of a model's name, below which it says nothing


def header(scene: Scene, model: ModelStatus | None, width: int, now: datetime, glyphs: Glyphs) -> Row:
    """Which model at which commit, its state, and how the connection to the daemon stands."""
    if not scene.link.is_live:
        return _lost_header(scene, model, width, now, glyphs)
    up = _up_text(scene.status, now) if width >= 80 else ""
    ready = f"{glyphs.live} {_('stopping') if scene.status.stopping else _('live')}"
    if model is None:
        return Row(text=line(" qwen-daemon", f"{ready}{up} ", width, glyphs), tone="head")
    name = _named(scene, model, width)
    edge = f"{state_word(model.state).upper()}  {ready}"
    if cell_width(f" {name} {edge}{up} ") > width:
        up = ""  # how long the daemon runs is worth less than which model this is
    return Row(text=line(f" {name}", f"{edge}{up} ", width, glyphs), tone="head")


def _named(scene: Scene, model: ModelStatus, width: int) -> str:
    models = models_shown(scene.status, scene.view)
    place = f" [{models.index(model) + 1}/{len(models)}]" if len(models) > 1 else ""
    return f"{model_name(model, 8 if width >= 80 else 7)}{place}"


def _up_text(status: Status, now: datetime) -> str:
    started = parse_time(status.started_at)
    return "  " + _("up {time}", time=duration_text((now - started).total_seconds())) if started else ""


def _lost_header(scene: Scene, model: ModelStatus | None, width: int, now: datetime, glyphs: Glyphs) -> Row:
    """How long the picture below is old, whose it is, and when the daemon is looked for again."""
    link = scene.link
    wait = _("next try in {time}", time=duration_text(link.retry_in_s))
    if not link.was_live:
        return Row(text=line(f" {glyphs.down} {_('waiting for the daemon')}, {wait}", "", width, glyphs), tone="bad")
    text = f" {glyphs.down} {_('disconnected {time}', time=duration_text(link.lost_s))}, {wait}"
    last = _("last data {time}", time=(now - timedelta(seconds=link.lost_s)).strftime("%H:%M:%S"))
    name = safe(_named(scene, model, width), max(NAME_MIN, width - cell_width(text) - 3), glyphs) if model else ""
    edge = fitting([name, last], width - cell_width(text) - 2, between="  ")
    return Row(text=line(text, f"{edge} " if edge else "", width, glyphs), tone="bad")


def bar_row(model: ModelStatus, width: int, glyphs: Glyphs) -> Row:
    """How much of the model is on the disk."""
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


def facts_row(scene: Scene, model: ModelStatus, width: int, now: datetime, glyphs: Glyphs) -> Row:
    """How fast and until when, what is retried, stalled or active, the limits; what matters most first."""
    facts = _speed_facts(scene.pace, model, now) if model.state == "downloading" else []
    active = sum(f.state in ("downloading", "verifying") for f in model.files.values())
    facts += [*verifying(model), *troubles(model), _("{count} active", count=active) if active else ""]
    for endpoint in scene.status.endpoints.values():
        if wait := until_text(endpoint.retry_at, now):
            facts.append(_("{endpoint} set aside {time}", endpoint=endpoint.endpoint, time=wait))
    facts += _limit_facts(scene.status.limits, model)
    average = scene.pace.average_bps() if scene.pace.is_settled and model.state == "downloading" else 0.0
    facts.append(_("avg {rate}", rate=rate_text(average)) if average else "")
    facts.append(_("newer commit {commit}", commit=model.newer_commit[:8]) if model.newer_commit else "")
    limits = scene.status.limits
    if limits.max_files:
        files, connections = files_text(limits.max_files), connections_text(limits.max_connections)
        facts.append(_("up to {files}, {connections}", files=files, connections=connections))
    return Row(
        text=line(" " + fitting([safe(f, None, glyphs) for f in facts], width - 2, between="  "), "", width, glyphs)
    )


def amounts_row(status: Status, model: ModelStatus, amounts: Amounts, width: int, glyphs: Glyphs) -> Row:
    """What is on the disk, what of it is proven, the room left, and what came over the network, which differ.

    Where one of them fell, what is missing stands behind it.
    """
    dropped, doubted = amounts.dropped_bytes, amounts.doubted_bytes
    on_disk = _("on disk {size}", size=bytes_text(model.done_bytes))
    verified = _("verified {size}", size=bytes_text(model.verified_bytes))
    facts = {  # how they stand beside each other, and which are left out first
        on_disk: 1,
        _("dropped {size}", size=bytes_text(dropped)) if dropped else "": 3,
        verified: 1,
        _("to prove again {size}", size=bytes_text(doubted)) if doubted else "": 4,
        **{_free_text(disk): 2 if disk.state == "ok" else 0 for disk in status.disks.values()},
        _("from the network {size}", size=bytes_text(model.received_bytes + amounts.earlier_bytes)): 5,
    }
    tone: Tone = "plain" if all(disk.state == "ok" for disk in status.disks.values()) else "warn"
    text = fitting(facts, width - 2, between="  ", ranks=tuple(facts.values()))
    return Row(text=line(f" {text}", "", width, glyphs), tone=tone)


def _free_text(disk: DiskStatus) -> str:
    free = _("free {size}", size=bytes_text(disk.free_bytes))
    return free if disk.state == "ok" else f"{_(DISK_STATES.get(disk.state, disk.state))} {free}"


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


def trouble_rows(status: Status, model: ModelStatus, size: Size, now: datetime, glyphs: Glyphs) -> list[Row]:
    """What holds the whole model up: the Hub's word to wait, or why it waits, and what a person can do."""
    width = size.width
    rows = []
    if wait := until_text(status.throttled_until, now):
        words = _("rate limit: the Hub asks to wait, {time} left", time=wait)
        rows.append(Row(text=line(f" {glyphs.retry} {words}", "", width, glyphs), tone="warn"))
    return rows + _model_trouble(model, size, now, glyphs)


def _model_trouble(model: ModelStatus, size: Size, now: datetime, glyphs: Glyphs) -> list[Row]:
    """Why and what to do, each in as many rows as it takes, or as an eighth of the height has room for."""
    if not model.code:
        return []
    why, fix = reason(model.code, str(model.ref))
    wait = until_text(model.retry_at, now)
    again = _("again in {time}", time=wait) + " " if wait else ""
    detail = f" ({model.detail})" if model.detail else ""
    tone: Tone = "bad" if model.state in ("failed", "incomplete") else "warn"
    most, room = max(1, size.height // 8), max(20, size.width - 4)
    whys = _wrapped(safe(f"{model.code}: {why}{detail}", glyphs=glyphs), room - cell_width(again), most)
    texts = [f" {glyphs.failed} {whys[0]}", *(f"   {part}" for part in whys[1:])]
    texts += [f"   {part}" for part in _wrapped(safe(f"{_('fix:')} {fix}", glyphs=glyphs), room, most)]
    edges = [again] + [""] * (len(texts) - 1)
    return [Row(text=line(text, edge, size.width, glyphs), tone=tone) for text, edge in zip(texts, edges, strict=True)]


def _wrapped(text: str, width: int, most: int) -> Sequence[str]:
    """At least one line and at most `most`; what does not fit stands in the last one, to be shortened."""
    lines = wrap(text, max(1, width), break_on_hyphens=False) or [""]
    return [*lines[: most - 1], " ".join(lines[most - 1 :])] if len(lines) > most else lines


def rate_rows(pace: Pace, height: int, width: int, glyphs: Glyphs) -> list[Row]:
    """The last minutes' rates as a graph of `height` rows."""
    rates = pace.history(max(0, width - 20))
    if not any(rates):
        return [Row(text="", tone="dim")] * height
    most = _("max {rate}", rate=rate_text(max(rates))) + " "
    lines = chart(rates, height, glyphs)
    return [
        Row(text=line(f" {drawn}", "" if index else most, width, glyphs), tone="active")
        for index, drawn in enumerate(lines)
    ]
