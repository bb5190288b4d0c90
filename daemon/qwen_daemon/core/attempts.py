"""What to do after a try at a file went wrong: one decision, taken from facts.

The job asks here and nowhere else, so that "three tries, 2, 4, 8 seconds, progress resets the count, the server's
word goes first, people are asked when only they can help" stands in one place.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwen_daemon.core import backoff
from qwen_daemon.core.errors import AskHuman, MakeRoom, ResolveAgain, StartOver, Trouble, TryLater

PROGRESS_BYTES = 1 << 20  # less than this between two failures is not progress
RESOLVE_PAUSE_S = 1.0  # a server that calls every fresh address spent must not be asked in a tight loop
LATER_MIN_S = 1.0  # nor one that says "later" and then "in 0 seconds"


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """How often a file was tried in a row without progress."""

    failed: int = 0
    resolved_again: int = 0


@dataclass(frozen=True, kw_only=True)
class Again:
    """Try again after `delay_s`; `attempt` is the number of the coming try, counted from 1."""

    attempts: Attempts
    attempt: int
    delay_s: float


@dataclass(frozen=True, kw_only=True)
class GiveUp:
    """The file failed in this round. `needs_human`: trying by itself is pointless."""

    code: str
    detail: str
    needs_human: bool


def after_trouble(attempts: Attempts, trouble: Trouble, *, received_bytes: int, dice: float) -> Again | GiveUp:
    """Decide what follows a failed try that received so many bytes. MakeRoom is for the whole job, not for a file."""
    if isinstance(trouble, AskHuman):
        return GiveUp(code=trouble.code, detail=trouble.detail, needs_human=True)
    if isinstance(trouble, MakeRoom):
        raise trouble
    moved = received_bytes >= PROGRESS_BYTES and not isinstance(trouble, StartOver)
    if isinstance(trouble, TryLater):
        return Again(attempts=attempts, attempt=attempts.failed + 1, delay_s=max(LATER_MIN_S, trouble.after_s))
    if isinstance(trouble, ResolveAgain) and (moved or attempts.resolved_again < backoff.ATTEMPTS_MAX):
        count = 0 if moved else attempts.resolved_again + 1
        pause_s = RESOLVE_PAUSE_S * count
        return Again(
            attempts=Attempts(failed=attempts.failed, resolved_again=count),
            attempt=attempts.failed + 1,
            delay_s=pause_s,
        )
    failed = 1 if moved else attempts.failed + 1
    delay_s = backoff.retry_delay_s(failed, dice)
    if delay_s is None:
        return GiveUp(code=trouble.code, detail=trouble.detail, needs_human=False)
    return Again(attempts=Attempts(failed=failed), attempt=failed + 1, delay_s=delay_s)
