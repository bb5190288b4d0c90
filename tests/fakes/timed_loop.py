"""An event loop that counts what each callback costs its thread: who keeps the loop from others shows by name.

Thread CPU time, not wall time: a busy machine makes a callback late, not dear. For tests only; asyncio's own loop,
because uvloop lets nobody look.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any


class TimedLoop(asyncio.SelectorEventLoop):
    """`dearest_s` has the dearest call of each callback (a task's steps count as its coroutine), in CPU seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.dearest_s: dict[str, float] = {}

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        """As the loop's own."""
        return super().call_soon(self._timed(callback), *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """As the loop's own."""
        return super().call_at(when, self._timed(callback), *args, context=context)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        """As the loop's own."""
        return super().call_soon_threadsafe(self._timed(callback), *args, context=context)

    def _add_reader(self, fd: int, callback: Callable[..., Any], *args: Any) -> asyncio.Handle:
        """As the loop's own; its transports come this way."""
        adding: Callable[..., asyncio.Handle] = super()._add_reader  # type: ignore[misc]
        return adding(fd, self._timed(callback), *args)

    def _timed(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> None:
            began_s = time.thread_time()
            try:
                callback(*args)
            finally:
                spent_s = time.thread_time() - began_s
                if spent_s > 0.002:  # names cost time too
                    name = _name(callback)
                    self.dearest_s[name] = max(spent_s, self.dearest_s.get(name, 0.0))

        return call


def _name(callback: Callable[..., Any]) -> str:
    """A task's step is named by its coroutine and, while it runs on, by where it stands now."""
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        coroutine = task.get_coro()
        stack = task.get_stack(limit=1)
        at = f" at {stack[-1].f_code.co_qualname}:{stack[-1].f_lineno}" if stack else ""
        return f"{getattr(coroutine, '__qualname__', coroutine)}{at}"
    return getattr(callback, "__qualname__", repr(callback))
