"""A small job, killed or refused a system call at any point of it, run again to its end, and looked at by the oracle.

A kill comes before the call is made, so every state that the disk can be left in by a SIGKILL is that before some call
that changes it: `CHANGING` are those, `READING` the others that a disk can fail. The overseer says which call it is.
"""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from qwen_api.models import parse_model
from tests import overseer
from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.oracle import Oracle
from tests.overseer import Point
from tests.running import WAIT_S, Running

MIB = 1 << 20
REPO = "org/one"
KEY = parse_model(REPO).key
WEIGHTS = "model.safetensors"
END_S = 4 * WAIT_S  # several run at once for hours, beside whatever else the machine does
BYTES_PER_S = 8 * MIB  # so that there are checkpoints before the last byte
FILES = {
    **model_folder.transformers_model("Qwen2ForCausalLM"),
    WEIGHTS: model_folder.safetensors("w", floats=MIB),
    "docs/note.md": b"note",
}
SIM = SimRepo(id=REPO, files=FILES)
READING = frozenset({
    "read", "pread64", "readv", "preadv", "preadv2", "getdents64", "stat", "lstat", "fstat", "newfstatat", "statx",
    "readlink", "readlinkat", "flock", "close", "open(read)", "openat(read)", "openat2(read)",
})  # fmt: skip
CHANGING = frozenset(overseer.CALLS) - READING - {"ioctl"}
OURS = ("hf/hub", "state", "run")  # the cache, the state and the sockets


class Job(Oracle):
    """One download into folders of its own."""

    def __init__(self, root: Path, hub: SimHub, files: Mapping[str, bytes] = FILES) -> None:
        hub.throttle.bytes_per_s = BYTES_PER_S
        daemon = Running(root, endpoint=hub.endpoint, env={"QWEN_DAEMON_LOG": "json"})
        super().__init__(daemon, hub, SimRepo(id=REPO, files=files), files)

    def start(self) -> subprocess.Popen[bytes]:
        """The job, going."""
        return self.daemon.popen("--config", str(self.daemon.config_file), "--once", REPO)

    def run(self) -> int:
        """To its end, and looked at; returns the exit code."""
        code = self._run()
        self.look(code)
        return code

    def run_overseen(self, decide: Callable[[Point], int], calls: frozenset[str] = CHANGING) -> tuple[int, list[Point]]:
        """The same, asked about each of these calls; returns the exit code and all of them that were made."""
        with overseer.overseeing(self.daemon.root, calls, decide) as (overseen, self.daemon.under):
            code = self._run()
        self.daemon.under = []
        self.look(None if code == -signal.SIGKILL else code)
        return code, [point for point in overseen.points if point.call in calls and point.file.startswith(OURS)]

    def _run(self) -> int:
        return self.daemon.run("--config", str(self.daemon.config_file), "--once", REPO, timeout=END_S)

    def finish(self) -> None:
        """As a service, to complete; then stopped: whatever was before, now all is right."""
        self.daemon.configure([REPO])
        with self.daemon:
            self.daemon.wait_complete(KEY, timeout=END_S)
            self.check_running()
            code = self.daemon.stop()
        assert code == 0
        self.look()
        self.check_done()


def points(calls: frozenset[str], files: Mapping[str, bytes] = FILES) -> list[Point]:
    """All such calls of a job that nobody disturbs."""
    with tempfile.TemporaryDirectory() as folder, ThreadedSimHub(SimHub(SimRepo(id=REPO, files=files))) as hub:
        job = Job(Path(folder) / "job", hub, files)
        code, made = job.run_overseen(lambda _: 0, calls)
        assert code == 0
        job.check_done()
    return made


def disturb(point: Point, answer: int, files: Mapping[str, bytes] = FILES) -> tuple[int, bool]:
    """The call at that point gets that answer (an errno, or KILL), then the job is finished.

    Returns the exit code of the disturbed job, and whether it came to that point.
    """
    with tempfile.TemporaryDirectory() as folder, ThreadedSimHub(SimHub(SimRepo(id=REPO, files=files))) as hub:
        job = Job(Path(folder) / "job", hub, files)
        calls = frozenset({point.call})
        code, made = job.run_overseen(lambda asked: answer if asked == point else 0, calls)
        for path in files if point.call in READING else ():
            job.may_be_fetched_again(path)
        job.finish()
        return code, point in made
