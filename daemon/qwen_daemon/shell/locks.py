"""The lock that huggingface_hub takes on a blob while it downloads it: `.locks/<repo folder>/<etag>.lock`, flock(2).

Taking it keeps `hf download` and the daemon from fetching the same 10 GB twice. It is a courtesy: on file systems
where flock does nothing both still end right, because parts have unique names and publishing is one rename.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from qwen_api import places
from qwen_daemon.shell import durable

MODE = 0o664  # as huggingface_hub makes them: a group may share a cache


class CacheLocks:
    """ports.Locks over the cache's .locks folder."""

    def __init__(self, cache: Path) -> None:
        self._folder = cache / ".locks"

    def hold(self, repo: str, etag: str) -> AbstractAsyncContextManager[bool]:
        """See ports.Locks."""
        return self._hold(self._folder / places.repo_dir(Path(), repo).name / f"{etag}.lock")

    @asynccontextmanager
    async def _hold(self, path: Path) -> AsyncIterator[bool]:
        try:
            await asyncio.to_thread(durable.make_folder, path.parent)
        except OSError as error:
            raise durable.translate(error) from error
        # thread_local=False: it is taken and released by whichever worker threads come along.
        lock = FileLock(path, timeout=0, mode=MODE, thread_local=False)
        try:
            await asyncio.to_thread(lock.acquire)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise durable.translate(error) from error
        try:
            yield True
        finally:
            lock.release()
