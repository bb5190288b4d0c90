"""What a person may change while the daemon runs: speed limits, how much at once, and which model goes first.

It joins three sources: the configuration, what a model was added with, and commands. The latest word holds: a reloaded
configuration changes what it says differently than before and leaves the rest as commanded. Commands are not kept for
the next start. How waiting works stands in engine.limiter and engine.budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from qwen_api import events as e
from qwen_api.commands import SetLimits
from qwen_daemon.engine.budget import Slots
from qwen_daemon.engine.file_controls import FileControls
from qwen_daemon.engine.limiter import Gate, Limiter, Monotonic, RateLimit


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for the whole daemon."""

    rate_limit_bps: int | None = None
    max_files: int
    max_connections: int


@dataclass(frozen=True, kw_only=True)
class ModelControls:
    """One model's: `limiter` joins its own limit with the daemon's, `files` has its priority and all about files."""

    limit: RateLimit
    limiter: Limiter
    files: FileControls


class Controls:
    """`files` is the budget of files in flight; the one of connections is told its size by `resize_connections`."""

    def __init__(
        self,
        clock: Monotonic,
        publish: Callable[[e.Event], int],
        limits: Limits,
        resize_connections: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._publish = publish
        self._configured = self._limits = limits
        self._resize_connections = resize_connections
        self._gate = Gate(clock)
        self._whole = RateLimit(self._gate, limits.rate_limit_bps)
        self._models: dict[str, ModelControls] = {}
        self._turns = 0
        self.files = Slots(limits.max_files)

    @property
    def limits(self) -> Limits:
        """What holds now."""
        return self._limits

    def of(self, model: str) -> ModelControls:
        """The controls of a model, which stay the same objects until it is forgotten."""
        known = self._models.get(model)
        if known is None:
            limit = RateLimit(self._gate)
            self._turns += 1
            files = FileControls(self._turns, self.files.reorder)
            known = ModelControls(limit=limit, limiter=Limiter(self._whole, limit), files=files)
            self._models[model] = known
        return known

    def forget(self, model: str) -> None:
        """The model is wanted no more."""
        self._models.pop(model, None)

    def tell(self) -> None:
        """Publish what holds for the whole daemon."""
        limits = self._limits
        self._publish(
            e.LimitsChanged(
                rate_limit_bps=limits.rate_limit_bps or 0,
                max_files=limits.max_files,
                max_connections=limits.max_connections,
            )
        )

    def configure(self, limits: Limits) -> None:
        """The configuration says this: what it said differently before changes now, the rest stays as it is."""
        before, self._configured = self._configured, limits
        said = msgspec.structs.asdict(limits)
        self._apply({name: value for name, value in said.items() if value != getattr(before, name)})

    def set(self, asked: SetLimits) -> None:
        """A command says this; what it leaves out stays as it is."""
        said = msgspec.structs.asdict(asked)
        self._apply({name: value for name, value in said.items() if value is not msgspec.UNSET})

    def limit(self, model: str, rate_limit_bps: int | None) -> None:
        """Limit one model's speed, besides the whole daemon's."""
        self.want(model, rate_limit_bps, self.of(model).files.priority)

    def prioritise(self, model: str, priority: int) -> None:
        """Begin this model's files before those of models with a lower priority; what is under way goes on."""
        self.want(model, self.of(model).limit.rate_bps, priority)

    def want(self, model: str, rate_limit_bps: int | None, priority: int) -> None:
        """The model is wanted with these."""
        controls = self.of(model)
        if (controls.limit.rate_bps, controls.files.priority) == (rate_limit_bps, priority):
            return
        controls.limit.set(rate_limit_bps)
        controls.files.priority = priority
        self._publish(e.ModelLimitsChanged(model=model, rate_limit_bps=rate_limit_bps or 0, priority=priority))

    def _apply(self, changes: dict[str, object]) -> None:
        limits = msgspec.structs.replace(self._limits, **changes)
        if limits == self._limits:
            return
        self._limits = limits
        self._whole.set(limits.rate_limit_bps)
        self.files.resize(limits.max_files)
        self._resize_connections(limits.max_connections)
        self.tell()
