"""Loaders as the daemon knows them: what is news, and who is missed. Time is moved by hand."""

from __future__ import annotations

import pytest

from qwen_api import events as e
from qwen_daemon.engine.bus import Bus
from qwen_daemon.engine.loaders import LOOK_EVERY_S, Loaders

HEARTBEAT_S = 10.0


class HandClock:
    """Time passes when somebody moves the hands."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def advance(self, seconds: float) -> None:
        self._now_s += seconds

    def monotonic_s(self) -> float:
        return self._now_s

    def utc(self, in_s: float = 0.0) -> str:
        return "2026-11-23T14:00:00.000Z"

    def dice(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody sleeps here")


class Scene:
    """A bus, the loaders on it, and the processes that live."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.bus = Bus(self.clock, "test")
        self.living = {1, 2}
        self.loaders = Loaders(self.clock, self.bus, self.living.__contains__)

    def hear(self, state: e.LoaderState, *, pid: int = 0, heartbeat_s: float = HEARTBEAT_S, **more: int) -> int | None:
        return self.loaders.hear(e.LoaderChanged(name="gpu0", state=state, pid=pid, **more), heartbeat_s)

    def pass_time(self, seconds: float) -> None:
        """So long, with a look every so often."""
        while seconds > 0:
            self.clock.advance(min(LOOK_EVERY_S, seconds))
            self.loaders.miss()
            seconds -= LOOK_EVERY_S

    def state(self) -> tuple[str, str]:
        loader = self.bus.status.loaders["gpu0"]
        return loader.state, loader.detail


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_saying_it_again_is_no_news(scene: Scene) -> None:
    """A heartbeat wakes no reader; a byte more does."""
    assert scene.hear("loading", loaded_bytes=5) == 1
    assert scene.hear("loading", loaded_bytes=5) is None
    assert scene.hear("loading", loaded_bytes=6) == 2
    assert scene.bus.seq == 2


def test_who_promised_to_speak_and_does_not_has_failed(scene: Scene) -> None:
    """A process that is stopped, or hangs with the interpreter's lock, is alive for the kernel."""
    scene.hear("loading", pid=1)
    scene.pass_time(2 * HEARTBEAT_S)
    assert scene.state() == ("loading", "")
    scene.pass_time(HEARTBEAT_S)
    assert scene.state() == ("failed", "stopped, hung or cut off: not a word for 30 s while loading")


def test_a_heartbeat_keeps_it_and_brings_it_back(scene: Scene) -> None:
    """It may have been asleep; what it says then counts."""
    scene.hear("ready", pid=1)
    for _ in range(5):
        scene.pass_time(2 * HEARTBEAT_S)
        scene.hear("ready", pid=1)
    assert scene.state() == ("ready", "")
    scene.pass_time(4 * HEARTBEAT_S)
    assert scene.state()[0] == "failed"
    scene.hear("ready", pid=1)
    scene.loaders.miss()
    assert scene.state() == ("ready", "")


def test_a_dead_process_is_missed_at_once(scene: Scene) -> None:
    """The kernel knows before three heartbeats are over."""
    scene.hear("waiting", pid=2)
    scene.living.remove(2)
    scene.loaders.miss()
    assert scene.state() == ("failed", "killed, or out of memory: process 2 ended without a word while waiting")


@pytest.mark.parametrize("last", ["gone", "failed"])
def test_nobody_is_missed_twice(scene: Scene, last: e.LoaderState) -> None:
    """What is over is over."""
    scene.hear("loading", pid=1)
    scene.hear(last, pid=1)
    seq = scene.bus.seq
    scene.living.clear()
    scene.pass_time(100 * HEARTBEAT_S)
    assert scene.bus.seq == seq


def test_who_promised_nothing_is_not_missed(scene: Scene) -> None:
    """A shell script that says `loading` with curl."""
    scene.hear("loading", heartbeat_s=0)
    scene.pass_time(1e4)
    assert scene.state() == ("loading", "")


def test_who_could_not_be_heard_is_not_missed(scene: Scene) -> None:
    """The daemon itself was stopped, or its machine asleep: the silence of that time counts for nobody."""
    scene.hear("loading", pid=1)
    scene.pass_time(2 * HEARTBEAT_S)
    scene.clock.advance(1000)
    scene.loaders.miss()
    assert scene.state() == ("loading", "")
    scene.pass_time(LOOK_EVERY_S - 1)
    assert scene.state() == ("loading", ""), "20 s, one interval and this"
    scene.pass_time(1)
    assert scene.state() == ("failed", "stopped, hung or cut off: not a word for 30 s while loading")


def test_who_died_meanwhile_is_missed_at_the_next_look(scene: Scene) -> None:
    """Of a process the kernel knows whether it is there."""
    scene.hear("loading", pid=2)
    scene.living.remove(2)
    scene.clock.advance(1000)
    scene.pass_time(LOOK_EVERY_S)
    scene.pass_time(LOOK_EVERY_S)
    assert scene.state()[0] == "failed"
