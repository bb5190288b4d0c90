"""How many connections one file may have: few at first, more while they bring something, fewer after a refusal. Pure.

A slow start, because most files are small, most lines are full with two connections, and a server that refuses the
ninth has not refused the first eight. Times are readings of a monotonic clock, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

EAGER_STREAMS_MAX = 8  # of a huge file, before anything is known
GROWTH = 8  # times as many at each step: one step to sixteen, as long as a first byte takes
GAIN_SHARE = 1.25  # what added connections must bring
HUMBLE_S = 5.0  # after a refused connection, before more than are running are tried; doubled up to HUMBLE_MAX_S
HUMBLE_MAX_S = 60.0


def eager_streams(left_bytes: int, eager_bytes: int) -> int:
    """How many a file begins with: one below `eager_bytes`, then two, and for a huge one as many as it can well use."""
    if left_bytes < eager_bytes:
        return 1
    return min(EAGER_STREAMS_MAX, max(2, left_bytes // (2 * eager_bytes)))


@dataclass
class Growth:
    """`allowed` connections now. It begins with `eager`; a file that begins with one has no use for more."""

    eager: int
    allowed: int = 1
    _before: int = 1
    _grown_at_bps: float = 0.0  # what all together gave when more were last added
    _humble_until_s: float = 0.0
    _humble_s: float = HUMBLE_S

    def __post_init__(self) -> None:
        self.allowed = self._before = self.eager

    def all_proven(self, rate_bps: float, count_max: int, now_s: float) -> bool:
        """All that are allowed are there and give `rate_bps` together; True if more are allowed now."""
        if self.eager == 1 or now_s < self._humble_until_s:
            return False
        if rate_bps < GAIN_SHARE * self._grown_at_bps:  # the line or the CPU is the limit: what was added goes again
            self.allowed = self._before
            self._humble_until_s = now_s + HUMBLE_MAX_S
            return False
        self._grown_at_bps = 0.0  # what was added last is judged once: later it is the line that may have changed
        more = min(count_max, GROWTH * self.allowed)
        if more <= self.allowed:
            return False
        self._grown_at_bps, self._before, self.allowed = rate_bps, self.allowed, more
        return True

    def refused(self, others: int, now_s: float, *, brought_something: bool) -> None:
        """One connection failed while `others` go on: no more than those for a while."""
        self.allowed = max(1, min(self.allowed, others))
        self._grown_at_bps = 0.0  # that was with connections which are gone: what is left may grow again
        self._humble_until_s = now_s + self._humble_s
        self._humble_s = HUMBLE_S if brought_something else min(HUMBLE_MAX_S, 2 * self._humble_s)
