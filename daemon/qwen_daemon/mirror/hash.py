"""Opens and hashes the files of a mirror, and notices when one changes under its hands.

It exists because a Hub's answer about a file is a promise about its bytes: sizes and hashes belong to one state
of the file (its stamp), and neither may be told, nor a byte be sent, once the stamp is another. Which files
there are is left to ``disk``.
"""

import asyncio
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from qwen_daemon.mirror import tree
from qwen_daemon.mirror.tree import Entry

HASH_BLOCK_BYTES = 1024 * 1024  # hashlib releases the GIL; larger blocks are no faster
HASH_REPORT_BYTES = 256 * 1024 * 1024  # about once a second on a usual machine
HASH_THREADS = 2  # more would only make a spinning disk seek

# O_NOFOLLOW: the path was resolved before; a link that stands there now is a newcomer. O_NONBLOCK: a FIFO must
# not hang us (it has no effect on files).
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class FileChangedError(Exception):
    """The file is not, or no longer, what was found: look at the folder again."""


class StoppedError(Exception):
    """The mirror is stopping: give up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamp:
    """What tells one state of a file from another without reading it."""

    size_bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """Take the stamp out of a stat."""
        return cls(size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A file found on disk: its path in the repository, and where its bytes are."""

    path: str
    disk_path: Path  # resolved: holds no link
    stamp: Stamp
    blob_name: str | None = None  # the name of the cache's blob that a link points to


@dataclass(frozen=True, kw_only=True, slots=True)
class HashProgress:
    """How far the hashing of one file is, in bytes."""

    path: str
    done_bytes: int
    total_bytes: int


def open_found(found: Found) -> int:
    """Open a file for reading and return its descriptor.

    Raises:
        FileChangedError: it is gone, or another file, or another state of it.
        OSError: it cannot be read (permissions, a failing disk).
    """
    try:
        descriptor = os.open(found.disk_path, _OPEN_FLAGS)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileChangedError(found.path) from error
    try:
        _must_be_unchanged(descriptor, found)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_found(descriptor: int, found: Found, start: int, length: int) -> bytes:
    """Read exactly ``length`` bytes at ``start``.

    Raises:
        FileChangedError: the file changed since it was found, so these may not be the bytes that were hashed.
        OSError: the disk failed.
    """
    block = os.pread(descriptor, length, start)
    while len(block) < length:
        more = os.pread(descriptor, length - len(block), start + len(block))
        if not more:
            raise FileChangedError(found.path)
        block += more
    _must_be_unchanged(descriptor, found)
    return block


def _must_be_unchanged(descriptor: int, found: Found) -> None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or Stamp.of(status) != found.stamp:
        raise FileChangedError(found.path)


class Hasher:
    """Hashes each state of each file once, in threads, for however many requests wait for it.

    ``progress`` is called from those threads. Use it from one event loop only.
    """

    def __init__(self, progress: Callable[[HashProgress], None]) -> None:
        self._progress = progress
        self._threads = ThreadPoolExecutor(HASH_THREADS, thread_name_prefix="mirror-hash")
        self._stop = threading.Event()
        self._entries: dict[tuple[Path, str], tuple[Stamp, Future[Entry]]] = {}

    async def entries(self, files: Sequence[Found]) -> list[Entry]:
        """Describe files by their content.

        Raises:
            FileChangedError: one changed meanwhile.
            OSError: one cannot be read.
        """
        futures = [self._entry(found) for found in files]
        return [await asyncio.wrap_future(future) for future in futures]

    def _entry(self, found: Found) -> Future[Entry]:
        # Keyed by both: the same blob may stand under two names, one of them an LFS name.
        key = (found.disk_path, found.path)
        stamp, future = self._entries.get(key, (None, None))
        if future is None or stamp != found.stamp or _failed(future):
            future = self._threads.submit(self._hash, found)
            self._entries[key] = (found.stamp, future)
        return future

    def _hash(self, found: Found) -> Entry:
        size = found.stamp.size_bytes
        if tree.is_lfs(found.path, size):
            return tree.lfs_entry(found.path, size, self._digest(found, hashlib.sha256()))
        blob = hashlib.sha1(tree.git_blob_header(size), usedforsecurity=False)
        return tree.git_entry(found.path, size, self._digest(found, blob))

    def _digest(self, found: Found, digest: "hashlib._Hash") -> str:
        total, done, reported = found.stamp.size_bytes, 0, 0
        descriptor = open_found(found)
        try:
            while done < total:
                if self._stop.is_set():
                    raise StoppedError
                block = read_found(descriptor, found, done, min(HASH_BLOCK_BYTES, total - done))
                digest.update(block)
                done += len(block)
                if done == total or done - reported >= HASH_REPORT_BYTES:
                    reported = done
                    self._progress(HashProgress(path=found.path, done_bytes=done, total_bytes=total))
        finally:
            os.close(descriptor)
        return digest.hexdigest()

    def close(self) -> None:
        """Stop within one block; who still waits gets `StoppedError` or a cancelled future."""
        self._stop.set()
        self._threads.shutdown(wait=True, cancel_futures=True)


def _failed(future: Future[Entry]) -> bool:
    return future.done() and (future.cancelled() or future.exception() is not None)
