"""A machine that runs out of something while the daemon works: it says so, answers, and goes on once there is more."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import threading
from itertools import count, islice
from pathlib import Path

import pytest

from qwen_api import events as e
from qwen_api.commands import AddModel
from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.overseer import Point, overseeing
from tests.running import WAIT_S, Running
from tests.witness import Witness

REPO, KEY, WEIGHTS = "org/one", "org--one", "model.safetensors"
MIB = 1 << 20
FILES = {
    **model_folder.transformers_model("Qwen2ForCausalLM"),
    WEIGHTS: model_folder.safetensors("w", floats=2 * MIB),
}


def is_right(complete: e.ModelComplete) -> bool:
    return all((Path(complete.path) / path).read_bytes() == content for path, content in FILES.items())


def vanish(daemon: Running, to: str) -> None:
    """All of the repository at once, as `rm -r` would if nobody wrote meanwhile."""
    (daemon.cache / "models--org--one").rename(daemon.root / to)


@pytest.mark.fault("D19", "D23")
def test_a_file_that_may_not_grow_is_told_and_what_fitted_is_kept(tmp_path: Path) -> None:
    """The limit cuts a write short in its middle, then refuses: E_FILE_TOO_BIG; lifted, the rest comes."""
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub:
        gate = hub.gate(WEIGHTS, MIB)
        with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
            gate.wait_reached()
            before = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (5 * MIB + 1000, before[1]))
            gate.open()
            assert daemon.wait_event(e.FileFailed, path=WEIGHTS).code == "E_FILE_TOO_BIG"
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, before)
            daemon.client.retry(KEY)
            assert is_right(daemon.wait_complete(KEY))
            assert daemon.seen(e.FileResumed)[0].kept_bytes >= MIB
            assert "Traceback" not in daemon.stderr


@pytest.mark.fault("D21", "S6")
def test_without_descriptors_it_waits_and_still_answers(tmp_path: Path) -> None:
    """No socket and no file can be opened: E_FILES, and what it gives back lets it answer; it goes on by itself."""
    sim = SimHub(SimRepo(id=REPO, files=FILES))
    with ThreadedSimHub(sim) as hub, Running(tmp_path, endpoint=hub.endpoint) as daemon, Witness(daemon) as witness:
        before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        limit = limit_with(3, daemon.pid)  # enough for who asks, too few for a file, its lock and its connection
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
        daemon.client.add(AddModel(model=REPO))
        waiting = daemon.wait_state(KEY, "waiting")
        assert (waiting.code, f"may have {limit} open" in waiting.detail) == ("E_FILES", True)
        witness.sees("E_FILES", "again in")
        assert daemon.client.state().models[KEY].code == "E_FILES"
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)
        assert is_right(daemon.wait_complete(KEY))
        assert "E_INTERNAL" not in daemon.stderr and daemon.seen(e.FileFailed) == []


@pytest.mark.fault("D25")
def test_a_state_directory_that_hangs_is_named(tmp_path: Path) -> None:
    """A sync of the ledger that does not come back, as from a dead network share: E_DISK_STUCK says whose it is.

    The daemon answers meanwhile, and goes on by itself once it does.
    """
    hangs, goes_on = threading.Event(), threading.Event()

    def decide(point: Point) -> int:
        if hangs.is_set() and point.file.startswith("state/"):
            goes_on.wait(WAIT_S)
        return 0

    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub:
        gate = hub.gate(WEIGHTS, MIB)
        daemon = Running(tmp_path, endpoint=hub.endpoint, models=[REPO])
        with overseeing(tmp_path, {"fdatasync"}, decide) as (_, daemon.under), daemon:
            gate.wait_reached()
            daemon.wait_event(e.FileVerified, path="config.json")
            hangs.set()
            gate.open()
            try:
                stuck = daemon.wait_event(e.ModelStateChanged, state="downloading", code="E_DISK_STUCK")
                assert stuck.detail.startswith("writing the ledger in the state directory has not come back since")
                assert daemon.client.state().models[KEY].code == "E_DISK_STUCK"
            finally:
                goes_on.set()
            assert is_right(daemon.wait_complete(KEY))
            assert daemon.seen(e.FileRetry) + daemon.seen(e.FileFailed) == [] and "Traceback" not in daemon.stderr


def limit_with(left: int, pid: int) -> int:
    """The limit under which the process can open so many more: a new descriptor is the lowest number that is free."""
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    free = (number for number in count() if number not in used)
    return next(islice(free, left - 1, None)) + 1


@pytest.mark.fault("C1")
def test_a_cache_that_is_deleted_comes_back_where_it_was(tmp_path: Path) -> None:
    """In mid-file, and when all was complete: fetched anew into the same folder, nothing anywhere else."""
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub:
        gate = hub.gate(WEIGHTS, 3 * MIB)
        with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
            gate.wait_reached()
            vanish(daemon, "once")
            gate.open()
            daemon.wait_event(e.FileRetry)
            daemon.client.retry(KEY)
            assert is_right(daemon.wait_complete(KEY))
            mark = daemon.mark
            vanish(daemon, "again")
            daemon.client.retry(KEY)
            assert is_right(daemon.wait_complete(KEY, after=mark))
            assert {path.name for path in tmp_path.iterdir()} <= {
                "config.toml", "hf", "notify", "run", "state", "stderr", "stdout", "home", "config", "once", "again",
            }  # fmt: skip


@pytest.mark.fault("C1")
@pytest.mark.parametrize("at_byte", [3 * MIB, None], ids=["in mid-file", "complete"])
def test_a_cache_that_is_gone_is_waited_for(tmp_path: Path, at_byte: int | None) -> None:
    """`rm -rf` of all of it: E_CACHE_GONE, no folder is made anywhere, and with a new one all comes by itself."""
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub:
        gate = hub.gate(WEIGHTS, at_byte) if at_byte else None
        with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon, Witness(daemon) as witness:
            if gate is not None:
                gate.wait_reached()
            else:
                daemon.wait_complete(KEY)
            hub.log.clear()
            mark = daemon.mark
            while daemon.cache.exists():  # who writes into it meanwhile makes rm fail
                subprocess.run(["rm", "-rf", daemon.cache.parent], check=False)
            if gate is not None:
                gate.open()
            # A round that fell into the removing may have ended before it: a file vanished, for half a minute.
            gone = {"model": KEY, "state": "waiting", "code": "E_CACHE_GONE"}
            assert daemon.wait_event(e.ModelStateChanged, after=mark, timeout=60, **gone).retry_at
            witness.sees("E_CACHE_GONE", "again in")
            assert not daemon.cache.parent.exists() and daemon.client.state().models[KEY].code == "E_CACHE_GONE"
            daemon.cache.mkdir(parents=True)
            assert is_right(daemon.wait_complete(KEY, after=mark))
            assert daemon.seen(e.FileFailed) == [] and "Traceback" not in daemon.stderr
            assert {path.name for path in tmp_path.iterdir()} <= {
                "config.toml", "hf", "notify", "run", "state", "stderr", "stdout", "home", "config", "tmux.sock",
            }  # fmt: skip


@pytest.mark.fault("K12", "H24")
def test_a_machine_that_slept_goes_on(tmp_path: Path) -> None:
    """Stopped in mid-file; when it wakes its connections are gone and its addresses spent: it goes on by itself."""
    hub = SimHub(SimRepo(id=REPO, files=FILES))
    daemon = Running(tmp_path, endpoint="http://127.0.0.1:9", models=[REPO])
    try:
        with ThreadedSimHub(hub):
            daemon.env["HF_ENDPOINT"] = hub.endpoint
            gate = hub.gate(WEIGHTS, 3 * MIB)
            daemon.start()
            gate.wait_reached()
            daemon.signal(signal.SIGSTOP)
        with ThreadedSimHub(hub):
            hub.open_gates()
            hub.expire_urls()
            daemon.signal(signal.SIGCONT)
            assert is_right(daemon.wait_complete(KEY))
            assert daemon.seen(e.FileFailed) == [] and "Traceback" not in daemon.stderr
    finally:
        daemon.kill()
