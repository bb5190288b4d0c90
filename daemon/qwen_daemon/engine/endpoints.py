"""The endpoints that may be asked, how each of them stands, and where people were told that files come from.

Who is asked next, and for how long one that failed is left alone, is core.endpoints' decision; engine.supply asks.
There is one Hub and one Origin per endpoint, so a token, a signed address and a server's word to wait stay with theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

from qwen_api import events as e
from qwen_api.manifest import WantedFile
from qwen_daemon.core import endpoints as decide
from qwen_daemon.core.endpoints import Candidate, Standing
from qwen_daemon.core.errors import StillShut, Trouble, TryLater
from qwen_daemon.ports import Clock, Hub, Origin

KEPT_MAX = 10_000  # contents of which something is remembered; small facts, forgotten oldest first

Door = Literal["api", "files"]  # a Hub meters them apart
DOORS: tuple[Door, ...] = get_args(Door)
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
    """All endpoints and how they stand; a Supply asks them."""

    def __init__(self, clock: Clock, publish: Callable[[e.Event], int]) -> None:
        self._clock = clock
        self._publish = publish
        self._all: dict[str, Endpoint] = {}
        self._order = Order(names=())
        self._standings: dict[_Subject, Standing] = {}
        self._brought: dict[tuple[str, str], set[str]] = {}  # who brought bytes of this content
        self._told_aside: set[str] = set()
        self._told: dict[tuple[str, str], str] = {}  # where people were told that this model's file comes from

    def configure(self, endpoints: Sequence[Endpoint], order: Order) -> None:
        """From the next request on it is these; the order names no others. The same object keeps its standing."""
        fresh = {endpoint.name: endpoint for endpoint in endpoints}
        known, self._all, self._order = self._all, fresh, order
        replaced = {name for name, endpoint in known.items() if fresh.get(name) is not endpoint}
        self._standings = {about: standing for about, standing in self._standings.items() if about[0] not in replaced}
        self._told_aside -= replaced
        if max(len(known), len(fresh)) == 1:
            return  # there is nothing to tell apart
        for name in replaced - fresh.keys():
            self._publish(e.EndpointChanged(endpoint=name, url=known[name].url, state="gone"))
        for name, endpoint in fresh.items():
            if len(known) <= 1 or known.get(name) is not endpoint:
                self._publish(e.EndpointChanged(endpoint=name, url=endpoint.url, state="ok"))

    @property
    def clock(self) -> Clock:
        """The clock of all waits here."""
        return self._clock

    def in_order(
        self, model: str, door: Door, content: tuple[str, str], middle_of: WantedFile | None = None
    ) -> list[Endpoint]:
        """Whom to ask about this content (repo, etag), the best first; never empty. `middle_of`: not from its start."""
        names = self._order.of(model)
        if len(names) == 1:  # mostly, and asked at every segment
            return [self._all[names[0]]]
        candidates = []
        for name in names:
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
        for subject in ((endpoint.name,), (endpoint.name, *content)):
            self._change(subject, decide.after_success)
        if endpoint.name in self._told_aside and not any(self._rests(endpoint.name, door) for door in DOORS):
            self._told_aside.discard(endpoint.name)
            self._publish(e.EndpointChanged(endpoint=endpoint.name, url=endpoint.url, state="ok"))

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

    def _rests(self, name: str, door: Door) -> bool:
        return self._candidate(name, door, ("", "")).aside_until_s > self._clock.monotonic_s()

    def _tell_aside(self, endpoint: Endpoint, trouble: Trouble, rest_s: float) -> None:
        self._told_aside.add(endpoint.name)
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


_K = TypeVar("_K")
_V = TypeVar("_V")


def _bounded(facts: dict[_K, _V]) -> dict[_K, _V]:
    """With room for one more."""
    if len(facts) >= KEPT_MAX:
        facts.pop(next(iter(facts)))
    return facts
