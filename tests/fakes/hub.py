"""A simulated Hugging Face Hub: two real HTTP servers on loopback that answer as the Hub and its CDN were recorded to.

It exists so that the whole way from a listing to verified bytes can be tested without a network and without mocks:
by a client in the same event loop (`async with SimHub() as hub`) or by installed commands in other processes
(`with ThreadedSimHub(SimHub()) as hub`). Control methods may be called from any thread while the servers run.
What is served: hub_repo; what the answers look like: hub_answers; misbehaviour: hub_kinds and hub_faults; delivery:
hub_wire; what happened: hub_log.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from email.utils import formatdate
from functools import partial
from types import TracebackType
from typing import Self

from aiohttp import web

from tests.fakes.hub_clerk import TREE_PAGE_ENTRIES, URL_TTL_S, Clerk, asked_of
from tests.fakes.hub_faults import PLAIN, Delivery, Fault, FaultBook, Rule, distort
from tests.fakes.hub_log import WAIT_S, Log, Request, Served, Server, Signal
from tests.fakes.hub_messages import UNKNOWN_BYTES, Answer, Door, Visit, text_body
from tests.fakes.hub_repo import BytesContent, Content, Entry, SimRepo, SparseContent
from tests.fakes.hub_routes import parse
from tests.fakes.hub_wire import SEND_BUFFER_BYTES, Courier, Gate, Gates, Sent, Throttle

__all__ = [
    "BytesContent", "Content", "Entry", "Fault", "Gate", "Log", "Request", "Rule", "Served", "SimHub", "SimRepo",
    "SparseContent", "ThreadedSimHub",
]  # fmt: skip

WHO_AM_I = "/api/whoami-v2"
SHUTDOWN_S = 0.05  # what a held body gets at the end of a test before its connection is dropped


class SimHub(Clerk):
    """The Hub and the CDN. Use it as an async context manager; entered again, it is back on the same ports.

    `tokens` are the valid ones. `clock` is what signed URLs expire by, `wall` what Date headers say: give others to
    move time by hand. `tokens`, `page_entries`, `url_ttl_s` and `throttle`'s rates may be changed at any time.
    """

    def __init__(
        self,
        *repos: SimRepo,
        tokens: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        page_entries: int = TREE_PAGE_ENTRIES,
        url_ttl_s: float = URL_TTL_S,
        edges: int = 1,
        cdn_name: str = "",
    ) -> None:
        super().__init__(*repos, tokens=tokens, clock=clock, wall=wall, page_entries=page_entries, url_ttl_s=url_ttl_s)
        self.throttle = Throttle()
        self.faults = FaultBook()
        self.log = Log()
        self.edges = tuple(f"127.0.0.{1 + edge}" for edge in range(edges))
        self._cdn_name = cdn_name
        self._gates = Gates()
        self._ports: dict[Server, int] = {}
        self._runners: list[web.ServerRunner] = []

    # Control: from any thread, at any time

    def gate(self, path: str, at_byte: int, *, repo: str = "*") -> Gate:
        """Hold every body of the files that match (globs) before byte `at_byte`, until the gate is opened."""
        return self._gates.add(path, at_byte, repo)

    def open_gates(self) -> None:
        """Open all gates."""
        self._gates.open_all()

    async def reached(self, path: str, byte: int, *, timeout: float = WAIT_S) -> None:
        """Await that a body which began before `byte` of the file (a glob) has gone out up to it."""
        await self.log.until(lambda log: _has_gone_out(log, path, byte), timeout)

    def wait_reached(self, path: str, byte: int, *, timeout: float = WAIT_S) -> None:
        """Block this thread until a body which began before `byte` of the file (a glob) has gone out up to it."""
        self.log.wait(lambda log: _has_gone_out(log, path, byte), timeout)

    # Life

    async def __aenter__(self) -> Self:
        self.endpoint = await self._listen("hub", self._hub)
        cdn = [await self._listen("cdn", partial(self._cdn, edge), edge) for edge in self.edges]
        self.cdn_endpoints = (f"http://{self._cdn_name}:{self._ports['cdn']}",) if self._cdn_name else tuple(cdn)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        runners, self._runners = self._runners, []
        for runner in runners:
            await runner.cleanup()

    async def _listen(
        self, name: Server, handler: Callable[[web.BaseRequest], Awaitable[Sent]], address: str = "127.0.0.1"
    ) -> str:
        listener = socket.create_server((address, self._ports.get(name, 0)))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # accepted sockets inherit it
        # A client that goes away ends what is held for it.
        server = web.Server(handler, handler_cancellation=True, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        self._runners.append(runner)
        await web.SockSite(runner, listener).start()
        self._ports[name] = listener.getsockname()[1]
        return f"http://{address}:{self._ports[name]}"

    # The Hub

    async def _hub(self, request: web.BaseRequest) -> Sent:
        route = parse(request.raw_path)
        if request.raw_path == WHO_AM_I:
            arrived = self._arrived("hub", request, repo="", path="whoami")
            return await self._send(request, arrived, self.answer_whoami(arrived), PLAIN)
        if route is None:
            arrived = self._arrived("hub", request, repo="", path="")
            return await self._send(request, arrived, text_body(404, "Not Found"), PLAIN)
        arrived = self._arrived("hub", request, repo=route.repo, path=route.subject)
        paths = [str(path) for path in (await request.post()).getall("paths", [])]
        visit = self._visit(arrived, route.door)
        entry = self.entry(route)
        if route.door == "resolve-cache" and entry is not None:
            visit = _with_range(visit, arrived, entry.content, etag=entry.oid)
        rule = self.faults.pick(visit)
        answer = self.answer_hub(arrived, route, visit, rule.fault.kind if rule else None, paths)
        answer, delivery = distort(rule, visit, answer) if rule else (answer, PLAIN)
        return await self._send(request, arrived, answer, delivery)

    # The CDN

    async def _cdn(self, edge: str, request: web.BaseRequest) -> Sent:
        grant = self.grant(request.raw_path)
        if grant is None:
            arrived = self._arrived("cdn", request, repo="", path="", edge=edge)
        else:
            arrived = self._arrived("cdn", request, repo=grant.repo, path=grant.entry.path, edge=edge)
        visit = self._visit(arrived, "cdn")
        if grant is not None and self.is_good(grant, arrived):
            visit = _with_range(visit, arrived, grant.entry.content, etag=grant.entry.xet_hash or "")
        rule = self.faults.pick(visit)
        answer = self.answer_cdn(arrived, grant, rule.fault.kind if rule else None)
        answer, delivery = distort(rule, visit, answer) if rule else (answer, PLAIN)
        return await self._send(request, arrived, answer, delivery)

    # Both

    def _arrived(self, server: Server, request: web.BaseRequest, *, repo: str, path: str, edge: str = "") -> Request:
        headers = tuple((name, value) for name, value in request.headers.items())
        return self.log.arrived(
            server=server,
            method=request.method,
            target=request.raw_path,
            repo=repo,
            path=path,
            headers=headers,
            edge=edge,
        )

    def _visit(self, arrived: Request, door: Door) -> Visit:
        """The request as fault rules see it; only bodies of files that are served have a length beforehand."""
        bodied = door in ("cdn", "resolve-cache")
        return Visit(
            number=arrived.number,
            door=door,
            method=arrived.method,
            endpoint=self.endpoint,
            target=arrived.target,
            repo=arrived.repo,
            path=arrived.path,
            wall_s=self.wall(),
            edge=arrived.edge,
            end=0 if bodied else UNKNOWN_BYTES,
        )

    async def _send(self, request: web.BaseRequest, arrived: Request, answer: Answer, delivery: Delivery) -> Sent:
        dated = answer
        if answer.header("date") is None:
            dated = answer.with_header("date", formatdate(self.wall(), usegmt=True))
        courier = Courier(request, arrived, dated, delivery, log=self.log, gates=self._gates, throttle=self.throttle)
        return await courier.carry()


def _with_range(visit: Visit, arrived: Request, content: Content, *, etag: str) -> Visit:
    asked = asked_of(arrived, content, etag=etag)
    return replace(visit, start=asked.start, end=asked.end, total=content.size)


def _has_gone_out(log: Log, path: str, byte: int) -> bool:
    return any(served.start < max(1, byte) <= served.end for served in log.served(path=path))


class ThreadedSimHub:
    """A SimHub on an event loop of its own in a thread, for tests that drive other processes.

    Entering gives the SimHub itself: its control methods and the `wait_...` forms work from any thread.
    """

    def __init__(self, hub: SimHub) -> None:
        self._hub = hub
        self._started = Signal()
        self._stopping = Signal()
        self._thread = threading.Thread(target=self._run, name="sim-hub")
        self._error: BaseException | None = None

    def __enter__(self) -> SimHub:
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            raise self._error
        return self._hub

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._error = error  # the test's thread raises it
        finally:
            self._started.set()

    async def _serve(self) -> None:
        async with self._hub:
            self._started.set()
            await self._stopping.until(None)
