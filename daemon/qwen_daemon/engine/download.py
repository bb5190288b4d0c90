"""One file, one try: walk from the first byte to the last, re-reading what is recorded and fetching what is not.

The hash follows the walk, so it is known when the last byte lands and no second pass is needed. Bytes are recorded in
the ledger only after they are durable, every CHECKPOINT_BYTES or CHECKPOINT_S (sooner at first) and at every stop,
cancelling included. A recorded span whose bytes no longer have its digest is dropped and fetched again, which is how a
part of an earlier try and a copy of a damaged file are both just places to start from. Retrying is the job's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from qwen_api.manifest import WantedFile
from qwen_daemon.core.digest import Bytes, SpanDigester, new_hash, span_digest
from qwen_daemon.core.errors import Trouble
from qwen_daemon.core.pace import Pace
from qwen_daemon.core.spans import Span, next_start
from qwen_daemon.engine.cancel import beside, finish
from qwen_daemon.ports import Clock, Ledger, Origin, Part

REQUEST_BYTES = 256 << 20  # bounded: the Hub refuses open ranges above 50 GB; long: a first byte costs 0.65 s
BATCH_BYTES = 2 << 20  # one write and one hash call per batch; 64 KiB batches cost four times the CPU
CHECKPOINT_BYTES = 64 << 20  # what a SIGKILL can cost per file
CHECKPOINT_S = 2.0
FIRST_CHECKPOINT_S = 0.25  # doubled up to CHECKPOINT_S: whoever is killed again and again still gets on


@dataclass(frozen=True, kw_only=True)
class Source:
    """Which bytes are wanted, and where they come from."""

    repo: str
    commit: str
    file: WantedFile
    origin: Origin


@dataclass
class Transfer:
    """What one file's try has done so far, for those who watch it."""

    pace: Pace
    position: int = 0  # bytes walked: on disk and hashed
    durable_bytes: int = 0
    received_bytes: int = 0
    kept_bytes: int = 0  # of earlier tries, re-read and still good


class Download:
    """Bring a part to the file's full length and say what its hash is."""

    def __init__(self, source: Source, part: Part, ledger: Ledger, clock: Clock, transfer: Transfer) -> None:
        self._source = source
        self._file = source.file
        self._part = part
        self._ledger = ledger
        self._clock = clock
        self._transfer = transfer
        self._whole = new_hash(source.file)
        self._spans = SpanDigester(0)
        self._batch = bytearray()
        self._unrecorded_bytes = 0
        self._checkpoint_s = clock.monotonic_s()
        self._checkpoint_after_s = FIRST_CHECKPOINT_S
        self._writing = asyncio.Lock()  # one flush at a time, whoever asks for it
        self._broken: Trouble | None = None  # the disk's refusal: what comes now has no place any more
        self._unsynced = False  # the kernel may have dropped pages and forgotten the error (fsync(2), ERRORS)

    async def run(self, spans: tuple[Span, ...], resumed: Callable[[int], None]) -> str:
        """Walk to the end and return the content's hash; `resumed` is told how many recorded bytes were still good.

        Raises Troubles. However it ends, what was received is written, durable and on record as far as the disk
        allowed.
        """
        try:
            async with beside(self._checkpoint_when_slow()):
                await self._walk(list(spans), resumed)
            await finish(self._checkpoint())
        except BaseException:
            with suppress(Trouble):  # the first trouble is the one that is told
                await finish(self._checkpoint())
            raise
        return self._whole.hexdigest()

    async def _walk(self, spans: list[Span], resumed: Callable[[int], None]) -> None:
        told_bytes = 0
        while (position := self._transfer.position) < self._file.size_bytes:
            if spans and spans[0].offset == position:
                await self._reread(spans.pop(0))
                continue
            if self._transfer.kept_bytes > told_bytes:
                told_bytes = self._transfer.kept_bytes
                resumed(told_bytes)
            await self._fetch(position, next_start(spans, position, self._file.size_bytes))
        if self._transfer.kept_bytes > told_bytes:
            resumed(self._transfer.kept_bytes)

    async def _reread(self, span: Span) -> None:
        """Walk over a recorded span if its bytes are still the recorded ones; else forget it and stay."""
        data = await self._part.read(span.offset, span.length)
        if not await asyncio.to_thread(self._accept, data, span):
            await self._ledger.forget(self._source.repo, self._file.etag, [span.offset])
            return
        self._transfer.position = span.end
        self._transfer.kept_bytes += span.length
        self._transfer.durable_bytes += span.length

    async def _fetch(self, start: int, end: int) -> None:
        self._spans = SpanDigester(start)
        while start < end:
            await self._request(start, min(end, start + REQUEST_BYTES))
            await finish(self._flush())
            start = self._transfer.position
        await finish(self._checkpoint())

    async def _request(self, start: int, end: int) -> None:
        source = self._source
        async with source.origin.read(source.repo, source.commit, source.file, start, end) as chunks:
            async for chunk in chunks:
                self._transfer.received_bytes += len(chunk)
                self._transfer.pace.took(self._clock.monotonic_s(), len(chunk))
                self._batch += chunk
                if len(self._batch) >= BATCH_BYTES:
                    await finish(self._flush())

    async def _flush(self) -> None:
        """Write the batch, then hash it; sometimes record. Called through `finish`, so it is never cut in half."""
        async with self._writing:
            await self._write()
            is_due = self._clock.monotonic_s() - self._checkpoint_s >= self._checkpoint_after_s
            if is_due or self._unrecorded_bytes >= CHECKPOINT_BYTES:
                await self._record()

    async def _checkpoint(self) -> None:
        async with self._writing:
            try:
                await self._write()
            finally:
                await self._record()

    async def _checkpoint_when_slow(self) -> None:
        """A line too slow to fill a batch, or silent, must not keep what has come from being durable."""
        while self._broken is None:
            await self._clock.sleep(self._checkpoint_after_s)
            if self._clock.monotonic_s() - self._checkpoint_s < self._checkpoint_after_s:
                continue
            with suppress(Trouble):  # it is kept, and raised at the next write
                await finish(self._checkpoint())

    async def _write(self) -> None:
        if self._broken is not None:  # bytes are missing before this batch
            raise self._broken
        batch, self._batch = self._batch, bytearray()
        if not batch:
            return
        try:
            await self._part.write(self._transfer.position, batch)
        except Trouble as trouble:
            self._broken = trouble
            raise
        await asyncio.to_thread(self._take, batch)
        self._transfer.position += len(batch)
        self._unrecorded_bytes += len(batch)

    async def _record(self) -> None:
        """Durable first, recorded second, told third. After a failed sync nothing more of this try is believed."""
        self._checkpoint_s = self._clock.monotonic_s()
        count, self._unrecorded_bytes = self._unrecorded_bytes, 0
        if not count or self._unsynced:
            return
        spans = self._spans.take()
        try:
            await self._part.sync()
        except Trouble as trouble:
            self._broken, self._unsynced = trouble, True
            raise
        await self._ledger.record(self._source.repo, self._file.etag, self._file.size_bytes, self._part.name, spans)
        self._transfer.durable_bytes += count
        self._checkpoint_after_s = min(2 * self._checkpoint_after_s, CHECKPOINT_S)

    def _take(self, batch: Bytes) -> None:
        self._whole.update(batch)
        self._spans.update(batch)

    def _accept(self, data: bytes, span: Span) -> bool:
        if len(data) != span.length or span_digest(data) != span.digest:
            return False
        self._whole.update(data)
        return True
