"""The repository changes, shrinks or goes away while the daemon works at it; and files of odd sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen_api import events as e
from qwen_api import places
from qwen_api.commands import AddModel
from qwen_api.events import FollowPolicy
from tests.fakes import hub_kinds as kinds
from tests.fakes import model_folder
from tests.fakes.hub import BytesContent, Fault, SimHub, SimRepo, SparseContent, ThreadedSimHub
from tests.running import Running

REPO, KEY, WEIGHTS = "org/one", "org--one", "model.safetensors"
MIB = 1 << 20
CONFIG = model_folder.transformers_model("Qwen2ForCausalLM")
BIG = model_folder.safetensors("w", floats=2 * MIB)
FILES = {**CONFIG, WEIGHTS: BIG}


@pytest.mark.fault("H44", "H22")
def test_a_file_that_vanishes_fails_and_the_others_stay(tmp_path: Path) -> None:
    """The listing names it, the Hub has it no more: failed, not complete, what is finished stays, no storm."""
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub:
        hub.faults.add(Fault(kinds.EntryVanished(), path=WEIGHTS))
        with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
            failed = daemon.wait_event(e.FileFailed, path=WEIGHTS)
            daemon.wait_state(KEY, "failed")
            assert failed.code == "E_FILE_NOT_FOUND" and daemon.seen(e.FileRetry) == []
            assert {event.path for event in daemon.seen(e.FileVerified)} == set(CONFIG)
            assert len(hub.log.requests(path=WEIGHTS)) == 1 and not daemon.seen(e.ModelComplete)
            assert not places.ready_file(daemon.state_dir, KEY).exists()


@pytest.mark.fault("H44", "H23", "H20")
@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"code": 403, "headers": {"x-error-message": "Access to this resource is disabled."}}, "E_DISABLED"),
        ({"code": 404, "headers": {"x-error-code": "RepoNotFound"}}, "E_NOT_FOUND"),
        ({"code": 401, "headers": {"x-error-message": "Invalid credentials in Authorization header"}}, "E_AUTH"),
        ({"code": 451}, "E_NOT_FOUND"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_repository_that_is_shut_in_mid_job(tmp_path: Path, said: dict[str, object], code: str) -> None:
    """Disabled, deleted, token revoked, taken down: one question, then it waits for a person; nothing is removed."""
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub:
        gate = hub.gate(WEIGHTS, 5 * MIB)
        with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
            gate.wait_reached()
            for path in CONFIG:
                daemon.wait_event(e.FileVerified, path=path)
            hub.faults.add(Fault(kinds.Status(**said), on="hub"))  # type: ignore[arg-type]
            hub.expire_urls()
            daemon.kill()
            gate.open()
            hub.log.clear()
            daemon.start()
            assert daemon.wait_event(e.FileFailed, path=WEIGHTS).code == code
            daemon.wait_state(KEY, "failed")
            assert len(hub.log.requests(path=WEIGHTS)) <= 2
            assert all((daemon.cache / "models--org--one" / "snapshots" / hub_sha() / path).exists() for path in CONFIG)


def hub_sha() -> str:
    return SimRepo(id=REPO, files=FILES).sha


@pytest.mark.fault("H43")
@pytest.mark.parametrize("at_byte", [0, 5 * MIB, len(BIG) - 1])
def test_a_branch_that_moves_in_mid_file_does_not_mix_commits(tmp_path: Path, at_byte: int) -> None:
    """Before the first byte, in the middle, before the last: what was begun is finished, and the branch stays with it.

    Then the new commit is told, or followed: of the large file not a byte comes twice.
    """
    policies: tuple[FollowPolicy, ...] = ("notify", "auto", "pin")
    repos = {f"org--{policy}": SimRepo(id=f"org/{policy}", files=FILES) for policy in policies}
    old = {key: repo.sha for key, repo in repos.items()}
    with ThreadedSimHub(SimHub(*repos.values())) as hub:
        gate = hub.gate(WEIGHTS, at_byte)
        models = [AddModel(model=f"org/{policy}", follow=policy) for policy in policies]
        config = "[disk]\nreserve_bytes = 0\n[check]\nhub_interval_s = 0.3\n"
        with Running(tmp_path, endpoint=hub.endpoint, models=models, config=config) as daemon:
            gate.wait_reached()
            for key in repos:
                daemon.wait_event(e.ModelResolved, model=key)
            for repo in repos.values():
                repo.commit_files({"config.json": CONFIG["config.json"] + b" "})
            gate.open()
            for key, commit in old.items():
                daemon.wait_complete(key)
                complete = daemon.seen(e.ModelComplete, model=key)[0]
                assert complete.commit == commit
                assert all((Path(complete.path) / path).read_bytes() == FILES[path] for path in FILES)
            assert daemon.wait_event(e.ModelMoved, model="org--notify").new_commit == repos["org--notify"].sha
            daemon.wait_event(e.ModelComplete, model="org--auto", commit=repos["org--auto"].sha)
            refs = {key: places.ref_file(daemon.cache, repo.id, "main").read_text() for key, repo in repos.items()}
            assert refs == old | {"org--auto": repos["org--auto"].sha}
        hub.log.settle()
        assert hub.log.bytes_served(WEIGHTS) == len(BIG)


@pytest.mark.fault("H10", "H36", "D10")
def test_two_versions_are_never_mixed(tmp_path: Path) -> None:
    """From some byte on the CDN serves other content of the same size: found, thrown away, fetched whole."""
    other = bytes(reversed(BIG))
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub:
        hub.faults.add(Fault(kinds.Reset(), path=WEIGHTS, at_byte=3 * MIB, times=1))
        hub.faults.add(
            Fault(kinds.ChangedETag(content=BytesContent(other)), path=WEIGHTS, on="cdn", min_offset=MIB, times=1)
        )
        with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
            daemon.wait_event(e.FileRetry)
            daemon.client.retry(KEY)
            assert daemon.wait_event(e.FileCorrupt).where == "network"
            daemon.client.retry(KEY)
            path = Path(daemon.wait_complete(KEY).path)
            assert (path / WEIGHTS).read_bytes() == BIG


@pytest.mark.fault("H47")
def test_files_of_every_size(tmp_path: Path) -> None:
    """None, one byte, around the sizes at which another way is taken; the empty one costs no request."""
    sizes = [0, 1, MIB - 1, MIB, MIB + 1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 16 * MIB - 1, 16 * MIB, 16 * MIB + 1]
    files: dict[str, bytes | SparseContent] = {
        f"data/{size}.bin": SparseContent(size=size, seed=size) for size in sizes
    }
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files={**FILES, **files}))) as hub:
        models = [AddModel(model=REPO)]
        with Running(tmp_path, endpoint=hub.endpoint, models=models) as daemon:
            path = Path(daemon.wait_complete(KEY).path)
            assert [(path / f"data/{size}.bin").stat().st_size for size in sizes] == sizes
            assert hub.log.bytes_twice() == 0 and hub.log.requests(server="cdn", path="data/0.bin") == []
