"""The bytes of an answer on their way from the socket to whoever asked, with as little handling as can be.

aiohttp makes the request and reads the headers. Its body readers then copy every byte three times; so for a long plain
body the connection is given another protocol, by asyncio's own `set_protocol`, which receives into the asker's memory.
Short, chunked and compressed bodies are read with aiohttp. Which bytes of a body are the asked ones is core.verdict's
decision; how a failed request is told, shell.fetch's.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator

import aiohttp

from qwen_daemon.core.errors import TryAgain
from qwen_daemon.core.verdict import TakeBody
from qwen_daemon.ports import Body

DIRECT_BYTES = 4 << 20  # a shorter body is read to its end with aiohttp, which can then use the connection again
GATHER_S = 0.1  # how long bytes that came may wait for more: a wake-up per packet would cost more than the packets
PIECE_BYTES = 512 << 10
_GZIP = 16 + zlib.MAX_WBITS


def body_of(response: aiohttp.ClientResponse, take: TakeBody, *, silence_s: float) -> Body:
    """The asked bytes of the answer, by the cheapest way.

    It raises, besides Troubles, what aiohttp and the operating system do; TimeoutError after so long without a byte.
    """
    connection = response.connection
    is_plain = take.skip == 0 and not take.gzipped and response.content_length == take.length
    if not is_plain or take.length < DIRECT_BYTES or connection is None or connection.transport is None:
        return _Poured(_chunks(response, take))
    return _Direct(connection, connection.transport, response.content.read_nowait(), take.length, silence_s)


class _Direct(asyncio.BufferedProtocol):
    """Receives straight into the room that is given, and only while one is given. The connection serves no other."""

    def __init__(
        self,
        connection: aiohttp.connector.Connection,
        transport: asyncio.Transport,
        first: bytes,
        length: int,
        silence_s: float,
    ) -> None:
        handler = connection.protocol
        assert handler is not None
        self._handler = handler  # is told of the connection's end, so that aiohttp's accounts are right
        self._transport = transport
        self._first = memoryview(first)[:length]  # came with the headers
        self._left_bytes = length - len(self._first)  # to come from the socket
        self._silence_s = silence_s
        self._room = memoryview(b"")
        self._came_bytes = 0
        self._full: asyncio.Future[None] | None = None
        self._gathering: asyncio.TimerHandle | None = None
        self._end: Exception | None = None
        self._loop = asyncio.get_running_loop()
        handler.read_timeout = None
        handler.start_timeout()  # with None: it watches no longer
        transport.pause_reading()
        transport.set_protocol(self)

    async def read_into(self, room: memoryview) -> int:
        """See ports.Body."""
        if self._first:
            count = min(len(room), len(self._first))
            room[:count], self._first = self._first[:count], self._first[count:]
            return count
        if self._left_bytes == 0:
            return 0
        if self._end is not None:
            raise self._end
        self._room, self._full = room[: self._left_bytes], self._loop.create_future()
        self._transport.resume_reading()
        try:
            async with asyncio.timeout(self._silence_s):
                await self._full
        finally:
            self._stop()
        if self._came_bytes == 0 and self._end is not None:
            raise self._end
        return self.reclaim()

    def reclaim(self) -> int:
        """See ports.Body."""
        count, self._came_bytes = self._came_bytes, 0
        return count

    # asyncio.BufferedProtocol.

    def get_buffer(self, _hint: int) -> memoryview:
        """Called only while somebody waits."""
        return self._room[self._came_bytes :]

    def buffer_updated(self, count: int) -> None:
        """So many bytes are in the buffer."""
        self._came_bytes += count
        self._left_bytes -= count
        if self._came_bytes == len(self._room):
            self._stop()
        elif self._gathering is None:
            self._gathering = self._loop.call_later(GATHER_S, self._stop)

    def connection_lost(self, error: Exception | None) -> None:
        """The end, by whomever."""
        self._end = error or aiohttp.ClientPayloadError("the connection was closed")
        self._stop()
        self._handler.connection_lost(error)

    def _stop(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        if self._full is None:
            return
        if self._end is None:
            self._transport.pause_reading()
        if not self._full.done():
            self._full.set_result(None)
        self._full, self._room = None, memoryview(b"")


class _Poured:
    """What aiohttp read, copied."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    async def read_into(self, room: memoryview) -> int:
        """See ports.Body."""
        if not self._rest:
            self._rest = memoryview(await anext(self._chunks, b""))
        count = min(len(room), len(self._rest))
        room[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def reclaim(self) -> int:
        """See ports.Body."""
        return 0


async def _chunks(response: aiohttp.ClientResponse, take: TakeBody) -> AsyncIterator[bytes]:
    """The asked bytes of the body: `skip` dropped, never more than `length`, TryAgain if fewer came."""
    skip, left = take.skip, take.length
    unpack = zlib.decompressobj(wbits=_GZIP) if take.gzipped else None
    while left > 0:
        cut: Exception | None = None
        try:
            raw = await response.content.readany()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raw, cut = _still_buffered(response.content), error
        if not raw:
            raise cut or TryAgain("E_CUT_SHORT", f"the connection ended {left} bytes early")
        for piece in [raw] if unpack is None else _unpacked(unpack, raw):
            dropped = min(skip, len(piece))
            chunk = piece[dropped:][:left]
            skip, left = skip - dropped, left - len(chunk)
            if chunk:
                yield chunk


def _unpacked(unpack: zlib._Decompress, raw: bytes) -> Iterator[bytes]:
    """In pieces of bounded size, however well it was packed."""
    try:
        while raw and not unpack.eof:
            yield unpack.decompress(raw, PIECE_BYTES)
            raw = unpack.unconsumed_tail
    except zlib.error as error:
        raise TryAgain("E_ENCODED", "the server says that the file is compressed, and it is not") from error


def _still_buffered(content: aiohttp.StreamReader) -> bytes:
    """What came before the connection broke: aiohttp's public readers raise and would leave it, up to 2 MiB, unread."""
    return content._read_nowait(-1)
