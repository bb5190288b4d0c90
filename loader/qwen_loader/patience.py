"""When a loader without a daemon stops waiting for nobody: ADR 24's decision, and nothing else.

Whoever reads the disk and the clock is `wait`.
"""

from __future__ import annotations

from qwen_loader.gate import Waiting

TO_MEND = ("E_INCOMPLETE", "E_CORRUPT")  # what somebody must mend


class Patience:
    """Counts how long the same files have been wrong in a cache that nobody writes to."""

    def __init__(self, limit_s: float | None) -> None:
        """`limit_s` None: endless."""
        self._limit_s = limit_s
        self._still: tuple[Waiting, int] | None = None
        self._since_s = 0.0

    def is_over(self, waiting: Waiting, changed_ns: int, now_s: float) -> bool:
        """Whether this has been so for `limit_s`; `changed_ns` is the newest change of the cache, on any clock."""
        if self._limit_s is None or waiting.code not in TO_MEND:
            self._still = None
            return False
        if self._still != (waiting, changed_ns):
            self._still, self._since_s = (waiting, changed_ns), now_s
        return now_s - self._since_s >= self._limit_s
