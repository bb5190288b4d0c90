"""The power goes before the N-th call that changes the disk: strace ends the job there, the disk forgets the rest.

What a kill leaves in the page cache, a power cut takes; so each of the calls at which tests/test_crash.py kills is a
case of its own here, on ext4 and on XFS.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from tests import long_run
from tests.fakes.hub import SimHub, ThreadedSimHub
from tests.syscalls import REPO, SIM, Job
from tests.system import traced
from tests.system.test_power_cut import KINDS, Volume

pytestmark = pytest.mark.system

# In mid-file, at its end, and while it is named, linked and complete.
SOME = (("fdatasync", 2), ("fsync", 12), ("rename", 3), ("symlink", 1))


def cut_and_finish(volume: Volume, name: str, syscall: str, number: int) -> bool:
    """Power cut before that call, looked at, run again to the end. False if there was no such call."""
    with ThreadedSimHub(SimHub(SIM)) as hub:
        job = Job(volume.path / name, hub)
        what = f"inject={syscall}:signal=SIGKILL:when={number}"
        was_cut = traced.run_once(job.daemon, REPO, "-e", f"trace={syscall}", "-e", what) == -signal.SIGKILL
        volume.cut_power()
        volume.unmount()
        volume.mount()
        job.daemon.root.mkdir(exist_ok=True)
        job.daemon.configure([])  # nobody synced that
        job.look()
        assert job.run() == 0, job.daemon.stderr
        job.check_done()
        return was_cut


@pytest.mark.fault("D31", "D1", "D2", "K3")
@pytest.mark.parametrize("kind", KINDS)
def test_the_power_goes_at_some_calls(tmp_path: Path, kind: str) -> None:
    """In mid-file, and all the way from the last byte to the branch."""
    volume = Volume(tmp_path, kind)
    try:
        cut = [cut_and_finish(volume, f"{syscall}{number}", syscall, number) for syscall, number in SOME]
    finally:
        volume.unmount()
    assert cut.count(True) >= len(SOME) - 1, "which thread makes how many calls differs a little from run to run"


def cut_at_point(points: Sequence[tuple[str, str, int]], number: int) -> int:
    kind, syscall, call = points[number]
    with tempfile.TemporaryDirectory() as folder:
        volume = Volume(Path(folder), kind)
        try:
            return cut_and_finish(volume, "job", syscall, call)
        finally:
            volume.unmount()


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.fault("D31", "D1", "D2", "K3")
def test_the_power_goes_at_every_call(tmp_path: Path) -> None:
    """All calls that change the disk, on either file system."""
    with ThreadedSimHub(SimHub(SIM)) as hub:
        counts = traced.count_calls(Job(tmp_path / "undisturbed", hub).daemon, REPO)
    points = [(kind, call, number) for kind in KINDS for call in counts for number in range(1, counts[call] + 1)]
    long_run.run(
        "power-cut-calls", "power cuts before a system call", partial(cut_at_point, points), range(len(points))
    )
