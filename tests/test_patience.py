"""When a disk that does not answer is told: after five seconds, and later for a call that touches many files."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from qwen_api import events as e
from qwen_daemon.engine.patience import Patience
from tests.fakes.virtual_time import run_virtually


class Clock:
    """ports.Clock on the loop's time."""

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    def utc(self, in_s: float = 0.0) -> str:
        return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.monotonic_s() + in_s)).isoformat()

    def dice(self) -> float:
        raise AssertionError("patience does not throw dice")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def said(*calls: tuple[int, float]) -> list[tuple[str, str]]:
    """Codes and details that are told while calls of so many files take so many seconds, one after the other."""
    told: list[e.Event] = []

    def publish(event: e.Event) -> int:
        told.append(event)
        return len(told)

    patience = Patience(clock=Clock(), model="m", publish=publish, state="checking")
    teller = asyncio.create_task(patience.tell())
    for files, seconds in calls:
        with patience.asking("looking", files):
            await asyncio.sleep(seconds)
    await asyncio.sleep(2)
    teller.cancel()
    return [(event.code, event.detail) for event in told if isinstance(event, e.ModelStateChanged)]


@pytest.mark.parametrize(
    ("call", "is_stuck"), [((1, 4.0), False), ((1, 7.0), True), ((1000, 24.0), False), ((1000, 27.0), True)]
)
def test_a_call_may_take_the_time_of_its_files(call: tuple[int, float], is_stuck: bool) -> None:
    """A look at a thousand files on a slow disk is no stuck disk for twenty-five seconds; then it is said, and ends."""
    detail = "looking has not come back since 00:00:00 UTC"
    assert run_virtually(said(call)) == ([("E_DISK_STUCK", detail), ("", "")] if is_stuck else [])


def test_what_began_before_is_not_counted_for_what_came_later() -> None:
    """Many short calls are no long one."""
    assert run_virtually(said((1, 4.0), (1, 4.0), (1, 4.0))) == []
