"""The mirror, as clients meet it: real processes, the real `hf`, raw sockets. The pure parts come last."""

import asyncio
import errno
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from textwrap import dedent
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_daemon.mirror import tree
from qwen_daemon.mirror.answers import is_local_name, printable
from qwen_daemon.mirror.command import is_loopback, main
from qwen_daemon.mirror.pace import PIECE_BYTES, Pace
from qwen_daemon.mirror.ranges import Slice, Unsatisfiable, asked_range, is_known, range_applies
from qwen_daemon.mirror.routes import (
    BadPathError,
    InfoRoute,
    PathsInfoRoute,
    ResolveRoute,
    StatsRoute,
    TreeRoute,
    is_repo_id,
    read_path,
)
from qwen_daemon.mirror.tally import RANGES_KEPT_MAX, Tally, bytes_sent_twice, union
from tests.overseer import Point, overseeing

HF = str(Path(sys.executable).parent / "hf")
REPO = "acme/tiny"
WEIGHTS = "transformer/model.safetensors"
WEIGHTS_BYTES = 3_000_017

COMMAND = "import sys; from qwen_daemon.mirror.command import main; sys.exit(main(sys.argv[1:]))"
SMALL_PAGES = """
import asyncio, pathlib, sys
from functools import partial
from qwen_daemon.mirror.command import MirrorConfig, serve
config = MirrorConfig(folder=pathlib.Path(sys.argv[1]), page_size_entries=2)
asyncio.run(serve(config, ready=partial(print, flush=True)))
"""


# --- a mirror in its own process ---


class Mirror:
    """A running mirror; each question opens its own connection."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.address = (urlsplit(url).hostname, urlsplit(url).port)

    def connect(self) -> closing[http.client.HTTPConnection]:
        return closing(http.client.HTTPConnection(*self.address, timeout=20))

    def ask(
        self, path: str, *, method: str = "GET", body: str | None = None, **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with self.connect() as connection:
            connection.request(method, path, body=body, headers=named)
            response = connection.getresponse()
            return response, response.read()

    def json(self, path: str, **kwargs: str) -> object:
        response, body = self.ask(path, **kwargs)
        assert response.status == 200, body
        return json.loads(body)

    def file(self, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        return self.ask(f"/{REPO}/resolve/main/{path}", **headers)

    def commit(self) -> str:
        return self.json(f"/api/models/{REPO}")["sha"]

    def stats(self) -> dict:
        return self.json("/-/mirror/stats")

    def raw(self, request: bytes) -> bytes:
        with socket.create_connection(self.address, timeout=20) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@contextmanager
def mirror(
    folder: Path, *options: str, code: str = COMMAND, errors: list[str] | None = None, under: Sequence[str] = ()
) -> Iterator[Mirror]:
    arguments = [str(folder)] if code is SMALL_PAGES else [str(folder), "--listen", "127.0.0.1:0", *options]
    command = [*under, sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Mirror(process.stdout.readline().strip())
        finally:
            process.terminate()
            _, error_text = process.communicate(timeout=20)
            if errors is not None:
                errors.extend(error_text.splitlines())
    if code is COMMAND:
        assert process.returncode == 0
        assert "Traceback" not in error_text


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with one small model in it."""
    root = tmp_path_factory.mktemp("models")
    fill(root / REPO)
    return root


def fill(home: Path) -> None:
    dice = random.Random(2511)
    files = {
        "README.md": b"# tiny\n",
        "config.json": b"{}\n",
        "empty.txt": b"",
        WEIGHTS: dice.randbytes(WEIGHTS_BYTES),
        "transformer/config.json": b'{"a": 1}\n',
        "a name & 100 % \xd1\x91.txt".encode("latin-1").decode(): b"odd name\n",
    }
    for path, content in files.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def served(models: Path) -> Iterator[Mirror]:
    with mirror(models) as running:
        yield running


def client_env(url: str, home: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    }


def hf(url: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HF, *arguments], env=client_env(url, home), capture_output=True, text=True, timeout=200)


def library(url: str, home: Path, code: str) -> object:
    """Run huggingface_hub in its own process (it reads its environment at import); `tell` brings a value back."""
    script = "import json\nfrom huggingface_hub import *\ntell = lambda value: print(json.dumps(value))\n" + dedent(
        code
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=client_env(url, home), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def cache(models: Path, served: Mirror, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An HF_HOME that the real `hf download` has filled from the mirror."""
    home = tmp_path_factory.mktemp("hf-home")
    done = hf(served.url, home, "download", REPO, "--quiet")
    assert done.returncode == 0, done.stderr
    return home


# --- real clients ---


def test_hf_download_brings_equal_bytes_and_hf_cache_verify_agrees(models: Path, served: Mirror, cache: Path) -> None:
    """What `hf download` puts into its cache is the folder, and `hf cache verify` finds the hashes right."""
    (snapshot,) = (cache / "hub" / "models--acme--tiny" / "snapshots").iterdir()
    assert contents(models / REPO) == contents(snapshot)
    verified = hf(served.url, cache, "cache", "verify", REPO, "--fail-on-missing-files", "--fail-on-extra-files")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert f"Verified {len(contents(snapshot))} file(s)" in verified.stdout


def test_the_library_reads_every_answer(models: Path, served: Mirror, tmp_path: Path) -> None:
    """snapshot_download, model_info with blobs, an expanded tree and paths-info all parse, and they agree."""
    told = library(
        served.url,
        tmp_path,
        """
        def described(files):
            files = [f for f in files if not isinstance(f, RepoFolder)]
            return {f.rfilename: [f.size, f.lfs and f.lfs.sha256] for f in files}

        repo = "acme/tiny"
        tell({
            "path": snapshot_download(repo, allow_patterns="transformer/*"),
            "info": described(model_info(repo, files_metadata=True).siblings),
            "tree": described(list_repo_tree(repo, recursive=True, expand=True)),
            "top": [f.path for f in list_repo_tree(repo) if isinstance(f, RepoFolder)],
            "below": [f.path for f in list_repo_tree(repo, "transformer")],
            "some": [f.path for f in get_paths_info(repo, ["transformer", "config.json", "none"])],
        })
        """,
    )
    digest = hashlib.sha256((models / REPO / WEIGHTS).read_bytes()).hexdigest()
    assert contents(models / REPO / "transformer") == contents(Path(told["path"]) / "transformer")
    assert told["info"] == told["tree"]
    assert told["tree"][WEIGHTS] == [WEIGHTS_BYTES, digest]
    assert told["tree"]["config.json"] == [3, None]
    assert told["top"] == ["transformer"]
    assert told["below"] == ["transformer/config.json", WEIGHTS]
    assert sorted(told["some"]) == ["config.json", "transformer"]


def test_the_library_names_each_error(served: Mirror, tmp_path: Path) -> None:
    """A missing repository, revision and file each raise huggingface_hub's own exception for it."""
    names = library(
        served.url,
        tmp_path,
        """
        def attempt(call, *args, **kwargs):
            try:
                call(*args, **kwargs)
            except Exception as error:
                return type(error).__name__

        tell([
            attempt(model_info, "acme/none"),
            attempt(model_info, "acme/tiny", revision="v9"),
            attempt(hf_hub_download, "acme/tiny", "none.txt"),
        ])
        """,
    )
    assert names == ["RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError"]


@pytest.mark.parametrize("below", ["", "hub"])
def test_a_cache_is_served_under_its_own_commit(cache: Path, served: Mirror, tmp_path: Path, below: str) -> None:
    """An HF_HOME and the hub cache in it serve what they hold, with no change of commit or bytes."""
    with mirror(cache / below) as second:
        assert second.commit() == served.commit()
        done = hf(second.url, tmp_path, "download", REPO, "--quiet")
        assert done.returncode == 0, done.stderr
    (snapshot,) = (cache / "hub" / "models--acme--tiny" / "snapshots").iterdir()
    assert contents(Path(done.stdout.strip())) == contents(snapshot)
    assert Path(done.stdout.strip()).name == snapshot.name


def test_a_cache_without_a_file_says_so(cache: Path, tmp_path: Path) -> None:
    """A file that the commit has and the cache lacks is listed and refused: a part is not passed off as the whole.

    X-Repo-Commit is withheld, since huggingface_hub would note the file as absent from that commit for good.
    """
    home = tmp_path / "home"
    shutil.copytree(cache, home, symlinks=True)
    (
        home / "hub/models--acme--tiny/blobs" / hashlib.sha256(random.Random(2511).randbytes(WEIGHTS_BYTES)).hexdigest()
    ).unlink()
    errors: list[str] = []
    with mirror(home, errors=errors) as partial:
        assert WEIGHTS in [s["rfilename"] for s in partial.json(f"/api/models/{REPO}")["siblings"]]
        response, _ = partial.file(WEIGHTS, method="HEAD")
        assert (response.status, response.headers["X-Error-Code"]) == (404, "EntryNotFound")
        assert response.headers["X-Repo-Commit"] is None
        assert hf(partial.url, tmp_path / "client", "download", REPO).returncode != 0
        assert partial.file("config.json")[1] == b"{}\n"
    assert any(WEIGHTS in line and "not served" in line for line in errors)


def test_a_cut_off_file_of_a_cache_is_not_served(cache: Path, tmp_path: Path) -> None:
    """A blob that is shorter than the commit says is no copy of that file."""
    shutil.copytree(cache / "hub", tmp_path / "hub", symlinks=True)
    (blob,) = (path.resolve() for path in (tmp_path / "hub").rglob("model.safetensors"))
    os.truncate(blob, 1000)
    with mirror(tmp_path / "hub") as cut:
        assert cut.file(WEIGHTS)[0].status == 404


def test_a_cache_without_trees_takes_hashes_from_blob_names(cache: Path, tmp_path: Path) -> None:
    """Older caches have no trees/: then the names of the blobs are the hashes."""
    shutil.copytree(cache / "hub", tmp_path / "hub", symlinks=True)
    shutil.rmtree(tmp_path / "hub/models--acme--tiny/trees")
    with mirror(cache) as new, mirror(tmp_path / "hub") as old:
        query = f"/api/models/{REPO}/tree/main?recursive=true"
        assert new.json(query) == old.json(query)


@pytest.mark.fault("D30")
@pytest.mark.parametrize("record", ["trees/*.json", "refs/main"])
def test_a_record_that_cannot_be_read_is_no_smaller_repository(cache: Path, tmp_path: Path, record: str) -> None:
    """Half of the files are here and the list of all cannot be read: 500 with the reason, until it can be."""
    home = tmp_path / "hub/models--acme--tiny"
    shutil.copytree(cache / "hub", tmp_path / "hub", symlinks=True)
    next(home.rglob("model.safetensors")).unlink()
    (path,) = home.glob(record)
    is_broken = threading.Event()
    is_broken.set()

    def decide(point: Point) -> int:
        return errno.EIO if is_broken.is_set() and point.file == str(path.relative_to(tmp_path)) else 0

    errors: list[str] = []
    with (
        overseeing(tmp_path, {"read"}, decide) as (_, under),
        mirror(tmp_path / "hub", errors=errors, under=under) as served,
    ):
        asked = f"/api/models/{REPO}/revision/main"
        response, said = served.ask(asked)
        assert response.status == 500 and b"Input/output error" in said
        is_broken.clear()
        assert WEIGHTS in [file["rfilename"] for file in served.json(asked)["siblings"]]
    assert any("cannot read" in line for line in errors)


def test_one_models_folder_is_served_under_the_given_name(models: Path) -> None:
    """With --repo the folder is the model; every other name is unknown."""
    with mirror(models / REPO, "--repo", "else/where") as one:
        assert one.ask("/else/where/resolve/main/config.json")[1] == b"{}\n"
        assert one.file("config.json")[0].headers["X-Error-Code"] == "RepoNotFound"


@pytest.mark.fault("T5")
def test_a_token_is_never_served(tmp_path: Path) -> None:
    """Even who names an HF_HOME with --repo does not give his token away, before its first download or after."""
    (tmp_path / "token").write_text("hf_SECRET")
    with mirror(tmp_path, "--repo", REPO) as fresh:
        assert fresh.file("token")[0].status == 401
    fill(tmp_path / "hub" / "models--acme--tiny" / "snapshots" / ("0" * 40))
    with mirror(tmp_path, "--repo", REPO) as used:
        assert used.ask(f"/{REPO}/resolve/{'0' * 40}/token")[0].status == 404
        assert used.ask(f"/{REPO}/resolve/{'0' * 40}/config.json")[1] == b"{}\n"


# --- one file ---


def test_head_names_size_hash_and_commit(models: Path, served: Mirror) -> None:
    """An LFS file is named by its sha256, with the X-Linked headers; a git file by its blob's sha1."""
    sha256 = hashlib.sha256((models / REPO / WEIGHTS).read_bytes()).hexdigest()
    large, body = served.file(WEIGHTS, method="HEAD")
    assert (large.status, body) == (200, b"")
    expected = {
        "ETag": f'"{sha256}"',
        "X-Linked-ETag": f'"{sha256}"',
        "X-Linked-Size": str(WEIGHTS_BYTES),
        "Content-Length": str(WEIGHTS_BYTES),
        "Accept-Ranges": "bytes",
        "X-Repo-Commit": served.commit(),
    }
    assert expected == {name: large.headers[name] for name in expected}
    small, _ = served.file("config.json", method="HEAD")
    assert small.headers["ETag"] == '"0967ef424bce6791893e9a57bb952f80fd536e93"'  # git hash-object of "{}\n"
    assert small.headers["X-Linked-ETag"] is None


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=1000000-1999999", slice(1_000_000, 2_000_000)),
        ("bytes=3000000-", slice(3_000_000, None)),
        ("bytes=-17", slice(-17, None)),
        ("bytes=5-99999999999", slice(5, None)),
    ],
)
def test_a_range_is_answered_with_exactly_its_bytes(models: Path, served: Mirror, asked: str, part: slice) -> None:
    """Single ranges and suffixes bring 206, the bytes, and a Content-Range that names them."""
    content = (models / REPO / WEIGHTS).read_bytes()
    response, body = served.file(WEIGHTS, Range=asked)
    start, stop, _ = part.indices(WEIGHTS_BYTES)
    assert (response.status, body) == (206, content[part])
    assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{WEIGHTS_BYTES}"
    assert response.headers["Content-Length"] == str(stop - start)


@pytest.mark.parametrize("asked", [f"bytes={WEIGHTS_BYTES}-", "bytes=-0"])
def test_a_range_beyond_the_end_is_416(served: Mirror, asked: str) -> None:
    """416 tells the true size, so that a client can see that its idea of the file is wrong."""
    response, _ = served.file(WEIGHTS, Range=asked)
    assert (response.status, response.headers["Content-Range"]) == (416, f"bytes */{WEIGHTS_BYTES}")


def test_conditions(served: Mirror) -> None:
    """If-Range guards a range, If-None-Match saves a transfer, several ranges bring the whole file."""
    etag = served.file("README.md", method="HEAD")[0].headers["ETag"]
    assert served.file("README.md", Range="bytes=2-3", If_Range=etag)[1] == b"ti"
    assert served.file("README.md", Range="bytes=2-3", If_Range='"other"')[1] == b"# tiny\n"
    assert served.file("README.md", Range="bytes=0-1,3-4")[1] == b"# tiny\n"
    response, body = served.file("README.md", If_None_Match=etag)
    assert (response.status, response.headers["ETag"], body) == (304, etag, b"")
    assert served.file("empty.txt")[1] == b""


def test_a_changed_file_is_another_commit(tmp_path: Path) -> None:
    """A change gives the model a new commit and the file a new ETag; the old commit is gone, and If-Range notices."""
    fill(tmp_path / REPO)
    with mirror(tmp_path) as changing:
        before, old = changing.commit(), changing.file("config.json", method="HEAD")[0].headers["ETag"]
        assert changing.ask(f"/{REPO}/resolve/{before}/config.json")[1] == b"{}\n"
        (tmp_path / REPO / "config.json").write_bytes(b'{"new": 1}\n')
        assert changing.commit() != before
        response, _ = changing.ask(f"/{REPO}/resolve/{before}/config.json")
        assert (response.status, response.headers["X-Error-Code"]) == (404, "RevisionNotFound")
        assert changing.file("config.json", Range="bytes=0-1", If_Range=old)[1] == b'{"new": 1}\n'


def test_a_file_that_changes_while_it_is_sent_is_broken_off(tmp_path: Path) -> None:
    """No byte goes out under an ETag that is no longer the file's: the connection breaks instead."""
    fill(tmp_path / REPO)
    errors: list[str] = []
    with mirror(tmp_path, "--rate-limit", "2M", errors=errors) as changing, changing.connect() as connection:
        connection.request("GET", f"/{REPO}/resolve/main/{WEIGHTS}")
        response = connection.getresponse()
        assert len(response.read(1000)) == 1000
        with (tmp_path / REPO / WEIGHTS).open("r+b") as weights:
            weights.write(b"changed")
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            response.read()
    assert any("broke off" in line for line in errors)


# --- listings and refusals ---


def test_a_listing_comes_in_pages(models: Path, tmp_path: Path) -> None:
    """Pages are linked by rel="next" with an absolute URL, hold no entry twice, and the library follows them."""
    with mirror(models, code=SMALL_PAGES) as paged:
        path, seen = f"/api/models/{REPO}/tree/main?recursive=true&expand=false", []
        while path:
            response, body = paged.ask(path)
            seen.append([node["path"] for node in json.loads(body)])
            link = re.fullmatch(rf'<{re.escape(paged.url)}(/.*)>; rel="next"', response.headers.get("Link", ""))
            path = link[1] if link else ""
        assert [len(page) for page in seen] == [2, 2, 2, 1]
        paths = [path for page in seen for path in page]
        assert paths == sorted(contents(models / REPO).keys() | {"transformer"})
        listed = library(paged.url, tmp_path, f"tell(sorted(list_repo_files({REPO!r})))")
        assert listed == sorted(contents(models / REPO))
        assert paged.ask(f"/api/models/{REPO}/tree/main?cursor=%21")[0].status == 400


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/models/acme/none", 401, "RepoNotFound"),
        ("/acme/none/resolve/main/config.json", 401, "RepoNotFound"),
        ("/api/models/acme/tiny/revision/v9", 404, "RevisionNotFound"),
        ("/acme/tiny/resolve/v9/config.json", 404, "RevisionNotFound"),
        ("/acme/tiny/resolve/main/none.json", 404, "EntryNotFound"),
        ("/acme/tiny/resolve/main/transformer", 404, "EntryNotFound"),
        ("/api/models/acme/tiny/tree/main/none", 404, "EntryNotFound"),
        ("/api/agent-harnesses", 404, None),
        ("/", 404, None),
    ],
)
def test_what_is_not_here_is_refused_in_the_hubs_words(
    served: Mirror, path: str, status: int, code: str | None
) -> None:
    """X-Error-Code tells a client which of the three is missing."""
    response, body = served.ask(path)
    assert (response.status, response.headers["X-Error-Code"]) == (status, code)
    assert json.loads(body)["error"] == response.headers["X-Error-Message"]
    assert (response.headers["X-Repo-Commit"] is not None) == (code == "EntryNotFound")


def test_who_has_a_token_is_told_404(served: Mirror) -> None:
    """As the Hub: 401 to strangers, 404 to those it knows (here, any token will do)."""
    assert served.ask("/api/models/acme/none", Authorization="Bearer x")[0].status == 404


def test_a_commit_is_a_revision_too(served: Mirror) -> None:
    """The commit that main resolves to can be pinned."""
    assert served.json(f"/api/models/{REPO}/revision/{served.commit()}") == served.json(f"/api/models/{REPO}")


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_written(served: Mirror, method: str) -> None:
    """Only GET and HEAD, and POST for paths-info alone."""
    assert served.file("config.json", method=method)[0].status == 405


def test_a_foreign_host_name_is_refused(served: Mirror) -> None:
    """On loopback only localhost and addresses are answered: a rebound DNS name is some web page's."""
    assert served.ask(f"/api/models/{REPO}", Host="evil.example")[0].status == 421
    assert served.ask(f"/api/models/{REPO}", Host="localhost:1")[0].status == 200


CLIMBS = [
    b"/acme/tiny/resolve/main/../../../secret",
    b"/acme/tiny/resolve/main/%2e%2e/%2e%2e/%2e%2e/secret",
    b"/acme/tiny/resolve/main/..%2f..%2f..%2fsecret",
    b"/acme/tiny/resolve/main//secret",
    b"/acme/tiny/resolve/main/%2fsecret",
    b"/acme/tiny/resolve/main/config.json%00.txt",
    b"/acme/tiny/resolve/..%2f..%2fmain/config.json",
    b"/../resolve/main/secret",
    b"/acme/../resolve/main/secret",
    b"/acme%2ftiny/tiny/resolve/main/config.json",
    b"/acme/%2e%2e/resolve/main/secret",
    b"/acme/tiny/resolve/main/\xff\xfe",
    b"/acme/tiny/resolve/main/%ff%fe",
    b"/api/models/../../secret",
    b"/api/models/acme/tiny/tree/main/%2e%2e",
    b"/acme/tiny/resolve/main/leak.txt",
    b"/acme/tiny/resolve/main/leaks/secret",
    b"/acme/tiny/resolve/main/.git/config",
    b"/leaks/acme/resolve/main/secret",
    b"http://evil.example/acme/tiny/resolve/main/../secret",
]


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mirror, list[str]]]:
    """A mirror whose folder is full of ways out."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret").write_text("SECRET")
    (outside / "acme").mkdir()
    (outside / "acme" / "secret").write_text("SECRET")
    root = outside / "served"
    home = root / REPO
    fill(home)
    (home / "inside.txt").symlink_to("README.md")
    (home / "leak.txt").symlink_to("../../../secret")
    (home / "absolute.txt").symlink_to(outside / "secret")
    (home / "leaks").symlink_to(outside)
    (home / "loop").symlink_to("loop")
    (home / ".git").mkdir()
    (home / ".git" / "config").write_text("SECRET")
    (root / "leaks").symlink_to(outside)
    os.mkfifo(home / "pipe")
    errors: list[str] = []
    with mirror(root, "--verbose", errors=errors) as running:
        yield running, errors


@pytest.mark.fault("X7")
@pytest.mark.parametrize("target", CLIMBS)
def test_nothing_outside_the_folder_is_served(trap: tuple[Mirror, list[str]], target: bytes) -> None:
    """Whatever a path looks like, it is refused, and no byte from outside comes back."""
    answer = trap[0].raw(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] 4\d\d ", answer), answer[:200]
    assert b"SECRET" not in answer


@pytest.mark.fault("X7")
def test_links_count_only_inside_the_folder(trap: tuple[Mirror, list[str]]) -> None:
    """A link to a file inside is that file; links out, loops, pipes and .git are not listed."""
    listed = {s["rfilename"] for s in trap[0].json(f"/api/models/{REPO}")["siblings"]}
    assert "inside.txt" in listed
    assert listed.isdisjoint({"leak.txt", "absolute.txt", "loop", "pipe", ".git/config", "leaks/secret"})
    assert trap[0].file("inside.txt")[1] == b"# tiny\n"


@pytest.mark.fault("S2")
def test_garbage_does_not_stop_it(trap: tuple[Mirror, list[str]]) -> None:
    """Bytes that are no HTTP get 400, and the next request is answered."""
    assert trap[0].raw(b"\x16\x03\x01\x02\x00\x01\r\n\r\n").startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
    assert trap[0].file("config.json")[0].status == 200


# --- counting and pacing ---


def test_bytes_sent_twice_are_told(models: Path) -> None:
    """The server counts what it sent, per range; overlap of ranges is what was sent twice."""
    with mirror(models) as counted:
        counted.file(WEIGHTS, Range="bytes=0-999")
        counted.file(WEIGHTS, Range="bytes=500-1499")
        counted.file("config.json")
        counted.file("config.json", method="HEAD")
        stats = counted.stats()
    assert stats == {
        "bytes_sent": 2003,
        "bytes_sent_twice": 500,
        "requests": 4,
        "files": {
            f"{REPO}:{WEIGHTS}": {"bytes_sent": 2000, "bytes_sent_twice": 500, "ranges": [[0, 1000], [500, 1500]]},
            f"{REPO}:config.json": {"bytes_sent": 3, "bytes_sent_twice": 0, "ranges": [[0, 3]]},
        },
    }


def test_what_a_vanished_client_was_sent_is_counted(models: Path) -> None:
    """A client that goes in the middle leaves a range that covers what it read, and not the whole file."""
    with mirror(models, "--rate-limit", "1M") as counted:
        with counted.connect() as connection:
            connection.request("GET", f"/{REPO}/resolve/main/{WEIGHTS}", headers={"Range": "bytes=1000-"})
            response = connection.getresponse()
            assert len(response.read(200_000)) == 200_000
            response.close()
        ((start, end),) = counted.stats()["files"][f"{REPO}:{WEIGHTS}"]["ranges"]
    assert start == 1000
    assert 201_000 <= end < WEIGHTS_BYTES


def test_the_rate_limit_is_shared_fairly(models: Path) -> None:
    """Two downloads that run at once are sent about the same (generous: a factor, not a time)."""

    def sent() -> list[int]:
        return [end - start for start, end in slow.stats()["files"][f"{REPO}:{WEIGHTS}"]["ranges"]]

    with mirror(models, "--rate-limit", "1500k") as slow, slow.connect() as one, slow.connect() as other:
        responses = []
        for connection in (one, other):
            connection.request("GET", f"/{REPO}/resolve/main/{WEIGHTS}")
            responses.append(connection.getresponse())
        assert all(response.read(1) for response in responses)  # both are under way
        before = after = sent()
        while sum(after) - sum(before) < 700_000:
            for response in responses:
                assert response.read(8192)
            after = sent()
        grown = [now - then for now, then in zip(after, before, strict=True)]
    assert len(grown) == 2
    assert min(grown) > max(grown) / 4


async def test_a_pace_is_kept_over_all_callers() -> None:
    """However many take turns, no more goes out than the limit and one piece."""
    limit_bps, loop = 4_000_000, asyncio.get_running_loop()
    pace, sent, began_s = Pace(limit_bps), 0, loop.time()

    async def send() -> None:
        nonlocal sent
        for _ in range(4):
            await pace.take(PIECE_BYTES)
            sent += PIECE_BYTES
            assert sent <= (loop.time() - began_s + 0.06) * limit_bps + PIECE_BYTES

    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(send())
    assert sent == 16 * PIECE_BYTES


def test_pieces_shrink_with_the_limit() -> None:
    """At low limits bytes still flow many times a second; without one, pieces are 64 KiB."""
    assert [Pace(limit).piece_bytes for limit in (None, 10**9, 160_000, 10)] == [65536, 65536, 10_000, 1024]


# --- the command line ---


@pytest.mark.fault("X2")
def test_requests_are_told_one_per_line_and_escaped(models: Path) -> None:
    """--verbose writes a line for each request; names cannot forge lines or reach the terminal."""
    errors: list[str] = []
    with mirror(models, "--verbose", errors=errors) as told:
        told.raw(b"GET /acme/tiny/resolve/main/\xd1\x91\xff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        told.file("config.json", Range="bytes=0-1")
    assert any(f"GET /{REPO}/resolve/main/config.json bytes=0-1 206" in line for line in errors)
    assert all(line.isascii() and line.isprintable() for line in errors)
    assert any(f"serving {REPO}" in line for line in errors)


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error\[E_USAGE\]: .+\n  why: .+\n  fix: .+\n", captured.err)
    return captured.err


def test_bad_input_is_explained(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Each wrong argument brings what, why and fix, and exit code 2."""
    here, listen = str(tmp_path), ("--listen", "127.0.0.1:0")
    snapshot = tmp_path / "models--a--b" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    assert "not a folder" in usage_error(capsys, str(tmp_path / "none"), *listen)
    assert str(tmp_path) in usage_error(capsys, str(snapshot), *listen)
    assert "--allow-lan" in usage_error(capsys, here, "--listen", "0.0.0.0:0")
    assert "--allow-lan" in usage_error(capsys, here, "--listen", "example.org:0")
    assert "HOST:PORT" in usage_error(capsys, here, "--listen", "8090")
    assert "HOST:PORT" in usage_error(capsys, here, "--listen", "127.0.0.1:99999")
    assert "ORG/NAME" in usage_error(capsys, here, *listen, "--repo", "../x")
    assert "bytes per second" in usage_error(capsys, here, *listen, "--rate-limit", "fast")
    assert "--bogus" in usage_error(capsys, here, *listen, "--bogus")
    assert "--listen" in usage_error(capsys, here)


def test_a_port_in_use_is_explained(models: Path, served: Mirror, capsys: pytest.CaptureFixture[str]) -> None:
    """The second listener fails with exit code 1 and says so."""
    assert main([str(models), "--listen", served.url.removeprefix("http://")]) == 1
    assert capsys.readouterr().err.startswith("error[E_PORT_IN_USE]: cannot listen on 127.0.0.1:")


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    """--help ends well and shows how to use both ends."""
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    text = capsys.readouterr().out
    assert left.value.code == 0
    assert "HF_ENDPOINT=" in text
    assert "examples:" in text


def test_an_open_listener_warns(tmp_path: Path) -> None:
    """--allow-lan serves, and warns that everyone can read; an empty folder is remarked on."""
    command = [sys.executable, "-c", COMMAND, str(tmp_path), "--listen", "0.0.0.0:0", "--allow-lan"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://0.0.0.0:")
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "every machine" in errors
    assert "holds no model" in errors


# --- pure parts: trees ---


def test_the_default_gitattributes_is_complete() -> None:
    """The Hub's default file has 35 lines and 1,519 bytes; so has the one built from these patterns."""
    lines = [f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in tree.LFS_PATTERNS]
    assert (len(lines), sum(map(len, lines))) == (35, 1519)


@pytest.mark.parametrize(
    ("path", "size_bytes", "lfs"),
    [
        ("model.safetensors", 0, True),
        ("a/b/model-00001-of-00002.safetensors", 1, True),
        ("tokenizer.model", 1, True),
        ("saved_model/assets/vocab.txt", 1, True),
        ("runs/events.out.tfevents.1", 1, True),
        ("a.tar.gz.txt", 1, True),
        ("model.safetensors.index.json", 1, False),
        ("config.json", 10 * 1024 * 1024, False),
        ("processor/tokenizer.json", 10 * 1024 * 1024 + 1, True),
        ("x/saved_model/a.txt", 1, False),
    ],
)
def test_which_files_are_lfs(path: str, size_bytes: int, lfs: bool) -> None:
    """By name as the default .gitattributes has it, or by size."""
    assert tree.is_lfs(path, size_bytes) == lfs


def entry(path: str, size_bytes: int = 1, sha256: str | None = None) -> tree.Entry:
    return tree.Entry(path=path, size_bytes=size_bytes, git_oid="0" * 40, sha256=sha256)


def test_an_lfs_pointer_is_gits() -> None:
    """The pointer has git-lfs's text (its specification's example), and its git oid is the pointer's."""
    sha256 = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
    pointer = tree.pointer_bytes(sha256, 12345)
    expected = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize 12345\n"
    assert pointer.decode() == expected
    lfs = tree.lfs_entry("a.bin", 12345, sha256)
    assert lfs.git_oid == hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()
    assert lfs.etag == sha256


def test_a_listing_is_named_by_its_content() -> None:
    """Order does not matter; a name, a size or a hash does."""
    a, b = entry("a"), entry("b")
    name = tree.listing_id([a, b])
    assert re.fullmatch("[0-9a-f]{40}", name)
    assert name == tree.listing_id([b, a])
    others = ([a], [a, entry("c")], [a, entry("b", 2)], [a, entry("b", sha256="1" * 64)])
    assert name not in [tree.listing_id(other) for other in others]


def test_a_folder_that_is_none_is_refused() -> None:
    """A file is no folder, and neither is a name's beginning."""
    for under in ("a/b", "a/bc.txt/", "x"):
        with pytest.raises(tree.NoSuchFolderError):
            tree.nodes([entry("a/bc.txt")], under=under, recursive=True)


paths = st.lists(st.text("abé", min_size=1, max_size=2), min_size=1, max_size=3).map("/".join)


@given(st.sets(paths, max_size=20), st.integers(1, 5))
def test_pages_make_up_the_listing(names: set[str], limit: int) -> None:
    """Whatever the page size: every node once, in order, and no page is empty but an empty listing's."""
    files = {name for name in names if not any(other.startswith(f"{name}/") for other in names)}
    listed = tree.nodes([entry(name) for name in files], under="", recursive=True)
    pages, cursor = [], None
    while not pages or cursor is not None:
        part, cursor = tree.page(listed, cursor=cursor, limit=limit)
        pages.append(part)
    assert [node for part in pages for node in part] == list(listed)
    assert all(1 <= len(part) <= limit for part in pages) or not listed
    assert {node.path for node in listed if isinstance(node, tree.Entry)} == files


@given(st.text(max_size=20))
def test_a_foreign_cursor_never_breaks(cursor: str) -> None:
    """A made-up cursor is refused or is some place in the listing."""
    try:
        part, _ = tree.page([entry("a"), entry("b")], cursor=cursor, limit=5)
    except tree.BadCursorError:
        return
    assert len(part) <= 2


# --- pure parts: ranges ---


@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60))
def test_a_range_is_a_python_slice(size: int, first: int, last: int) -> None:
    """Every form of a single range selects what the same slice would, or is refused as the RFC says."""
    whole = bytes(range(size))
    suffix = asked_range(f"bytes=-{last}", size)
    assert isinstance(suffix, Unsatisfiable) == (last == 0 or size == 0)
    if isinstance(suffix, Slice):
        assert whole[suffix.start : suffix.stop] == whole[-last:]
    tail = asked_range(f"bytes={first}-", size)
    assert tail == (Slice(start=first, stop=size) if first < size else Unsatisfiable())
    both = asked_range(f"bytes={first}-{last}", size)
    if last < first:
        assert both is None
    elif isinstance(both, Slice):
        assert whole[both.start : both.stop] == whole[first : last + 1]
        assert both.length > 0
    else:
        assert both == Unsatisfiable()
        assert first >= size


@pytest.mark.parametrize(
    "header",
    [None, "", "bytes", "bytes=", "bytes=-", "bytes=a-b", "items=0-1", "bytes=0-1,2-3", "bytes=" + "9" * 5000 + "-"],
)
def test_what_is_no_single_range_is_ignored(header: str | None) -> None:
    """Nonsense and several ranges mean the whole file."""
    assert asked_range(header, 10) is None


def test_conditions_compare_tags() -> None:
    """If-Range is strict; If-None-Match takes lists, weak tags and the star."""
    assert range_applies(None, "a")
    assert range_applies('"a"', "a")
    assert not range_applies('W/"a"', "a")
    assert not range_applies("Mon, 23 Nov 2026 07:58:16 GMT", "a")
    assert is_known('"x", W/"a"', "a")
    assert is_known("*", "a")
    assert not is_known('"x"', "a")
    assert not is_known(None, "a")


# --- pure parts: counting ---

ranges = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted).map(tuple), max_size=12)


@given(ranges)
def test_sent_twice_is_what_a_byte_by_byte_count_says(sent: list[tuple[int, int]]) -> None:
    """A byte sent n times counts n - 1."""
    counts = Counter(byte for start, end in sent for byte in range(start, end))
    assert bytes_sent_twice(sent) == sum(n - 1 for n in counts.values())
    assert {byte for start, end in union(sent) for byte in range(start, end)} == set(counts)


def test_sent_twice_examples() -> None:
    """Apart, touching, overlapping, three times."""
    assert bytes_sent_twice([]) == 0
    assert bytes_sent_twice([(0, 5), (5, 9)]) == 0
    assert bytes_sent_twice([(0, 5), (3, 9)]) == 2
    assert bytes_sent_twice([(0, 5), (0, 5), (0, 5)]) == 10


def test_totals_survive_the_merging_of_ranges() -> None:
    """A file's list of ranges stays bounded; what was sent, and sent twice, is still told."""
    tally, times = Tally(), RANGES_KEPT_MAX * 2 + 10
    for number in range(times):
        sending = tally.begin("a/b:c", number % 7)
        sending.wrote(10)
        tally.finish("a/b:c", sending)
    stats = tally.stats().files["a/b:c"]
    assert (stats.bytes_sent, stats.bytes_sent_twice) == (times * 10, times * 10 - 16)
    assert len(stats.ranges) <= RANGES_KEPT_MAX


# --- pure parts: names ---


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/api/models/a/b", InfoRoute(repo="a/b", revision="main")),
        ("/api/models/a/b/revision/refs%2Fpr%2F1", InfoRoute(repo="a/b", revision="refs/pr/1")),
        ("/api/models/a/b/tree/main", TreeRoute(repo="a/b", revision="main", path="")),
        ("/api/models/a/b/tree/main/c/d%20e", TreeRoute(repo="a/b", revision="main", path="c/d e")),
        ("/api/models/a/b/paths-info/v1", PathsInfoRoute(repo="a/b", revision="v1")),
        ("/a/b/resolve/main/c%2Fd", ResolveRoute(repo="a/b", revision="main", path="c/d")),
        ("/a/b/resolve/main/%252e%252e", ResolveRoute(repo="a/b", revision="main", path="%2e%2e")),
        ("/-/mirror/stats", StatsRoute()),
        ("/a/b/resolve/main", None),
        ("/api/whoami-v2", None),
        ("/datasets/a/b/resolve/main/c", None),
    ],
)
def test_paths_are_read_as_the_hub_reads_them(path: str, route: object) -> None:
    """Each route of the Hub that is served, and nothing else."""
    assert read_path(path) == route


@pytest.mark.fault("X7")
@given(st.text(alphabet="./%2eEfF05ab\0\\é", max_size=40))
def test_no_route_can_climb(text: str) -> None:
    """Whatever is sent, a route's names have no empty, dot or NUL parts."""
    try:
        route = read_path(f"/a/b/resolve/main/{text}")
    except BadPathError:
        return
    if isinstance(route, ResolveRoute):
        assert not {"", ".", ".."} & set(route.path.split("/"))
        assert "\0" not in route.path


def test_which_names_are_repositories() -> None:
    """Only what the Hub accepts as org/name: such a name stays inside its folder."""
    for good in ("acme/tiny", "Qwen/Qwen-Image-Edit-2511", "a/b.c_d", "_a/b"):
        assert is_repo_id(good)
    for bad in ("acme", "a/b/c", "../b", "a/..", ".a/b", "a/b--c", "a/b.git", "a/", "/b", "a/b\n", "a/ b", "a/-b"):
        assert not is_repo_id(bad)


def test_which_hosts_are_this_machine() -> None:
    """Loopback is decided without DNS, and so is the Host header."""
    assert all(map(is_loopback, ("127.0.0.1", "127.8.9.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.2", "example.org", "")))
    assert all(map(is_local_name, ("localhost", "LOCALHOST:80", "a.localhost", "127.0.0.1:80", "[::1]:80", "10.0.0.1")))
    assert not any(map(is_local_name, ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "")))


def test_printable_escapes() -> None:
    """Control characters, other scripts and lone surrogates become visible ASCII."""
    assert printable("a\x1b[2J\nё\udcff") == "a\\x1b[2J\\n\\u0451\\udcff"
