"""One file, one try: several connections fetch what is not recorded yet, and the hash follows them to the last byte.

Bytes are recorded in the ledger only after they are durable (engine.checkpoints). A recorded span whose bytes no longer
have its digest is dropped and fetched again, which is how a part of an earlier try and a copy of a damaged file
are both just places to start from. A connection that fails gives its rest to the others; the try fails with the last.
Retrying is the job's business; how many connections there are at once, that of engine.connections and core.growth.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from qwen_api.commands import Connection, Whereabouts
from qwen_daemon.core.errors import ResolveAgain, StartOver, Trouble, TryAgain, TryLater
from qwen_daemon.core.growth import Growth, eager_streams
from qwen_daemon.core.segments import Lease, Segments, holes_between, lease_bytes
from qwen_daemon.core.slowness import (
    FIRST_BYTE_S,
    is_slow,
    pays_to_add,
    pick_victim,
    streams_under,
)
from qwen_daemon.core.spans import Span, recorded_bytes
from qwen_daemon.core.tuning import DEFAULT_TUNING, Tuning
from qwen_daemon.engine.budget import DEFAULT_RANK, Rank
from qwen_daemon.engine.cancel import beside, finish
from qwen_daemon.engine.checkpoints import Checkpoints
from qwen_daemon.engine.connections import Connections
from qwen_daemon.engine.frontier import Frontier
from qwen_daemon.engine.stream import Limit, NoLimit, Source, Stream
from qwen_daemon.engine.transfers import Transfer
from qwen_daemon.engine.writer import Memory, Writer
from qwen_daemon.ports import Clock, Ledger, Part

PROVEN_S = 1.0  # after its first byte a connection has shown what it can do, however slow it is
LOOK_S = 1.0  # how often the connections are compared with each other


class Download:
    """Bring a part to the file's full length and say what its hash is."""

    def __init__(
        self,
        source: Source,
        part: Part,
        ledger: Ledger,
        clock: Clock,
        transfer: Transfer,
        connections: Connections,
        limit: Limit = NoLimit(),  # noqa: B008 - it has no state
        tuning: Tuning = DEFAULT_TUNING,
        rank: Rank = DEFAULT_RANK,
    ) -> None:
        self._source = source
        self._file = source.file
        self._part = part
        self._ledger = ledger
        self._clock = clock
        self._transfer = transfer
        transfer.is_held = lambda: any(stream.is_waiting for stream in self._streams.values())
        self._connections = connections
        self._limit = limit
        self._tuning = tuning
        self._rank = rank
        self._segments = Segments((), tuning.align_bytes)
        self._memory = Memory(tuning.batch_bytes)
        self._streams: dict[asyncio.Task[None], Stream] = {}
        self._growth = Growth(eager=1)
        self._first_byte_s = FIRST_BYTE_S
        self._news = asyncio.Event()  # something was written, needed again, or went wrong
        self._checkpoints = Checkpoints(part, clock, self._writers, self._record, self._fail, connections.fill)
        self._failure: Exception | None = None
        self._is_ending = False

    async def run(self, spans: Sequence[Span], resumed: Callable[[int], None]) -> str:
        """Fetch to the end and return the content's hash; `resumed` is told how many recorded bytes were still good.

        Raises Troubles. However it ends, what was received is written, durable and on record as far as the disk
        allowed.
        """
        tuning, size_bytes = self._tuning, self._file.size_bytes
        holes = holes_between(((span.offset, span.end) for span in spans), size_bytes)
        self._segments = Segments(holes, tuning.align_bytes)
        self._frontier = Frontier(self._file, self._part, self._segments, spans, self._need_again, tuning.step_bytes)
        self._transfer.look = self._look
        self._damaged: list[Span] = []
        self._transfer.position = self._transfer.durable_bytes = recorded_bytes(spans)
        self._growth = Growth(eager=eager_streams(self._segments.left_bytes, tuning.eager_bytes))
        self._connections.join(self, self._rank)
        try:
            async with beside(self._checkpoints.now_and_then()), beside(self._compare_now_and_then()):
                await self._follow(resumed)
        finally:
            self._is_ending = True
            await finish(self._end())
        if self._failure is not None:
            raise self._failure
        return self._frontier.hexdigest()

    def _look(self) -> Whereabouts:
        return Whereabouts(
            etag=self._file.etag,
            has_ranges=self._splits(),
            hashed_bytes=self._frontier.position,
            durable_bytes=self._transfer.durable_bytes,
            present=tuple(holes_between(self._segments.absent(), self._file.size_bytes)),
            connections=tuple(
                Connection(
                    start=stream.lease.start,
                    end=stream.lease.end,
                    position=stream.lease.position,
                    rate_bps=int(stream.rate_bps() or 0),
                )
                for stream in self._streams.values()
            ),
        )

    # What engine.connections asks of a file.

    @property
    def streams(self) -> int:
        """See connections.Fetching."""
        return len(self._streams)

    def left_bytes(self) -> int:
        """See connections.Fetching."""
        return self._segments.left_bytes

    def rates_bps(self) -> list[float]:
        """See connections.Fetching."""
        return [rate for stream in self._streams.values() if (rate := stream.rate_bps()) is not None]

    def wants_stream(self) -> bool:
        """See connections.Fetching."""
        if self._is_ending or self._failure is not None or self.streams >= self._growth.allowed:
            return False
        if self.streams and self.streams >= self._streams_limit():
            return False
        most = min(self._growth.allowed, self._connections.count_max)
        if self._checkpoints.ended_bytes() >= self._tuning.checkpoint_bytes * most:
            return False  # short leases come and go faster than the disk can make them durable
        if not pays_to_add(self.rates_bps()):
            return False
        if self._segments.free_bytes:
            return self._segments.may_take(self._tuning.window_bytes)
        return self.streams > 0 and self._victim() is not None

    def open_stream(self) -> None:
        """See connections.Fetching."""
        lease = self._segments.take(self._lease_bytes(), self._tuning.window_bytes)
        if lease is None:
            # wants_stream saw one; a moment later rates may say otherwise, and the connection is already counted
            largest = max(self._segments.leases, key=lambda lease: lease.left_bytes)
            victim, keep_bytes = self._victim() or (largest, largest.left_bytes // 2)
            lease = self._segments.steal(victim, keep_bytes)
        tuning = self._tuning
        writer = Writer(self._part, lease.start, self._memory, tuning.checkpoint_bytes, self._wrote)
        stream = Stream(self._source, self._segments, lease, writer, self._clock)
        task = asyncio.create_task(self._stream(stream))
        self._streams[task] = stream
        self._transfer.streams = len(self._streams)

    def _splits(self) -> bool:
        return self._source.origin.splits(self._source.repo, self._file)

    def _streams_limit(self) -> int:
        if not self._splits():
            return 1  # a server without ranges sends the whole file each time
        return min(self._growth.allowed, streams_under(self._limit.rate_bps))

    def _lease_bytes(self) -> int:
        tuning = self._tuning
        if not self._splits():
            return self._file.size_bytes
        if self._streams_limit() == 1:
            return tuning.lease_max_bytes  # also under a low speed limit: it may be lifted long before the end
        streams = max(self.streams + 1, self._connections.share(self))
        segments = self._segments
        return lease_bytes(segments.left_bytes, segments.free_bytes, streams, self._first_byte_s, tuning)

    def _victim(self) -> tuple[Lease, int] | None:
        """The lease that would be done last, and how much of it its own connection should keep, if stealing pays."""
        rates = {id(stream.lease): stream.rate_bps() for stream in self._streams.values()}
        leases = self._segments.leases
        found = pick_victim(
            [(lease.left_bytes, rates.get(id(lease))) for lease in leases],
            self._connections.others_bps(self),
            self._connections.remembered_bps,
            self._first_byte_s,
            at_least=2 * self._tuning.lease_min_bytes,
        )
        return None if found is None else (leases[found.number], found.keep_bytes)

    # The connections.

    async def _stream(self, stream: Stream) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            try:
                await stream.run(self._limit, self._took)
                is_whole = stream.received_bytes >= self._tuning.proven_bytes and stream.lease.left_bytes == 0
                if is_whole and self._limit.rate_bps is None:  # under a limit it reads what had come while it waited
                    self._connections.remember(stream.received_bytes / max(stream.age_s(), 1e-3))
            finally:
                await finish(self._close(stream))
        except Trouble as trouble:
            self._failed(stream, trouble)
        except Exception as surprise:  # raised by run(), in the task that waits for this one
            self._fail(surprise)
        finally:
            self._ended(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._streams[task]
        if self._checkpoints.ended_bytes() >= self._tuning.checkpoint_bytes // 2:
            self._checkpoints.is_due()
        self._transfer.streams = len(self._streams)
        self._connections.release()
        self._news.set()

    def _took(self, stream: Stream, count: int) -> None:
        """A chunk came and may pass: count it, and let more connections follow those that work."""
        now_s = self._clock.monotonic_s()
        self._transfer.received_bytes += count
        self._transfer.pace.took(now_s, count)
        has_shown = stream.received_bytes >= self._tuning.proven_bytes or stream.age_s() >= PROVEN_S
        if not stream.is_proven and has_shown and stream.rate_bps():
            stream.is_proven = True
            self._first_byte_s = 0.7 * self._first_byte_s + 0.3 * (stream.first_byte_after_s() or 0.0)
            self._grow()
        if stream.writer.untaken_bytes >= self._tuning.checkpoint_bytes // 2:
            self._checkpoints.is_due()

    def _grow(self) -> None:
        """More connections, if the last ones that were added brought something."""
        streams = self._streams.values()
        if len(streams) == self._growth.allowed and all(stream.is_proven for stream in streams):
            self._growth.all_proven(sum(self.rates_bps()), self._connections.count_max, self._clock.monotonic_s())
            self._connections.fill()

    def _failed(self, stream: Stream, trouble: Trouble) -> None:
        """Others go on with its rest if there are any; else this is how the try ends."""
        others = self.streams - 1
        is_of_the_line = isinstance(trouble, (TryAgain, TryLater, ResolveAgain)) and not isinstance(trouble, StartOver)
        if self._is_ending or (others and is_of_the_line and self._failure is None):
            self._growth.refused(others, self._clock.monotonic_s(), brought_something=stream.received_bytes > 0)
            return
        self._fail(trouble)

    def _fail(self, failure: Exception) -> None:
        self._failure = self._failure or failure
        self._news.set()
        for stream in self._streams.values():
            stream.cut()

    async def _close(self, stream: Stream) -> None:
        """What it brought is written; the rest of its lease is free again."""
        try:
            await stream.writer.flush()
        except Exception as refused:
            self._fail(refused)  # no other connection brings what was lost here, nor finds another disk
            raise
        finally:
            await self._checkpoints.ended(stream.writer)
            self._segments.give_back(stream.lease)

    def _wrote(self, start: int, count: int) -> None:
        self._segments.wrote(start, start + count)
        self._transfer.position += count
        self._checkpoints.wrote(count)
        self._news.set()

    # The hash.

    async def _follow(self, resumed: Callable[[int], None]) -> None:
        told_bytes, filled_at = 0, 0
        while not self._frontier.is_done and self._failure is None:
            self._news.clear()
            kept_bytes = self._frontier.kept_bytes
            moved = await self._frontier.step()
            self._kept(self._frontier.kept_bytes - kept_bytes)
            await self._forget_damaged()
            if self._frontier.position != filled_at:
                filled_at = self._frontier.position
                self._connections.fill()  # the window has moved
            if moved:
                continue
            if self._frontier.kept_bytes > told_bytes:
                told_bytes = self._frontier.kept_bytes
                resumed(told_bytes)
            await self._news.wait()
        if self._frontier.kept_bytes > told_bytes:
            resumed(self._frontier.kept_bytes)

    def _kept(self, count: int) -> None:
        self._transfer.kept_bytes += count

    def _need_again(self, span: Span) -> None:
        self._damaged.append(span)

    async def _forget_damaged(self) -> None:
        """The ledger first, then the network: what is on record must not be written over."""
        damaged, self._damaged = self._damaged, []
        if damaged:
            await self._ledger.forget(self._source.where, self._file.etag, [span.offset for span in damaged])
            for span in damaged:
                self._segments.need(span.offset, span.end)
            self._transfer.position -= recorded_bytes(damaged)
            self._transfer.durable_bytes -= recorded_bytes(damaged)
            self._connections.fill()

    def _writers(self) -> list[Writer]:
        return [stream.writer for stream in self._streams.values()]

    async def _record(self, spans: Sequence[Span]) -> None:
        await self._ledger.record(self._source.where, self._file.etag, self._file.size_bytes, self._part.name, spans)
        self._transfer.durable_bytes += sum(span.length for span in spans)

    # Comparing the connections, and the end.

    async def _compare_now_and_then(self) -> None:
        while self._failure is None:
            await self._clock.sleep(LOOK_S)
            for stream in list(self._streams.values()):
                if self._is_slow(stream):
                    if not self._siblings_bps(stream):
                        self._connections.doubt()
                    stream.cut()
                    break  # the others may be faster without it
            self._grow()
            self._connections.fill()

    def _is_slow(self, stream: Stream) -> bool:
        mine_bps = stream.rate_bps()
        if mine_bps is None or not self._splits():  # a server without ranges would begin at the first byte again
            return False
        others = self._siblings_bps(stream) or [self._connections.remembered_bps]
        return is_slow(mine_bps, others, age_s=stream.age_s(), left_bytes=stream.lease.left_bytes)

    def _siblings_bps(self, stream: Stream) -> list[float]:
        mine = [s.rate_bps() for s in self._streams.values() if s is not stream]
        return [rate for rate in mine if rate is not None] + self._connections.others_bps(self)

    async def _end(self) -> None:
        for task in list(self._streams):
            task.cancel()
        while self._streams:
            done, _ = await asyncio.wait(list(self._streams))
            for task in done & self._streams.keys():
                self._ended(task)  # cancelled before its first step: it never ran, not even to say so
        self._connections.leave(self)
        try:
            await self._checkpoints.checkpoint()
        except Trouble as trouble:  # the first trouble is the one that is told
            self._failure = self._failure or trouble
