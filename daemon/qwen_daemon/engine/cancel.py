"""Cancelling is normal, but a write that has begun is finished first, so that state and disk never part ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

BEGUN_AT_ONCE = 200  # by `together`, before others have a turn: thousands would keep them waiting

T = TypeVar("T")


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end even if this task is cancelled meanwhile; the cancellation is raised afterwards."""
    async with asyncio.TaskGroup() as group:  # only so that no task is ever unowned
        task = group.create_task(_outcome(work))
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled
    result = task.result()
    if isinstance(result, _Raised):
        raise result.error
    return result


class _Raised:
    def __init__(self, error: Exception) -> None:
        self.error = error


async def _outcome(work: Coroutine[Any, Any, T]) -> T | _Raised:
    try:
        return await work
    except Exception as error:  # raised again by finish(), in the caller's task instead of through the group
        return _Raised(error)


async def together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all at once; the first failure cancels the others and is raised as itself, not as a group."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = []
            for work in works:
                tasks.append(group.create_task(work))
                if len(tasks) % BEGUN_AT_ONCE == 0:
                    await asyncio.sleep(0)
    except BaseExceptionGroup as failed:
        raise _first(failed) from failed
    return [task.result() for task in tasks]


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` while the body runs, and cancel it at the body's end; its own failure is raised there."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:  # of us, not of `work`: lost, it would keep us running for ever
                cancelled = error
        if not task.cancelled():
            task.result()
        if cancelled is not None:
            raise cancelled


async def wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait so long, or less if `event` is set from now on; True if it was."""
    event.clear()
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
