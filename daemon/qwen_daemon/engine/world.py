"""Everything the engine's parts need of the outside, gathered once by the application, and where each model is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qwen_api import events as e
from qwen_api.manifest import Manifest
from qwen_api.models import ModelRef
from qwen_daemon.core.tuning import DEFAULT_TUNING, Tuning
from qwen_daemon.engine.controls import Controls
from qwen_daemon.engine.disk import Budget, Disk
from qwen_daemon.engine.endpoints import Endpoints
from qwen_daemon.engine.patience import Patience
from qwen_daemon.engine.room import Room
from qwen_daemon.engine.supply import Supply
from qwen_daemon.ports import Clock, Desires, Listings, Structure


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a model is kept: the ports of its layout, the Hub cache's or that of its local_dir."""

    disk: Disk
    listings: Listings
    room: Room
    structure: Callable[[ModelRef, Manifest], Awaitable[Structure]]
    watched: Callable[[Manifest], Sequence[Path]]


@dataclass(frozen=True, kw_only=True)
class World:
    """The ports, the shared budgets, and the few functions that only the shell can bring, as one model sees them.

    `place_of` gives a model's place by its key: the same object until the configuration moves the model.
    """

    endpoints: Endpoints
    place: Place
    desires: Desires
    clock: Clock
    budget: Budget
    controls: Controls
    publish: Callable[[e.Event], int]
    select: Callable[[Manifest, tuple[str, ...], tuple[str, ...]], Manifest]
    place_of: Callable[[str], Place]
    offline: bool
    tuning: Tuning = DEFAULT_TUNING
    waits_for_disk: Callable[[], bool] = bool
    look_again: Callable[[str], None] = lambda _repo: None  # its seals were renewed or broken by another model's round

    def supply(self, model: str) -> Supply:
        """What this model (by key) is asked of and fetched from."""
        return Supply(self.endpoints, model)

    def with_patience(self, patience: Patience) -> World:
        """The world in which it is noticed that the disk does not answer."""
        place = replace(self.place, disk=patience.with_disk(self.disk))
        return replace(self, place=place, publish=patience.says, waits_for_disk=patience.is_tried)

    def at(self, key: str) -> World:
        """The world as this model sees it."""
        return replace(self, place=self.place_of(key))

    @property
    def disk(self) -> Disk:
        """Of the model's place."""
        return self.place.disk

    @property
    def listings(self) -> Listings:
        """Of the model's place."""
        return self.place.listings

    @property
    def room(self) -> Room:
        """Of the model's place."""
        return self.place.room
