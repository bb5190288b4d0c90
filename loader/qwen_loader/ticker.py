"""Thins out progress lines: what is new at once, new numbers every few seconds, the same line now and then.

The last thing told is always printed in the end, so nobody is left with a line that is no longer true. Clock and
printer are arguments.
"""

from __future__ import annotations

from collections.abc import Callable

from qwen_api.language import _
from qwen_loader.words import printable

NUMBERS_EVERY_S = 3.0
UNCHANGED_EVERY_S = 30.0  # a log that still moves tells a living process from a hung one


class Ticker:
    """Prints lines with `write`; `clock` gives seconds that never run backwards."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._write = write
        self._clock = clock
        self._line = self._about = self._fix = ""
        self._printed = self._printed_about = ""
        self._printed_at_s = 0.0

    def tell(self, line: str, *, about: str, fix: str = "") -> None:
        """This is the state now; `about` is the line without its numbers."""
        self._line, self._about, self._fix = line, about, fix
        self.print_due()

    def end(self) -> None:
        """What was told is over: print it if it was not yet, and do not repeat it."""
        if self._line not in ("", self._printed):
            self._print()
        self._line = ""

    def due_in_s(self) -> float | None:
        """When `print_due` should be called; None while there is nothing to print."""
        if not self._line:
            return None
        if self._about != self._printed_about:
            return 0.0
        pause_s = NUMBERS_EVERY_S if self._line != self._printed else UNCHANGED_EVERY_S
        return max(0.0, self._printed_at_s + pause_s - self._clock())

    def print_due(self) -> None:
        """Print the newest line if it is time."""
        if self.due_in_s() == 0.0:
            self._print()

    def _print(self) -> None:
        is_moving = self._about == self._printed_about and self._line != self._printed
        self._write(self._line + (f"\n  {_('fix:')} {printable(self._fix)}" if self._fix and not is_moving else ""))
        self._printed, self._printed_about, self._printed_at_s = self._line, self._about, self._clock()
