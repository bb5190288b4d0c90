"""What "complete" means: the files of one commit, their sizes and hashes, and the components they belong to.

A manifest comes from the Hub's listing (the daemon's hub module builds it) or from the copy of that listing which
huggingface_hub keeps beside a snapshot as `trees/<commit>.json`. This module holds the types, reads and writes that
file's bytes, and refuses hostile names; it never touches the disk or the network.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

from qwen_api.models import is_commit, is_etag
from qwen_api.undecodable import UNDECODABLE

TREE_FORMAT_VERSION = 1  # huggingface_hub 2.4, _tree_cache.py
FILE_BYTES_MAX = 1 << 43  # 8 TiB: the largest size a listing may claim before it is disbelieved
FILES_MAX = 100_000  # a listing longer than this is an attack or an accident
PATH_BYTES_MAX = 1024
NAME_BYTES_MAX = 255  # NAME_MAX of every Linux file system

ROOT = ""  # the component of files that lie beside model_index.json

_WINDOWS_MARKS = frozenset('<>:"|?*')  # no file name on Windows; a colon begins a hidden stream of another file
_WINDOWS_DEVICES = (
    frozenset(  # whatever stands behind a dot: learn.microsoft.com, "Naming Files, Paths, and Namespaces"
        ("con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"))
    )
)
_BIDI = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A)), "\u200e", "\u200f", "\u061c"}


class BadManifest(ValueError):
    """The listing cannot be trusted or read; nothing of it may be written to disk."""


class WantedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a commit as the Hub lists it.

    `git_sha1` is the git blob id: sha1 of `blob <size>\\0` and the content, for files kept in git; for LFS files it
    is the pointer's and says nothing of the content, whose `sha256` the Hub gives instead.
    """

    path: str
    size_bytes: int
    git_sha1: str
    sha256: str | None = None
    xet_hash: str | None = None  # kept only to write trees/<commit>.json as huggingface_hub does; never an identity

    @property
    def etag(self) -> str:
        """The blob's file name in the cache, and the hash its content must have."""
        return self.sha256 or self.git_sha1

    @property
    def component(self) -> str:
        """The first folder of the path; "" for files at the root."""
        return component_of(self.path)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Every file of one commit of one repository, in path order, checked by `check_names`."""

    repo: str
    commit: str
    files: tuple[WantedFile, ...]

    @property
    def size_bytes(self) -> int:
        """Sum of all files' sizes."""
        return sum(f.size_bytes for f in self.files)

    def by_path(self) -> dict[str, WantedFile]:
        """The files, by path."""
        return {f.path: f for f in self.files}

    def components(self) -> dict[str, tuple[WantedFile, ...]]:
        """Files by component; "" (the root) first, then by name."""
        found: dict[str, list[WantedFile]] = {}
        for file in self.files:
            found.setdefault(file.component, []).append(file)
        return {name: tuple(found[name]) for name in sorted(found)}

    def keep(self, paths: Iterable[str]) -> Manifest:
        """The same commit with only these paths (what include/exclude patterns leave)."""
        wanted = set(paths)
        return msgspec.structs.replace(self, files=tuple(f for f in self.files if f.path in wanted))


def component_of(path: str) -> str:
    """The first folder of a repository path; "" for a file at the root."""
    folder, slash, _ = path.partition("/")
    return folder if slash else ROOT


def make_manifest(repo: str, commit: str, files: Iterable[WantedFile]) -> Manifest:
    """Build a manifest from outside data: sorted, and refused as a whole (BadManifest) if anything in it is hostile."""
    ordered = tuple(sorted(files, key=lambda f: f.path))
    if not is_commit(commit):
        raise BadManifest(f"{commit!r} is not a commit")
    if len(ordered) > FILES_MAX:
        raise BadManifest(f"the listing has {len(ordered)} files, more than {FILES_MAX}")
    for file in ordered:
        _check_file(file)
    check_names([f.path for f in ordered])
    _check_sizes_agree(ordered)
    return Manifest(repo=repo, commit=commit, files=ordered)


def check_names(paths: Sequence[str]) -> None:
    """Refuse (BadManifest) names that could leave the snapshot, deceive a reader, or clash with each other.

    Refused: absolute paths, empty, `.` or `..` parts, NUL, control and direction characters, anything too long; what is
    another path or none on Windows (backslashes, `<>:"|?*`, devices such as `nul.txt`, a dot or a space at the end),
    for caches lie on disks of such rules too; a name given twice, also in other letters' case or another Unicode form
    (one file on a disk that folds them), and a name that is both a file and a folder.
    """
    seen: dict[str, str] = {}
    for path in paths:
        why = _why_bad(path)
        if why:
            raise BadManifest(f"the listing names {path!r}: {why}")
        folded = _folded(path)
        if folded in seen:
            also = "twice" if seen[folded] == path else f"and {seen[folded]!r}: one file where case is not kept"
            raise BadManifest(f"the listing names {path!r} {also}")
        seen[folded] = path
    folders = {path[:i] for path in seen for i, c in enumerate(path) if c == "/"}
    for path in sorted(seen.keys() & folders):
        raise BadManifest(f"the listing names {seen[path]!r} both as a file and as a folder")


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def read_tree(repo: str, commit: str, content: bytes) -> Manifest:
    """Read the bytes of huggingface_hub's `trees/<commit>.json`; BadManifest if they are not one."""
    try:
        tree = msgspec.json.decode(content, type=_Tree)
    except UNDECODABLE as error:
        raise BadManifest(f"trees/{commit}.json is not a listing: {error}") from error
    if tree.format_version != TREE_FORMAT_VERSION:
        raise BadManifest(f"trees/{commit}.json has format {tree.format_version}, only 1 is known")
    return make_manifest(
        repo,
        commit,
        (
            WantedFile(
                path=path,
                size_bytes=entry.lfs_size if entry.lfs_size is not None else entry.size,
                git_sha1=entry.blob_id,
                sha256=entry.lfs_sha256,
                xet_hash=entry.xet_hash,
            )
            for path, entry in tree.files.items()
        ),
    )


def write_tree(manifest: Manifest) -> bytes:
    """The bytes huggingface_hub 2.4 writes to `trees/<commit>.json` (_tree_cache.py: json.dump, indent 1, ASCII)."""
    files = {
        f.path: _TreeEntry(
            size=f.size_bytes,
            blob_id=f.git_sha1,
            lfs_sha256=f.sha256 or msgspec.UNSET,
            lfs_size=f.size_bytes if f.sha256 else msgspec.UNSET,
            xet_hash=f.xet_hash or msgspec.UNSET,
        )
        for f in manifest.files
    }
    tree = msgspec.to_builtins({"format_version": TREE_FORMAT_VERSION, "files": files})
    return json.dumps(tree, indent=1).encode()


class _TreeEntry(msgspec.Struct, frozen=True, kw_only=True):
    size: int
    blob_id: str
    lfs_sha256: str | msgspec.UnsetType = msgspec.UNSET
    lfs_size: int | msgspec.UnsetType = msgspec.UNSET
    xet_hash: str | msgspec.UnsetType = msgspec.UNSET


class _ReadEntry(msgspec.Struct, frozen=True, kw_only=True):
    size: int
    blob_id: str
    lfs_sha256: str | None = None
    lfs_size: int | None = None
    xet_hash: str | None = None


class _Tree(msgspec.Struct, frozen=True, kw_only=True):
    files: Annotated[dict[str, _ReadEntry], msgspec.Meta(max_length=FILES_MAX)]
    format_version: int


def _check_file(file: WantedFile) -> None:
    if not 0 <= file.size_bytes <= FILE_BYTES_MAX:
        raise BadManifest(f"the listing says {file.path!r} has {file.size_bytes} bytes")
    if not is_etag(file.etag) or len(file.git_sha1) != 40 or not is_etag(file.git_sha1):
        raise BadManifest(f"the listing gives {file.path!r} the hash {file.etag!r}")
    if file.sha256 is not None and len(file.sha256) != 64:
        raise BadManifest(f"the listing gives {file.path!r} the sha256 {file.sha256!r}")


def _check_sizes_agree(files: Sequence[WantedFile]) -> None:
    sizes: dict[str, int] = {}
    for file in files:
        if sizes.setdefault(file.etag, file.size_bytes) != file.size_bytes:
            raise BadManifest(f"the listing gives one hash two sizes: {file.etag}")


def _why_bad(path: str) -> str | None:
    if not path or path.startswith("/"):
        return "it is empty or absolute"
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    if len(encoded) > PATH_BYTES_MAX:
        return f"it is longer than {PATH_BYTES_MAX} bytes"
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in _BIDI for c in path):
        return "it has a control character"
    if "\\" in path or not _WINDOWS_MARKS.isdisjoint(path):
        return "it is another path on Windows"
    for part in path.split("/"):
        if part in ("", ".", ".."):
            return "it has an empty, '.' or '..' part"
        if part[-1] in ". " or part.partition(".")[0].rstrip(" ").casefold() in _WINDOWS_DEVICES:
            return "a part is another name on Windows"
        if len(part.encode()) > NAME_BYTES_MAX:
            return f"a part is longer than {NAME_BYTES_MAX} bytes"
    return None
