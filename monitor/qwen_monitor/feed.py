"""The event stream on its own thread: the latest status, the last events in words, and how the connection stands.

The monitor draws on a timer and never per event, so it only ever looks at the newest picture: progress that nobody saw
is replaced, durable events are kept (the last EVENTS_KEPT). Reconnecting is the Follower's work; drawing is `rows`'.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

from qwen_api.client import Disconnected, Follower, Line
from qwen_api.events import Bookmark, Gap, Hello, Live, Snapshot, Unknown
from qwen_api.language import _, ngettext
from qwen_api.status import Status
from qwen_monitor.display import UNICODE, Glyphs, duration_text
from qwen_monitor.event_text import EventText, event_text
from qwen_monitor.scene import Link

EVENTS_KEPT = 200  # more than a screen shows; the daemon keeps the rest (qwenctl events)
CLOSE_S = 5.0  # closing shuts the socket down, so the thread ends at once unless the machine is stuck


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """One consistent look at the feed."""

    status: Status = Status()
    events: tuple[EventText, ...] = ()
    link: Link = Link(is_live=False, was_live=False)


class Feed:
    """Runs a Follower in a thread. `look()` from any thread; `clock` gives monotonic seconds."""

    def __init__(self, follower: Follower, glyphs: Glyphs = UNICODE, clock: Callable[[], float] = time.monotonic):
        self._follower = follower
        self._glyphs = glyphs
        self._clock = clock
        self._changed = threading.Condition()
        self._events: deque[EventText] = deque(maxlen=EVENTS_KEPT)
        self._status = Status()
        self._epoch = ""
        self._restarts = 0
        self._is_other = False  # the daemon that answers now is not the one before
        self._away_s = self._back_at_s = 0.0
        self._lost: Disconnected | None = None
        self._lost_at_s = self._tried_at_s = clock()
        self._was_live = False
        self._thread = threading.Thread(target=self._run, name="event-feed", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def close(self) -> None:
        """Stop following and wait for the thread."""
        self._follower.close()
        if self._thread.ident is not None:  # a signal may end the program before it began to follow
            self._thread.join(CLOSE_S)

    def look(self) -> Picture:
        """The newest picture, with the connection's ages as of now."""
        with self._changed:
            return Picture(status=self._status, events=tuple(self._events), link=self._link())

    def wait_for(self, condition: Callable[[Picture], bool], timeout_s: float) -> bool:
        """Block until `condition` holds of the newest picture; False after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self.look()), timeout_s)

    def _run(self) -> None:
        for line in self._follower:
            with self._changed:
                if isinstance(line, Disconnected):
                    self._lose(line)
                else:
                    self._take(line)
                self._changed.notify_all()

    def _lose(self, lost: Disconnected) -> None:
        self._tried_at_s = self._clock()
        if self._is_live:
            self._lost_at_s = self._tried_at_s
        self._lost = lost

    def _take(self, line: Line) -> None:
        self._status = self._follower.status
        match line:
            case Hello():
                self._is_other = self._epoch not in ("", line.epoch)
                self._epoch = line.epoch
            case Snapshot():
                self._come_back(line)
            case Gap():
                lost = line.last - line.first + 1
                words = ngettext("{count} event is not in this list", "{count} events are not in this list", lost)
                self._note(_("missed"), words, is_bad=True)
            case Live() | Bookmark() | Unknown():
                pass
            case _:
                if text := event_text(line, self._glyphs):
                    self._events.append(text)

    def _come_back(self, snapshot: Snapshot) -> None:
        if self._is_other:
            now_s = self._clock()
            self._restarts += 1
            self._away_s, self._back_at_s = (now_s - self._lost_at_s if self._lost else 0.0), now_s
            away = _("restarted, was away {time}", time=duration_text(self._away_s))
            self._note(_("daemon"), away, ts=snapshot.ts, is_bad=True)
        self._lost, self._was_live, self._is_other = None, True, False

    def _note(self, word: str, detail: str, *, is_bad: bool, ts: str = "") -> None:
        self._events.append(EventText(word=word, subject="", detail=detail, ts=ts, is_bad=is_bad))

    @property
    def _is_live(self) -> bool:
        return self._was_live and self._lost is None

    def _link(self) -> Link:
        now_s = self._clock()
        if self._is_live:
            return Link(restarts=self._restarts, away_s=self._away_s, back_s=now_s - self._back_at_s)
        if self._lost is None:
            return Link(is_live=False, was_live=False)
        return Link(
            is_live=False,
            lost_s=now_s - self._lost_at_s,
            retry_in_s=max(0.0, self._tried_at_s + self._lost.retry_in_s - now_s),
            code=self._lost.code,
            why=self._lost.why,
            fix=self._lost.fix,
            was_live=self._was_live,
            restarts=self._restarts,
            away_s=self._away_s,
            back_s=now_s - self._back_at_s,
        )
