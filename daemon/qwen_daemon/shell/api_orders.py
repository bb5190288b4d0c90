"""The API's commands: each reads its closed body, is logged with the peer's uid, and asks one thing of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from aiohttp import web

from qwen_api import commands
from qwen_api.language import N_
from qwen_api.models import same_repo
from qwen_daemon.shell.api_stream import Stream
from qwen_daemon.shell.api_wire import accepted, audit, read_body
from qwen_daemon.shell.problems import Refusal


class FileCommands(Protocol):
    """What the engine does with the files that words (paths, patterns) mean; each returns their paths."""

    def pause(self, words: Sequence[str]) -> tuple[str, ...]:
        """Do not fetch them."""

    def resume(self, words: Sequence[str]) -> tuple[str, ...]:
        """Fetch them again."""

    def retry(self, words: Sequence[str]) -> tuple[str, ...]:
        """Try them now."""

    def prioritise(self, words: Sequence[str], priority: int) -> tuple[str, ...]:
        """Begin them sooner or later than the model's others."""


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

    async def whereabouts(self, key: str, path: str) -> commands.Whereabouts:
        """Where one file's bytes are."""

    def files(self, key: str) -> FileCommands:
        """Commands about single files of a model."""

    def order_components(self, key: str, components: Sequence[str]) -> None:
        """Fetch a model's components in this order."""

    def set_limits(self, limits: commands.SetLimits) -> None:
        """Change what holds for the whole daemon."""

    def limit(self, key: str, rate_limit_bps: int | None) -> None:
        """Limit one model's speed."""

    def prioritise(self, key: str, priority: int) -> None:
        """Begin a model's files sooner or later than others'."""


class Orders:
    """Handlers over the engine; `key` reads a model's name."""

    def __init__(self, bus: Stream, engine: Commands, key: Callable[[str], str]) -> None:
        self._bus = bus
        self._engine = engine
        self._key = key

    def routes(self) -> list[web.RouteDef]:
        """Where each command is asked for."""
        return [
            web.post("/v1/models", self._add),
            web.delete("/v1/models/{id}", self._remove),
            web.post("/v1/models/{id}/{verb:pause|resume|retry}", self._verb),
            web.post("/v1/models/{id}/update", self._update),
            web.post("/v1/models/{id}/verify", self._verify),
            web.put("/v1/limits", self._set_limits),
            web.put("/v1/models/{id}/limits", self._limit),
            web.put("/v1/models/{id}/priority", self._prioritise),
            web.post("/v1/models/{id}/files/{verb:pause|resume|retry}", self._file_verb),
            web.put("/v1/models/{id}/files/priority", self._prioritise_files),
        ]

    async def _add(self, request: web.Request) -> web.Response:
        wanted = await read_body(request, commands.AddModel)
        audit(request, "add", wanted.model)
        key = await self._engine.add(wanted)
        return accepted(self._bus.seq, key, status=201)

    async def _remove(self, request: web.Request) -> web.Response:
        key = self._key(request.match_info["id"])
        asked = await read_body(request, commands.RemoveModel)
        audit(request, "remove", key)
        holders = [x.name for x in self._bus.status.loaders.values() if same_repo(x.model, key) and x.holds_files]
        if asked.delete_files and holders:
            raise Refusal(
                409,
                "E_HELD",
                N_("a loader holds this model"),
                ", ".join(holders),
                "stop it first, or leave the files: without --delete-files",
            )
        await self._engine.remove(key, delete_files=asked.delete_files)
        return accepted(self._bus.seq, key)

    async def _verb(self, request: web.Request) -> web.Response:
        key, verb = self._key(request.match_info["id"]), request.match_info["verb"]
        audit(request, verb, key)
        {"pause": self._engine.pause, "resume": self._engine.resume, "retry": self._engine.retry}[verb](key)
        return accepted(self._bus.seq, key)

    async def _update(self, request: web.Request) -> web.Response:
        key = self._key(request.match_info["id"])
        audit(request, "update", key)
        await self._engine.update(key)
        return accepted(self._bus.seq, key)

    async def _verify(self, request: web.Request) -> web.Response:
        key = self._key(request.match_info["id"])
        asked = await read_body(request, commands.VerifyModel)
        audit(request, "verify", key)
        self._engine.verify(key, full=asked.full)
        return accepted(self._bus.seq, key)

    async def _set_limits(self, request: web.Request) -> web.Response:
        asked = await read_body(request, commands.SetLimits)
        audit(request, "limits", "")
        self._engine.set_limits(asked)
        return accepted(self._bus.seq, "")

    async def _limit(self, request: web.Request) -> web.Response:
        key = self._key(request.match_info["id"])
        asked = await read_body(request, commands.SetModelLimits)
        audit(request, "limits", key)
        self._engine.limit(key, asked.rate_limit_bps)
        return accepted(self._bus.seq, key)

    async def _prioritise(self, request: web.Request) -> web.Response:
        key = self._key(request.match_info["id"])
        asked = await read_body(request, commands.SetPriority)
        audit(request, "priority", key)
        self._engine.prioritise(key, asked.priority)
        return accepted(self._bus.seq, key)

    async def _file_verb(self, request: web.Request) -> web.Response:
        key, verb = self._key(request.match_info["id"]), request.match_info["verb"]
        asked = await read_body(request, commands.ChosenFiles)
        audit(request, f"{verb} files", key)
        files = self._engine.files(key)
        paths = {"pause": files.pause, "resume": files.resume, "retry": files.retry}[verb](asked.paths)
        return accepted(self._bus.seq, key, files=paths)

    async def _prioritise_files(self, request: web.Request) -> web.Response:
        key = self._key(request.match_info["id"])
        asked = await read_body(request, commands.SetFilePriority)
        audit(request, "prioritise files", key)
        paths = self._engine.files(key).prioritise(asked.paths, asked.priority)
        return accepted(self._bus.seq, key, files=paths)
