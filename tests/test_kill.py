"""SIGKILL at many moments: what has a name is right at each of them, and the work is taken up where it was."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from qwen_api import events as e
from qwen_api import places
from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.layouts import LOCAL_DIR, Layout, every_layout
from tests.oracle import check_running
from tests.running import Running

REPO, KEY = "org/name", "org--name"
FILES = {**model_folder.qwen(shards=8), "vae/large.safetensors": model_folder.safetensors("w", floats=1 << 20)}
MOMENTS = (3, 9, 14, 22, 31, 47, 66)  # events seen before the kill


def has_seen(daemon: Running, count: int) -> bool:
    return daemon.mark >= count or bool(daemon.seen(e.ModelComplete))


def check_what_is_named(daemon: Running, layout: Layout, complete: bool) -> None:
    """Every path gives the right bytes; no branch without the listing; ready only when all is there."""
    commit = SimRepo(id=REPO, files=FILES).sha
    folder = layout.folder(daemon.root, REPO, commit)
    named = {path: (folder / path).read_bytes() for path in FILES if (folder / path).exists()}
    assert named == {path: FILES[path] for path in named}
    for path in named if layout is LOCAL_DIR else ():
        said = folder / f".cache/huggingface/download/{path}.metadata"
        etag = model_folder.wanted(path, FILES[path]).etag
        assert not said.exists() or said.read_text().split("\n")[:2] == [commit, etag]
    # It tells huggingface_hub what is not there yet.
    in_folder = folder / f".cache/huggingface/trees/{commit}.json"
    listing = in_folder if layout is LOCAL_DIR else places.tree_file(daemon.cache, REPO, commit)
    assert (places.ref_file(daemon.cache, REPO, "main").exists() or bool(named)) <= listing.exists()
    assert places.ready_file(daemon.state_dir, KEY).exists() <= (len(named) == len(FILES))
    assert not complete or len(named) == len(FILES)


@pytest.mark.fault("K1")
@every_layout
def test_killed_again_and_again_it_still_arrives(tmp_path: Path, layout: Layout) -> None:
    """Seven kills, each at another point; nothing wrong is ever named, and no verified file is fetched again."""
    with (
        ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub,
        Running(tmp_path, endpoint=hub.endpoint, models=[layout.model(tmp_path, REPO)], env=layout.env) as daemon,
    ):
        verified: set[str] = set()
        for moment in MOMENTS:
            daemon.wait_for(partial(has_seen, daemon, moment), f"{moment} events")
            daemon.kill()
            check_what_is_named(daemon, layout, bool(daemon.seen(e.ModelComplete)))
            assert not verified & {v.path for v in daemon.seen(e.FileVerified) if v.received_bytes}
            verified |= {v.path for v in daemon.seen(e.FileVerified)}
            daemon.start()
        daemon.wait_complete(KEY)
        check_running(daemon, KEY)
        check_what_is_named(daemon, layout, True)
        assert not verified & {v.path for v in daemon.seen(e.FileVerified) if v.received_bytes}
