"""The overseer is asked about each call once, in whatever thread, and its answer is what happens."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.overseer import KILL, SKIP, Point, overseeing
from tests.syscalls import CHANGING

PROGRAM = """
import os, sys, threading
os.mkdir("made")
out = os.open("made/file-0123456789abcdef.part", os.O_WRONLY | os.O_CREAT)
os.close(os.open("/dev/null", os.O_WRONLY))
for number in range(4):  # each in a thread of its own
    thread = threading.Thread(target=os.pwrite, args=(out, b"%d" % number, number))
    thread.start()
    thread.join()
os.fsync(out)
os.rename(f"/proc/self/fd/{os.open('made', os.O_PATH)}/file-0123456789abcdef.part", "done")
"""
PART = "made/file-*.part"
EVERY = [
    Point("mkdir", "made", 1),
    Point("openat", PART, 1),
    *(Point("pwrite64", PART, number) for number in (1, 2, 3, 4)),
    Point("fsync", PART, 1),
    Point("openat(read)", "made", 1),
    Point("rename", "done", 1),
]
NAMES = CHANGING | {"openat(read)"}


def run(root: Path, decide: Callable[[Point], int]) -> tuple[int, list[Point], list[Point], str]:
    """The program; returns its exit code, what was asked about, what was refused, and what it complained of."""
    with overseeing(root, NAMES, decide) as (overseen, prefix):
        command = [*prefix, sys.executable, "-I", "-S", "-c", PROGRAM]
        ended = subprocess.run(command, cwd=root, stderr=subprocess.PIPE, text=True, check=False)
    return ended.returncode, overseen.points, overseen.refused, ended.stderr.strip().rpartition("\n")[2]


def test_each_call_is_asked_about_once_and_in_order(tmp_path: Path) -> None:
    """By any thread, through a descriptor or a held folder, with random names made plain; other files are not."""
    ran = run(tmp_path, lambda _: 0)
    assert ran == (0, EVERY, [], "")
    assert (tmp_path / "done").read_bytes() == b"0123"


@pytest.mark.parametrize("place", range(len(EVERY)))
def test_a_kill_comes_before_the_call_and_after_the_one_before(tmp_path: Path, place: int) -> None:
    """The disk is as the calls before it have left it."""
    ran = run(tmp_path, lambda point: KILL if point == EVERY[place] else 0)
    assert ran == (-signal.SIGKILL, EVERY[: place + 1], [EVERY[place]], "")
    written = [path.read_bytes() for path in tmp_path.rglob("file-*")]
    calls = [point.call for point in EVERY[:place]]
    assert written == ([b"0123"[: calls.count("pwrite64")]] if "openat" in calls else [])


def test_a_refused_call_fails_with_that_error(tmp_path: Path) -> None:
    """The program sees it as the kernel's own."""
    code, _, refused, said = run(tmp_path, lambda point: errno.ENOSPC if point.call == "fsync" else 0)
    assert (code, refused) == (1, [Point("fsync", PART, 1)])
    assert said == "OSError: [Errno 28] No space left on device"


def test_a_skipped_call_succeeds_and_does_nothing(tmp_path: Path) -> None:
    """The program believes it."""
    code, _, refused, _ = run(tmp_path, lambda point: SKIP if point.call == "rename" else 0)
    assert (code, refused) == (0, [Point("rename", "done", 1)])
    assert not (tmp_path / "done").exists()
