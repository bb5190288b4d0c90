"""Which bytes of a file a request asks for: Range, If-Range and If-None-Match as RFC 9110 has them.

It exists so that these decisions can be tested without a socket. A request that the mirror cannot or need not
honour (several ranges, another unit, nonsense) is answered with the whole file, as the RFC allows. Sending is
left to ``http``.
"""

import re
from dataclasses import dataclass

# 19 digits hold any file; more would only make int() slow.
_ONE_RANGE = re.compile(r"bytes=\s*([0-9]{0,19})-([0-9]{0,19})\s*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """The bytes from ``start`` up to, not including, ``stop``."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """How many bytes that is."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True, slots=True)
class Unsatisfiable:
    """The range lies wholly outside the file: 416."""


def asked_range(range_header: str | None, size_bytes: int) -> Slice | Unsatisfiable | None:
    """Read a Range header (RFC 9110, 14.1.2); None means the whole file."""
    match = _ONE_RANGE.fullmatch(range_header or "")
    if match is None or match.group(0).strip().endswith("=-"):
        return None
    first, last = match.groups()
    if not first:  # a suffix: the last N bytes
        length = min(int(last), size_bytes)
        return Slice(start=size_bytes - length, stop=size_bytes) if length else Unsatisfiable()
    start = int(first)
    if last and int(last) < start:
        return None  # invalid, therefore ignored
    if start >= size_bytes:
        return Unsatisfiable()
    return Slice(start=start, stop=min(int(last) + 1, size_bytes) if last else size_bytes)


def range_applies(if_range: str | None, etag: str) -> bool:
    """Whether If-Range lets the range through: only the same strong ETag does; a date never does.

    ``etag`` is bare, without quotes.
    """
    return if_range is None or if_range.strip() == f'"{etag}"'


def is_known(if_none_match: str | None, etag: str) -> bool:
    """Whether the client already holds this content (weak comparison), so that 304 is the answer."""
    if if_none_match is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or f'"{etag}"' in tags
