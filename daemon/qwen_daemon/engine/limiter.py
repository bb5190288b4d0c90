"""How fast bytes may come: token buckets that can be changed while streams wait on them.

A stream asks for each chunk before it reads it. One `Gate` holds everybody who waits, in the order they came, because a
chunk must pass several limits at once (the daemon's and its model's): taken one after the other, chunks that passed the
first limit would gather before the second and break the first in a bunch. Who sets the limits is engine.controls'
business; a stream that waits here is not slow, which is engine.download's to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

BURST_S = 0.25  # idle time that may be caught up: enough for late timers, too little to be seen on the line
TICK_S = 0.005  # waiters are served in batches, or a limit of 1 GB/s would wake the loop 15,000 times a second
ROUNDING_BYTES = 1.0  # clocks are floats: what lacks less than this is there


class Monotonic(Protocol):
    """The part of ports.Clock that is needed here."""

    def monotonic_s(self) -> float:
        """Seconds that never run backwards."""


class RateLimit:
    """A token bucket of bytes, filled at `rate_bps` (None: no limit) up to a quarter of a second's worth.

    In any window of W seconds at most W * rate_bps + max(rate_bps / 4, the largest chunk) bytes pass.
    """

    def __init__(self, gate: Gate, rate_bps: int | None = None) -> None:
        self._gate = gate
        self._rate_bps = rate_bps
        self._tokens = 0.0  # below zero: the debt of a chunk that was larger than the burst
        self._filled_s = gate.now_s()

    @property
    def gate(self) -> Gate:
        """Where its waiters stand."""
        return self._gate

    @property
    def rate_bps(self) -> int | None:
        """Bytes per second; None is no limit."""
        return self._rate_bps

    def set(self, rate_bps: int | None) -> None:
        """Another limit from now on; whoever waits is served by it at once. `rate_bps` must be positive."""
        if rate_bps is not None and rate_bps <= 0:
            raise ValueError(f"{rate_bps} bytes per second would never let anything pass")
        if rate_bps == self._rate_bps:
            return
        now_s = self._gate.now_s()
        self._fill(now_s)
        self._rate_bps, self._filled_s = rate_bps, now_s
        self._tokens = 0.0 if rate_bps is None else min(self._tokens, rate_bps * BURST_S)
        self._gate.serve()

    def ready_s(self, count: int, now_s: float) -> float:
        """When `count` bytes may pass; `now_s` if they may now."""
        if self._rate_bps is None:
            return now_s
        self._fill(now_s)
        lacking = min(count, self._rate_bps * BURST_S) - self._tokens
        return now_s if lacking < ROUNDING_BYTES else now_s + lacking / self._rate_bps

    def charge(self, count: int) -> None:
        """`count` bytes pass (or did not after all, if negative)."""
        if self._rate_bps is not None:
            self._tokens = min(self._tokens - count, self._rate_bps * BURST_S)

    def _fill(self, now_s: float) -> None:
        if self._rate_bps is not None:
            gained = (now_s - self._filled_s) * self._rate_bps
            self._tokens = min(self._tokens + gained, self._rate_bps * BURST_S)
            self._filled_s = now_s


class Limiter:
    """All the limits that one kind of stream passes (the daemon's, its model's), which must be of one gate."""

    def __init__(self, *limits: RateLimit) -> None:
        if len({limit.gate for limit in limits}) != 1:
            raise ValueError("limits that are passed together must be of one gate")
        self._limits = limits
        self._gate = limits[0].gate
        self._waiting = 0

    @property
    def is_limited(self) -> bool:
        """True if any limit is set, so that `take` may wait."""
        return any(limit.rate_bps is not None for limit in self._limits)

    @property
    def rate_bps(self) -> int | None:
        """The lowest limit, which more connections cannot beat; None is no limit."""
        return min((limit.rate_bps for limit in self._limits if limit.rate_bps is not None), default=None)

    @property
    def waiting(self) -> bool:
        """True while a stream waits here."""
        return self._waiting > 0

    async def take(self, count: int) -> float:
        """Wait until `count` bytes may pass under every limit; returns the seconds waited, 0.0 if none.

        Without a limit, and whenever there is room, it does not suspend. Streams are served in the order they came,
        except past one that only its own model's limit holds. A cancelled waiter has taken nothing.
        """
        if count <= 0 or not self.is_limited:
            return 0.0
        waiter = self._gate.enter(self._limits, count)
        if waiter is None:
            return 0.0
        began_s = self._gate.now_s()
        self._waiting += 1
        try:
            await waiter.passed
        except asyncio.CancelledError:
            self._gate.leave(waiter)
            raise
        finally:
            self._waiting -= 1
        return self._gate.now_s() - began_s


@dataclass(eq=False)
class _Waiter:
    limits: Sequence[RateLimit]
    count: int
    passed: asyncio.Future[None]


class Gate:
    """Everybody who waits on any limit, in the order they came, and the one timer that lets them pass."""

    def __init__(self, clock: Monotonic) -> None:
        self._clock = clock
        self._waiters: list[_Waiter] = []
        self._held: set[RateLimit] = set()  # limits that hold a waiter: nobody may pass him there
        self._timer: asyncio.TimerHandle | None = None

    def now_s(self) -> float:
        """The clock's seconds."""
        return self._clock.monotonic_s()

    def enter(self, limits: Sequence[RateLimit], count: int) -> _Waiter | None:
        """None if `count` bytes may pass at once (then they are taken), else a place in the line."""
        is_held = not self._held.isdisjoint(limits)
        now_s = self.now_s()
        if not is_held and all(limit.ready_s(count, now_s) <= now_s for limit in limits):
            _charge(limits, count)
            return None
        waiter = _Waiter(limits, count, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        if not is_held:  # else whoever is held before him has set the timer
            self.serve()
        return waiter

    def leave(self, waiter: _Waiter) -> None:
        """Go without having passed; what was let through in the meantime is given back."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        elif not waiter.passed.cancelled():
            _charge(waiter.limits, -waiter.count)
        self.serve()

    def serve(self) -> None:
        """Let through whoever may pass now, and come again when the next one may."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._held = set()
        now_s, next_s = self.now_s(), float("inf")
        left: list[_Waiter] = []
        for waiter in self._waiters:
            if waiter.passed.done():
                continue  # cancelled in this very turn of the loop
            if not self._held.isdisjoint(waiter.limits):
                left.append(waiter)
                continue
            # Only the limit that holds him longest: on the others, those of other models need not wait for him.
            ready_s, slowest = max(
                ((limit.ready_s(waiter.count, now_s), limit) for limit in waiter.limits), key=lambda pair: pair[0]
            )
            if ready_s <= now_s:
                _charge(waiter.limits, waiter.count)
                waiter.passed.set_result(None)
                continue
            self._held.add(slowest)
            next_s = min(next_s, ready_s)
            left.append(waiter)
        self._waiters = left
        if left:
            self._timer = asyncio.get_running_loop().call_later(max(TICK_S, next_s - now_s), self.serve)


def _charge(limits: Sequence[RateLimit], count: int) -> None:
    for limit in limits:
        limit.charge(count)
