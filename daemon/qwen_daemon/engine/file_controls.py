"""What a person, or a loader, may say about single files of one model: not this one, this one first, try it now.

A pause is kept by path, until it is undone or the daemon ends, as a model's pause is; it outlives rounds and commits.
The places in the queue are core.order's. What a pause does to a fetch under way stands here, as `Fetch.run`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from qwen_api.manifest import WantedFile
from qwen_daemon.core.order import Place, file_places
from qwen_daemon.engine.budget import Rank

T = TypeVar("T")


class Fetch:
    """The fetch of one content, as commands reach it. `called` is set when it should go on, or try again, now."""

    def __init__(self) -> None:
        self.called = asyncio.Event()
        self._scope: asyncio.Timeout | None = None
        self._path = ""

    async def run(self, path: str, work: Coroutine[Any, Any, T]) -> T | None:
        """Do the work under this path's name; None if it was cut short because that path is paused."""
        scope = asyncio.timeout(None)
        self._path, self._scope = path, scope
        try:
            async with scope:
                return await work
        except TimeoutError:
            if not scope.expired():
                raise
            return None
        finally:
            self._scope = None

    def stop(self, path: str) -> None:
        """This path is paused."""
        if self._scope is not None and self._path == path:
            scope, self._scope = self._scope, None  # once: a scope that expires cannot be told so again
            scope.reschedule(asyncio.get_running_loop().time())


class FileControls:
    """The files of one model. `reorder` is called when those who wait for a slot may have changed places."""

    def __init__(self, turn: int, reorder: Callable[[], None]) -> None:
        self._turn = turn
        self._reorder = reorder
        self._priority = 0
        self._files: Sequence[WantedFile] = ()
        self._components: tuple[str, ...] = ()
        self._places: dict[str, tuple[int, int]] = {}
        self._priorities: dict[str, int] = {}
        self._paused: set[str] = set()
        self._fetches: dict[str, Fetch] = {}

    @property
    def priority(self) -> int:
        """The whole model's."""
        return self._priority

    @priority.setter
    def priority(self, priority: int) -> None:
        self._priority = priority
        self._reorder()

    @property
    def components(self) -> tuple[str, ...]:
        """The order that a loader told."""
        return self._components

    def want(self, files: Sequence[WantedFile]) -> None:
        """These are the model's files now."""
        self._files = files
        self._arrange()

    def order(self, components: Sequence[str]) -> None:
        """A loader loads components in this order; names that the model lacks do no harm."""
        if tuple(components) != self._components:
            self._components = tuple(components)
            self._arrange()

    def rank(self, path: str) -> Rank:
        """The file's place among all that wait, as it will be at each moment."""
        return Rank(lambda: self._place(path))

    def is_paused(self, path: str) -> bool:
        """True if it may not be fetched."""
        return path in self._paused

    def pause(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Fetch these no more, from this moment; returns those that were not paused."""
        changed = tuple(path for path in paths if path not in self._paused)
        self._paused.update(changed)
        for path in changed:
            if path in self._fetches:
                self._fetches[path].stop(path)
        return changed

    def resume(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Fetch these again; returns those that were paused."""
        changed = tuple(path for path in paths if path in self._paused)
        self._paused.difference_update(changed)
        return changed

    def prioritise(self, paths: Sequence[str], priority: int) -> tuple[str, ...]:
        """Begin these before (or after) the model's others; returns those of which that is new."""
        changed = tuple(path for path in paths if self._priorities.get(path, 0) != priority)
        self._priorities.update(dict.fromkeys(changed, priority))
        self._reorder()
        return changed

    def call(self, paths: Sequence[str] | None = None) -> bool:
        """Cut waits short: of these files, or of all. False if a round has to begin for it to be of use."""
        fetches = [self._fetches.get(path) for path in (self._fetches if paths is None else paths)]
        for fetch in fetches:
            if fetch is not None:
                fetch.called.set()
        return None not in fetches

    @contextmanager
    def fetching(self, paths: Sequence[str]) -> Iterator[Fetch]:
        """While this lasts, commands about these paths reach the fetch."""
        fetch = Fetch()
        self._fetches.update(dict.fromkeys(paths, fetch))
        try:
            yield fetch
        finally:
            for path in paths:
                del self._fetches[path]

    def _arrange(self) -> None:
        self._places = file_places(self._files, self._components)
        self._reorder()

    def _place(self, path: str) -> Place:
        component, number = self._places.get(path, (0, 0))
        return Place(
            model=-self._priority,
            file=-self._priorities.get(path, 0),
            turn=self._turn,
            component=component,
            number=number,
        )
