"""Small files come in one piece: into memory, and from there onto the disk in batches (engine.batch).

A part that could be resumed costs a small file more than fetching it again. So nothing of it is on record before it is
published, and no spans ever are: a damaged one is fetched again whole.
"""

from __future__ import annotations

import asyncio

from qwen_daemon.core.digest import new_hash
from qwen_daemon.core.order import SMALL_BYTES
from qwen_daemon.engine.budget import Rank
from qwen_daemon.engine.connections import Connections
from qwen_daemon.engine.stream import Limit, Source
from qwen_daemon.engine.transfers import Transfer
from qwen_daemon.ports import Clock

INLINE_BYTES = 128 << 10  # hashed in less time than a thread needs to wake up


def is_small(size_bytes: int) -> bool:
    """True for configs, indexes, tokenizers."""
    return size_bytes <= SMALL_BYTES


class _One:
    """connections.Fetching of a file that wants one connection."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self.streams = 0
        self.opened = asyncio.Event()

    def wants_stream(self) -> bool:
        return self.streams == 0

    def left_bytes(self) -> int:
        return self._size_bytes

    def open_stream(self) -> None:
        self.streams = 1
        self.opened.set()

    def rates_bps(self) -> list[float]:
        return []


async def fetch_small(
    source: Source, clock: Clock, transfer: Transfer, connections: Connections, limit: Limit, rank: Rank
) -> tuple[str, bytes]:
    """Fetch a small file: its hash and its content. Raises Troubles."""
    one = _One(source.file.size_bytes)
    connections.join(one, rank)
    try:
        await one.opened.wait()
        content = await _receive(source, clock, transfer, limit)
    finally:
        connections.leave(one)
        if one.streams:
            connections.release()
    if len(content) <= INLINE_BYTES:
        return _digest(source, content), content
    return await asyncio.to_thread(_digest, source, content), content


async def _receive(source: Source, clock: Clock, transfer: Transfer, limit: Limit) -> bytes:
    content, came_bytes = bytearray(source.file.size_bytes), 0
    while came_bytes < len(content):
        reading = source.origin.read(source.repo, source.commit, source.file, came_bytes, len(content))
        async with reading as body:
            while count := await body.read_into(memoryview(content)[came_bytes:]):
                await limit.take(count)
                came_bytes += count
                transfer.received_bytes += count
                transfer.position = came_bytes
                transfer.pace.took(clock.monotonic_s(), count)
    return bytes(content)


def _digest(source: Source, content: bytes) -> str:
    whole = new_hash(source.file)
    whole.update(content)
    return whole.hexdigest()
