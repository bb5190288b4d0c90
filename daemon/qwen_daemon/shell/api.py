"""The API on the Unix sockets: HTTP/1.1 with JSON bodies and one JSON Lines stream. The only server here is aiohttp's.

Two sockets, because access is by group: `events.sock` answers questions and takes a loader's own state, `control.sock`
answers everything. There is no TCP listener. A command is validated against a closed schema, logged with the peer's
uid, and answered with the event number at or after which its effect shows; errors are application/problem+json.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from fnmatch import fnmatchcase
from typing import Protocol, TypeVar

import msgspec
import structlog
from aiohttp import web

from qwen_api import commands
from qwen_api import events as e
from qwen_api.models import BadModelName, parse_model
from qwen_api.seals import Seal
from qwen_api.status import FileStatus, ModelStatus, Status, encode_status
from qwen_daemon.core.errors import UnknownModel
from qwen_daemon.shell.problems import Refusal, answer_problems

BODY_BYTES_MAX = 64 << 10
WRITE_TIMEOUT_S = 30.0  # a reader that takes nothing for so long is dropped
READERS_MAX = 64
LOADERS_MAX = 64
LOADER_NAME_MAX = 64

log = structlog.get_logger(__name__)
T = TypeVar("T")


class Commands(Protocol):
    """What the engine does for the API."""

    async def add(self, wanted: commands.AddModel) -> str:
        """Want a model; returns its key."""

    async def remove(self, key: str, *, delete_files: bool) -> None:
        """Want it no more."""

    def pause(self, key: str) -> None:
        """Stop fetching."""

    def resume(self, key: str) -> None:
        """Go on."""

    def retry(self, key: str) -> None:
        """Try again now."""

    async def update(self, key: str) -> None:
        """Take the revision's newest commit."""

    def verify(self, key: str, *, full: bool) -> None:
        """Look at the disk again."""

    def set_limits(self, limits: commands.SetLimits) -> None:
        """Change what holds for the whole daemon."""

    def limit(self, key: str, rate_limit_bps: int | None) -> None:
        """Limit one model's speed."""

    def prioritise(self, key: str, priority: int) -> None:
        """Begin a model's files sooner or later than others'."""


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

    def lines(self, *, since: int | None = None, epoch: str = "", follow: bool = True) -> AsyncGenerator[bytes]:
        """The stream of one reader."""


class FilesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/models/{id}/files."""

    model: str
    commit: str
    path: str
    files: tuple[FileStatus, ...]
    seals: dict[str, Seal]


class Api:
    """Handlers over the bus and the engine."""

    def __init__(
        self,
        bus: Stream,
        engine: Commands,
        version: commands.Version,
        seals: Callable[[str], Awaitable[Mapping[str, Seal]]],
    ) -> None:
        self._bus = bus
        self._engine = engine
        self._version = version
        self._seals = seals
        self._readers: list[web.Request] = []

    def application(self, *, control: bool) -> web.Application:
        """The routes of one of the two sockets."""
        app = web.Application(middlewares=[answer_problems(control=control)], client_max_size=BODY_BYTES_MAX)
        app.add_routes(
            [
                web.get("/v1/events", self._events),
                web.get("/v1/state", self._state),
                web.get("/v1/models", self._models),
                web.get("/v1/models/{id}", self._model),
                web.get("/v1/models/{id}/files", self._files),
                web.get("/v1/version", self._get_version),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.put("/v1/loaders/{name}", self._loader),
            ]
        )
        if control:
            app.add_routes(
                [
                    web.post("/v1/models", self._add),
                    web.delete("/v1/models/{id}", self._remove),
                    web.post("/v1/models/{id}/{verb:pause|resume|retry}", self._verb),
                    web.post("/v1/models/{id}/update", self._update),
                    web.post("/v1/models/{id}/verify", self._verify),
                    web.put("/v1/limits", self._set_limits),
                    web.put("/v1/models/{id}/limits", self._limit),
                    web.put("/v1/models/{id}/priority", self._prioritise),
                ]
            )
        return app

    async def _events(self, request: web.Request) -> web.StreamResponse:
        # A reader that went away is noticed at its next line only; it must not keep others out until then.
        if sum(reader.transport is not None for reader in self._readers) >= READERS_MAX:
            raise Refusal(503, "E_BUSY", "too many readers", f"{READERS_MAX} streams are open", "close one")
        since, follow = _int_query(request, "since"), request.query.get("follow", "1") != "0"
        passes = _filter(self._key(request.query.get("model", "")), request.query.get("types", ""))
        as_sse = "text/event-stream" in request.headers.get("Accept", "")
        content_type = "text/event-stream" if as_sse else "application/x-ndjson"
        response = web.StreamResponse(headers={"Content-Type": content_type, "Cache-Control": "no-store"})
        self._readers.append(request)
        try:
            await response.prepare(request)
            # Closed here and now, so that the bus forgets a reader that went away.
            async with aclosing(
                self._bus.lines(since=since, epoch=request.query.get("epoch", ""), follow=follow)
            ) as lines:
                async for line in lines:
                    if passes(line):
                        async with asyncio.timeout(WRITE_TIMEOUT_S):
                            await response.write(b"data: " + line + b"\n" if as_sse else line)
        except (ConnectionError, TimeoutError):
            pass  # the reader went away or sleeps: its stream ends, nothing else does
        finally:
            self._readers = [reader for reader in self._readers if reader is not request]
        return response

    async def _state(self, _request: web.Request) -> web.Response:
        return _json(encode_status(self._bus.status))

    async def _models(self, _request: web.Request) -> web.Response:
        return _json(msgspec.json.encode(tuple(self._bus.status.models.values())))

    async def _model(self, request: web.Request) -> web.Response:
        return _json(msgspec.json.encode(self._status_of(self._key(request.match_info["id"]))))

    async def _files(self, request: web.Request) -> web.Response:
        model = self._status_of(self._key(request.match_info["id"]))
        answer = FilesAnswer(
            model=model.model,
            commit=model.commit,
            path=model.path,
            files=tuple(model.files.values()),
            seals=dict(await self._seals(model.model)),
        )
        return _json(msgspec.json.encode(answer))

    async def _get_version(self, _request: web.Request) -> web.Response:
        return _json(msgspec.json.encode(self._version))

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _json(b'{"status":"ok"}')

    async def _readyz(self, request: web.Request) -> web.Response:
        """200 when the model (all models, if none is named) is complete, else 503 with what it is doing."""
        key = self._key(request.query.get("model", ""))
        models = [self._status_of(key)] if key else list(self._bus.status.models.values())
        ready = bool(models) and all(m.state == "complete" for m in models)
        body = {m.model: {"state": m.state, "done_bytes": m.done_bytes, "size_bytes": m.size_bytes} for m in models}
        answer = _json(msgspec.json.encode(body), status=200 if ready else 503)
        if not ready:
            answer.headers["Retry-After"] = "5"
        return answer

    async def _loader(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        report = await _body(request, commands.LoaderReport)
        if len(name) > LOADER_NAME_MAX or not name.isprintable():
            raise Refusal(400, "E_USAGE", "bad loader name", "at most 64 printable characters", "use another name")
        known = self._bus.status.loaders
        if name not in known and sum(item.state != "gone" for item in known.values()) >= LOADERS_MAX:
            raise Refusal(503, "E_BUSY", "too many loaders", f"{LOADERS_MAX} are known", "stop some")
        pid, _uid = _peer(request)  # the kernel's word; 0 for a process in a namespace we cannot see
        facts = msgspec.structs.asdict(msgspec.structs.replace(report, pid=pid))
        return _accepted(self._bus.publish(e.LoaderChanged(name=name, **facts)), report.model)

    async def _add(self, request: web.Request) -> web.Response:
        wanted = await _body(request, commands.AddModel)
        _audit(request, "add", wanted.model)
        key = await self._engine.add(wanted)
        return _accepted(self._bus.seq, key, status=201)

    async def _remove(self, request: web.Request) -> web.Response:
        key = self._key(request.match_info["id"])
        asked = await _body(request, commands.RemoveModel)
        _audit(request, "remove", key)
        await self._engine.remove(key, delete_files=asked.delete_files)
        return _accepted(self._bus.seq, key)

    async def _verb(self, request: web.Request) -> web.Response:
        key, verb = self._key(request.match_info["id"]), request.match_info["verb"]
        _audit(request, verb, key)
        {"pause": self._engine.pause, "resume": self._engine.resume, "retry": self._engine.retry}[verb](key)
        return _accepted(self._bus.seq, key)

    async def _update(self, request: web.Request) -> web.Response:
        key = self._key(request.match_info["id"])
        _audit(request, "update", key)
        await self._engine.update(key)
        return _accepted(self._bus.seq, key)

    async def _verify(self, request: web.Request) -> web.Response:
        key = self._key(request.match_info["id"])
        asked = await _body(request, commands.VerifyModel)
        _audit(request, "verify", key)
        self._engine.verify(key, full=asked.full)
        return _accepted(self._bus.seq, key)

    async def _set_limits(self, request: web.Request) -> web.Response:
        asked = await _body(request, commands.SetLimits)
        _audit(request, "limits", "")
        self._engine.set_limits(asked)
        return _accepted(self._bus.seq, "")

    async def _limit(self, request: web.Request) -> web.Response:
        key = self._key(request.match_info["id"])
        asked = await _body(request, commands.SetModelLimits)
        _audit(request, "limits", key)
        self._engine.limit(key, asked.rate_limit_bps)
        return _accepted(self._bus.seq, key)

    async def _prioritise(self, request: web.Request) -> web.Response:
        key = self._key(request.match_info["id"])
        asked = await _body(request, commands.SetPriority)
        _audit(request, "priority", key)
        self._engine.prioritise(key, asked.priority)
        return _accepted(self._bus.seq, key)

    def _key(self, name: str) -> str:
        """A model's key, its alias or `org/name[@revision]` (percent-encoded in a path); anything else as it is."""
        if name in self._bus.status.models:
            return name
        try:
            return parse_model(name).key
        except BadModelName:
            return name

    def _status_of(self, key: str) -> ModelStatus:
        model = self._bus.status.models.get(key)
        if model is None:
            raise UnknownModel(key)
        return model


async def _body(request: web.Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.read() or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise Refusal(400, "E_USAGE", "the request's body is wrong", str(error), "see docs/api.md") from error


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


def _audit(request: web.Request, command: str, model: str) -> None:
    """Who commanded."""
    pid, uid = _peer(request)
    log.info("command.taken", command=command, model=model, uid=uid, pid=pid)


def _peer(request: web.Request) -> tuple[int, int]:
    """pid and uid from SO_PEERCRED (unix(7)): the kernel's word and not the peer's."""
    peer = request.transport.get_extra_info("socket") if request.transport else None
    if peer is None:
        return 0, -1
    pid, uid, _gid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return pid, uid


def _json(body: bytes, *, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


def _accepted(seq: int, model: str, *, status: int = 202) -> web.Response:
    return _json(msgspec.json.encode(commands.Accepted(seq=seq, model=model)), status=status)
