"""A small job under strace, which kills it or lets a system call fail at the N-th one; and the look at what is left.

Kills come before the call is made. So every state the disk can be left in by a SIGKILL is that before some call that
changes it: those are the calls counted here. The N-th is counted in each thread; the ledger has one of its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qwen_api import places
from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.running import WAIT_S, Running

MIB = 1 << 20
REPO = "org/one"
WEIGHTS = "model.safetensors"
BYTES_PER_S = 8 * MIB  # so that there are checkpoints before the last byte
FILES = {
    **model_folder.transformers_model("Qwen2ForCausalLM"),
    WEIGHTS: model_folder.safetensors("w", floats=MIB),
    "docs/note.md": b"note",
}
SIM = SimRepo(id=REPO, files=FILES)
CHANGING = ("pwrite64", "fdatasync", "fsync", "rename", "symlink", "unlink", "ftruncate", "mkdir")


@dataclass
class Job:
    """One download into folders of its own, and what must be true whenever it has been stopped."""

    root: Path
    hub: SimHub
    files: Mapping[str, bytes] = field(default_factory=lambda: FILES)
    recorded: set[range] = field(default_factory=set)  # of the weights, by the ledger
    named: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._sim = SimRepo(id=REPO, files=self.files)
        self.hub.throttle.bytes_per_s = BYTES_PER_S
        self.daemon = Running(self.root, endpoint=self.hub.endpoint)

    def start(self) -> subprocess.Popen[bytes]:
        """The job, going."""
        return self.daemon.popen("--config", str(self.daemon.config_file), "--once", REPO)

    def run(self) -> int:
        """To its end; returns the exit code."""
        return self.daemon.run("--config", str(self.daemon.config_file), "--once", REPO)

    def run_injected(self, syscall: str, what: str, number: int) -> int:
        """The same under strace, with `what` done at the N-th call of each thread."""
        return self.run_traced("-e", f"trace={syscall}", "-e", f"inject={syscall}:{what}:when={number}")

    def run_traced(self, *options: str) -> int:
        """The same under strace with these options; what it sees is in `trace`."""
        command = ["strace", "-f", "-qq", "-o", str(self.root / "trace"), *options]  # --seccomp-bpf miscounts
        command += [sys.executable, "-m", "qwen_daemon", "--config", str(self.daemon.config_file), "--once", REPO]
        with (self.root / "stderr").open("ab") as stderr, (self.root / "stdout").open("ab") as stdout:
            ended = subprocess.run(
                command, env=self.daemon.env, cwd=self.root, stdout=stdout, stderr=stderr, timeout=2 * WAIT_S
            )
        return ended.returncode

    def kill_at(self, syscall: str, number: int) -> bool:
        """SIGKILL before the N-th call; False if there were fewer."""
        return self.run_injected(syscall, "signal=SIGKILL", number) == -signal.SIGKILL

    def look(self) -> None:
        """Whatever has just ended: nothing wrong is named, and nothing on record was asked for again."""
        served = {
            byte // 4096
            for each in self.hub.log.served(path=WEIGHTS)
            for span in self.recorded
            for byte in range(max(each.start, span.start), min(each.end, span.stop), 4096)
        }
        assert not served, f"recorded and fetched again: {served}"
        asked_again = {path for path in self.named if self.hub.log.served(path=path)}
        assert not asked_again, f"published and fetched again: {asked_again}"
        self.hub.log.clear()
        snapshot = places.snapshot_dir(self.daemon.cache, REPO, self._sim.sha)
        self.named = {path for path in self.files if (snapshot / path).exists()}
        for path in self.named:
            assert (snapshot / path).read_bytes() == self.files[path], f"{path} is wrong"
        assert not any((snapshot / path).is_symlink() for path in self.files.keys() - self.named), "a link to nothing"
        listing = places.tree_file(self.daemon.cache, REPO, self._sim.sha)
        assert (places.ref_file(self.daemon.cache, REPO, "main").exists() or bool(self.named)) <= listing.exists()
        self.recorded = self._recorded()

    def check_done(self) -> None:
        """Complete: every file hashed anew by another program, and nothing else lies about."""
        self.look()
        assert self.named == set(self.files)
        snapshot = places.snapshot_dir(self.daemon.cache, REPO, self._sim.sha)
        for path in self.files:
            _forget_cached(snapshot / path)
        sums = subprocess.check_output(["sha256sum", *self.files], cwd=snapshot, text=True).split()[::2]
        assert sums == [hashlib.sha256(content).hexdigest() for content in self.files.values()]
        assert places.ref_file(self.daemon.cache, REPO, "main").read_text() == self._sim.sha
        strays = [path for path in self.root.rglob(".qwen-*") if path.is_file() or path.is_symlink()]
        assert strays == []

    def _recorded(self) -> set[range]:
        """Stretches of the weights that the ledger has, read from a copy."""
        copy = self.root / "ledger-copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for path in self.daemon.state_dir.glob("ledger*"):
            shutil.copy(path, copy)
        found = next(copy.glob("ledger*.sqlite*"), None) or next(copy.glob("ledger*"), None)
        if found is None:
            return set()
        etag = self._sim.entry(WEIGHTS).sha256
        db = sqlite3.connect(copy / found.name.removesuffix("-wal").removesuffix("-shm"))
        try:
            rows = db.execute("SELECT offset, length FROM spans WHERE blob = ?", (f"{REPO}/{etag}",)).fetchall()
        except sqlite3.Error:  # killed while it was being made
            rows = []
        finally:
            db.close()
        return {range(offset, offset + length) for offset, length in rows}


def _forget_cached(path: Path) -> None:
    """What the disk has is what is read next, not what the page cache has."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # only what is written back: the rest is not dropped
    finally:
        os.close(descriptor)


def count_calls(root: Path) -> dict[str, int]:
    """How many calls of each kind the busiest thread makes in an undisturbed job."""
    with ThreadedSimHub(SimHub(SIM)) as hub:
        undisturbed = Job(root, hub)
        command = ["strace", "-f", "-qq", "-o", str(root / "trace"), "-e", f"trace={','.join(CHANGING)}"]
        command += [
            sys.executable,
            "-m",
            "qwen_daemon",
            "--config",
            str(undisturbed.daemon.config_file),
            "--once",
            REPO,
        ]
        subprocess.run(command, env=undisturbed.daemon.env, cwd=root, check=True, capture_output=True, timeout=WAIT_S)
        undisturbed.check_done()
    calls = Counter(
        (line.split()[0], line.split()[1].partition("(")[0])
        for line in (root / "trace").read_text().splitlines()
        if "(" in line
    )
    return {kind: max(count for (_, name), count in calls.items() if name == kind) for kind in CHANGING}
