"""The bytes of one connection on their way into the part: gathered into batches, written, then digested.

While one batch is being written the next one is gathered, so that the line and the disk work at the same time. What
was written is given out as spans; making it durable and recording it is the download's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from qwen_daemon.core.digest import SpanDigester
from qwen_daemon.core.spans import Span, recorded_bytes
from qwen_daemon.ports import Part

Wrote = Callable[[int, bytearray], Awaitable[None]]


class Writer:
    """Writes what it is given at consecutive offsets from `offset` on. One task feeds it; others may flush and take."""

    def __init__(self, part: Part, offset: int, batch_bytes: int, unrecorded_max_bytes: int, wrote: Wrote) -> None:
        self._part = part
        self._offset = offset
        self._batch_bytes = batch_bytes
        self._unrecorded_max_bytes = unrecorded_max_bytes
        self._recorded = asyncio.Event()
        self._wrote = wrote
        self._batch = bytearray()
        self._digester = SpanDigester(offset)
        self._busy = asyncio.Lock()  # one write at a time, in order
        self._behind: asyncio.Task[None] | None = None
        self._broken: Exception | None = None  # bytes are missing from here on: nothing behind them may be written
        self.untaken_bytes = 0  # written since the last `take`
        self.unrecorded_bytes = 0  # these, and what was taken and is not on record yet

    def put(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._batch += chunk

    async def drain(self) -> None:
        """Begin to write if a batch is full. Raises Trouble.

        Waits only while the batch before is being written, or when too much was written and not recorded.
        """
        if len(self._batch) < self._batch_bytes:
            return
        await self._settle()
        while self.unrecorded_bytes >= self._unrecorded_max_bytes:
            self._recorded.clear()
            await self._recorded.wait()
        self._behind = asyncio.create_task(self._flush())

    async def flush(self) -> None:
        """Everything taken is written and digested when this returns. Raises Trouble; then no more may be added."""
        await self._settle()
        await self._flush()

    async def take(self) -> tuple[Span, ...]:
        """The spans written since the last call."""
        async with self._busy:
            self.untaken_bytes = 0
            return self._digester.take()

    def recorded(self, spans: Iterable[Span]) -> None:
        """These, of `take`, are on record: so much more may be written."""
        self.unrecorded_bytes -= recorded_bytes(spans)
        self._recorded.set()

    async def _settle(self) -> None:
        behind = self._behind
        if behind is not None:
            await asyncio.shield(behind)  # whoever waits may be cancelled; the write goes on
            if self._behind is behind:
                self._behind = None

    async def _flush(self) -> None:
        async with self._busy:
            if self._broken is not None:
                raise self._broken
            batch, self._batch = self._batch, bytearray()
            if not batch:
                return
            try:
                await self._part.write(self._offset, batch, self._digester.update)
            except Exception as error:
                self._broken = error
                raise
            start = self._offset
            self._offset += len(batch)
            self.untaken_bytes += len(batch)
            self.unrecorded_bytes += len(batch)
        await self._wrote(start, batch)
