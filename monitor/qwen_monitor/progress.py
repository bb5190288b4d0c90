"""The progress of one model on stderr: a few lines that are rewritten on a terminal, plain lines where they cannot be.

Shared by `download` and `wait`. What happened is `event_text`'s and `summary`'s to say; when to stop is the command's.
"""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from textwrap import wrap

from qwen_api import places
from qwen_api.client import Line
from qwen_api.events import (
    Bookmark,
    FileStalled,
    FileStarted,
    FileVerified,
    Gap,
    Hello,
    HubThrottled,
    Live,
    ModelChecked,
    Snapshot,
    Unknown,
)
from qwen_api.last_rates import BELIEVED_S, LastRate, remember
from qwen_api.models import ModelRef
from qwen_api.status import ModelStatus, Status
from qwen_monitor.console import Console
from qwen_monitor.display import safe
from qwen_monitor.event_text import event_text
from qwen_monitor.foreground import foreground_lines
from qwen_monitor.pace import Pace
from qwen_monitor.plain import Plain

REDRAW_S, REDRAW_SSH_S = 0.5, 1.0  # a line over SSH costs somebody's bytes
# All files are missing at first; a silence and a server's wait are rows with a countdown, or a file's retry.
_IN_ROWS = ModelChecked | FileStalled | HubThrottled
_FRAMES = Snapshot | Gap | Live | Bookmark | Unknown | Hello
SMALL_BYTES = 1_000_000  # configs and tokenizers: their component's line says that they are there


class Progress:
    """Feed it every line of the stream with the status after it."""

    def __init__(self, ref: ModelRef, console: Console) -> None:
        self._key = ref.key
        self._console = console
        self._plain = Plain(glyphs=console.err_glyphs, wanted=ref)
        self._pace = Pace()
        self._told: set[str] = set()
        self._drawn_s = float("-inf")
        self._redraw_s = REDRAW_SSH_S if console.env.get("SSH_CONNECTION") else REDRAW_S

    def take(self, line: Line, status: Status) -> None:
        """Show what there is to show."""
        model = status.models.get(self._key)
        if model is not None:
            self._pace = self._pace.fed(time.monotonic(), model.received_bytes)
        if self._console.quiet or isinstance(line, Hello):
            return
        if not self._console.is_terminal:
            self._as_lines(line, status)
            return
        if self._say_trouble(line):
            self._drawn_s = float("-inf")  # the remark took the rows' place; the next line may come in seconds
        if model is not None:
            self._redraw(model)

    def close(self) -> None:
        """The stream is left; how fast it was is kept for the next question."""
        samples = self._pace.samples
        if samples and samples[-1][0] - samples[0][0] >= BELIEVED_S and (rate_bps := self._pace.average_bps()) > 0:
            at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            remember(places.state_dir(self._console.env), self._key, LastRate(rate_bps=int(rate_bps), at=at))

    def _as_lines(self, line: Line, status: Status) -> None:
        if isinstance(line, FileStarted) or (isinstance(line, FileVerified) and line.size_bytes < SMALL_BYTES):
            return  # one line for each large file is enough, and one for each component
        for text in self._plain.lines(line, status, time.monotonic(), datetime.now(UTC).astimezone()):
            self._console.hint(text)

    def _say_trouble(self, line: Line) -> bool:
        """What went wrong stands above the rows, each once; what the rows say as long as it lasts does not."""
        if isinstance(line, _FRAMES | _IN_ROWS):
            return False
        text = event_text(line, self._console.err_glyphs)
        if text is None or not text.is_bad or text.model not in ("", self._key):
            return False
        subject = "" if text.subject == self._key else safe(text.subject, glyphs=self._console.err_glyphs)
        remark = ": ".join(part for part in (text.word, subject, text.detail) if part)
        if remark in self._told:
            return False
        self._told.add(remark)
        width = shutil.get_terminal_size().columns - 1
        self._console.hint("\n".join(wrap(remark, max(20, width), subsequent_indent="  ", break_on_hyphens=False)))
        return True

    def _redraw(self, model: ModelStatus) -> None:
        now_s = time.monotonic()
        if now_s - self._drawn_s < self._redraw_s:
            return
        self._drawn_s = now_s
        size = shutil.get_terminal_size()
        width = size.columns - 2  # beside the last line Ctrl-C shows as `^C`; a line that wraps cannot be rewritten
        now, glyphs = datetime.now(UTC).astimezone(), self._console.err_glyphs
        self._console.block(foreground_lines(model, self._pace, width, size.lines, now, glyphs))
