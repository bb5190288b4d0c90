"""One part file: reading, writing at offsets, whole writes only, and durability.

Synced with fdatasync: the part's length matters and is carried by it; times do not.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import aiofiles
from aiofiles.threadpool.binary import AsyncFileIO

from qwen_daemon.core.digest import Bytes
from qwen_daemon.shell import durable


class PartFile:
    """ports.Part over one file. Unbuffered, so that a write is in the kernel when it returns.

    Reads (one at a time: the hash's) go through aiofiles. Writes, of which many run at once at different offsets, are
    pwrite(2) in one thread hop together with their digest: a hop costs as much as digesting half a megabyte.
    """

    def __init__(self, path: Path, handle: AsyncFileIO) -> None:
        self.name = path.name
        self._handle = handle
        self._position = 0
        self._writing = asyncio.Lock()  # one pwrite at a time: others would spin for the inode's lock, not sleep

    @classmethod
    async def open(cls, path: Path, bytes_max: int) -> PartFile:
        """Open for reading and writing; made if it is not there; a link in its place is refused.

        What is longer than `bytes_max` (a copy of a file that something was appended to) is cut to it: nobody would
        read the rest, and so nobody would miss it in the hash.
        """
        try:
            handle = await aiofiles.open(path, "r+b", buffering=0, opener=_open_no_follow)
            await asyncio.to_thread(_cut, handle.fileno(), bytes_max)
        except OSError as error:
            raise durable.translate(error) from error
        return cls(path, handle)

    async def write(self, offset: int, data: Bytes, written: Callable[[Bytes], None]) -> None:
        """See ports.Part."""
        async with self._writing:
            try:
                await asyncio.to_thread(_write, self._handle.fileno(), offset, data, written)
            except OSError as error:
                raise durable.translate(error) from error

    async def read(self, offset: int, length: int) -> bytes:
        """See ports.Part."""
        pieces: list[bytes] = []
        try:
            if offset != self._position:
                await self._handle.seek(offset)
                self._position = offset
            while length > 0 and (piece := await self._handle.read(length)):
                pieces.append(piece)
                length -= len(piece)
                self._position += len(piece)
        except OSError as error:
            self._position = -1
            raise durable.translate(error) from error
        except asyncio.CancelledError:
            self._position = -1
            raise
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def sync(self) -> None:
        """See ports.Part."""
        try:
            await asyncio.to_thread(os.fdatasync, self._handle.fileno())
        except OSError as error:
            # The kernel may have dropped the pages and forgotten the error; what is cached proves nothing now.
            await asyncio.to_thread(os.posix_fadvise, self._handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            raise durable.translate(error) from error

    async def close(self) -> None:
        """See ports.Part."""
        await self._handle.close()


def _write(descriptor: int, offset: int, data: Bytes, written: Callable[[Bytes], None]) -> None:
    rest = memoryview(data)
    while rest:
        count = os.pwrite(descriptor, rest, offset)
        offset, rest = offset + count, rest[count:]
    rest.release()
    written(data)


def _open_no_follow(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _cut(descriptor: int, bytes_max: int) -> None:
    if os.fstat(descriptor).st_size > bytes_max:
        os.ftruncate(descriptor, bytes_max)
        os.fdatasync(descriptor)
