"""Files of the cache that the disk cannot read any more: named as damaged, with the reason, and replaced in one go.

strace lets reading that one path fail as a file system does whose checksums are wrong (EBADMSG). It is told to let go
as soon as it has done so: what stands there afterwards is another file.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import threading
from pathlib import Path

import pytest

from qwen_api import events as e
from qwen_api import places
from qwen_daemon.config import ConfiguredModel
from qwen_daemon.shell.local_dir import KEPT
from tests.fakes.hub import SimHub, ThreadedSimHub
from tests.overseer import Point, overseeing
from tests.running import WAIT_S, Running
from tests.syscalls import FILES, REPO, SIM, WEIGHTS

KEY, CONFIG = "org--one", "config.json"
READING = "read,readv,pread64,preadv,preadv2,sendfile,copy_file_range,ioctl"  # ioctl: FICLONE, a copy too


class Unreading:
    """A daemon for which `path` cannot be read, until `let_go`."""

    def __init__(self, daemon: Running, path: Path) -> None:
        self._daemon = daemon
        self._trace = daemon.root / "trace"
        # -D: the daemon is our child, and strace one of its own. -I2: a signal ends it, and the daemon goes on.
        daemon.under = ["strace", "-D", "-I2", "-f", "-qq", "-o", str(self._trace), "-P", str(path)]
        daemon.under += ["-e", f"trace={READING}", "-e", f"inject={READING}:error=EBADMSG"]

    def has_failed(self) -> bool:
        """Reading it was tried."""
        return "(INJECTED)" in self._trace.read_text()

    def let_go(self) -> None:
        """What is there can be read from now on."""
        status = Path(f"/proc/{self._daemon.pid}/status").read_text()
        tracer = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("TracerPid:"))
        end = os.pidfd_open(tracer)
        try:
            os.kill(tracer, signal.SIGTERM)
            assert select.select([end], [], [], WAIT_S)[0], "strace does not let go"
        finally:
            os.close(end)


def complete(root: Path, hub: ThreadedSimHub, model: str | ConfiguredModel = REPO) -> Running:
    """A daemon that was complete, and is stopped."""
    daemon = Running(root, endpoint=hub.endpoint, models=[model])
    with daemon:
        daemon.wait_complete(KEY)
    hub.log.clear()
    return daemon


def is_right(complete: e.ModelComplete) -> bool:
    return all((Path(complete.path) / path).read_bytes() == content for path, content in FILES.items())


@pytest.mark.fault("D16", "D30")
@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_blob_that_cannot_be_read_is_named_and_fetched_anew(tmp_path: Path, name: str) -> None:
    """Somebody touched it, so it is hashed: unreadable is damaged, with the file system's word for it."""
    with ThreadedSimHub(SimHub(SIM)) as hub:
        daemon = complete(tmp_path, hub)
        blob = daemon.cache / "models--org--one" / "blobs" / SIM.entry(name).etag
        inode = blob.stat().st_ino
        os.utime(blob)
        gate = hub.gate(name, 0)
        disk = Unreading(daemon, blob)
        with daemon:
            damaged = daemon.wait_event(e.FileCorrupt, path=name, where="disk", found="")
            assert "Bad message (EBADMSG)" in damaged.detail
            file = daemon.client.state().models[KEY].files[name]
            assert file.last_trouble is not None and file.last_trouble.code == "E_UNREADABLE"
            gate.wait_reached()
            disk.let_go()
            gate.open()
            assert is_right(daemon.wait_complete(KEY))
            assert daemon.seen(e.ModelStateChanged, state="waiting") == [] and "Traceback" not in daemon.stderr
        assert blob.stat().st_ino != inode and {each.path for each in hub.log.served()} == {name}


@pytest.mark.fault("D30")
@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_seal_that_holds_does_not_hide_it(tmp_path: Path, name: str) -> None:
    """Nobody touched the file, so nobody hashes it: it is the look inside that cannot be taken."""
    with ThreadedSimHub(SimHub(SIM)) as hub:
        daemon = complete(tmp_path, hub)
        gate = hub.gate(name, 0)
        named = places.snapshot_dir(daemon.cache, REPO, SIM.sha) / name
        disk = Unreading(daemon, named)
        with daemon:
            gate.wait_reached()
            assert daemon.seen(e.FileCorrupt, path=name, where="disk", found="")
            disk.let_go()
            gate.open()
            assert is_right(daemon.wait_complete(KEY))
            assert daemon.seen(e.ModelStateChanged, state="failed") == [] and "Traceback" not in daemon.stderr


@pytest.mark.fault("D30")
@pytest.mark.parametrize("record", [f"trees/{SIM.sha}.json", f"download/{WEIGHTS}.metadata"])
def test_the_records_of_a_folder_of_ones_own_are_written_anew(tmp_path: Path, record: str) -> None:
    """Whatever of them cannot be read: the files are here, so not a byte of them is fetched."""
    folder, path = tmp_path / "one", Path("one", KEPT, record)
    renewed = threading.Event()

    def decide(point: Point) -> int:
        if point.file == str(path) and point.call == "rename":
            renewed.set()
        return errno.EBADMSG if point.file == str(path) and not renewed.is_set() else 0

    with ThreadedSimHub(SimHub(SIM)) as hub:
        daemon = complete(tmp_path, hub, ConfiguredModel(model=REPO, local_dir=str(folder)))
        content = (tmp_path / path).read_bytes()
        with overseeing(tmp_path, {"rename", "read"}, decide) as (overseen, daemon.under), daemon:
            assert is_right(daemon.wait_complete(KEY))
            assert {point.call for point in overseen.refused} == {"read"} and renewed.is_set()
        assert (tmp_path / path).read_bytes()[:80] == content[:80]  # behind it, metadata says when
        assert not {each.path for each in hub.log.served()} & FILES.keys() and "Traceback" not in daemon.stderr


@pytest.mark.fault("D30")
@pytest.mark.parametrize("kind", ["trees", "refs"])
def test_the_caches_own_records_are_written_anew(tmp_path: Path, kind: str) -> None:
    """The Hub is asked for its list again, the branch is pointed again; no file is fetched."""
    with ThreadedSimHub(SimHub(SIM)) as hub:
        daemon = complete(tmp_path, hub)
        records = {
            "trees": places.tree_file(daemon.cache, REPO, SIM.sha),
            "refs": places.ref_file(daemon.cache, REPO, "main"),
        }
        record = records[kind]
        before, content = record.stat().st_ino, record.read_bytes()
        disk = Unreading(daemon, record)
        with daemon:
            assert is_right(daemon.wait_complete(KEY))
            assert disk.has_failed() and "file.unreadable" in daemon.stderr and "EBADMSG" in daemon.stderr
            disk.let_go()
        assert record.stat().st_ino != before and record.read_bytes() == content
        assert not {each.path for each in hub.log.served()} & FILES.keys()
