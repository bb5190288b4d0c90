"""Who may come in: counts the open connections of the daemon's sockets, and turns away who has too many of them.

A connection costs a descriptor, and downloads need those too. One user must not be able to use up what all share, so
there is a limit for each user (the kernel's word, SO_PEERCRED) below that for all. Who is turned away is told why.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import Final, cast

import msgspec

from qwen_api import commands
from qwen_api.language import N_

CONNECTIONS_MAX = 512  # of 1,024 descriptors that a process has by default
CONNECTIONS_PER_USER_MAX = 256
IDLE_S = 60.0  # a connection that asks nothing for so long is closed
LINGER_S = 1.0  # what is sent beyond an answer is read and dropped for so long, so that the answer is read


class Door:
    """The connections of all sockets that it stands at; `turned_away` hears of each that was not let in."""

    def __init__(self, turned_away: Callable[[asyncio.BaseTransport], object]) -> None:
        self.inside: Final = Counter[int]()
        self._turned_away = turned_away

    def before(self, serve: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """A factory of protocols that lets in to `serve` who may come in."""
        return lambda: _Entering(self.inside, serve, self._turned_away)


class _Entering(asyncio.Protocol):
    """Hands every call on to the protocol that serves, once the connection is let in."""

    def __init__(
        self,
        inside: Counter[int],
        serve: Callable[[], asyncio.Protocol],
        turned_away: Callable[[asyncio.BaseTransport], object],
    ) -> None:
        self._inside = inside
        self._turned_away = turned_away
        self._serve = serve
        self._uid = -1
        self._served: asyncio.Protocol | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it, or answer that there are too many and close."""
        self._uid = peer(transport)[1]
        if self._inside.total() >= CONNECTIONS_MAX or self._inside[self._uid] >= CONNECTIONS_PER_USER_MAX:
            self._turned_away(transport)
            cast("asyncio.WriteTransport", transport).write(_FULL)  # uvloop's are no subclasses
            transport.close()
            return
        self._inside[self._uid] += 1
        self._served = self._serve()
        self._served.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Bytes."""
        if self._served is not None:
            self._served.data_received(data)

    def eof_received(self) -> bool | None:
        """The peer sends no more."""
        return self._served.eof_received() if self._served is not None else None

    def pause_writing(self) -> None:
        """The peer does not read."""
        if self._served is not None:
            self._served.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        if self._served is not None:
            self._served.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        """The end."""
        if self._served is not None:
            self._inside[self._uid] -= 1
            self._served.connection_lost(error)


def peer(transport: asyncio.BaseTransport | None) -> tuple[int, int]:
    """pid and uid from SO_PEERCRED (unix(7)): the kernel's word and not the peer's; 0 and -1 if it has none."""
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is None:
        return 0, -1
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _gid = struct.unpack("3i", told)
    return pid, uid


def _answer() -> bytes:
    problem = commands.Problem(
        status=503,
        code="E_BUSY",
        title=N_("too many connections"),
        detail=f"{CONNECTIONS_MAX} are open, or {CONNECTIONS_PER_USER_MAX} of yours",
        fix="close some: `ss -xp` shows who has them",
    )
    body = msgspec.json.encode(problem)
    head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}"
    return f"{head}\r\nConnection: close\r\n\r\n".encode() + body


_FULL = _answer()
