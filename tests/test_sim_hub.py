"""The simulated Hub does what its users rely on: recorded answers, real misbehaviour on the wire, an honest log.

Ends of connections are observed with plain sockets, because only those tell FIN from RST and show every byte.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.fakes import hub_kinds as kinds
from tests.fakes.hub import BytesContent, Fault, SimHub, SimRepo, SparseContent, ThreadedSimHub
from tests.fakes.hub_repo import git_sha1, sha256_of

REPO = "org/name"
WEIGHTS = "transformer/model-00001-of-00002.safetensors"
CONFIG = "transformer/config.json"
BIG = SparseContent(size=3_000_001, seed=7)
SMALL = b'{"hidden_size": 8}\n'
TOKEN = "hf_simulated"
TIMEOUT_S = 10


def a_repo(**options: object) -> SimRepo:
    """A repository with files of both sorts."""
    files = {
        "README.md": b"# A model\n",
        "model_index.json": b"{}",
        CONFIG: SMALL,
        WEIGHTS: BIG,
        "transformer/model-00002-of-00002.safetensors": b"",
        "processor/tokenizer.json": b"tokens" * 100,
        "assets/ünï code.txt": b"name",
    }
    return SimRepo(id=REPO, files=files, lfs=["processor/tokenizer.json"], **options)  # type: ignore[arg-type]


@pytest.fixture
async def hub() -> AsyncIterator[SimHub]:
    async with SimHub(a_repo(), tokens=[TOKEN]) as hub:
        yield hub


# How the wire looks to a client


@dataclass(frozen=True, kw_only=True)
class Wire:
    """All that came over one connection, and how it ended."""

    head: bytes
    body: bytes
    reset: bool

    @property
    def status(self) -> int:
        return int(self.head.split(b" ")[1])

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode().split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def exchange(url: str, headers: dict[str, str] | None = None, method: str = "GET", limit: int | None = None) -> Wire:
    """One request over a socket of its own; reads to the end, or until `limit` bytes of body."""
    place = urlsplit(url)
    target = place.path + (f"?{place.query}" if place.query else "")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {place.netloc}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    with socket.create_connection((place.hostname or "", place.port or 0), timeout=TIMEOUT_S) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        data, reset = read_to_the_end(connection, limit)
    head, _, body = data.partition(b"\r\n\r\n")
    return Wire(head=head, body=body, reset=reset)


def read_to_the_end(connection: socket.socket, limit: int | None = None) -> tuple[bytes, bool]:
    """Everything the connection still holds (or `limit` bytes of body), and whether it ended in a reset."""
    data = b""
    try:
        while piece := connection.recv(1 << 16):
            data += piece
            if limit is not None and len(data.partition(b"\r\n\r\n")[2]) >= limit:
                break
    except ConnectionResetError:
        return data, True
    return data, False


async def get(
    url: str, *, span: str | None = None, method: str = "GET", token: str | None = None, limit: int | None = None
) -> Wire:
    headers = {"Range": f"bytes={span}"} if span else {}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return await asyncio.to_thread(exchange, url, headers, method, limit)


def resolve_url(hub: SimHub, path: str, repo: str = REPO, revision: str = "main") -> str:
    return f"{hub.endpoint}/{repo}/resolve/{revision}/{path}"


async def signed(hub: SimHub, path: str = WEIGHTS) -> str:
    return (await get(resolve_url(hub, path), method="HEAD")).headers["location"]


async def cached(hub: SimHub, path: str = CONFIG) -> str:
    return hub.endpoint + (await get(resolve_url(hub, path), method="HEAD")).headers["location"]


# What the repository holds


def test_sparse_content_is_the_same_however_it_is_read() -> None:
    """Pieces joined equal the whole, across block borders, and blocks differ."""
    whole = BIG.read(0, BIG.size)
    pieces = b"".join(BIG.read(start, min(start + 77_777, BIG.size)) for start in range(0, BIG.size, 77_777))
    assert whole == pieces
    assert BIG.size == len(whole)
    assert whole[: 1 << 20] != whole[1 << 20 : 2 << 20]
    assert hashlib.sha256(whole).hexdigest() == sha256_of(BIG)


def test_a_sparse_file_of_many_gigabytes_costs_nothing() -> None:
    """Any byte range of a 57 GB file can be had at once."""
    huge = SparseContent(size=57_710_671_694, seed=1)
    assert huge.read(50_000_000_000, 50_000_000_100) == huge.read(49_999_999_990, 50_000_000_100)[10:]


def test_commits_are_deterministic_and_old_ones_stay() -> None:
    """The same history gives the same shas; main follows; the old commit keeps its files."""
    one, other = a_repo(), a_repo()
    first = one.sha
    assert first == other.sha
    second = one.commit_files({CONFIG: b"new", "README.md": None})
    assert re.fullmatch("[0-9a-f]{40}", second) and second != first
    assert one.sha == second == other.commit_files({CONFIG: b"new", "README.md": None})
    assert one.entry(CONFIG, first).content == BytesContent(SMALL)
    assert git_sha1(b"new") == one.entry(CONFIG).etag


# The recorded answers

HUB_HEADERS = {
    "x-powered-by", "x-request-id", "ratelimit", "ratelimit-policy", "cross-origin-opener-policy", "referrer-policy",
    "access-control-max-age", "access-control-allow-origin", "vary", "access-control-expose-headers",
}  # fmt: skip


async def test_a_git_file_is_a_relative_307_to_the_resolve_cache(hub: SimHub) -> None:
    """HEAD resolve of a small file, header for header."""
    answer = await get(resolve_url(hub, CONFIG), method="HEAD")
    sha, oid = a_repo().sha, git_sha1(SMALL)
    assert answer.status == 307
    assert HUB_HEADERS | {
        "content-type", "content-length", "location", "x-repo-commit", "accept-ranges", "x-hub-cache", "date",
        "content-disposition", "content-security-policy", "x-hf-warning",
    } == set(answer.headers)  # fmt: skip
    location = answer.headers["location"]
    asked = f"%2Forg%2Fname%2Fresolve%2Fmain%2F{CONFIG.replace('/', '%2F')}"
    assert f"/api/resolve-cache/models/org/name/{sha}/{CONFIG}?{asked}=&etag=%22{oid}%22" == location
    assert sha == answer.headers["x-repo-commit"]
    assert re.fullmatch(r'"resolvers";r=2999;t=\d+', answer.headers["ratelimit"])
    assert answer.headers["ratelimit-policy"] == '"fixed window";"resolvers";q=3000;w=300'
    assert answer.headers["content-disposition"] == "inline; filename*=UTF-8''config.json; filename=\"config.json\";"
    assert answer.headers["x-hf-warning"].startswith("unauthenticated; ")
    body = await get(resolve_url(hub, CONFIG))
    assert int(answer.headers["content-length"]) == len(body.body) != len(SMALL)


async def test_the_resolve_cache_serves_ranges_of_a_git_file(hub: SimHub) -> None:
    """200 and 206 with the git sha1 as ETag; a branch instead of a sha is a 400."""
    url = await cached(hub)
    whole, part = await get(url), await get(url, span="2-5")
    assert (200, SMALL, f'"{git_sha1(SMALL)}"') == (whole.status, whole.body, whole.headers["etag"])
    assert (206, SMALL[2:6]) == (part.status, part.body)
    assert f"bytes 2-5/{len(SMALL)}" == part.headers["content-range"]
    assert (await get(url.replace(a_repo().sha, "main"))).status == 400


async def test_an_lfs_file_is_a_302_to_the_cdn(hub: SimHub) -> None:
    """HEAD resolve of an LFS file, header for header; size and sha256 stand here and only here."""
    answer = await get(resolve_url(hub, WEIGHTS), method="HEAD")
    entry = a_repo().entry(WEIGHTS)
    assert answer.status == 302
    assert HUB_HEADERS | {
        "content-type", "content-length", "location", "x-repo-commit", "accept-ranges", "x-linked-size", "date",
        "x-linked-etag", "x-xet-hash", "link", "cache-control", "content-disposition", "x-hf-warning",
    } == set(answer.headers)  # fmt: skip
    assert f'"{sha256_of(BIG)}"' == answer.headers["x-linked-etag"]
    assert str(BIG.size) == answer.headers["x-linked-size"]
    assert entry.xet_hash == answer.headers["x-xet-hash"] != entry.sha256
    assert 'rel="xet-auth"' in answer.headers["link"] and 'rel="xet-reconstruction-info"' in answer.headers["link"]
    location = answer.headers["location"]
    assert location.startswith(f"{hub.cdn_endpoint}/xet-bridge-us/")
    assert re.search(r"/[0-9a-f]{24}/[0-9a-f]{64}\?X-Xet-Cas-Uid=public&.*&Expires=\d+&Policy=.*&Signature=", location)


async def test_the_cdn_says_only_what_the_cdn_knows(hub: SimHub) -> None:
    """CDN 206, header for header: its ETag is not the sha256; no RateLimit, no commit, no X-Linked."""
    answer = await get(await signed(hub), span="1000-1999")
    assert (206, BIG.read(1000, 2000)) == (answer.status, answer.body)
    assert {
        "content-type", "accept-ranges", "content-disposition", "etag", "access-control-allow-headers", "date",
        "access-control-expose-headers", "content-length", "content-range", "vary", "access-control-allow-origin",
        "x-hf-cdn-pop",
    } == set(answer.headers)  # fmt: skip
    assert f"bytes 1000-1999/{BIG.size}" == answer.headers["content-range"]
    assert f'"{a_repo().entry(WEIGHTS).xet_hash}"' == answer.headers["etag"]


async def test_ranges_of_every_form(hub: SimHub) -> None:
    """Open, suffix, past the end, If-Range with the same and another ETag."""
    url = await signed(hub)
    size = BIG.size
    assert BIG.read(size - 5, size) == (await get(url, span=f"{size - 5}-")).body
    assert BIG.read(size - 5, size) == (await get(url, span="-5")).body
    assert BIG.read(size - 5, size) == (await get(url, span=f"{size - 5}-{size + 100}")).body
    beyond = await get(url, span=f"{size}-")
    assert (416, f"bytes */{size}") == (beyond.status, beyond.headers["content-range"])
    etag = (await get(url, method="HEAD")).headers["etag"]
    same = await asyncio.to_thread(exchange, url, {"Range": "bytes=0-9", "If-Range": etag})
    changed = await asyncio.to_thread(exchange, url, {"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (same.status, changed.status) == (206, 200)


async def test_refusals_are_worded_as_recorded(hub: SimHub) -> None:
    """Unknown repository, revision and file; each with the headers the real one had."""
    repo = await get(f"{hub.endpoint}/api/models/no/such")
    assert (repo.status, repo.body) == (401, b'{"error": "Invalid username or password."}')
    assert "x-error-code" not in repo.headers
    revision = await get(f"{hub.endpoint}/api/models/{REPO}/revision/nope")
    assert (revision.status, revision.headers["x-error-code"]) == (404, "RevisionNotFound")
    assert revision.headers["x-error-message"] == "Invalid rev id: nope"
    entry = await get(resolve_url(hub, "nope.bin"))
    assert (entry.status, entry.body, entry.headers["x-error-code"]) == (404, b"Entry not found", "EntryNotFound")
    assert a_repo().sha == entry.headers["x-repo-commit"]
    assert entry.headers["etag"].startswith('W/"f-')
    assert entry.headers["x-cache"] == "Error from cloudfront"


async def test_gated_private_disabled_renamed(hub: SimHub) -> None:
    """Who may see what: listing of a gated repository is open, its files are not; a rename redirects the API only."""
    hub.tokens = frozenset({TOKEN, "hf_other"})
    hub.add(SimRepo(id="g/gated", files={"a": b"a"}, gated="manual", readers=[TOKEN]))
    hub.add(SimRepo(id="p/private", files={"a": b"a"}, private=True, readers=[TOKEN]))
    hub.add(SimRepo(id="d/disabled", files={"a": b"a"}, disabled=True))
    hub.add(SimRepo(id="bert", files={"a": b"a"}, renamed_to="google/bert"))
    assert (await get(f"{hub.endpoint}/api/models/g/gated/tree/main")).status == 200
    gated = resolve_url(hub, "a", "g/gated")
    seen = [(await get(gated, token=token)) for token in (None, "garbage", "hf_other", TOKEN)]
    assert [answer.status for answer in seen] == [401, 401, 403, 307]
    assert [answer.headers["x-error-code"] for answer in seen[:3]] == ["GatedRepo"] * 3
    assert seen[0].headers["www-authenticate"] == 'Bearer realm="Authentication required", charset="UTF-8"'
    private = f"{hub.endpoint}/api/models/p/private"
    assert [(await get(private, token=token)).status for token in (None, "hf_other", TOKEN)] == [401, 404, 200]
    disabled = await get(resolve_url(hub, "a", "d/disabled"))
    assert (disabled.status, disabled.headers["x-error-message"]) == (403, "Access to this resource is disabled.")
    renamed = await get(f"{hub.endpoint}/api/models/bert/tree/main?recursive=true")
    assert (307, {"content-type", "location", "content-length", "date"}) == (renamed.status, set(renamed.headers))
    assert renamed.headers["location"] == "/api/models/google/bert/tree/main?recursive=true"
    assert (await get(resolve_url(hub, "a", "bert"))).status == 307


async def test_signed_urls_expire_by_the_clock_and_on_command() -> None:
    """After the TTL, or expire_urls(), the CDN answers 403; a new resolve gives a new URL."""
    now = [100.0]
    async with SimHub(a_repo(), clock=lambda: now[0], url_ttl_s=5) as hub:
        url = await signed(hub)
        now[0] += 4.9
        assert (await get(url, span="0-0")).status == 206
        now[0] += 0.1
        assert (await get(url, span="0-0")).status == 403
        url = await signed(hub)
        assert (await get(url, span="0-0")).status == 206
        hub.expire_urls()
        assert (await get(url, span="0-0")).status == 403
        assert (await get(url.replace("Signature=", "Signature=0"))).status == 403


# The real client

CLIENT = """
import json, pathlib, sys
from huggingface_hub import HfApi, snapshot_download, hf_hub_download
from huggingface_hub.utils import GatedRepoError, RevisionNotFoundError, EntryNotFoundError
endpoint, repo = sys.argv[1:]
api = HfApi(endpoint=endpoint, token=False)
info = api.model_info(repo, files_metadata=True)
def error(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__
folder = pathlib.Path(snapshot_download(repo, endpoint=endpoint, token=False))
print(json.dumps({
    "sha": info.sha,
    "siblings": {s.rfilename: [s.size, s.lfs.sha256 if s.lfs else s.blob_id] for s in info.siblings},
    "tree": sorted(item.path for item in api.list_repo_tree(repo, recursive=True)),
    "paths": [item.path for item in api.get_paths_info(repo, ["README.md", "gone"])],
    "files": {str(p.relative_to(folder)): [p.resolve().name, str(p)] for p in folder.rglob("*") if p.is_file()},
    "one": hf_hub_download(repo, "README.md", endpoint=endpoint, token=False),
    "errors": [
        error(lambda: hf_hub_download("g/gated", "a", endpoint=endpoint, token=False)),
        error(lambda: api.model_info(repo, revision="nope")),
        error(lambda: hf_hub_download(repo, "nope", endpoint=endpoint, token=False)),
        error(lambda: api.model_info("d/disabled")),
    ],
}))
"""


def test_huggingface_hub_lists_and_downloads_from_it(tmp_path: Path) -> None:
    """The real client, in a process of its own, pages through the listing and gets every byte."""
    repo = a_repo()
    others = [
        SimRepo(id="g/gated", files={"a": b"a"}, gated="auto"),
        SimRepo(id="d/disabled", files={"a": b"a"}, disabled=True),
    ]
    with ThreadedSimHub(SimHub(repo, *others, page_entries=3)) as hub:
        environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "HF_ENDPOINT": hub.endpoint}
        run = subprocess.run(
            [sys.executable, "-c", CLIENT, hub.endpoint, REPO],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert run.returncode == 0, run.stderr
        pages = len([r for r in hub.log.requests(path="tree/*") if r.header("user-agent")])
        leaks = hub.log.leaks()
    seen = json.loads(run.stdout)
    commit = repo.find("main")
    assert commit is not None
    assert repo.sha == seen["sha"]
    assert {path: [entry.size, entry.etag] for path, entry in commit.files.items()} == seen["siblings"]
    assert sorted([*commit.files, "transformer", "processor", "assets"]) == seen["tree"]
    assert seen["paths"] == ["README.md"]
    assert {path: entry.etag for path, entry in commit.files.items()} == {
        path: etag for path, (etag, _) in seen["files"].items()
    }
    for path, (_, place) in seen["files"].items():
        content = repo.entry(path).content
        assert content.read(0, content.size) == Path(place).read_bytes()
    assert seen["errors"] == [
        "GatedRepoError",
        "RevisionNotFoundError",
        "RemoteEntryNotFoundError",
        "DisabledRepoError",
    ]
    assert pages >= 4  # ten items at three a page
    assert leaks == []


# Faults that replace the answer


async def test_status_with_any_headers_and_body_strikes_so_many_times(hub: SimHub) -> None:
    """Rules are used in order, each as often as it says, and only on what they match."""
    hub.faults.add(Fault(kinds.Status(code=503, headers={"x-a": "b"}, body=b"busy"), on="cdn", times=1))
    second = hub.faults.add(Fault(kinds.Status(code=451), path="transformer/*", on="cdn", times=2))
    url = await signed(hub)
    answers = [await get(url, span="0-0") for _ in range(4)]
    assert [answer.status for answer in answers] == [503, 451, 451, 206]
    assert (answers[0].body, answers[0].headers["x-a"]) == (b"busy", "b")
    assert second.hits == 2 and second.spent
    assert (await get(await cached(hub))).status == 200


async def test_retry_after_in_both_forms_and_the_hubs_own_429() -> None:
    """Seconds, an HTTP-date ahead of the server's own Date, and RateLimit without Retry-After."""
    async with SimHub(a_repo(), wall=lambda: 1_000_000_000.0) as hub:
        hub.faults.add(Fault(kinds.RetryAfter(seconds=7), on="api", times=1))
        hub.faults.add(Fault(kinds.RetryAfter(seconds=7, http_date=True, code=503), on="api", times=1))
        hub.faults.add(Fault(kinds.RateLimited(reset_s=55), on="hub"))
        url = f"{hub.endpoint}/api/models/{REPO}"
        seconds, date, limited = [await get(url) for _ in range(3)]
        resolved = await get(resolve_url(hub, WEIGHTS), method="HEAD")
    assert (seconds.status, seconds.headers["retry-after"]) == (429, "7")
    ahead = parsedate_to_datetime(date.headers["retry-after"]) - parsedate_to_datetime(date.headers["date"])
    assert (date.status, ahead.total_seconds()) == (503, 7)
    assert (limited.status, limited.headers["ratelimit"]) == (429, '"api";r=0;t=55')
    assert "retry-after" not in limited.headers
    assert resolved.headers["ratelimit"] == '"resolvers";r=0;t=55'


async def test_vanished_expired_portal_and_redirects(hub: SimHub) -> None:
    """A listed file that is gone, a refused signature, a login page, a redirect anywhere, and one to itself."""
    url = await signed(hub)
    resolve = resolve_url(hub, WEIGHTS)
    for kind in (
        kinds.EntryVanished(), kinds.ExpiredSignature(), kinds.CaptivePortal(),
        kinds.Redirect(to="http://169.254.169.254/", code=301), kinds.RedirectLoop(),
    ):  # fmt: skip
        hub.faults.add(Fault(kind, times=1))
    vanished = await get(resolve)
    assert (404, "EntryNotFound", a_repo().sha) == (
        vanished.status, vanished.headers["x-error-code"], vanished.headers["x-repo-commit"],
    )  # fmt: skip
    assert (await get(url)).status == 403
    portal = await get(url, span="5-9")
    assert (portal.status, portal.headers["content-type"]) == (200, "text/html")
    away = await get(resolve)
    assert (away.status, away.headers["location"]) == (301, "http://169.254.169.254/")
    loop = await get(resolve)
    assert (302, resolve) == (loop.status, hub.endpoint + loop.headers["location"])


# Faults that distort a ranged answer


async def test_range_ignored_or_answered_wrongly(hub: SimHub) -> None:
    """Each lie about a range, once, in the order the rules were added."""
    url = await signed(hub)
    for kind in (
        kinds.IgnoreRange(), kinds.WrongContentRange(shift=3), kinds.WrongTotal(total="*"), kinds.NoContentRange(),
        kinds.RangeNotSatisfiable(), kinds.Multipart(), kinds.Gzip(),
    ):  # fmt: skip
        hub.faults.add(Fault(kind, times=1))
    ignored, shifted, starred, bare, refused, multipart, zipped = [await get(url, span="10-19") for _ in range(7)]
    assert (200, BIG.size) == (ignored.status, len(ignored.body))
    assert (206, f"bytes 13-22/{BIG.size}") == (shifted.status, shifted.headers["content-range"])
    assert BIG.read(10, 20) == shifted.body
    assert (starred.status, starred.headers["content-range"]) == (206, "bytes 10-19/*")
    assert bare.status == 206 and "content-range" not in bare.headers
    assert (416, f"bytes */{BIG.size}") == (refused.status, refused.headers["content-range"])
    assert multipart.status == 206 and multipart.headers["content-type"].startswith("multipart/byteranges")
    assert BIG.read(10, 20) in multipart.body
    assert (zipped.status, zipped.headers["content-encoding"]) == (206, "gzip")
    assert BIG.read(10, 20) == gzip.decompress(zipped.body)


async def test_a_changed_etag_makes_if_range_fail(hub: SimHub) -> None:
    """The object is another one now: new ETag, other bytes, and the old ETag in If-Range gets 200."""
    url = await signed(hub)
    old = (await get(url, span="0-0")).headers["etag"]
    hub.faults.add(Fault(kinds.ChangedETag(etag="e" * 64, content=BytesContent(b"another object"))))
    answer = await asyncio.to_thread(exchange, url, {"Range": "bytes=0-6", "If-Range": old})
    assert (200, b"another object", f'"{"e" * 64}"') == (answer.status, answer.body, answer.headers["etag"])


async def test_content_lengths_and_header_bombs(hub: SimHub) -> None:
    """Two that differ, a negative one, thousands of headers: a real HTTP client refuses each of them."""
    url = await signed(hub)
    for kind in (
        kinds.ContentLength(values=("10", "20")), kinds.ContentLength(values=("-5",)),
        kinds.HeaderBomb(count=1, line_bytes=70_000), kinds.HeaderBomb(count=50_000, line_bytes=10),
    ):  # fmt: skip
        rule = hub.faults.add(Fault(kind))
        wire = await get(url, span="0-9")
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(url, headers={"Range": "bytes=0-9"})
        hub.faults.remove(rule)
        match kind:
            case kinds.ContentLength(values=values):
                assert list(values) == re.findall(r"content-length: (\S+)", wire.head.decode())
            case kinds.HeaderBomb(count=count, line_bytes=line_bytes):
                assert wire.head.count(b"b" * line_bytes) >= count


# Faults of delivery

CUT = 1_234_567


@pytest.mark.parametrize("kind", [kinds.Reset(), kinds.CloseEarly()])
async def test_a_connection_cut_at_a_byte_gives_exactly_the_bytes_before_it(
    hub: SimHub, kind: kinds.Reset | kinds.CloseEarly
) -> None:
    """RST or FIN at an offset of the file: everything before it arrives, and the log says the same."""
    hub.faults.add(Fault(kind, at_byte=CUT, times=1))
    wire = await get(await signed(hub), span="1000-")
    assert wire.reset == isinstance(kind, kinds.Reset)
    assert BIG.read(1000, CUT) == wire.body
    assert str(BIG.size - 1000) == wire.headers["content-length"]
    (served,) = hub.log.served(server="cdn")
    assert (served.start, served.end, served.ended) == (1000, CUT, "cut")


async def test_a_reset_waits_for_a_client_that_has_not_read_yet(hub: SimHub) -> None:
    """A reset loses what lies in its sender's buffer; here all of it has arrived first, however late it is read."""
    hub.faults.add(Fault(kinds.Reset(), after_bytes=20_000, times=1))
    place = urlsplit(await signed(hub))
    with socket.socket() as connection:
        connection.settimeout(TIMEOUT_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((place.hostname, place.port))
        connection.sendall(f"GET {place.path}?{place.query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await hub.reached(WEIGHTS, 20_000)
        data, _ = await asyncio.to_thread(read_to_the_end, connection)
    assert BIG.read(0, 20_000) == data.partition(b"\r\n\r\n")[2]


async def test_cuts_may_be_counted_from_the_bodys_start_or_before_any_answer(hub: SimHub) -> None:
    """`after_bytes` is relative, `min_offset` spares earlier bodies, and neither given means no answer at all."""
    url = await signed(hub)
    hub.faults.add(Fault(kinds.CloseEarly(), after_bytes=100, min_offset=500, times=1))
    hub.faults.add(Fault(kinds.Reset(), min_offset=600, times=1))
    assert BIG.read(0, 200) == (await get(url, span="0-199")).body
    assert BIG.read(500, 600) == (await get(url, span="500-999")).body
    silent = await get(url, span="600-999")
    assert (silent.head, silent.reset) == (b"", True)


async def test_a_stall_holds_until_released(hub: SimHub) -> None:
    """Silence at a byte with the connection open; the rest follows the release."""
    stall = hub.faults.add(Fault(kinds.Stall(), at_byte=CUT, times=1))
    reading = asyncio.create_task(get(await signed(hub)))
    await stall.hit()
    await hub.reached(WEIGHTS, CUT)
    assert hub.log.bytes_served(WEIGHTS) == CUT
    stall.release()
    assert BIG.read(0, BIG.size) == (await reading).body


async def test_a_stalled_client_may_go_away(hub: SimHub) -> None:
    """A client that gives up ends the stall; the server goes on serving."""
    hub.faults.add(Fault(kinds.Stall(), after_bytes=1000, times=1))
    url = await signed(hub)
    assert BIG.read(0, 1000) == (await get(url, limit=1000)).body
    await hub.log.until(lambda log: log.served(server="cdn")[0].ended == "gone")
    assert BIG.read(0, 2000) == (await get(url, span="0-1999")).body


async def test_a_slow_first_byte_can_be_a_time_or_for_ever(hub: SimHub) -> None:
    """Nothing is sent before the delay is over or the rule released."""
    url = await signed(hub)
    hub.faults.add(Fault(kinds.SlowFirstByte(delay_s=0.05), times=1))
    held = hub.faults.add(Fault(kinds.SlowFirstByte(), times=1))
    assert (await get(url, span="0-9")).body == BIG.read(0, 10)
    hub.log.clear()
    reading = asyncio.create_task(get(url, span="0-9"))
    await held.hit()
    assert hub.log.served() == []
    held.release()
    assert BIG.read(0, 10) == (await reading).body


async def test_a_drip_starts_at_the_cut(hub: SimHub) -> None:
    """Full speed before the cut, bytes one by one after it."""
    hub.faults.add(Fault(kinds.Drip(bytes_per_s=20), after_bytes=1000, times=1))
    wire = await get(await signed(hub), span="0-1999", limit=1002)
    assert 1002 <= len(wire.body) < 1100


async def test_bodies_with_wrong_framing(hub: SimHub) -> None:
    """Too long (declared or not), without a length, and chunked but cut: the bytes on the wire are as told."""
    url = await signed(hub)
    for kind in (kinds.OverLong(extra=b"!!"), kinds.OverLong(extra=b"!!", declared=True)):
        hub.faults.add(Fault(kind, times=1))
    hub.faults.add(Fault(kinds.NoContentLength(), times=1, after_bytes=6))
    hub.faults.add(Fault(kinds.ChunkedTruncated(), times=1))
    long, declared, short, chunked = [await get(url, span="0-9") for _ in range(4)]
    assert (BIG.read(0, 10) + b"!!", "10") == (long.body, long.headers["content-length"])
    assert (BIG.read(0, 10) + b"!!", "12") == (declared.body, declared.headers["content-length"])
    assert BIG.read(0, 6) == short.body
    assert "content-length" not in short.headers and "transfer-encoding" not in short.headers
    assert ("chunked", b"a\r\n" + BIG.read(0, 5)) == (chunked.headers["transfer-encoding"], chunked.body)


@pytest.mark.parametrize("times", [1, None])
async def test_a_byte_can_be_corrupted_once_or_always(hub: SimHub, times: int | None) -> None:
    """One bit of one byte, in whichever request carries it; with times=1 the second try is clean."""
    hub.faults.add(Fault(kinds.Corrupt(xor=0x80), at_byte=5, times=times))
    url = await signed(hub)
    clean = BIG.read(0, 10)
    wrong = clean[:5] + bytes([clean[5] ^ 0x80]) + clean[6:]
    assert [wrong, clean if times else wrong] == [(await get(url, span="0-9")).body for _ in range(2)]
    assert BIG.read(6, 10) == (await get(url, span="6-9")).body


async def test_faults_of_bodies_are_not_spent_on_heads(hub: SimHub) -> None:
    """huggingface_hub sends HEAD to the resolve cache before it GETs; a corruption waits for the GET."""
    hub.faults.add(Fault(kinds.Corrupt(), path=CONFIG, times=1))
    url = await cached(hub)
    assert (await get(url, method="HEAD")).status == 200
    assert [(await get(url)).body == SMALL for _ in range(2)] == [False, True]


async def test_api_answers_can_be_cut_too(hub: SimHub) -> None:
    """A listing that breaks off in the middle of its JSON."""
    hub.faults.add(Fault(kinds.CloseEarly(), on="api", path="tree/*", after_bytes=20))
    wire = await get(f"{hub.endpoint}/api/models/{REPO}/tree/main")
    assert 20 == len(wire.body) < int(wire.headers["content-length"])


# Forged listings


async def listed(hub: SimHub, suffix: str = "/tree/main?recursive=true") -> list[dict[str, object]]:
    items = json.loads((await get(f"{hub.endpoint}/api/models/{REPO}{suffix}")).body)
    return list(items)


async def test_the_tree_is_paged_and_a_cursor_can_loop(hub: SimHub) -> None:
    """Real pages end; a looping or ever-new cursor does not."""
    hub.page_entries = 4
    first = await get(f"{hub.endpoint}/api/models/{REPO}/tree/main?recursive=true&expand=false")
    link = re.fullmatch(r'<(http://.*cursor=.*)>; rel="next"', first.headers["link"])
    assert link is not None and link[1].startswith(f"{hub.endpoint}/api/models/{REPO}/tree/main?recursive=true")
    second = await get(link[1])
    assert not set(map(str, json.loads(first.body))) & set(map(str, json.loads(second.body)))
    hub.page_entries = 1000
    whole = f"{hub.endpoint}/api/models/{REPO}/tree/main"
    assert "link" not in (await get(whole)).headers
    same = hub.faults.add(Fault(kinds.CursorLoop(), path="tree/*"))
    assert (await get(whole)).headers["link"] == (await get(whole)).headers["link"]
    hub.faults.remove(same)
    hub.faults.add(Fault(kinds.CursorLoop(fresh=True), path="tree/*"))
    assert (await get(whole)).headers["link"] != (await get(whole)).headers["link"]


async def test_listings_can_name_and_claim_anything(hub: SimHub) -> None:
    """Hostile names, false sizes and hidden files, in the tree and in model info alike."""
    names = ["../up", "/abs", "a//b", "a\\b", "nul\0", "\ud800", "‮evil", "x" * 5000]
    rule = hub.faults.add(Fault(kinds.listing_adds(*names)))
    assert {*names} <= {item["path"] for item in await listed(hub)}
    info = json.loads((await get(f"{hub.endpoint}/api/models/{REPO}?blobs=true")).body)
    assert {*names} <= {sibling["rfilename"] for sibling in info["siblings"]}
    hub.faults.remove(rule)
    rule = hub.faults.add(Fault(kinds.listing_sizes({WEIGHTS: -1, CONFIG: 1 << 63})))
    sizes = {item["path"]: item["size"] for item in await listed(hub)}
    assert (sizes[WEIGHTS], sizes[CONFIG]) == (-1, 1 << 63)
    hub.faults.remove(rule)
    hub.faults.add(Fault(kinds.listing_hides("transformer/*")))
    assert not any(str(item["path"]).startswith("transformer") for item in await listed(hub))


# Gates, throttle, log


async def test_a_gate_holds_all_bodies_of_a_file_at_a_byte(hub: SimHub) -> None:
    """Bodies stop at the gate, those beyond it do not start, other files pass; opening lets all go on."""
    gate = hub.gate(WEIGHTS, CUT)
    url = await signed(hub)
    before, beyond = asyncio.create_task(get(url)), asyncio.create_task(get(url, span=f"{CUT + 5}-{CUT + 9}"))
    await gate.reached()
    await hub.reached(WEIGHTS, CUT)
    await hub.log.until(lambda log: len(log.served(server="cdn")) == 2)
    assert (await get(await signed(hub, "processor/tokenizer.json"))).body == b"tokens" * 100
    assert {(0, CUT), (CUT + 5, CUT + 5)} == {(s.start, s.end) for s in hub.log.served(path=WEIGHTS, server="cdn")}
    gate.open()
    assert BIG.read(0, BIG.size) == (await before).body
    assert BIG.read(CUT + 5, CUT + 10) == (await beyond).body


async def test_the_throttle_slows_bodies_and_can_be_lifted(hub: SimHub) -> None:
    """At a slow rate the file is still under way when a test looks; without one it ends at once."""
    hub.throttle.bytes_per_s = 200_000
    hub.throttle.total_bytes_per_s = 100_000
    reading = asyncio.create_task(get(await signed(hub)))
    await hub.reached(WEIGHTS, 10_000)
    assert 0 < hub.log.bytes_served(WEIGHTS) < 1_000_000
    hub.throttle.bytes_per_s = hub.throttle.total_bytes_per_s = None
    assert BIG.read(0, BIG.size) == (await reading).body


async def test_the_log_counts_bytes_served_twice_and_sees_leaked_tokens(hub: SimHub) -> None:
    """Overlaps are counted once per repetition; a token at the CDN is found, whatever carried it."""
    url = await signed(hub)
    for span in ("0-99", "10-19", "50-149", "150-199"):
        await get(url, span=span)
    assert {"whole"} == {served.ended for served in hub.log.served()}
    assert (hub.log.bytes_served(WEIGHTS), hub.log.bytes_twice(WEIGHTS)) == (260, 60)
    assert [r.range for r in hub.log.requests(server="cdn")][-2:] == ["bytes=50-149", "bytes=150-199"]
    await get(resolve_url(hub, WEIGHTS), token=TOKEN)
    assert [r.had_authorization for r in hub.log.requests(server="hub", method="GET")] == [True]
    assert hub.log.leaks(TOKEN) == []
    await get(url, span="0-0", token=TOKEN)
    await get(f"{url}&token={TOKEN}", span="0-0")
    assert len(hub.log.leaks(TOKEN)) == 2


async def test_connections_are_kept_alive_and_the_hub_comes_back_on_its_ports() -> None:
    """One connection serves many requests; a Hub entered again listens where it did."""
    hub = SimHub(a_repo())
    reused: list[object] = []
    trace = aiohttp.TraceConfig()

    async def note(*facts: object) -> None:
        reused.append(facts)

    trace.on_connection_reuseconn.append(note)
    async with hub:
        endpoint, url = hub.endpoint, await signed(hub)
        async with aiohttp.ClientSession(trace_configs=[trace]) as session:
            for _ in range(3):
                async with session.get(url, headers={"Range": "bytes=0-9"}) as response:
                    assert BIG.read(0, 10) == await response.read()
    assert len(reused) == 2
    with pytest.raises(ConnectionRefusedError):
        await get(endpoint)
    async with hub:
        assert endpoint == hub.endpoint
        assert (await get(f"{endpoint}/api/models/{REPO}")).status == 200


def test_a_threaded_hub_is_controlled_from_the_tests_thread() -> None:
    """Gates, faults, commits and the log work across threads; leaving drops what is still held."""
    repo = a_repo()
    with ThreadedSimHub(SimHub(repo)) as hub:
        gate = hub.gate(WEIGHTS, CUT)
        url = exchange(resolve_url(hub, WEIGHTS), method="HEAD").headers["location"]
        seen: list[Wire] = []
        reader = threading.Thread(target=lambda: seen.append(exchange(url)))
        reader.start()
        gate.wait_reached()
        hub.wait_reached(WEIGHTS, CUT)
        sha = repo.commit_files({CONFIG: b"moved"})
        moved = exchange(f"{hub.endpoint}/api/models/{REPO}")
        assert sha == json.loads(moved.body)["sha"]
        hub.log.wait(lambda log: log.bytes_served(WEIGHTS) == CUT)
    reader.join(TIMEOUT_S)
    assert [BIG.read(0, CUT)] == [wire.body for wire in seen]
