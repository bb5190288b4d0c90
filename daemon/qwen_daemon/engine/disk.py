"""What the work on files needs besides the network: the ports onto what is stored, and the shares of the machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from qwen_daemon.engine.batch import WAITING_FILES_MAX
from qwen_daemon.engine.budget import Slots
from qwen_daemon.engine.connections import Connections
from qwen_daemon.ports import Batches, Blobs, Ledger, Locks, Seals, Store, Twins


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The ports onto what is stored."""

    store: Store
    batches: Batches
    blobs: Blobs
    ledger: Ledger
    seals: Seals
    locks: Locks
    twins: Twins


class Contents:
    """One fetch of a content at a time, over all models: whoever had to wait may find it here afterwards."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._brought: set[str] = set()

    @asynccontextmanager
    async def hold(self, etag: str) -> AsyncIterator[bool]:
        """Hold the content; gives True if it was brought since the daemon began, so that it may be here by now."""
        lock = self._locks.setdefault(etag, asyncio.Lock())
        async with lock:
            yield etag in self._brought

    def brought(self, etag: str) -> None:
        """The content was fetched and published."""
        self._brought.add(etag)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What all models share: files in flight and their connections, files being hashed, contents being fetched.

    `batched`: small files that have come and wait for their batch. To be made in the event loop that uses it.
    """

    files: Slots
    connections: Connections
    hashes: asyncio.Semaphore
    contents: Contents = field(default_factory=Contents)
    batched: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(WAITING_FILES_MAX))
