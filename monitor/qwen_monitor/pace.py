"""How fast a model arrives, seen from outside: rate over the last seconds, average, time left, a little history.

Pure. The caller feeds (monotonic seconds, bytes received over the network); bytes found on disk by a check do not
count, or the first second after it would claim gigabytes per second. The daemon's own rates per file stand in
`FileStatus.rate_bps`.
"""

from __future__ import annotations

import math

import msgspec

WINDOW_S = 10.0  # short enough to follow a change, long enough that 64 MiB bursts do not show
HISTORY_S = 600.0  # the drawn history and the average
SETTLED_S = 3.0  # a shorter history says less than the daemon's own rates
SAMPLES_MAX = 1200  # HISTORY_S at two samples a second


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """Samples of (monotonic seconds, bytes), oldest first, of one model's commit."""

    samples: tuple[tuple[float, int], ...] = ()

    def fed(self, now_s: float, received_bytes: int) -> Pace:
        """With one more sample; a count that fell (another daemon, another commit) starts anew."""
        if self.samples and (received_bytes < self.samples[-1][1] or now_s < self.samples[-1][0]):
            return Pace(samples=((now_s, received_bytes),))
        kept = tuple(s for s in self.samples if s[0] >= now_s - HISTORY_S)[1 - SAMPLES_MAX :]
        return Pace(samples=(*kept, (now_s, received_bytes)))

    @property
    def is_settled(self) -> bool:
        """True when the history is long enough to be believed."""
        return bool(self.samples) and self.samples[-1][0] - self.samples[0][0] >= SETTLED_S

    def rate_bps(self) -> float:
        """Bytes per second over the last WINDOW_S; 0 with fewer than two samples."""
        return self._over(WINDOW_S)

    def average_bps(self) -> float:
        """Bytes per second over all that is kept, from the first byte that moved."""
        moving = next((i for i, (_, b) in enumerate(self.samples) if b > self.samples[0][1]), None)
        return 0.0 if moving is None else _slope(self.samples[max(0, moving - 1) :])

    def eta_s(self, left_bytes: int) -> float:
        """Seconds until `left_bytes` more have come: at the average of the last minute; infinite when nothing moves."""
        if left_bytes <= 0:
            return 0.0
        rate = self._over(6 * WINDOW_S) if self.rate_bps() > 0 else 0.0
        return left_bytes / rate if rate > 0 else math.inf

    def history(self, buckets: int) -> tuple[float, ...]:
        """Bytes per second in `buckets` equal stretches of the last HISTORY_S, or of what there is if that is less."""
        if buckets < 1 or len(self.samples) < 2:
            return ()
        end = self.samples[-1][0]
        step = max(1.0, min(HISTORY_S, end - self.samples[0][0]) / buckets)
        moved = [0.0] * buckets
        for (before_s, before), (at_s, count) in zip(self.samples, self.samples[1:], strict=False):
            # After a time without samples nobody knows when it came: it must not look like a leap of the last moment.
            parts = max(1, int((at_s - before_s) / step))
            for part in range(parts):
                middle_s = before_s + (at_s - before_s) * (part + 0.5) / parts
                bucket = buckets - 1 - int((end - middle_s) / step)
                if bucket >= 0:
                    moved[bucket] += (count - before) / parts
        return tuple(m / step for m in moved)

    def _over(self, window_s: float) -> float:
        if not self.samples:
            return 0.0
        since = self.samples[-1][0] - window_s
        return _slope(tuple(s for s in self.samples if s[0] >= since))


def _slope(samples: tuple[tuple[float, int], ...]) -> float:
    if len(samples) < 2 or samples[-1][0] <= samples[0][0]:
        return 0.0
    return (samples[-1][1] - samples[0][1]) / (samples[-1][0] - samples[0][0])
