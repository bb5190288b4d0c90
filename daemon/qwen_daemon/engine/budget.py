"""How much may be done at once, shared by all models: a semaphore that prefers the important and can change its size.

asyncio.Semaphore serves in the order of asking and keeps its size for ever; a person who says "this model first" or
"four files at a time" means the daemon that runs. Nothing that has a slot is interrupted: rank and size decide who is
next. Which model has which rank is engine.controls' business.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType


@dataclass(eq=False)
class Rank:
    """How important one model is, the greater the sooner; changing `value` moves all that wait under it."""

    value: int = 0


DEFAULT_RANK = Rank()  # never changed: for those who do not say


class Slots:
    """`size` slots: `async with slots.slot(rank):`, or `async with slots:` for no rank in particular.

    Among those who wait the highest rank is served first, and within a rank who came first. A cancelled waiter takes
    nothing with it. Getting a free slot does not suspend.
    """

    def __init__(self, size: int) -> None:
        self._size = _checked(size)
        self._used = 0
        self._asked = 0  # numbers those who wait, so that equal ranks are served in the order they came
        self._waiting: dict[Rank, deque[tuple[int, asyncio.Future[None]]]] = {}

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
        return sum(not passed.done() for line in self._waiting.values() for _, passed in line)

    def resize(self, size: int) -> None:
        """So many slots from now on; with fewer, those who are at work finish first."""
        self._size = _checked(size)
        self._serve()

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
        self._waiting.setdefault(rank, deque()).append((self._asked, passed))
        try:
            await passed
        except asyncio.CancelledError:
            if passed.done() and not passed.cancelled():
                self.release()  # it was given in the same turn of the loop
            else:
                self._forget(rank)
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
        for rank in list(self._waiting):
            self._forget(rank)
        if not self._waiting:
            return None
        # A few ranks (one for each model), thousands of files: only the heads of the lines are compared.
        best = max(self._waiting, key=lambda rank: (rank.value, -self._waiting[rank][0][0]))
        _, passed = self._waiting[best].popleft()
        self._forget(best)
        return passed

    def _forget(self, rank: Rank) -> None:
        """Drop those at the head of a line who are gone, and the line itself if it is empty."""
        line = self._waiting.get(rank)
        if line is None:
            return
        while line and line[0][1].done():
            line.popleft()
        if not line:
            del self._waiting[rank]


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
