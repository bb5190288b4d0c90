"""The paced origin: a CDN as slow, late and rude as a case wants it, over plain HTTP on loopback.

nginx can limit a stream but can neither wait before the first byte nor reset a connection after N bytes. One thread per
connection and sendfile: the bytes never pass through Python, so the pacing costs little of the two cores shared with
the client. It keeps its own log in the same form as nginx's.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.wire import Served, range_of, split_address

STEP_S = 0.035  # how much of a stream's second is sent at once: fine enough to be even, coarse enough to be cheap
STEP_BYTES_MIN, STEP_BYTES_MAX = 16 << 10, 1 << 20
SEND_BUFFER_BYTES = 512 << 10  # what may be on its way and is lost when a client hangs up
HEAD_BYTES_MAX = 64 << 10
JOIN_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Line:
    """How the origin answers. Rates are bytes per second; 0 means no limit."""

    first_byte_s: float = 0.0
    stream_bps: int = 0
    total_bps: int = 0
    slow_connection: int = -1  # the index (in a run) of the connection whose whole life is slow; -1: none
    slow_bps: int = 0
    reset_after_bytes: tuple[int, int] | None = None  # each connection is reset after so many, drawn from this range
    seed: int = 1


class PacedOrigin:
    """Use as a context manager. `begin` starts a run's count of connections, `served` is the log of a run."""

    def __init__(self, root: Path, line: Line) -> None:
        self._root = root
        self._line = line
        self._log: list[Served] = []
        self._lock = threading.Lock()
        self._total = _Bucket(line.total_bps)
        self._stopping = threading.Event()
        self._threads: set[threading.Thread] = set()
        self._connections = 0
        self._dice = random.Random(line.seed)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.base = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept, name="origin")
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for thread in list(self._threads):
            thread.join(JOIN_S)

    def begin(self, run: int) -> None:
        """A run starts: connections are counted from 0, and the dice are the same for every client."""
        with self._lock:
            self._connections = 0
            self._dice = random.Random(self._line.seed)
            self._log = [one for one in self._log if one.run == run]

    def served(self, run: int) -> list[Served]:
        """The log of a run whose client has ended. Waits for the connections to see that."""
        for thread in list(self._threads):
            thread.join(JOIN_S)
        with self._lock:
            return [one for one in self._log if one.run == run]

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                index, self._connections = self._connections, self._connections + 1
                span = self._line.reset_after_bytes
                budget = self._dice.randint(*span) if span else None
            thread = threading.Thread(target=self._converse, args=(connection, index, budget), name=f"origin-{index}")
            self._threads.add(thread)
            thread.start()

    def _converse(self, connection: socket.socket, index: int, budget: int | None) -> None:
        talk = _Talk(connection, budget)
        try:
            with connection, suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while not self._stopping.is_set() and (head := talk.read_head()) is not None:
                    self._answer(talk, head, index)
        finally:
            self._threads.discard(threading.current_thread())

    def _answer(self, talk: _Talk, head: bytes, index: int) -> None:
        method, address, asked = _parse(head)
        path, run = split_address(address)
        began_s = time.time()
        try:
            file = (self._root / path.lstrip("/")).open("rb")
        except OSError:
            talk.send_head("404 Not Found", 0)
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            start, end = range_of(asked)
            end = size if end is None else min(end, size)
            self._stopping.wait(self._line.first_byte_s)
            head_bytes = talk.send_range(start, end, size, is_partial=bool(asked))
            sent = 0
            try:
                if method == "GET":
                    for step in self._paced(talk, file.fileno(), start, end, index):
                        sent += step
            finally:
                self._note(run, path, 206 if asked else 200, start, sent, head_bytes, began_s)

    def _paced(self, talk: _Talk, fd: int, start: int, end: int, index: int) -> Iterator[int]:
        rate = self._line.slow_bps if index == self._line.slow_connection else self._line.stream_bps
        stream = _Bucket(rate)
        step_bytes = min(STEP_BYTES_MAX, max(STEP_BYTES_MIN, int(rate * STEP_S))) if rate else STEP_BYTES_MAX
        at = start
        while at < end and not self._stopping.is_set():
            step = min(step_bytes, end - at)
            if self._stopping.wait(max(stream.delay_s(step), self._total.delay_s(step))):
                return
            for sent in talk.send_file(fd, at, step):
                at += sent
                yield sent

    def _note(self, run: int, path: str, status: int, start: int, sent: int, head_bytes: int, began_s: float) -> None:
        one = Served(
            run=run,
            path=path,
            status=status,
            start=start,
            body_bytes=sent,
            wire_bytes=sent + head_bytes,
            began_s=began_s,
            ended_s=time.time(),
        )
        with self._lock:
            self._log.append(one)


class _Bucket:
    """When the next bytes may go. Time that was not used is lost after one step, as on a line."""

    def __init__(self, rate_bps: int) -> None:
        self._rate_bps = rate_bps
        self._lock = threading.Lock()
        self._free_at_s = 0.0

    def delay_s(self, size: int) -> float:
        if not self._rate_bps:
            return 0.0
        with self._lock:
            now_s = time.monotonic()
            begins_s = max(self._free_at_s, now_s - STEP_S)
            self._free_at_s = begins_s + size / self._rate_bps
            return max(0.0, begins_s - now_s)


class _Talk:
    """One connection: heads in, heads and files out, and the reset when its budget is spent."""

    def __init__(self, connection: socket.socket, budget: int | None) -> None:
        self._connection = connection
        self._budget = budget
        self._pending = b""

    def read_head(self) -> bytes | None:
        while b"\r\n\r\n" not in self._pending:
            got = self._connection.recv(4096)
            if not got or len(self._pending) > HEAD_BYTES_MAX:
                return None
            self._pending += got
        head, _, self._pending = self._pending.partition(b"\r\n\r\n")
        return head

    def send_range(self, start: int, end: int, size: int, *, is_partial: bool) -> int:
        if not is_partial:
            return self.send_head("200 OK", end - start)
        return self.send_head("206 Partial Content", end - start, f"Content-Range: bytes {start}-{end - 1}/{size}\r\n")

    def send_head(self, status: str, length: int, more: str = "") -> int:
        kind = "Content-Type: application/octet-stream\r\nAccept-Ranges: bytes\r\n"
        head = f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{kind}{more}\r\n".encode()
        self._connection.sendall(head)
        return len(head)

    def send_file(self, fd: int, at: int, size: int) -> Iterator[int]:
        end = at + size
        while at < end:
            if self._budget is not None and self._budget <= 0:
                self._reset()
            sent = os.sendfile(self._connection.fileno(), fd, at, end - at)
            if not sent:
                raise ConnectionError("the file became shorter")
            at += sent
            if self._budget is not None:
                self._budget -= sent
            yield sent

    def _reset(self) -> None:
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.close()
        raise ConnectionResetError("as the case wants it")


def _parse(head: bytes) -> tuple[str, str, str]:
    """Method, address and Range header."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, address, _ = first.split(" ", 2)
    asked = next((line.partition(":")[2].strip() for line in lines if line.lower().startswith("range:")), "")
    return method, address, asked
