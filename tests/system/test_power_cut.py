"""The power goes: the file system stops between one moment and the next, and is mounted again.

ext4 and XFS can be told to forget all that they have not written (their SHUTDOWN ioctl with NOLOGFLUSH), which is a
power cut to everybody above them. What the ledger calls durable must be on the disk afterwards.
"""

from __future__ import annotations

import fcntl
import os
import random
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen_api import events as e
from tests import long_run
from tests.fakes.hub import SimHub, ThreadedSimHub
from tests.running import WAIT_S, Running
from tests.syscalls import FILES, MIB, REPO, SIM, WEIGHTS, Job

pytestmark = pytest.mark.system

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are one number
NOLOGFLUSH = 2
KINDS = ("ext4", "xfs")
BYTES_PER_S = 3 * MIB  # several checkpoints on the way


class Volume:
    """A file system of its own, in a file."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.path = folder / "v"
        self._image = folder / "image"
        self.path.mkdir()
        with self._image.open("wb") as image:
            image.truncate(400 * MIB)
        subprocess.run([f"mkfs.{kind}", "-q", self._image], check=True)
        self.mount()

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self._image, self.path], check=True)

    def unmount(self) -> None:
        """Gone for good: while another mount namespace has it, the next mount would be of the one without power."""
        subprocess.run(["umount", self.path], check=True)
        deadline = time.monotonic() + WAIT_S
        while used := subprocess.run(["losetup", "-j", self._image], check=True, capture_output=True).stdout:
            assert time.monotonic() < deadline, f"who made a mount namespace meanwhile? {used!r}"
            time.sleep(0.05)

    def cut_power(self) -> None:
        """What was not synced is gone; who writes now gets errors."""
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(folder)


@pytest.fixture(params=KINDS)
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume]:
    volume = Volume(tmp_path, request.param)
    try:
        yield volume
    finally:
        volume.unmount()


def cut_and_finish(volume: Volume, name: str, byte: int) -> None:
    """Power cut once so many bytes were sent, looked at, run again to the end."""
    with ThreadedSimHub(SimHub(SIM)) as hub:
        job = Job(volume.path / name, hub)
        hub.throttle.bytes_per_s = BYTES_PER_S
        daemon = job.daemon
        daemon.configure([REPO])
        daemon.start()
        hub.wait_reached(WEIGHTS, byte)
        if byte > MIB:
            daemon.wait_for(lambda: durable_bytes(daemon), "a checkpoint")
        told = {event.path for event in daemon.seen(e.FileVerified)}
        durable = {WEIGHTS: durable_bytes(daemon)}
        volume.cut_power()
        daemon.kill()
        volume.unmount()
        volume.mount()
        job.look_after_a_power_cut(told, durable)
        job.finish()


def durable_bytes(daemon: Running) -> int:
    """As much of the weights as the daemon has told to be durable."""
    return max((each.durable_bytes for each in daemon.seen(e.FileProgress) if each.path == WEIGHTS), default=0)


@pytest.mark.fault("D1", "D2", "K1")
def test_what_is_on_record_outlives_the_power(volume: Volume) -> None:
    """Cut before, between and after checkpoints, at the end of the file and while it is published."""
    for byte in (1, MIB, 2 * MIB, 3 * MIB + 7, len(FILES[WEIGHTS])):
        cut_and_finish(volume, str(byte), byte)


@pytest.mark.fault("D1", "D2")
def test_what_was_told_complete_is_there_with_the_ledger_elsewhere(volume: Volume, tmp_path: Path) -> None:
    """On one disk a sync of the ledger writes down all names as well; here the cache's disk has only its own syncs."""
    with ThreadedSimHub(SimHub(SIM)) as hub:
        job = Job(tmp_path / "honest", hub)
        daemon = job.daemon
        daemon.env["HF_HOME"], daemon.cache = str(volume.path / "hf"), volume.path / "hf" / "hub"
        assert daemon.run("--config", str(daemon.config_file), "--once", REPO) == 0
        volume.cut_power()
        volume.unmount()
        volume.mount()
        job.look_after_a_power_cut(set(FILES))
        job.finish()


def cut_at_random(seed: int) -> int:
    """On either file system, at a byte that the seed names."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        volume = Volume(Path(folder), dice.choice(KINDS))
        try:
            cut_and_finish(volume, "job", dice.randint(1, len(FILES[WEIGHTS])))
        finally:
            volume.unmount()
    return 1


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.fault("D1", "D2", "K1")
def test_what_is_on_record_outlives_hundreds_of_power_cuts() -> None:
    """At random bytes, each on a fresh file system."""
    long_run.run("power-cuts", "power cuts on ext4 and XFS", cut_at_random, range(300))
