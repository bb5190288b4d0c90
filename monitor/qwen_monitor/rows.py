"""The monitor's whole screen as lines: (status, terminal size, now, signs) and the person's choices -> rows.

Pure: given the same facts it gives the same screen, so that every size and every hostile name is tested without a
terminal. `header`, `panes` and `file_pane` draw the parts; this module decides which parts a size has room for. Header,
bar and key line always stay; with less height go first the graph, then events, then components.
"""

from __future__ import annotations

from datetime import datetime
from textwrap import wrap

from qwen_api.language import _, ngettext
from qwen_api.status import ModelStatus, Status
from qwen_monitor.details import details_rows
from qwen_monitor.display import Glyphs, safe
from qwen_monitor.file_pane import SORTS, file_heading, file_rows, first_shown
from qwen_monitor.header import amounts_row, bar_row, facts_row, header, rate_rows, trouble_rows
from qwen_monitor.help_page import help_rows, restart_text
from qwen_monitor.panes import component_room, component_rows, event_rows, loader_row
from qwen_monitor.row import Row, fitting, line
from qwen_monitor.scene import Scene, Size
from qwen_monitor.summary import verified_files
from qwen_monitor.view import KEYS, chosen, chosen_file, files_shown, models_shown

HEIGHT_AMOUNTS = 12  # rows from which on-disk, verified and network bytes and the free disk have a row of their own
HEIGHT_GRAPH = 20  # rows from which the graph is drawn, in one row,
HEIGHT_GRAPH_TALL, GRAPH_ROWS = 36, 4  # and in so many
HEIGHT_LOADER = 12
EVENTS_SURE = 6  # rows of the event pane that long file lists cannot take,
EVENTS_ROOM = 12  # if components, files and events have at least so many together
HEADING_ROOM = 10  # rows of files below which the heading tells how many are verified
RESTART_SHOWN_S = 60.0  # long enough to be seen by who looks up once a minute


def draw(scene: Scene, size: Size, now: datetime, glyphs: Glyphs) -> tuple[Row, ...]:
    """At most `size.height` rows of at most `size.width` cells; `now` carries the zone that times are shown in."""
    rows = help_rows(scene, size, now, glyphs) if scene.view.help else _screen(scene, size, now, glyphs)
    if not scene.link.is_live and not scene.view.help:
        rows = [rows[0], *(_dimmed(r) for r in rows[1:])]
    return tuple(rows[: max(0, size.height)])


def _screen(scene: Scene, size: Size, now: datetime, glyphs: Glyphs) -> list[Row]:
    width = size.width
    model = chosen(scene.status, scene.view)
    top = [header(scene, model, width, now, glyphs)]
    bottom = [_key_row(scene, model, width, glyphs)]
    bottom[:0] = _message_rows(scene, size, now, glyphs)
    if model is None:
        return [*top, *_pad(_nothing(scene, width, glyphs), size.height - len(top) - len(bottom)), *bottom]
    top += [bar_row(model, width, glyphs), facts_row(scene, model, width, now, glyphs)]
    if size.height >= HEIGHT_AMOUNTS:
        top.append(amounts_row(scene.status, model, scene.amounts, width, glyphs))
    top += trouble_rows(scene.status, model, size, now, glyphs)
    if size.height >= HEIGHT_GRAPH:
        top += rate_rows(scene.pace, GRAPH_ROWS if size.height >= HEIGHT_GRAPH_TALL else 1, width, glyphs)
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
    """Components, files and events: events have a small share of the height for certain, and all that files leave.

    Or the details of one file.
    """
    file = chosen_file(scene.status, scene.view) if scene.view.details else None
    if file is not None:
        return _pad(details_rows(scene, model, file, room, width, now, glyphs), room)
    sure = min(EVENTS_SURE, room // 4) if room >= EVENTS_ROOM and scene.events else 0
    parts = component_rows(model, component_room(model, room - sure) if room >= 4 else 0, width, glyphs)
    files = _file_pane(scene, model, room - sure - len(parts), width, now, glyphs)
    left = room - len(parts) - len(files)
    events = event_rows(scene.events, model.model, left, width, now, glyphs)
    return [*parts, *_pad(files, room - len(parts) - len(events)), *events]


def _file_pane(scene: Scene, model: ModelStatus, room: int, width: int, now: datetime, glyphs: Glyphs) -> list[Row]:
    if room < 2 or not model.files:
        return []
    view = scene.view
    files = files_shown(scene.status, view)
    hidden = 0 if view.all_files or view.filter else verified_files(model)
    order = f" {_(SORTS[view.sort])}" if SORTS[view.sort] else ""
    title = f"{_('FILE')}{order} [{view.filter}]" if view.filter else f"{_('FILE')}{order}"
    words = ngettext("{count} file verified (a: all)", "{count} files verified (a: all)", hidden)
    verified = f"{glyphs.done} {words}" if hidden else ""
    notes = [verified, f"{glyphs.done} {hidden}"] if hidden and room < HEADING_ROOM else []
    rows = [file_heading(safe(title, max(8, width // 2), glyphs), notes, width, glyphs)]
    last = [Row(text=line(f" {verified}", "", width, glyphs), tone="good")] if hidden and not notes else []
    count = room - 1 - len(last)
    start = first_shown(files, view.file, count)
    rows += file_rows(files[start:], count, width, now, glyphs, view.file)
    return [*rows, *last][:room]


def _loader_rows(status: Status, model: ModelStatus, width: int, glyphs: Glyphs) -> list[Row]:
    ours = [x for x in status.loaders.values() if x.state != "gone" and x.model in ("", model.model, model.repo)]
    latest = max(ours, key=lambda x: x.since, default=None)
    return [loader_row(latest, width, glyphs)] if latest else []


def _message_rows(scene: Scene, size: Size, now: datetime, glyphs: Glyphs) -> list[Row]:
    """What is told to the person, in as many rows as it takes: a command to type must be whole."""
    if scene.view.typing:
        return []
    told = [scene.message]
    if scene.link.restarts and scene.link.back_s < RESTART_SHOWN_S and not scene.message:
        told = [restart_text(scene.link, scene.status, now)]
    if not scene.link.is_live and scene.link.why:
        told = [scene.link.why, f"{_('fix:')} {scene.link.fix}" if scene.link.fix else ""]
    lines = [part for text in told for part in wrap(safe(text, glyphs=glyphs), max(1, size.width - 2))]
    most = max(1, size.height // 3)
    return [Row(text=line(f" {text}", "", size.width, glyphs), tone="warn") for text in lines[:most]]


def _key_row(scene: Scene, model: ModelStatus | None, width: int, glyphs: Glyphs) -> Row:
    if scene.view.typing:
        return Row(
            text=line(f" / {scene.view.filter}_", _("Enter keeps, Esc clears") + " ", width, glyphs), tone="head"
        )
    if scene.view.removing and model is not None:
        question = _("remove {ref} (its files stay)? [y/N]", ref=model.repo)
        return Row(text=line(f" {question}", "", width, glyphs), tone="bad")
    paused = model is not None and model.state == "paused"
    labels = {
        "Ent": _("Back") if scene.view.details else _("Details"),
        "p": _("Resume") if paused else _("Pause"),
        "a": _("Unverified") if scene.view.all_files else _("All files"),
    }
    hidden = {"p", "r", "v", "Spc", "<>", "+-", "x"} if scene.view.read_only else set()
    hidden |= set() if scene.view.file else {"Spc", "<>"}
    hidden |= {"/", "s", "a"} if scene.view.details else set()
    hidden |= set() if len(models_shown(scene.status, scene.view)) > 1 else {"Tab"}
    parts = [f"{key} {labels.get(key) or _(label)}" for key, label, *_rest in KEYS if key not in hidden]
    help_part = parts.pop()
    ranks = [0 if part.startswith("Tab ") else place for place, part in enumerate(parts, 1)]  # there are others to see
    shown = fitting(parts, width - len(help_part) - 4, between="  ", ranks=ranks)
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


def _pad(rows: list[Row], height: int) -> list[Row]:
    return [*rows, *[Row(text="")] * (height - len(rows))][: max(0, height)]


def _dimmed(row: Row) -> Row:
    return Row(text=row.text, tone="dim", file=row.file)
