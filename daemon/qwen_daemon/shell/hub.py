"""What the Hub knows of a repository, through huggingface_hub: the only module of the daemon that imports it.

Its calls block, so each runs in a thread; its exceptions are translated at the door. The listing is turned into a
Manifest, which refuses hostile names, sizes and hashes as a whole. A listing that a mirror cut short must never pass
for the whole repository: it is completed, or taken from the model's info, or refused.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, cast

import httpx2
import huggingface_hub
from huggingface_hub import HfApi, RepoFile, RepoFolder
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import (  # type: ignore[attr-defined] # exported lazily, which mypy does not see
    build_hf_headers,
    filter_repo_objects,
    hf_raise_for_status,
)
from huggingface_hub.utils._http import default_client_factory

from qwen_api.manifest import FILES_MAX, BadManifest, Manifest, WantedFile, make_manifest
from qwen_api.models import ModelRef, is_commit
from qwen_daemon.core.errors import AskHuman, Trouble, TryAgain
from qwen_daemon.core.verdict import Answer, judge_refusal

ANSWER_TIMEOUT_S = 120.0  # a listing of many pages, with huggingface_hub's own retries of each
INFO_TIMEOUT_S = 30.0  # one answer
FOLDERS_MAX = 1000  # folders listed one by one where a server does not list the whole tree at once

T = TypeVar("T")


class HubApi:
    """ports.Hub over huggingface_hub. `token` reads the current token at each call; None asks anonymously."""

    def __init__(self, endpoint: str, token: Callable[[], str | None]) -> None:
        self._endpoint = endpoint
        self._token = token
        huggingface_hub.set_client_factory(_client)

    async def resolve(self, ref: ModelRef) -> str:
        """See ports.Hub."""

        def ask(api: HfApi) -> str | None:
            return api.model_info(ref.repo, revision=ref.revision, timeout=INFO_TIMEOUT_S).sha

        commit = await self._call(ask)
        if commit is None or not is_commit(commit):
            raise AskHuman("E_LISTING", "the Hub gave no commit for this revision")
        return commit

    async def list_files(self, repo: str, commit: str) -> Manifest:
        """See ports.Hub."""

        def ask(api: HfApi) -> Manifest:
            return make_manifest(repo, commit, _every_file(api, repo, commit))

        return await self._call(ask)

    async def _call(self, ask: Callable[[HfApi], T]) -> T:
        api = HfApi(endpoint=self._endpoint, token=self._token() or False)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await _apart(lambda: ask(api))
        except BadManifest as error:
            raise AskHuman("E_LISTING", str(error)) from error
        except Exception as error:
            # huggingface_hub promises no closed set of exceptions (httpx2's, its own, ValueError for bad answers).
            raise translate(error) from error


def select(manifest: Manifest, include: Sequence[str], exclude: Sequence[str]) -> Manifest:
    """The files that `hf download --include ... --exclude ...` would take, by its own code."""
    if not include and not exclude:
        return manifest
    paths = filter_repo_objects(
        [f.path for f in manifest.files], allow_patterns=list(include) or None, ignore_patterns=list(exclude) or None
    )
    return manifest.keep(paths)


def user_agent() -> str:
    """The User-Agent of our own requests, in huggingface_hub's form."""
    version = importlib.metadata.version("qwen-daemon")
    headers = build_hf_headers(token=False, library_name="qwen-daemon", library_version=version)
    return str(headers["user-agent"])


def read_token(env: Mapping[str, str]) -> str | None:
    """The token now: systemd's credential `hf-token` (unless it is the word anonymous), else huggingface_hub's own."""
    folder = env.get("CREDENTIALS_DIRECTORY")
    if folder and (credential := Path(folder) / "hf-token").is_file():
        token = credential.read_text().strip()
        return token if token and token != "anonymous" else None  # noqa: S105 - the unit file's stand-in for "none"
    return huggingface_hub.get_token()


def quiet() -> None:
    """huggingface_hub's own log lines and bars are not the daemon's."""
    huggingface_hub.utils.logging.set_verbosity(logging.ERROR)


def translate(error: Exception) -> Trouble:
    """Which trouble a failed call is. Foreign messages are cut: they may hold addresses."""
    if isinstance(error, TimeoutError):
        return TryAgain("E_TIMEOUT", "the Hub did not answer in time")
    if isinstance(error, GatedRepoError):
        return AskHuman("E_GATED", "access to this repository must be granted on the Hub first")
    if isinstance(error, DisabledRepoError):
        return AskHuman("E_DISABLED", "the Hub has disabled this repository")
    if isinstance(error, RevisionNotFoundError):
        return AskHuman("E_REVISION_NOT_FOUND", "the repository has no such revision")
    if isinstance(error, RepositoryNotFoundError):
        return AskHuman("E_NOT_FOUND", "no such repository, or it is private and the token may not see it")
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        headers = {name.lower(): value for name, value in error.response.headers.items()}
        return judge_refusal(Answer(status=error.response.status_code, headers=headers, from_hub=True))
    kind = type(error).__name__
    if isinstance(error, (ValueError, KeyError, TypeError, AttributeError)) and not isinstance(error, OSError):
        return TryAgain("E_LISTING", f"the Hub's answer could not be read ({kind})")
    return TryAgain("E_NETWORK", f"the Hub could not be reached ({kind})")


async def _apart(work: Callable[[], T]) -> T:
    """Run blocking work in a thread that nobody waits for when this task is cancelled.

    huggingface_hub cannot be interrupted (it sleeps between tries, and its listing calls have no timeout); a worker of
    the loop's pool would hold up the end of the process for as long.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(cast("T", result))

    def run() -> None:
        result, failed = None, None
        try:
            result = work()
        except BaseException as error:
            failed = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, result, failed)

    threading.Thread(target=run, name="hub", daemon=True).start()
    return await outcome


def _client() -> httpx2.Client:
    """huggingface_hub's own client, but refusals are raised at once: when to ask again is the engine's to say.

    Otherwise its listing call sleeps through a rate limit (six tries, minutes) without anybody seeing it.
    """
    client = default_client_factory()
    client.event_hooks = {**client.event_hooks, "response": [_raise_refusal]}
    return client


def _raise_refusal(response: httpx2.Response) -> None:
    if response.status_code >= 400:
        response.read()
        hf_raise_for_status(response)


def _every_file(api: HfApi, repo: str, commit: str) -> list[WantedFile]:
    """The files of a commit, seen from two sides: the tree, and the names in the model's info.

    Caching proxies drop query strings (then the tree has its top level only) and Link headers (then its first page
    only); some mirrors have no tree at all. What the tree lacks, the info with its hashes must have.
    """
    names = _names(api, repo, commit)
    try:
        files = _bounded(_walk(api, repo, commit))
    except (KeyError, TypeError, AttributeError):  # entries without what huggingface_hub 2.4 needs of them
        files = None
    except HfHubHTTPError as error:
        if not _is_unknown_address(error):
            raise
        files = None
    if files is not None and names <= {file.path for file in files}:
        return files
    return _bounded(_stated(sibling) for sibling in _siblings(api, repo, commit, blobs=True))


def _walk(api: HfApi, repo: str, commit: str) -> Iterator[WantedFile]:
    """The whole tree; folders that come without their files are listed by themselves (git has no empty ones)."""
    open_folders, asked, filled = [""], 0, set[str]()
    while open_folders and asked <= FOLDERS_MAX:
        folder, asked = open_folders.pop(), asked + 1
        named: list[str] = []
        for entry in api.list_repo_tree(repo, folder or None, revision=commit, recursive=True):
            if isinstance(entry, RepoFolder):
                named.append(entry.path)
                continue
            filled.update(parent for parent in _parents(entry.path))
            yield _wanted(entry)
        # A parent's listing brings its children's too, so only the topmost are asked for.
        bare = sorted(
            {path for path in named if path not in filled and path.startswith(f"{folder}/" if folder else "")}
        )
        open_folders += [path for path in bare if not any(path.startswith(f"{other}/") for other in bare)]
    if open_folders:
        raise BadManifest(f"the listing leaves more than {FOLDERS_MAX} folders empty")


def _parents(path: str) -> Iterator[str]:
    return (path[:i] for i, letter in enumerate(path) if letter == "/")


def _names(api: HfApi, repo: str, commit: str) -> frozenset[str]:
    """The files that the model's info names; none where a server knows no info of a commit."""
    try:
        return frozenset(sibling.rfilename for sibling in _siblings(api, repo, commit, blobs=False))
    except HfHubHTTPError as error:
        if _is_unknown_address(error):
            return frozenset()
        raise


def _siblings(api: HfApi, repo: str, commit: str, *, blobs: bool) -> list[RepoSibling]:
    info = api.model_info(repo, revision=commit, files_metadata=blobs, timeout=INFO_TIMEOUT_S)
    return list(info.siblings or ()) if info.sha == commit else []


def _is_unknown_address(error: HfHubHTTPError) -> bool:
    """The server does not serve this, rather than refuse it: no repository, revision or access is in question."""
    refused = (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError, DisabledRepoError)
    return (
        error.response is not None and error.response.status_code in (404, 405, 501) and not isinstance(error, refused)
    )


def _stated(sibling: RepoSibling) -> WantedFile:
    """A file of the model's info. Without size and hash nothing could be verified, so that is no listing."""
    size = sibling.lfs.size if sibling.lfs else sibling.size
    if size is None or sibling.blob_id is None:
        raise BadManifest(
            f"the server's tree is not the whole repository, and its info has no hash of {sibling.rfilename!r}"
        )
    return WantedFile(
        path=sibling.rfilename,
        size_bytes=size,
        git_sha1=sibling.blob_id,
        sha256=sibling.lfs.sha256 if sibling.lfs else None,
    )


def _wanted(entry: RepoFile) -> WantedFile:
    xet_hash = entry.xet_hash
    return WantedFile(
        path=entry.path,
        size_bytes=entry.lfs.size if entry.lfs else entry.size,
        git_sha1=entry.blob_id,
        sha256=entry.lfs.sha256 if entry.lfs else None,
        xet_hash=xet_hash if isinstance(xet_hash, str) and len(xet_hash) == 64 and xet_hash.isalnum() else None,
    )


def _bounded(files: Iterable[WantedFile]) -> list[WantedFile]:
    """At most FILES_MAX files, and never the same page twice (a server whose cursor runs in circles)."""
    taken: list[WantedFile] = []
    seen: set[str] = set()
    for file in files:
        if file.path in seen:
            raise BadManifest(f"the listing names {file.path!r} twice")
        if len(taken) == FILES_MAX:
            raise BadManifest(f"the listing has more than {FILES_MAX} files")
        seen.add(file.path)
        taken.append(file)
    return taken
