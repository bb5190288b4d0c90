"""What the daemon says: in its log (JSON lines), and to a client that waits on its socket as a loader does."""

from __future__ import annotations

import threading
import time
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from benchmarks.measure import Usage
from qwen_api.client import Follower
from qwen_api.events import ModelComplete


class _Said(msgspec.Struct, frozen=True):
    event: str = ""
    ts: str = ""
    timestamp: str = ""


def figures(log: Path, usage: Usage) -> dict[str, float]:
    """`complete_at_s` (wall clock), `daemon_s` (from ready to complete), `start_s` (from exec to ready)."""
    times: dict[str, float] = {}
    for line in log.read_text(errors="replace").splitlines():
        try:
            said = msgspec.json.decode(line, type=_Said)
        except msgspec.DecodeError:
            continue  # a library's warning
        when = said.ts or said.timestamp
        if said.event in ("daemon.started", "model.complete") and when:
            times.setdefault(said.event, datetime.fromisoformat(when).timestamp())
    started_s, complete_s = times.get("daemon.started"), times.get("model.complete")
    if started_s is None or complete_s is None:
        return {}
    return {
        "complete_at_s": complete_s,
        "daemon_s": complete_s - started_s,
        "start_s": started_s - usage.began_s,
    }


class Waiting:
    """Waits for `model.complete`; `seen_at_s` is when (wall clock) it had it. Use as a context manager."""

    def __init__(self, socket: Path) -> None:
        self.seen_at_s: float | None = None
        self._follower = Follower(lambda: socket, since=0)
        self._thread = threading.Thread(target=self._wait, name="waiting")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._follower.close()
        self._thread.join()

    def _wait(self) -> None:
        for line in self._follower:
            if isinstance(line, ModelComplete):
                self.seen_at_s = time.time()
