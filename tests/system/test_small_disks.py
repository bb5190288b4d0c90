"""Disks that run out: of room, of names, of the writer's share, or that turn read-only, each for real and in mid-file.

The daemon says which of them it is and waits, keeps what fitted, and goes on by itself once the disk can take more.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from qwen_api import events as e
from tests import canary
from tests.fakes.hub import SimHub, ThreadedSimHub
from tests.oracle import check_running
from tests.running import Running
from tests.syscalls import FILES, MIB, REPO, SIM, WEIGHTS
from tests.witness import Witness

pytestmark = pytest.mark.system
KEY = "org--one"


@dataclass
class Disk:
    """Mounted at `path`; `exhaust` takes what the daemon needs, `relieve` gives it back."""

    path: Path
    exhaust: Callable[[], object]
    relieve: Callable[[], object]
    is_before_the_start: bool = False


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def mounted(path: Path, *command: str | Path) -> Iterator[None]:
    path.mkdir()
    run("mount", *command, path)
    try:
        yield
    finally:
        run("umount", path)


@contextmanager
def full(folder: Path) -> Iterator[Disk]:
    """Somebody else fills it."""
    path = folder / "disk"
    with mounted(path, "-t", "tmpfs", "-o", "size=32m", "tmpfs"):
        other = path / "other"

        def fill() -> None:
            with other.open("wb") as out:
                try:
                    while out.write(bytes(1 << 16)):
                        out.flush()
                except OSError:
                    pass

        yield Disk(path, fill, other.unlink)


@contextmanager
def without_names(folder: Path) -> Iterator[Disk]:
    """No inode is left: files grow, but none can be made."""
    path = folder / "disk"
    with mounted(path, "-t", "tmpfs", "-o", "size=32m,nr_inodes=200", "tmpfs"):
        others = path / "others"
        others.mkdir()

        def use_up() -> None:
            number = 0
            try:
                while True:
                    (others / str(number)).touch()
                    number += 1
            except OSError:
                assert number > 10

        def remove() -> None:
            for other in others.iterdir():
                other.unlink()

        yield Disk(path, use_up, remove)


@contextmanager
def read_only(folder: Path) -> Iterator[Disk]:
    """Mounted without leave to write; the kernel does that only while nobody has a file open for writing."""
    path = folder / "disk"
    with mounted(path, "-t", "tmpfs", "-o", "size=32m", "tmpfs"):
        canary.plant({"HF_HOME": str(path / "hf")})  # as a user's token that was there before
        yield Disk(
            path,
            lambda: run("mount", "-o", "remount,ro", path),
            lambda: run("mount", "-o", "remount,rw", path),
            is_before_the_start=True,
        )


@contextmanager
def out_of_quota(folder: Path) -> Iterator[Disk]:
    """A Btrfs whose tree may grow no more: EDQUOT, for root too."""
    path, image = folder / "disk", folder / "image"
    with image.open("wb") as out:
        out.truncate(256 * MIB)
    run("mkfs.btrfs", "-q", image)
    with mounted(path, "-o", "loop", image):
        share = path / "share"
        run("btrfs", "quota", "enable", path)
        run("btrfs", "subvolume", "create", share)

        def limit(size: str) -> None:
            run("btrfs", "qgroup", "limit", size, share)

        yield Disk(share, lambda: limit("3M"), lambda: limit("none"))


@pytest.mark.fault("D11", "D14", "D17", "D18")
@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (full, "E_DISK_FULL"),
        (without_names, "E_NO_INODES"),
        (read_only, "E_READ_ONLY"),
        (out_of_quota, "E_QUOTA"),
    ],
)
def test_a_disk_that_runs_out_is_named_and_waited_for(
    tmp_path: Path, kind: Callable[[Path], AbstractContextManager[Disk]], code: str
) -> None:
    """The model waits with the reason, the sockets answer, what fitted is kept, and it goes on by itself."""
    with kind(tmp_path) as disk, ThreadedSimHub(SimHub(SIM)) as hub:
        gate = hub.gate(WEIGHTS, 2 * MIB)
        if disk.is_before_the_start:
            disk.exhaust()
            gate.open()
        config = "[disk]\nreserve_bytes = 0\n"
        env = {"HF_HOME": str(disk.path / "hf")}
        running = Running(tmp_path / "daemon", endpoint=hub.endpoint, models=[REPO], env=env, config=config)
        with running as daemon, Witness(daemon) as witness:
            if not disk.is_before_the_start:
                gate.wait_reached()
                disk.exhaust()
                gate.open()
            waiting = daemon.wait_state(KEY, "waiting")
            assert (waiting.code, bool(waiting.retry_at)) == (code, True)
            told_bytes = [disk.needed_bytes for disk in daemon.seen(e.DiskChanged) if disk.state == "full"]
            assert code == "E_READ_ONLY" or (told_bytes and "are free" in waiting.detail), waiting.detail
            assert daemon.client.state().models[KEY].code == code
            witness.sees(code, "again in")
            disk.relieve()
            path = Path(daemon.wait_complete(KEY).path)
            check_running(daemon, KEY)
            assert all((path / name).read_bytes() == content for name, content in FILES.items())
            assert "Traceback" not in daemon.stderr
        at_most_bytes = len(FILES[WEIGHTS]) + (len(FILES[WEIGHTS]) - 2 * MIB)
        assert hub.log.bytes_served(path=WEIGHTS) <= at_most_bytes, "what came before is kept"


@pytest.mark.fault("D15")
def test_a_disk_that_takes_bytes_and_cannot_keep_them_costs_no_truth(tmp_path: Path) -> None:
    """An ext4 on a device smaller than it says: writes succeed, syncing them fails; nothing that was lost is believed.

    Told as trouble with the disk, never as verified. On a device that is large enough again the model comes whole.
    """
    thin, root = tmp_path / "thin", tmp_path / "daemon"
    image, disk = thin / "image", root / "hf"
    root.mkdir()
    with mounted(thin, "-t", "tmpfs", "-o", "size=3m", "tmpfs"), ThreadedSimHub(SimHub(SIM)) as hub:
        with image.open("wb") as out:
            out.truncate(64 * MIB)
        run("mkfs.ext4", "-q", "-O", "^has_journal", image)
        with mounted(disk, "-o", "loop", image), Running(root, endpoint=hub.endpoint, models=[REPO]) as daemon:
            waiting = daemon.wait_state(KEY, "waiting")
            assert waiting.code in ("E_DISK_FULL", "E_DISK_IO"), waiting
            assert [event.path for event in daemon.seen(e.FileVerified)].count(WEIGHTS) == 0
            assert "Traceback" not in daemon.stderr
        run("mount", "-o", "remount,size=80m", thin)
        subprocess.run(["e2fsck", "-p", "-f", image], check=False, stdout=subprocess.DEVNULL)  # 1: it mended something
        disk.rmdir()
        with mounted(disk, "-o", "loop", image), Running(root, endpoint=hub.endpoint, models=[REPO]) as daemon:
            path = Path(daemon.wait_complete(KEY).path)
            assert all((path / name).read_bytes() == content for name, content in FILES.items())


@contextmanager
def with_damaged(folder: str, root: Path, hub: ThreadedSimHub) -> Iterator[Running]:
    """A daemon whose model was complete on an ext4, of which this folder's block is then overwritten: EBADMSG."""
    image, disk = root / "image", root / "disk"
    with image.open("wb") as out:
        out.truncate(64 * MIB)
    run("mkfs.ext4", "-q", image)
    with mounted(disk, "-o", "loop", image):
        daemon = Running(root / "daemon", endpoint=hub.endpoint, models=[REPO], env={"HF_HOME": str(disk / "hf")})
        with daemon:
            daemon.wait_complete(KEY)
    run("debugfs", "-w", "-R", f"zap_block -f /hf/hub/models--org--one/{folder} 0", image)
    hub.log.clear()
    disk.rmdir()
    with mounted(disk, "-o", "loop", image), daemon:
        yield daemon


@pytest.mark.fault("D30")
@pytest.mark.parametrize("folder", ["snapshots", "trees", "refs", f"snapshots/{SIM.sha}/docs"])
def test_a_folder_that_cannot_be_read_is_made_anew(tmp_path: Path, folder: str) -> None:
    """What holds only links and records gets another name; the model is complete again without a byte of a file."""
    with ThreadedSimHub(SimHub(SIM)) as hub, with_damaged(folder, tmp_path, hub) as daemon:
        path = Path(daemon.wait_complete(KEY).path)
        assert all((path / name).read_bytes() == content for name, content in FILES.items())
        assert "folder.unreadable" in daemon.stderr and "EBADMSG" in daemon.stderr
        assert not {each.path for each in hub.log.served()} & FILES.keys()
        assert daemon.seen(e.ModelStateChanged, state="waiting") == [] and "Traceback" not in daemon.stderr


@pytest.mark.fault("D30")
def test_where_nothing_can_be_made_it_is_said_where(tmp_path: Path) -> None:
    """The contents' own folder is not moved away: E_DISK_IO with its name and what to do, without spinning."""
    with ThreadedSimHub(SimHub(SIM)) as hub, with_damaged("blobs", tmp_path, hub) as daemon, Witness(daemon) as witness:
        assert "EBADMSG" in daemon.wait_event(e.FileCorrupt, path=WEIGHTS, found="").detail
        waiting = daemon.wait_state(KEY, "waiting")
        assert (waiting.code, "models--org--one/blobs" in waiting.detail) == ("E_DISK_IO", True), waiting
        witness.sees("E_DISK_IO", "again in")
        assert "Traceback" not in daemon.stderr
