"""The event bus: one order for all, a full greeting, and a gap mark wherever a reader missed something."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_api import events as e
from qwen_api.status import Status, decode_status, fold
from qwen_daemon.engine import bus as bus_module
from qwen_daemon.engine.bus import BOOKMARK_S, Bus
from tests.fakes.virtual_time import run_virtually

ADDED = e.ModelAdded(model="org--a", repo="org/a", revision="main")
LISTED = e.ModelResolved(
    model="org--a", commit="a" * 40, files=(e.ListedFile(path="w", size_bytes=9, etag="a" * 40),), size_bytes=9
)


class CountingClock:
    """Every look at the wall is a second later."""

    def __init__(self) -> None:
        self._seconds = itertools.count()

    def monotonic_s(self) -> float:
        return float(next(self._seconds))

    def utc(self, in_s: float = 0.0) -> str:
        return f"2026-11-23T14:00:{next(self._seconds) % 60:02}.000Z"

    def dice(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("the bus does not sleep")


def a_bus(events: int = 0) -> Bus:
    bus = Bus(CountingClock(), "qwen-daemon/test")
    for _ in range(events):
        bus.publish(ADDED)
    return bus


def progress(done: int, path: str = "w") -> e.FileProgress:
    return e.FileProgress(model="org--a", path=path, done_bytes=done, size_bytes=9)


async def take(lines: AsyncGenerator[bytes], count: int) -> list[e.Event | e.Frame | e.Unknown]:
    return [e.decode_line(await anext(lines)) for _ in range(count)]


def names(lines: list[e.Event | e.Frame | e.Unknown]) -> list[str]:
    return [e.type_of(line) for line in lines if not isinstance(line, e.Unknown)]


def numbers(lines: list[e.Event | e.Frame | e.Unknown]) -> list[int]:
    """Of the durable events among them."""
    frames = e.Unknown | e.Hello | e.Snapshot | e.Gap | e.Live | e.Bookmark
    return [line.seq for line in lines if not isinstance(line, frames) and e.is_durable(line)]


async def everything(bus: Bus, **asked: object) -> list[e.Event | e.Frame | e.Unknown]:
    return [e.decode_line(line) async for line in bus.lines(follow=False, **asked)]  # type: ignore[arg-type]


async def test_a_stream_greets_with_the_whole_state() -> None:
    """hello, snapshot, live; the snapshot is the fold of all that was published."""
    bus = a_bus()
    for event in (ADDED, LISTED, progress(3)):
        bus.publish(event)
    hello, snapshot, live = await everything(bus)
    assert isinstance(hello, e.Hello) and (hello.epoch, hello.seq, hello.v) == (bus.epoch, 3, e.WIRE_VERSION)
    assert isinstance(snapshot, e.Snapshot) and decode_status(snapshot.state) == bus.status
    assert live == e.Live(seq=3)


@pytest.mark.fault("S5")
async def test_who_reconnects_gets_what_it_missed_once() -> None:
    """The backlog holds the durable events behind `since`; a number of another epoch means none of it."""
    bus = a_bus(3)
    bus.publish(progress(1))
    bus.publish(LISTED)
    lines = await everything(bus, since=1, epoch=bus.epoch)
    assert names(lines) == ["hello", "snapshot", "model.added", "model.added", "model.resolved", "live"]
    assert [getattr(line, "seq", 0) for line in lines[2:5]] == [2, 3, 5]
    assert len(await everything(bus, since=4, epoch="other")) == 3 + 4, "of another epoch: all of this one is news"
    assert names(await everything(bus)) == ["hello", "snapshot", "live"]
    assert names(await everything(bus, since=10**17, epoch=bus.epoch)) == ["hello", "snapshot", "live"]


@pytest.mark.fault("S5")
async def test_what_the_ring_no_longer_has_is_marked() -> None:
    """A gap with its first and last number, then the rest."""
    bus = a_bus(bus_module.RING_EVENTS + 10)
    lines = await everything(bus, since=4, epoch=bus.epoch)
    assert lines[2] == e.Gap(first=5, last=10)
    assert names(lines[3:4]) == ["model.added"] and getattr(lines[3], "seq", 0) == 11
    assert len(lines) == 4 + bus_module.RING_EVENTS
    exact = await everything(bus, since=10, epoch=bus.epoch)
    assert "gap" not in names(exact)


@pytest.mark.fault("S1")
async def test_progress_is_replaced_and_facts_are_not() -> None:
    """A reader that was busy gets each file's newest progress and every fact, in rising order."""
    bus = a_bus()
    lines = bus.lines()
    await take(lines, 3)
    for done in range(5):
        bus.publish(progress(done))
        bus.publish(progress(done, "x"))
    bus.publish(ADDED)
    bus.publish(progress(9))
    got = await take(lines, 3)
    assert names(got) == ["file.progress", "model.added", "file.progress"]
    assert [getattr(line, "done_bytes", None) for line in got] == [4, None, 9]
    await lines.aclose()


@pytest.mark.fault("S1")
async def test_a_reader_that_lags_too_far_gets_a_gap_and_a_snapshot() -> None:
    """Never silence: also when the bus closes before it caught up."""
    for closes in (False, True):
        bus = a_bus()
        lines = bus.lines()
        await take(lines, 3)
        for _ in range(bus_module.QUEUE_LINES + 1):
            bus.publish(ADDED)
        if closes:
            bus.close()
        gap, snapshot = await take(lines, 2)
        assert gap == e.Gap(first=1, last=bus_module.QUEUE_LINES + 1)
        assert isinstance(snapshot, e.Snapshot) and snapshot.seq == gap.last
        if not closes:
            bus.publish(LISTED)
            assert names(await take(lines, 1)) == ["model.resolved"]
        await lines.aclose()


async def test_a_closed_bus_ends_its_streams_after_the_last_word() -> None:
    """And a stream that is opened then ends after its greeting."""
    bus = a_bus()
    lines = bus.lines()
    await take(lines, 3)
    bus.publish(e.DaemonStopping(reason="asked to"))
    bus.close()
    assert names([e.decode_line(line) async for line in lines]) == ["daemon.stopping"]
    assert names([e.decode_line(line) async for line in bus.lines()]) == ["hello", "snapshot", "live"]


facts = st.sampled_from([ADDED, LISTED, progress(1), progress(2), e.ModelRemoved(model="org--a")])


@pytest.mark.fault("S5")
@given(st.lists(facts, max_size=25), st.lists(facts, max_size=25))
async def test_every_reader_ends_with_the_daemons_own_state(before: list[e.Event], after: list[e.Event]) -> None:
    """Snapshot and what follows, folded, is the bus's status; numbers only rise."""
    bus = a_bus()
    for event in before:
        bus.publish(event)
    lines = bus.lines()
    greeting = await take(lines, 3)
    for event in after:
        bus.publish(event)
    bus.close()
    assert isinstance(greeting[1], e.Snapshot)
    status: Status = decode_status(greeting[1].state)
    seqs = [status.seq]
    async for line in lines:
        told = e.decode_line(line)
        assert not isinstance(told, e.Unknown | e.Hello | e.Snapshot | e.Gap | e.Live | e.Bookmark)
        seqs.append(told.seq)
        status = fold(status, told)
    assert seqs == sorted(set(seqs))
    assert status == bus.status


@pytest.mark.fault("S5")
@given(st.lists(facts, max_size=25), st.integers(0, 30), st.integers(1, 6))
async def test_whatever_bookmark_a_reader_has_it_gets_all_or_is_told_exactly_what_is_gone(
    published: list[e.Event], since: int, ring_events: int
) -> None:
    """Every durable event behind the bookmark comes, in order, but for those of one gap, which holds no other."""
    bus = Bus(CountingClock(), "test", ring_events=ring_events)
    for event in published:
        bus.publish(event)
    owed = [seq for seq, event in enumerate(published, 1) if seq > since and e.is_durable(event)]
    lines = await everything(bus, since=since, epoch=bus.epoch)
    gaps = [line for line in lines if isinstance(line, e.Gap)]
    came = numbers(lines)
    gone = owed[: max(0, len(owed) - ring_events)]
    assert came == owed[len(gone) :]
    assert gaps == ([e.Gap(first=since + 1, last=gone[-1])] if gone else [])


@pytest.mark.fault("S1", "S5")
@given(st.lists(st.one_of(facts, st.none()), max_size=40), st.integers(1, 5))
async def test_what_a_reader_lost_is_exactly_its_gaps(happened: list[e.Event | None], queue_lines: int) -> None:
    """None: it reads what there is. Each durable event either comes or lies in a gap, and none does both."""
    bus = Bus(CountingClock(), "test", queue_lines=queue_lines)
    batches = bus.batches()
    await anext(batches)
    told: list[bytes] = []
    waiting = 0
    for event in happened:
        if event is not None:
            bus.publish(event)
            waiting += 1
        elif waiting:
            told += await anext(batches)
            waiting = 0
    bus.close()
    async for batch in batches:
        told += batch
    lines = [e.decode_line(line) for line in told]
    durable = {seq for seq, event in enumerate([x for x in happened if x is not None], 1) if e.is_durable(event)}
    came = numbers(lines)
    lost = {seq for line in lines if isinstance(line, e.Gap) for seq in range(line.first, line.last + 1)}
    assert came == sorted(durable - lost) and lost.isdisjoint(came)


@pytest.mark.fault("S5")
def test_an_event_at_the_moment_of_a_bookmark_goes_before_it() -> None:
    """The bookmark says that nothing up to its number is still to come, so who goes on from there misses nothing."""

    async def work() -> list[str]:
        bus = a_bus()
        batches = bus.batches()
        await anext(batches)
        asyncio.get_running_loop().call_later(BOOKMARK_S, bus.publish, ADDED)
        told = [e.decode_line(line) for line in await anext(batches)]
        await batches.aclose()
        return names(told)

    assert run_virtually(work()) == ["model.added", "bookmark"]
