"""An event loop whose time stands still while there is work and jumps to the next timer when there is none.

What takes hours of waiting takes milliseconds here, and always the same way: for properties of code that waits. Only
for code without sockets, threads and subprocesses.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` begins at 0; a wait for nothing at all is a deadlock and raises."""

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__(_Jumping(self))
        numbers = itertools.count()
        self.set_task_factory(lambda loop, work, **more: _NumberedTask(next(numbers), work, loop=loop, **more))

    def time(self) -> float:
        """Virtual seconds."""
        return self._now_s

    def monotonic_s(self) -> float:
        """The same, as ports.Clock calls it."""
        return self._now_s

    def jump(self, seconds: float) -> None:
        """Let so much time pass at once."""
        self._now_s += seconds


class _NumberedTask(asyncio.Task[Any]):
    """asyncio keeps tasks in sets and cancels them in the sets' order: of numbers, it is always the same one."""

    def __init__(self, number: int, work: Any, **more: Any) -> None:
        self._number = number
        super().__init__(work, **more)

    def __hash__(self) -> int:
        return self._number


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "deadlock: everybody waits, and no timer is set"
        if timeout > 0:
            self._loop.jump(timeout)
        return []  # no socket is ever looked at


def run_virtually(work: Coroutine[Any, Any, T]) -> T:
    """asyncio.run on a VirtualLoop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
