"""From nothing to complete: the real process, a simulated Hub, and the real `hf` command as the second opinion."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen_api import events as e
from qwen_api import places
from qwen_api.client import DaemonRefused
from qwen_api.commands import AddModel, LoaderReport
from qwen_api.manifest import component_of
from qwen_api.seals import read_ready, seal_matches
from tests import canary
from tests.fakes import hub_kinds as kinds
from tests.fakes import model_folder
from tests.fakes.hub import Fault, SimHub, SimRepo, ThreadedSimHub
from tests.running import Running

REPO, KEY = "org/name", "org--name"
ONE, ONE_KEY, WEIGHTS = "org/one", "org--one", "model.safetensors"
TOKEN = "hf_simulatedsecret"
MIB = 1 << 20
PIPELINE = {**model_folder.qwen(), "empty.txt": b"", "again.txt": b"# A model\n", "assets/ünï code.txt": b"name"}
BIG = model_folder.safetensors("w", floats=10 * MIB)  # 40 MiB: three spans
HF_TIMEOUT_S = 60


@pytest.fixture
def hub() -> Iterator[SimHub]:
    """A Hub with a pipeline of many small files and a model of one large one."""
    one = {**model_folder.transformers_model("Qwen2ForCausalLM"), WEIGHTS: BIG}
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=PIPELINE), SimRepo(id=ONE, files=one))) as hub:
        yield hub


def hf(daemon: Running, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The real `hf` command on the daemon's cache."""
    command = [str(Path(sys.executable).parent / "hf"), *arguments]
    return canary.run(command, env=daemon.env | env, timeout=HF_TIMEOUT_S)


def offline_snapshot(daemon: Running, repo: str, **patterns: list[str]) -> str:
    """What huggingface_hub gives a loader of this repository without a network; its complaint if it does not."""
    code = f"import huggingface_hub as h; print(h.snapshot_download({repo!r}, local_files_only=True, **{patterns!r}))"
    asked = subprocess.run(
        [sys.executable, "-c", code],
        env=daemon.env | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=HF_TIMEOUT_S,
    )
    return asked.stdout.strip() or asked.stderr


def layout(cache: Path) -> dict[str, object]:
    """Everything in a cache but locks: folders, link texts, modes and contents."""
    found: dict[str, object] = {}
    for path in sorted(cache.rglob("*")):
        name = path.relative_to(cache).as_posix()
        if name.startswith(".locks"):
            continue
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_dir():
            found[name] = "folder"
        else:
            # huggingface_hub makes its listing 0600 by accident of mkstemp; a group that shares a cache must read it.
            mode = "" if "trees/" in name else oct(path.stat().st_mode)
            found[name] = (mode, path.read_bytes())
    return found


def parts(daemon: Running) -> list[str]:
    """Unfinished files in the cache."""
    return sorted(path.name for path in daemon.cache.glob("models--*/blobs/.qwen-*"))


def test_a_model_becomes_complete_as_huggingface_hub_itself_would_have_it(hub: SimHub, tmp_path: Path) -> None:
    """Each content is fetched once, and the cache equals what `hf download` writes, byte for byte and link for link."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        complete = daemon.wait_complete(KEY)
        assert (complete.files, complete.size_bytes) == (len(PIPELINE), sum(map(len, PIPELINE.values())))
        assert {path: (Path(complete.path) / path).read_bytes() for path in PIPELINE} == PIPELINE
        assert hub.log.bytes_twice(repo=REPO) == 0
        assert hub.log.bytes_served(repo=REPO) == sum(map(len, set(PIPELINE.values())))
        verified = daemon.seen(e.FileVerified, model=KEY)
        assert sorted(event.path for event in verified) == sorted(PIPELINE)
        assert {c.component for c in daemon.seen(e.ComponentComplete)} == {component_of(p) for p in PIPELINE}
        ready = read_ready(places.ready_file(daemon.state_dir, KEY))
        assert ready is not None and ready.path == complete.path and set(ready.seals) == set(PIPELINE)
        assert all(seal_matches(Path(ready.path) / path, seal) for path, seal in ready.seals.items())
        assert parts(daemon) == []

        assert offline_snapshot(daemon, REPO) == complete.path
        checked = hf(daemon, "cache", "verify", REPO)
        assert f"Verified {len(PIPELINE)} file(s)" in checked.stdout, checked.stderr
        listed = hf(daemon, "cache", "ls", "--show-warnings")
        assert REPO in listed.stdout and "warning" not in (listed.stdout + listed.stderr).lower()
        other = tmp_path / "other"
        assert hf(daemon, "download", REPO, HF_HUB_CACHE=str(other)).returncode == 0
        repo_dir = places.repo_dir(Path(), REPO)
        assert layout(daemon.cache / repo_dir) == layout(other / repo_dir)
        assert places.ref_file(daemon.cache, REPO, "main").read_bytes() == complete.commit.encode()
        assert (daemon.cache / "CACHEDIR.TAG").read_bytes() == (other / "CACHEDIR.TAG").read_bytes()


def test_a_restart_proves_nothing_again_but_what_was_touched(hub: SimHub, tmp_path: Path) -> None:
    """After a restart the model is complete without a request and without hashing; a touched file is hashed again."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        folder = Path(daemon.wait_complete(KEY).path)
        assert daemon.stop() == 0
        hub.log.clear()
        places.ref_file(daemon.cache, REPO, "main").unlink()  # as if killed between the last file and this
        places.ready_file(daemon.state_dir, KEY).unlink()
        daemon.start()
        commit = daemon.wait_complete(KEY).commit
        assert daemon.seen(e.FileVerified) == [] and hub.log.requests() == []
        assert places.ref_file(daemon.cache, REPO, "main").read_text() == commit
        assert read_ready(places.ready_file(daemon.state_dir, KEY)) is not None
        daemon.stop()
        os.utime(folder / "README.md")
        daemon.start()
        daemon.wait_complete(KEY)
        hashed = daemon.seen(e.FileVerified)
        # Two names, one content.
        assert {(event.path, event.received_bytes) for event in hashed} == {("README.md", 0), ("again.txt", 0)}
        assert hub.log.requests() == []
        daemon.stop()
        for path in daemon.state_dir.glob("ledger*"):
            path.unlink()
        daemon.start()
        daemon.wait_complete(KEY)
        assert len(daemon.seen(e.FileVerified)) == len(PIPELINE) and hub.log.bytes_served() == 0


def test_patterns_choose_files_as_hf_download_does(hub: SimHub, tmp_path: Path) -> None:
    """Only wanted files are fetched; huggingface_hub accepts the result offline with the same patterns."""
    wanted = AddModel(model=REPO, include=("transformer/*", "*.json"), exclude=("text_encoder/*",))
    with Running(tmp_path, endpoint=hub.endpoint, models=[wanted]) as daemon:
        complete = daemon.wait_complete(KEY)
        there = {p.relative_to(complete.path).as_posix() for p in Path(complete.path).rglob("*") if p.is_file()}
        expected = {p for p in PIPELINE if (p.startswith("transformer/") or p.endswith(".json"))}
        assert there == {p for p in expected if not p.startswith("text_encoder/")}
        found = offline_snapshot(
            daemon, REPO, allow_patterns=list(wanted.include), ignore_patterns=list(wanted.exclude)
        )
        assert found == complete.path
        mark = daemon.mark
        daemon.configure([AddModel(model=REPO)])
        assert daemon.wait_complete(KEY, after=mark).files == len(PIPELINE)
        assert hub.log.bytes_twice() == 0


@pytest.mark.fault("K1")
def test_what_was_durable_before_a_kill_is_never_fetched_again(hub: SimHub, tmp_path: Path) -> None:
    """SIGKILL in mid-file: recorded bytes are re-read, agree, and only the rest comes over the network."""
    gate = hub.gate(WEIGHTS, 20 * MIB)
    with Running(tmp_path, endpoint=hub.endpoint, models=[ONE]) as daemon:
        gate.wait_reached()
        daemon.wait_for(lambda: any(p.durable_bytes >= 20 * MIB for p in daemon.seen(e.FileProgress)), "durable")
        daemon.kill()
        hub.open_gates()
        daemon.start()
        daemon.wait_complete(ONE_KEY)
        assert daemon.seen(e.FileResumed)[0].kept_bytes == 20 * MIB
        assert hub.log.bytes_twice() == 0 and hub.log.bytes_served(WEIGHTS) == len(BIG)
        assert parts(daemon) == []


@pytest.mark.fault("C8")
def test_pruning_the_cache_in_mid_download_removes_nothing_of_it(hub: SimHub, tmp_path: Path) -> None:
    """The first download of a model: a ref names its commit from the start, and our parts are none of `hf`'s."""
    gate = hub.gate(WEIGHTS, 20 * MIB)
    with Running(tmp_path, endpoint=hub.endpoint, models=[ONE]) as daemon:
        gate.wait_reached()
        pruned = hf(daemon, "cache", "prune", "--yes")
        assert pruned.returncode == 0, pruned.stderr
        assert len(parts(daemon)) == 1
        assert "IncompleteSnapshotError" in offline_snapshot(daemon, ONE)
        hub.open_gates()
        daemon.wait_complete(ONE_KEY)
        assert hub.log.bytes_twice() == 0


@pytest.mark.fault("C12")
def test_hf_cache_rm_of_a_model_that_is_wanted_brings_it_back(hub: SimHub, tmp_path: Path) -> None:
    """In mid-file and when it is complete: told, and fetched again into a whole cache, because it is still wanted."""
    gate = hub.gate(WEIGHTS, 20 * MIB)
    with Running(tmp_path, endpoint=hub.endpoint, models=[ONE]) as daemon:
        gate.wait_reached()
        remove_with_hf(daemon)
        hub.open_gates()
        assert daemon.wait_event(e.FileRetry, path=WEIGHTS).code == "E_PART_GONE"
        daemon.wait_state(ONE_KEY, "waiting")  # every file is there again, the commit's listing is not
        daemon.client.retry(ONE_KEY)
        daemon.wait_complete(ONE_KEY)
        assert_whole(daemon)
        mark = daemon.mark
        remove_with_hf(daemon)
        assert WEIGHTS in daemon.wait_event(e.ModelChanged, after=mark, model=ONE_KEY).paths
        daemon.wait_complete(ONE_KEY, after=mark)
        assert_whole(daemon)


def remove_with_hf(daemon: Running) -> None:
    removed = hf(daemon, "cache", "rm", f"model/{ONE}", "--yes")
    assert removed.returncode == 0, removed.stderr
    assert not (daemon.cache / "models--org--one" / "blobs").exists()


def assert_whole(daemon: Running) -> None:
    """huggingface_hub finds every file, without a network and by the Hub's listing; nothing unfinished is left."""
    assert (Path(offline_snapshot(daemon, ONE)) / WEIGHTS).read_bytes() == BIG
    folders = {path.name for path in (daemon.cache / "models--org--one").iterdir()}
    assert folders == {"blobs", "refs", "snapshots", "trees"}
    assert hf(daemon, "cache", "verify", ONE).returncode == 0 and parts(daemon) == []


@pytest.mark.fault("K4")
def test_a_graceful_stop_loses_no_byte(hub: SimHub, tmp_path: Path) -> None:
    """SIGTERM in mid-file: whatever was received is recorded before the process ends with 0; so with pause."""
    gate = hub.gate(WEIGHTS, 9 * MIB + 12345)
    with Running(tmp_path, endpoint=hub.endpoint, models=[ONE]) as daemon:
        gate.wait_reached()
        daemon.wait_for(lambda: any(p.received_bytes == gate.at_byte for p in daemon.seen(e.FileProgress)), "received")
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.stderr
        further = hub.gate(WEIGHTS, 30 * MIB + 1)
        gate.open()
        daemon.start()
        further.wait_reached()
        received = further.at_byte - gate.at_byte
        daemon.wait_for(lambda: any(p.received_bytes == received for p in daemon.seen(e.FileProgress)), "received")
        daemon.client.pause(ONE_KEY)
        daemon.wait_state(ONE_KEY, "paused")
        hub.open_gates()
        mark = daemon.mark
        daemon.client.resume(ONE_KEY)
        daemon.wait_complete(ONE_KEY, after=mark)
        assert hub.log.bytes_twice() == 0 and hub.log.bytes_served(WEIGHTS) == len(BIG)


@pytest.mark.fault("K5")
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_who_is_told_to_stop_twice_stops_once(hub: SimHub, tmp_path: Path, second: signal.Signals) -> None:
    """By a person who is impatient: 0, no traceback, and no byte comes twice afterwards."""
    gate = hub.gate(WEIGHTS, 9 * MIB)
    with Running(tmp_path, endpoint=hub.endpoint, models=[ONE]) as daemon:
        gate.wait_reached()
        daemon.wait_for(lambda: any(p.received_bytes == gate.at_byte for p in daemon.seen(e.FileProgress)), "received")
        daemon.signal(second)
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.stderr
        gate.open()
        daemon.start()
        daemon.wait_complete(ONE_KEY)
        assert hub.log.bytes_twice() == 0 and hub.log.bytes_served(WEIGHTS) == len(BIG)


def test_two_revisions_of_one_repository_share_what_they_have_in_common(hub: SimHub, tmp_path: Path) -> None:
    """Wanted at once, a content of both is fetched once: the second waits for the first, then links it."""
    tagged = SimRepo(id="org/two", files={**model_folder.transformers_model("Qwen2ForCausalLM"), WEIGHTS: BIG})
    tagged.point("v1", tagged.sha)
    tagged.commit_files({"README.md": b"newer"})
    hub.add(tagged)
    gate = hub.gate(WEIGHTS, 5 * MIB)
    with Running(tmp_path, endpoint=hub.endpoint, models=["org/two", "org/two@v1"]) as daemon:
        gate.wait_reached()
        for key in ("org--two", "org--two@v1"):
            daemon.wait_event(e.ModelPlanned, model=key)
        hub.open_gates()
        daemon.wait_complete("org--two")
        daemon.wait_complete("org--two@v1")
        assert hub.log.bytes_twice() == 0 and parts(daemon) == []
        assert len(daemon.seen(e.FileStarted, path=WEIGHTS)) == 1 and daemon.seen(e.FileRetry) == []
        refs = {path.name: path.read_text() for path in (daemon.cache / "models--org--two" / "refs").iterdir()}
        assert refs == {"main": tagged.sha, "v1": tagged.find("v1").sha}  # type: ignore[union-attr]


@pytest.mark.fault("C7")
def test_a_file_that_hf_download_is_fetching_is_waited_for(hub: SimHub, tmp_path: Path) -> None:
    """The daemon does not fetch what another program is fetching: it waits, hashes what came, and keeps it."""
    gate = hub.gate(WEIGHTS, 5 * MIB)
    daemon = Running(tmp_path, endpoint=hub.endpoint, models=[ONE])
    other = subprocess.Popen(
        [str(Path(sys.executable).parent / "hf"), "download", ONE, "-q"], env=daemon.env, stdout=subprocess.DEVNULL
    )
    try:
        gate.wait_reached()
        with daemon:
            assert daemon.wait_event(e.FileRetry).code == "E_LOCKED"
            gate.open()
            assert other.wait(HF_TIMEOUT_S) == 0
            daemon.client.retry(ONE_KEY)
            daemon.wait_complete(ONE_KEY)
            assert hub.log.bytes_twice(WEIGHTS) == 0 and parts(daemon) == []
            assert daemon.seen(e.FileVerified, path=WEIGHTS)[0].received_bytes == 0
    finally:
        other.kill()
        other.wait()


def test_removing_a_model_frees_what_only_it_used(hub: SimHub, tmp_path: Path) -> None:
    """DELETE with delete_files takes snapshot, blobs and parts, also in mid-download; others' files stay.

    What a loader holds stays, however it names the model and at whatever revision.
    """
    gate = hub.gate(WEIGHTS, 3 * MIB)
    with Running(tmp_path, endpoint=hub.endpoint) as daemon:
        daemon.client.add(AddModel(model=REPO))
        daemon.client.add(AddModel(model=ONE))
        daemon.wait_complete(KEY)
        gate.wait_reached()
        daemon.client.remove(ONE_KEY, delete_files=True)
        assert daemon.wait_event(e.ModelRemoved, model=ONE_KEY).freed_bytes > 0
        assert parts(daemon) == []
        for named in (KEY, REPO, f"{REPO}@main", f"{REPO}@{'c' * 40}", f"{KEY}@v1"):
            daemon.client.report_loader("gpu0", LoaderReport(state="ready", model=named))
            with pytest.raises(DaemonRefused) as refused:
                daemon.client.remove(KEY, delete_files=True)
            assert (refused.value.problem.code, refused.value.problem.detail) == ("E_HELD", "gpu0")
        daemon.client.report_loader("gpu0", LoaderReport(state="gone", model=KEY))
        daemon.client.remove(KEY, delete_files=True)
        freed = daemon.wait_event(e.ModelRemoved, model=KEY).freed_bytes
        assert freed == sum(map(len, set(PIPELINE.values())))
        left = [path for path in daemon.cache.glob("models--*/*/*") if path.parent.name != "trees"]
        assert left == [] and daemon.status.models == {}
        assert not places.ready_file(daemon.state_dir, KEY).exists()
        daemon.stop()
        daemon.start()
        assert daemon.client.state().models == {}


def test_models_wanted_by_command_outlive_the_process(hub: SimHub, tmp_path: Path) -> None:
    """Added by command and killed, the daemon still wants the model, and goes on by itself."""
    gate = hub.gate("*", 0, repo=REPO)
    with Running(tmp_path, endpoint=hub.endpoint) as daemon:
        assert daemon.client.add(AddModel(model=REPO, exclude=("README.md",))).model == KEY
        daemon.wait_event(e.FileStarted)
        daemon.kill()
        gate.open()
        daemon.start()
        assert daemon.wait_complete(KEY).files == len(PIPELINE) - 1


@pytest.mark.fault("T1", "T2", "T3")
def test_the_token_goes_to_the_hub_and_nowhere_else(tmp_path: Path) -> None:
    """A gated repository is fetched with the token, which never reaches the CDN, a log, the state or the cache."""
    gated = SimRepo(id=REPO, files=PIPELINE, gated="manual")
    with (
        ThreadedSimHub(SimHub(gated, tokens=[TOKEN])) as hub,
        Running(tmp_path, endpoint=hub.endpoint, models=[REPO], env={"HF_TOKEN": TOKEN}) as daemon,
    ):
        hub.faults.add(Fault(kinds.Status(code=500), on="cdn", times=1))
        retried = daemon.wait_event(e.FileRetry)
        daemon.client.retry(KEY)
        daemon.wait_complete(KEY)
        assert retried.code == "E_HTTP" and all(r.had_authorization for r in hub.log.requests(server="hub"))
        assert hub.log.leaks(TOKEN) == []
        assert daemon.stop() == 0
        written = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
        assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []
        assert "Signature=" not in daemon.stderr


def test_once_ends_with_a_code_that_says_how(hub: SimHub, tmp_path: Path) -> None:
    """`--once` ends 0 with the model complete, 3 for a model that is not there, 78 for a bad configuration."""
    daemon = Running(tmp_path, endpoint=hub.endpoint)
    assert daemon.run("--once", REPO, "--include", "vae/*") == 0
    assert daemon.run("--once", "org/absent") == 3
    daemon.configure([], "[network]\nmax_file = 3\n")
    assert daemon.run("--config", str(daemon.config_file)) == 78
    assert "max_files" in daemon.stderr and "error[E_CONFIG]" in daemon.stderr
    listing = json.loads(
        subprocess.check_output([sys.executable, "-m", "qwen_daemon", "listing", REPO], env=daemon.env)
    )
    assert set(listing["files"]) == set(PIPELINE)


def test_once_shows_the_check_of_what_the_daemon_has(hub: SimHub, tmp_path: Path) -> None:
    """The whole report: what is missing and what to do about it, then that nothing is; as JSON it is check's own."""

    def run(module: str, *words: str) -> subprocess.CompletedProcess[str]:
        return canary.run([sys.executable, "-m", module, *words, "--socket", str(daemon.control)], env=daemon.env)

    def once(*more: str) -> subprocess.CompletedProcess[str]:
        return run("qwen_monitor", "--once", *more)

    def as_json(told: subprocess.CompletedProcess[str]) -> tuple[int, dict[str, Any]]:
        report = json.loads(told.stdout)
        report["advice"]["free_bytes"] = 0  # somebody else's files come and go
        return told.returncode, report

    lost = Fault(kinds.Status(code=404), on="resolve", path=WEIGHTS)
    hub.faults.add(lost)
    with Running(tmp_path, endpoint=hub.endpoint, models=[ONE]) as daemon:
        daemon.wait_event(e.FileFailed, path=WEIGHTS)
        told = once()
        assert told.returncode == 4, told.stderr
        assert "Missing" in told.stdout and WEIGHTS in told.stdout and "To do: qwenctl " in told.stdout
        assert "Model complete: no" in told.stdout and "Files: " in told.stdout
        code, report = as_json(once("--json", ONE))
        assert (code, report) == as_json(run("qwen_monitor.control", "check", ONE, "--json"))
        assert (code, report["findings"][0]["path"]) == (4, WEIGHTS)
        hub.faults.clear()
        daemon.client.retry(ONE_KEY)
        daemon.wait_complete(ONE_KEY)
        done = once()
        assert (done.returncode, "Model complete: yes" in done.stdout) == (0, True), done
        code, report = as_json(once("--json"))
        assert (code, report["complete"], report["model"]) == (0, True, ONE)
