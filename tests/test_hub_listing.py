"""What a repository holds, asked of mirrors that lose half of the question or of the answer.

A listing cut short must never pass for the whole: a model of three files would be called complete.
"""

from __future__ import annotations

import pytest

from qwen_daemon.core.errors import AskHuman
from qwen_daemon.shell.hub import HubApi
from tests.fakes import hub_kinds as kinds
from tests.fakes import model_folder
from tests.fakes.hub import Fault, SimHub, SimRepo

FILES = {**model_folder.qwen(shards=2), "docs/a/b/note.md": b"note"}
REPO = SimRepo(id="org/one", files=FILES)
NO_HASHES = Fault(kinds.QueryLost(), path="info/*")  # info without ?blobs=true has names only
FIRST_FILES_ONLY = Fault(kinds.listing_hides("*/*"), path="tree/*")
MIRRORS = {
    "the tree's query is dropped": [Fault(kinds.QueryLost(), path="tree/*")],
    "every query is dropped": [Fault(kinds.QueryLost())],
    "only the tree's first page comes": [FIRST_FILES_ONLY],
    "there is no tree": [Fault(kinds.Status(code=404), path="tree/*")],
    "the tree does not know hashes": [Fault(kinds.Status(code=200, body=b'[{"type":"file"}]'), path="tree/*")],
    "there is no info of a commit": [Fault(kinds.Status(code=404), path="info/*")],
}


@pytest.mark.parametrize("mirror", MIRRORS)
async def test_a_listing_is_whole_however_it_has_to_be_pieced_together(mirror: str) -> None:
    """Folders that came empty are listed one by one; what the tree lacks comes from the model's info."""
    async with SimHub(REPO) as hub:
        for fault in MIRRORS[mirror]:
            hub.faults.add(fault)
        manifest = await HubApi(hub.endpoint, lambda: None).list_files(REPO.id, REPO.sha)
        assert {f.path: f.size_bytes for f in manifest.files} == {p: len(b) for p, b in FILES.items()}
        assert all(f.etag == (REPO.entry(f.path).sha256 or REPO.entry(f.path).oid) for f in manifest.files)


async def test_a_listing_that_cannot_be_made_whole_is_refused() -> None:
    """The info names files of which neither side gives a hash: nothing of it is taken for the repository."""
    async with SimHub(REPO) as hub:
        hub.faults.add(NO_HASHES)
        hub.faults.add(FIRST_FILES_ONLY)
        with pytest.raises(AskHuman, match="E_LISTING: the server's tree is not the whole repository"):
            await HubApi(hub.endpoint, lambda: None).list_files(REPO.id, REPO.sha)
