"""Spans: the stretches of a file whose bytes are recorded as durable, each with a digest.

A span is at most SPAN_BYTES long. Together they say what need not be fetched again; a span whose bytes no longer have
its digest is simply not one any more. The ledger keeps them, the download walks over them in order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SPAN_BYTES = 16 << 20  # the most that one flipped bit can cost; 57 GB make 3,400 rows


@dataclass(frozen=True, kw_only=True, order=True)
class Span:
    """Bytes `offset` to `offset + length` of a file; `digest` is their xxh3_128 (16 bytes, canonical form)."""

    offset: int
    length: int
    digest: bytes

    @property
    def end(self) -> int:
        """The offset behind the last byte."""
        return self.offset + self.length


def keep_in_order(spans: Iterable[Span], size_bytes: int) -> tuple[Span, ...]:
    """The spans that can be walked: inside the file, sorted, none overlapping one that begins before it."""
    kept: list[Span] = []
    for span in sorted(spans):
        starts_after = not kept or span.offset >= kept[-1].end
        if span.length > 0 and starts_after and span.end <= size_bytes:
            kept.append(span)
    return tuple(kept)


def recorded_bytes(spans: Iterable[Span]) -> int:
    """How many bytes the spans cover, given that they do not overlap."""
    return sum(span.length for span in spans)
