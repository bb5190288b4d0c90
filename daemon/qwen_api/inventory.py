"""Looks at a model's folder and says what is there: sizes, links, safetensors headers, index and config texts.

Reads, never writes; a stat and a few bytes per file, a header per weight file, no hashing. It knows nothing of what
should be there: that is the listing's (`manifest`) and the structure's (`structure`), and `report` compares them.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec

from qwen_api.contents import Content, look_into
from qwen_api.hashing import Stopped, explain_mismatch, hash_file
from qwen_api.headers import Header
from qwen_api.language import _
from qwen_api.snapshots import Snapshot, find_snapshot, listing_beside, snapshot_parts

# The functions that look at a disk, in one place for callers; each has its own module.
__all__ = [
    "FoundFile",
    "Inventory",
    "PartFile",
    "Snapshot",
    "Stopped",
    "explain_mismatch",
    "find_snapshot",
    "hash_file",
    "listing_beside",
    "look",
]

FILES_MAX = 100_000  # as many as a listing may have; a folder with more is not a model's
DEPTH_MAX = 32
BLOCK_BYTES = 512  # the unit of st_blocks, stat(2)
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})  # of who looks, not of what is looked at

_SKIPPED_FOLDERS = frozenset({".cache/huggingface", ".git", "__pycache__"})
_PART = re.compile(r"\.incomplete$|^\.qwen-.*\.part$")
_ETAG = re.compile(r"(?<![0-9a-f])(?:[0-9a-f]{64}|[0-9a-f]{40})(?![0-9a-f])")


class FoundFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the folder, by its path in the repository.

    `size_bytes` is that of the content (links followed), 0 for a dangling link. `outside`: the content lies outside
    the folder and outside the cache that the folder belongs to. `cause` is a key of causes.CAUSES for what the file
    itself shows to be wrong, "" for nothing; `detail` says it in words. `text` is kept for indexes and configs.
    """

    path: str
    size_bytes: int
    is_link: bool = False
    dangling: bool = False
    outside: bool = False
    cause: str = ""
    detail: str = ""
    header: Header | None = None
    text: bytes | None = None


class PartFile(msgspec.Struct, frozen=True, kw_only=True):
    """An unfinished download. `etag`: the blob it will be, if its name says so; `size_bytes`: what it occupies."""

    path: str
    size_bytes: int
    etag: str = ""


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder holds. `cut_short`: it has more than FILES_MAX files, and the rest was not looked at."""

    folder: str
    exists: bool
    files: tuple[FoundFile, ...] = ()
    parts: tuple[PartFile, ...] = ()
    cut_short: bool = False

    def by_path(self) -> dict[str, FoundFile]:
        """The files, by path; dangling links included."""
        return {f.path: f for f in self.files}


def look(folder: Path) -> Inventory:
    """Look at a snapshot folder or a plain folder; one that is not there gives `exists=False`.

    Left out: `.cache/huggingface`, `.git` and unfinished downloads, which are in `parts` (with those of the cache's
    `blobs/` when the folder is a snapshot). Raises OSError only for what says nothing of the folder: EMFILE, ENFILE,
    ENOMEM.
    """
    if not folder.is_dir():
        return Inventory(folder=str(folder), exists=False)
    roots = _roots(folder)
    files: list[FoundFile] = []
    parts = _parts_beside(folder)
    cut_short = False
    for path, name in _walk(folder):
        if len(files) >= FILES_MAX:
            cut_short = True
            break
        if _PART.search(path.name):
            parts.append(_part(path, name))
        else:
            files.append(_look_at(path, name, roots))
    return Inventory(
        folder=str(folder),
        exists=True,
        files=tuple(sorted(files, key=lambda f: f.path)),
        parts=tuple(sorted(parts, key=lambda p: p.path)),
        cut_short=cut_short,
    )


def _roots(folder: Path) -> tuple[str, ...]:
    """Where a file's content may lie by right: in the folder, or in the cache of a snapshot."""
    parts = snapshot_parts(folder)
    return tuple(os.path.realpath(root) + os.sep for root in ([folder] if parts is None else [folder, parts.cache]))


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every entry that is not a folder, with its path in the repository; linked folders are entered once."""
    waiting = [(folder, "", 0)]
    entered: set[tuple[int, int]] = set()
    while waiting:
        here, prefix, depth = waiting.pop()
        for entry in _entries(here, entered):
            name = prefix + entry.name
            if not _is_folder(entry):
                yield Path(entry.path), name
            elif depth < DEPTH_MAX and name not in _SKIPPED_FOLDERS and entry.name not in _SKIPPED_FOLDERS:
                waiting.append((Path(entry.path), f"{name}/", depth + 1))


def _entries(here: Path, entered: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
    try:
        found = here.stat()
        if (found.st_dev, found.st_ino) in entered:
            return []
        entered.add((found.st_dev, found.st_ino))
        with os.scandir(here) as entries:
            return sorted(entries, key=lambda e: e.name)
    except OSError as error:  # vanished or not ours to read: its files count as absent
        if error.errno in _OURS:
            raise
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _look_at(path: Path, name: str, roots: tuple[str, ...]) -> FoundFile:
    is_link = path.is_symlink()
    outside = is_link and not _real(path).startswith(roots)
    try:
        found = path.stat()
    except OSError as error:
        return FoundFile(
            path=name,
            size_bytes=0,
            is_link=is_link,
            dangling=is_link,
            outside=outside,
            cause="dangling_link" if is_link else "unreadable",
            detail=_where(path) if is_link else str(error),
        )
    content = _content(path, name, found)
    return FoundFile(
        path=name,
        size_bytes=found.st_size,
        is_link=is_link,
        outside=outside,
        cause=content.cause,
        detail=content.detail,
        header=content.header,
        text=content.text,
    )


def _real(link: Path) -> str:
    try:
        return os.path.realpath(link)
    except OSError:  # swapped while it was followed: nobody can say where to
        return ""


def _content(path: Path, name: str, found: os.stat_result) -> Content:
    if not stat.S_ISREG(found.st_mode):  # opening a FIFO would wait for ever
        return Content(cause="not_a_file", detail=stat.filemode(found.st_mode))
    try:
        return look_into(path, name, found.st_size, keep_text=_is_kept(name))
    except OSError as error:
        if error.errno in _OURS:
            raise
        return Content(cause="unreadable", detail=error.strerror or str(error))


def _is_kept(name: str) -> bool:
    base = PurePosixPath(name).name
    return base.endswith(".json") and (base in ("model_index.json", "config.json") or ".index." in base)


def _where(link: Path) -> str:
    try:
        return _("leads to {path}", path=link.readlink())
    except OSError as error:
        return str(error)


def _parts_beside(folder: Path) -> list[PartFile]:
    """Unfinished downloads that huggingface_hub or the daemon keep outside the snapshot's or the folder's own files."""
    parts = snapshot_parts(folder)
    if parts is not None:
        blobs = parts.repo_dir / "blobs"
        return [_part(p, p.name) for p in _files_of(blobs) if _PART.search(p.name)]
    kept = folder / ".cache" / "huggingface" / "download"
    return [_part(p, str(p.relative_to(folder))) for p in _files_of(kept, deep=True) if _PART.search(p.name)]


def _files_of(folder: Path, *, deep: bool = False) -> list[Path]:
    try:
        return sorted(folder.rglob("*") if deep else folder.iterdir())
    except OSError:
        return []


def _part(path: Path, name: str) -> PartFile:
    try:
        found = path.stat()
        # A part may be sparse: only what is allocated can have been downloaded.
        size = min(found.st_size, found.st_blocks * BLOCK_BYTES)
    except OSError:
        size = 0
    etag = _ETAG.search(path.name)
    return PartFile(path=name, size_bytes=size, etag=etag.group() if etag else "")
