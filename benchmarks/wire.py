"""What went over the wire, from the origin's own log: bytes, bytes sent twice, streams at once. Pure.

The origin is the one witness that every client shares. It counts what it handed to its socket, so bytes that were on
their way when a client hung up count as sent, as they would on a bill. TLS records and TCP headers are not counted.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

# nginx: when the request ended, how long it took, status, address, Range, body bytes, all bytes
NGINX_LOG_FORMAT = r"$msec\t$request_time\t$status\t$request_uri\t$http_range\t$body_bytes_sent\t$bytes_sent"

CLOCK_STEP_S = 0.001


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """One answered request. `run` is which run asked; `start` is the first byte of the file that was sent."""

    run: int
    path: str
    status: int
    start: int
    body_bytes: int
    wire_bytes: int
    began_s: float
    ended_s: float


class Wire(msgspec.Struct, frozen=True, kw_only=True):
    """All requests of one run."""

    requests: int = 0
    wire_bytes: int = 0
    body_bytes: int = 0
    twice_bytes: int = 0
    streams_max: int = 0
    last_byte_s: float = 0.0  # wall clock


def parse_nginx(line: str) -> Served:
    """One line of nginx's log in NGINX_LOG_FORMAT. Raises ValueError."""
    ended, took, status, address, asked, body, all_bytes = line.rstrip("\n").split("\t")
    path, run = split_address(address)
    return Served(
        run=run,
        path=path,
        status=int(status),
        start=range_of(asked)[0] if status == "206" else 0,
        body_bytes=int(body),
        wire_bytes=int(all_bytes),
        began_s=float(ended) - float(took),
        ended_s=float(ended),
    )


def split_address(address: str) -> tuple[str, int]:
    """The path and the run that an address handed out by the front means; run -1 for any other address."""
    parts = urlsplit(address)
    return unquote(parts.path), int(parse_qs(parts.query).get("run", ["-1"])[0])


def range_of(header: str) -> tuple[int, int | None]:
    """First byte and (exclusive) end of `bytes=a-b`, `bytes=a-`; the whole file for anything else."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", header)
    if match is None:
        return 0, None
    return int(match[1]), int(match[2]) + 1 if match[2] else None


def account(served: Iterable[Served]) -> Wire:
    """The sums. Bytes twice are bytes of a file sent minus the different bytes of it that were sent."""
    bodies = [one for one in served if one.status in (200, 206)]
    if not bodies:
        return Wire()
    body_bytes = sum(one.body_bytes for one in bodies)
    return Wire(
        requests=len(bodies),
        wire_bytes=sum(one.wire_bytes for one in bodies),
        body_bytes=body_bytes,
        twice_bytes=body_bytes - _different(bodies),
        streams_max=_at_once(bodies),
        last_byte_s=max(one.ended_s for one in bodies),
    )


def _different(bodies: Sequence[Served]) -> int:
    by_path: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for one in bodies:
        by_path[one.path].append((one.start, one.start + one.body_bytes))
    return sum(_covered(spans) for spans in by_path.values())


def _covered(spans: list[tuple[int, int]]) -> int:
    covered = reached = 0
    for start, end in sorted(spans):
        covered += max(0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def _at_once(bodies: Sequence[Served]) -> int:
    # At the same instant an end comes before a beginning: one connection asking again is one stream. nginx's clock has
    # milliseconds, so a request that took none is given half of one.
    ends = [max(one.ended_s, one.began_s + CLOCK_STEP_S / 2) for one in bodies]
    moments = sorted([(one.began_s, 1) for one in bodies] + [(end, -1) for end in ends])
    open_now = most = 0
    for _, step in moments:
        open_now += step
        most = max(most, open_now)
    return most
