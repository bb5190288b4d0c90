"""Several endpoints as one Hub and one Origin: each question and each byte from the first that works.

Another endpoint takes over within a read (engine.relay); nothing that came is asked for again, and the file's hash
decides in the end, whatever mix of endpoints it came from.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from qwen_api.manifest import Manifest, WantedFile
from qwen_api.models import ModelRef
from qwen_daemon.core import endpoints as decide
from qwen_daemon.core.errors import MakeRoom, Trouble
from qwen_daemon.engine.endpoints import Door, Endpoint, Endpoints
from qwen_daemon.engine.relay import Relay
from qwen_daemon.ports import Body, Hub, Reading

T = TypeVar("T")


class Supply:
    """ports.Hub and ports.Origin of one model (by key), over all its endpoints as they are configured by then."""

    def __init__(self, endpoints: Endpoints, model: str) -> None:
        self._endpoints = endpoints
        self._model = model

    async def resolve(self, ref: ModelRef) -> str:
        """See ports.Hub. The Hub's own word goes first: a mirror may be behind, and must not move a model back."""
        return await self._ask(ref.repo, lambda hub: hub.resolve(ref))

    async def list_files(self, repo: str, commit: str) -> Manifest:
        """See ports.Hub. The Hub's own word goes first: what it says of hashes, no mirror can forge."""
        return await self._ask(repo, lambda hub: hub.list_files(repo, commit))

    def read(self, repo: str, commit: str, file: WantedFile, start: int, end: int) -> Reading:
        """See ports.Origin."""
        return self._read(repo, commit, file, start, end)

    def splits(self, repo: str, file: WantedFile) -> bool:
        """See ports.Origin."""
        return self._in_order("files", repo, file.etag)[0].origin.splits(repo, file)

    def distrust(self, repo: str, file: WantedFile) -> None:
        """See ports.Origin."""
        for endpoint in self._in_order("files", repo, file.etag):
            endpoint.origin.distrust(repo, file)
        self._endpoints.lied((repo, file.etag))

    def host(self, repo: str, file: WantedFile) -> str:
        """See ports.Origin."""
        hosts = (endpoint.origin.host(repo, file) for endpoint in self._in_order("files", repo, file.etag))
        return next(filter(None, hosts), "")

    def url(self, repo: str, file: WantedFile) -> str:
        """The endpoint that would be asked for this file now."""
        return self._in_order("files", repo, file.etag)[0].url

    async def _ask(self, repo: str, ask: Callable[[Hub], Awaitable[T]]) -> T:
        refusals: list[tuple[str, Trouble]] = []
        mirrors_last = sorted(self._in_order("api", repo), key=lambda endpoint: self._is_second(endpoint, repo))
        for endpoint in mirrors_last:
            self._endpoints.chosen(endpoint)
            try:
                answer = await ask(endpoint.hub)
            except MakeRoom:  # no endpoint's fault: this machine lets no connection be opened
                raise
            except Trouble as trouble:
                refusals.append((endpoint.name, trouble))
                self._endpoints.failed(endpoint, "api", (repo, ""), trouble)
            else:
                self._endpoints.worked(endpoint, (repo, ""))
                return answer
        raise decide.conclude(refusals)

    def _is_second(self, endpoint: Endpoint, repo: str) -> bool:
        return endpoint.is_mirror or self._endpoints.rests(endpoint, "api", (repo, ""))

    def _in_order(self, door: Door, repo: str, etag: str = "") -> list[Endpoint]:
        return self._endpoints.in_order(self._model, door, (repo, etag))

    @asynccontextmanager
    async def _read(self, repo: str, commit: str, file: WantedFile, start: int, end: int) -> AsyncIterator[Body]:
        def read(endpoint: Endpoint, at: int) -> Reading:
            return endpoint.origin.read(repo, commit, file, at, end)

        relay = Relay(self._endpoints, self._model, repo, file, read, start, end)
        try:
            yield relay
        finally:
            await relay.close()
