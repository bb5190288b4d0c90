"""The clock and the dice: the one place that asks the operating system for either."""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime, timedelta


class SystemClock:
    """ports.Clock over the operating system."""

    def monotonic_s(self) -> float:
        """CLOCK_MONOTONIC in seconds."""
        return time.monotonic()

    def utc(self, in_s: float = 0.0) -> str:
        """RFC 3339 UTC with milliseconds."""
        at = datetime.now(UTC) + timedelta(seconds=in_s)
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def dice(self) -> float:
        """Jitter needs no secrecy."""
        return random.random()  # noqa: S311 - spreads retries, guards nothing

    async def sleep(self, seconds: float) -> None:
        """asyncio.sleep."""
        await asyncio.sleep(seconds)
