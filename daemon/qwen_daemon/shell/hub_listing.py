"""The files of a commit as the Hub's API tells them, pieced together where a mirror tells only a part.

Asked with huggingface_hub, which `hub` hands over; whatever it raises goes through to there. A listing that a mirror
cut short must never pass for the whole repository: it is completed, or taken from the model's info, or refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from huggingface_hub import HfApi, RepoFile, RepoFolder
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo, RepoSibling

from qwen_api.manifest import FILES_MAX, BadManifest, WantedFile
from qwen_api.models import DEFAULT_REVISION, is_commit

INFO_TIMEOUT_S = 30.0  # one answer
FOLDERS_MAX = 1000  # folders listed one by one where a server does not list the whole tree at once


def every_file(api: HfApi, repo: str, commit: str) -> list[WantedFile]:
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
        if not _is_unknown_address(error) and not isinstance(error, RevisionNotFoundError):
            raise
        files = None  # the info, if it has this commit, is the last word
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
                if len(named) > FILES_MAX:
                    raise BadManifest(f"the listing has more than {FILES_MAX} folders")
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
        if _is_unknown_address(error) or isinstance(error, RevisionNotFoundError):
            return frozenset()
        raise


def _siblings(api: HfApi, repo: str, commit: str, *, blobs: bool) -> list[RepoSibling]:
    info = info_at(api, repo, commit, blobs=blobs)
    return list(info.siblings or ()) if info.sha == commit else []


def info_at(api: HfApi, repo: str, revision: str, *, blobs: bool = False) -> ModelInfo:
    """The model's info at a revision. Raises what huggingface_hub raises.

    Some mirrors know the default branch's only, or have no address for revisions at all: there it is asked for the
    default branch, and its `sha` says whether it is the commit that was meant.
    """
    try:
        return api.model_info(repo, revision=revision, files_metadata=blobs, timeout=INFO_TIMEOUT_S)
    except HfHubHTTPError as error:
        is_default = revision == DEFAULT_REVISION and _is_unknown_address(error)
        is_of_default = is_commit(revision) and (_is_unknown_address(error) or isinstance(error, RevisionNotFoundError))
        if not is_default and not is_of_default:
            raise
        info = api.model_info(repo, files_metadata=blobs, timeout=INFO_TIMEOUT_S)
        if is_of_default and info.sha != revision:
            raise
        return info


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
        sha256=_bare(sibling.lfs.sha256) if sibling.lfs else None,
    )


def _wanted(entry: RepoFile) -> WantedFile:
    xet_hash = entry.xet_hash
    return WantedFile(
        path=entry.path,
        size_bytes=entry.lfs.size if entry.lfs else entry.size,
        git_sha1=entry.blob_id,
        sha256=_bare(entry.lfs.sha256) if entry.lfs else None,
        xet_hash=xet_hash if isinstance(xet_hash, str) and len(xet_hash) == 64 and xet_hash.isalnum() else None,
    )


def _bare(sha256: str) -> str:
    """Git LFS writes `sha256:<hash>`, the Hub the hash alone; some mirrors keep LFS's form."""
    return sha256.removeprefix("sha256:")


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
