"""Several endpoints as one Hub and one Origin: each question and each byte from the first that works.

Another endpoint takes over within a read, at the byte where one broke off; nothing that came is asked for again, and
the file's hash decides in the end, whatever mix of endpoints it came from.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

from qwen_api.manifest import Manifest, WantedFile
from qwen_api.models import ModelRef
from qwen_daemon.core import endpoints as decide
from qwen_daemon.core.attempts import PROGRESS_BYTES
from qwen_daemon.core.errors import StillShut, Trouble, TryAgain, TryLater
from qwen_daemon.engine.endpoints import Door, Endpoint, Endpoints
from qwen_daemon.ports import Body, Hub

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

    def read(self, repo: str, commit: str, file: WantedFile, start: int, end: int) -> Body:
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

    async def _ask(self, repo: str, ask: Callable[[Hub], Awaitable[T]]) -> T:
        refusals: list[tuple[str, Trouble]] = []
        mirrors_last = sorted(self._in_order("api", repo), key=lambda endpoint: self._is_second(endpoint, repo))
        for endpoint in mirrors_last:
            self._endpoints.chosen(endpoint)
            try:
                answer = await ask(endpoint.hub)
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
    async def _read(
        self, repo: str, commit: str, file: WantedFile, start: int, end: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        async with aclosing(_Reading(self._endpoints, self._model, repo, commit, file).chunks(start, end)) as chunks:
            yield chunks


class _Reading:
    """One read of one stretch, from as many endpoints as it takes."""

    def __init__(self, endpoints: Endpoints, model: str, repo: str, commit: str, file: WantedFile) -> None:
        self._endpoints = endpoints
        self._model = model
        self._repo, self._commit, self._file = repo, commit, file
        self._content = (repo, file.etag)
        self._refused: dict[str, Trouble] = {}  # by name, since the last real progress
        self._why: Trouble | None = None  # the last of them

    async def chunks(self, start: int, end: int) -> AsyncGenerator[bytes]:
        """The bytes, in order. Raises what the endpoints' Troubles are together, once none is left to ask."""
        at = start
        while at < end:
            endpoint, begun = await self._next(at), at
            self._endpoints.chosen(endpoint)
            try:
                async with (
                    endpoint.origin.read(self._repo, self._commit, self._file, at, end) as body,
                    aclosing(self._unless_crawling(endpoint, body)) as chunks,
                ):
                    async for chunk in chunks:
                        if at == begun:
                            self._endpoints.gave(self._model, endpoint, self._file, self._repo, self._why)
                        before, at = at - begun, at + len(chunk)
                        if before < PROGRESS_BYTES <= at - begun:
                            self._is_good(endpoint)
                        yield chunk
            except Trouble as trouble:
                self._refused[endpoint.name] = self._why = trouble
                self._endpoints.failed(endpoint, "files", self._content, trouble)
            else:
                self._is_good(endpoint)
                return

    def _is_good(self, endpoint: Endpoint) -> None:
        self._refused.clear()
        self._endpoints.worked(endpoint, self._content)

    async def _next(self, at: int) -> Endpoint:
        """The best that did not fail in this read. If all were told to wait, that is waited for."""
        while True:
            for endpoint in self._endpoints.in_order(self._model, "files", self._content, self._file if at else None):
                if endpoint.name not in self._refused:
                    return endpoint
            trouble = decide.conclude(list(self._refused.items()))
            if not isinstance(trouble, TryLater) or not all(
                isinstance(refusal, StillShut) for refusal in self._refused.values()
            ):
                raise trouble
            await self._endpoints.clock.sleep(trouble.after_s)
            self._refused.clear()

    async def _unless_crawling(self, endpoint: Endpoint, body: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        """The chunks, as long as they come faster than a trickle; waits of those who take them do not count."""
        clock = self._endpoints.clock
        waited_s, received_bytes, since_s = 0.0, 0, clock.monotonic_s()
        async for chunk in body:
            waited_s += clock.monotonic_s() - since_s
            received_bytes += len(chunk)
            yield chunk
            if waited_s >= decide.CRAWL_S:
                if decide.is_crawling(received_bytes, waited_s) and self._has_another(endpoint):
                    raise TryAgain("E_STALLED", f"less than {decide.CRAWL_BPS} bytes a second came")
                waited_s, received_bytes = 0.0, 0
            since_s = clock.monotonic_s()

    def _has_another(self, endpoint: Endpoint) -> bool:
        best = self._endpoints.in_order(self._model, "files", self._content, self._file)
        others = [other for other in best if other is not endpoint and other.name not in self._refused]
        return any(not self._endpoints.rests(other, "files", self._content) for other in others)
