"""Who is cancelled ends, whatever fails on the way out: else a stop would be forgotten, and the daemon go on."""

from __future__ import annotations

import asyncio

import pytest

from qwen_daemon.engine.cancel import beside, together


async def fail_when_cancelled() -> None:
    """Something whose last write is refused."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        raise OSError("no room") from None


async def with_something_beside() -> None:
    """The same, beside what is waited for."""
    async with beside(fail_when_cancelled()):
        await asyncio.sleep(60)


@pytest.mark.fault("K4")
@pytest.mark.parametrize("turns", range(1, 5))
async def test_a_cancelled_one_ends_as_cancelled(turns: int) -> None:
    """Whatever fails at that moment, and however long it has been at work."""
    works = (together([fail_when_cancelled(), asyncio.sleep(60)]), with_something_beside())
    tasks = [asyncio.create_task(work) for work in (*works, together([with_something_beside()]))]
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [True] * len(tasks)


async def test_a_failure_is_told_as_itself() -> None:
    """The first one; the others are cancelled."""
    with pytest.raises(OSError, match="no room"):
        await together([fail_at_once(), asyncio.sleep(60)])
    with pytest.raises(OSError, match="no room"):
        async with beside(fail_at_once()):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
    assert await together(asyncio.sleep(0, number) for number in range(500)) == list(range(500))
    assert await together([]) == []


async def fail_at_once() -> None:
    """No room from the start."""
    raise OSError("no room")
