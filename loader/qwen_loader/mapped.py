"""Which bytes of which file a tensor is that has only been mapped so far, and how to read many of them in large pieces.

safetensors maps a file privately and hands out tensors that lie in the mapping; the libraries make models of them
without a read. Where each one lies stands in /proc/self/smaps (proc_pid_smaps(5)), whatever the model calls it. Only
mappings that nobody wrote to count (no page of theirs is anonymous): then the file has the same bytes. Pure; who reads
is `transfer`.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

GAP_BYTES_MAX = 4096  # between two tensors: cheaper read than asked for apart

_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ \d+\s*(.*)")


class Mapping(NamedTuple):
    """Memory from `begin` up to `end` that is `path` from `offset` on."""

    begin: int
    end: int
    offset: int
    path: str


class Extent(NamedTuple):
    """`size_bytes` of `path` from `offset` on."""

    path: str
    offset: int
    size_bytes: int


class Copy(NamedTuple):
    """From byte `source` of a piece to byte `target` of the extent with this `number`."""

    number: int
    source: int
    target: int
    size_bytes: int


class Piece(NamedTuple):
    """One read, and where each part of it belongs."""

    path: str
    offset: int
    size_bytes: int
    copies: tuple[Copy, ...]


def read_mappings(smaps: str, paths: Collection[str]) -> tuple[Mapping, ...]:
    """The mappings of these files that are still as the files, by address. `paths` have no links in them."""
    found: list[Mapping] = []
    written: set[int] = set()
    for line in smaps.splitlines():
        if line[:1].isupper():  # what is said of the mapping above; addresses are in lower case
            if line.startswith(("Anonymous:", "Swap:")) and line.split()[1] != "0":
                written.add(found[-1].begin)
        elif (head := _HEAD.fullmatch(line)) is not None:
            begin, end, offset = (int(number, 16) for number in head.group(1, 2, 3))
            found.append(Mapping(begin, end, offset, head[4]))
    return tuple(sorted(m for m in found if m.path in paths and m.begin not in written))


def extent_at(mappings: Sequence[Mapping], address: int, size_bytes: int) -> Extent | None:
    """What lies at `address`; None if it is no untouched part of a file."""
    at = bisect_right(mappings, address, key=lambda mapping: mapping.begin) - 1
    if at < 0 or address + size_bytes > mappings[at].end:
        return None
    return Extent(mappings[at].path, mappings[at].offset + address - mappings[at].begin, size_bytes)


def cut(extents: Iterable[Extent], piece_bytes: int) -> list[Piece]:
    """Reads of at most `piece_bytes` that have every byte of the extents, in the order of the files."""
    pieces: list[Piece] = []
    for number, extent in sorted(enumerate(extents), key=lambda item: (item[1].path, item[1].offset)):
        done = 0
        while done < extent.size_bytes:
            offset = extent.offset + done
            last = pieces[-1] if pieces else None
            if last is None or not _follows(last, extent.path, offset, piece_bytes):
                last = Piece(extent.path, offset, 0, ())
                pieces.append(last)
            source = offset - last.offset
            size_bytes = min(extent.size_bytes - done, piece_bytes - source)
            copy = Copy(number, source, done, size_bytes)
            reach = max(last.size_bytes, source + size_bytes)
            pieces[-1] = last._replace(size_bytes=reach, copies=(*last.copies, copy))
            done += size_bytes
    return pieces


def _follows(piece: Piece, path: str, offset: int, piece_bytes: int) -> bool:
    is_near = piece.offset <= offset <= piece.offset + piece.size_bytes + GAP_BYTES_MAX
    return piece.path == path and is_near and offset < piece.offset + piece_bytes
