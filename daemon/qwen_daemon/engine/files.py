"""The wanted files of one commit, one by one: hash what is there unproven, fetch what is not, publish, seal.

The count of files in flight is one budget for the whole daemon. A file counts as verified only after it is published
and durable. Tries and pauses stand in engine.fetches, the round (what a model needs as a whole) in engine.round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass

from qwen_api import events as e
from qwen_api.manifest import Manifest, WantedFile
from qwen_daemon.core.digest import algorithm_of
from qwen_daemon.core.errors import StartOver, Trouble, TryAgain, TryLater
from qwen_daemon.core.plan import Found, Step
from qwen_daemon.core.spans import Span, recorded_bytes
from qwen_daemon.core.tuning import DEFAULT_TUNING, Tuning
from qwen_daemon.core.twins import ways_without_room
from qwen_daemon.engine.adopt import Adoption
from qwen_daemon.engine.batch import Batch
from qwen_daemon.engine.budget import Rank
from qwen_daemon.engine.cancel import finish
from qwen_daemon.engine.controls import ModelControls
from qwen_daemon.engine.disk import Budget, Disk
from qwen_daemon.engine.download import Download
from qwen_daemon.engine.small import fetch_small, is_small
from qwen_daemon.engine.stream import Source
from qwen_daemon.engine.transfers import Transfers
from qwen_daemon.ports import Clock, Origin

LOCKED_PAUSE_S = 5.0  # how often a file that another program is downloading is looked at again


@dataclass
class Files:
    """Works on the files of one commit, one step at a time."""

    manifest: Manifest
    model: str
    disk: Disk
    origin: Origin
    clock: Clock
    budget: Budget
    controls: ModelControls
    transfers: Transfers
    publish: Callable[[e.Event], int]
    verified: Callable[[WantedFile], None]
    adoption: Adoption
    tuning: Tuning = DEFAULT_TUNING

    def __post_init__(self) -> None:
        self.batch = Batch(self.manifest, self.disk.batches, self.disk.seals, self._where)

    async def link(self, step: Step) -> None:
        """The blob is here and sealed; only the snapshot's name for it is missing."""
        await self.disk.store.publish(self.manifest, step.file, None)
        await self._announce(step.file)

    async def hash(self, step: Step, found: Found) -> bool:
        """Hash a file that is here without proof; True if it is right (then it is sealed), False if not.

        What cannot be read is not right either: to fetch it again helps where the disk has spare sectors.
        """
        file, started_s = step.file, self.clock.monotonic_s()
        async with self.budget.hashes:
            with self.transfers.watch(file, verifying=True) as transfer:

                def progress(done_bytes: int) -> None:
                    transfer.position = done_bytes  # written in the hashing thread, only ever read elsewhere

                try:
                    digest, spans = await self.disk.blobs.digest(self.manifest.repo, file, found, progress)
                    detail = ""
                except TryAgain as trouble:
                    digest, spans, detail = "", (), trouble.detail
        if digest != file.etag:
            await self.disk.seals.seal(self._where(file), file.etag, None)
            self._tell_damaged(file, digest, detail)
            return False
        if not is_small(file.size_bytes):
            await self._remember(file, spans)
        seal = await self.disk.store.publish(self.manifest, file, None)
        if seal != found.seal:
            return True  # what was hashed is not what stands there now: not sealed, so the next look hashes it again
        if (await self.disk.sealed(self.manifest.keep([file.path]))).get(file.path) != seal:
            await self.disk.seals.seal(self._where(file), file.etag, seal)
        await self._announce(file, duration_s=self.clock.monotonic_s() - started_s)
        return True

    def tell_unreadable(self, file: WantedFile, why: str) -> None:
        """The disk cannot even say what stands there."""
        self._tell_damaged(file, "", why)

    def _tell_damaged(self, file: WantedFile, digest: str, detail: str) -> None:
        self.publish(
            e.FileCorrupt(
                model=self.model, path=file.path, where="disk", expected=file.etag, found=digest, detail=detail
            )
        )

    async def _remember(self, file: WantedFile, spans: Sequence[Span]) -> None:
        """The spans of a published file that was hashed, for its repair one day; no part of it will be resumed."""
        part, known = await self.disk.ledger.spans(self._where(file), file.etag, file.size_bytes)
        if not known or part is not None:
            await self.disk.ledger.forget(self._where(file), file.etag)
            await self.disk.ledger.record(self._where(file), file.etag, file.size_bytes, None, spans)
        if part is not None:
            await self.disk.blobs.drop_part(self.manifest.repo, part)

    async def fetch(self, steps: list[Step], found: Found, attempt: int) -> bool:
        """One try at one content (the steps differ in path only): True if it was adopted after all, False if it came.

        What came has still to be told, by `tell_fetched`. Raises Troubles; MakeRoom concerns the whole job.
        """
        file = steps[0].file
        rank = self.controls.files.rank(file.path)
        async with self.budget.contents.hold(file.etag, rank) as was_brought:
            # Another model may have brought it since this was planned. Its room is claimed: it may be copied.
            ways = (*ways_without_room(file), "copy")
            if is_small(file.size_bytes):
                if was_brought and await self.adopt(steps, ways):
                    return True
                if not was_brought or not await self._came_meanwhile(file, found):
                    await self._try_small(file, attempt, rank)
                return False
            with ExitStack() as coming:
                coming.enter_context(self.budget.connections.expecting(file.size_bytes))
                async with self.budget.files.slot(rank):  # before anything that takes its time: slots go in order
                    if await self.adopt(steps, ways):
                        return True
                    await self._try(file, found, attempt, rank, coming)
        return False

    async def tell_fetched(self, steps: list[Step], started_s: float) -> None:
        """The content is here: the other paths that have it are linked, and all are told."""
        await self._announce(steps[0].file, duration_s=self.clock.monotonic_s() - started_s)
        await self._link_all(steps[1:], started_s)

    async def kept_bytes(self, file: WantedFile) -> int:
        """What is on record of an unfinished part of this file: the next try begins with it."""
        with suppress(Trouble):
            return (await self.disk.ledger.kept_bytes([(self._where(file), file)])).get(file.path, 0)
        return 0

    async def adopt(self, steps: list[Step], ways: Sequence[e.AdoptedHow]) -> bool:
        """Take one content from elsewhere, if it is there and one of the ways works.

        Raises MakeRoom when only a copy is left and does not fit.
        """
        started_s = self.clock.monotonic_s()
        if not await self.adoption.adopt(steps[0].file, ways):
            return False
        await self._link_all(steps, started_s)
        return True

    async def _link_all(self, steps: list[Step], started_s: float) -> None:
        for step in steps:
            await self.disk.store.publish(self.manifest, step.file, None)
            await self._announce(step.file, duration_s=self.clock.monotonic_s() - started_s)

    async def _try_small(self, file: WantedFile, attempt: int, rank: Rank) -> None:
        """Without huggingface_hub's lock: to fetch a small file twice at once costs less than to ask for it."""
        async with AsyncExitStack() as room:
            async with self.budget.files.slot(rank):
                self.publish(
                    e.FileStarted(model=self.model, path=file.path, attempt=attempt, size_bytes=file.size_bytes)
                )
                with self.transfers.watch(file) as transfer:
                    digest, content = await fetch_small(
                        self._source(file), self.clock, transfer, self.budget.connections, self.controls.limiter, rank
                    )
                self._refuse_wrong(file, digest)
                await room.enter_async_context(self.budget.batched)
            await self.batch.publish(file, content)  # the slot is the next file's already
        self.budget.contents.brought(file.etag)

    def _source(self, file: WantedFile) -> Source:
        manifest = self.manifest
        return Source(
            repo=manifest.repo, where=self._where(file), commit=manifest.commit, file=file, origin=self.origin
        )

    def _where(self, file: WantedFile) -> str:
        return self.disk.where(self.manifest, file)

    async def _try(self, file: WantedFile, found: Found, attempt: int, rank: Rank, coming: ExitStack) -> None:
        async with self.disk.locks.hold(self.manifest.repo, file) as held:
            if not held:
                raise TryLater("E_LOCKED", "another program is downloading this file", after_s=LOCKED_PAUSE_S)
            if await self._came_meanwhile(file, found):
                return
            name, spans = await self._start_from(file, found)
            self.publish(
                e.FileStarted(
                    model=self.model,
                    path=file.path,
                    attempt=attempt,
                    size_bytes=file.size_bytes,
                    offset_bytes=recorded_bytes(spans),
                )
            )
            part = await self.disk.store.open_part(self.manifest.repo, file, name)
            try:
                try:
                    if part.name != name:
                        spans = ()
                    with self.transfers.watch(file) as transfer:
                        download = Download(
                            self._source(file),
                            part,
                            self.disk.ledger,
                            self.clock,
                            transfer,
                            self.budget.connections,
                            self.controls.limiter,
                            self.tuning,
                            rank,
                        )
                        coming.close()
                        digest = await download.run(spans, lambda kept: self._resumed(file, kept))
                finally:
                    await part.close()
                self._refuse_wrong(file, digest)
                seal = await self.disk.store.publish(self.manifest, file, part.name)
                if not part.is_published_as(seal):  # it stands there unproven, and the next try does away with it
                    raise TryAgain("E_PART_GONE", "somebody changed the finished file while it got its name")
                self.budget.contents.brought(file.etag)
                await self.disk.ledger.settle(self._where(file), file.etag, file.size_bytes, (), seal)
            except StartOver:
                await finish(self.disk.ledger.forget(self._where(file), file.etag))
                raise
            finally:
                await finish(self._drop_unless_recorded(file, part.name))

    async def _came_meanwhile(self, file: WantedFile, planned: Found) -> bool:
        """Whoever held the lock before us may have brought this very content; then it is proven and linked."""
        this = self.manifest.keep([file.path])
        found = (await self.disk.store.find(this))[file.path]
        if found.seal is None or found.seal == planned.seal or found.seal.size_bytes != file.size_bytes:
            return False
        if (await self.disk.sealed(this)).get(file.path) != found.seal:
            try:
                digest, spans = await self.disk.blobs.digest(self.manifest.repo, file, found, lambda _done: None)
            except TryAgain:
                return False  # it cannot be read: fetched after all
            if digest != file.etag:
                return False
            await self.disk.ledger.record(self._where(file), file.etag, file.size_bytes, None, spans)
        seal = await self.disk.store.publish(self.manifest, file, None)
        if seal == found.seal:
            await self.disk.seals.seal(self._where(file), file.etag, seal)
        return seal == found.seal

    async def _drop_unless_recorded(self, file: WantedFile, part: str) -> None:
        """A part that the ledger does not name will never be resumed: it must not fill the disk."""
        with suppress(Trouble):
            recorded, _ = await self.disk.ledger.spans(self._where(file), file.etag, file.size_bytes)
            if recorded != part:
                await self.disk.blobs.drop_part(self.manifest.repo, part)

    async def _start_from(self, file: WantedFile, found: Found) -> tuple[str | None, tuple[Span, ...]]:
        """The part of an earlier try; or a copy of the damaged published file, of which good spans are on record."""
        name, spans = await self.disk.ledger.spans(self._where(file), file.etag, file.size_bytes)
        if name is not None or not spans:
            return name, spans
        copy = await self.disk.blobs.copy_for_repair(self.manifest.repo, file, found) if found.seal else None
        if copy is None:
            await self.disk.ledger.forget(self._where(file), file.etag)
            return None, ()
        await self.disk.ledger.record(self._where(file), file.etag, file.size_bytes, copy, ())
        return copy, spans

    def _refuse_wrong(self, file: WantedFile, digest: str) -> None:
        """The whole file is here; if it is not the Hub's, what the network lied about is thrown away."""
        if digest != file.etag:
            self.origin.distrust(self.manifest.repo, file)
            self.publish(
                e.FileCorrupt(model=self.model, path=file.path, where="network", expected=file.etag, found=digest)
            )
            raise StartOver("E_CORRUPT", "the bytes that came do not have the Hub's hash")

    async def _announce(self, file: WantedFile, *, duration_s: float = 0.0) -> None:
        self.publish(
            e.FileVerified(
                model=self.model,
                path=file.path,
                size_bytes=file.size_bytes,
                algorithm=algorithm_of(file),
                received_bytes=self.transfers.received_bytes(file.path),
                duration_s=round(duration_s, 3),
            )
        )
        self.verified(file)

    def _resumed(self, file: WantedFile, kept_bytes: int) -> None:
        self.publish(e.FileResumed(model=self.model, path=file.path, kept_bytes=kept_bytes, size_bytes=file.size_bytes))
