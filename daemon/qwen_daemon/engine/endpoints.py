"""Several endpoints as one: each question and each byte from the first that works, in the order people prefer.

Another endpoint takes over within a read, at the byte where one broke off; nothing that came is asked for again, and
the file's hash decides in the end whatever mix of endpoints it came from. Who is asked next, and for how long one that
failed is left alone, is core.endpoints' decision. What an endpoint answers is seen with the eyes of shell.fetch and
shell.hub, one of each per endpoint; so a token, a signed address and a server's word to wait stay with their endpoint.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from qwen_api import events as e
from qwen_api.manifest import Manifest, WantedFile
from qwen_api.models import ModelRef
from qwen_daemon.core import endpoints as decide
from qwen_daemon.core.attempts import PROGRESS_BYTES
from qwen_daemon.core.endpoints import Candidate, Standing
from qwen_daemon.core.errors import StillShut, Trouble, TryAgain, TryLater
from qwen_daemon.ports import Body, Clock, Hub, Origin

KEPT_MAX = 10_000  # contents of which something is remembered; small facts, forgotten oldest first

T = TypeVar("T")
Door = Literal["api", "files"]  # a Hub meters them apart
_Subject = tuple[str, ...]  # (name), (name, door) or (name, repo, etag): what a Standing is about


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One endpoint, ready to be asked. `url` is for people and holds no password."""

    name: str
    url: str
    is_mirror: bool
    hub: Hub
    origin: Origin


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which endpoints are asked in which order: by default, and for the models (by key) with an order of their own."""

    names: tuple[str, ...]
    of_models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, model: str) -> tuple[str, ...]:
        """The names for this model."""
        return self.of_models.get(model) or self.names


class Endpoints:
    """All endpoints and how they stand; `of` gives what one model asks."""

    def __init__(self, clock: Clock, publish: Callable[[e.Event], int]) -> None:
        self._clock = clock
        self._publish = publish
        self._all: dict[str, Endpoint] = {}
        self._order = Order(names=())
        self._standings: dict[_Subject, Standing] = {}
        self._brought: dict[tuple[str, str], set[str]] = {}  # who brought bytes of this content
        self._told: dict[tuple[str, str], str] = {}  # where people were told that this model's file comes from

    def configure(self, endpoints: Sequence[Endpoint], order: Order) -> None:
        """From the next request on it is these; the order names no others. The same object keeps its standing."""
        fresh = {endpoint.name: endpoint for endpoint in endpoints}
        known, self._all, self._order = self._all, fresh, order
        replaced = {name for name, endpoint in known.items() if fresh.get(name) is not endpoint}
        self._standings = {about: standing for about, standing in self._standings.items() if about[0] not in replaced}
        if max(len(known), len(fresh)) == 1:
            return  # there is nothing to tell apart
        for name in replaced - fresh.keys():
            self._publish(e.EndpointChanged(endpoint=name, url=known[name].url, state="gone"))
        for name, endpoint in fresh.items():
            if len(known) <= 1 or known.get(name) is not endpoint:
                self._publish(e.EndpointChanged(endpoint=name, url=endpoint.url, state="ok"))

    def of(self, model: str) -> Supply:
        """The Hub and the Origin of one model (by key), which heed every later `configure`."""
        return Supply(self, model)

    # What a Supply needs.

    @property
    def clock(self) -> Clock:
        """The clock of all waits here."""
        return self._clock

    def in_order(
        self, model: str, door: Door, content: tuple[str, str], middle_of: WantedFile | None = None
    ) -> list[Endpoint]:
        """Whom to ask about this content (repo, etag), the best first; never empty. `middle_of`: not from its start."""
        candidates = []
        for name in self._order.of(model):
            has_ranges = middle_of is None or self._all[name].origin.splits(content[0], middle_of)
            candidates.append(self._candidate(name, door, content, has_ranges=has_ranges))
        return [self._all[name] for name in decide.in_order(candidates, self._clock.monotonic_s())]

    def rests(self, endpoint: Endpoint, door: Door, content: tuple[str, str]) -> bool:
        """It is set aside, or it is for this content."""
        return self._candidate(endpoint.name, door, content).aside_until_s > self._clock.monotonic_s()

    def _candidate(self, name: str, door: Door, content: tuple[str, str], *, has_ranges: bool = True) -> Candidate:
        known = [self._standing(subject) for subject in ((name,), (name, door), (name, *content))]
        aside_until_s = max(standing.aside_until_s for standing in known)
        return Candidate(name=name, lied=known[-1].lied, aside_until_s=aside_until_s, has_ranges=has_ranges)

    def chosen(self, endpoint: Endpoint) -> None:
        """A request is about to go there."""
        now_s = self._clock.monotonic_s()
        self._change((endpoint.name,), lambda standing: decide.after_choice(standing, now_s))

    def failed(self, endpoint: Endpoint, door: Door, content: tuple[str, str], trouble: Trouble) -> None:
        """It did not do what was asked; told to people if it is set aside."""
        name, now_s = endpoint.name, self._clock.monotonic_s()
        if len(self._all) == 1 or self._all.get(name) is not endpoint or isinstance(trouble, StillShut):
            return  # nobody takes its place, or it was replaced meanwhile, or it was not even asked
        if decide.is_of_content(trouble):
            self._change((name, *content), lambda standing: decide.after_failure(standing, trouble, now_s))
            return
        subject = (name, door) if isinstance(trouble, TryLater) else (name,)
        before = self._standing(subject)
        after = self._change(subject, lambda standing: decide.after_failure(standing, trouble, now_s))
        if after != before:
            self._tell_aside(endpoint, trouble, after.aside_until_s - now_s)

    def gave(self, model: str, endpoint: Endpoint, file: WantedFile, repo: str, why: Trouble | None) -> None:
        """The first bytes of a request came."""
        self._change((endpoint.name,), decide.after_first_bytes)
        _bounded(self._brought).setdefault((repo, file.etag), set()).add(endpoint.name)
        if len(self._all) == 1 or self._told.get((model, file.path)) == endpoint.name:
            return
        _bounded(self._told)[model, file.path] = endpoint.name
        self._publish(
            e.FileSource(
                model=model,
                path=file.path,
                endpoint=endpoint.name,
                code=why.code if why else "",
                detail=why.detail if why else "",
            )
        )

    def worked(self, endpoint: Endpoint, content: tuple[str, str]) -> None:
        """It brought enough to be trusted with more."""
        if self._standing((endpoint.name,)).failed:
            self._publish(e.EndpointChanged(endpoint=endpoint.name, url=endpoint.url, state="ok"))
        for subject in ((endpoint.name,), (endpoint.name, *content)):
            self._change(subject, decide.after_success)

    def lied(self, content: tuple[str, str]) -> None:
        """The whole of it does not have its hash. Who brought all of it is not trusted with other contents either."""
        names, now_s = self._brought.pop(content, set()), self._clock.monotonic_s()
        for name in names & self._all.keys() if len(self._all) > 1 else ():
            self._change((name, *content), lambda standing: decide.after_lie(standing, now_s))
            if len(names) == 1:
                trouble = TryLater("E_CORRUPT", "what it sent does not have the Hub's hash", after_s=decide.LIAR_S)
                self.failed(self._all[name], "files", content, trouble)

    def _standing(self, subject: _Subject) -> Standing:
        return self._standings.get(subject, Standing())

    def _change(self, subject: _Subject, how: Callable[[Standing], Standing]) -> Standing:
        before = self._standing(subject)
        after = how(before)
        if after != before:
            _bounded(self._standings)[subject] = after
        return after

    def _tell_aside(self, endpoint: Endpoint, trouble: Trouble, rest_s: float) -> None:
        self._publish(
            e.EndpointChanged(
                endpoint=endpoint.name,
                url=endpoint.url,
                state="aside",
                code=trouble.code,
                detail=trouble.detail,
                retry_at=self._clock.utc(rest_s),
            )
        )


class Supply:
    """ports.Hub and ports.Origin of one model, over all its endpoints."""

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


_K = TypeVar("_K")
_V = TypeVar("_V")


def _bounded(facts: dict[_K, _V]) -> dict[_K, _V]:
    """With room for one more."""
    if len(facts) >= KEPT_MAX:
        facts.pop(next(iter(facts)))
    return facts
