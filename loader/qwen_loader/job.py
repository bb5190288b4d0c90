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
from qwen_loader import pipeline
from qwen_loader.arguments import Asked
from qwen_loader.gate import Waiting
from qwen_loader.pipeline import LoadFailed
from qwen_loader.ready import ModelUnavailable, NotReady, ReadyModel
from qwen_loader.wait import Wait

# Refusals that no other way of fetching may get around.
_FINAL = ("E_HAS_CODE", "E_HAS_PICKLE")


@dataclass(frozen=True, kw_only=True)
class Loading:
    """The model is proven (or given up on: `fallback` says why) and the work on it begins."""

    ready: ReadyModel
    fallback: ModelUnavailable | None = None


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """One component is in memory; `loaded_bytes` counts all so far."""

    component: str
    loaded_bytes: int


@dataclass(frozen=True, kw_only=True)
class InMemory:
    """The whole pipeline is loaded and can be used; what it is used for comes next."""

    ready: ReadyModel
    pipeline: Any
    device: str
    dtype: str
    vram_bytes: int


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


News: TypeAlias = Waiting | Loading | Loaded | InMemory | Outcome | Failure


def run_job(asked: Asked, wait: Wait, tell: Callable[[News], None]) -> None:
    """Do what was asked; the last thing told is an Outcome or a Failure."""
    try:
        tell(_work(asked, wait, tell))
    except BaseException as error:
        tell(Failure(error=error))
        if not isinstance(error, NotReady | LoadFailed | OSError):
            raise


def _work(asked: Asked, wait: Wait, tell: Callable[[News], None]) -> Outcome:
    begun = time.monotonic()
    ready, fallback = _wait(asked, wait)
    waited = time.monotonic()
    tell(Loading(ready=ready, fallback=fallback))
    if asked.command:
        return Outcome(ready=ready, wait_s=waited - begun)
    loaded = _load(asked, ready, tell)
    device, dtype, vram_bytes = pipeline.describe(loaded)
    in_memory = InMemory(ready=ready, pipeline=loaded, device=device, dtype=dtype, vram_bytes=vram_bytes)
    tell(in_memory)
    at_hand = time.monotonic()
    picture = _edit(asked, loaded)
    return Outcome(
        ready=ready,
        loaded=in_memory,
        picture=picture,
        wait_s=waited - begun,
        load_s=at_hand - waited,
        edit_s=time.monotonic() - at_hand,
    )


def _wait(asked: Asked, wait: Wait) -> tuple[ReadyModel, ModelUnavailable | None]:
    try:
        return wait.run(), None
    except ModelUnavailable as error:
        if asked.fallback != "hub" or error.code in _FINAL:
            raise
        return _unverified(asked.ref), error


def _unverified(ref: ModelRef) -> ReadyModel:
    commit = ref.revision if ref.is_pinned else ""
    return ReadyModel(repo=ref.repo, commit=commit, path="", verified="none", source="hub")


def _load(asked: Asked, ready: ReadyModel, tell: Callable[[News], None]) -> Any:
    if ready.source == "hub":
        return pipeline.load_from_hub(asked.ref, device=asked.device, dtype=asked.dtype)
    return pipeline.load_pipeline(
        ready,
        device=asked.device,
        dtype=asked.dtype,
        progress=lambda component, loaded_bytes: tell(Loaded(component=component, loaded_bytes=loaded_bytes)),
    )


def _edit(asked: Asked, loaded: Any) -> Path | None:
    wanted = asked.edit
    if wanted is None:
        return None
    return pipeline.edit(
        loaded,
        wanted.image,
        wanted.prompt,
        wanted.output,
        steps=wanted.steps,
        size_px=wanted.size_px,
        seed=wanted.seed,
    )
