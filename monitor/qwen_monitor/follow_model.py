"""Follows one model on the event stream until a decision about it falls: the loop under `download` and `wait`.

The decision is a function of the model's status, given by the command; this module owns the stream and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from qwen_api.client import Disconnected, Follower, Line
from qwen_api.events import Hello, ModelChecked, ModelComplete, ModelRemoved, ModelResolved, ModelStateChanged
from qwen_api.language import _
from qwen_api.models import ModelRef
from qwen_api.status import ModelStatus
from qwen_monitor.console import Console
from qwen_monitor.exits import Refusal
from qwen_monitor.plain import waiting_text
from qwen_monitor.progress import Progress

T = TypeVar("T")


def follow_model(
    find: Callable[[], Path],
    ref: ModelRef,
    console: Console,
    decide: Callable[[ModelStatus | None, bool], T | None],
    *,
    on_lost: Callable[[Disconnected], T | None] = lambda _lost: None,
    timeout_s: float | None = None,
) -> tuple[T | None, ModelStatus | None]:
    """Show progress until `decide(model, has_news)` gives something; (None, last status) after `timeout_s`.

    `has_news` becomes True with the first event about the model's state that came after the greeting. `on_lost` is
    asked whenever the daemon is gone; while it gives None the stream is tried again for ever. Raises Refusal for a
    daemon of another protocol.
    """
    follower = Follower(find)
    progress = Progress(ref, console)
    timer = threading.Timer(timeout_s, follower.close) if timeout_s is not None else None
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        return _follow(follower, ref, progress, console, decide, on_lost)
    finally:
        if timer is not None:
            timer.cancel()
        follower.close()
        progress.close()
        console.end_progress()


def _follow(
    follower: Follower,
    ref: ModelRef,
    progress: Progress,
    console: Console,
    decide: Callable[[ModelStatus | None, bool], T | None],
    on_lost: Callable[[Disconnected], T | None],
) -> tuple[T | None, ModelStatus | None]:
    has_news, said_lost = False, False
    for line in follower:
        if isinstance(line, Disconnected):
            if line.code == "E_PROTOCOL":  # no waiting mends that
                raise Refusal(line.code, _("the daemon cannot be reached"), line.why, line.fix)
            decided = on_lost(line)
            if decided is not None:
                return decided, follower.status.models.get(ref.key)
            if not said_lost:
                console.hint(waiting_text(line))
            said_lost = True
            continue
        said_lost = False
        if isinstance(line, Hello):
            continue
        progress.take(line, follower.status)
        has_news = has_news or _is_news(line, ref.key)
        model = follower.status.models.get(ref.key)
        decided = decide(model, has_news)
        if decided is not None:
            return decided, model
    return None, follower.status.models.get(ref.key)


def _is_news(line: Line, key: str) -> bool:
    is_state = isinstance(line, ModelStateChanged | ModelResolved | ModelChecked | ModelComplete | ModelRemoved)
    return is_state and getattr(line, "model", "") == key
