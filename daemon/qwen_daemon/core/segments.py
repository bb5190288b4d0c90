"""Which bytes of one file are here, which are coming, and which stream fetches which next. Pure: no clock, no network.

A lease is a stretch that one connection fetches in one request. Leases are handed out from the front, so that the hash
can follow; a connection that finds nothing free takes the far half of the lease that will take longest. Every byte is
in exactly one of four places: free, leased, written, or (once) given back.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Iterable
from dataclasses import dataclass

from qwen_daemon.core.tuning import Tuning

LAST_WAITS = 3  # what is hashed in so many first bytes' waits is left to one last round
REST_SHARE = 0.25  # of a lease: if no more than that would be missing, what is left over is one of its own


@dataclass(eq=False)
class Lease:
    """Bytes [position, end) are still to come over this connection; `end` shrinks when another takes the far half."""

    start: int
    end: int
    position: int

    @property
    def left_bytes(self) -> int:
        """What is still to come."""
        return self.end - self.position


class Ranges:
    """A set of bytes as sorted, disjoint, never touching [start, end) pairs."""

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self._pairs: list[tuple[int, int]] = []
        for start, end in pairs:
            self.add(start, end)

    def add(self, start: int, end: int) -> None:
        """Put the bytes in; those that are in already stay."""
        if start >= end:
            return
        touching = [pair for pair in self._pairs if pair[0] <= end and start <= pair[1]]
        for pair in touching:
            self._pairs.remove(pair)
        insort(self._pairs, (min([start, *(p[0] for p in touching)]), max([end, *(p[1] for p in touching)])))

    def take_first(self, length_max: int) -> tuple[int, int] | None:
        """Take out the lowest bytes, at most so many, all of one stretch."""
        if not self._pairs:
            return None
        start, end = self._pairs[0]
        cut = min(end, start + length_max)
        self._pairs[:1] = [(cut, end)] if cut < end else []
        return start, cut

    def end_of_run(self, position: int) -> int:
        """How far the bytes from `position` on are in without a gap."""
        index = bisect_right(self._pairs, (position, 1 << 62)) - 1
        return max(position, self._pairs[index][1]) if index >= 0 and self._pairs[index][1] > position else position

    @property
    def first(self) -> int | None:
        """The lowest byte."""
        return self._pairs[0][0] if self._pairs else None

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The stretches."""
        return tuple(self._pairs)

    @property
    def count_bytes(self) -> int:
        """How many bytes are in."""
        return sum(end - start for start, end in self._pairs)


class Segments:
    """The state of one file's fetch. `holes` are the stretches that have to come over the network.

    A lease that is stolen from is cut at a multiple of `align_bytes`: the two do not write to one page.
    """

    def __init__(self, holes: Iterable[tuple[int, int]], align_bytes: int) -> None:
        self._align_bytes = align_bytes
        self._free = Ranges(holes)
        self._written = Ranges()
        self._leases: list[Lease] = []
        self._ahead_bytes = 0  # handed out or written, and not hashed yet

    @property
    def free_bytes(self) -> int:
        """Bytes that no connection fetches yet."""
        return self._free.count_bytes

    @property
    def left_bytes(self) -> int:
        """Bytes that have not come yet."""
        return self.free_bytes + sum(lease.left_bytes for lease in self._leases)

    @property
    def leases(self) -> tuple[Lease, ...]:
        """The stretches being fetched."""
        return tuple(self._leases)

    def absent(self) -> list[tuple[int, int]]:
        """The stretches that have not come, in order: those nobody fetches yet, and what connections still lack."""
        return sorted([*self._free.pairs, *((x.position, x.end) for x in self._leases if x.left_bytes)])

    def may_take(self, window_bytes: int) -> bool:
        """True if bytes are free and not too far ahead of the hash; what the hash waits for is never too far."""
        first = self._free.first
        if first is None:
            return False
        blocks_the_hash = all(first < lease.start for lease in self._leases)
        return blocks_the_hash or self._ahead_bytes < window_bytes

    def take(self, length_max: int, window_bytes: int) -> Lease | None:
        """Lease the first free bytes, at most `length_max`."""
        if not self.may_take(window_bytes):
            return None
        taken = self._free.take_first(length_max)
        assert taken is not None, "may_take said so"
        return self._lease(*taken)

    def steal(self, victim: Lease, keep_bytes: int) -> Lease:
        """Lease what `victim` has left behind the next `keep_bytes`; it ends sooner now. Both get at least a byte."""
        middle = victim.position + min(max(1, keep_bytes), victim.left_bytes - 1)
        aligned = middle - middle % self._align_bytes
        middle = aligned if aligned > victim.position else middle
        end, victim.end = victim.end, middle
        self._ahead_bytes -= end - middle
        return self._lease(middle, end)

    def took(self, lease: Lease, count: int) -> int:
        """So many bytes came for the lease; returns how many of them it still wants."""
        wanted = min(count, lease.left_bytes)
        lease.position += wanted
        return wanted

    def wrote(self, start: int, end: int) -> None:
        """These bytes are in the file."""
        self._written.add(start, end)

    def give_back(self, lease: Lease) -> None:
        """The connection ended; what did not come is free again."""
        self._leases.remove(lease)
        self._ahead_bytes -= lease.left_bytes
        self._free.add(lease.position, lease.end)

    def written_to(self, position: int) -> int:
        """How far the file is written without a gap from `position` on."""
        return self._written.end_of_run(position)

    def hashed(self, count: int) -> None:
        """So many more fetched bytes were hashed."""
        self._ahead_bytes -= count

    def need(self, start: int, end: int) -> None:
        """What was thought to be here is not: it has to come after all."""
        self._free.add(start, end)

    def _lease(self, start: int, end: int) -> Lease:
        lease = Lease(start=start, end=end, position=start)
        self._leases.append(lease)
        self._ahead_bytes += end - start
        return lease


def lease_bytes(left_bytes: int, free_bytes: int, streams: int, first_byte_s: float, tuning: Tuning) -> int:
    """How much the next of `streams` connections should take, so that the last ones and the hash end together.

    Connections that end together leave all of their round but its first lease to the hash. So a round is at most half
    of what is left, as long as hashing that half takes longer than another first byte's wait. What is free is cut
    evenly, for a short rest would be fetched alone, when all others are done.
    """
    align_bytes, wait_bytes = tuning.align_bytes, tuning.hash_bps * first_byte_s
    at_least = min(tuning.lease_min_bytes, max(tuning.lease_near_bytes, _up(wait_bytes / streams, align_bytes)))
    round_bytes = tuning.window_bytes if left_bytes <= LAST_WAITS * wait_bytes else left_bytes / 2
    at_most = _up(min(round_bytes, tuning.window_bytes) / streams, align_bytes)
    at_most = max(at_least, min(tuning.lease_max_bytes, at_most))
    rounds = max(1, math.ceil(left_bytes / (streams * at_most)))
    share_bytes = max(at_least, left_bytes / (streams * rounds))
    leases = max(1, int(free_bytes / share_bytes + REST_SHARE))
    return min(at_most, max(at_least, _up(free_bytes / leases, align_bytes)))


def _up(value: float, multiple: int) -> int:
    return math.ceil(value / multiple) * multiple


def holes_between(spans: Iterable[tuple[int, int]], size_bytes: int) -> list[tuple[int, int]]:
    """What the recorded stretches (sorted, disjoint) leave out of a file."""
    holes, position = [], 0
    for start, end in spans:
        if start > position:
            holes.append((position, start))
        position = end
    if position < size_bytes:
        holes.append((position, size_bytes))
    return holes
