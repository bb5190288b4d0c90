"""How long a large file takes over many connections, in virtual time: the schedule alone, without a machine's noise.

Sizes and rates are a sixteenth of the Hub's CDN (650 ms to the first byte, 28 MiB/s a connection); times are its own.
How leases are cut stands in test_segments, what is correct in test_download.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields

import pytest

from qwen_api.manifest import WantedFile
from qwen_api.seals import Seal
from qwen_daemon.core.digest import Bytes
from qwen_daemon.core.pace import Pace
from qwen_daemon.core.spans import Span
from qwen_daemon.core.tuning import Tuning
from qwen_daemon.engine.connections import Connections
from qwen_daemon.engine.download import Download
from qwen_daemon.engine.stream import Source
from qwen_daemon.engine.transfers import Transfer
from qwen_daemon.ports import Body, Reading
from tests.fakes.virtual_time import VirtualLoop, run_virtually

MIB = 1 << 20
SCALE = 16
STREAM_BPS = 28 * MIB // SCALE
FIRST_BYTE_S = 0.65
SHARD_BYTES = 2048 * MIB // SCALE
SCALED = Tuning(**{each.name: getattr(Tuning(), each.name) // SCALE for each in fields(Tuning)})


@dataclass
class Cdn:
    """Every connection gives STREAM_BPS, but the one numbered `slow`, which crawls."""

    first_byte_s: float = FIRST_BYTE_S
    slow: int = 0
    slow_bps: int = STREAM_BPS // 28
    opened: int = 0
    given_bytes: int = 0
    open_now: int = 0
    open_most: int = 0

    def splits(self, repo: str, file: WantedFile) -> bool:
        return True

    def distrust(self, repo: str, file: WantedFile) -> None:
        raise AssertionError("its bytes are right")

    def host(self, repo: str, file: WantedFile) -> str:
        return ""

    def read(self, repo: str, commit: str, file: WantedFile, start: int, end: int) -> Reading:
        self.opened += 1
        rate_bps = self.slow_bps if self.opened == self.slow else STREAM_BPS
        return self._read(end - start, rate_bps)

    @asynccontextmanager
    async def _read(self, length: int, rate_bps: int) -> AsyncIterator[Body]:
        self.open_now += 1
        self.open_most = max(self.open_most, self.open_now)
        try:
            await asyncio.sleep(self.first_byte_s)
            yield Zeros(self, length, rate_bps)
        finally:
            self.open_now -= 1


@dataclass
class Zeros:
    """An answer whose bytes come as fast as its connection is."""

    cdn: Cdn
    left_bytes: int
    rate_bps: int

    async def read_into(self, room: memoryview) -> int:
        count = min(len(room), self.left_bytes, max(1, self.rate_bps // 10))
        await asyncio.sleep(count / self.rate_bps)
        self.left_bytes -= count
        self.cdn.given_bytes += count
        return count

    def reclaim(self) -> int:
        return 0


class ZeroPart:
    """A part that is written and made durable as fast as a disk does it."""

    name = "part"

    async def write(self, offset: int, data: Bytes, written: Callable[[Bytes], None]) -> None:
        await asyncio.sleep(0.0005)
        written(data)

    async def feed(self, offset: int, length: int, take: Callable[[Bytes], None]) -> int:
        await asyncio.sleep(length / (1.6e9 / SCALE))  # as fast as one processor hashes
        take(bytes(length))
        return length

    async def sync(self) -> None:
        await asyncio.sleep(0.05)

    async def close(self) -> None:
        pass

    def is_published_as(self, seal: Seal) -> bool:
        raise NotImplementedError


class NoBook:
    """A ledger that keeps nothing."""

    async def spans(self, repo: str, etag: str, size_bytes: int) -> tuple[str | None, tuple[Span, ...]]:
        return None, ()

    async def record(self, repo: str, etag: str, size_bytes: int, part: str | None, spans: Sequence[Span]) -> None:
        pass

    async def settle(self, repo: str, etag: str, size_bytes: int, spans: Sequence[Span], seal: Seal) -> None:
        raise AssertionError("a try publishes nothing")

    async def forget(self, repo: str, etag: str, offsets: Sequence[int] | None = None) -> None:
        raise AssertionError("nothing was on record")


class LoopClock:
    """The virtual loop's time."""

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    def utc(self, in_s: float = 0.0) -> str:
        return ""

    def dice(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def fetch(cdn: Cdn, sizes: Sequence[int], connections: int = 16) -> float:
    """All of these files at once; the virtual seconds until the last one's hash is known."""
    budget = Connections(connections)

    async def one(number: int, size_bytes: int) -> None:
        with budget.expecting(size_bytes):
            await asyncio.sleep(number * 0.003)  # what a file's preparation takes: they come one after the other
        sha256 = hashlib.sha256(bytes(size_bytes)).hexdigest()
        file = WantedFile(path=f"{number}.bin", size_bytes=size_bytes, sha256=sha256, git_sha1="")
        source = Source(repo="org/repo", where="org/repo", commit="0" * 40, file=file, origin=cdn)
        transfer = Transfer(pace=Pace(started_s=0))
        download = Download(source, ZeroPart(), NoBook(), LoopClock(), transfer, budget, tuning=SCALED)
        assert await download.run((), lambda _kept: None) == sha256

    await asyncio.gather(*(one(number, size_bytes) for number, size_bytes in enumerate(sizes)))
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.time()


@pytest.mark.parametrize("slow", [1, 2, 4, 8, 17])
def test_one_slow_connection_does_not_keep_the_tail_waiting(slow: int) -> None:
    """A shard over a line of which one connection is 28 times slower: within a tenth of what eight good ones need."""
    ideal_s = FIRST_BYTE_S + SHARD_BYTES / (8 * STREAM_BPS)
    assert run_virtually(fetch(Cdn(slow=slow), [SHARD_BYTES])) <= 1.1 * ideal_s


def test_a_large_shard_uses_the_line() -> None:
    """Five gigabytes over sixteen connections: first bytes, hash and all cost less than a third more than nothing."""
    cdn = Cdn()
    ideal_s = FIRST_BYTE_S + 5 * SHARD_BYTES / 2 / (16 * STREAM_BPS)
    assert run_virtually(fetch(cdn, [5 * SHARD_BYTES // 2])) <= 1.3 * ideal_s
    assert cdn.given_bytes == 5 * SHARD_BYTES // 2, "no byte twice"
    assert cdn.open_most == 16


def test_near_servers_leave_little_to_hash() -> None:
    """A server that answers at once: the hash ends with the last byte, not a second of its own work later."""
    cdn, size_bytes = Cdn(first_byte_s=0.002), 5 * SHARD_BYTES // 2
    assert run_virtually(fetch(cdn, [size_bytes])) <= size_bytes / (16 * STREAM_BPS) + 0.7
    assert cdn.given_bytes == size_bytes, "no byte twice"


def test_several_shards_share_the_budget() -> None:
    """Four small ones and a large one: sixteen connections are never exceeded, and the line is used."""
    sizes = [SHARD_BYTES // 8] * 4 + [SHARD_BYTES]
    cdn = Cdn()
    ideal_s = FIRST_BYTE_S + sum(sizes) / (16 * STREAM_BPS)
    assert run_virtually(fetch(cdn, sizes)) <= 1.2 * ideal_s
    assert cdn.open_most <= 16 and cdn.given_bytes == sum(sizes)


def test_few_connections_are_enough_for_a_small_budget() -> None:
    """A budget of two is kept; the time is what two connections need."""
    cdn = Cdn()
    ideal_s = FIRST_BYTE_S + SHARD_BYTES / (2 * STREAM_BPS)
    assert run_virtually(fetch(cdn, [SHARD_BYTES], connections=2)) <= 1.15 * ideal_s
    assert cdn.open_most == 2
