"""The lock that huggingface_hub takes on a content while it downloads it: flock(2) on a file that the layout names.

Taking it keeps `hf download` and the daemon from fetching the same 10 GB twice. It is a courtesy: on file systems
where flock does nothing both still end right, because parts have unique names and publishing is one rename.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from qwen_api.manifest import WantedFile
from qwen_daemon.shell import durable
from qwen_daemon.shell.beneath import held

MODE = 0o664  # as huggingface_hub makes them: a group may share a cache


class HubLocks:
    """ports.Locks over the files that `path_of(repo, file)` gives, in a folder that is held meanwhile."""

    def __init__(self, path_of: Callable[[str, WantedFile], AbstractContextManager[Path]]) -> None:
        self._path_of = path_of

    def hold(self, repo: str, file: WantedFile) -> AbstractAsyncContextManager[bool]:
        """See ports.Locks."""
        return self._hold(repo, file)

    @asynccontextmanager
    async def _hold(self, repo: str, file: WantedFile) -> AsyncIterator[bool]:
        async with held(self._path_of(repo, file)) as path:
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
                with suppress(OSError):  # what was done under it is done; its descriptor ends with the lock object
                    lock.release()
