"""Finds the models in a folder: plain folders, an HF cache, or one model's own folder. It only reads.

Nothing that a client sends is ever joined to a path, but for an ``org/name`` that has passed `is_repo_id`:
revisions and file names are looked up in what a walk of the folder has found, so there is no path to climb out
by. Links count only when they end inside the folder. Reading bytes and hashing is left to ``hash``.
"""

import asyncio
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from qwen_api.undecodable import UNDECODABLE
from qwen_daemon.mirror import tree
from qwen_daemon.mirror.hash import FileChangedError, Found, Hasher, Stamp
from qwen_daemon.mirror.routes import DEFAULT_REVISION, is_repo_id
from qwen_daemon.mirror.tree import Entry

DEPTH_MAX = 32  # of folders in a model; the Hub's own are one or two deep
FRESH_S = 2.0  # how long a commit's listing is served without looking at the folder again
LOOKS_MAX = 3  # at a folder that changes while it is looked at, before the client is told to come back
REF_BYTES_MAX = 128  # a ref holds 40
TREE_BYTES_MAX = 256 * 1024 * 1024  # of a trees/<commit>.json: a million files

# Not the model's: git's own folder, what `hf download --local-dir` keeps beside the files, and our part files.
_NOT_SERVED = frozenset({".git", ".cache", ".huggingface"})
_PART_FILE = re.compile(r"\.qwen-.*\.part", re.DOTALL)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CACHE_PREFIX = "models--"


class RepoMissingError(LookupError):
    """No such model here: answer RepoNotFound."""


class RevisionMissingError(LookupError):
    """The model has no such revision here: answer RevisionNotFound."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """All files of one commit. An entry with no file on disk is one that this copy of the commit lacks."""

    commit: str
    entries: Mapping[str, Entry]
    on_disk: Mapping[str, Found]
    modified_ns: int  # of the newest file, since the epoch


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """What one walk has found. Without a commit it follows from the files; without a tree they are all there is."""

    commit: str | None
    tree: Mapping[str, Entry] | None
    on_disk: Mapping[str, Found]


_Sha1 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}\Z")]
_Sha2 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class _TreeFile(msgspec.Struct, frozen=True):
    size: Annotated[int, msgspec.Meta(ge=0)]
    blob_id: _Sha1
    lfs_sha256: _Sha2 | None = None


class _TreeCache(msgspec.Struct, frozen=True):
    format_version: int
    files: dict[str, _TreeFile]


class Folder:
    """The models below ``root``; with ``repo`` only that one, which ``root`` is unless it is a cache.

    ``notes`` is told, once each and from any thread, of files that are left out.
    """

    def __init__(self, root: Path, *, repo: str | None, hasher: Hasher, notes: Callable[[str], None]) -> None:
        self._root = root.resolve()
        self._repo = repo
        self._hasher = hasher
        self._notes = notes
        self._noted: set[str] = set()
        self._recent: dict[str, tuple[float, Listing]] = {}  # by repository: when it was looked at, and what was seen

    async def listing(self, repo: str, revision: str) -> Listing:
        """Look at one revision of one model, waiting until its files are hashed.

        A commit that was seen just now is not looked at again: each request of a download of thousands of files would
        walk all of them. What a file's stamp says is checked when it is opened.

        Raises:
            RepoMissingError, RevisionMissingError: it is not here.
            FileChangedError: the folder changes all the time.
            OSError: a file cannot be read.
        """
        seen_s, recent = self._recent.get(repo, (0.0, None))
        if recent is not None and recent.commit == revision and time.monotonic() - seen_s < FRESH_S:
            return recent
        for _ in range(LOOKS_MAX - 1):
            try:
                return self._remember(repo, await self._listing(repo, revision))
            except FileChangedError:
                continue
        return self._remember(repo, await self._listing(repo, revision))

    def forget(self) -> None:
        """A file turned out to have changed: look anew at the next request."""
        self._recent.clear()

    def _remember(self, repo: str, listing: Listing) -> Listing:
        self._recent[repo] = time.monotonic(), listing
        return listing

    async def _listing(self, repo: str, revision: str) -> Listing:
        look = await asyncio.to_thread(self._look, repo, revision)
        entries = look.tree if look.tree is not None else await self._entries(look)
        commit = look.commit or tree.listing_id(entries.values())
        if look.commit is None and revision not in (DEFAULT_REVISION, commit):
            raise RevisionMissingError(revision)
        on_disk = {
            path: found
            for path, found in look.on_disk.items()
            # A cut-off file is no copy of the commit's.
            if path in entries and entries[path].size_bytes == found.stamp.size_bytes
        }
        newest = max((found.stamp.mtime_ns for found in on_disk.values()), default=0)
        return Listing(commit=commit, entries=entries, on_disk=on_disk, modified_ns=newest)

    async def _entries(self, look: _Look) -> dict[str, Entry]:
        known = {path: entry for path, found in look.on_disk.items() if (entry := _entry_by_blob_name(found))}
        unknown = [found for path, found in look.on_disk.items() if path not in known]
        hashed = {entry.path: entry for entry in await self._hasher.entries(unknown)}
        return {path: known.get(path) or hashed[path] for path in sorted(look.on_disk)}

    def _look(self, repo: str, revision: str) -> _Look:
        home = self._home(repo)
        if not _is_storage(home):
            return _Look(commit=None, tree=None, on_disk=self._walk(home, skip=_NOT_SERVED))
        commit = _commit_of(home, revision)
        snapshot, tree_file = (
            self._inside(home / "snapshots" / commit),
            self._inside(home / "trees" / f"{commit}.json"),
        )
        if snapshot is None:
            raise RevisionMissingError(revision)
        tree = _cached_tree(tree_file) if tree_file is not None else None
        return _Look(commit=commit, tree=tree, on_disk=self._walk(snapshot, skip=frozenset()))

    def _home(self, repo: str) -> Path:
        """Return the folder that holds a model: real, and inside the root."""
        if not is_repo_id(repo) or self._repo not in (None, repo):
            raise RepoMissingError(repo)
        if (cache := cache_in(self._root)) is not None:
            home = cache / (_CACHE_PREFIX + repo.replace("/", "--"))
        else:
            home = self._root if self._repo is not None else self._root / repo
        inside = self._inside(home)
        if inside is None or not inside.is_dir():
            raise RepoMissingError(repo)
        return inside

    def _inside(self, path: Path) -> Path | None:
        """Resolve a path's links; None when it then lies outside the root, or leads nowhere."""
        try:
            real = Path(os.path.realpath(path, strict=True))
        except OSError:
            return None
        return real if real.is_relative_to(self._root) else None

    def _walk(self, top: Path, *, skip: frozenset[str]) -> dict[str, Found]:
        found: dict[str, Found] = {}
        for path, item in _files_below(top, skip=skip):
            match self._found(path, item):
                case Found() as file:
                    found[path] = file
                case why:
                    self._note_once(f"{path} is not served: {why}")
        return found

    def _found(self, path: str, item: os.DirEntry[str]) -> Found | str:
        """Look at one entry; a text says why it is no file of ours."""
        disk_path, blob_name = Path(item.path), None
        try:
            if item.is_symlink():
                disk_path = Path(os.path.realpath(item.path, strict=True))
                blob_name = Path(item.path).readlink().name
            status = disk_path.stat(follow_symlinks=False)
        except OSError:  # a dangling link, a loop, or gone since
            return "its link leads nowhere"
        if not disk_path.is_relative_to(self._root):
            return "its link leads out of the served folder"
        if not stat.S_ISREG(status.st_mode):
            return "it is not a regular file"
        return Found(path=path, disk_path=disk_path, stamp=Stamp.of(status), blob_name=blob_name)

    def _note_once(self, note: str) -> None:
        if note not in self._noted:
            self._noted.add(note)
            self._notes(note)


def cache_in(root: Path) -> Path | None:
    """Return the hub cache that a folder is, or holds as an HF_HOME does; None when there is none.

    A folder with a token in it is an HF_HOME even before its first download: only its cache may be served.
    """
    for folder in (root, root / "hub"):
        if (folder / "CACHEDIR.TAG").is_file() or any(folder.glob(f"{_CACHE_PREFIX}*/snapshots")):
            return folder
    return root / "hub" if (root / "token").exists() or (root / "stored_tokens").exists() else None


def models_in(root: Path, repo: str | None) -> list[str]:
    """Name the models a folder holds, sorted; for people, who want to see that the right folder was given."""
    if repo is not None:
        return [repo]
    if (cache := cache_in(root)) is not None:
        names = [home.name for home in cache.glob(f"{_CACHE_PREFIX}*") if (home / "snapshots").is_dir()]
        return sorted(filter(is_repo_id, (name.removeprefix(_CACHE_PREFIX).replace("--", "/") for name in names)))
    homes = [home for home in root.glob("*/*") if home.is_dir()]
    return sorted(filter(is_repo_id, (f"{home.parent.name}/{home.name}" for home in homes)))


def _is_storage(home: Path) -> bool:
    """Whether this is a model's folder in a cache (blobs/, refs/, snapshots/<commit>/), not the model itself.

    Its name says so from the first moment of a download, when it has only blobs.
    """
    return home.name.startswith(_CACHE_PREFIX) or ((home / "snapshots").is_dir() and (home / "refs").is_dir())


def _commit_of(home: Path, revision: str) -> str:
    """Resolve a revision of a cached model: a commit with a snapshot, or a ref to one."""
    commit: str | None = revision
    if _COMMIT.fullmatch(revision) is None:
        refs = dict(_files_below(home / "refs", skip=frozenset()))
        commit = _read_ref(refs[revision]) if revision in refs else None
    if commit is None or not (home / "snapshots" / commit).is_dir():
        raise RevisionMissingError(revision)
    return commit


def _read_ref(item: os.DirEntry[str]) -> str | None:
    if not item.is_file(follow_symlinks=False):
        return None
    with Path(item.path).open("rb") as ref:
        text = ref.read(REF_BYTES_MAX).decode("ascii", errors="replace").strip()
    return text if _COMMIT.fullmatch(text) else None


def _cached_tree(path: Path) -> dict[str, Entry] | None:
    """Read the full listing that huggingface_hub 2.4 keeps of a commit (its _tree_cache.py).

    Raises OSError if the disk cannot: what else is here may be a part, and must not pass for the whole.
    """
    try:
        if path.stat().st_size > TREE_BYTES_MAX:
            return None
        tree = msgspec.json.decode(path.read_bytes(), type=_TreeCache)
    except (FileNotFoundError, *UNDECODABLE):  # gone or broken: huggingface_hub ignores it then, and so do we
        return None
    if tree.format_version != 1:
        return None
    return {name: _tree_entry(name, tree.files[name]) for name in sorted(tree.files)}


def _tree_entry(path: str, file: _TreeFile) -> Entry:
    return Entry(path=path, size_bytes=file.size, git_oid=file.blob_id, sha256=file.lfs_sha256)


def _entry_by_blob_name(found: Found) -> Entry | None:
    """Take the hash from the blob's name: a cache names a blob by its etag (file_download.py)."""
    name, size = found.blob_name or "", found.stamp.size_bytes
    if _SHA256.fullmatch(name):
        return tree.lfs_entry(found.path, size, name)
    return tree.git_entry(found.path, size, name) if _COMMIT.fullmatch(name) else None


def _files_below(top: Path, *, skip: frozenset[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Walk a folder without following links to folders; ``skip`` names entries of the top level to pass over."""
    folders = [("", str(top), 0)]
    while folders:
        prefix, folder, depth = folders.pop()
        for item in _entries_of(folder):
            if (depth == 0 and item.name in skip) or _PART_FILE.fullmatch(item.name) or not _is_utf8(item.name):
                continue
            if item.is_dir(follow_symlinks=False):
                if depth < DEPTH_MAX:
                    folders.append((f"{prefix}{item.name}/", item.path, depth + 1))
            else:
                yield prefix + item.name, item


def _entries_of(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as items:
            return list(items)
    except (FileNotFoundError, NotADirectoryError):  # gone since its parent was read, or no refs/ at all
        return []


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # no URL and no JSON can carry it
        return False
    return True
