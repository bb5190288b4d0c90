"""What a simulated Hub holds: file contents, commits, branches, and which files are LFS.

Everything the Hub's answers are made from lives here, so that the answers can be checked against an independent
account of the same bytes. Contents may be far larger than memory: `SparseContent` makes any byte of a file from a
seed and its offset. How a repository is spoken about over HTTP is hub_answers' business.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, Protocol

BLOCK_BYTES = 1 << 20  # SparseContent repeats its noise per block, never the same way twice
_ROTATION = 389_171  # odd, so 2**20 blocks pass before a rotation comes back
_TAG_BYTES = 8  # each block starts with its own number
_HASH_READ_BYTES = 8 << 20

# The lines of the .gitattributes that every new Hub repository starts with, as far as models need them.
LFS_PATTERNS = (
    "*.7z", "*.bin", "*.ckpt", "*.ftz", "*.gguf", "*.gz", "*.h5", "*.joblib", "*.model", "*.msgpack", "*.npy",
    "*.npz", "*.onnx", "*.ot", "*.parquet", "*.pb", "*.pickle", "*.pkl", "*.pt", "*.pth", "*.rar",
    "*.safetensors", "*.tar", "*.tflite", "*.tgz", "*.wasm", "*.xz", "*.zip", "*.zst", "*tfevents*",
)  # fmt: skip


class Content(Protocol):
    """The bytes of one file, readable anywhere without holding them all."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read(self, start: int, end: int) -> bytes:
        """The bytes [start, end)."""

    def __hash__(self) -> int:
        """Equal contents hash equal, so that digests can be remembered."""


@dataclass(frozen=True)
class BytesContent:
    """A file held in memory."""

    data: bytes = field(repr=False)

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return len(self.data)

    def read(self, start: int, end: int) -> bytes:
        """The bytes [start, end)."""
        return self.data[start:end]


@dataclass(frozen=True, kw_only=True)
class SparseContent:
    """A file of any size that costs no memory: every byte follows from `seed` and its offset.

    One block of noise per seed, rotated by block number and tagged with it: slicing runs at the speed of memory,
    and a byte written to the wrong offset still shows in every digest.
    """

    size: int
    seed: int = 0

    def read(self, start: int, end: int) -> bytes:
        """The bytes [start, end)."""
        end = min(end, self.size)
        pieces: list[bytes] = []
        while start < end:
            block, offset = divmod(start, BLOCK_BYTES)
            take = min(BLOCK_BYTES - offset, end - start)
            pieces.append(_block(self.seed, block)[offset : offset + take])
            start += take
        return b"".join(pieces)


@functools.lru_cache(maxsize=8)
def _noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(BLOCK_BYTES)


@functools.lru_cache(maxsize=8)
def _block(seed: int, number: int) -> bytes:
    noise = _noise(seed)
    turn = number * _ROTATION % BLOCK_BYTES
    return number.to_bytes(_TAG_BYTES, "big") + (noise[turn:] + noise[:turn])[_TAG_BYTES:]


@functools.lru_cache(maxsize=1024)
def sha256_of(content: Content) -> str:
    """The sha256 of a whole content, read piece by piece and remembered."""
    digest = hashlib.sha256()
    for start in range(0, content.size, _HASH_READ_BYTES):
        digest.update(content.read(start, min(start + _HASH_READ_BYTES, content.size)))
    return digest.hexdigest()


def git_sha1(data: bytes) -> str:
    """Git's name for a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of a commit as the Hub lists it; `sha256` and `xet_hash` only for LFS files.

    `size` is what the listing claims. A forged listing may claim anything; `content` stays what is served.
    """

    path: str
    size: int
    oid: str
    sha256: str | None = None
    pointer_size: int = 0
    xet_hash: str | None = None
    content: Content = field(repr=False)

    @property
    def etag(self) -> str:
        """The name huggingface_hub gives the blob: sha256 for LFS files, git sha1 otherwise."""
        return self.sha256 or self.oid


def git_entry(path: str, content: Content) -> Entry:
    """A file kept in git itself."""
    return Entry(path=path, size=content.size, oid=git_sha1(content.read(0, content.size)), content=content)


def lfs_entry(repo: str, path: str, content: Content) -> Entry:
    """A file kept in LFS/Xet: git holds a pointer, and `oid` is the pointer's."""
    sha256 = sha256_of(content)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {content.size}\n".encode()
    return Entry(
        path=path,
        size=content.size,
        oid=git_sha1(pointer),
        sha256=sha256,
        pointer_size=len(pointer),
        # The real Hub was seen to give one content different xet hashes in different repositories.
        xet_hash=hashlib.sha256(f"xet {repo} {sha256}".encode()).hexdigest(),
        content=content,
    )


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One immutable state of a repository."""

    sha: str
    files: Mapping[str, Entry]


class SimRepo:
    """A model repository with history.

    `lfs` names further LFS files (patterns or paths) beside the usual LFS_PATTERNS. `private` repositories are
    hidden from strangers, `gated` ones are listed to all but served to readers only. `readers` are the tokens with
    access; empty means every token the Hub knows. `renamed_to` makes it redirect, as after a rename.
    Commits are immutable and swapped in whole, so a test may commit from any thread while the Hub serves.
    """

    def __init__(
        self,
        *,
        id: str,
        files: Mapping[str, bytes | Content],
        lfs: Iterable[str] = (),
        private: bool = False,
        gated: Literal[False, "auto", "manual"] = False,
        readers: Iterable[str] = (),
        disabled: bool = False,
        renamed_to: str | None = None,
    ) -> None:
        self.id = id
        self.private = private
        self.gated = gated
        self.readers = frozenset(readers)
        self.disabled = disabled
        self.renamed_to = renamed_to
        self._lfs = (*LFS_PATTERNS, *lfs)
        self._commits: dict[str, Commit] = {}
        self._refs: dict[str, str] = {}
        self.commit_files(files)

    def under(self, name: str) -> SimRepo:
        """The same repository, all its history included, under another name."""
        renamed = copy.copy(self)
        renamed.id, renamed.renamed_to = name, None
        return renamed

    @property
    def oid(self) -> str:
        """The 24 hex digits that name the repository on the CDN."""
        return hashlib.sha256(self.id.encode()).hexdigest()[:24]

    @property
    def sha(self) -> str:
        """The commit of main."""
        return self._refs["main"]

    def commit_files(self, changes: Mapping[str, bytes | Content | None], *, branch: str = "main") -> str:
        """Add, replace or (None) remove files; the branch moves to the new commit, whose sha is returned."""
        parent = self.find(branch)
        files = dict(parent.files) if parent else {}
        for path, content in changes.items():
            if content is None:
                del files[path]
            else:
                files[path] = self._entry(path, BytesContent(content) if isinstance(content, bytes) else content)
        sha = _commit_sha(parent, files)
        self._commits[sha] = Commit(sha=sha, files=files)
        self._refs[branch] = sha
        return sha

    def point(self, ref: str, sha: str) -> None:
        """Make a branch, tag or `refs/pr/N` name a commit: a new name, a rewind, a force-push."""
        self._refs[ref] = self._commits[sha].sha

    def find(self, revision: str) -> Commit | None:
        """The commit a branch, tag or full sha names."""
        return self._commits.get(self._refs.get(revision, revision))

    def entry(self, path: str, revision: str = "main") -> Entry:
        """One file of a commit; for tests, which know it is there."""
        commit = self.find(revision)
        assert commit is not None, revision
        return commit.files[path]

    def _entry(self, path: str, content: Content) -> Entry:
        name = path.rpartition("/")[2]
        if any(fnmatchcase(path, pattern) or fnmatchcase(name, pattern) for pattern in self._lfs):
            return lfs_entry(self.id, path, content)
        return git_entry(path, content)


def _commit_sha(parent: Commit | None, files: Mapping[str, Entry]) -> str:
    digest = hashlib.sha1(f"parent {parent.sha if parent else ''}\n".encode())
    for path in sorted(files):
        digest.update(f"{files[path].oid} {path}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
