"""An older huggingface_hub beside us on one cache and one local_dir: each reads what the other wrote."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen_api import events as e
from qwen_daemon.config import ConfiguredModel
from tests import test_sharing as sharing
from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.running import Running

pytestmark = pytest.mark.system
REPO, KEY, WEIGHTS = "org/one", "org--one", "model.safetensors"
OLD = Path(__file__).parents[2] / "var" / "old-hub"  # made by `make test-system`
VERSION = "0.36.0"
MIB = 1 << 20
FILES = {**model_folder.transformers_model("Qwen2ForCausalLM"), WEIGHTS: model_folder.safetensors("w", floats=5 * MIB)}
TIMEOUT_S = 60


@pytest.fixture
def hub() -> Iterator[SimHub]:
    """A Hub with a model of one large file and a small one."""
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub:
        yield hub


def old(daemon: Running, *arguments: str, command: str = "hf") -> list[str]:
    """The lines that the old command printed."""
    run = [str(OLD / "bin" / command), *arguments]
    done = subprocess.run(run, env=daemon.env, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def is_right(folder: Path) -> bool:
    return all((folder / path).read_bytes() == content for path, content in FILES.items())


@pytest.mark.fault("C13")
def test_it_is_the_old_one(hub: SimHub, tmp_path: Path) -> None:
    """The tests below would show nothing with the release that the daemon itself uses."""
    assert VERSION in " ".join(old(Running(tmp_path, endpoint=hub.endpoint), "version"))


@pytest.mark.fault("C13")
@pytest.mark.parametrize("command", ["hf", "huggingface-cli"])
def test_the_old_one_fetches_nothing_after_us(hub: SimHub, tmp_path: Path, command: str) -> None:
    """It gives the folder that we filled; without a network as well; and lists and verifies the cache."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        complete = daemon.wait_complete(KEY)
        served = hub.log.bytes_served()
        assert old(daemon, "download", REPO, command=command)[-1] == complete.path
        daemon.env["HF_HUB_OFFLINE"] = "1"
        assert old(daemon, "download", REPO, command=command)[-1] == complete.path
        assert hub.log.bytes_served() == served and is_right(Path(complete.path))
        assert any(REPO in line for line in old(daemon, "cache", "scan"))


@pytest.mark.fault("C13")
def test_we_fetch_nothing_after_the_old_one(hub: SimHub, tmp_path: Path) -> None:
    """What it brought is hashed, and kept."""
    daemon = Running(tmp_path, endpoint=hub.endpoint, models=[REPO])
    folder = Path(old(daemon, "download", REPO)[-1])
    with daemon:
        assert daemon.wait_complete(KEY).path == str(folder) and is_right(folder)
        assert {event.received_bytes for event in daemon.seen(e.FileVerified)} == {0}
        assert hub.log.bytes_twice() == 0


@pytest.mark.fault("C13")
def test_a_local_dir_goes_both_ways(hub: SimHub, tmp_path: Path) -> None:
    """`--local-dir` after us, and before us, fetches nothing."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    models = [ConfiguredModel(model=REPO, local_dir=str(ours))]
    with Running(tmp_path, endpoint=hub.endpoint, models=models) as daemon:
        daemon.wait_complete(KEY)
        served = hub.log.bytes_served()
        old(daemon, "download", REPO, "--local-dir", str(ours))
        assert hub.log.bytes_served() == served and is_right(ours)
        old(daemon, "download", REPO, "--local-dir", str(theirs))
        served, mark = hub.log.bytes_served(), daemon.mark
        daemon.configure([ConfiguredModel(model=REPO, local_dir=str(theirs))])
        daemon.wait_complete(KEY, after=mark)
        assert hub.log.bytes_served() == served and is_right(theirs)


@pytest.mark.fault("C13")
def test_while_the_old_one_downloads_we_wait(hub: SimHub, tmp_path: Path) -> None:
    """The lock is the same file: no byte comes twice."""
    gate = hub.gate(WEIGHTS, 5 * MIB)
    daemon = Running(tmp_path, endpoint=hub.endpoint, models=[REPO])
    other = subprocess.Popen([OLD / "bin" / "hf", "download", REPO], env=daemon.env, stdout=subprocess.DEVNULL)
    try:
        gate.wait_reached()
        with daemon:
            assert daemon.wait_event(e.FileRetry).code == "E_LOCKED"
            gate.open()
            assert other.wait(TIMEOUT_S) == 0
            daemon.client.retry(KEY)
            daemon.wait_complete(KEY)
            assert hub.log.bytes_twice(WEIGHTS) == 0
    finally:
        other.kill()
        other.wait()


@pytest.mark.fault("C13")
def test_while_we_download_the_old_one_waits(hub: SimHub, tmp_path: Path) -> None:
    """And finds the file: our unfinished part is none that it would rename or go on with."""
    gate = hub.gate(WEIGHTS, 5 * MIB)
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        gate.wait_reached()
        with subprocess.Popen([OLD / "bin" / "hf", "download", REPO], env=daemon.env, stdout=subprocess.PIPE) as other:
            gate.open()
            complete = daemon.wait_complete(KEY)
            told, _ = other.communicate(timeout=TIMEOUT_S)
        assert told.decode().splitlines()[-1] == complete.path and is_right(Path(complete.path))
        assert hub.log.bytes_twice(WEIGHTS) == 0


def old_download(scene: sharing.Scene) -> None:
    done = scene.run(OLD / "bin" / "hf", "download", sharing.REPO)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.fault("C13", "C14")
@pytest.mark.parametrize(("moment", "lockless"), [(2, False), (9, True), (16, False), (16, True)])
def test_the_old_one_may_come_whenever(tmp_path: Path, moment: int, lockless: bool) -> None:
    """At the beginning, in the middle and at the end of our download; with locks and with locks that do nothing."""
    sharing.interleave(tmp_path, old_download, moment, lockless=lockless)
