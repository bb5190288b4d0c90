"""Making what has come durable and recording it: every so many bytes, every so many seconds, and at every stop.

Written first, durable second, recorded third, told last. The ledger never names a byte that a power cut could take.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress

from qwen_daemon.core.errors import Trouble
from qwen_daemon.core.spans import Span, recorded_bytes
from qwen_daemon.engine.cancel import beside, finish
from qwen_daemon.engine.writer import Writer
from qwen_daemon.ports import Clock, Part

CHECKPOINT_S = 2.0
FIRST_CHECKPOINT_S = 0.25  # doubled up to CHECKPOINT_S: whoever is killed again and again still gets on


class Checkpoints:
    """Of one try. `writers` gives those of the connections that are open; `failed` is told what ends the try.

    `done` is called after each: there is room for more bytes that are not on record.
    """

    def __init__(
        self,
        part: Part,
        clock: Clock,
        writers: Callable[[], Iterable[Writer]],
        record: Callable[[Sequence[Span]], Awaitable[None]],
        failed: Callable[[Exception], None],
        done: Callable[[], None],
    ) -> None:
        self._part = part
        self._clock = clock
        self._writers = writers
        self._record = record
        self._failed = failed
        self._done = done
        self._due = asyncio.Event()
        self._ended_spans: list[Span] = []  # of connections that have ended, not recorded yet
        self._unrecorded_bytes = 0  # written by all connections, also those that have ended
        self._busy = asyncio.Lock()
        self._after_s = FIRST_CHECKPOINT_S
        self._unsynced = False  # the kernel may have dropped pages and forgotten the error (fsync(2), ERRORS)

    def wrote(self, count: int) -> None:
        """So many bytes are in the file."""
        self._unrecorded_bytes += count

    def is_due(self) -> None:
        """Do not wait for the time: there is much to record."""
        self._due.set()

    async def ended(self, writer: Writer) -> None:
        """The writer's connection has ended; what it wrote is recorded with the others'."""
        self._ended_spans += await writer.take()

    def ended_bytes(self) -> int:
        """What connections that have ended brought and is not on record."""
        return self._unrecorded_bytes - sum(writer.unrecorded_bytes for writer in self._writers())

    async def now_and_then(self) -> None:
        """Until cancelled. Also on a line too slow to fill a batch, or silent: nothing that came stays in memory."""
        while True:
            with suppress(TimeoutError):
                async with beside(self._call_after(self._after_s)):
                    await self._due.wait()
            self._due.clear()
            if not self._ended_spans and all(writer.is_idle for writer in self._writers()):
                continue  # a silent line has nothing to record, four times a second
            try:
                await finish(self.checkpoint())
            except Exception as trouble:  # whatever it is: connections wait for what this records
                self._failed(trouble)
                return

    async def checkpoint(self) -> None:
        """Record what has come. Raises Trouble; after a failed sync nothing more of this try is believed."""
        async with self._busy:
            spans, self._ended_spans = self._ended_spans, []
            taken: list[tuple[Writer, Sequence[Span]]] = []
            trouble: Trouble | None = None
            for writer in list(self._writers()):
                try:
                    await writer.flush()
                except Trouble as refused:
                    trouble = refused
                taken.append((writer, await writer.take()))
                spans += taken[-1][1]
            if spans and not self._unsynced:
                await self._make_durable(spans)
            self._unrecorded_bytes -= recorded_bytes(spans)
            for writer, own in taken:
                writer.recorded(own)
            self._done()
            if trouble is not None:
                raise trouble

    async def _make_durable(self, spans: Sequence[Span]) -> None:
        try:
            await self._part.sync()
        except Trouble as trouble:
            self._unsynced = True
            self._failed(trouble)  # here: whoever waits for this checkpoint may have been cancelled meanwhile
            raise
        await self._record(spans)
        self._after_s = min(2 * self._after_s, CHECKPOINT_S)

    async def _call_after(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._due.set()
