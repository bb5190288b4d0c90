"""What the simulated Hub remembers of every request and every body byte, and how a test waits for it.

Tests judge by this log: which ranges were asked for, which bytes went out twice, whether a token ever reached the
CDN. All of it may be read and waited for from any thread, and from any event loop, so that no test has to sleep.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

Server = Literal["hub", "cdn"]
End = Literal["whole", "cut", "gone"]  # all was sent; a fault ended it; the client went away

WAIT_S = 30.0  # a wait that long in a test means the thing will never happen


class Signal:
    """An event that can be set once, from any thread, and awaited from any loop or thread."""

    def __init__(self) -> None:
        self._future: Future[None] = Future()

    def set(self) -> None:
        """Wake everyone who waits; setting twice is the same as once."""
        with contextlib.suppress(InvalidStateError):
            self._future.set_result(None)

    def is_set(self) -> bool:
        """Whether it happened."""
        return self._future.done()

    def wait(self, timeout: float | None = WAIT_S) -> None:
        """Block this thread until set; TimeoutError after `timeout` seconds. Never call it on the Hub's own loop."""
        self._future.result(timeout)

    async def until(self, timeout: float | None = WAIT_S) -> None:
        """Await it on any loop; TimeoutError after `timeout` seconds."""
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()

        def wake(_: Future[None]) -> None:
            # The waiter's loop may have been closed since; then nobody waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(woken.set)

        self._future.add_done_callback(wake)
        async with asyncio.timeout(timeout):
            await woken.wait()


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it arrived. `path` is the file's path, or for API calls what follows the repository's id."""

    number: int
    at_s: float  # monotonic
    server: Server
    method: str
    target: str  # path and query, as sent
    repo: str
    path: str
    headers: tuple[tuple[str, str], ...]
    edge: str = ""  # of the CDN: the address that was asked

    def header(self, name: str) -> str | None:
        """The first header of that name, whatever its case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def had_authorization(self) -> bool:
        """Whether an Authorization header came with it."""
        return self.header("authorization") is not None

    @property
    def range(self) -> str | None:
        """The Range header."""
        return self.header("range")


@dataclass(frozen=True, kw_only=True)
class Served:
    """One answer: its status, the file bytes [start, end) handed to the kernel so far, and how it `ended` if it has.

    Only verbatim file bytes count (a corrupted one too), not error texts or encoded bodies. A client that goes
    away may have left some of the last SEND_BUFFER_BYTES plus its own receive buffer unread: gates and cut
    connections give exact ends.
    """

    number: int  # the request's
    server: Server
    method: str
    repo: str
    path: str
    status: int
    start: int
    end: int
    ended: End | None = None


class Log:
    """Every request and answer since the start or the last clear()."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._requests: list[Request] = []
        self._served: dict[int, Served] = {}
        self._waiters: list[tuple[Callable[[Log], bool], Signal]] = []

    # What tests read

    def requests(
        self, *, server: Server | None = None, path: str = "*", method: str | None = None, repo: str = "*"
    ) -> list[Request]:
        """The requests that match; `path` and `repo` are globs."""
        with self._lock:
            found = list(self._requests)
        return [
            request
            for request in found
            if server in (None, request.server)
            and method in (None, request.method)
            and fnmatchcase(request.path, path)
            and fnmatchcase(request.repo, repo)
        ]

    def served(
        self, *, server: Server | None = None, path: str = "*", status: int | None = None, repo: str = "*"
    ) -> list[Served]:
        """The answers that match, in the order of their requests; `path` and `repo` are globs."""
        with self._lock:
            found = [self._served[number] for number in sorted(self._served)]
        return [
            served
            for served in found
            if server in (None, served.server)
            and status in (None, served.status)
            and fnmatchcase(served.path, path)
            and fnmatchcase(served.repo, repo)
        ]

    def bytes_served(self, path: str = "*", *, repo: str = "*") -> int:
        """How many file bytes went out."""
        return sum(served.end - served.start for served in self.served(path=path, repo=repo))

    def bytes_twice(self, path: str = "*", *, repo: str = "*") -> int:
        """How many of those were sent again: all bytes served less the distinct ones."""
        spans: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for served in self.served(path=path, repo=repo):
            spans[served.repo, served.path].append((served.start, served.end))
        return self.bytes_served(path, repo=repo) - sum(map(_covered_bytes, spans.values()))

    def leaks(self, *secrets: str) -> list[Request]:
        """CDN requests that carried Authorization or a cookie, or one of `secrets` anywhere."""
        return [request for request in self.requests(server="cdn") if _leaks(request, secrets)]

    def clear(self) -> None:
        """Forget what was; answers under way go on counting."""
        with self._lock:
            self._requests.clear()
            self._served.clear()

    def wait(self, happened: Callable[[Log], bool], timeout: float = WAIT_S) -> None:
        """Block this thread until `happened(log)`; it is asked after every change."""
        self._watch(happened).wait(timeout)

    async def until(self, happened: Callable[[Log], bool], timeout: float = WAIT_S) -> None:
        """Await `happened(log)`; it is asked after every change."""
        await self._watch(happened).until(timeout)

    def settle(self) -> None:
        """Block until every answer has ended: a client may have all of one before the server knows."""
        self.wait(lambda log: all(served.ended for served in log.served()))

    # What the servers write

    def arrived(
        self,
        *,
        server: Server,
        method: str,
        target: str,
        repo: str,
        path: str,
        headers: tuple[tuple[str, str], ...],
        edge: str = "",
    ) -> Request:
        """Note a request."""
        with self._changing():
            request = Request(
                number=next(self._numbers),
                at_s=time.monotonic(),
                server=server,
                method=method,
                target=target,
                repo=repo,
                path=path,
                headers=headers,
                edge=edge,
            )
            self._requests.append(request)
        return request

    def answered(self, request: Request, *, status: int, start: int) -> None:
        """Note that an answer begins, its file bytes (if any) at `start`."""
        with self._changing():
            self._served[request.number] = Served(
                number=request.number,
                server=request.server,
                method=request.method,
                repo=request.repo,
                path=request.path,
                status=status,
                start=start,
                end=start,
            )

    def sent(self, request: Request, end: int) -> None:
        """Note that the file bytes before `end` are out."""
        with self._changing():
            if request.number in self._served:
                self._served[request.number] = replace(self._served[request.number], end=end)

    def ended(self, request: Request, how: End) -> None:
        """Note that nothing more will be sent."""
        with self._changing():
            if request.number in self._served:
                self._served[request.number] = replace(self._served[request.number], ended=how)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock:
            yield
            waiters, self._waiters = self._waiters, []
            for happened, signal in waiters:
                if happened(self):
                    signal.set()
                else:
                    self._waiters.append((happened, signal))

    def _watch(self, happened: Callable[[Log], bool]) -> Signal:
        signal = Signal()
        with self._changing():
            self._waiters.append((happened, signal))
        return signal


def _covered_bytes(spans: list[tuple[int, int]]) -> int:
    covered, frontier = 0, 0
    for start, end in sorted(spans):
        covered += max(0, end - max(start, frontier))
        frontier = max(frontier, end)
    return covered


def _leaks(request: Request, secrets: tuple[str, ...]) -> bool:
    if request.had_authorization or request.header("cookie") is not None:
        return True
    said = [request.target, *(value for _, value in request.headers)]
    return any(secret in text for secret in secrets for text in said)
