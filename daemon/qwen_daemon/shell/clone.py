"""A second name, or a second copy, of a file's content: reflink, hardlink, copy, whichever of them works here.

A reflink shares blocks until either side is written to; a hardlink shares the file itself; a copy shares nothing and
costs room and time. Synchronous: callers run it in a thread. The target never exists before, and only whole after.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from qwen_api.events import AdoptedHow
from qwen_api.manifest import WantedFile
from qwen_daemon.core.spans import Span
from qwen_daemon.shell import durable
from qwen_daemon.shell.digest import hash_through

FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int); Btrfs, XFS, bcachefs, OCFS2


def clone(source: int, target: Path, ways: Sequence[AdoptedHow]) -> AdoptedHow | None:
    """Give the open file `source` another name or a clone at `target`, durably.

    Tries reflink and hardlink, as far as `ways` has them; None if neither works here (another file system, one without
    such links, not our file): that is no error.
    """
    if "reflink" in ways and _reflink(source, target):
        return "reflink"
    if "hardlink" in ways and _hardlink(source, target):
        return "hardlink"
    return None


def copy(
    source: int, target: Path, file: WantedFile, progress: Callable[[int], None], stop: threading.Event
) -> tuple[str, tuple[Span, ...]]:
    """Copy the open file to `target`, durably; returns the hash and the spans of what was written.

    Raises OSError and digest.Stopped; then nothing is left at `target`.
    """
    with _fresh(target) as out, open(source, "rb", buffering=0, closefd=False) as whole:
        hashed = hash_through(whole, file, progress, stop, sink=out)
        os.fsync(out)
    durable.sync_folder(target.parent)
    return hashed


def _reflink(source: int, target: Path) -> bool:
    with suppress(OSError):
        with _fresh(target) as out:
            fcntl.ioctl(out, FICLONE, source)
            os.fsync(out)
        durable.sync_folder(target.parent)
        return True
    return False


def _hardlink(source: int, target: Path) -> bool:
    with suppress(OSError):
        os.fsync(source)  # who wrote it may not have
        # Of the open file itself, whatever has its name by now (open(2), O_TMPFILE). Python follows the link in /proc
        # only if it is given a folder; an absolute path has no use for it.
        os.link(f"/proc/self/fd/{source}", target, src_dir_fd=source, follow_symlinks=True)
        durable.sync_folder(target.parent)
        return True
    return False


@contextmanager
def _fresh(target: Path) -> Iterator[int]:
    out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        yield out
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        os.close(out)
