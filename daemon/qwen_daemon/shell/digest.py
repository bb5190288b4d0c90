"""Hash a file on disk in a thread: its whole hash and its spans' digests in one pass."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

from qwen_api.manifest import WantedFile
from qwen_daemon.core.digest import SpanDigester, new_hash
from qwen_daemon.core.spans import Span

READ_BYTES = 4 << 20


class Stopped(Exception):
    """The caller was cancelled while its thread was hashing; seen only inside that thread."""


async def digest_file(path: Path, file: WantedFile, progress: Callable[[int], None]) -> tuple[str, tuple[Span, ...]]:
    """Hash a file and its spans. Raises OSError; when cancelled, the thread stops at its next read.

    `progress` is called in that thread with the bytes hashed so far.
    """
    stop = threading.Event()
    try:
        return await asyncio.to_thread(hash_file, path, file, progress, stop)
    except asyncio.CancelledError:
        stop.set()
        raise


def hash_file(
    path: Path, file: WantedFile, progress: Callable[[int], None], stop: threading.Event
) -> tuple[str, tuple[Span, ...]]:
    """`digest_file` in this thread; raises Stopped once `stop` is set."""
    with path.open("rb", buffering=0) as source:
        return hash_through(source, file, progress, stop)


def hash_through(
    source: io.RawIOBase,
    file: WantedFile,
    progress: Callable[[int], None],
    stop: threading.Event,
    *,
    sink: int | None = None,
) -> tuple[str, tuple[Span, ...]]:
    """Hash what is read from an open file and, if `sink` is given, write it there."""
    whole, spans, done = new_hash(file), SpanDigester(0), 0
    os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)  # the kernel reads ahead twice as far
    buffer = bytearray(READ_BYTES)
    while count := source.readinto(buffer):
        if stop.is_set():
            raise Stopped
        piece = memoryview(buffer)[:count]
        whole.update(piece)
        spans.update(piece)
        if sink is not None:
            _write_all(sink, piece)
        done += count
        progress(done)
    return whole.hexdigest(), spans.take()


def _write_all(sink: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(sink, piece) :]
