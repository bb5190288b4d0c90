"""A disk that does not answer: what was asked of it and has not come back is noticed here, and told of the model.

Nothing can be done about it, not even to give up: a call into the kernel cannot be taken back. So the model stays as it
is, `downloading` say, with the reason beside it (E_DISK_STUCK) for as long as that lasts. Whatever takes its time by
right (hashing or copying a whole file) is not watched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from qwen_api import events as e
from qwen_api.manifest import Manifest, WantedFile
from qwen_api.models import ModelRef
from qwen_api.seals import Seal
from qwen_daemon.core.digest import Bytes
from qwen_daemon.core.errors import Trouble
from qwen_daemon.core.plan import Found
from qwen_daemon.core.spans import Span
from qwen_daemon.engine.disk import Disk
from qwen_daemon.ports import Batches, Clock, Ledger, Part, Seals, Store

STUCK_S = 5.0  # a checkpoint on a slow disk takes a second or two
FILE_S = 0.02  # for each file of a call that touches many: a seek and a half, or a question over a network
LOOK_S = 1.0
READING_LEDGER = "reading the ledger in the state directory"
WRITING_LEDGER = "writing the ledger in the state directory"


@dataclass(frozen=True)
class _Call:
    what: str
    began_s: float
    late_from_s: float


@dataclass
class Patience:
    """Of one round of one model. `state` is what the model is said to be; None: nothing is said of it."""

    clock: Clock
    model: str
    publish: Callable[[e.Event], int]
    state: e.ModelState | None
    _asked: dict[object, _Call] = field(default_factory=dict)  # in the order of their beginning
    _is_asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def tell(self) -> None:
        """Until cancelled: say that the disk is stuck, and that it is not any more."""
        told: e.ModelState | None = None  # the state that was said to be stuck
        while True:
            if told is None:
                await self._is_asked.wait()
            await self.clock.sleep(LOOK_S)
            now_s = self.clock.monotonic_s()
            late = next((call for call in self._asked.values() if call.late_from_s <= now_s), None)
            if late is None and told is not None:
                if told == self.state:
                    self.publish(e.ModelStateChanged(model=self.model, state=told))
                told = None
            elif late is not None and self.state not in (None, told):
                told = self.state
                since = self.clock.utc(late.began_s - now_s)[11:19]
                detail = f"{late.what} has not come back since {since} UTC"
                self.publish(e.ModelStateChanged(model=self.model, state=told, code="E_DISK_STUCK", detail=detail))

    def says(self, event: e.Event) -> int:
        """Publish; what is said of the model's state is remembered."""
        if isinstance(event, e.ModelStateChanged) and event.model == self.model:
            self.state = event.state
        return self.publish(event)

    def is_tried(self) -> bool:
        """True if it is the disk that is waited for, and not the line."""
        oldest = next(iter(self._asked.values()), None)
        return oldest is not None and self.clock.monotonic_s() - oldest.began_s >= LOOK_S

    @contextmanager
    def asking(self, what: str, files: int = 1) -> Iterator[None]:
        """The disk is asked for this, which touches so many files, inside the context."""
        call, now_s = object(), self.clock.monotonic_s()
        self._asked[call] = _Call(what, now_s, now_s + STUCK_S + FILE_S * (files - 1))
        self._is_asked.set()
        try:
            yield
        finally:
            del self._asked[call]
            if not self._asked:
                self._is_asked.clear()

    def with_disk(self, disk: Disk) -> Disk:
        """The same disk, whose calls are noticed."""
        return replace(
            disk,
            store=_Store(disk.store, self),
            batches=_Batches(disk.batches, self),
            ledger=_Ledger(disk.ledger, self),
            seals=_Seals(disk.seals, self),
        )


class _Part:
    """ports.Part."""

    def __init__(self, part: Part, patience: Patience, path: str) -> None:
        self.name = part.name
        self._part, self._patience, self._path = part, patience, path

    async def write(self, offset: int, data: Bytes, written: Callable[[Bytes], None]) -> None:
        with self._patience.asking(f"writing {self._path}"):
            await self._part.write(offset, data, written)

    async def feed(self, offset: int, length: int, take: Callable[[Bytes], None]) -> int:
        with self._patience.asking(f"reading {self._path}"):
            return await self._part.feed(offset, length, take)

    async def sync(self) -> None:
        with self._patience.asking(f"syncing {self._path}"):
            await self._part.sync()

    async def close(self) -> None:
        with self._patience.asking(f"closing {self._path}"):
            await self._part.close()

    def is_published_as(self, seal: Seal) -> bool:
        return self._part.is_published_as(seal)


class _Store:
    """ports.Store."""

    def __init__(self, store: Store, patience: Patience) -> None:
        self._store, self._patience = store, patience

    async def find(self, manifest: Manifest) -> dict[str, Found]:
        with self._patience.asking("looking at the files", len(manifest.files)):
            return await self._store.find(manifest)

    async def begin(self, manifest: Manifest, ref: ModelRef) -> None:
        with self._patience.asking("writing the list of files"):
            await self._store.begin(manifest, ref)

    async def open_part(self, repo: str, file: WantedFile, name: str | None) -> Part:
        with self._patience.asking(f"opening {file.path}"):
            return _Part(await self._store.open_part(repo, file, name), self._patience, file.path)

    async def publish(self, manifest: Manifest, file: WantedFile, part: str | bytes | None) -> Seal:
        with self._patience.asking(f"publishing {file.path}"):
            return await self._store.publish(manifest, file, part)

    async def finish(self, manifest: Manifest, ref: ModelRef) -> Path:
        with self._patience.asking("writing the branch", len(manifest.files)):
            return await self._store.finish(manifest, ref)


class _Batches:
    """ports.Batches."""

    def __init__(self, batches: Batches, patience: Patience) -> None:
        self._batches, self._patience = batches, patience

    async def publish_all(
        self, manifest: Manifest, contents: Sequence[tuple[WantedFile, bytes]]
    ) -> Sequence[Seal | Trouble]:
        with self._patience.asking(f"publishing {contents[0][0].path}", len(contents)):
            return await self._batches.publish_all(manifest, contents)


class _Ledger:
    """ports.Ledger: it lies in the state directory, which may be on another disk than the files."""

    def __init__(self, ledger: Ledger, patience: Patience) -> None:
        self._ledger, self._patience = ledger, patience

    async def spans(self, where: str, etag: str, size_bytes: int) -> tuple[str | None, tuple[Span, ...]]:
        with self._patience.asking(READING_LEDGER):
            return await self._ledger.spans(where, etag, size_bytes)

    async def kept_bytes(self, contents: Sequence[tuple[str, WantedFile]]) -> Mapping[str, int]:
        with self._patience.asking(READING_LEDGER):
            return await self._ledger.kept_bytes(contents)

    async def record(self, where: str, etag: str, size_bytes: int, part: str | None, spans: Sequence[Span]) -> None:
        with self._patience.asking(WRITING_LEDGER):
            await self._ledger.record(where, etag, size_bytes, part, spans)

    async def settle(self, where: str, etag: str, size_bytes: int, spans: Sequence[Span], seal: Seal) -> None:
        with self._patience.asking(WRITING_LEDGER):
            await self._ledger.settle(where, etag, size_bytes, spans, seal)

    async def forget(self, where: str, etag: str, offsets: Sequence[int] | None = None) -> None:
        with self._patience.asking(WRITING_LEDGER):
            await self._ledger.forget(where, etag, offsets)


class _Seals:
    """ports.Seals, which lie beside the ledger."""

    def __init__(self, seals: Seals, patience: Patience) -> None:
        self._seals, self._patience = seals, patience

    async def seals(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Seal]:
        with self._patience.asking(READING_LEDGER):
            return await self._seals.seals(keys)

    async def seal(self, where: str, etag: str, seal: Seal | None) -> None:
        with self._patience.asking(WRITING_LEDGER):
            await self._seals.seal(where, etag, seal)

    async def seal_all(self, seals: Mapping[tuple[str, str], Seal]) -> None:
        with self._patience.asking(WRITING_LEDGER):
            await self._seals.seal_all(seals)
