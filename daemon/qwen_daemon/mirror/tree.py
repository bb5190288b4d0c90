"""What the Hub says about a repository's files, computed from their names, sizes and hashes.

It exists so that a folder nobody ever pushed can be described in the words of the Hub: which files are LFS
files, what a commit is called, what one page of a listing holds. It touches no disk and no network; finding
and hashing the files is left to ``disk``, speaking HTTP to ``http``.
"""

import base64
import binascii
import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import msgspec

# The 35 lines of the .gitattributes (1,519 bytes) that the Hub puts into every new model repository.
# fmt: off
LFS_PATTERNS = (
    "*.7z", "*.arrow", "*.bin", "*.bz2", "*.ckpt", "*.ftz", "*.gz", "*.h5", "*.joblib", "*.lfs.*", "*.mlmodel",
    "*.model", "*.msgpack", "*.npy", "*.npz", "*.onnx", "*.ot", "*.parquet", "*.pb", "*.pickle", "*.pkl", "*.pt",
    "*.pth", "*.rar", "*.safetensors", "saved_model/**/*", "*.tar.*", "*.tar", "*.tflite", "*.tgz", "*.wasm",
    "*.xz", "*.zip", "*.zst", "*tfevents*",
)
# fmt: on
# The Hub refuses larger files in plain git, whatever they are called.
GIT_FILE_BYTES_MAX = 10 * 1024 * 1024


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One file of one commit. ``git_oid`` is the sha1 of the git blob: of the pointer, for an LFS file."""

    path: str
    size_bytes: int
    git_oid: str
    sha256: str | None = None  # None: a plain git file, for which the Hub knows no sha256

    @property
    def etag(self) -> str:
        """What the Hub puts (quoted) into ETag: the sha256 of an LFS file, else the git blob's sha1."""
        return self.sha256 or self.git_oid


class Directory(msgspec.Struct, frozen=True, kw_only=True):
    """One folder of one commit. ``oid`` identifies what is below it; it is not git's own tree id."""

    path: str
    oid: str


Node = Entry | Directory


class NoSuchFolderError(LookupError):
    """The commit has no folder of that name: answer EntryNotFound."""


class BadCursorError(ValueError):
    """The cursor was not made here: answer 400."""


def is_lfs(path: str, size_bytes: int) -> bool:
    """Whether the Hub would keep this file in LFS (by its default .gitattributes, or by its size)."""
    if size_bytes > GIT_FILE_BYTES_MAX or path.startswith("saved_model/"):
        return True
    name = path.rpartition("/")[2]
    # A pattern with no slash is matched against the last part of the path (gitattributes(5)).
    return any(fnmatchcase(name, pattern) for pattern in LFS_PATTERNS if "/" not in pattern)


def pointer_bytes(sha256: str, size_bytes: int) -> bytes:
    """The text that git holds in place of an LFS file (git-lfs docs/spec.md, version 1)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size_bytes}\n".encode("ascii")


def git_blob_header(size_bytes: int) -> bytes:
    """What git hashes before the content of a blob."""
    return b"blob %d\0" % size_bytes


def git_entry(path: str, size_bytes: int, git_oid: str) -> Entry:
    """Describe a plain git file."""
    return Entry(path=path, size_bytes=size_bytes, git_oid=git_oid)


def lfs_entry(path: str, size_bytes: int, sha256: str) -> Entry:
    """Describe an LFS file; its git oid is that of the pointer, as on the Hub."""
    pointer = pointer_bytes(sha256, size_bytes)
    git_oid = hashlib.sha1(git_blob_header(len(pointer)) + pointer, usedforsecurity=False).hexdigest()
    return Entry(path=path, size_bytes=size_bytes, git_oid=git_oid, sha256=sha256)


def listing_id(entries: Iterable[Entry]) -> str:
    """Name a listing with 40 hex digits, as a commit is named: the same files always give the same name."""
    digest = hashlib.sha1(b"qwen-daemon mirror listing 1\0", usedforsecurity=False)
    for entry in sorted(entries, key=lambda entry: entry.path):
        digest.update(f"{entry.etag} {entry.size_bytes} {entry.path}\0".encode())
    return digest.hexdigest()


def nodes(entries: Sequence[Entry], *, under: str, recursive: bool) -> tuple[Node, ...]:
    """List a folder (``""`` is the root) sorted by path; with ``recursive``, everything below it.

    Raises:
        NoSuchFolderError: nothing lies under that path.
    """
    prefix = f"{under}/" if under else ""
    below = [entry for entry in entries if entry.path.startswith(prefix)]
    if under and not below:
        raise NoSuchFolderError(under)
    found: list[Node] = [e for e in below if recursive or "/" not in e.path.removeprefix(prefix)]
    found += [
        Directory(path=path, oid=listing_id(inside))
        for path, inside in _folders(below, prefix).items()
        if recursive or "/" not in path.removeprefix(prefix)
    ]
    return tuple(sorted(found, key=lambda node: node.path))


def named(entries: Sequence[Entry], paths: Iterable[str]) -> tuple[Node, ...]:
    """Return the files and folders among ``paths`` that exist; the Hub's paths-info drops the others silently."""
    by_path: dict[str, Node] = {
        path: Directory(path=path, oid=listing_id(inside)) for path, inside in _folders(entries, "").items()
    }
    by_path |= {entry.path: entry for entry in entries}
    return tuple(by_path[path] for path in dict.fromkeys(paths) if path in by_path)


def _folders(entries: Iterable[Entry], prefix: str) -> dict[str, list[Entry]]:
    folders: dict[str, list[Entry]] = {}
    for entry in entries:
        end = entry.path.find("/", len(prefix))
        while end != -1:
            folders.setdefault(entry.path[:end], []).append(entry)
            end = entry.path.find("/", end + 1)
    return folders


def page(listed: Sequence[Node], *, cursor: str | None, limit: int) -> tuple[Sequence[Node], str | None]:
    """Cut one page of at most ``limit`` entries out of a sorted listing, and name the cursor of the next.

    A cursor holds the last path of its page, so that it stays right when files come and go between two pages.

    Raises:
        BadCursorError: ``cursor`` is not one of ours.
    """
    start = bisect_right(listed, _path_of(cursor), key=lambda node: node.path) if cursor is not None else 0
    part = listed[start : start + limit]
    more = start + limit < len(listed)
    return part, _cursor_after(part[-1].path) if more and part else None


def _cursor_after(path: str) -> str:
    return base64.urlsafe_b64encode(path.encode()).decode("ascii")


def _path_of(cursor: str) -> str:
    try:
        return base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True).decode()
    except (UnicodeError, binascii.Error) as error:
        raise BadCursorError(cursor) from error


# What follows is the wire: field names are the Hub's, as huggingface_hub 2.4 reads them (hf_api.py: RepoFile,
# RepoFolder, RepoSibling, ModelInfo). The sha256 is called `oid` in a tree and `sha256` in a model's info.


class TreeLfs(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An LFS file as a tree names it."""

    oid: str
    size: int
    pointer_size: int


class LastCommit(msgspec.Struct, frozen=True, kw_only=True):
    """The commit that touched a path last; the mirror knows only one."""

    id: str
    title: str
    date: str


class TreeFile(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="file"):
    """A file in an answer of tree or paths-info."""

    oid: str
    size: int
    path: str
    lfs: TreeLfs | msgspec.UnsetType = msgspec.UNSET
    last_commit: LastCommit | msgspec.UnsetType = msgspec.UNSET


class TreeFolder(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="directory"):
    """A folder in an answer of tree or paths-info."""

    oid: str
    path: str
    size: int = 0
    last_commit: LastCommit | msgspec.UnsetType = msgspec.UNSET


class SiblingLfs(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An LFS file as a model's info names it."""

    sha256: str
    size: int
    pointer_size: int


class Sibling(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A file in a model's info; everything but the name is sent only with ``?blobs=true``."""

    rfilename: str
    size: int | msgspec.UnsetType = msgspec.UNSET
    blob_id: str | msgspec.UnsetType = msgspec.UNSET
    lfs: SiblingLfs | msgspec.UnsetType = msgspec.UNSET


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A model's info: what clients ask for to learn the commit of a branch."""

    id: str
    model_id: str
    author: str
    sha: str
    last_modified: str
    siblings: list[Sibling]
    used_storage: int
    private: bool = False
    gated: bool = False
    disabled: bool = False
    downloads: int = 0
    likes: int = 0
    tags: list[str] = []


def wire_node(node: Node, last_commit: LastCommit | None) -> TreeFile | TreeFolder:
    """Put one node into the Hub's shape; ``last_commit`` is sent with ``?expand=true`` only."""
    touched = last_commit or msgspec.UNSET
    match node:
        case Directory(path=path, oid=oid):
            return TreeFolder(path=path, oid=oid, last_commit=touched)
        case Entry(path=path, size_bytes=size, git_oid=oid, sha256=sha256):
            lfs = TreeLfs(oid=sha256, size=size, pointer_size=_pointer_size(sha256, size)) if sha256 else msgspec.UNSET
            return TreeFile(path=path, size=size, oid=oid, lfs=lfs, last_commit=touched)


def wire_sibling(entry: Entry, *, blobs: bool) -> Sibling:
    """Put one file into the shape of a model's info."""
    if not blobs:
        return Sibling(rfilename=entry.path)
    lfs: SiblingLfs | msgspec.UnsetType = msgspec.UNSET
    if entry.sha256:
        pointer_size = _pointer_size(entry.sha256, entry.size_bytes)
        lfs = SiblingLfs(sha256=entry.sha256, size=entry.size_bytes, pointer_size=pointer_size)
    return Sibling(rfilename=entry.path, size=entry.size_bytes, blob_id=entry.git_oid, lfs=lfs)


def _pointer_size(sha256: str, size_bytes: int) -> int:
    return len(pointer_bytes(sha256, size_bytes))
