"""How a round ended, and what a model's state says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwen_api.events import FILES_PAUSED
from qwen_api.manifest import Manifest
from qwen_daemon.engine.fetches import Failure
from qwen_daemon.ports import Structure


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a round ended. `manifest` is the commit's, if it got that far."""

    complete: bool
    manifest: Manifest | None
    worked: bool = False  # something had to be hashed, linked or fetched
    structure: Structure | None = None  # known once complete
    code: str = ""
    detail: str = ""
    needs_human: bool = False


def failed(manifest: Manifest, failures: Sequence[Failure]) -> Outcome:
    """What the model's state says of its failed files: the one that needs a human first, and how many there are."""
    first = min(failures, key=lambda failure: (not failure.needs_human, failure.path))
    detail = f"{first.path}: {first.detail}" + (f" (and {len(failures) - 1} more)" if len(failures) > 1 else "")
    return Outcome(complete=False, manifest=manifest, code=first.code, detail=detail, needs_human=first.needs_human)


def paused(manifest: Manifest, count: int) -> Outcome:
    """What it says when all that is missing is what a person paused."""
    detail = f"{count} file{'s' if count > 1 else ''} paused by you"
    return Outcome(complete=False, manifest=manifest, code=FILES_PAUSED, detail=detail)
