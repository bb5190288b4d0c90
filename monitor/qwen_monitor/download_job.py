"""What a `qwenctl download` is to do, who can do it, and when it has ended. Pure.

Which daemon is one decision (`serves`), how it ended is another (`settle`). Asking and following is
`control_download`'s.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from qwen_api import commands
from qwen_api.language import _
from qwen_api.models import ModelRef
from qwen_api.status import ModelStatus


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to download. `cache` is None when the caller has no wish, so that a running daemon's own will do."""

    ref: ModelRef
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    cache: Path | None = None
    endpoint: str = ""
    has_token: bool = False
    rate_limit_bps: int | None = None
    local_dir: Path | None = None


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended. `code` is "" for complete."""

    code: str = ""
    detail: str = ""


def serves(version: commands.Version, job: Job) -> str:
    """Why the running daemon cannot do this job; "" if it can."""
    if job.local_dir is not None:
        return _("no command may name a folder (its own configuration may: local_dir)")
    if job.has_token:
        return _("it uses its own token, and --token names another")
    if job.cache is not None and os.path.realpath(version.cache_dir) != os.path.realpath(job.cache):
        return _("its cache is {its}, not {ours}", its=version.cache_dir, ours=job.cache)
    if job.endpoint and version.endpoint.rstrip("/") != job.endpoint:
        return _("its endpoint is {its}, not {ours}", its=version.endpoint, ours=job.endpoint)
    return ""


def settle(model: ModelStatus | None, has_news: bool, before: ModelStatus | None, job: Job) -> Settled | None:
    """Whether the model's state ends the command; None to go on.

    `before` is what the daemon knew when it was asked: a bad state of then says nothing until there is news, and a
    complete one only if the same files were meant.
    """
    is_old = before is not None and not has_news
    if model is None:
        return Settled(code="E_STOPPED", detail=_("the model was removed")) if has_news else None
    if model.state == "complete":
        same = before is not None and (before.include, before.exclude) == (job.include, job.exclude)
        return Settled() if same or not is_old else None
    if is_old:
        return None
    if model.state == "failed":
        return Settled(code=model.code or "E_INCOMPLETE", detail=model.detail)
    if model.state == "paused":
        return Settled(code="E_PAUSED", detail=_("go on with: qwenctl resume {ref}", ref=job.ref))
    if model.state == "incomplete":
        return Settled(code=model.code or "E_INCOMPLETE", detail=model.detail)
    return None
