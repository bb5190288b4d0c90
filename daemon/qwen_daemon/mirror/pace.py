"""One speed limit for everything the mirror sends.

It exists so that a demo on one machine has a middle, and so that a mirror leaves room on a LAN. Each writer
books the next free slice of time; bookings are served in order, so connections take turns piece by piece.
"""

import asyncio

PIECE_BYTES = 64 * 1024  # one write: the grain of turns between connections
PIECES_PER_S_MIN = 16  # at low limits pieces shrink, so that bytes still flow smoothly
PIECE_BYTES_MIN = 1024
LATE_S_MAX = 0.05  # how much idle time may be caught up: a timer's lateness, not a burst


class Pace:
    """A token bucket without a bucket: ``limit_bps`` bytes per second over all callers; None is no limit."""

    def __init__(self, limit_bps: int | None) -> None:
        self._limit_bps = limit_bps
        self._free_at_s = 0.0

    @property
    def piece_bytes(self) -> int:
        """How much to write at once."""
        if self._limit_bps is None:
            return PIECE_BYTES
        return max(PIECE_BYTES_MIN, min(PIECE_BYTES, self._limit_bps // PIECES_PER_S_MIN))

    async def take(self, length: int) -> None:
        """Wait until ``length`` bytes may be sent."""
        if self._limit_bps is None:
            return
        now = asyncio.get_running_loop().time()
        start = max(now - LATE_S_MAX, self._free_at_s)
        self._free_at_s = start + length / self._limit_bps
        if start > now:
            await asyncio.sleep(start - now)
