"""The wanted files of one commit, one by one: hash what is there unproven, fetch what is not, retry, publish, seal.

Each file has its own tries; the count of files in flight is one budget for the whole daemon. A file counts as verified
only after it is published and durable. The round (what a model needs as a whole) stands in engine.round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from qwen_api import events as e
from qwen_api.manifest import Manifest, WantedFile
from qwen_daemon.core.attempts import Again, Attempts, GiveUp, after_trouble
from qwen_daemon.core.backoff import ATTEMPTS_MAX
from qwen_daemon.core.digest import algorithm_of
from qwen_daemon.core.errors import MakeRoom, StartOver, Trouble, TryLater
from qwen_daemon.core.plan import Found, Step
from qwen_daemon.core.spans import Span
from qwen_daemon.core.twins import ways_without_room
from qwen_daemon.engine.adopt import Adoption
from qwen_daemon.engine.cancel import finish, wait
from qwen_daemon.engine.controls import ModelControls
from qwen_daemon.engine.disk import Budget, Disk
from qwen_daemon.engine.download import Download
from qwen_daemon.engine.small import fetch_small, is_small
from qwen_daemon.engine.stream import Source
from qwen_daemon.engine.transfers import Transfers
from qwen_daemon.ports import Clock, Origin

LOCKED_PAUSE_S = 5.0  # how often a file that another program is downloading is looked at again


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A file that could not be had in this round."""

    path: str
    code: str
    detail: str
    needs_human: bool


@dataclass
class Files:
    """Works on the files of one commit; `failures` says what could not be had."""

    manifest: Manifest
    model: str
    disk: Disk
    origin: Origin
    clock: Clock
    budget: Budget
    controls: ModelControls
    transfers: Transfers
    publish: Callable[[e.Event], int]
    hurry: asyncio.Event  # set by "retry now": every wait between tries ends
    verified: Callable[[WantedFile], None]
    adoption: Adoption
    failures: list[Failure] = field(default_factory=list)

    async def link(self, step: Step) -> None:
        """The blob is here and sealed; only the snapshot's name for it is missing."""
        await self.disk.store.publish(self.manifest, step.file, None)
        await self._announce(step.file)

    async def hash(self, step: Step, found: Found) -> bool:
        """Hash a file that is here without proof; True if it is right (then it is sealed), False if not."""
        file, started_s = step.file, self.clock.monotonic_s()
        async with self.budget.hashes:
            with self.transfers.watch(file, verifying=True) as transfer:

                def progress(done_bytes: int) -> None:
                    transfer.position = done_bytes  # written in the hashing thread, only ever read elsewhere

                digest, spans = await self.disk.blobs.digest(self.manifest.repo, file, found, progress)
        if digest != file.etag:
            await self.disk.seals.seal(self.manifest.repo, file.etag, None)
            self.publish(
                e.FileCorrupt(model=self.model, path=file.path, where="disk", expected=file.etag, found=digest)
            )
            return False
        part, known = await self.disk.ledger.spans(self.manifest.repo, file.etag, file.size_bytes)
        if not known or part is not None:
            await self.disk.ledger.forget(self.manifest.repo, file.etag)
            await self.disk.ledger.record(self.manifest.repo, file.etag, file.size_bytes, None, spans)
        if part is not None:
            await self.disk.blobs.drop_part(self.manifest.repo, part)
        seal = await self.disk.store.publish(self.manifest, file, None)
        if seal != found.seal:
            return True  # what was hashed is not what stands there now: not sealed, so the next look hashes it again
        await self.disk.seals.seal(self.manifest.repo, file.etag, seal)
        await self._announce(file, duration_s=self.clock.monotonic_s() - started_s)
        return True

    async def fetch(self, steps: list[Step], found: Found) -> None:
        """Fetch one content (the steps differ in path only) with its tries; a failure is noted, not raised.

        Raises MakeRoom when the disk is full: that concerns the whole job.
        """
        file, attempts, started_s = steps[0].file, Attempts(), self.clock.monotonic_s()
        attempt = 1
        while True:
            received_before = self.transfers.received_bytes(file.path)
            try:
                async with self.budget.contents.hold(file.etag) as was_brought:
                    # Another model may have brought it since this was planned. Its room is claimed: it may be copied.
                    may_be_here = was_brought or not is_small(file.size_bytes)
                    if may_be_here and await self.adopt(steps, (*ways_without_room(file), "copy")):
                        return
                    async with self.budget.files.slot(self.controls.rank):
                        if is_small(file.size_bytes):
                            if not was_brought or not await self._came_meanwhile(file, found):
                                await self._try_small(file, attempt)
                        else:
                            await self._try(file, found, attempt)
                break
            except MakeRoom:
                raise
            except Trouble as error:
                trouble = error
            received = self.transfers.received_bytes(file.path) - received_before
            decision = after_trouble(attempts, trouble, received_bytes=received, dice=self.clock.dice())
            if isinstance(decision, GiveUp):
                self._fail(steps, decision)
                return
            attempts, attempt = decision.attempts, decision.attempt
            await self._wait(file, decision, trouble)
        await self._announce(file, duration_s=self.clock.monotonic_s() - started_s)
        await self._link_all(steps[1:], started_s)

    async def adopt(self, steps: list[Step], ways: Sequence[e.AdoptedHow]) -> bool:
        """Take one content from elsewhere in the cache, if it is there and one of the ways works.

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

    async def _try_small(self, file: WantedFile, attempt: int) -> None:
        """Without huggingface_hub's lock: to fetch a small file twice at once costs less than to ask for it."""
        self.publish(e.FileStarted(model=self.model, path=file.path, attempt=attempt, size_bytes=file.size_bytes))
        with self.transfers.watch(file) as transfer:
            digest, content, spans = await fetch_small(
                self._source(file), self.clock, transfer, self.budget.connections, self.controls.limiter
            )
        await self._judge(file, digest, content, spans)

    def _source(self, file: WantedFile) -> Source:
        return Source(repo=self.manifest.repo, commit=self.manifest.commit, file=file, origin=self.origin)

    async def _try(self, file: WantedFile, found: Found, attempt: int) -> None:
        async with self.disk.locks.hold(self.manifest.repo, file.etag) as held:
            if not held:
                raise TryLater("E_LOCKED", "another program is downloading this file", after_s=LOCKED_PAUSE_S)
            if await self._came_meanwhile(file, found):
                return
            name, spans = await self._start_from(file, found)
            self.publish(e.FileStarted(model=self.model, path=file.path, attempt=attempt, size_bytes=file.size_bytes))
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
                        )
                        digest = await download.run(spans, lambda kept: self._resumed(file, kept))
                finally:
                    await part.close()
                await self._judge(file, digest, part.name, ())
            finally:
                await finish(self._drop_unless_recorded(file, part.name))

    async def _came_meanwhile(self, file: WantedFile, planned: Found) -> bool:
        """Whoever held the lock before us may have brought this very content; then it is proven and linked."""
        found = (await self.disk.store.find(self.manifest.keep([file.path])))[file.path]
        if found.seal is None or found.seal == planned.seal or found.seal.size_bytes != file.size_bytes:
            return False
        if (await self.disk.seals.seals(self.manifest.repo, [file.etag])).get(file.etag) != found.seal:
            digest, spans = await self.disk.blobs.digest(self.manifest.repo, file, found, lambda _done: None)
            if digest != file.etag:
                return False
            await self.disk.ledger.record(self.manifest.repo, file.etag, file.size_bytes, None, spans)
        seal = await self.disk.store.publish(self.manifest, file, None)
        if seal == found.seal:
            await self.disk.seals.seal(self.manifest.repo, file.etag, seal)
        return seal == found.seal

    async def _drop_unless_recorded(self, file: WantedFile, part: str) -> None:
        """A part that the ledger does not name will never be resumed: it must not fill the disk."""
        with suppress(Trouble):
            recorded, _ = await self.disk.ledger.spans(self.manifest.repo, file.etag, file.size_bytes)
            if recorded != part:
                await self.disk.blobs.drop_part(self.manifest.repo, part)

    async def _start_from(self, file: WantedFile, found: Found) -> tuple[str | None, tuple[Span, ...]]:
        """The part of an earlier try; or a copy of the damaged published file, of which good spans are on record."""
        name, spans = await self.disk.ledger.spans(self.manifest.repo, file.etag, file.size_bytes)
        if name is not None or not spans:
            return name, spans
        copy = await self.disk.blobs.copy_for_repair(self.manifest.repo, file, found) if found.seal else None
        if copy is None:
            await self.disk.ledger.forget(self.manifest.repo, file.etag)
            return None, ()
        await self.disk.ledger.record(self.manifest.repo, file.etag, file.size_bytes, copy, ())
        return copy, spans

    async def _judge(self, file: WantedFile, digest: str, part: str | bytes, spans: Sequence[Span]) -> None:
        """The whole file is here: publish it, or throw away what the network lied about."""
        if digest != file.etag:
            await self.disk.ledger.forget(self.manifest.repo, file.etag)
            self.origin.distrust(self.manifest.repo, file)
            self.publish(
                e.FileCorrupt(model=self.model, path=file.path, where="network", expected=file.etag, found=digest)
            )
            raise StartOver("E_CORRUPT", "the bytes that came do not have the Hub's hash")
        seal = await self.disk.store.publish(self.manifest, file, part)
        self.budget.contents.brought(file.etag)
        await self.disk.ledger.settle(self.manifest.repo, file.etag, file.size_bytes, spans, seal)

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

    async def _wait(self, file: WantedFile, again: Again, trouble: Trouble) -> None:
        self.publish(
            e.FileRetry(
                model=self.model,
                path=file.path,
                attempt=again.attempt,
                attempts_max=ATTEMPTS_MAX,
                retry_at=self.clock.utc(again.delay_s),
                code=trouble.code,
                detail=trouble.detail,
            )
        )
        await wait(self.hurry, again.delay_s)

    def _resumed(self, file: WantedFile, kept_bytes: int) -> None:
        self.publish(e.FileResumed(model=self.model, path=file.path, kept_bytes=kept_bytes, size_bytes=file.size_bytes))

    def _fail(self, steps: list[Step], decision: GiveUp) -> None:
        for step in steps:
            path = step.file.path
            self.failures.append(
                Failure(path=path, code=decision.code, detail=decision.detail, needs_human=decision.needs_human)
            )
            self.publish(e.FileFailed(model=self.model, path=path, code=decision.code, detail=decision.detail))
