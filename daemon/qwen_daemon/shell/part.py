"""One part file: aiofiles does the writing and reading, this module adds offsets, whole writes and durability.

Synced with fdatasync: the part's length matters and is carried by it; times do not.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import aiofiles
from aiofiles.threadpool.binary import AsyncFileIO

from qwen_daemon.shell import durable


class PartFile:
    """ports.Part over one file. Unbuffered, so that a write is in the kernel when it returns."""

    def __init__(self, path: Path, handle: AsyncFileIO) -> None:
        self.name = path.name
        self._handle = handle
        self._position = 0

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

    async def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """See ports.Part."""
        rest = memoryview(data)
        try:
            await self._seek(offset)
            while rest:
                written = await self._handle.write(rest)
                self._position += written
                rest = rest[written:]
        except OSError as error:
            self._position = -1
            raise durable.translate(error) from error

    async def read(self, offset: int, length: int) -> bytes:
        """See ports.Part."""
        pieces: list[bytes] = []
        try:
            await self._seek(offset)
            while length > 0 and (piece := await self._handle.read(length)):
                pieces.append(piece)
                length -= len(piece)
                self._position += len(piece)
        except OSError as error:
            self._position = -1
            raise durable.translate(error) from error
        return b"".join(pieces)

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

    async def _seek(self, offset: int) -> None:
        if offset != self._position:
            await self._handle.seek(offset)
            self._position = offset


def _open_no_follow(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _cut(descriptor: int, bytes_max: int) -> None:
    if os.fstat(descriptor).st_size > bytes_max:
        os.ftruncate(descriptor, bytes_max)
        os.fdatasync(descriptor)
