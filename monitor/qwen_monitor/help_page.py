"""The page behind `?`: each key, what it does, the command that does the same, and which daemon is watched."""

from __future__ import annotations

from datetime import datetime, timedelta

from qwen_api.language import _
from qwen_api.status import Status
from qwen_monitor.display import Glyphs, duration_text
from qwen_monitor.event_text import clock_text, parse_time
from qwen_monitor.row import Row, heading, line
from qwen_monitor.scene import Link, Scene, Size
from qwen_monitor.summary import daemon_line
from qwen_monitor.view import KEYS


def help_rows(scene: Scene, size: Size, now: datetime, glyphs: Glyphs) -> list[Row]:
    """The page, or the one of several that was turned to."""
    lines, room = [*_lines(size, glyphs), *_daemon(scene, size.width, now, glyphs)], max(1, size.height - 1)
    pages = -(-len(lines) // room)
    page = (scene.view.help - 1) % pages
    way_out = _("any key goes back") if pages == 1 else _("?: page {page}/{pages}", page=page + 1, pages=pages)
    return [heading(_("KEYS"), way_out, size.width, glyphs), *lines[page * room : (page + 1) * room]]


def _lines(size: Size, glyphs: Glyphs) -> list[Row]:
    width, rows = size.width, list[Row]()
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


def _daemon(scene: Scene, width: int, now: datetime, glyphs: Glyphs) -> list[Row]:
    """Which daemon this is, and that it is another one than before."""
    texts = [daemon_line(scene.status, now)]
    if scene.link.restarts:
        texts.append(restart_text(scene.link, scene.status, now))
    return [Row(text=line(f" {text}", "", width, glyphs), tone="dim") for text in texts]


def restart_text(link: Link, status: Status, now: datetime) -> str:
    """`daemon restarted at 14:03:02, was away 0:12; it went on at 14:03:05`."""
    back = (now - timedelta(seconds=link.back_s)).strftime("%H:%M:%S")
    away = duration_text(link.away_s)
    if parse_time(status.started_at) is None:
        return _("daemon restarted, was away {time}; seen again at {back}", time=away, back=back)
    started = clock_text(status.started_at, now.tzinfo)
    return _(
        "daemon restarted at {started}, was away {time}; seen again at {back}", started=started, time=away, back=back
    )
