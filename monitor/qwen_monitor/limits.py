"""Limits in words, and the steps in which a key changes a speed limit. Pure."""

from __future__ import annotations

from typing import Literal

from qwen_api.language import _, ngettext
from qwen_api.status import LimitsStatus, ModelStatus
from qwen_monitor.display import rate_text

# From what leaves a line usable for others to what no line has; beyond the last step there is no limit.
STEPS_BPS = tuple(n * unit for unit in (10**5, 10**6, 10**7, 10**8) for n in (1, 2, 5))


def rate_words(rate_limit_bps: int | None) -> str:
    """`at most 20.0 MB/s`, or `no speed limit` for none (None or 0)."""
    return _("at most {rate}", rate=rate_text(rate_limit_bps)) if rate_limit_bps else _("no speed limit")


def limits_words(limits: LimitsStatus) -> str:
    """What holds for the whole daemon; "" if it did not say."""
    if not limits.max_files:
        return ""
    counts = (files_text(limits.max_files), connections_text(limits.max_connections))
    both = _("{files} and {connections} at once", files=counts[0], connections=counts[1])
    return f"{rate_words(limits.rate_limit_bps)}, {both}"


def files_text(count: int) -> str:
    """`1 file`, `8 files`."""
    return ngettext("{count} file", "{count} files", count)


def connections_text(count: int) -> str:
    """`16 connections`."""
    return ngettext("{count} connection", "{count} connections", count)


def model_limits_words(model: ModelStatus) -> str:
    """What holds for one model besides; "" if nothing does."""
    if not model.rate_limit_bps and not model.priority:
        return ""
    return f"{rate_words(model.rate_limit_bps)}, {_('priority {priority}', priority=model.priority)}"


def next_limit_bps(limit_bps: int, rate_bps: int, direction: Literal[-1, 1]) -> int | None:
    """The next step up or down from a limit (0: none); None is no limit.

    The first step down from no limit is the one below the present rate, so that it is felt.
    """
    if direction > 0:
        return next((step for step in STEPS_BPS if step > limit_bps), None) if limit_bps else None
    below = limit_bps or rate_bps or STEPS_BPS[-1] + 1
    return max((step for step in STEPS_BPS if step < below), default=STEPS_BPS[0])
