"""What one run of qwen-loader does, in a thread: wait, load, edit; each step is told to whoever attends.

A thread, because the main one must stay free for signals: importing torch or reading 57 GB cannot be interrupted,
and in a container the process is PID 1, to which a signal without a handler means nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from qwen_api.models import ModelRef
from qwen_loader import arrival, editing, pipeline
from qwen_loader.arguments import Asked
from qwen_loader.arrival import Arrival
from qwen_loader.assembly import Wishes
from qwen_loader.libraries import LoadFailed, require_libraries
from qwen_loader.ready import ModelUnavailable, NotReady, ReadyModel

# Refusals that no other way of fetching may get around. What is wrong here lies where diffusers would take it from.
_FINAL = ("E_HAS_CODE", "E_HAS_PICKLE", "E_CORRUPT", "E_STRAY")


@dataclass(frozen=True, kw_only=True)
class Loading:
    """The model is proven (or given up on: `fallback` says why) and the work on it begins."""

    ready: ReadyModel
    fallback: ModelUnavailable | None = None


@dataclass(frozen=True, kw_only=True)
class InMemory:
    """The whole pipeline is loaded and can be used; what it is used for comes next."""

    ready: ReadyModel
    pipeline: Any
    device: str
    dtype: str
    vram_bytes: int


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """One more step of the edit is done."""

    step: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything asked for is done. `loaded` keeps the pipeline in memory; None if only waiting was asked for."""

    ready: ReadyModel
    loaded: InMemory | None = None
    picture: Path | None = None
    wait_s: float = 0.0
    load_s: float = 0.0
    edit_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Failure:
    """It cannot be done; `error` has a code, a why and a fix unless it is a bug."""

    error: BaseException


News: TypeAlias = arrival.News | Loading | InMemory | Stepped | Outcome | Failure


class Job:
    """`run` in a thread of its own; the last thing told is an Outcome or a Failure."""

    def __init__(self, asked: Asked, tell: Callable[[News], None]) -> None:
        self._asked = asked
        self._tell = tell
        self._arrival = Arrival(
            asked.ref,
            Wishes(device=asked.device, dtype=asked.dtype, placement=asked.placement),
            tell=tell,
            early=not asked.command and asked.early,
            timeout_s=asked.timeout_s,
            patience_s=asked.patience_s,
            socket=asked.socket,
            policy=asked.policy,
            cache_dir=asked.cache_dir,
        )

    def run(self) -> None:
        """Do what was asked."""
        try:
            self._tell(self._work())
        except BaseException as error:
            self._tell(Failure(error=error))
            if not isinstance(error, NotReady | LoadFailed | OSError):
                raise

    @property
    def is_reading(self) -> bool:
        """It has failed, and yet something is inside torch."""
        return self._arrival.is_reading

    def close(self) -> None:
        """End the waiting; loading cannot be ended."""
        self._arrival.close()

    def _work(self) -> Outcome:
        asked, tell = self._asked, self._tell
        begun = time.monotonic()
        if not asked.command:
            require_libraries()  # nobody waits an hour to hear of it
        ready, fallback = self._wait()
        waited = time.monotonic()
        tell(Loading(ready=ready, fallback=fallback))
        if asked.command:
            return Outcome(ready=ready, wait_s=waited - begun)
        loaded = self._load(ready)
        device, dtype, vram_bytes = pipeline.describe(loaded)
        in_memory = InMemory(ready=ready, pipeline=loaded, device=device, dtype=dtype, vram_bytes=vram_bytes)
        tell(in_memory)
        at_hand = time.monotonic()
        picture = self._edit(ready, loaded)
        return Outcome(
            ready=ready,
            loaded=in_memory,
            picture=picture,
            wait_s=waited - begun,
            load_s=at_hand - waited,
            edit_s=time.monotonic() - at_hand,
        )

    def _wait(self) -> tuple[ReadyModel, ModelUnavailable | None]:
        try:
            return self._arrival.wait(), None
        except ModelUnavailable as error:
            if self._asked.fallback != "hub" or error.code in _FINAL:
                raise
            self._arrival.end_reading()  # or two would be in the memory at once
            return _unverified(self._asked.ref), error

    def _load(self, ready: ReadyModel) -> Any:
        if ready.source == "hub":
            return pipeline.load_from_hub(self._asked.ref, device=self._asked.device, dtype=self._asked.dtype)
        return self._arrival.load(ready)

    def _edit(self, ready: ReadyModel, loaded: Any) -> Path | None:
        wanted = self._asked.edit
        if wanted is None:
            return None
        return editing.edit(
            loaded,
            wanted.images,
            wanted.prompt,
            wanted.output,
            steps=wanted.steps,
            size_px=wanted.size_px,
            seed=wanted.seed,
            on_step=lambda step, steps: self._tell(Stepped(step=step, steps=steps)),
            about={"model": f"{ready.repo}@{ready.commit}".rstrip("@"), "verified": ready.verified},
        )


def _unverified(ref: ModelRef) -> ReadyModel:
    commit = ref.revision if ref.is_pinned else ""
    return ReadyModel(repo=ref.repo, commit=commit, path="", verified="none", source="hub")
