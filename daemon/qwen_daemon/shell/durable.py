"""Writes that are complete or absent (write beside, fsync, rename, fsync the folder), and what a failed one means.

Synchronous on purpose: callers run it in a thread (`in_thread`). The order is that of LWN's "Ensuring data reaches
disk": a rename is durable only when its folder was synced, and a new folder only when its parent was.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import structlog

from qwen_daemon.core.amounts import Free
from qwen_daemon.core.errors import AskHuman, MakeRoom, Trouble, TryAgain

OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)  # of this process, of the whole system
UNFINISHED = ".qwen-*.tmp"
MADE_MAX = 5  # times, before a file that keeps vanishing is the disk's trouble
_UNREADABLE = (errno.EIO, errno.EBADMSG, errno.EUCLEAN)  # the disk's own word, and checksums of the file system's
_UNSEEN = (FileNotFoundError, NotADirectoryError, PermissionError)  # of folders: gone, or not for us to look into
T = TypeVar("T")
log = structlog.get_logger(__name__)


async def in_thread(work: Callable[..., T], *args: object) -> T:
    """Do it in a thread; its OSError becomes the Trouble that it is."""
    try:
        return await asyncio.to_thread(work, *args)
    except OSError as error:
        raise translate(error) from error


def make_folder(folder: Path, *, mode: int = 0o777) -> None:
    """mkdir -p, each new name made durable in its parent."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(mode=mode, exist_ok=True)
        sync_folder(new.parent)


def sync_folder(folder: Path) -> None:
    """Make renames, links and removals in the folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make the content of a regular file durable, whoever wrote it."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def free_room(folder: Path) -> Free:
    """Room for this user on the file system that the folder is on, or will be on."""
    found = os.statvfs(standing_folder(folder))
    names = found.f_favail if found.f_files else None  # Btrfs makes inodes as they are needed, and counts none
    return Free(size_bytes=found.f_bavail * found.f_frsize, names=names)


def standing_folder(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    while not folder.exists():
        folder = folder.parent
    return folder


def read(path: Path) -> bytes | None:
    """The file's content, None if there is none, or none any more: what the disk cannot read is written anew."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if not is_unreadable(error):
            raise
        log.warning("file.unreadable", path=str(path), why=translate(error).detail)
        return None


def is_unreadable(error: OSError) -> bool:
    """The disk cannot give back what was written: it is as good as damaged."""
    return error.errno in _UNREADABLE


def write_file(path: Path, content: bytes) -> None:
    """Replace `path` with `content`, atomically and durably."""

    def write(beside: Path) -> None:
        with beside.open("xb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())

    put(path, write)
    sync_folder(path.parent)


def put(path: Path, make: Callable[[Path], None]) -> None:
    """Have it made beside `path` and rename it there; made again if somebody takes it away before (drop_unfinished)."""
    for left in reversed(range(MADE_MAX)):
        make_folder(path.parent)
        beside = path.with_name(f".qwen-{secrets.token_hex(4)}.tmp")
        try:
            make(beside)
            beside.replace(path)
            return
        except FileNotFoundError:
            if not left:
                raise
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


def drop_unfinished(folder: Path, *, deep: bool = False) -> None:
    """Remove what a SIGKILL left of `write_file` and `replace_link` in the folder, or (`deep`) anywhere below it.

    Another daemon that writes there at this moment, where locks do nothing, does so again (`put`). What vanishes
    meanwhile, or is no file, is nobody's trouble; what is behind a folder that vanished is found the next time.
    """
    for left in files_below(folder) if deep else folder.glob(UNFINISHED):
        if left.match(UNFINISHED):
            with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                left.unlink()


def files_below(folder: Path) -> Iterator[Path]:
    """What is no folder, at a path that is good until the next is asked for; no link leads the walk elsewhere."""
    with suppress(*_UNSEEN):
        for _, _, names, held in os.fwalk(f"{folder}/.", onerror=_pass_unseen):
            yield from (Path(f"/proc/self/fd/{held}") / name for name in names)


def _pass_unseen(error: OSError) -> None:
    if not isinstance(error, _UNSEEN):
        raise error


def write_if_other(path: Path, content: bytes) -> None:
    """`write_file`, unless the file has this content already."""
    if read(path) != content:
        write_file(path, content)


def replace_link(path: Path, target: str) -> None:
    """Make `path` a symbolic link to `target` (relative text), atomically; the folder still has to be synced."""
    put(path, lambda beside: beside.symlink_to(target))


def translate(error: OSError) -> Trouble:
    """Which trouble a failed file operation is."""
    detail = f"{error.strerror} ({errno.errorcode.get(error.errno or 0, 'EIO')})"
    match error.errno:
        case errno.ENOSPC:
            return MakeRoom("E_DISK_FULL", detail)
        case errno.EDQUOT:
            return MakeRoom("E_QUOTA", detail)
        case errno.EROFS:
            return MakeRoom("E_READ_ONLY", detail)
        case errno.EMFILE | errno.ENFILE:
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            return MakeRoom("E_FILES", f"{os.strerror(error.errno)}: this process may have {limit} open")
        case errno.EACCES | errno.EPERM:
            return AskHuman("E_PERMISSION", f"{detail}: {_told(error.filename)}")
        case errno.EFBIG:
            return AskHuman("E_FILE_TOO_BIG", detail)
    named = error.filename2 or error.filename  # where to, if something was to be moved
    return TryAgain("E_DISK_IO", f"{detail}: {_told(named)}" if isinstance(named, str) else detail)


def _told(name: object) -> object:
    """What is worked on inside a folder that is held open (beneath.Root) has a name for people as well."""
    if not (isinstance(name, str) and name.startswith("/proc/self/fd/")):
        return name
    try:
        return os.path.realpath(name)
    except OSError:  # it vanished while it was followed
        return name
