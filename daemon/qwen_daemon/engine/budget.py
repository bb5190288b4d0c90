"""How much may be done at once, shared by all models: a semaphore that prefers the important and can change its size.

asyncio.Semaphore serves in the order of asking and keeps its size for ever; a person who says "this model first" or
"four files at a time" means the daemon that runs. Nothing that has a slot is interrupted: rank and size decide who is
next. Which model has which rank is engine.controls' business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from heapq import heapify, heappop, heappush
from types import TracebackType

from qwen_daemon.core.order import Place


class Rank:
    """Where one who waits stands, as long as it lasts: its own place, or the best of those who wait for it.

    `lenders` are the ranks of those who wait for what its owner holds: whoever holds up the important is important.
    """

    def __init__(self, place: Callable[[], Place] = Place) -> None:
        self._place = place
        self.lenders: Collection[Rank] = ()

    @property
    def place(self) -> Place:
        """The place now."""
        return min([self._place(), *(lender.place for lender in self.lenders)])


DEFAULT_RANK = Rank()  # for those who do not say


class Slots:
    """`size` slots: `async with slots.slot(rank):`, or `async with slots:` for no rank in particular.

    Among those who wait the smallest place is served first, and among equal ones who came first. Places may change
    while they wait; `reorder` must be told. A cancelled waiter takes nothing with it. Getting a free slot does not
    suspend.
    """

    def __init__(self, size: int) -> None:
        self._size = _checked(size)
        self._used = 0
        self._asked = 0  # numbers those who wait, so that equal places are served in the order they came
        self._waiting: list[tuple[Place, int, Rank, asyncio.Future[None]]] = []  # a heap, with some who are gone
        self._is_sorted = True

    @property
    def size(self) -> int:
        """How many slots there are."""
        return self._size

    @property
    def used(self) -> int:
        """How many are taken; more than `size` for a while after it was made smaller."""
        return self._used

    @property
    def free(self) -> int:
        """How many could be had without waiting."""
        return max(0, self._size - self._used)

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return sum(not passed.done() for *_, passed in self._waiting)

    def resize(self, size: int) -> None:
        """So many slots from now on; with fewer, those who are at work finish first."""
        self._size = _checked(size)
        self._serve()

    def reorder(self) -> None:
        """Places have changed: they are looked at again before the next one is served."""
        self._is_sorted = False

    def slot(self, rank: Rank = DEFAULT_RANK) -> AbstractAsyncContextManager[None]:
        """One slot for as long as the context lasts."""
        return _Slot(self, rank)

    async def acquire(self, rank: Rank = DEFAULT_RANK) -> None:
        """Take one slot; `release` gives it back. Prefer `slot`."""
        if self._used < self._size:  # then nobody waits: a slot that comes free goes to a waiter at once
            self._used += 1
            return
        passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked += 1
        heappush(self._waiting, (rank.place, self._asked, rank, passed))
        try:
            await passed
        except asyncio.CancelledError:
            if passed.done() and not passed.cancelled():
                self.release()  # it was given in the same turn of the loop
            else:
                self._is_sorted = False  # sorting forgets who is gone
            raise

    def release(self) -> None:
        """Give one slot back."""
        assert self._used > 0, "more slots given back than taken"
        self._used -= 1
        self._serve()

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _serve(self) -> None:
        while self._used < self._size:
            passed = self._next()
            if passed is None:
                return
            self._used += 1
            passed.set_result(None)

    def _next(self) -> asyncio.Future[None] | None:
        """Whoever is served next, taken out of the line."""
        if not self._is_sorted:
            self._waiting = [(r.place, asked, r, passed) for _, asked, r, passed in self._waiting if not passed.done()]
            heapify(self._waiting)
            self._is_sorted = True
        while self._waiting:
            passed = heappop(self._waiting)[-1]
            if not passed.done():  # one that is cancelled says so only in the next turn of the loop
                return passed
        return None


class _Slot(AbstractAsyncContextManager[None]):
    def __init__(self, slots: Slots, rank: Rank) -> None:
        self._slots, self._rank = slots, rank

    async def __aenter__(self) -> None:
        await self._slots.acquire(self._rank)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slots.release()


def _checked(size: int) -> int:
    if size < 1:
        raise ValueError(f"{size} slots would never let anybody pass")
    return size
