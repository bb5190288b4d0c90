"""Everything the engine's parts need of the outside, gathered once by the application, the same for every model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from qwen_api import events as e
from qwen_api.manifest import Manifest
from qwen_api.models import ModelRef
from qwen_daemon.engine.controls import Controls
from qwen_daemon.engine.disk import Budget, Disk
from qwen_daemon.engine.endpoints import Endpoints
from qwen_daemon.engine.room import Room
from qwen_daemon.engine.supply import Supply
from qwen_daemon.ports import Clock, Desires, Listings, Structure


@dataclass(frozen=True, kw_only=True)
class World:
    """The ports, the shared budgets, and the few functions that only the shell can bring."""

    endpoints: Endpoints
    disk: Disk
    listings: Listings
    desires: Desires
    clock: Clock
    budget: Budget
    controls: Controls
    room: Room
    publish: Callable[[e.Event], int]
    select: Callable[[Manifest, tuple[str, ...], tuple[str, ...]], Manifest]
    structure: Callable[[ModelRef, Manifest], Awaitable[Structure]]
    offline: bool
    look_again: Callable[[str], None] = lambda _repo: None  # its seals were renewed or broken by another model's round

    def supply(self, model: str) -> Supply:
        """What this model (by key) is asked of and fetched from."""
        return Supply(self.endpoints, model)
