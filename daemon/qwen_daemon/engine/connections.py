"""Who opens the next connection: one budget for the whole daemon, shared by the files in flight.

A file without any goes first (more files at once are better than more streams per file: their hashes run side by
side); then the files of the component that is wanted first, and among them the one that would otherwise be done last.
What a connection fetches is the file's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from qwen_daemon.core.order import Place
from qwen_daemon.engine.budget import DEFAULT_RANK, Rank


class Fetching(Protocol):
    """One file in flight, as the budget sees it."""

    @property
    def streams(self) -> int:
        """Connections it has now."""

    def wants_stream(self) -> bool:
        """True if one more would have something to do."""

    def left_bytes(self) -> int:
        """What has not come yet."""

    def open_stream(self) -> None:
        """Take one connection, now; `Connections.release` when it has ended."""

    def rates_bps(self) -> list[float]:
        """What its connections give, those that are old enough to be judged."""


class Connections:
    """At most `count_max` connections at once. All methods return at once and must be called on the event loop."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._open = 0
        self._fetching: dict[Fetching, Rank] = {}
        self._expected_bytes = 0
        self._remembered_bps = 0.0  # what the last connection that did its work gave

    @property
    def count_max(self) -> int:
        """The budget."""
        return self._count_max

    def resize(self, count_max: int) -> None:
        """Change the budget; too many connections are not cut, they are not replaced."""
        self._count_max = count_max
        self.fill()

    def share(self, mine: Fetching) -> int:
        """How many connections this file may expect: as many of all as it has of all bytes that are left."""
        left_bytes = self._expected_bytes + sum(each.left_bytes() for each in self._fetching)
        return max(1, round(self._count_max * mine.left_bytes() / left_bytes)) if left_bytes else 1

    @contextmanager
    def expecting(self, size_bytes: int) -> Iterator[None]:
        """A large file of this size will join: who comes first must not be cut up for connections it will not get."""
        self._expected_bytes += size_bytes
        try:
            yield
        finally:
            self._expected_bytes -= size_bytes

    def join(self, fetching: Fetching, rank: Rank = DEFAULT_RANK) -> None:
        """A file begins; it is asked at once."""
        self._fetching[fetching] = rank
        self.fill()

    def leave(self, fetching: Fetching) -> None:
        """A file ends; its connections have been released."""
        del self._fetching[fetching]
        self.fill()

    def release(self) -> None:
        """A connection ended."""
        self._open -= 1
        self.fill()

    def fill(self) -> None:
        """Hand out what is free. To be called whenever a file may want more than before."""
        while self._open < self._count_max:
            wanting = [each for each in self._fetching if each.wants_stream()]
            if not wanting:
                return
            self._open += 1
            min(wanting, key=self._turn).open_stream()

    def _turn(self, fetching: Fetching) -> tuple[bool, Place, float]:
        """The smallest is next."""
        place = self._fetching[fetching].place.of_component
        return fetching.streams > 0, place, -fetching.left_bytes() / (fetching.streams + 1)

    def others_bps(self, mine: Fetching) -> list[float]:
        """What the connections of the other files give."""
        return [rate for each in self._fetching if each is not mine for rate in each.rates_bps()]

    @property
    def remembered_bps(self) -> float:
        """To compare the last connection with, when it has no siblings any more."""
        return self._remembered_bps

    def remember(self, rate_bps: float) -> None:
        """A connection did its work at this rate."""
        self._remembered_bps = rate_bps

    def doubt(self) -> None:
        """Something was cut because of what is remembered: believe it less, for the whole line may be slower now."""
        self._remembered_bps /= 4
