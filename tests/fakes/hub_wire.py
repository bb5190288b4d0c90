"""How the simulated Hub's answers reach the wire: paced, held at gates, cut, corrupted, byte by byte as told.

aiohttp parses the requests; the answers are written here straight to the transport, because a real server library
will not send two Content-Lengths or stop in the middle of a promise. Every byte is in the kernel before it is logged.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from tests.fakes.hub_faults import Delivery
from tests.fakes.hub_log import WAIT_S, End, Log, Request, Signal
from tests.fakes.hub_messages import Answer

CHUNK_BYTES = 128 << 10  # one write, and the longest step between two looks at gates
SEND_BUFFER_BYTES = 64 << 10  # small, so that the byte log runs little ahead of the reader
STEPS_PER_S = 20  # a paced body moves at least this often
UNSENT_POLL_S = 0.001  # the kernel tells nobody that the peer has acknowledged everything; it can only be asked


class Gate:
    """Holds every body of the matching files before the byte `at_byte`, until opened.

    Bodies that start beyond it are held too, but it is `reached` only by one that comes up to that very byte.
    """

    def __init__(self, path: str, at_byte: int, repo: str) -> None:
        self.path = path
        self.at_byte = at_byte
        self.repo = repo
        self._reached = Signal()
        self._opened = Signal()

    def open(self) -> None:
        """Let held bodies go on, and later ones pass."""
        self._opened.set()

    def wait_reached(self, timeout: float = WAIT_S) -> None:
        """Block this thread until a body is held here: all bytes before it are out."""
        self._reached.wait(timeout)

    async def reached(self, timeout: float = WAIT_S) -> None:
        """Await that a body is held here: all bytes before it are out."""
        await self._reached.until(timeout)

    @property
    def is_open(self) -> bool:
        """Whether it lets bodies pass."""
        return self._opened.is_set()

    async def hold(self, position: int) -> None:
        """For bodies at or beyond it: say so, and wait for the opening."""
        if position == self.at_byte:
            self._reached.set()
        await self._opened.until(None)


class Gates:
    """All gates; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gates: list[Gate] = []

    def add(self, path: str, at_byte: int, repo: str) -> Gate:
        """A new, closed gate."""
        gate = Gate(path, at_byte, repo)
        with self._lock:
            self._gates.append(gate)
        return gate

    def open_all(self) -> None:
        """Nothing is held any more."""
        with self._lock:
            gates, self._gates = self._gates, []
        for gate in gates:
            gate.open()

    def ahead(self, request: Request) -> Iterator[Gate]:
        """The closed gates on this file's way, nearest first."""
        with self._lock:
            gates = sorted(self._gates, key=lambda gate: gate.at_byte)
        for gate in gates:
            if not gate.is_open and fnmatchcase(request.path, gate.path) and fnmatchcase(request.repo, gate.repo):
                yield gate


class Pace:
    """Spreads bytes over time; one for each body and one for all of them together."""

    def __init__(self) -> None:
        self._free_at = 0.0

    async def wait(self, count: int, bytes_per_s: float | None) -> None:
        """Return when `count` bytes at that rate have had their time."""
        if bytes_per_s is None:
            return
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now) + count / bytes_per_s
        await asyncio.sleep(self._free_at - now)


@dataclass(kw_only=True)
class Throttle:
    """The line's speed; both may be set at any time, from any thread."""

    bytes_per_s: float | None = None  # of each body
    total_bytes_per_s: float | None = None  # of all bodies together
    total: Pace = field(default_factory=Pace)


class Sent(web.StreamResponse):
    """What a handler returns when the answer is already on the wire."""

    def __init__(self, *, status: int, keep_alive: bool) -> None:
        super().__init__(status=status)
        self._again = keep_alive

    @property
    def keep_alive(self) -> bool | None:
        """Whether the connection takes another request."""
        return self._again

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Nothing is left to send."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to send."""


class _Cut(Exception):
    """The connection has been ended on purpose."""


class Courier:
    """Carries one answer to one client."""

    def __init__(
        self,
        request: web.BaseRequest,
        arrived: Request,
        answer: Answer,
        delivery: Delivery,
        *,
        log: Log,
        gates: Gates,
        throttle: Throttle,
    ) -> None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError
        self._transport = transport
        self._request = request
        self._arrived = arrived
        self._answer = answer
        self._delivery = delivery
        self._log = log
        self._gates = gates
        self._throttle = throttle
        self._pace = Pace()

    async def carry(self) -> Sent:
        """Deliver; a client that goes away, or a cut, ends it quietly."""
        # Writing returns only when all is in the kernel: that is what the byte log promises.
        self._transport.set_write_buffer_limits(high=0)
        how: End = "gone"
        try:
            await self._carry()
            how = "whole"
        except _Cut:
            how = "cut"
        except ConnectionError:
            pass
        finally:  # a client that goes away while its body is held cancels this
            self._log.ended(self._arrived, how)
        again = how == "whole" and self._request.keep_alive and not self._delivery.close
        return Sent(status=self._answer.status, keep_alive=again)

    async def _carry(self) -> None:
        delivery, body = self._delivery, self._answer.body
        if delivery.delay_s is not None:
            await asyncio.sleep(delivery.delay_s)
        if delivery.cut is None:
            await self._strike()
        self._log.answered(self._arrived, status=self._answer.status, start=body.start if body.of_file else 0)
        await self._write(_head(self._answer))
        if self._request.method == "HEAD":
            return
        if delivery.chunked:
            await self._write(b"%x\r\n" % (body.end - body.start))
        await self._body()
        await self._write((b"\r\n0\r\n\r\n" if delivery.chunked else b"") + delivery.tail)

    async def _body(self) -> None:
        body, cut = self._answer.body, self._delivery.cut
        position = body.start
        while True:
            if position == cut:
                await self._strike()
            if position >= body.end:
                return
            end = await self._next_stop(position)
            await self._write(self._bytes(position, end))
            position = end
            if body.of_file:
                self._log.sent(self._arrived, position)

    async def _next_stop(self, position: int) -> int:
        """Where the next write ends; not before its gates are open and its time has come."""
        stop = self._answer.body.end
        cut, rate = self._delivery.cut, self._throttle.bytes_per_s
        if cut is not None and position < cut:
            stop = min(stop, cut)
        elif self._delivery.bytes_per_s is not None:
            rate = self._delivery.bytes_per_s
        if self._answer.body.of_file:
            for gate in self._gates.ahead(self._arrived):
                if gate.at_byte > position:
                    stop = min(stop, gate.at_byte)
                    break
                await gate.hold(position)
        total_rate = self._throttle.total_bytes_per_s
        slowest = min((rate for rate in (rate, total_rate) if rate is not None), default=None)
        step = CHUNK_BYTES if slowest is None else min(CHUNK_BYTES, max(1, int(slowest / STEPS_PER_S)))
        stop = min(stop, position + step)
        await self._pace.wait(stop - position, rate)
        await self._throttle.total.wait(stop - position, total_rate)
        return stop

    def _bytes(self, start: int, end: int) -> bytes:
        data = self._answer.body.content.read(start, end)
        cut, xor = self._delivery.cut, self._delivery.xor
        if not xor or cut is None or not start <= cut < end:
            return data
        flipped = bytearray(data)
        flipped[cut - start] ^= xor
        return bytes(flipped)

    async def _strike(self) -> None:
        """The cut is reached."""
        delivery = self._delivery
        if delivery.then == "reset":
            await self._reset()
            raise _Cut
        if delivery.then == "close":
            self._transport.close()
            raise _Cut
        if delivery.then == "stall" and delivery.rule is not None:
            delivery.rule.struck.set()
            await delivery.rule.released.until(None)

    async def _reset(self) -> None:
        connection = self._transport.get_extra_info("socket")
        # A reset throws away what the peer has not got yet, so first let it have everything before the cut.
        while _unsent_bytes(connection) and not self._transport.is_closing():
            await asyncio.sleep(UNSENT_POLL_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    async def _write(self, data: bytes) -> None:
        if self._transport.is_closing():
            raise ConnectionResetError
        if data:
            self._transport.write(data)
            await self._request.writer.drain()


def _head(answer: Answer) -> bytes:
    try:
        reason = HTTPStatus(answer.status).phrase
    except ValueError:
        reason = ""
    lines = [f"HTTP/1.1 {answer.status} {reason}", *(f"{name}: {value}" for name, value in answer.headers)]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


def _unsent_bytes(connection: socket.socket) -> int:
    """What the peer's kernel has not acknowledged (SIOCOUTQ)."""
    answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    return int.from_bytes(answer, "little")
