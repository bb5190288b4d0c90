"""The event bus: stamps each event, folds it into the status, keeps the durable ones, and hands out lines.

One place gives `seq`; readers can lag, and then get a gap mark and a fresh snapshot instead of silence. Each event is
encoded once and the bytes are shared. The bus runs on the event loop's thread alone: between a snapshot and the
subscription there is no await, so nothing can slip between them. Logging is just one more subscriber.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager

import msgspec

from qwen_api import events as e
from qwen_api.status import Status, encode_status, fold_all
from qwen_daemon.ports import Clock

RING_EVENTS = 5000  # durable events kept for readers that reconnect
QUEUE_LINES = 2000  # lines a reader may lag behind before it gets a gap and a snapshot
UNFOLDED_EVENTS = 256  # folded together when somebody asks, or when there are so many: a fold copies the model's files
BOOKMARK_S = 5.0  # heartbeat when nothing happens
FEATURES = ("pause", "retry", "verify", "loaders")


class Bus:
    """Publish events; subscribe to lines."""

    def __init__(
        self, clock: Clock, server: str, *, ring_events: int = RING_EVENTS, queue_lines: int = QUEUE_LINES
    ) -> None:
        self.epoch = secrets.token_hex(4)
        self._clock = clock
        self._server = server
        self._seq = 0
        self._folded = Status()
        self._unfolded: list[e.Event] = []
        self._ring: deque[tuple[int, bytes]] = deque(maxlen=ring_events)
        self._queue_lines = queue_lines
        self._evicted_seq = 0
        self._readers: set[_Reader] = set()
        self._closed = False
        self._listeners: list[Callable[[e.Event], None]] = []

    @property
    def status(self) -> Status:
        """The state after the last event."""
        if self._unfolded:
            self._folded = fold_all(self._folded, self._unfolded)
            self._unfolded.clear()
        return self._folded

    @property
    def seq(self) -> int:
        """The number of the last event."""
        return self._seq

    def listen(self, listener: Callable[[e.Event], None]) -> None:
        """Call `listener` with every stamped event; it must not block or raise."""
        self._listeners.append(listener)

    def publish(self, event: e.Event) -> int:
        """Stamp, keep and hand out; returns its seq."""
        self._seq += 1
        stamped: e.Event = msgspec.structs.replace(event, seq=self._seq, ts=self._clock.utc())
        self._unfolded.append(stamped)
        if len(self._unfolded) >= UNFOLDED_EVENTS:
            self._folded = self.status
        line = e.encode_line(stamped)
        if e.is_durable(stamped):
            if len(self._ring) == self._ring.maxlen:
                self._evicted_seq = self._ring[0][0]
            self._ring.append((self._seq, line))
        key = "" if e.is_durable(stamped) else _progress_key(stamped)
        for reader in self._readers:
            reader.put(key, line)
        for listener in self._listeners:
            listener(stamped)
        return self._seq

    def close(self) -> None:
        """End every stream once its reader has had what was published before."""
        self._closed = True
        for reader in self._readers:
            reader.wake()

    async def lines(self, *, since: int | None = None, epoch: str = "", follow: bool = True) -> AsyncGenerator[bytes]:
        """`batches`, line by line."""
        async with aclosing(self.batches(since=since, epoch=epoch, follow=follow)) as batches:
            async for batch in batches:
                for line in batch:
                    yield line

    async def batches(
        self, *, since: int | None = None, epoch: str = "", follow: bool = True
    ) -> AsyncGenerator[list[bytes]]:
        """hello, snapshot, (gap), backlog of durable events behind `since`, live, then what happens.

        Each time all there is by then: a reader that is a little behind catches up with one write.
        """
        with self._reading() as reader:
            # A reader of another epoch has seen nothing of this one: all of it is news to it.
            seen = since if since is None or epoch in ("", self.epoch) else 0
            yield self._greeting(seen)
            while follow and not self._closed:
                try:
                    async with asyncio.timeout(BOOKMARK_S):
                        await reader.wait()
                except TimeoutError:
                    # What happened as the time ran out goes before the bookmark that stands behind it.
                    yield [*self._news(reader), e.encode_line(e.Bookmark(seq=self._seq))]
                    continue
                yield self._news(reader)
            yield self._news(reader)

    def _news(self, reader: _Reader) -> list[bytes]:
        """What the reader has not had; a gap and a snapshot in its place if it lagged too far behind."""
        if not reader.lagged:
            return reader.take(self._seq)
        first, last = reader.restart(self._seq)
        return [e.encode_line(e.Gap(first=first, last=last)), self._snapshot()]

    @contextmanager
    def _reading(self) -> Iterator[_Reader]:
        reader = _Reader(self._seq, self._queue_lines)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)

    def _greeting(self, since: int | None) -> list[bytes]:
        hello = e.Hello(v=e.WIRE_VERSION, epoch=self.epoch, server=self._server, seq=self._seq, features=FEATURES)
        lines = [e.encode_line(hello), self._snapshot()]
        if since is not None and since < self._evicted_seq:
            lines.append(e.encode_line(e.Gap(first=since + 1, last=self._evicted_seq)))
        if since is not None:
            lines.extend(line for seq, line in self._ring if seq > since)
        return [*lines, e.encode_line(e.Live(seq=self._seq))]

    def _snapshot(self) -> bytes:
        state = msgspec.Raw(encode_status(self.status))
        return e.encode_line(e.Snapshot(seq=self._seq, ts=self._clock.utc(), state=state))


class _Reader:
    """One subscriber's queue: durable lines in order, progress lines replaced by newer ones of the same file."""

    def __init__(self, seq: int, lines_max: int) -> None:
        self.lagged = False
        self._lines_max = lines_max
        self._seq = seq  # up to here everything was taken
        self._lines: dict[object, bytes] = {}
        self._ready = asyncio.Event()

    def put(self, progress_key: str, line: bytes) -> None:
        if self.lagged:
            return
        if len(self._lines) >= self._lines_max:
            self.lagged = True
        elif progress_key:
            self._lines.pop(progress_key, None)  # the newer one goes to the end: seq stays increasing
            self._lines[progress_key] = line
        else:
            self._lines[object()] = line
        self._ready.set()

    def wake(self) -> None:
        self._ready.set()

    async def wait(self) -> None:
        await self._ready.wait()

    def take(self, seq: int) -> list[bytes]:
        """All that is queued; `seq` is the number of the last event that there was."""
        self._ready.clear()
        self._seq = seq
        lines = list(self._lines.values())
        self._lines.clear()
        return lines

    def restart(self, seq: int) -> tuple[int, int]:
        """Forget what is queued; returns the first and last seq that this reader has missed."""
        first, self.lagged = self._seq + 1, False
        self.take(seq)
        return first, seq


def _progress_key(event: e.Event) -> str:
    if isinstance(event, e.FileProgress):
        return f"{event.model}/{event.path}"
    return event.model if isinstance(event, e.ModelVerifying) else e.type_of(event)
