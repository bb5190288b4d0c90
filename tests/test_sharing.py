"""Others at work on the cache that a daemon fills: `hf`, a second daemon, planted blobs; begun at many moments of it.

A moment is a number of events of the daemon's own stream. Whatever was begun then, in the end the model is complete,
its bytes are the Hub's and nothing outside was written to; with locks as they are, and with locks that do nothing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from qwen_api import events as e
from qwen_api import places
from tests import long_run
from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.running import WAIT_S, Running
from tests.test_swaps import everything

HF = Path(sys.executable).parent / "hf"
REPO, KEY, WEIGHTS = "org/name", "org--name", "model-00002-of-00002.safetensors"
MIB = 1 << 20
FILES = {
    **model_folder.transformers_model("Qwen2ForCausalLM"),
    **model_folder.sharded("model", 2),
    "deep/er/large.safetensors": model_folder.safetensors("w", floats=MIB),
    "README.md": b"# Hello\n",
}
SIM = SimRepo(id=REPO, files=FILES)
BYTES_PER_S = 8 * MIB  # half a second of it, so that there are moments in mid-file
AT_ONCE = 2
# The tracer is a grandchild: who is started is the program itself, and signals reach it.
NO_LOCKS = ("strace", "-D", "-f", "--seccomp-bpf", "-qq", "-e", "trace=flock", "-e", "inject=flock:retval=0")


class Lockless(Running):
    """A daemon whose every flock says yes and does nothing, as on some network file systems."""

    def popen(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [*NO_LOCKS, "-o", str(self.root / "trace"), sys.executable, "-m", "qwen_daemon", *arguments]
        with (self.root / "stderr").open("ab") as stderr, (self.root / "stdout").open("ab") as stdout:
            return subprocess.Popen(command, env=self.env, stdout=stdout, stderr=stderr, cwd=self.root)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A daemon that fills a cache, and a folder that is none of its business."""

    daemon: Running
    hub: SimHub
    outside: Path

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[bytes]:
        """Another program on the same cache, under the same locks."""
        locks = (*NO_LOCKS, "-o", str(self.outside.with_name("trace-other"))) if self.is_lockless else ()
        return subprocess.run([*locks, *command], env=self.daemon.env, capture_output=True, timeout=2 * WAIT_S)

    @property
    def is_lockless(self) -> bool:
        return isinstance(self.daemon, Lockless)

    def blob(self, path: str) -> Path:
        """Where a file's bytes will be, or are."""
        entry = SIM.entry(path)
        return places.repo_dir(self.daemon.cache, REPO) / "blobs" / (entry.sha256 or entry.oid)


def download(scene: Scene) -> None:
    done = scene.run(HF, "download", REPO)
    assert done.returncode == 0, done.stderr.decode()


def download_again(scene: Scene) -> None:
    done = scene.run(HF, "download", REPO, "--force-download")
    assert done.returncode == 0, done.stderr.decode()


def prune(scene: Scene) -> None:
    done = scene.run(HF, "cache", "prune", "--yes")
    assert done.returncode == 0, done.stderr.decode()


def remove(scene: Scene) -> None:
    scene.run(HF, "cache", "rm", f"model/{REPO}", "--yes")  # it may say that somebody writes there


def second_daemon(scene: Scene) -> None:
    other = type(scene.daemon)(scene.outside.with_name("other"), endpoint=scene.hub.endpoint)
    other.env["HF_HOME"] = scene.daemon.env["HF_HOME"]
    assert other.run("--config", str(other.config_file), "--once", REPO, timeout=2 * WAIT_S) == 0, other.stderr


def plant(scene: Scene, path: str, make: Callable[[Path], object]) -> None:
    """Another writer puts something in the place of a blob, in one step."""
    blob = scene.blob(path)
    blob.parent.mkdir(parents=True, exist_ok=True)
    beside = blob.with_name("planted")
    make(beside)
    beside.replace(blob)


def wrong_blob(scene: Scene) -> None:
    plant(scene, WEIGHTS, lambda beside: beside.write_bytes(bytes(len(FILES[WEIGHTS]))))
    plant(scene, "deep/er/large.safetensors", lambda beside: beside.write_bytes(b"short"))


def right_shared_blob(scene: Scene) -> None:
    plant(scene, WEIGHTS, lambda beside: beside.symlink_to(scene.outside / "right"))


def wrong_shared_blob(scene: Scene) -> None:
    plant(scene, WEIGHTS, lambda beside: beside.symlink_to(scene.outside / "wrong"))
    plant(scene, "config.json", lambda beside: beside.symlink_to(scene.outside / "nothing"))


ACTIONS = (
    download, prune, remove, second_daemon, download_again, wrong_blob, right_shared_blob, wrong_shared_blob,
)  # fmt: skip


@contextmanager
def scene(root: Path, *, lockless: bool) -> Iterator[Scene]:
    outside = root / "outside"
    outside.mkdir(parents=True)
    (outside / "right").write_bytes(FILES[WEIGHTS])
    (outside / "wrong").write_bytes(bytes(len(FILES[WEIGHTS])))
    with ThreadedSimHub(SimHub(SIM)) as hub:
        hub.throttle.bytes_per_s = BYTES_PER_S
        with (Lockless if lockless else Running)(root / "daemon", endpoint=hub.endpoint, models=[REPO]) as daemon:
            yield Scene(daemon=daemon, hub=hub, outside=outside)


def interleave(root: Path, action: Callable[[Scene], object], moment: int, *, lockless: bool) -> int:
    """Begin `action` after so many events; 1 if the daemon was still at work then."""
    with scene(root, lockless=lockless) as here:
        daemon, before = here.daemon, everything(here.outside)
        daemon.wait_for(lambda: daemon.mark >= moment or daemon.seen(e.ModelComplete), f"{moment} events")
        was_at_work = not daemon.seen(e.ModelComplete)
        action(here)
        asked = daemon.client.verify(KEY)
        daemon.client.retry(KEY)  # a lock that somebody held, or what was taken away: now, not in some seconds
        daemon.wait_for(
            lambda: [x for x in daemon.seen(e.ModelComplete) if x.seq > asked.seq], f"{action.__name__} at {moment}"
        )
        snapshot = places.snapshot_dir(daemon.cache, REPO, SIM.sha)
        wrong = [path for path, content in FILES.items() if (snapshot / path).read_bytes() != content]
        assert wrong == [], f"{action.__name__} at {moment}: {wrong}"
        assert everything(here.outside) == before, f"{action.__name__} at {moment} wrote outside"
        assert "Traceback" not in daemon.stderr and "E_INTERNAL" not in daemon.stderr, daemon.stderr
        return int(was_at_work)


def at(number: int) -> tuple[Callable[[Scene], object], int, bool]:
    """The actions one after the other; each time around they begin three events later, every other time lockless."""
    turn, index = divmod(number, len(ACTIONS))
    return ACTIONS[index], 1 + 3 * (turn // 2) + index % 3, turn % 2 == 1


@pytest.mark.fault("C3", "C4", "C6", "C7", "C8", "C12", "C14")
@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
def test_whoever_comes_whenever_the_end_is_right(tmp_path: Path, action: Callable[[Scene], object]) -> None:
    """At the beginning, in the middle and at the end; with locks and without."""
    moments = [(2, False), (9, True), (16, False)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        work = [
            pool.submit(interleave, tmp_path / str(moment), action, moment, lockless=lockless)
            for moment, lockless in moments
        ]
        assert sum(done.result() for done in work) >= 2, "it was done before anything began"


def interleave_in_a_folder(number: int) -> int:
    action, moment, lockless = at(number)
    with tempfile.TemporaryDirectory() as folder:
        interleave(Path(folder), action, moment, lockless=lockless)
    return 1


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.fault("C3", "C4", "C6", "C7", "C8", "C12", "C14")
def test_whoever_comes_at_each_of_many_moments_the_end_is_right() -> None:
    """Each action at twenty-five moments, with locks and without."""
    long_run.run("sharing", "others at work on the same cache", interleave_in_a_folder, range(len(ACTIONS) * 50))
