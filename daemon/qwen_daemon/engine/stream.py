"""One connection: fetches its lease in one request, gives every byte to its writer, and knows how fast it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from qwen_api.manifest import WantedFile
from qwen_daemon.core.pace import Pace
from qwen_daemon.core.segments import Lease, Segments
from qwen_daemon.core.slowness import SILENT_S
from qwen_daemon.engine.writer import Writer
from qwen_daemon.ports import Clock, Origin

LIMITED_READ_BYTES = 16 << 10


@dataclass(frozen=True, kw_only=True)
class Source:
    """Which bytes are wanted, and where they come from."""

    repo: str
    where: str  # in the ledger, see ports.Ledger
    commit: str
    file: WantedFile
    origin: Origin


class Limit(Protocol):
    """How fast bytes may come."""

    @property
    def rate_bps(self) -> int | None:
        """Bytes per second, None for no limit."""

    async def take(self, count: int) -> float:
        """Wait until so many bytes may pass; the seconds that took."""


class NoLimit:
    """The line may be used in full."""

    rate_bps: int | None = None

    async def take(self, count: int) -> float:
        """See Limit."""
        return 0.0


class Stream:
    """`run` ends when the lease is fetched, with a Trouble, or quietly after `cut`."""

    def __init__(self, source: Source, segments: Segments, lease: Lease, writer: Writer, clock: Clock) -> None:
        self._source = source
        self._segments = segments
        self.lease = lease
        self.writer = writer
        self._clock = clock
        self._started_s = clock.monotonic_s()
        self._first_byte_s: float | None = None
        self._waited_s = 0.0  # for the speed limit
        self._waiting_since_s: float | None = None
        self._pace = Pace(started_s=self._started_s)
        self._scope: asyncio.Timeout | None = None
        self.received_bytes = 0
        self.is_proven = False  # it has brought enough to judge by

    async def run(self, limit: Limit, took: Callable[[Stream, int], None]) -> None:
        """Fetch. What comes waits until `limit` lets it pass; then `took` is told how much it was."""
        source, lease = self._source, self.lease
        scope = asyncio.timeout(None)
        try:
            async with (
                scope,
                source.origin.read(source.repo, source.commit, source.file, lease.start, lease.end) as body,
            ):
                self._scope = scope
                try:
                    while lease.left_bytes > 0:
                        room = self.writer.room()[: _room_bytes(limit.rate_bps, lease.left_bytes)]
                        count = await body.read_into(room)
                        if count == 0:
                            break
                        await self._take(count, limit, took)
                finally:
                    if count := body.reclaim():  # it came over the line and will not come again
                        self._keep(count)
                        took(self, count)
        except TimeoutError:
            if not scope.expired():
                raise
        finally:
            self._scope = None

    def cut(self) -> None:
        """End soon; what has not come is for others."""
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.reschedule(asyncio.get_running_loop().time())

    @property
    def is_waiting(self) -> bool:
        """The speed limit holds it."""
        return self._waiting_since_s is not None

    def age_s(self) -> float:
        """Seconds since the first byte came; 0 before."""
        return 0.0 if self._first_byte_s is None else self._now_s() - self._first_byte_s

    def first_byte_after_s(self) -> float | None:
        """How long the first byte took; None before it."""
        return None if self._first_byte_s is None else self._first_byte_s - self._started_s

    def rate_bps(self) -> float | None:
        """Bytes per second lately, not counting waits for the speed limit; None while it is too early to say."""
        if self._first_byte_s is None:
            return None
        now_s = self._now_s()
        if self._pace.idle_s(now_s) >= SILENT_S:
            return 0.0
        rate = self._pace.rate_bps(now_s)
        return float(rate) if rate else None

    async def _take(self, count: int, limit: Limit, took: Callable[[Stream, int], None]) -> None:
        self._waiting_since_s = self._clock.monotonic_s()
        try:
            self._waited_s += await limit.take(count)
        finally:
            self._waiting_since_s = None
            self._keep(count)  # also when cancelled meanwhile: it came over the line and will not come again
            took(self, count)
        await self.writer.drain()

    def _now_s(self) -> float:
        """The clock without the waits for the speed limit, which are nobody's slowness."""
        now_s = self._clock.monotonic_s() if self._waiting_since_s is None else self._waiting_since_s
        return now_s - self._waited_s

    def _keep(self, count: int) -> None:
        now_s = self._now_s()
        if self._first_byte_s is None:
            self._first_byte_s = now_s
            self._pace = Pace(started_s=now_s)
        self.received_bytes += count
        self._pace.took(now_s, count)
        self.writer.put(self._segments.took(self.lease, count))


def _room_bytes(rate_limit_bps: int | None, left_bytes: int) -> int:
    """How much to read at once: all that there is room for, but under a speed limit not much of a second's worth."""
    if rate_limit_bps is None:
        return left_bytes
    return min(left_bytes, max(LIMITED_READ_BYTES, rate_limit_bps // 10))
