"""How fast each download was, from the events alone: found out when it ends, is paused or stopped, and now and then.

So that somebody who asks later what a download would cost is told a time. Who keeps it, and where, is the app's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from qwen_api import events as e
from qwen_api.last_rates import BELIEVED_S, LastRate
from qwen_api.status import Status
from qwen_daemon.ports import Clock

FOUND_EVERY_S = 60.0  # while it goes on: a SIGKILL loses a minute's knowledge


@dataclass
class _Download:
    began_s: float
    received_before: int
    found_s: float  # when its rate was found out last


class Speeds:
    """Feed it every event (`hear`); `take` what was found out by now. `news` is set while there is something."""

    def __init__(self, clock: Clock, status: Callable[[], Status]) -> None:
        self.news = asyncio.Event()
        self._clock = clock
        self._status = status
        self._downloads: dict[str, _Download] = {}
        self._found: dict[str, LastRate] = {}

    def hear(self, event: e.Event) -> None:
        """A listener of the bus."""
        match event:
            case e.ModelPlanned():
                now_s = self._clock.monotonic_s()
                self._downloads[event.model] = _Download(now_s, self._received(event.model), now_s)
            case e.FileVerified():
                download = self._downloads.get(event.model)
                if download is not None and self._clock.monotonic_s() - download.found_s >= FOUND_EVERY_S:
                    self._find(event.model, download)
            case e.ModelStateChanged() if event.state == "downloading":
                pass  # it goes on: the disk hung for a while
            case e.ModelStateChanged() | e.ModelComplete() | e.ModelRemoved():
                self._end(event.model)
            case e.DaemonStopping():
                for model in list(self._downloads):
                    self._end(model)
            case _:
                pass

    def take(self) -> dict[str, LastRate]:
        """By model; each is given once."""
        found, self._found = self._found, {}
        self.news.clear()
        return found

    def _end(self, model: str) -> None:
        download = self._downloads.pop(model, None)
        if download is not None:
            self._find(model, download)

    def _find(self, model: str, download: _Download) -> None:
        download.found_s = now_s = self._clock.monotonic_s()
        duration_s = now_s - download.began_s
        received_bytes = self._received(model) - download.received_before
        if duration_s >= BELIEVED_S and received_bytes > 0:
            self._found[model] = LastRate(rate_bps=int(received_bytes / duration_s), at=self._clock.utc())
            self.news.set()

    def _received(self, model: str) -> int:
        known = self._status().models.get(model)
        return known.received_bytes if known else 0
