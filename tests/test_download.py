"""One try at one file, against a disk that can lose power and refuse, and a line that can break at any byte.

The disk, the line and the ledger are simulators of the ports' contracts: what was not synced is gone after a crash, and
what the ledger holds must always be on the disk.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_api.manifest import WantedFile
from qwen_api.seals import Seal
from qwen_daemon.core.digest import Bytes, span_digest
from qwen_daemon.core.errors import MakeRoom, StartOver, Trouble, TryAgain
from qwen_daemon.core.pace import Pace
from qwen_daemon.core.segments import Segments, holes_between
from qwen_daemon.core.spans import Span, keep_in_order, recorded_bytes
from qwen_daemon.core.tuning import Tuning
from qwen_daemon.engine.cancel import beside, finish
from qwen_daemon.engine.connections import Connections
from qwen_daemon.engine.download import Download
from qwen_daemon.engine.frontier import Frontier
from qwen_daemon.engine.stream import Source
from qwen_daemon.engine.transfers import Transfer
from qwen_daemon.ports import Body, Reading
from tests.fakes.model_folder import COMMIT, REPO

CONTENT = bytes(range(251)) * 40  # no stretch of it looks like another
SIZE = len(CONTENT)
FILE = WantedFile(path="w", size_bytes=SIZE, git_sha1="0" * 40, sha256=hashlib.sha256(CONTENT).hexdigest())


MANY = Tuning(  # the same decisions, on a file of ten kilobytes
    align_bytes=64,
    batch_bytes=100,
    window_bytes=4000,
    hash_bps=2000,
    lease_min_bytes=300,
    lease_near_bytes=100,
    lease_max_bytes=2000,
    eager_bytes=1000,
    proven_bytes=100,
    step_bytes=150,
)


class QuickClock:
    """Time passes whenever somebody looks, so that every checkpoint is due; waiting only lets others go first."""

    def __init__(self, step_s: float) -> None:
        self._now_s, self._step_s = 0.0, step_s

    def monotonic_s(self) -> float:
        self._now_s += self._step_s
        return self._now_s

    def utc(self, in_s: float = 0.0) -> str:
        return ""

    def dice(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


@dataclass
class Disk:
    """A part: `written` is what reads give, `durable` what is left after a crash."""

    name: str = "part"
    written: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    room_bytes: int = 1 << 30
    syncs_left: int = 1 << 30
    unreadable: set[int] = field(default_factory=set)
    has_spare_sectors: bool = True  # what is written over an unreadable place can be read again

    async def write(self, offset: int, data: Bytes, written: Callable[[Bytes], None]) -> None:
        await asyncio.sleep(0)
        if offset + len(data) > self.room_bytes:
            raise MakeRoom("E_DISK_FULL")
        self.written.extend(bytes(max(0, offset + len(data) - len(self.written))))
        self.written[offset : offset + len(data)] = data
        if self.has_spare_sectors:
            self.unreadable -= set(range(offset, offset + len(data)))
        written(data)

    async def feed(self, offset: int, length: int, take: Callable[[Bytes], None]) -> int:
        if not self.unreadable.isdisjoint(range(offset, offset + length)):
            raise TryAgain("E_DISK_IO")
        data = bytes(self.written[offset : offset + length])
        for at in range(0, len(data), 700):
            take(data[at : at + 700])
        return len(data)

    async def sync(self) -> None:
        await asyncio.sleep(0)
        self.syncs_left -= 1
        if self.syncs_left == 0:  # the pages are dropped, and the next sync says that all is well
            raise TryAgain("E_DISK_IO")
        if self.syncs_left > 0:
            self.durable = bytes(self.written)

    async def close(self) -> None:
        pass

    def is_published_as(self, seal: Seal) -> bool:
        raise NotImplementedError

    def crash(self) -> None:
        self.written = bytearray(self.durable)


@dataclass
class Book:
    """A ledger that holds whoever writes it to the rule: durable first, recorded second."""

    disk: Disk
    known: dict[int, Span] = field(default_factory=dict)

    async def spans(self, repo: str, etag: str, size_bytes: int) -> tuple[str | None, tuple[Span, ...]]:
        return "part", keep_in_order(self.known.values(), size_bytes)

    async def record(self, repo: str, etag: str, size_bytes: int, part: str | None, spans: Sequence[Span]) -> None:
        for span in spans:
            data = self.disk.durable[span.offset : span.end]
            assert len(data) == span.length and span_digest(data) == span.digest, "recorded before it was durable"
            self.known[span.offset] = span

    async def settle(self, repo: str, etag: str, size_bytes: int, spans: Sequence[Span], seal: Seal) -> None:
        raise AssertionError("a try publishes nothing")

    async def forget(self, repo: str, etag: str, offsets: Sequence[int] | None = None) -> None:
        for offset in list(self.known) if offsets is None else offsets:
            self.known.pop(offset, None)


@dataclass
class Line:
    """An origin that gives pieces of `piece_bytes` and breaks once it has given `breaks_after` bytes."""

    piece_bytes: int
    breaks_after: int = 1 << 30
    given: list[tuple[int, int]] = field(default_factory=list)

    def splits(self, repo: str, file: WantedFile) -> bool:
        return True

    def distrust(self, repo: str, file: WantedFile) -> None:
        raise AssertionError("a try judges nothing")

    def host(self, repo: str, file: WantedFile) -> str:
        return ""

    def read(self, repo: str, commit: str, file: WantedFile, start: int, end: int) -> Reading:
        return self._read(start, end)

    @asynccontextmanager
    async def _read(self, start: int, end: int) -> AsyncIterator[Body]:
        yield Pieces(self, start, end)


@dataclass
class Pieces:
    """One answer of a line. What it put into the room when it was cancelled can be reclaimed."""

    line: Line
    start: int
    end: int
    came_bytes: int = 0

    async def read_into(self, room: memoryview) -> int:
        line, start = self.line, self.start
        self.start = min(self.end, start + line.piece_bytes, start + line.breaks_after, start + len(room))
        if self.start == start and start < self.end:
            raise TryAgain("E_CUT_SHORT")
        line.breaks_after -= self.start - start
        line.given.append((start, self.start))
        self.came_bytes = self.start - start
        room[: self.came_bytes] = CONTENT[start : self.start]
        await asyncio.sleep(0)
        return self.reclaim()

    def reclaim(self) -> int:
        count, self.came_bytes = self.came_bytes, 0
        return count


async def one_try(
    line: Line, disk: Disk, book: Book, *, step_s: float = 1.0, streams: int = 1, tuning: Tuning = MANY
) -> tuple[str | None, int]:
    """The hash, or None if the try failed; and how many recorded bytes were kept."""
    clock = QuickClock(step_s)
    source = Source(repo=REPO, where=REPO, commit=COMMIT, file=FILE, origin=line)
    kept: list[int] = [0]
    transfer = Transfer(pace=Pace(started_s=0))
    tuning = Tuning() if streams == 1 and tuning is MANY else tuning
    download = Download(source, disk, book, clock, transfer, Connections(streams), tuning=tuning)
    with suppress(Trouble):
        return await download.run((await book.spans(REPO, FILE.etag, SIZE))[1], kept.append), kept[-1]
    return None, kept[-1]


def twice(given: list[tuple[int, int]]) -> int:
    """How many bytes were given more than once."""
    return sum(end - start for start, end in given) - len({byte for start, end in given for byte in range(start, end)})


STREAMS = st.sampled_from((1, 2, 7))


@pytest.mark.fault("H24", "D10")
@given(st.lists(st.integers(1, SIZE), max_size=6), st.integers(50, 3000), STREAMS, st.integers(0, 3))
async def test_many_connections_bring_every_byte_once(
    breaks: list[int], piece_bytes: int, streams: int, damaged: int
) -> None:
    """In any order, with connections breaking and spans rotting in between: nothing recorded and sound comes again."""
    disk = Disk()
    book = Book(disk)
    for breaks_after in (*breaks, 1 << 30):
        spans = (await book.spans(REPO, "", SIZE))[1]
        for span in spans[:damaged]:
            disk.written[span.offset] ^= 1
        sound = {
            byte
            for span in spans
            if span_digest(disk.written[span.offset : span.end]) == span.digest
            for byte in range(span.offset, span.end)
        }
        line = Line(piece_bytes=piece_bytes, breaks_after=breaks_after)
        digest, _ = await one_try(line, disk, book, streams=streams)
        assert not sound & {byte for start, end in line.given for byte in range(start, end)}
        disk.crash()
    assert digest == FILE.sha256 and bytes(disk.durable) == CONTENT


async def test_a_stolen_half_is_fetched_by_the_thief_only() -> None:
    """What a connection was stopped from fetching costs at most what was on its way."""
    line = Line(piece_bytes=20)
    digest, _ = await one_try(line, disk := Disk(), Book(disk), streams=7)
    assert digest == FILE.sha256 and twice(line.given) <= 20 * 50
    assert len({start for start, end in line.given}) > 20


@pytest.mark.fault("H5", "H24")
@given(st.lists(st.integers(1, SIZE), max_size=6), st.integers(50, 3000), st.sampled_from((0.01, 1.0, 3.0)))
async def test_broken_lines_cost_no_byte(breaks: list[int], piece_bytes: int, step_s: float) -> None:
    """However often and wherever the line breaks, everything received is recorded, and the end has the Hub's hash."""
    disk = Disk()
    book = Book(disk)
    given: list[tuple[int, int]] = []
    for breaks_after in (*breaks, 1 << 30):
        line = Line(piece_bytes=piece_bytes, breaks_after=breaks_after, given=given)
        digest, _ = await one_try(line, disk, book, step_s=step_s)
        assert recorded_bytes((await book.spans(REPO, "", SIZE))[1]) == len({b for s, e in given for b in range(s, e)})
        disk.crash()
    assert digest == FILE.sha256 and bytes(disk.durable) == CONTENT and twice(given) == 0


@pytest.mark.fault("K10")
async def test_who_is_killed_soon_again_and_again_gets_on() -> None:
    """The first bytes are recorded after a quarter of a second, so that no series of short lives fetches in circles."""
    disk = Disk()
    book = Book(disk)
    task = asyncio.ensure_future(one_try(Line(piece_bytes=10), disk, book, step_s=0.0005))
    while not book.known:
        await asyncio.sleep(0)
    recorded = recorded_bytes((await book.spans(REPO, "", SIZE))[1])
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert 0 < recorded < SIZE / 2


@pytest.mark.fault("D10")
@given(st.integers(1, SIZE - 1), st.sets(st.integers(0, SIZE - 1), max_size=3), st.integers(500, 3000))
async def test_damage_costs_the_damaged_spans_only(broken_at: int, flips: set[int], piece_bytes: int) -> None:
    """Bits that flipped on the disk meanwhile are found by their span's digest; only such spans come again."""
    disk = Disk()
    book = Book(disk)
    first = Line(piece_bytes=piece_bytes, breaks_after=broken_at)
    await one_try(first, disk, book)
    recorded = (await book.spans(REPO, "", SIZE))[1]
    damaged = [span for span in recorded if any(span.offset <= flip < span.end for flip in flips)]
    for flip in flips:
        if flip < len(disk.written):
            disk.written[flip] ^= 1
    again = Line(piece_bytes=piece_bytes)
    digest, kept = await one_try(again, disk, book)
    assert digest == FILE.sha256 and bytes(disk.durable) == CONTENT
    assert kept == recorded_bytes(recorded) - recorded_bytes(damaged)
    assert sum(end - start for start, end in again.given) == SIZE - kept


@given(st.integers(1, SIZE - 1), st.integers(0, SIZE - 1), st.integers(50, 3000))
async def test_what_cannot_be_read_again_is_fetched_again(broken_at: int, bad: int, piece_bytes: int) -> None:
    """A recorded span that the disk no longer gives back costs that span, not the try."""
    disk = Disk()
    book = Book(disk)
    await one_try(Line(piece_bytes=piece_bytes, breaks_after=broken_at), disk, book)
    recorded = (await book.spans(REPO, "", SIZE))[1]
    lost = [span for span in recorded if span.offset <= bad < span.end]
    disk.unreadable = {bad} if lost else set()
    again = Line(piece_bytes=piece_bytes)
    digest, kept = await one_try(again, disk, book)
    assert digest == FILE.sha256 and bytes(disk.durable) == CONTENT
    assert kept == recorded_bytes(recorded) - recorded_bytes(lost)
    assert sum(end - start for start, end in again.given) == SIZE - kept


async def test_a_place_that_takes_bytes_and_never_gives_them_back_condemns_the_part() -> None:
    """Written anew and still unreadable: StartOver, so that the next try takes another part."""
    disk = Disk(written=bytearray(CONTENT), durable=CONTENT, unreadable={100}, has_spare_sectors=False)
    span = Span(offset=0, length=200, digest=span_digest(CONTENT[:200]))
    segments = Segments(holes_between([(0, 200)], SIZE), MANY.align_bytes)
    damaged: list[Span] = []
    frontier = Frontier(FILE, disk, segments, [span], damaged.append, step_bytes=1)
    await frontier.step()
    assert damaged == [span]
    segments.need(0, 200)
    segments.take(200, SIZE)
    segments.wrote(0, 200)
    with pytest.raises(StartOver):
        await frontier.step()


@pytest.mark.fault("D11")
@given(st.integers(0, SIZE - 1), st.integers(50, 3000), st.sampled_from((0.01, 1.0, 3.0)))
async def test_a_full_disk_keeps_what_fitted(room_bytes: int, piece_bytes: int, step_s: float) -> None:
    """What was written before it filled up is recorded; with room again the rest comes, and nothing is out of place."""
    disk = Disk(room_bytes=room_bytes)
    book = Book(disk)
    assert (await one_try(Line(piece_bytes=piece_bytes), disk, book, step_s=step_s))[0] is None
    assert recorded_bytes((await book.spans(REPO, "", SIZE))[1]) <= room_bytes
    disk.room_bytes = 1 << 30
    disk.crash()
    digest, kept = await one_try(Line(piece_bytes=piece_bytes), disk, book, step_s=step_s)
    assert digest == FILE.sha256 and bytes(disk.durable) == CONTENT and kept <= room_bytes


@pytest.mark.fault("D15")
@given(st.integers(1, 4), st.integers(100, 3000))
async def test_a_failed_sync_is_the_end_of_the_try(good_syncs: int, piece_bytes: int) -> None:
    """Nothing since the last good one counts, no later one is believed; the next try takes up what was recorded."""
    disk = Disk(syncs_left=good_syncs)
    book = Book(disk)
    ended, _ = await one_try(Line(piece_bytes=piece_bytes), disk, book)
    assert (ended is None) == (disk.syncs_left <= 0)
    recorded = recorded_bytes((await book.spans(REPO, "", SIZE))[1])
    disk.crash()
    disk.syncs_left = 1 << 30
    digest, kept = await one_try(Line(piece_bytes=piece_bytes), disk, book)
    assert digest == FILE.sha256 and bytes(disk.durable) == CONTENT and kept == recorded


@pytest.mark.fault("K4")
@given(st.integers(0, 60), st.integers(100, 3000), STREAMS)
async def test_cancelling_anywhere_leaves_ledger_and_disk_agreed(steps: int, piece_bytes: int, streams: int) -> None:
    """Cancelled after any number of steps, then powered off: the next try ends right and fetches nothing recorded."""
    disk = Disk()
    book = Book(disk)
    task = asyncio.ensure_future(one_try(Line(piece_bytes=piece_bytes), disk, book, streams=streams))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    disk.crash()
    recorded = recorded_bytes((await book.spans(REPO, "", SIZE))[1])
    again = Line(piece_bytes=piece_bytes)
    digest, kept = await one_try(again, disk, book)
    assert digest == FILE.sha256 and kept == recorded and sum(e - s for s, e in again.given) == SIZE - recorded


@dataclass
class BadDisk(Disk):
    """One write of many fails, and reads give nothing behind `reads_to`."""

    writes_left: int = 1 << 30
    reads_to: int = 1 << 30

    async def write(self, offset: int, data: Bytes, written: Callable[[Bytes], None]) -> None:
        self.writes_left -= 1
        if self.writes_left == 0:
            raise TryAgain("E_DISK_IO")
        await super().write(offset, data, written)

    async def feed(self, offset: int, length: int, take: Callable[[Bytes], None]) -> int:
        return await super().feed(offset, max(0, min(length, self.reads_to - offset)), take)


@pytest.mark.fault("D20")
@given(st.integers(1, 120), st.integers(50, 3000), STREAMS, st.sampled_from((0.0005, 1.0)))
async def test_a_write_that_fails_ends_the_try(writes: int, piece_bytes: int, streams: int, step_s: float) -> None:
    """Whatever other connections are at work: they cannot bring what was lost, and nobody may wait for it."""
    disk = BadDisk(writes_left=writes)
    book = Book(disk)
    digest, _ = await one_try(Line(piece_bytes=piece_bytes), disk, book, streams=streams, step_s=step_s)
    assert (digest is None) == (disk.writes_left <= 0)
    disk.crash()
    digest, _ = await one_try(Line(piece_bytes=piece_bytes), disk, book, streams=streams, step_s=step_s)
    assert digest == FILE.sha256 and bytes(disk.durable) == CONTENT


@pytest.mark.fault("D8")
async def test_a_part_that_lost_its_end_fails_the_try() -> None:
    """Somebody cut the file while it was written: what was written ahead of the hash is not there to be read."""
    disk = BadDisk(reads_to=0)
    assert (await one_try(Line(piece_bytes=20), disk, Book(disk), streams=7))[0] is None


class Unwritable(Book):
    """A ledger with a bug."""

    async def record(self, repo: str, etag: str, size_bytes: int, part: str | None, spans: Sequence[Span]) -> None:
        raise ZeroDivisionError


@given(STREAMS)
async def test_a_bug_in_the_ledger_is_told(streams: int) -> None:
    """Connections that wait until something is recorded do not wait for ever, and the bug comes to who asked."""
    tuning = replace(MANY, checkpoint_bytes=500)
    with pytest.raises(ZeroDivisionError):
        await one_try(Line(piece_bytes=20), disk := Disk(), Unwritable(disk), streams=streams, tuning=tuning)


@dataclass
class SlowDisk(Disk):
    """Making something durable takes as long as bringing thousands of bytes."""

    async def sync(self) -> None:
        await super().sync()
        for _ in range(300):
            await asyncio.sleep(0)


@dataclass
class Watched(Book):
    """Notes how much was written and not recorded at most."""

    at_risk_bytes: int = 0

    async def record(self, repo: str, etag: str, size_bytes: int, part: str | None, spans: Sequence[Span]) -> None:
        at_risk_bytes = sum(byte != 0 for byte in self.disk.written) - recorded_bytes(list(self.known.values()))
        self.at_risk_bytes = max(self.at_risk_bytes, at_risk_bytes)
        await super().record(repo, etag, size_bytes, part, spans)


@pytest.mark.fault("D26")
@given(st.sampled_from((1, 2, 4)), st.sampled_from((150, 300, 2000)), st.integers(20, 100))
async def test_a_kill_costs_little_on_a_slow_disk(streams: int, lease_bytes: int, piece_bytes: int) -> None:
    """Bytes come faster than they can be made durable: connections wait, also those that come after short leases."""
    tuning = replace(MANY, checkpoint_bytes=300, lease_min_bytes=lease_bytes, lease_max_bytes=lease_bytes)
    disk = SlowDisk()
    book = Watched(disk)
    digest, _ = await one_try(Line(piece_bytes=piece_bytes), disk, book, streams=streams, tuning=tuning)
    assert digest == FILE.sha256
    batch_bytes = tuning.batch_bytes + piece_bytes
    allowed = max(2, streams) * tuning.checkpoint_bytes + lease_bytes * (lease_bytes < tuning.checkpoint_bytes)
    assert book.at_risk_bytes <= allowed + streams * (tuning.checkpoint_bytes + 2 * batch_bytes)


@dataclass
class Whole(Line):
    """A server without ranges."""

    reads: int = 0

    def splits(self, repo: str, file: WantedFile) -> bool:
        return False

    def read(self, repo: str, commit: str, file: WantedFile, start: int, end: int) -> Reading:
        self.reads += 1
        return super().read(repo, commit, file, start, end)


@pytest.mark.fault("H1")
@given(st.integers(0, SIZE - 1), st.integers(1, 1 << 20))
async def test_a_server_without_ranges_is_asked_once_for_all_the_rest(broken_at: int, eager_bytes: int) -> None:
    """However little is left: each answer of it is the whole file."""
    disk = Disk()
    book = Book(disk)
    tuning = replace(MANY, eager_bytes=eager_bytes)
    for breaks_after in (broken_at, 1 << 30):
        line = Whole(piece_bytes=100, breaks_after=breaks_after)
        digest, _ = await one_try(line, disk, book, streams=4, tuning=tuning)
        assert line.reads == 1
    assert digest == FILE.sha256


async def test_cancelling_is_not_lost_while_the_task_beside_ends() -> None:
    """Who leaves `beside` waits for the other task to finish what it began; a cancellation at that time still holds."""
    began, may_end = asyncio.Event(), asyncio.Event()

    async def ending() -> None:
        await may_end.wait()

    async def work() -> None:
        began.set()
        await finish(ending())

    async def cancelled() -> None:
        async with beside(work()):
            await began.wait()

    task = asyncio.create_task(cancelled())
    await began.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
