"""What a repository holds, asked of mirrors that lose half of the question or of the answer.

A listing cut short must never pass for the whole: a model of three files would be called complete.
"""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from qwen_api.models import ModelRef
from qwen_daemon.core.errors import AskHuman, TryAgain
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


@pytest.mark.fault("H51")
@pytest.mark.parametrize("mirror", MIRRORS)
async def test_a_listing_is_whole_however_it_has_to_be_pieced_together(mirror: str) -> None:
    """Folders that came empty are listed one by one; what the tree lacks comes from the model's info."""
    async with SimHub(REPO) as hub:
        for fault in MIRRORS[mirror]:
            hub.faults.add(fault)
        manifest = await HubApi(hub.endpoint, lambda: None).list_files(REPO.id, REPO.sha)
        assert {f.path: f.size_bytes for f in manifest.files} == {p: len(b) for p, b in FILES.items()}
        assert all(f.etag == (REPO.entry(f.path).sha256 or REPO.entry(f.path).oid) for f in manifest.files)


def small_mirror(*, tree: bool, speaks: bool) -> web.Application:
    """A mirror that knows one revision: info has an address without revisions only, the tree one of the commit."""
    entry = REPO.entry("model_index.json")

    async def answer(request: web.Request) -> web.Response:
        if request.path == f"/api/models/{REPO.id}":
            blobs = {"size": entry.size, "blobId": entry.oid} if "blobs" in request.query else {}
            siblings = [{"rfilename": "model_index.json", **blobs}]
            return web.json_response({"id": REPO.id, "sha": REPO.sha, "siblings": siblings})
        if tree and request.path == f"/api/models/{REPO.id}/tree/{REPO.sha}":
            lfs = {"oid": f"sha256:{'ab' * 32}", "size": entry.size, "pointerSize": 130}
            row = {"type": "file", "path": "model_index.json", "oid": entry.oid, "size": entry.size, "lfs": lfs}
            return web.json_response([row])
        return web.Response(status=404, headers={"X-Error-Code": "RevisionNotFound"} if speaks else {})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    return app


@pytest.mark.parametrize("speaks", [True, False])
@pytest.mark.parametrize("tree", [True, False])
async def test_a_mirror_without_revisions_is_asked_for_its_default_branch(tree: bool, speaks: bool) -> None:
    """Its info's sha says whether that is the commit that was meant; a hash in LFS's own form is understood."""
    async with TestServer(small_mirror(tree=tree, speaks=speaks)) as server:
        hub = HubApi(str(server.make_url("")).rstrip("/"), lambda: None)
        if speaks:  # it has said that it knows no such branch, and is believed
            with pytest.raises(AskHuman, match="E_REVISION_NOT_FOUND"):
                await hub.resolve(ModelRef(repo=REPO.id))
        else:
            assert await hub.resolve(ModelRef(repo=REPO.id)) == REPO.sha
        manifest = await hub.list_files(REPO.id, REPO.sha)
        assert [(f.path, f.sha256) for f in manifest.files] == [("model_index.json", "ab" * 32 if tree else None)]
        with pytest.raises(AskHuman, match=r"E_NOT_FOUND|E_REVISION_NOT_FOUND"):
            await hub.list_files(REPO.id, "0" * 40)


@pytest.mark.fault("H24", "H29")
@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("http://127.0.0.1:1", "cannot connect to 127.0.0.1:1: connection refused"),
        ("http://[::1]:1", r"cannot connect to \[::1\]:1: "),
        ("http://no-such-host.invalid", "cannot connect to no-such-host.invalid:80: its name could not be looked up"),
    ],
)
async def test_a_hub_that_cannot_be_reached_is_named_with_the_reason(endpoint: str, said: str) -> None:
    """The host, the port and the system's own words; nothing else of the address."""
    with pytest.raises(TryAgain, match=f"E_NETWORK: {said}"):
        await HubApi(endpoint, lambda: None).resolve(ModelRef(repo="org/one"))


@pytest.mark.fault("H51")
async def test_a_listing_that_cannot_be_made_whole_is_refused() -> None:
    """The info names files of which neither side gives a hash: nothing of it is taken for the repository."""
    async with SimHub(REPO) as hub:
        hub.faults.add(NO_HASHES)
        hub.faults.add(FIRST_FILES_ONLY)
        with pytest.raises(AskHuman, match="E_LISTING: the server's tree is not the whole repository"):
            await HubApi(hub.endpoint, lambda: None).list_files(REPO.id, REPO.sha)
