"""The loaders that tell of themselves: what is new goes on the bus, and who is gone without a word has failed.

A loader whose process the kernel named is missed when that process ends: killed, or out of memory. One that promised to
say its state every so often is missed when it does not: stopped, hung, or in a container that is gone. One that did
neither passed by, and stays as it last said. While this process itself was stopped it heard nobody: that is no silence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from qwen_api import events as e
from qwen_api.status import LoaderStatus, Status
from qwen_daemon.ports import Clock

LOOK_EVERY_S = 5.0  # how often `miss` is to be called
MISSED_HEARTBEATS = 3  # an import of torch on a busy machine may swallow one


class Stream(Protocol):
    """What is needed of the bus."""

    @property
    def status(self) -> Status:
        """The state after the last event."""

    def publish(self, event: e.Event) -> int:
        """Returns its seq."""


class Loaders:
    """`lives` says whether there is a process with this pid."""

    def __init__(self, clock: Clock, bus: Stream, lives: Callable[[int], bool]) -> None:
        self._clock = clock
        self._bus = bus
        self._lives = lives
        self._looked_s = clock.monotonic_s()
        self._due_s: dict[str, tuple[float, float]] = {}  # by name: when it is missed, and after how long a silence

    def hear(self, told: e.LoaderChanged, heartbeat_s: float) -> int | None:
        """A loader says this, and will again within `heartbeat_s` (0: no promise). The event's seq; None: no news."""
        silence_s = MISSED_HEARTBEATS * heartbeat_s
        self._due_s.pop(told.name, None)
        if silence_s > 0 and told.state not in ("failed", "gone"):
            self._due_s[told.name] = (self._clock.monotonic_s() + silence_s, silence_s)
        known = self._bus.status.loaders.get(told.name)
        if known is not None and _says(known) == _says(told):
            return None
        return self._bus.publish(told)

    def miss(self) -> None:
        """Publish that those have failed who are gone without a word."""
        now_s = self._clock.monotonic_s()
        late_s, self._looked_s = now_s - self._looked_s - LOOK_EVERY_S, now_s
        if late_s > LOOK_EVERY_S:
            self._due_s = {name: (due_s + late_s, silence_s) for name, (due_s, silence_s) in self._due_s.items()}
            return
        for loader in list(self._bus.status.loaders.values()):
            why = "" if loader.is_over else self._why_missed(loader)
            if why:
                self._due_s.pop(loader.name, None)
                detail = f"{why} while {loader.state}"
                self._bus.publish(e.LoaderChanged(name=loader.name, state="failed", model=loader.model, detail=detail))

    def _why_missed(self, loader: LoaderStatus) -> str:
        if loader.pid > 0 and not self._lives(loader.pid):
            return f"killed, or out of memory: process {loader.pid} ended without a word"
        due_s, silence_s = self._due_s.get(loader.name, (float("inf"), 0.0))
        if self._clock.monotonic_s() >= due_s:
            return f"stopped, hung or cut off: not a word for {silence_s:.0f} s"
        return ""


def _says(loader: LoaderStatus | e.LoaderChanged) -> dict[str, object]:
    return {name: getattr(loader, name) for name in LoaderStatus.__struct_fields__ if name != "since"}
