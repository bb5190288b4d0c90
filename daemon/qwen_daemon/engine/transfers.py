"""The files of one model that are moving right now, told to everyone four times a second at most.

Holds no decision: it reads what downloads and hashes have done and publishes progress and stalls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from qwen_api import events as e
from qwen_api.commands import Whereabouts
from qwen_api.manifest import WantedFile
from qwen_daemon.core.order import SMALL_BYTES
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
    look: Callable[[], Whereabouts] | None = None  # the rest, for somebody who asks about this file


@dataclass
class _Watched:
    file: WantedFile
    transfer: Transfer
    received_before: int
    verifying: bool
    told: tuple[int, ...] = ()
    told_stalled: bool = False


class _Hashing:
    """What is hashed in all, and how far that has come."""

    def __init__(self, files: Sequence[WantedFile], began_s: float) -> None:
        self.files, self.size_bytes, self.began_s = len(files), sum(file.size_bytes for file in files), began_s
        self.done_files = self.done_bytes = 0
        self._left = {file.path for file in files}

    @property
    def is_done(self) -> bool:
        return not self._left

    def ended(self, file: WantedFile, position: int) -> None:
        if file.path in self._left:
            self._left.remove(file.path)
            self.done_files += 1
            self.done_bytes += position

    def rate_bps(self, done_bytes: int, now_s: float) -> int:
        return int(done_bytes / max(now_s - self.began_s, 1e-3))


class Transfers:
    """Register what moves; `tell` runs beside it until cancelled.

    `to_hash` are the files that are here and will be hashed. `is_complete`: the model is, so that it is said of the
    whole how far they are, and of none of them that it is not verified. `ever` has what came of each path before this
    job, and is kept up to date: what people see come over the network never falls.
    """

    def __init__(
        self,
        model: str,
        clock: Clock,
        publish: Callable[[e.Event], int],
        to_hash: Sequence[WantedFile] = (),
        *,
        is_complete: bool = False,
        ever: dict[str, int] | None = None,
        waits_for_disk: Callable[[], bool] = bool,
    ) -> None:
        self._hashing = _Hashing(to_hash, clock.monotonic_s())
        self._is_complete = is_complete
        self._waits_for_disk = waits_for_disk
        self._model = model
        self._clock = clock
        self._publish = publish
        self._watched: dict[str, _Watched] = {}
        self._received: dict[str, int] = {}
        self._ever: dict[str, int] = {} if ever is None else ever

    @contextmanager
    def watch(self, file: WantedFile, *, verifying: bool = False) -> Iterator[Transfer]:
        """A transfer that is watched inside the context."""
        transfer = Transfer(pace=Pace(started_s=self._clock.monotonic_s()))
        before, ever = self._received.get(file.path, 0), self._ever.get(file.path, 0)
        watched = _Watched(file=file, transfer=transfer, received_before=ever, verifying=verifying)
        self._watched[file.path] = watched
        try:
            yield transfer
        finally:
            self._received[file.path] = before + transfer.received_bytes
            self._ever[file.path] = ever + transfer.received_bytes
            if verifying:
                self._hashing.ended(file, transfer.position)
            if not verifying and file.size_bytes > SMALL_BYTES:  # of a small one the next event says it all
                self._tell(watched, self._clock.monotonic_s())
            del self._watched[file.path]

    def of(self, path: str) -> Transfer | None:
        """The transfer of this file, while it moves."""
        watched = self._watched.get(path)
        return watched.transfer if watched else None

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
                if not (watched.verifying and self._is_complete):
                    self._tell(watched, now_s)
            if not self._hashing.is_done:
                self._tell_hashing(now_s)
            await asyncio.sleep(TICK_S)

    def tell_hashed(self, damaged: int) -> None:
        """Everything that was to be hashed has been."""
        hashing, now_s = self._hashing, self._clock.monotonic_s()
        self._publish(
            e.ModelVerified(
                model=self._model,
                files=hashing.files,
                size_bytes=hashing.size_bytes,
                damaged=damaged,
                duration_s=round(now_s - hashing.began_s, 3),
                rate_bps=hashing.rate_bps(hashing.size_bytes, now_s),
            )
        )

    def _tell_hashing(self, now_s: float) -> None:
        hashing = self._hashing
        under_way = (watched.transfer.position for watched in self._watched.values() if watched.verifying)
        done_bytes = hashing.done_bytes + sum(under_way)
        self._publish(
            e.ModelVerifying(
                model=self._model,
                files=hashing.files,
                size_bytes=hashing.size_bytes,
                done_files=hashing.done_files,
                done_bytes=done_bytes,
                rate_bps=hashing.rate_bps(done_bytes, now_s),
            )
        )

    def _tell(self, watched: _Watched, now_s: float) -> None:
        transfer = watched.transfer
        state = (transfer.position, transfer.received_bytes, transfer.durable_bytes, transfer.kept_bytes)
        idle_s = transfer.pace.idle_s(now_s)
        rate_bps = transfer.pace.rate_bps(now_s)
        if state == watched.told:
            is_silent = idle_s >= STALL_NOTICE_S and not watched.verifying and not transfer.is_held()
            if is_silent and not watched.told_stalled:
                watched.told_stalled = True
                # While the disk is waited for nobody listens to the connection, so nobody cuts it.
                next_at = "" if self._waits_for_disk() else self._clock.utc(max(0.0, STALL_CUT_S - idle_s))
                self._publish(
                    e.FileStalled(
                        model=self._model,
                        path=watched.file.path,
                        idle_s=round(idle_s, 1),
                        next_at=next_at,
                        last_byte_at=self._clock.utc(-idle_s),
                    )
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
