"""One model as a few lines that are rewritten in place: what `qwenctl download` and `wait` show on a terminal.

Pure, and without Textual. The files' rows are the monitor's own (`file_pane`); the numbers above them are
`summary`'s.
"""

from __future__ import annotations

from datetime import datetime

from qwen_api.events import FileState
from qwen_api.language import _
from qwen_api.status import FileStatus, ModelStatus
from qwen_monitor.display import Glyphs, bar, cell_width, duration_text, pair_text, percent_text, rate_text, safe
from qwen_monitor.file_pane import file_rows, listed_files
from qwen_monitor.pace import Pace
from qwen_monitor.row import fitting, line
from qwen_monitor.sentences import state_word
from qwen_monitor.summary import eta_s, model_line, model_name, rate_bps, troubles, verified_text, verifying

FILE_ROWS_MAX = 8  # as many files as are in flight by default
_NAME_WIDTH = 30  # of a model's name and state, before facts are left out
_ROWS_LEFT = 4  # of a small terminal, for what was there before
_IN_HAND: tuple[FileState, ...] = ("downloading", "verifying", "stalled", "retrying", "failed")


def foreground_lines(
    model: ModelStatus, pace: Pace, width: int, height: int, now: datetime, glyphs: Glyphs
) -> list[str]:
    """At most `height` lines of at most `width` cells: the model, its bar, the files that move or are in trouble."""
    if not model.size_bytes or model.state != "downloading" or height < 2:
        lines = [safe(model_line(model, pace, glyphs), width, glyphs)]
    else:
        lines = [_head(model, pace, width, glyphs), _bar_line(model, width, glyphs)]
    room = min(FILE_ROWS_MAX, height - len(lines) - _ROWS_LEFT)
    if room > 0:
        lines += [row.text for row in file_rows(_in_hand(model), room, width, now, glyphs)]
    return lines[: max(1, height)]


def _head(model: ModelStatus, pace: Pace, width: int, glyphs: Glyphs) -> str:
    """The bar below it has the numbers of bytes and files."""
    facts = [rate_text(rate_bps(model, pace)), _("ETA {time}", time=duration_text(eta_s(model, pace)))]
    edge = fitting([*facts, *verifying(model), *troubles(model)], max(0, width - _NAME_WIDTH), between="  ")
    return line(f"{model_name(model)} {state_word(model.state)}", edge, width, glyphs)


def _in_hand(model: ModelStatus) -> list[FileStatus]:
    return [
        file for file in listed_files(model, "", with_verified=False) if file.state in _IN_HAND and not file.is_held
    ]


def _bar_line(model: ModelStatus, width: int, glyphs: Glyphs) -> str:
    done, size = model.done_bytes, model.size_bytes
    edge = f"{percent_text(done, size)}  {pair_text(done, size)}  {verified_text(model)}"
    if cell_width(edge) > width * 3 // 5:
        edge = f"{percent_text(done, size)}  {pair_text(done, size)}"
    return line(f" {bar(done, size, max(0, width - cell_width(edge) - 2), glyphs)}", edge, width, glyphs)
