"""The power goes before a call that changes the disk: the job is killed there, and the disk forgets the rest.

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
from tests.overseer import KILL, Point
from tests.syscalls import CHANGING, SIM, Job, points
from tests.system.test_power_cut import KINDS, Volume
from tests.test_crash import SOME

pytestmark = pytest.mark.system


def cut_and_finish(volume: Volume, name: str, point: Point) -> None:
    """Power cut before that call, looked at, run again to the end; AssertionError, too, if it never came to it."""
    with ThreadedSimHub(SimHub(SIM)) as hub:
        job = Job(volume.path / name, hub)
        code, made = job.run_overseen(lambda asked: KILL if asked == point else 0, frozenset({point.call}))
        assert (code, point in made) == (-signal.SIGKILL, True), f"never came to {point}"
        told = job.told_verified()
        volume.cut_power()
        volume.unmount()
        volume.mount()
        job.daemon.root.mkdir(exist_ok=True)
        job.look_after_a_power_cut(told)
        job.finish()


@pytest.mark.fault("D31", "D1", "D2", "K3")
@pytest.mark.parametrize("kind", KINDS)
def test_the_power_goes_at_some_calls(tmp_path: Path, kind: str) -> None:
    """Between every two steps whose order matters."""
    volume = Volume(tmp_path, kind)
    try:
        for number, point in enumerate(SOME):
            cut_and_finish(volume, str(number), point)
    finally:
        volume.unmount()


def cut_at_point(every: Sequence[tuple[str, Point]], number: int) -> int:
    kind, point = every[number]
    with tempfile.TemporaryDirectory() as folder:
        volume = Volume(Path(folder), kind)
        try:
            cut_and_finish(volume, "job", point)
        finally:
            volume.unmount()
    return 1


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.fault("D31", "D1", "D2", "K3")
def test_the_power_goes_at_every_call() -> None:
    """All calls that change the disk, on either file system."""
    every = [(kind, point) for kind in KINDS for point in points(CHANGING)]
    work = partial(cut_at_point, every)
    long_run.run("power-cut-calls", "power cuts before a system call", work, range(len(every)))
