"""The bytes of one connection on their way into the part: received into batches, written, then digested.

While one batch is being written the next one is filled, so that the line and the disk work at the same time. What was
written is given out as spans; making it durable and recording it is the download's business.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from qwen_daemon.core.digest import SpanDigester
from qwen_daemon.core.spans import Span, recorded_bytes
from qwen_daemon.ports import Part

Wrote = Callable[[int, int], None]  # offset, count


class Memory:
    """Memory for batches, used again and again: fresh memory costs a page fault every 4 KiB."""

    def __init__(self, batch_bytes: int) -> None:
        self._batch_bytes = batch_bytes
        self._free: list[memoryview] = []

    def take(self) -> memoryview:
        """One batch."""
        return self._free.pop() if self._free else memoryview(bytearray(self._batch_bytes))

    def give(self, batch: memoryview) -> None:
        """It is in the file."""
        self._free.append(batch)


class _Batch:
    """[0, written) is in the file or on its way, [written, filled) waits, the rest is room."""

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self.filled = 0
        self.written = 0

    @property
    def is_full(self) -> bool:
        return self.filled == len(self.memory)


class Writer:
    """Writes what it is given at consecutive offsets from `offset` on. One task feeds it; others may flush and take."""

    def __init__(self, part: Part, offset: int, memory: Memory, unrecorded_max_bytes: int, wrote: Wrote) -> None:
        self._part = part
        self._offset = offset
        self._memory = memory
        self._unrecorded_max_bytes = unrecorded_max_bytes
        self._recorded = asyncio.Event()
        self._wrote = wrote
        self._batch = _Batch(memory.take())
        self._full: deque[_Batch] = deque()
        self._digester = SpanDigester(offset)
        self._busy = asyncio.Lock()  # one write at a time, in order
        self._behind: asyncio.Task[None] | None = None
        self._broken: Exception | None = None  # bytes are missing from here on: nothing behind them may be written
        self.untaken_bytes = 0  # written since the last `take`
        self.unrecorded_bytes = 0  # these, and what was taken and is not on record yet

    @property
    def is_idle(self) -> bool:
        """Everything it was given is written and taken, and nothing went wrong."""
        waits = self._batch.filled > self._batch.written or self._full or self._behind or self.untaken_bytes
        return not waits and self._broken is None

    def room(self) -> memoryview:
        """Where the next bytes go. Empty only after `drain` has failed."""
        return self._batch.memory[self._batch.filled :]

    def put(self, count: int) -> None:
        """So many bytes are in the room."""
        self._batch.filled += count

    async def drain(self) -> None:
        """Begin to write if a batch is full. Raises Trouble.

        Waits only while the batch before is being written, or when too much was written and not recorded.
        """
        if not self._batch.is_full:
            return
        await self._settle()
        while self.unrecorded_bytes >= self._unrecorded_max_bytes:
            self._recorded.clear()
            await self._recorded.wait()
        self._full.append(self._batch)
        self._batch = _Batch(self._memory.take())
        self._behind = asyncio.create_task(self._flush(partial=False))

    async def flush(self) -> None:
        """Everything taken is written and digested when this returns. Raises Trouble; then no more may be added."""
        await self._settle()
        await self._flush(partial=True)

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

    async def _flush(self, *, partial: bool) -> None:
        async with self._busy:
            if self._broken is not None:
                raise self._broken
            full, self._full = self._full, deque()
            for batch in full:
                await self._write(batch)
                self._memory.give(batch.memory)
            if partial:
                await self._write(self._batch)

    async def _write(self, batch: _Batch) -> None:
        piece, batch.written = batch.memory[batch.written : batch.filled], batch.filled
        if not piece:
            return
        try:
            await self._part.write(self._offset, piece, self._digester.update)
        except Exception as error:
            self._broken = error
            raise
        start = self._offset
        self._offset += len(piece)
        self.untaken_bytes += len(piece)
        self.unrecorded_bytes += len(piece)
        self._wrote(start, len(piece))
