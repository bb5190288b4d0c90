"""Hashes as pure computation: the Hub's hash of a whole file, and the ledger's digest of each span of it.

hashlib and xxhash release the GIL on large buffers; calling them off the event loop is the caller's business. A git
file's hash is git's blob id: sha1 of `blob <size>\\0` and the content.
"""

from __future__ import annotations

import hashlib
from typing import Literal, Protocol

import xxhash

from qwen_api.manifest import WantedFile
from qwen_daemon.core.spans import SPAN_BYTES, Span

Bytes = bytes | bytearray | memoryview


class Hash(Protocol):
    """What hashlib's objects promise."""

    def update(self, data: Bytes, /) -> None:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """The hash so far."""

    def copy(self) -> Hash:
        """One that goes on from here on its own."""


def algorithm_of(file: WantedFile) -> Literal["sha256", "git-sha1"]:
    """Which of the two hashes the Hub gives for this file."""
    return "sha256" if file.sha256 else "git-sha1"


def new_hash(file: WantedFile) -> Hash:
    """A fresh hash whose hexdigest will be `file.etag` if the content is right."""
    if file.sha256:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size_bytes, usedforsecurity=False)


def span_digest(data: Bytes) -> bytes:
    """The ledger's digest of one span: xxh3_128, 16 bytes. Finds damage, proves nothing against an attacker."""
    return xxhash.xxh3_128_digest(data)


class SpanDigester:
    """Cuts a stream of bytes into spans of at most SPAN_BYTES and digests them as they pass."""

    def __init__(self, offset: int) -> None:
        self._offset = offset
        self._length = 0
        self._state = xxhash.xxh3_128()
        self._done: list[Span] = []

    def update(self, data: Bytes) -> None:
        """Take the next bytes of the stream."""
        rest = memoryview(data)
        while rest:
            piece = rest[: SPAN_BYTES - self._length]
            self._state.update(piece)
            self._length += len(piece)
            rest = rest[len(piece) :]
            if self._length == SPAN_BYTES:
                self._cut()

    def take(self) -> tuple[Span, ...]:
        """End the open span here and give every span since the last call."""
        if self._length:
            self._cut()
        done, self._done = tuple(self._done), []
        return done

    def _cut(self) -> None:
        self._done.append(Span(offset=self._offset, length=self._length, digest=self._state.digest()))
        self._offset += self._length
        self._length = 0
        self._state.reset()
