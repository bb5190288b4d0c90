"""HF_HUB_DISABLE_SYMLINKS: the cache as huggingface_hub fills it then, with files in the place of links."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen_api import events as e
from qwen_api import places
from qwen_api.seals import take_seal
from tests import canary
from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.layouts import PLAIN_CACHE
from tests.running import Running

REPO, KEY, WEIGHTS = "org/one", "org--one", "model.safetensors"
BIG = model_folder.safetensors("w", floats=1 << 20)
FILES = {
    **model_folder.transformers_model("Qwen2ForCausalLM"),
    WEIGHTS: BIG,
    "deep/er/same.safetensors": BIG,
    "README.md": b"# one\n",
}
CONTENT_BYTES = sum(map(len, set(FILES.values())))
RUN_S = 60
SNAPSHOT = (
    "import sys; from huggingface_hub import snapshot_download as s; print(s(sys.argv[1], local_files_only=True))"
)


@pytest.fixture
def hub() -> Iterator[SimHub]:
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub:
        yield hub


def run(daemon: Running, *words: str) -> str:
    done = canary.run(words, env=daemon.env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def hf(daemon: Running, *words: str) -> str:
    return run(daemon, str(Path(sys.executable).parent / "hf"), *words)


def layout(cache: Path) -> dict[str, bytes | str]:
    """Every file below the cache and what is in it; links would be told as such."""
    assert not [path for path in cache.rglob("*") if path.is_symlink()]
    found = [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    texts = {str(path.relative_to(cache)): path.read_bytes() for path in found}
    return {name: "a listing" if name.endswith(".json") and "/trees/" in name else text for name, text in texts.items()}


def test_it_is_laid_out_as_by_huggingface_hub(hub: SimHub, tmp_path: Path) -> None:
    """The same files with the same content under the same names; snapshot_download without a Hub takes it."""
    with Running(tmp_path / "theirs", endpoint=hub.endpoint, env=PLAIN_CACHE.env) as theirs:
        hf(theirs, "download", REPO)
    hub.log.clear()
    with Running(tmp_path / "ours", endpoint=hub.endpoint, models=[REPO], env=PLAIN_CACHE.env) as ours:
        path = ours.wait_complete(KEY).path
        assert hub.log.bytes_served() == CONTENT_BYTES, "huggingface_hub fetches one content twice here"
        assert layout(ours.cache) == layout(theirs.cache)
        assert run(ours, sys.executable, "-c", SNAPSHOT, REPO) == path
        hub.log.clear()
        assert hf(ours, "download", REPO).endswith(path)
        assert hub.log.bytes_served() == 0
        assert f"Verified {len(FILES)} file(s)" in hf(ours, "cache", "verify", REPO)


def test_what_huggingface_hub_brought_is_hashed_once_and_kept(hub: SimHub, tmp_path: Path) -> None:
    """Each of the two files of one content has a seal of its own."""
    with Running(tmp_path, endpoint=hub.endpoint, env=PLAIN_CACHE.env) as daemon:
        hf(daemon, "download", REPO)
        snapshot = places.snapshot_dir(daemon.cache, REPO, SimRepo(id=REPO, files=FILES).sha)
        before = {path: take_seal(snapshot / path) for path in FILES}
        hub.log.clear()
        daemon.configure([REPO])
        daemon.wait_complete(KEY)
        assert {path: take_seal(snapshot / path) for path in FILES} == before and hub.log.bytes_served() == 0
        daemon.stop()
        daemon.start()
        daemon.wait_complete(KEY)
        assert daemon.seen(e.FileVerified) == []


def test_a_linked_cache_becomes_a_plain_one(hub: SimHub, tmp_path: Path) -> None:
    """Nothing is fetched; the blobs stay, for whoever still uses them, and are not the same files."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        snapshot = Path(daemon.wait_complete(KEY).path)
        blob = (snapshot / WEIGHTS).resolve()
        daemon.stop()
        hub.log.clear()
        daemon.env |= PLAIN_CACHE.env
        daemon.start()
        daemon.wait_complete(KEY)
        assert hub.log.bytes_served() == 0
        assert {path: (snapshot / path).read_bytes() for path in FILES} == FILES
        assert not any((snapshot / path).is_symlink() for path in FILES)
        assert blob.read_bytes() == BIG and not blob.samefile(snapshot / WEIGHTS)


def test_a_plain_cache_serves_a_daemon_that_links(hub: SimHub, tmp_path: Path) -> None:
    """Nothing is fetched; a file stays as it is, but two files of one content become the one that links want."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO], env=PLAIN_CACHE.env) as daemon:
        snapshot = Path(daemon.wait_complete(KEY).path)
        daemon.stop()
        hub.log.clear()
        del daemon.env["HF_HUB_DISABLE_SYMLINKS"]
        for _ in range(2):
            daemon.start()
            daemon.wait_complete(KEY)
            daemon.stop()
        assert daemon.seen(e.FileVerified) == [] and hub.log.bytes_served() == 0
        assert {path: (snapshot / path).read_bytes() for path in FILES} == FILES
        assert {path for path in FILES if (snapshot / path).is_symlink()} == {WEIGHTS, "deep/er/same.safetensors"}


def test_removing_frees_the_snapshot(hub: SimHub, tmp_path: Path) -> None:
    """And leaves nothing of the repository."""
    with Running(tmp_path, endpoint=hub.endpoint, env=PLAIN_CACHE.env) as daemon:
        daemon.client.add(PLAIN_CACHE.model(tmp_path, REPO))
        daemon.wait_complete(KEY)
        daemon.client.remove(KEY, delete_files=True)
        assert daemon.wait_event(e.ModelRemoved).freed_bytes == sum(map(len, FILES.values()))
        assert not places.repo_dir(daemon.cache, REPO).exists()
