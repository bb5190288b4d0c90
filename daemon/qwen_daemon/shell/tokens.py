"""An endpoint's token, which may become another one while the daemon runs: read now and then, and when it is refused.

Where it is read from is the caller's to say; who may get it, shell.fetch's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from qwen_daemon.core.errors import Trouble

TOKEN_AGE_S = 1.0  # reading it costs as much as a tenth of a small file's request


class Token:
    """`read` gives it as it is now, None if there is none; what it raises is raised by both ways of asking."""

    def __init__(self, read: Callable[[], str | None], now_s: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._now_s = now_s
        self._known: tuple[float, str | None] | None = None

    def __call__(self) -> str | None:
        """The token, as it was at most TOKEN_AGE_S ago."""
        if self._known is None or self._now_s() - self._known[0] >= TOKEN_AGE_S:
            return self.fresh()
        return self._known[1]

    def fresh(self) -> str | None:
        """The token as it is now."""
        self._known = (self._now_s(), self._read())
        return self._known[1]

    def renewed(self, refused: str | None) -> bool:
        """True if it is another one now than that which was refused; what cannot be read is none."""
        with suppress(Trouble, OSError, ValueError):
            return self.fresh() != refused
        return False
