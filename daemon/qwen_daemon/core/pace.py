"""Rates, remaining time and stalls, from (time, bytes) readings that somebody else takes.

Times are readings of a monotonic clock, in seconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

WINDOW_S = 10.0  # long enough to smooth TCP's bursts, short enough to see a change
RATE_MIN_S = 0.1  # a rate over less is noise
STALL_NOTICE_S = 5.0  # silence that is shown to people
STALL_CUT_S = 30.0  # silence after which the connection is given up


@dataclass
class Pace:
    """The readings of the last WINDOW_S seconds of one transfer."""

    started_s: float
    total_bytes: int = 0
    last_byte_s: float = 0.0
    _readings: deque[tuple[float, int]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.last_byte_s = self.last_byte_s or self.started_s
        self._readings.append((self.started_s, 0))

    def took(self, now_s: float, count: int) -> None:
        """`count` more bytes arrived."""
        if count > 0:
            self.total_bytes += count
            self.last_byte_s = now_s

    def rate_bps(self, now_s: float) -> int:
        """Bytes per second over the window; also takes a reading."""
        self._readings.append((now_s, self.total_bytes))
        while len(self._readings) > 2 and self._readings[0][0] < now_s - WINDOW_S:
            self._readings.popleft()
        first_s, first_bytes = self._readings[0]
        elapsed_s = now_s - first_s
        return int((self.total_bytes - first_bytes) / elapsed_s) if elapsed_s >= RATE_MIN_S else 0

    def idle_s(self, now_s: float) -> float:
        """Seconds since the last byte."""
        return max(0.0, now_s - self.last_byte_s)


def eta_s(remaining_bytes: int, rate_bps: int) -> float | None:
    """Seconds to go at this rate; None while nothing moves."""
    if remaining_bytes <= 0:
        return 0.0
    return remaining_bytes / rate_bps if rate_bps > 0 else None
