"""Where a command writes and what it may assume of the terminal: data to stdout, progress and hints to stderr.

Every command gets a `Console` instead of reaching for sys and os, so that what it prints can be followed from its
arguments. Sentences come from `sentences`; names are made safe by whoever puts them into a line.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import msgspec

from qwen_api import places
from qwen_monitor.display import Glyphs, cell_width, choose_glyphs
from qwen_monitor.exits import Refusal
from qwen_monitor.sentences import error_text
from qwen_monitor.wrapping import wrapped

_ERROR_INDENT = 7  # behind `  why: `
_CLEAR_LINE, _CLEAR_BELOW = "\r\x1b[K", "\r\x1b[J"  # ECMA-48: EL, ED


class Console:
    """Standard streams, environment and the signs that may be used on them. `quiet` drops hints and progress."""

    def __init__(
        self,
        env: Mapping[str, str],
        out: TextIO,
        err: TextIO,
        *,
        as_json: bool = False,
        emoji: bool = False,
        ascii_only: bool = False,
        quiet: bool = False,
    ) -> None:
        self.env = env
        self.as_json = as_json
        self.quiet = quiet
        self.err = err
        self.is_terminal = err.isatty() and env.get("TERM", "") not in ("", "dumb")
        self.asks = sys.stdin is not None and sys.stdin.isatty() and err.isatty()
        self.glyphs: Glyphs = choose_glyphs(env, out.encoding, ascii_only)
        self.err_glyphs: Glyphs = choose_glyphs(env, err.encoding, ascii_only)
        self.emoji = emoji or (out.isatty() and not self.glyphs.is_ascii)
        self._out = out
        self._block: list[str] = []  # lines that stand above the cursor, the last one beside it

    def data(self, lines: Iterable[str], *, indent: int | None = None) -> None:
        """Lines that the command was asked for. With `indent` a terminal gets long ones in several, indented so far."""
        self.end_progress()
        if indent is not None and self._out.isatty():
            width = shutil.get_terminal_size().columns
            lines = [row for line in lines for row in wrapped(line, width, " " * indent)]
        self._out.writelines(f"{line}\n" for line in lines)
        self._out.flush()

    def json(self, value: object) -> None:
        """One JSON document; structs and mappings of them."""
        self.data([msgspec.json.encode(value).decode()])

    def hint(self, text: str) -> None:
        """A remark beside the data."""
        if not self.quiet:
            self.end_progress()
            echo = _CLEAR_LINE if self.is_terminal else ""  # the `^C` that the terminal wrote, if it was Ctrl-C
            self._tell(f"{echo}{self._fitted(text)}\n")

    def progress(self, text: str) -> None:
        """The line that is rewritten in place; only for a terminal."""
        self.block([text])

    def block(self, lines: Sequence[str]) -> None:
        """Lines that are rewritten in place, those that changed; only for a terminal, and narrower than it."""
        if not self.is_terminal or self.quiet or not lines or lines == self._block:
            return
        if len(lines) < len(self._block) or self._rows() > len(self._block):
            self.end_progress()  # nothing of the old ones may stay below
        drawn = [
            "" if index < len(self._block) and self._block[index] == line else f"{_CLEAR_LINE}{line}"
            for index, line in enumerate(lines)
        ]
        self._tell(self._to_block() + "\n".join(drawn))
        self._block = list(lines)

    def end_progress(self) -> None:
        """Wipe what is rewritten so that the next line stands alone."""
        if self._block:
            self._tell(self._to_block() + _CLEAR_BELOW)
            self._block = []

    def _fitted(self, text: str, indent: str = "") -> str:
        """With line breaks of our own where a terminal is narrower; programs get what stands on one line on one."""
        if not self.is_terminal:
            return text
        width = shutil.get_terminal_size().columns
        return "\n".join(row for line in text.split("\n") for row in wrapped(line, width, indent))

    def _tell(self, text: str) -> None:
        """A terminal that was closed reads nothing any more: what is being put away is put away all the same."""
        try:
            self.err.write(text)
            self.err.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.err.fileno())  # or the flush at exit fails again

    def _to_block(self) -> str:
        """Moves the cursor to the block's first line."""
        rows = self._rows()
        return f"\x1b[{rows - 1}A\r" if rows > 1 else "\r"

    def _rows(self) -> int:
        """Rows of the terminal that the block takes; one that became narrower has wrapped some lines."""
        columns = max(1, shutil.get_terminal_size().columns)
        return sum(max(1, -(-cell_width(line) // columns)) for line in self._block)

    def refuse(self, error: Refusal) -> None:
        """The three lines of an error; with --json the same on stdout as `{"error": ...}`."""
        self.end_progress()
        text = error_text(error.code, error.what, error.why, error.fix, self.err_glyphs)
        self._tell("\n".join(self._fitted(line, " " * _ERROR_INDENT) for line in text.splitlines()) + "\n")
        if self.as_json:
            facts = {"code": error.code, "what": error.what, "why": error.why, "fix": error.fix}
            self.json({"error": facts})

    def cache(self, given: Path | None) -> Path:
        """The Hub cache that was named, or the one of the environment."""
        return given.expanduser().absolute() if given else places.hub_cache(self.env)
