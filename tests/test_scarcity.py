"""A machine that runs out of something while the daemon works: it says so, answers, and goes on once there is more."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from pathlib import Path

import pytest

from qwen_api import events as e
from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.running import Running

REPO, KEY, WEIGHTS = "org/one", "org--one", "model.safetensors"
MIB = 1 << 20
FILES = {
    **model_folder.transformers_model("Qwen2ForCausalLM"),
    WEIGHTS: model_folder.safetensors("w", floats=2 * MIB),
}


def is_right(complete: e.ModelComplete) -> bool:
    return all((Path(complete.path) / path).read_bytes() == content for path, content in FILES.items())


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
def test_without_descriptors_it_still_answers(tmp_path: Path) -> None:
    """No socket and no file can be opened: failed tries, who is connected is told so, and then all is well."""
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub:
        gate = hub.gate(WEIGHTS, MIB)
        with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
            gate.wait_reached()
            used = max(int(name) for name in os.listdir(f"/proc/{daemon.pid}/fd")) + 1
            before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (used, before[1]))
            mark = daemon.mark
            hub.expire_urls()
            gate.open()
            daemon.wait_for(lambda: daemon.mark > mark, "the stream goes on")
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)
            daemon.client.retry(KEY)
            assert is_right(daemon.wait_complete(KEY))
            assert "E_INTERNAL" not in daemon.stderr


@pytest.mark.fault("C1")
def test_a_cache_that_is_deleted_comes_back_where_it_was(tmp_path: Path) -> None:
    """In mid-file, and when all was complete: fetched anew into the same folder, nothing anywhere else."""
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub:
        gate = hub.gate(WEIGHTS, 3 * MIB)
        with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
            gate.wait_reached()
            shutil.rmtree(daemon.cache / "models--org--one")
            gate.open()
            daemon.wait_event(e.FileRetry)
            daemon.client.retry(KEY)
            assert is_right(daemon.wait_complete(KEY))
            mark = daemon.mark
            shutil.rmtree(daemon.cache / "models--org--one")
            daemon.client.retry(KEY)
            assert is_right(daemon.wait_complete(KEY, after=mark))
            assert {path.name for path in tmp_path.iterdir()} <= {
                "config.toml", "hf", "notify", "run", "state", "stderr", "stdout", "home", "config",
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
