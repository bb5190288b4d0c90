"""The monitor's keys and marks for single files, priorities and limits, without a terminal."""

from __future__ import annotations

from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from qwen_api import events as e
from qwen_api.status import FileStatus, Status
from qwen_monitor.display import UNICODE
from qwen_monitor.file_pane import file_rows, first_shown
from qwen_monitor.limits import STEPS_BPS
from qwen_monitor.scene import Scene, Size
from qwen_monitor.view import FileOrder, Limit, Say, View, press
from tests.fakes import download
from tests.test_rows import NOW, status_of, texts


def test_keys_act_on_the_chosen_file() -> None:
    """Space pauses and resumes it, < and > change its priority within the API's bounds; without one they say so."""
    status, view = status_of(*download.half_way()), View(file=download.ACTIVE)
    paused = status_of(*download.half_way(), e.FilesPaused(model=download.MODEL, paths=(download.ACTIVE,)))
    first = e.FilesPrioritised(model=download.MODEL, paths=(download.ACTIVE,), priority=100)
    order = partial(FileOrder, model=download.MODEL, path=download.ACTIVE)
    assert press(view, "space", " ", status)[1] == order(verb="pause")
    assert press(view, "space", " ", paused)[1] == order(verb="resume")
    assert press(view, "greater_than_sign", ">", status)[1] == order(verb="prio", priority=1)
    assert press(view, "less_than_sign", "<", status)[1] == order(verb="prio", priority=-1)
    assert press(view, "greater_than_sign", ">", status_of(*download.half_way(), first))[1] == order(
        verb="prio", priority=100
    )
    assert press(View(), "space", " ", status)[1] == Say(text="choose a file first: up, down")
    hidden = View(file=download.VERIFIED[0])
    assert press(hidden, "space", " ", status)[1] == Say(text="choose a file first: up, down")
    said = f"read-only; elsewhere: qwenctl prio {download.REPO} 1 --file {download.ACTIVE}"
    assert press(View(file=download.ACTIVE, read_only=True), "", ">", status)[1] == Say(text=said)


def test_keys_change_the_speed_limit_in_steps() -> None:
    """The first step down is below the present rate; the one above the last step lifts the limit."""
    running = status_of(*download.half_way())  # at 84.9 MB/s
    assert press(View(), "minus", "-", running)[1] == Limit(rate_limit_bps=50_000_000)
    assert press(View(), "minus", "-", Status())[1] == Limit(rate_limit_bps=STEPS_BPS[-1])
    assert press(View(), "plus", "+", running)[1] == Limit(rate_limit_bps=None)
    for limit_bps, less, more in [
        (50_000_000, 20_000_000, 100_000_000),
        (30_000_000, 20_000_000, 50_000_000),
        (STEPS_BPS[0], STEPS_BPS[0], STEPS_BPS[1]),
        (STEPS_BPS[-1], STEPS_BPS[-2], None),
    ]:
        changed = e.LimitsChanged(max_files=8, max_connections=16, rate_limit_bps=limit_bps)
        limited = status_of(*download.half_way(), changed)
        assert press(View(), "minus", "-", limited)[1] == Limit(rate_limit_bps=less)
        assert press(View(), "equals_sign", "=", limited)[1] == Limit(rate_limit_bps=more)
    assert press(View(read_only=True), "minus", "-", running)[1] == Say(
        text="read-only; elsewhere: qwenctl limit 50000000"
    )


def test_limits_priorities_and_paused_files_are_on_the_screen() -> None:
    """With a sign and a word each; a paused file is no trouble and no longer active."""
    status = status_of(
        *download.half_way(),
        e.LimitsChanged(max_files=8, max_connections=16, rate_limit_bps=20_000_000),
        e.ModelLimitsChanged(model=download.MODEL, rate_limit_bps=5_000_000, priority=7),
        e.FilesPaused(model=download.MODEL, paths=(download.ACTIVE, download.RETRYING)),
        e.FilesPrioritised(model=download.MODEL, paths=("text_encoder/model-00002-of-00002.safetensors",), priority=3),
    )
    shown = texts(Scene(status=status, view=View(file=download.ACTIVE)), Size(width=110, height=30))
    assert "limit 5.0 MB/s  priority 7" in shown[2] and "2 paused" in shown[2]
    (chosen,) = [row for row in shown if row.startswith("›")]
    assert chosen.startswith("›‖ transformer/") and chosen.endswith("paused")
    assert any(row.startswith(" ‖ vae/") and row.endswith("paused") for row in shown if ".safetensors" in row)
    assert any("queued +3" in row for row in shown)
    assert any(row.startswith(" ‖ vae ") and "1 paused" in row for row in shown)


@given(st.integers(0, 40), st.integers(2, 12), st.booleans())
def test_the_chosen_file_is_always_on_the_screen(chosen: int, count: int, has_reasons: bool) -> None:
    """Wherever it stands in a long list, also among files whose reason takes a second row."""
    state: e.FileState = "failed" if has_reasons else "queued"
    files = [FileStatus(path=f"f{n:02d}", size_bytes=9, state=state, code="E_X") for n in range(41)]
    start = first_shown(files, f"f{chosen:02d}", count)
    rows = file_rows(files[start:], count, 80, NOW, UNICODE, f"f{chosen:02d}")
    assert len(rows) <= count
    if count > 2 or not has_reasons:
        assert any(row.text.startswith("›") for row in rows)
