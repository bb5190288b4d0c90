"""Writes down who came: event readers, refused commands, connections turned away. The kernel's word, SO_PEERCRED.

A user who comes a thousand times a second must not fill the log: of the same thing each user is told some times in a
while, and how often it was besides with the next time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from qwen_daemon.shell import door

log = structlog.get_logger(__name__)

WHILE_S = 60.0
TOLD_MAX = 20  # of one thing, for one user, in a while
TEXT_MAX = 200  # paths are as long as a client likes


@dataclass
class _Count:
    began_s: float
    times: int = 0


class Visitors:
    """Counts by event and user."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._counts: dict[tuple[str, int], _Count] = {}

    def tell(self, event: str, transport: asyncio.BaseTransport | None, **facts: str | int) -> None:
        """One line with the peer's uid and pid, unless there were enough of its kind; `more` counts those untold."""
        pid, uid = door.peer(transport)
        now_s = self._now_s()
        count = self._counts.setdefault((event, uid), _Count(now_s))
        if now_s - count.began_s >= WHILE_S:
            if count.times > TOLD_MAX:
                facts["more"] = count.times - TOLD_MAX
            count = self._counts[event, uid] = _Count(now_s)
        count.times += 1
        if count.times <= TOLD_MAX:
            cut = {name: fact[:TEXT_MAX] if isinstance(fact, str) else fact for name, fact in facts.items()}
            log.info(event, uid=uid, pid=pid, **cut)
