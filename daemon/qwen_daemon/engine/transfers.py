"""The files of one model that are moving right now, told to everyone four times a second at most.

Holds no decision: it reads what downloads and hashes have done and publishes progress and stalls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from qwen_api import events as e
from qwen_api.manifest import WantedFile
from qwen_daemon.core.pace import STALL_CUT_S, STALL_NOTICE_S, Pace
from qwen_daemon.ports import Clock

TICK_S = 0.5


@dataclass
class Transfer:
    """What one file's try has done so far, for those who watch it."""

    pace: Pace
    position: int = 0  # bytes on disk that count: re-read or written
    durable_bytes: int = 0
    received_bytes: int = 0
    kept_bytes: int = 0  # of earlier tries, re-read and still good
    streams: int = 0  # connections open now
    is_held: Callable[[], bool] = bool  # True while the speed limit, and nothing else, keeps bytes from coming


@dataclass
class _Watched:
    file: WantedFile
    transfer: Transfer
    received_before: int
    verifying: bool
    told: tuple[int, int, int] = (-1, -1, -1)
    told_stalled: bool = False


class Transfers:
    """Register what moves; `tell` runs beside it until cancelled."""

    def __init__(self, model: str, clock: Clock, publish: Callable[[e.Event], int]) -> None:
        self._model = model
        self._clock = clock
        self._publish = publish
        self._watched: dict[str, _Watched] = {}
        self._received: dict[str, int] = {}

    @contextmanager
    def watch(self, file: WantedFile, *, verifying: bool = False) -> Iterator[Transfer]:
        """A transfer that is watched inside the context."""
        transfer = Transfer(pace=Pace(started_s=self._clock.monotonic_s()))
        before = self._received.get(file.path, 0)
        watched = _Watched(file=file, transfer=transfer, received_before=before, verifying=verifying)
        self._watched[file.path] = watched
        try:
            yield transfer
        finally:
            self._received[file.path] = before + transfer.received_bytes
            if not verifying:
                self._tell(watched, self._clock.monotonic_s())
            del self._watched[file.path]

    def received_bytes(self, path: str) -> int:
        """Bytes that came over the network for this file since the job began."""
        watched = self._watched.get(path)
        return self._received.get(path, 0) + (watched.transfer.received_bytes if watched else 0)

    def moved_bytes(self) -> int:
        """Bytes that came over the network for all files since the job began, and so are on the disk."""
        return sum(self.received_bytes(path) for path in self._received.keys() | self._watched.keys())

    async def tell(self) -> None:
        """Publish progress until cancelled."""
        while True:
            now_s = self._clock.monotonic_s()
            for watched in list(self._watched.values()):
                self._tell(watched, now_s)
            await asyncio.sleep(TICK_S)

    def _tell(self, watched: _Watched, now_s: float) -> None:
        transfer = watched.transfer
        state = (transfer.position, transfer.received_bytes, transfer.durable_bytes)
        idle_s = transfer.pace.idle_s(now_s)
        rate_bps = transfer.pace.rate_bps(now_s)
        if state == watched.told:
            is_silent = idle_s >= STALL_NOTICE_S and not watched.verifying and not transfer.is_held()
            if is_silent and not watched.told_stalled:
                watched.told_stalled = True
                next_at = self._clock.utc(max(0.0, STALL_CUT_S - idle_s))
                self._publish(
                    e.FileStalled(model=self._model, path=watched.file.path, idle_s=round(idle_s, 1), next_at=next_at)
                )
            return
        watched.told, watched.told_stalled = state, False
        self._publish(
            e.FileProgress(
                model=self._model,
                path=watched.file.path,
                done_bytes=transfer.position,
                size_bytes=watched.file.size_bytes,
                received_bytes=watched.received_before + transfer.received_bytes,
                durable_bytes=transfer.durable_bytes,
                rate_bps=0 if watched.verifying else rate_bps,
                verifying=watched.verifying,
            )
        )
