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
    """Run all at once; the first failure cancels the others and is raised as itself, not as a group.

    A cancellation goes before failures: an asyncio.TaskGroup forgets it when one of its tasks fails on the way out, and
    who is to stop would go on.
    """
    tasks: list[asyncio.Task[T]] = []
    cancelled: asyncio.CancelledError | None = None
    try:
        for work in works:
            tasks.append(asyncio.create_task(work))
            if len(tasks) % BEGUN_AT_ONCE == 0:
                await asyncio.sleep(0)
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    except asyncio.CancelledError as error:
        cancelled = error
    failures = _failures(tasks)
    cancelled = await _end(tasks) or cancelled
    failures += _failures(tasks)
    if cancelled is not None:
        raise cancelled
    if failures:
        raise failures[0]
    return [task.result() for task in tasks]


def _failures(tasks: Iterable[asyncio.Task[Any]]) -> list[BaseException]:
    return [error for task in tasks if task.done() and not task.cancelled() and (error := task.exception()) is not None]


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> asyncio.CancelledError | None:
    """Cancel all and wait for their ends; returns what cancelled us meanwhile: if it were lost, we would go on."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    cancelled: asyncio.CancelledError | None = None
    while running:
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError as error:
            cancelled = error
        running = [task for task in running if not task.done()]
    return cancelled


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` while the body runs, and cancel it at the body's end; its own failure is raised there.

    As with `together` a cancellation goes before failures, and the body's failure before that of `work`.
    """
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    try:
        yield
    except asyncio.CancelledError as error:
        cancelled = error
    finally:
        cancelled = await _end([task]) or cancelled
        failures = _failures([task])
    if cancelled is not None:
        raise cancelled
    if failures:
        raise failures[0]


async def wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait so long, or less if `event` is set from now on; True if it was."""
    event.clear()
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
