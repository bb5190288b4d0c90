"""The page behind `?`: each key, what it does, and the command that does the same."""

from __future__ import annotations

from qwen_api.language import _
from qwen_monitor.display import Glyphs
from qwen_monitor.row import Row, heading, line
from qwen_monitor.scene import Size
from qwen_monitor.view import KEYS


def help_rows(size: Size, turned: int, glyphs: Glyphs) -> list[Row]:
    """The page, or the one of several that was turned to; `turned` counts from 1."""
    lines, room = _lines(size, glyphs), max(1, size.height - 1)
    pages = -(-len(lines) // room)
    page = (turned - 1) % pages
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
