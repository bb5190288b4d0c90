"""What was really sent: every byte range written to a socket, per file.

It exists so that a demo or a test can prove that nothing was downloaded twice: the server, not the client,
counts. It knows nothing of HTTP; ``http`` reports each write here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

# A mirror that runs for months must not grow without end; beyond this a file's ranges are merged.
RANGES_KEPT_MAX = 4096

Range = tuple[int, int]  # start, end_exclusive


class FileStats(msgspec.Struct, frozen=True, kw_only=True):
    """One file's part of the statistics. Ranges are ``[start, end_exclusive]``, in the order they began."""

    bytes_sent: int
    bytes_sent_twice: int
    ranges: list[Range]


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``GET /-/mirror/stats``. Files are named ``org/name:path``; only bodies of files count as sent.

    ``requests`` are those on the Hub's routes, refused ones included.
    """

    bytes_sent: int
    bytes_sent_twice: int
    requests: int
    files: dict[str, FileStats]


def union(ranges: Iterable[Range]) -> list[Range]:
    """Merge ranges into the sorted, disjoint ones that cover the same bytes."""
    merged: list[Range] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return merged


def bytes_sent_twice(ranges: Sequence[Range]) -> int:
    """How many bytes were sent beyond once: a byte sent three times counts two."""
    return _length(ranges) - _length(union(ranges))


def _length(ranges: Iterable[Range]) -> int:
    return sum(end - start for start, end in ranges)


@dataclass(kw_only=True, slots=True)
class Sending:
    """One answer's body on its way: it grows with every write."""

    start: int
    end: int

    def wrote(self, length: int) -> None:
        """Note that ``length`` more bytes were handed to the socket."""
        self.end += length


@dataclass(kw_only=True, slots=True)
class _FileTally:
    ranges: list[Range] = field(default_factory=list)
    under_way: list[Sending] = field(default_factory=list)
    bytes_merged: int = 0  # sent, and no longer told apart in `ranges`
    bytes_merged_twice: int = 0

    def finish(self, sending: Sending) -> None:
        self.under_way.remove(sending)
        if sending.end > sending.start:
            self.ranges.append((sending.start, sending.end))
        if len(self.ranges) > RANGES_KEPT_MAX:
            self._merge()

    def _merge(self) -> None:
        before, merged = _length(self.ranges), union(self.ranges)
        self.bytes_merged_twice += before - _length(merged)
        kept = merged[-RANGES_KEPT_MAX // 2 :]
        self.bytes_merged += before - _length(kept)
        self.ranges = kept

    def stats(self) -> FileStats:
        under_way = [(sending.start, sending.end) for sending in self.under_way if sending.end > sending.start]
        ranges = self.ranges + under_way
        return FileStats(
            bytes_sent=self.bytes_merged + _length(ranges),
            bytes_sent_twice=self.bytes_merged_twice + bytes_sent_twice(ranges),
            ranges=ranges,
        )


class Tally:
    """Counts for one server, from its start."""

    def __init__(self) -> None:
        self._files: dict[str, _FileTally] = {}
        self._requests = 0

    def asked(self) -> None:
        """Count one request."""
        self._requests += 1

    def begin(self, name: str, start: int) -> Sending:
        """Begin to count an answer that starts at byte ``start`` of ``name``; end it with `finish`."""
        sending = Sending(start=start, end=start)
        self._files.setdefault(name, _FileTally()).under_way.append(sending)
        return sending

    def finish(self, name: str, sending: Sending) -> None:
        """End the count of an answer, whether it was sent whole or not."""
        self._files[name].finish(sending)

    def stats(self) -> Stats:
        """Everything counted so far, answers under way included."""
        files = {name: tally.stats() for name, tally in self._files.items()}
        return Stats(
            bytes_sent=sum(file.bytes_sent for file in files.values()),
            bytes_sent_twice=sum(file.bytes_sent_twice for file in files.values()),
            requests=self._requests,
            files=files,
        )
