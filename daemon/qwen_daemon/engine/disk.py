"""What the work on files needs besides the network: the ports onto what is stored, and the shares of the machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from qwen_api.manifest import Manifest, WantedFile
from qwen_api.seals import Seal
from qwen_daemon.engine.batch import WAITING_FILES_MAX
from qwen_daemon.engine.budget import Rank, Slots
from qwen_daemon.engine.connections import Connections
from qwen_daemon.ports import Batches, Blobs, Ledger, Locks, Reader, Seals, Store, Twins


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The ports onto what is stored in one layout. `where` names a content's place in the ledger (ports.Ledger)."""

    store: Store
    batches: Batches
    blobs: Blobs
    ledger: Ledger
    seals: Seals
    locks: Locks
    twins: Twins
    reader: Reader
    where: Callable[[Manifest, WantedFile], str]

    async def sealed(self, manifest: Manifest) -> dict[str, Seal]:
        """The seals on record of the manifest's files, by path."""
        keys = {file.path: (self.where(manifest, file), file.etag) for file in manifest.files}
        seals = await self.seals.seals(list(keys.values()))
        return {path: seals[key] for path, key in keys.items() if key in seals}


class Contents:
    """One fetch of a content at a time, over all models: whoever had to wait may find it here afterwards.

    Whoever holds a content has the rank of the most important one that waits for it; `reorder` is called when that
    may have moved somebody forward.
    """

    def __init__(self, reorder: Callable[[], None] = lambda: None) -> None:
        self._reorder = reorder
        self._contents: WeakValueDictionary[str, _Content] = WeakValueDictionary()
        self._brought: set[str] = set()

    @asynccontextmanager
    async def hold(self, etag: str, rank: Rank) -> AsyncIterator[bool]:
        """Hold the content; gives True if it was brought since the daemon began, so that it may be here by now."""
        content = self._contents.setdefault(etag, _Content())
        async with content.held(rank, self._reorder):
            yield etag in self._brought

    def brought(self, etag: str) -> None:
        """The content was fetched and published."""
        self._brought.add(etag)


class _Content:
    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._waiting: set[Rank] = set()

    @asynccontextmanager
    async def held(self, rank: Rank, reorder: Callable[[], None]) -> AsyncIterator[None]:
        self._waiting.add(rank)
        try:
            if self._lock.locked():
                reorder()
            await self._lock.acquire()
        except asyncio.CancelledError:
            reorder()
            raise
        finally:
            self._waiting.discard(rank)
        rank.lenders = self._waiting
        try:
            yield
        finally:
            rank.lenders = ()
            self._lock.release()


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What all models share: files in flight and their connections, files being hashed, contents being fetched.

    `batched`: small files that have come and wait for their batch. To be made in the event loop that uses it.
    """

    files: Slots
    connections: Connections
    hashes: asyncio.Semaphore
    contents: Contents
    batched: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(WAITING_FILES_MAX))
