"""The terminal view: a Textual app of one-line rows, drawn on a timer. The only module that imports Textual.

It holds no knowledge of its own: `feed` and `lens` say what is known, `view` what a key does, `rows` what the screen
shows. A row is repainted only when its text changed, which keeps an idle monitor silent over SSH. The terminal is
always restored: Textual itself dies on SIGTERM and SIGHUP with the alternate screen on, so those signals are turned
into a quiet exit.
"""

from __future__ import annotations

import asyncio
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, TextIO

import msgspec
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from qwen_api.client import Follower
from qwen_monitor.display import Glyphs
from qwen_monitor.feed import Feed, Picture
from qwen_monitor.lens import Lens
from qwen_monitor.memory import Memory
from qwen_monitor.orders import Orders
from qwen_monitor.row import Row, Tone
from qwen_monitor.rows import draw
from qwen_monitor.scene import Link, Scene, Size
from qwen_monitor.summary import farewell
from qwen_monitor.view import FileOrder, Leave, Limit, Order, Priority, Say, View, chosen, models_shown, press

MESSAGE_S = 10.0  # how long the answer to a key stays
FIRST_S = 0.05  # how often, until anything is known of the daemon, it is looked for
_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

# The terminal's own eight colours, so that the user's theme holds.
_STYLES: dict[Tone, str] = {
    "plain": "",
    "head": "bold",
    "good": "ansi_green",
    "active": "ansi_cyan",
    "bad": "bold ansi_red",
    "warn": "ansi_yellow",
    "dim": "dim",
}


class Line(Static):
    """One line of the terminal. It knows what it shows, so that nobody else's memory of it can be out of date."""

    def __init__(self) -> None:
        super().__init__(markup=False)
        self._row = Row(text="")

    def show(self, row: Row) -> bool:
        """Show `row`; False if it stands there already."""
        if row == self._row:
            return False
        self._row = row
        self.update(Content.styled(row.text, _STYLES[row.tone]), layout=False)
        return True


class Sheet(Vertical):
    """As many Lines as the terminal has."""

    DEFAULT_CSS = """
    Sheet { width: 100%; height: 100%; overflow: hidden; }
    Sheet Line { height: 1; width: 100%; text-wrap: nowrap; }
    """

    class Fitted(Message):
        """There is a Line for every line again; new ones are blank."""

    @property
    def lines(self) -> list[Line]:
        """From top to bottom."""
        return list(self.query_children(Line))

    async def on_resize(self, event: events.Resize) -> None:
        """Add or remove Lines."""
        lines = self.lines
        if missing := event.size.height - len(lines):
            if missing > 0:
                await self.mount_all([Line() for _ in range(missing)])
            else:
                await self.remove_children(lines[missing:])
        self.post_message(self.Fitted())


class Monitor(App[int]):
    """Draws `follower`'s status; `find` gives the socket that commands go to. `run()` returns the exit code."""

    CSS = """
    Screen { overflow: hidden; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "pressed('ctrl+c')", show=False, priority=True),
        Binding("ctrl+q", "pressed('q')", show=False, priority=True),
        Binding("tab", "pressed('tab')", show=False, priority=True),
        Binding("shift+tab", "pressed('shift+tab')", show=False, priority=True),
    ]

    def __init__(
        self,
        follower: Follower,
        find: Callable[[], Path],
        *,
        view: View,
        glyphs: Glyphs,
        refresh_s: float,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC).astimezone(),
    ) -> None:
        super().__init__(ansi_color=True)
        self.theme = "ansi-dark"  # its colours are the terminal's own, whatever their real values
        self.feed = Feed(follower, glyphs)
        self.lens = Lens(find)
        self.view = view
        self.rows: tuple[Row, ...] = ()
        self.repainted = 0  # rows that all draws together changed
        self._orders = Orders(find, self.tell, glyphs)
        self._told = threading.Condition()
        self._message, self._message_until_s = "", 0.0
        self._memory = Memory()
        self._glyphs = glyphs
        self._refresh_s = refresh_s
        self._wall = wall
        self._signalled: int | None = None
        self._is_ready = False
        self.is_last = False  # nothing but last words follows: a second Ctrl-C must not cut them short

    def compose(self) -> ComposeResult:
        """One sheet over the whole terminal."""
        self._sheet = Sheet()
        yield self._sheet

    def on_load(self) -> None:
        """Before the terminal is touched: from here on a signal ends the app in order, and the daemon is asked."""
        self.feed.start()
        loop = asyncio.get_running_loop()
        self._handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._signal, number)

    def on_ready(self) -> None:
        """Start to draw: the first picture as soon as there is one."""
        self._is_ready = True
        if self._signalled is not None:
            self.exit(self._signalled, return_code=self._signalled)
            return
        self.set_interval(self._refresh_s, self.draw)
        self._first = self.set_interval(FIRST_S, self._draw_first)
        self.draw()

    def _draw_first(self) -> None:
        if self.feed.look().link != Link(is_live=False, was_live=False):
            self._first.stop()
            self.draw()

    def on_unmount(self) -> None:
        """Give the signals back."""
        loop = asyncio.get_running_loop()
        for number, handler in self._handlers.items():
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN if self.is_last else handler)

    def on_sheet_fitted(self) -> None:
        """Paint the new lines, and all others for the new size."""
        self.draw()

    def on_key(self, event: events.Key) -> None:
        """Every key but those in BINDINGS."""
        event.stop()
        self._press(event.key, event.character or "")

    def on_click(self, event: events.Click) -> None:
        """A click chooses a file, and on the chosen one shows its details."""
        file = self.rows[event.screen_y].file if event.screen_y < len(self.rows) else ""
        if file and file == self.view.file:
            self._press("enter", "")
        elif file and not self.view.help:
            self.view = msgspec.structs.replace(self.view, file=file)
            self.draw()

    def on_mouse_scroll_down(self) -> None:
        """The wheel chooses as the arrow keys do."""
        self._press("down", "")

    def on_mouse_scroll_up(self) -> None:
        """The wheel, the other way."""
        self._press("up", "")

    def action_pressed(self, key: str) -> None:
        """A key that Textual would otherwise take for itself."""
        self._press(key, key if len(key) == 1 else "")

    def tell(self, message: str) -> None:
        """Show `message` for a while; safe from any thread."""
        with self._told:
            self._message, self._message_until_s = message, time.monotonic() + MESSAGE_S
            self._told.notify_all()

    def wait_for_message(self, part: str, timeout_s: float) -> bool:
        """Block (in another thread than the app's) until a message holds `part`; False after `timeout_s`."""
        with self._told:
            return self._told.wait_for(lambda: part in self._message, timeout_s)

    def draw(self) -> None:
        """Repaint the rows that changed."""
        if _is_hung_up(sys.stdin):  # a terminal that is gone sends no SIGHUP to a process outside its session
            self.exit(128 + signal.SIGHUP, return_code=128 + signal.SIGHUP)
            return
        sheet = self._sheet
        if not sheet.is_attached:  # a timer's last tick, when the app is being taken down
            return
        picture = self._look()
        size = Size(width=sheet.size.width, height=sheet.size.height)
        rows = draw(self._scene(picture), size, self._wall(), self._glyphs)
        rows += (Row(text=""),) * (size.height - len(rows))
        self.repainted += sum(line.show(row) for line, row in zip(sheet.lines, rows, strict=False))
        self.rows = rows

    def close(self) -> None:
        """End the threads."""
        self.lens.close()
        self.feed.close()

    def farewell(self) -> tuple[str, ...]:
        """The three lines for the scrollback."""
        picture, width = self._look(), shutil.get_terminal_size().columns
        models, lost_s = models_shown(picture.status, self.view), picture.link.lost_s
        paces, now = self._memory.paces, self._wall()
        return farewell(models, picture.status, paces, now, lost_s=lost_s, width=width, glyphs=self._glyphs)

    def _press(self, key: str, character: str) -> None:
        self.view, action = press(self.view, key, character, self.feed.look().status)
        match action:
            case Leave():
                self.exit(action.code, return_code=action.code)
            case Order() | FileOrder() | Priority() | Limit():
                self._orders.give(action)
            case Say():
                self.tell(action.text)
            case None:
                pass
        self.draw()

    def _signal(self, number: int) -> None:
        self._signalled = 128 + number
        if self._is_ready:
            self.exit(self._signalled, return_code=self._signalled)

    def _scene(self, picture: Picture) -> Scene:
        model = chosen(picture.status, self.view)
        key = model.model if model else ""
        if key and self.view.details:
            self.lens.aim(key, self.view.file)
        else:
            self.lens.rest()
        return Scene(
            status=picture.status,
            view=self.view,
            pace=self._memory.pace_of(key),
            amounts=self._memory.amounts_of(key),
            link=picture.link,
            events=picture.events,
            message=self._message if time.monotonic() < self._message_until_s else "",
            whereabouts=self.lens.look(),
        )

    def _look(self) -> Picture:
        """The newest picture, with each model as it is remembered."""
        picture = self.feed.look()
        if not picture.link.was_live:
            return picture
        self._memory = self._memory.fed(picture.status, time.monotonic(), is_live=picture.link.is_live)
        return msgspec.structs.replace(picture, status=self._memory.shown(picture.status))


def watch(app: Monitor, *, mouse: bool = False) -> tuple[int, tuple[str, ...]]:
    """Run the app in this terminal; its exit code and the lines to leave behind.

    Without `mouse` the terminal's own selection and copying stay.
    """
    app.is_last = True
    try:
        app.run(mouse=mouse)
        return app.return_code or 0, app.farewell()
    finally:
        app.close()


def _is_hung_up(terminal: TextIO) -> bool:
    """True when the other side of the terminal was closed."""
    try:
        number = terminal.fileno()
    except (OSError, ValueError):
        return False  # no file behind it: nothing that could hang up
    poller = select.poll()
    poller.register(number, 0)
    return any(happened & (select.POLLHUP | select.POLLNVAL) for _, happened in poller.poll(0))
