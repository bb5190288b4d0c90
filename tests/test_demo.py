"""`make run` is a promise to newcomers: the whole story, told and true, every time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.loader
def test_make_run_tells_the_whole_story(tmp_path: Path) -> None:
    """Killed in mid-file, resumed, damaged, repaired, complete, loaded, edited: exit 0 and a picture."""
    told = subprocess.run(
        [sys.executable, "-m", "demo", "--var", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert told.returncode == 0, told.stdout[-3000:] + told.stderr[-3000:]
    for words in ("SIGKILL to the daemon", "resumes at byte", "flipped", "found:", "repaired:", "complete: 35 files"):
        assert words in told.stdout
    assert (tmp_path / "run" / "after.png").read_bytes().startswith(b"\x89PNG")
