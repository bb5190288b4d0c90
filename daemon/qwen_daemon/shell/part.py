"""One part file: writing at offsets, reading for a hash, and durability.

A hop to a thread costs as much as writing a quarter of a megabyte, so each hop does as much as it can: what several
connections brought is written together, and a hash reads and takes many pieces at once. Synced with fdatasync: the
part's length matters and is carried by it; times do not.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiofiles
import aiofiles.os
from aiofiles.threadpool.binary import AsyncFileIO

from qwen_api.seals import Seal, take_seal
from qwen_daemon.core.digest import Bytes
from qwen_daemon.core.errors import TryAgain
from qwen_daemon.core.twins import is_same_file
from qwen_daemon.shell import durable

WRITE_BYTES = 64 << 10  # for larger writes Linux takes larger pages: on a virtual machine three times the CPU
PIECE_BYTES = 1 << 20  # of what is read back: enough that a thread keeps to its work, little enough for the caches


@dataclass(frozen=True)
class _Write:
    """One of those that are written together."""

    offset: int
    data: Bytes
    written: Callable[[Bytes], None]
    done: asyncio.Future[None]


class PartFile:
    """ports.Part over one file. Unbuffered, so that a write is in the kernel when it returns."""

    def __init__(self, path: Path, handle: AsyncFileIO) -> None:
        self.name = path.name
        self._handle = handle
        self._waiting: list[_Write] = []
        self._writing: asyncio.Task[None] | None = None  # one: for a file's lock threads would spin, not sleep
        self._piece = memoryview(b"")
        self._closed: Seal | None = None  # what it looked like at last

    @classmethod
    async def open(cls, path: Path, bytes_max: int) -> PartFile:
        """Open for reading and writing; made if it is not there; a link in its place is refused.

        What is longer than `bytes_max` (a copy of a file that something was appended to) is cut to it: nobody would
        read the rest, and so nobody would miss it in the hash.
        """
        try:
            handle = await aiofiles.open(path, "r+b", buffering=0, opener=_open_no_follow)
            try:
                await _cut(handle.fileno(), bytes_max)
            except BaseException:
                await handle.close()
                raise
        except OSError as error:
            raise durable.translate(error) from error
        return cls(path, handle)

    async def write(self, offset: int, data: Bytes, written: Callable[[Bytes], None]) -> None:
        """See ports.Part."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(_Write(offset, data, written, done))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_waiting())
        try:
            await done
        except OSError as error:
            raise durable.translate(error) from error

    async def feed(self, offset: int, length: int, take: Callable[[Bytes], None]) -> int:
        """See ports.Part."""
        if not self._piece:
            self._piece = memoryview(bytearray(PIECE_BYTES))
        try:
            return await _feed(self._handle.fileno(), offset, length, self._piece, take)
        except OSError as error:
            raise durable.translate(error) from error

    async def sync(self) -> None:
        """See ports.Part."""
        try:
            names = await _sync(self._handle.fileno())
        except OSError as error:
            # The kernel may have dropped the pages and forgotten the error; what is cached proves nothing now.
            await _drop_cached(self._handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            raise durable.translate(error) from error
        if not names:
            raise TryAgain("E_PART_GONE", "somebody removed the unfinished file while it was being written")

    async def close(self) -> None:
        """See ports.Part."""
        if self._writing is not None:
            await self._writing
        try:
            try:
                self._closed = await _seal(self._handle.fileno())
            finally:
                await self._handle.close()
        except OSError as error:
            raise durable.translate(error) from error

    def is_published_as(self, seal: Seal) -> bool:
        """See ports.Part."""
        return self._closed is not None and is_same_file(self._closed, seal)

    async def _write_waiting(self) -> None:
        while self._waiting:
            together, self._waiting = self._waiting, []
            for each, refused in zip(together, await _write(self._handle.fileno(), together), strict=True):
                if each.done.cancelled():
                    continue
                if refused is None:
                    each.done.set_result(None)
                else:
                    each.done.set_exception(refused)
        self._writing = None


# Each of these is one hop to a thread.


@aiofiles.os.wrap
def _write(descriptor: int, together: Sequence[_Write]) -> list[Exception | None]:
    return [_write_one(descriptor, each) for each in together]


def _write_one(descriptor: int, each: _Write) -> Exception | None:
    offset, rest = each.offset, memoryview(each.data)
    try:
        while rest:
            count = os.pwrite(descriptor, rest[:WRITE_BYTES], offset)
            offset, rest = offset + count, rest[count:]
        each.written(each.data)
    except Exception as error:
        return error
    return None


@aiofiles.os.wrap
def _feed(descriptor: int, offset: int, length: int, piece: memoryview, take: Callable[[Bytes], None]) -> int:
    fed = 0
    while fed < length and (count := os.preadv(descriptor, [piece[: length - fed]], offset + fed)):
        take(piece[:count])
        fed += count
    return fed


@aiofiles.os.wrap
def _cut(descriptor: int, bytes_max: int) -> None:
    if os.fstat(descriptor).st_size > bytes_max:
        os.ftruncate(descriptor, bytes_max)
        os.fdatasync(descriptor)


@aiofiles.os.wrap
def _sync(descriptor: int) -> int:
    os.fdatasync(descriptor)
    return os.fstat(descriptor).st_nlink  # 0: it would be lost however durable it is


_seal = aiofiles.os.wrap(take_seal)
_drop_cached = aiofiles.os.wrap(os.posix_fadvise)


def _open_no_follow(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
