"""Reads what is published from the disk itself and hashes it, in the background: last in line for processor and disk.

One file at a time: nobody waits for it, and two would make a disk's heads go to and fro. One thread of its own, because
a thread that made itself nice cannot go back. Linux has both priorities per thread; the one for the disk
(ioprio_set(2), which glibc has no function for) counts where the disk's scheduler knows any.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from qwen_api.manifest import WantedFile
from qwen_daemon.core.plan import Found
from qwen_daemon.shell import durable
from qwen_daemon.shell.digest import hash_through

NICEST = 19
IOPRIO_SET = {"x86_64": 251, "aarch64": 30}  # the system call's number
IOPRIO_WHO_PROCESS, IOPRIO_IDLE = 1, 3 << 13  # linux/ioprio.h; process 0 is the calling thread
FORGET_BYTES = 64 << 20  # what was read is dropped from the page cache so often: others need that memory


class BackgroundReader:
    """ports.Reader, for every layout the same thread; `at` gives that of one layout."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scrub", initializer=_be_nice)

    def at(self, current: Callable[[str, WantedFile, Found], Path]) -> LayoutReader:
        """The reader of a layout, of which `current` says which path is the file that was found."""
        return LayoutReader(self, current)

    async def digest(self, path: Callable[[], Path], file: WantedFile) -> str:
        """Hash what `path`, called in the thread, says."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._digest, path, file)

    def close(self) -> None:
        """End the thread, at its next read."""
        self._stop.set()
        self._thread.shutdown(cancel_futures=True)

    def _digest(self, path: Callable[[], Path], file: WantedFile) -> str:
        with path().open("rb", buffering=0) as source:
            handle, forgotten = source.fileno(), 0
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)  # what memory says proves nothing about the disk

            def progress(done_bytes: int) -> None:
                nonlocal forgotten
                if done_bytes - forgotten >= FORGET_BYTES:
                    os.posix_fadvise(handle, forgotten, done_bytes - forgotten, os.POSIX_FADV_DONTNEED)
                    forgotten = done_bytes

            return hash_through(source, file, progress, self._stop)[0]


class LayoutReader:
    """ports.Reader over one layout."""

    def __init__(self, reader: BackgroundReader, current: Callable[[str, WantedFile, Found], Path]) -> None:
        self._reader = reader
        self._current = current

    async def digest(self, repo: str, file: WantedFile, found: Found) -> str:
        """See ports.Reader."""
        try:
            return await self._reader.digest(lambda: self._current(repo, file, found), file)
        except OSError as error:
            raise durable.translate(error) from error


def _be_nice() -> None:
    with suppress(OSError):  # a sandbox may forbid it: then it is not nice, but right
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICEST)
    number = IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE)
