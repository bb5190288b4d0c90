"""GET /v1/events: the bus's lines for one reader, filtered as it asks, as JSON Lines or as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from fnmatch import fnmatchcase
from typing import Protocol

import msgspec
from aiohttp import web

from qwen_api import events as e
from qwen_api.language import N_
from qwen_api.status import Status
from qwen_daemon.shell.problems import Refusal
from qwen_daemon.shell.visitors import Visitors

WRITE_TIMEOUT_S = 30.0  # a reader that takes nothing for so long is dropped
READERS_MAX = 64
PIECE_BYTES = 32 << 10  # written together: a call for each line would be dear, all at once a copy for each reader
_SSE_BYTES = len(b"data: \n")


class Stream(Protocol):
    """What the event bus does for the API."""

    @property
    def status(self) -> Status:
        """The state after the last event."""

    @property
    def seq(self) -> int:
        """The number of the last event."""

    def publish(self, event: e.Event) -> int:
        """Stamp and hand out; returns its seq."""

    def batches(self, *, since: int | None = None, epoch: str = "", follow: bool = True) -> AsyncGenerator[list[bytes]]:
        """The lines of one reader's stream, as many at a time as there are."""


class EventStream:
    """Handles the readers of one bus; `key` reads a model's name. Who reads, and who is one too many, is told."""

    def __init__(self, bus: Stream, key: Callable[[str], str], visitors: Visitors) -> None:
        self._bus = bus
        self._key = key
        self._visitors = visitors
        self._readers: list[web.Request] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Until the reader goes away, the daemon ends, or with `follow=0` up to now."""
        # A reader that went away is noticed at its next line only; it must not keep others out until then.
        if sum(reader.transport is not None for reader in self._readers) >= READERS_MAX:
            self._visitors.tell("reader.refused", request.transport, readers=READERS_MAX)
            raise Refusal(503, "E_BUSY", N_("too many readers"), f"{READERS_MAX} streams are open", "close one")
        since, follow = _int_query(request, "since"), request.query.get("follow", "1") != "0"
        passes = _filter(self._key(request.query.get("model", "")), request.query.get("types", ""))
        as_sse = "text/event-stream" in request.headers.get("Accept", "")
        content_type = "text/event-stream" if as_sse else "application/x-ndjson"
        response = web.StreamResponse(headers={"Content-Type": content_type, "Cache-Control": "no-store"})
        self._readers.append(request)
        self._visitors.tell("reader.came", request.transport, readers=len(self._readers))
        try:
            await response.prepare(request)
            # Closed here and now, so that the bus forgets a reader that went away.
            async with aclosing(
                self._bus.batches(since=since, epoch=request.query.get("epoch", ""), follow=follow)
            ) as batches:
                async for batch in batches:
                    batch.reverse()
                    while piece := _take_piece(batch, passes, as_sse=as_sse):
                        async with asyncio.timeout(WRITE_TIMEOUT_S):
                            await response.write(piece)
        except (ConnectionError, TimeoutError):
            pass  # the reader went away or sleeps: its stream ends, nothing else does
        finally:
            self._readers = [reader for reader in self._readers if reader is not request]
        return response


def _take_piece(reversed_lines: list[bytes], passes: Callable[[bytes], bool], *, as_sse: bool) -> bytes:
    """Take the next lines off the end, up to PIECE_BYTES or a single longer one; b"" when there is none left."""
    piece, size_bytes = list[bytes](), 0
    while reversed_lines and (not piece or size_bytes + len(reversed_lines[-1]) + _SSE_BYTES <= PIECE_BYTES):
        line = reversed_lines.pop()
        if passes(line):
            piece.append(b"data: " + line + b"\n" if as_sse else line)
            size_bytes += len(piece[-1])
    return b"".join(piece)


def _filter(model: str, types: str) -> Callable[[bytes], bool]:
    """Which lines pass `?model=` and `?types=file.*,model.*`; frames (hello, snapshot, ...) always do."""
    patterns = [pattern for pattern in types.split(",") if pattern]
    if not model and not patterns:
        return lambda _line: True

    def passes(line: bytes) -> bool:
        head = msgspec.json.decode(line, type=_Head)
        if "." not in head.type:
            return True
        right_type = not patterns or any(fnmatchcase(head.type, pattern) for pattern in patterns)
        return right_type and (not model or head.model in ("", model))

    return passes


class _Head(msgspec.Struct):
    type: str
    model: str = ""


def _int_query(request: web.Request, name: str) -> int | None:
    text = request.query.get(name, "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Refusal(400, "E_USAGE", f"bad {name}", f"{name} must be a whole number", "take it from an event's seq")
    return int(text)
