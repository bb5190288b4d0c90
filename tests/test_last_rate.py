"""How fast it was the last time: kept by a download, told by a check."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen_monitor import last_rate


def test_what_was_kept_is_told_again(tmp_path: Path) -> None:
    """Per user, over processes; nothing before the first download."""
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}
    assert last_rate.recall(env) is None
    last_rate.remember(env, 84_900_000.7)
    assert last_rate.recall(env) == 84_900_000


@pytest.mark.parametrize("text", ["", "0", "-5", "fast", "9" * 400, "\u0663"])
def test_what_is_no_rate_is_none(tmp_path: Path, text: str) -> None:
    """Whatever stands in the file, a check goes on."""
    (tmp_path / "qwen-daemon").mkdir()
    (tmp_path / "qwen-daemon" / "last-rate").write_text(text)
    assert last_rate.recall({"XDG_STATE_HOME": str(tmp_path)}) is None


def test_a_state_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """A file stands where the folder would be."""
    (tmp_path / "state").write_text("")
    last_rate.remember({"XDG_STATE_HOME": str(tmp_path / "state")}, 5.0)
    assert last_rate.recall({"XDG_STATE_HOME": str(tmp_path / "state")}) is None
