"""Looks at one file through the daemon's API while its details are open: once a second, in a thread of its own.

What it tells is not on the event stream, where it would cost everybody; nobody looks, nothing is asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from qwen_api.client import Client, DaemonRefused, DaemonUnreachable
from qwen_api.commands import Whereabouts

PERIOD_S = 1.0
CLOSE_S = 5.0  # an answer under way comes or fails long before, unless the machine is stuck


class Lens:
    """`find` gives the socket, and may raise DaemonUnreachable. All methods but `close` return at once."""

    def __init__(self, find: Callable[[], Path], period_s: float = PERIOD_S) -> None:
        self._find = find
        self._period_s = period_s
        self._changed = threading.Condition()
        self._aim: tuple[str, str] | None = None  # model, path
        self._seen: Whereabouts | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def aim(self, model: str, path: str) -> None:
        """Look at this file from now on."""
        self._turn((model, path))

    def rest(self) -> None:
        """Look at nothing."""
        self._turn(None)

    def look(self) -> Whereabouts | None:
        """What was seen last of the file that is aimed at; None while nothing was."""
        with self._changed:
            return self._seen

    def wait_for(self, condition: Callable[[Whereabouts | None], bool], timeout_s: float) -> bool:
        """Block until `condition` holds of what is seen; False after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self._seen), timeout_s)

    def close(self) -> None:
        """Look no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def _turn(self, aim: tuple[str, str] | None) -> None:
        with self._changed:
            if aim == self._aim or self._closed:
                return
            self._aim, self._seen = aim, None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lens", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _run(self) -> None:
        while (aim := self._next_aim()) is not None:
            seen = self._ask(*aim)
            with self._changed:
                if aim == self._aim and seen is not None:
                    self._seen = seen
                    self._changed.notify_all()
                self._changed.wait_for(partial(self._is_over, aim), self._period_s)

    def _next_aim(self) -> tuple[str, str] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._aim is not None)
            return None if self._closed else self._aim

    def _is_over(self, aim: tuple[str, str]) -> bool:
        return self._closed or self._aim != aim

    def _ask(self, model: str, path: str) -> Whereabouts | None:
        """None if it cannot be told: the daemon is away, which the header says, or too old for this question."""
        try:
            return Client(self._find()).file(model, path).whereabouts
        except (DaemonUnreachable, DaemonRefused):
            return None
