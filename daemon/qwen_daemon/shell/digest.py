"""Hash a file on disk in a thread: its whole hash and its spans' digests in one pass."""

from __future__ import annotations

import asyncio
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
        return await asyncio.to_thread(_digest_file, path, file, progress, stop)
    except asyncio.CancelledError:
        stop.set()
        raise


def _digest_file(
    path: Path, file: WantedFile, progress: Callable[[int], None], stop: threading.Event
) -> tuple[str, tuple[Span, ...]]:
    whole, spans, done = new_hash(file), SpanDigester(0), 0
    buffer = bytearray(READ_BYTES)
    with path.open("rb", buffering=0) as source:
        while count := source.readinto(buffer):
            if stop.is_set():
                raise Stopped
            piece = memoryview(buffer)[:count]
            whole.update(piece)
            spans.update(piece)
            done += count
            progress(done)
    return whole.hexdigest(), spans.take()
