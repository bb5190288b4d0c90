"""A real HTTP/1.1 server on real Unix sockets that speaks the daemon's wire from a script of events.

For tests of clients (monitor, qwenctl, loader): it folds what it says with `qwen_api.status.fold`, greets each reader
with hello, snapshot, gap or backlog, and live, and follows. It downloads nothing; commands are recorded, and pause,
resume and retry change the model's state as the real daemon would. It can cut readers off, vanish and come back with a
new epoch, and refuse commands.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Coroutine, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
from aiohttp import web

from qwen_api import commands, places
from qwen_api import events as e
from qwen_api.models import parse_model
from qwen_api.seals import Seal
from qwen_api.status import Status, encode_status, fold

START_S = 10.0  # a step on the server's own loop; only a hung test reaches it
ACCEPT_ROUNDS = 5  # of the loop, from a connection in the backlog to its transport
FIRST_TS = "2026-11-23T14:00:00.000Z"

T = TypeVar("T")


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """One command as it arrived; `verb` is the last part of the URL, or add, remove, loader."""

    verb: str
    subject: str = ""
    body: bytes = b""


class FakeDaemon:
    """Use as a context manager; all methods may be called from the test's thread.

    `control` and `events` are the sockets, in `directory`. `commands` are the commands in the order they came. `folder`
    and `seals` are what it answers of every model's files, `whereabouts` (by path) of single ones.
    `wire` is its protocol's version; a daemon of the first days does not tell it with its answers (`tells_wire`).
    """

    def __init__(
        self,
        directory: Path,
        *script: e.Event,
        version: str = "1.2.3",
        bookmark_s: float = 5.0,
        wire: int = e.WIRE_VERSION,
        tells_wire: bool = True,
    ) -> None:
        self.control = directory / places.CONTROL_SOCKET
        self.events = places.events_socket(self.control)
        self.commands: list[Command] = []
        self.status = Status(version=version, pid=4242, started_at=FIRST_TS)
        self.epoch = "epoch-1"
        self.ring_events_max = 5000
        self.folder = ""
        self.seals: dict[str, Seal] = {}
        self.whereabouts: dict[str, commands.Whereabouts] = {}
        self._directory = directory
        self._bookmark_s = bookmark_s
        self._wire, self._tells_wire = wire, tells_wire
        self._refusals: deque[commands.Problem] = deque()
        self._ring: deque[tuple[int, bytes]] = deque()
        self._dropped_seq = 0
        self._readers: dict[int, asyncio.Queue[bytes | None]] = {}
        self._readers_seen = 0
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-daemon", daemon=True)
        self._runner: web.AppRunner | None = None
        for event in script:
            self._record(event)

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._vanish())
        self._do(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_S)
        self._loop.close()

    def say(self, *events: e.Event) -> int:
        """Fold the events and send them to every reader; the seq of the last one."""
        return self._do(self._say(events))

    def send_raw(self, line: bytes) -> None:
        """Send a line that is not of this wire's version (it must end in a newline)."""
        self._do(self._broadcast(line))

    def cut(self) -> None:
        """Close every event stream; the readers come again."""
        self._do(self._cut())

    def stop(self) -> None:
        """Stop listening and close everything, as a daemon that exits."""
        self._do(self._vanish())

    def start(self, *, epoch: str = "", models: bool = True) -> None:
        """Listen again; with a new `epoch` the seq and the backlog start anew, without `models` the state too."""
        if epoch:
            kept = self.status.models if models else {}
            self.epoch = epoch
            self.status = Status(version=self.status.version, pid=4343, started_at=FIRST_TS, models=kept)
            self._ring.clear()
            self._dropped_seq = 0
        self._do(self._listen())

    def refuse_next(self, code: str, title: str, *, status: int = 409, detail: str = "", fix: str = "") -> None:
        """Answer the next command with this problem."""
        self._refusals.append(commands.Problem(title=title, status=status, code=code, detail=detail, fix=fix))

    def wait_for_readers(self, count: int, timeout_s: float = START_S) -> None:
        """Block until `count` event streams are open."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._readers) == count, timeout_s), f"not {count} readers"

    def wait_for_commands(self, count: int, timeout_s: float = START_S) -> list[Command]:
        """Block until `count` commands have come; the commands."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.commands) >= count, timeout_s), self.commands
            return list(self.commands)

    def loader_reports(self) -> list[commands.LoaderReport]:
        """What loaders have said of themselves so far."""
        with self._changed:
            bodies = [command.body for command in self.commands if command.verb == "loader"]
        return [msgspec.json.decode(body, type=commands.LoaderReport) for body in bodies]

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_S)

    def _record(self, event: e.Event) -> bytes:
        seq = self.status.seq + 1
        ts = event.ts or FIRST_TS
        stamped = msgspec.structs.replace(event, seq=seq, ts=ts)
        self.status = fold(self.status, stamped)
        line = e.encode_line(stamped)
        if e.is_durable(stamped):
            self._ring.append((seq, line))
        while len(self._ring) > self.ring_events_max:
            self._dropped_seq = self._ring.popleft()[0]
        return line

    async def _say(self, events: Iterable[e.Event]) -> int:
        for event in events:
            await self._broadcast(self._record(event))
        return self.status.seq

    async def _broadcast(self, line: bytes) -> None:
        for queue in self._readers.values():
            queue.put_nowait(line)

    async def _cut(self) -> None:
        for queue in self._readers.values():
            queue.put_nowait(None)

    async def _vanish(self) -> None:
        await self._cut()
        for path in (self.control, self.events):
            path.unlink(missing_ok=True)
        if self._runner is not None:
            # Whoever came before the names went is let in first: a server that closes between asyncio's accept and its
            # transport leaks both (CPython 3.11, base_events.Server._attach asserts that it is open).
            for _ in range(ACCEPT_ROUNDS):
                await asyncio.sleep(0)
            await self._runner.cleanup()
            self._runner = None

    async def _listen(self) -> None:
        self._runner = web.AppRunner(self._routes(), shutdown_timeout=0.5)
        await self._runner.setup()
        for path in (self.control, self.events):
            await web.UnixSite(self._runner, str(path)).start()

    async def _say_wire(self, _request: web.Request, response: web.StreamResponse) -> None:
        response.headers[commands.WIRE_HEADER] = str(self._wire)

    def _routes(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        if self._tells_wire:
            app.on_response_prepare.append(self._say_wire)
        app.router.add_get("/v1/events", self._stream)
        app.router.add_get("/v1/state", self._state)
        app.router.add_get("/v1/version", self._version)
        app.router.add_get("/v1/models/{model}/files", self._files)
        app.router.add_get("/v1/models/{model}/files/{path:.+}", self._file)
        app.router.add_post("/v1/models", self._add)
        app.router.add_post("/v1/models/{model}/{verb}", self._verb)
        app.router.add_post("/v1/models/{model}/files/{verb}", self._file_verb)
        app.router.add_put("/v1/models/{model}/files/{verb:priority}", self._file_verb)
        app.router.add_delete("/v1/models/{model}", self._remove)
        app.router.add_put("/v1/loaders/{name}", self._loader)
        app.router.add_put("/v1/limits", self._limits)
        app.router.add_put("/v1/models/{model}/{verb:limits|priority}", self._verb)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """The events socket takes questions and loader reports only; a scripted refusal goes first."""
        if request.method == "GET":
            return await self._handled(request, handler)
        if self._refusals:
            return _problem(self._refusals.popleft())
        sockname = request.transport.get_extra_info("sockname") if request.transport else ""
        if sockname == str(self.events) and request.method != "PUT":
            problem = commands.Problem(
                title="this socket only answers questions", status=403, code="E_READ_ONLY_SOCKET"
            )
            return _problem(problem)
        return await self._handled(request, handler)

    async def _handled(self, request: web.Request, handler: Any) -> web.StreamResponse:
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        self._readers_seen += 1
        reader, queue = self._readers_seen, asyncio.Queue[bytes | None]()
        greeting = self._greeting(request)  # with the queue registered before any await, nothing is lost between
        with self._changed:
            self._readers[reader] = queue
            self._changed.notify_all()
        try:
            await answer.prepare(request)
            await answer.write(greeting)
            while (line := await self._next_line(queue)) is not None:
                await answer.write(line)
        except ConnectionError:
            pass  # the reader left
        finally:
            with self._changed:
                del self._readers[reader]
                self._changed.notify_all()
        if request.transport is not None:
            request.transport.close()
        return answer

    async def _next_line(self, queue: asyncio.Queue[bytes | None]) -> bytes | None:
        try:
            async with asyncio.timeout(self._bookmark_s):
                return await queue.get()
        except TimeoutError:
            return e.encode_line(e.Bookmark(seq=self.status.seq))

    def _greeting(self, request: web.Request) -> bytes:
        seq = self.status.seq
        hello = e.Hello(v=self._wire, epoch=self.epoch, server="qwen-daemon/fake", seq=seq)
        snapshot = e.Snapshot(seq=seq, ts=FIRST_TS, state=msgspec.Raw(encode_status(self.status)))
        lines = [e.encode_line(hello), e.encode_line(snapshot), *self._backlog(request)]
        return b"".join([*lines, e.encode_line(e.Live(seq=seq))])

    def _backlog(self, request: web.Request) -> list[bytes]:
        if "since" not in request.query or request.query.get("epoch") != self.epoch:
            return []
        since = int(request.query["since"])
        gap = [e.encode_line(e.Gap(first=since + 1, last=self._dropped_seq))] if since < self._dropped_seq else []
        return gap + [line for seq, line in self._ring if seq > since]

    async def _state(self, _request: web.Request) -> web.Response:
        return web.Response(body=encode_status(self.status), content_type="application/json")

    async def _files(self, request: web.Request) -> web.Response:
        model = self.status.models[request.match_info["model"]]
        answer = commands.ModelFiles(
            model=model.model,
            commit=model.commit,
            path=model.path,
            files=tuple(model.files.values()),
            seals=self.seals,
            folder=self.folder,
        )
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    async def _file(self, request: web.Request) -> web.Response:
        model, path = self.status.models[request.match_info["model"]], request.match_info["path"]
        if path not in self.whereabouts:
            return _problem(commands.Problem(title="no such file", status=404, code="E_UNKNOWN_FILE"))
        answer = commands.FileDetails(model=model.model, file=model.files[path], whereabouts=self.whereabouts[path])
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    async def _version(self, _request: web.Request) -> web.Response:
        version = commands.Version(
            version=self.status.version,
            wire=self._wire,
            epoch=self.epoch,
            pid=self.status.pid,
            cache_dir="/cache",
            state_dir=str(self._directory),
            endpoint=places.DEFAULT_ENDPOINT,
        )
        return web.Response(body=msgspec.json.encode(version), content_type="application/json")

    async def _add(self, request: web.Request) -> web.Response:
        body = await request.read()
        wanted = msgspec.json.decode(body, type=commands.AddModel)
        ref = parse_model(wanted.model)
        self._note("add", ref.key, body)
        await self._say([e.ModelAdded(model=ref.key, repo=ref.repo, revision=ref.revision)])
        return self._accepted(ref.key, status=201)

    async def _verb(self, request: web.Request) -> web.Response:
        model, verb = request.match_info["model"], request.match_info["verb"]
        self._note(verb, model, await request.read())
        if model not in self.status.models:
            problem = commands.Problem(title=f"{model} is not wanted", status=404, code="E_UNKNOWN_MODEL")
            return _problem(problem)
        states: dict[str, e.ModelState] = {"pause": "paused", "resume": "downloading", "retry": "downloading"}
        if verb in states:
            await self._say([e.ModelStateChanged(model=model, state=states[verb])])
        return self._accepted(model)

    async def _file_verb(self, request: web.Request) -> web.Response:
        """The files that are named; patterns mean nothing here."""
        model, verb = request.match_info["model"], request.match_info["verb"]
        body = await request.read()
        self._note(f"{verb} files", model, body)
        if verb == "priority":
            asked = msgspec.json.decode(body, type=commands.SetFilePriority)
            await self._say([e.FilesPrioritised(model=model, paths=asked.paths, priority=asked.priority)])
            return self._accepted(model, files=asked.paths)
        paths = msgspec.json.decode(body, type=commands.ChosenFiles).paths
        if verb != "retry":
            told = e.FilesPaused if verb == "pause" else e.FilesResumed
            await self._say([told(model=model, paths=paths)])
        return self._accepted(model, files=paths)

    async def _remove(self, request: web.Request) -> web.Response:
        model = request.match_info["model"]
        self._note("remove", model, await request.read())
        await self._say([e.ModelRemoved(model=model)])
        return self._accepted(model)

    async def _limits(self, request: web.Request) -> web.Response:
        self._note("limits", "", await request.read())
        return self._accepted()

    async def _loader(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        body = await request.read()
        report = msgspec.json.decode(body, type=commands.LoaderReport)
        self._note("loader", name, body)
        facts = {f: getattr(report, f) for f in report.__struct_fields__ if f != "heartbeat_s"}
        await self._say([e.LoaderChanged(name=name, **facts)])
        return self._accepted()

    def _note(self, verb: str, subject: str, body: bytes) -> None:
        with self._changed:
            self.commands.append(Command(verb=verb, subject=subject, body=body))
            self._changed.notify_all()

    def _accepted(self, model: str = "", status: int = 202, files: tuple[str, ...] | None = None) -> web.Response:
        about = msgspec.UNSET if files is None else files
        body = msgspec.json.encode(commands.Accepted(seq=self.status.seq, model=model, files=about))
        return web.Response(body=body, status=status, content_type="application/json")


def _problem(problem: commands.Problem) -> web.Response:
    body = msgspec.json.encode(problem)
    return web.Response(body=body, status=problem.status, content_type="application/problem+json")
