"""How much at once: the important first, then who came first; the size changes while they wait; nothing leaks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_daemon.core.order import Place
from qwen_daemon.engine.budget import Rank, Slots
from qwen_daemon.engine.disk import Contents
from tests.fakes.virtual_time import run_virtually


class Standing(Rank):
    """A rank of one number, the greater the sooner, that may be changed."""

    def __init__(self, value: int = 0) -> None:
        super().__init__(lambda: Place(model=-self.value))
        self.value = value


async def _work(slots: Slots, rank: Rank, name: str, done: list[str]) -> None:
    async with slots.slot(rank):
        done.append(name)
        await asyncio.sleep(1.0)


async def _finished(*works: Awaitable[None]) -> None:
    await asyncio.gather(*works)


def test_the_highest_rank_is_served_first_and_within_it_who_came_first() -> None:
    """A rank that is changed moves those who wait; who is at work stays."""

    async def scene() -> None:
        slots, done = Slots(1), list[str]()
        low, high = Standing(-1), Standing(5)
        works = [asyncio.create_task(_work(slots, low, f"low{n}", done)) for n in range(3)]
        works += [asyncio.create_task(_work(slots, high, f"high{n}", done)) for n in range(2)]
        await asyncio.sleep(0.5)
        assert (done, slots.used, slots.free, slots.waiting) == (["low0"], 1, 0, 4)
        await asyncio.sleep(1.0)
        assert done == ["low0", "high0"]
        low.value = 9
        slots.reorder()
        await _finished(*works)
        assert done == ["low0", "high0", "low1", "low2", "high1"]
        assert (slots.used, slots.waiting) == (0, 0)

    run_virtually(scene())


def test_equal_ranks_of_different_models_take_turns_as_they_came() -> None:
    """Two models of the same priority do not starve each other."""

    async def scene() -> None:
        slots, done = Slots(1), list[str]()
        one, other = Rank(), Rank()
        await _finished(*(_work(slots, (one, other)[n % 2], str(n), done) for n in range(6)))
        assert done == [str(n) for n in range(6)]

    run_virtually(scene())


def test_places_are_compared_part_by_part() -> None:
    """The model's priority, the file's, whose turn it is, the component, the file: what comes earlier outweighs."""

    async def scene() -> None:
        slots, done = Slots(1), list[str]()
        places = {
            "other component": Place(turn=1, component=2),
            "second shard": Place(turn=1, component=1, number=2),
            "first shard": Place(turn=1, component=1, number=1),
            "other model": Place(turn=2),
            "config": Place(turn=1),
            "chosen file": Place(file=-1, turn=2, component=9),
            "chosen model": Place(model=-1, file=5, turn=9),
        }
        async with slots:
            ranks = {name: Rank(lambda place=place: place) for name, place in places.items()}
            works = [asyncio.create_task(_work(slots, rank, name, done)) for name, rank in ranks.items()]
            await asyncio.sleep(0.1)
        await _finished(*works)
        assert done == [
            "chosen model",
            "chosen file",
            "config",
            "first shard",
            "second shard",
            "other component",
            "other model",
        ]

    run_virtually(scene())


def test_who_holds_what_the_important_wait_for_is_served_as_they_are() -> None:
    """Else a file of high priority waits behind all those that are more important than the holder of its content."""

    async def scene() -> None:
        slots, done = Slots(1), list[str]()
        contents = Contents(slots.reorder)

        async def fetch(name: str, etag: str, rank: Rank) -> None:
            async with contents.hold(etag, rank):
                await _work(slots, rank, name, done)

        low, middle, high = Standing(-1), Standing(0), Standing(5)
        async with slots:
            works = [asyncio.create_task(fetch("low", "shared", low))]
            works += [asyncio.create_task(fetch(f"middle{n}", f"own{n}", middle)) for n in range(2)]
            await asyncio.sleep(0.1)
            works += [asyncio.create_task(fetch("high", "shared", high))]
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        assert (done, low.place) == (["low"], high.place)
        await _finished(*works)
        assert done == ["low", "middle0", "high", "middle1"]  # the slot was given on before the content was let go
        assert low.place == Place(model=1)

    run_virtually(scene())


def test_importance_goes_back_when_nobody_waits_for_the_content_any_more() -> None:
    """The important one was cancelled: its holder waits behind the others again."""

    async def scene() -> None:
        slots, done = Slots(1), list[str]()
        contents = Contents(slots.reorder)

        async def fetch(name: str, rank: Rank) -> None:
            async with contents.hold("shared", rank):
                await _work(slots, rank, name, done)

        async with slots:
            holder = asyncio.create_task(fetch("low", Standing(-1)))
            other = asyncio.create_task(_work(slots, Standing(0), "middle", done))
            await asyncio.sleep(0.1)
            high = asyncio.create_task(fetch("high", Standing(5)))
            await asyncio.sleep(0.1)
            high.cancel()
            await asyncio.sleep(0.1)
        await _finished(holder, other)
        assert done == ["middle", "low"]

    run_virtually(scene())


def test_the_size_changes_while_they_wait() -> None:
    """More slots are filled at once; fewer let those at work finish first."""

    async def scene() -> None:
        slots, done = Slots(1), list[str]()
        works = [asyncio.create_task(_work(slots, Rank(), str(n), done)) for n in range(8)]
        await asyncio.sleep(0.5)
        slots.resize(4)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(done) == slots.used == 4
        slots.resize(2)
        assert (slots.size, slots.used, slots.free) == (2, 4, 0)
        await asyncio.sleep(0.6)
        assert slots.used == 3  # the first one's second is over, and nobody took its slot
        await asyncio.sleep(0.6)
        assert slots.used == 2
        await _finished(*works)
        assert slots.used == 0
        with pytest.raises(ValueError, match="0 slots"):
            slots.resize(0)

    run_virtually(scene())


def test_it_is_a_semaphore_for_those_who_do_not_say() -> None:
    """`async with slots:` works, and gives the slot back after an error."""

    async def scene() -> None:
        slots = Slots(2)
        async with slots, slots:
            assert slots.free == 0
        with pytest.raises(RuntimeError):
            async with slots:
                raise RuntimeError
        assert (slots.free, slots.used) == (2, 0)

    run_virtually(scene())


@given(
    size=st.integers(1, 4),
    steps=st.lists(
        st.tuples(st.sampled_from(("come", "cancel", "resize", "rank", "time")), st.integers(0, 9)), max_size=60
    ),
)
def test_no_slot_is_lost_or_given_twice(size: int, steps: list[tuple[str, int]]) -> None:
    """Coming, cancelling at any moment, resizing and re-ranking: never too many at work, and all come to their end."""

    async def scene() -> None:
        slots, ranks = Slots(size), [Standing(n) for n in range(3)]
        tasks: list[asyncio.Task[None]] = []
        at_work, largest = 0, size

        async def work(rank: Rank) -> None:
            nonlocal at_work
            async with slots.slot(rank):
                at_work += 1
                assert at_work <= largest
                try:
                    await asyncio.sleep(1.0)
                finally:
                    at_work -= 1

        for step, number in steps:
            match step:
                case "come":
                    tasks.append(asyncio.create_task(work(ranks[number % 3])))
                case "cancel":
                    if tasks:
                        tasks[number % len(tasks)].cancel()
                case "resize":
                    slots.resize(1 + number % 4)
                    largest = max(largest, slots.size)
                case "rank":
                    ranks[number % 3].value = number
                    slots.reorder()
                case _:
                    await asyncio.sleep(number / 4)
        if tasks:
            await asyncio.wait(tasks)
        assert all(task.cancelled() or task.exception() is None for task in tasks)
        assert (slots.used, slots.waiting, slots.free) == (0, 0, slots.size)

    run_virtually(scene())


def test_a_slot_is_not_given_to_somebody_who_is_just_being_cancelled() -> None:
    """Cancelled and released in one turn of the loop: nobody gets it who will not take it, and it is not lost."""

    async def scene() -> None:
        slots, done = Slots(1), list[str]()
        await slots.acquire()
        first, second = (asyncio.create_task(_work(slots, Standing(), name, done)) for name in ("first", "second"))
        await asyncio.sleep(0.5)
        first.cancel()
        slots.release()
        await second
        assert done == ["second"] and first.cancelled() and (slots.used, slots.waiting) == (0, 0)

    run_virtually(scene())
