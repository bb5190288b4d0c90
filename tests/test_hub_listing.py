"""What a repository holds, asked of mirrors that lose half of the question or of the answer.

A listing cut short must never pass for the whole: a model of three files would be called complete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from qwen_api.models import ModelRef
from qwen_daemon.core.errors import AskHuman, Trouble, TryAgain
from qwen_daemon.shell.hub import HubApi
from tests.fakes import hub_kinds as kinds
from tests.fakes import model_folder
from tests.fakes.hub import BytesContent, Entry, Fault, SimHub, SimRepo

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


# One page of three that lies, breaks or has no end.
PAGED = SimRepo(id="org/paged", files={f"{letter}.txt": letter.encode() for letter in "abcdefghi"})
PAGE, PAGES = 3, (0, 1, 2)


def lie(**facts: object) -> Callable[[int], kinds.ForgeListing]:
    """The second file of a page is another one than it is."""

    def of(page: int) -> kinds.ForgeListing:
        def edit(entries: Sequence[Entry]) -> list[Entry]:
            at = page * PAGE + 1
            content = BytesContent(b"")
            known = {"path": entries[at].path, "size": entries[at].size, "oid": entries[at].oid, "content": content}
            return [*entries[:at], Entry(**{**known, **facts}), *entries[at + 1 :]]  # type: ignore[arg-type]

        return kinds.ForgeListing(edit=edit)

    return of


LIES: dict[str, Callable[[int], kinds.Kind]] = {
    "the same page again": lambda _page: kinds.CursorLoop(),
    "a cursor never seen before": lambda _page: kinds.CursorLoop(fresh=True),
    "less than nothing": lie(size=-1),
    "more than there can be": lie(size=1 << 63),
    "a path of another page": lambda page: lie(path="cfi"[(page + 1) % 3] + ".txt")(page),
    "a path out of the folder": lie(path="../up"),
    "a hash that is none": lie(oid="../../up"),
}
ENDS: dict[str, tuple[kinds.Kind, str]] = {
    "a login page": (kinds.CaptivePortal(), "E_LISTING"),
    "half an answer": (kinds.Status(code=200, body=b'[{"type":"file","path":'), "E_LISTING"),
    "500": (kinds.Status(code=500), "E_HTTP"),
    "429": (kinds.RateLimited(reset_s=9), "E_RATE_LIMITED"),
}


def after_pages(hub: SimHub, page: int, fault: Fault) -> None:
    """The pages before this one come as they are."""
    if page:
        hub.faults.add(Fault(kinds.SlowFirstByte(delay_s=0.001), on="api", path="tree/*", times=page))
    hub.faults.add(fault)


@pytest.mark.fault("H45", "H46", "H49", "H50")
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("lied", LIES)
async def test_a_listing_that_lies_or_goes_in_circles_on_any_page_is_refused(lied: str, page: int) -> None:
    """The first, a middle or the last page: a person is told, after a handful of questions."""
    async with SimHub(PAGED, page_entries=PAGE) as hub:
        kind = LIES[lied](page)
        if isinstance(kind, kinds.ForgeListing):
            hub.faults.add(Fault(kind))
        else:
            after_pages(hub, page, Fault(kind, path="tree/*"))
        with pytest.raises(AskHuman, match="E_LISTING"):
            await HubApi(hub.endpoint, lambda: None).list_files(PAGED.id, PAGED.sha)
        assert len(hub.log.requests(path="tree/*")) <= len(PAGES) + 1


@pytest.mark.fault("H5")
async def test_a_page_that_breaks_off_is_asked_for_again() -> None:
    """huggingface_hub does so by itself, page by page: each breaks off once, and the listing is whole."""
    async with SimHub(PAGED, page_entries=PAGE) as hub:
        for page in PAGES:
            fault = Fault(kinds.CloseEarly(), on="api", path="tree/*", times=1, after_bytes=40)
            after_pages(hub, int(page > 0), fault)
        files = (await HubApi(hub.endpoint, lambda: None).list_files(PAGED.id, PAGED.sha)).files
        assert len(files) == 9 and len(hub.log.requests(path="tree/*")) == 2 * len(PAGES)


@pytest.mark.fault("H16", "H18", "H34", "H51")
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("end", ENDS)
async def test_a_page_that_cannot_be_read_is_no_end_of_the_listing(end: str, page: int) -> None:
    """What came of the pages before is not taken for the whole; asked again, all of it is there."""
    kind, code = ENDS[end]
    async with SimHub(PAGED, page_entries=PAGE) as hub:
        after_pages(hub, page, Fault(kind, on="api", path="tree/*", times=1))
        api = HubApi(hub.endpoint, lambda: None)
        with pytest.raises(Trouble) as told:
            await api.list_files(PAGED.id, PAGED.sha)
        assert told.value.code == code and not isinstance(told.value, AskHuman)
        assert {file.path for file in (await api.list_files(PAGED.id, PAGED.sha)).files} == set(
            PAGED.find("main").files
        )
