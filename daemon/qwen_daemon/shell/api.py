"""The API on the Unix sockets: HTTP/1.1 with JSON bodies and one JSON Lines stream. The only server here is aiohttp's.

Two sockets, because access is by group: `events.sock` answers questions and takes a loader's own state, `control.sock`
answers everything. There is no TCP listener. A command is validated against a closed schema, logged with the peer's
uid, and answered with the event number at or after which its effect shows; errors are application/problem+json.
Here are the questions; the stream is api_stream's, the commands are api_orders'.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import msgspec
from aiohttp import web

from qwen_api import commands
from qwen_api import events as e
from qwen_api.language import N_
from qwen_api.models import BadModelName, parse_model, same_repo
from qwen_api.seals import Seal
from qwen_api.status import FileStatus, ModelStatus, encode_status
from qwen_daemon.core.errors import UnknownModel
from qwen_daemon.shell.api_orders import Commands, Orders
from qwen_daemon.shell.api_stream import EventStream, Stream
from qwen_daemon.shell.api_wire import accepted, json_answer, peer, read_body
from qwen_daemon.shell.problems import Refusal, answer_problems
from qwen_daemon.shell.visitors import Visitors

BODY_BYTES_MAX = 64 << 10
LOADERS_MAX = 64


class Holdings(NamedTuple):
    """What is on the disk of one model: the snapshot's folder ("" while the commit is not known), and the seals."""

    folder: str
    seals: Mapping[str, Seal]


class Api:
    """Handlers over the bus and the engine."""

    def __init__(
        self,
        bus: Stream,
        engine: Commands,
        version: commands.Version,
        holdings: Callable[[str], Awaitable[Holdings]],
        hear_loader: Callable[[e.LoaderChanged, float], int | None],
    ) -> None:
        self._bus = bus
        self._engine = engine
        self._visitors = Visitors()
        self._stream = EventStream(bus, self._key, self._visitors)
        self._orders = Orders(bus, engine, self._key)
        self._version = version
        self._holdings = holdings
        self._hear_loader = hear_loader

    def application(self, *, control: bool) -> web.Application:
        """The routes of one of the two sockets."""
        middlewares = [answer_problems(self._visitors, control=control)]
        app = web.Application(middlewares=middlewares, client_max_size=BODY_BYTES_MAX)
        app.on_response_prepare.append(_say_wire)
        app.add_routes(
            [
                web.get("/v1/events", self._stream.answer),
                web.get("/v1/state", self._state),
                web.get("/v1/models", self._models),
                web.get("/v1/models/{id}", self._model),
                web.get("/v1/models/{id}/files", self._files),
                web.get("/v1/models/{id}/files/{path:.+}", self._file),
                web.get("/v1/version", self._get_version),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.put("/v1/loaders/{name}", self._loader),
            ]
        )
        if control:
            app.add_routes(self._orders.routes())
        return app

    async def _state(self, _request: web.Request) -> web.Response:
        return json_answer(encode_status(self._bus.status))

    async def _models(self, _request: web.Request) -> web.Response:
        return json_answer(msgspec.json.encode(tuple(self._bus.status.models.values())))

    async def _model(self, request: web.Request) -> web.Response:
        return json_answer(msgspec.json.encode(self._status_of(self._key(request.match_info["id"]))))

    async def _files(self, request: web.Request) -> web.Response:
        model = self._status_of(self._key(request.match_info["id"]))
        folder, seals = await self._holdings(model.model)
        answer = commands.ModelFiles(
            model=model.model,
            commit=model.commit,
            path=model.path,
            files=tuple(model.files.values()),
            seals=dict(seals),
            folder=folder,
        )
        return json_answer(msgspec.json.encode(answer))

    async def _file(self, request: web.Request) -> web.Response:
        model, path = self._status_of(self._key(request.match_info["id"])), request.match_info["path"]
        whereabouts = await self._engine.whereabouts(model.model, path)
        file = self._status_of(model.model).files.get(path) or FileStatus(path=path, size_bytes=0)
        answer = commands.FileDetails(model=model.model, file=file, whereabouts=whereabouts)
        return json_answer(msgspec.json.encode(answer))

    async def _get_version(self, _request: web.Request) -> web.Response:
        return json_answer(msgspec.json.encode(self._version))

    async def _healthz(self, _request: web.Request) -> web.Response:
        return json_answer(b'{"status":"ok"}')

    async def _readyz(self, request: web.Request) -> web.Response:
        """200 when the model (all models, if none is named) is complete, else 503 with what it is doing."""
        key = self._key(request.query.get("model", ""))
        models = [self._status_of(key)] if key else list(self._bus.status.models.values())
        ready = bool(models) and all(m.state == "complete" for m in models)
        body = {m.model: {"state": m.state, "done_bytes": m.done_bytes, "size_bytes": m.size_bytes} for m in models}
        answer = json_answer(msgspec.json.encode(body), status=200 if ready else 503)
        if not ready:
            answer.headers["Retry-After"] = "5"
        return answer

    async def _loader(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        report = await read_body(request, commands.LoaderReport)
        if not commands.is_loader_name(name):
            raise Refusal(400, "E_USAGE", N_("bad loader name"), "at most 64 printable characters", "use another name")
        known = self._bus.status.loaders
        if name not in known and sum(not item.is_over for item in known.values()) >= LOADERS_MAX:
            raise Refusal(503, "E_BUSY", N_("too many loaders"), f"{LOADERS_MAX} are known", "stop some")
        pid, _uid = peer(request)  # the kernel's word; 0 for a process in a namespace we cannot see
        facts = msgspec.structs.asdict(msgspec.structs.replace(report, pid=pid if report.pid else 0))
        heartbeat_s, key = facts.pop("heartbeat_s"), self._key(report.model)
        facts["model"] = key
        seq = self._hear_loader(e.LoaderChanged(name=name, **facts), heartbeat_s)
        if report.components and seq is not None:
            models = self._bus.status.models
            for ordered in [key] if key in models else [other for other in models if same_repo(other, key)]:
                self._engine.order_components(ordered, report.components)
        return accepted(self._bus.status.seq if seq is None else seq, key)

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


async def _say_wire(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[commands.WIRE_HEADER] = str(e.WIRE_VERSION)
