"""ports.Body for tests: one that is made of pieces, and reading any to its end."""

from __future__ import annotations

from collections.abc import AsyncIterator

from qwen_daemon.ports import Body


class Pieces:
    """Gives these pieces, each as far as there is room."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    async def read_into(self, room: memoryview) -> int:
        """See ports.Body."""
        self._rest = self._rest or await anext(self._pieces, b"")
        given, self._rest = self._rest[: len(room)], self._rest[len(room) :]
        room[: len(given)] = given
        return len(given)

    def reclaim(self) -> int:
        """See ports.Body."""
        return 0


async def read_out(body: Body, content: bytearray | None = None) -> int:
    """Read to the end: how many bytes; `content` gets them."""
    room, count = memoryview(bytearray(1 << 20)), 0
    while came := await body.read_into(room):
        count += came
        if content is not None:
            content += room[:came]
    return count
