"""A download in the foreground: a few lines that are rewritten on a terminal, and nothing of the kind in a pipe."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from qwen_api.events import DaemonStopping
from qwen_api.language import LANGUAGES, speak
from qwen_api.models import ModelRef
from qwen_api.status import ModelStatus, Status, fold
from qwen_monitor.console import Console
from qwen_monitor.display import ASCII, UNICODE, Glyphs, cell_width
from qwen_monitor.foreground import foreground_lines
from qwen_monitor.pace import Pace
from qwen_monitor.progress import Progress
from tests.fakes import download

NOW = datetime(2026, 11, 23, 14, 25, tzinfo=UTC)


def half_way() -> ModelStatus:
    status = Status()
    for event in download.half_way():
        status = fold(status, event)
    return next(iter(status.models.values()))


@pytest.mark.parametrize("glyphs", [UNICODE, ASCII], ids=["unicode", "ascii"])
@pytest.mark.parametrize(("width", "height"), [(40, 3), (59, 16), (79, 24), (119, 40)])
def test_every_line_fits_and_what_moves_is_shown(width: int, height: int, glyphs: Glyphs) -> None:
    """The model first; files that are in hand, with their trouble; never more than the terminal has."""
    lines = foreground_lines(half_way(), Pace(), width, height, NOW, glyphs)

    assert all(cell_width(line) <= width for line in lines)
    assert 1 <= len(lines) <= height
    assert lines[0].startswith("Qwen/")
    if height >= 16:
        moving = [file for file in half_way().files.values() if file.state in ("downloading", "retrying")]
        assert moving and len(lines) > 2
        assert "20.3%" in lines[1] and "84.9 MB/s" in lines[0]
    if width >= 79:
        assert lines[0].startswith("Qwen/Qwen-Image-Edit-2511@") and "downloading" in lines[0]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_rows_say_all_at_80_columns_in_both_languages(language: str) -> None:
    """Russian words are longer: state, rate, estimate, share, sizes and each file's reason are there all the same."""
    speak(language)
    lines = foreground_lines(half_way(), Pace(), 78, 24, NOW, UNICODE)

    assert [line for line in lines if cell_width(line) > 78] == []
    head, bar_line, *files = lines
    assert "Qwen/Qwen-Image-Edit-2511@6f3ccc0b" in head and "4:42" in head
    words = ("downloading", "84.9 MB/s", "20.3%", "6.1/30.1 GB", "retry", "connection reset by peer")
    if language == "ru":
        words = ("скачивается", "84,9 МБ/с", "20,3%", "6,1/30,1 ГБ", "через", "connection reset by peer")
    state, rate, share, sizes, wait, why = words
    assert state in head and rate in head and share in bar_line and sizes in bar_line
    assert any(download.RETRYING in row and wait in row for row in files) and any(why in row for row in files)


class Screen(io.StringIO):
    """A terminal of 80 columns that understands what the console says to it; `rows` is what is seen."""

    encoding = "utf-8"

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.row, self.written = [""], 0, ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.written += text
        for part in re.findall(r"\x1b\[\d*[A-Z]|\r|\n|[^\x1b\r\n]+", text):
            self._take(part)
        return len(text)

    def _take(self, part: str) -> None:
        if part == "\n":
            self.row += 1
            self.rows += [""] * (self.row + 1 - len(self.rows))
        elif part.endswith("A") and part.startswith("\x1b"):
            self.row -= int(part[2:-1])
        elif part == "\x1b[K":
            self.rows[self.row] = ""
        elif part == "\x1b[J":
            self.rows[self.row :] = [""]
        elif part != "\r":
            self.rows[self.row] = part


@pytest.fixture
def screen(monkeypatch: Any) -> Screen:
    monkeypatch.setenv("COLUMNS", "80")
    return Screen()


def console(err: io.StringIO, **env: str) -> Console:
    return Console({"TERM": "xterm", **env}, io.StringIO(), err)


def test_a_block_is_rewritten_in_place_and_only_where_it_changed(screen: Screen) -> None:
    """Rows come and go; the line that stayed is not written again."""
    ours = console(screen)
    ours.block(["model 10%", "a 1", "b 1"])
    assert screen.rows == ["model 10%", "a 1", "b 1"]
    screen.written = ""
    ours.block(["model 20%", "a 1", "b 2"])
    assert screen.rows == ["model 20%", "a 1", "b 2"]
    assert "a 1" not in screen.written
    ours.block(["model 30%", "b 3"])
    assert [row for row in screen.rows if row] == ["model 30%", "b 3"]
    ours.block(["model 40%", "b 3", "c 1"])
    assert screen.rows == ["model 40%", "b 3", "c 1"]


def test_a_remark_stands_above_the_block_and_data_replaces_it(screen: Screen) -> None:
    """Nothing of what was rewritten stays in the scrollback."""
    ours = console(screen)
    ours.block(["model 10%", "a 1"])
    ours.hint("retry: a")
    ours.block(["model 20%", "a 2"])
    assert screen.rows == ["retry: a", "model 20%", "a 2"]
    ours.end_progress()
    assert [row for row in screen.rows if row] == ["retry: a"]


def test_a_remark_does_not_take_the_rows_away_until_something_moves_again(screen: Screen) -> None:
    """All may be waiting: the next line of the stream comes in seconds. What has no subject is told without one."""
    ours = Progress(ModelRef(repo=download.REPO), console(screen))
    status = Status()
    *before, retry, _disk, _loader = download.half_way()
    for event in before:
        status = fold(status, event)
        ours.take(event, status)
    ours.take(retry, fold(status, retry))
    ours.take(DaemonStopping(reason="asked to"), fold(status, retry))
    rows = [row for row in screen.rows if row]
    assert rows[0].startswith(f"retry: {download.RETRYING}: try 3/4")
    assert "daemon: is stopping (asked to)" in rows
    assert any(row.startswith(f"{download.REPO}@") for row in rows[rows.index("daemon: is stopping (asked to)") :])


def test_a_pipe_sees_no_block() -> None:
    """Not one escape sequence goes into a file."""
    err = io.StringIO()
    console(err).block(["model 10%", "a 1"])
    assert err.getvalue() == ""
