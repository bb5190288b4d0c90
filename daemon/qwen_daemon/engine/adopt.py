"""What lies elsewhere is taken instead of fetched: proven, made ours, and put on record.

A hardlink is one file with two names, and making or removing one moves the file's ctime: seals that held before are
renewed here. The other way round, a file that turned out damaged takes the seals of all its names with it. Either way
the other names' models have to look again: `touched` says whose. The ways to take a content are the shell's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from qwen_api import events as e
from qwen_api.manifest import Manifest, WantedFile
from qwen_api.seals import Seal
from qwen_daemon.core.twins import Taken, Twin, candidates, is_same_file, proven
from qwen_daemon.engine.cancel import finish
from qwen_daemon.engine.disk import Disk
from qwen_daemon.engine.transfers import Transfers


async def sealed_twins(disk: Disk, manifest: Manifest, file: WantedFile) -> dict[str, Seal]:
    """The seals, by place, of what lies elsewhere for this content and is known to be right."""
    return await _proven(disk, file, await disk.twins.find(manifest, file))


async def renew_seals(disk: Disk, manifest: Manifest, file: WantedFile, before: Mapping[str, Seal]) -> set[str]:
    """A link to files that were sealed was made or removed; returns the repositories that have a new seal."""
    renewed = set()
    for twin in await disk.twins.find(manifest, file) if before else ():
        old = before.get(twin.where)
        if old is not None and old != twin.seal and is_same_file(old, twin.seal):
            await disk.seals.seal(twin.where, file.etag, twin.seal)
            renewed.add(twin.repo)
    return renewed


@dataclass
class Adoption:
    """Takes contents for one round of one model."""

    manifest: Manifest
    model: str
    disk: Disk
    hashes: asyncio.Semaphore
    transfers: Transfers
    publish: Callable[[e.Event], int]
    touched: set[str] = field(default_factory=set)
    _wrong: set[tuple[str, str]] = field(default_factory=set)  # (place, etag): one hash is enough to know

    async def adopt(self, file: WantedFile, ways: Sequence[e.AdoptedHow]) -> bool:
        """Publish the content from elsewhere; False if it cannot be had so.

        Raises MakeRoom if only a copy is left and does not fit.
        """
        twins = await self.disk.twins.find(self.manifest, file)
        if not twins:
            return False
        sealed = await _proven(self.disk, file, twins)
        async with self.disk.locks.hold(self.manifest.repo, file) as held:
            for twin in candidates(file, twins, sealed) if held else ():
                if (twin.where, file.etag) in self._wrong:
                    continue
                if twin.where in sealed and "copy" not in ways:
                    taken = await finish(self._take(file, twin, ways, sealed))  # half a link would cost it its seal
                else:
                    async with self.hashes:
                        taken = await self._take(file, twin, ways, sealed)
                if taken:
                    return True
        return False

    async def could(self, file: WantedFile) -> bool:
        """Is there still something elsewhere that may be the content?"""
        twins = await self.disk.twins.find(self.manifest, file)
        return any((twin.where, file.etag) not in self._wrong for twin in candidates(file, twins, {}))

    async def distrust(self, file: WantedFile) -> None:
        """Our file is not what it should be: whoever has the same one under another name must not believe it either."""
        for twin in await self.disk.twins.find(self.manifest, file):
            if twin.shared and twin.repo:
                await self.disk.seals.seal(twin.where, file.etag, None)
                self.touched.add(twin.repo)

    async def _take(
        self, file: WantedFile, twin: Twin, ways: Sequence[e.AdoptedHow], sealed: Mapping[str, Seal]
    ) -> bool:
        with self.transfers.watch(file, verifying=True) as transfer:

            def progress(done_bytes: int) -> None:
                transfer.position = done_bytes  # written in the working thread, only ever read elsewhere

            taken = await self.disk.twins.take(
                self.manifest, file, twin, is_proven=twin.where in sealed, ways=ways, progress=progress
            )
        if isinstance(taken, Taken):
            await finish(self._settle(file, twin, taken, sealed))
            return True
        if taken == "wrong":
            self._wrong.add((twin.where, file.etag))
        return False

    async def _settle(self, file: WantedFile, twin: Twin, taken: Taken, sealed: Mapping[str, Seal]) -> None:
        disk, where = self.disk, self.disk.where(self.manifest, file)
        spans = taken.spans
        if spans is None and twin.where in sealed:
            part, known = await disk.ledger.spans(twin.where, file.etag, file.size_bytes)
            spans = known if part is None else ()
        unfinished, _ = await disk.ledger.spans(where, file.etag, file.size_bytes)
        await disk.ledger.forget(where, file.etag)
        seal = await disk.store.publish(self.manifest, file, taken.name)
        await disk.ledger.record(where, file.etag, file.size_bytes, None, spans or ())
        if is_same_file(taken.seal, seal):
            await disk.seals.seal(where, file.etag, seal)
        self.touched |= await renew_seals(disk, self.manifest, file, sealed)
        if unfinished is not None:
            await disk.blobs.drop_part(self.manifest.repo, unfinished)
        self.publish(
            e.FileAdopted(
                model=self.model, path=file.path, size_bytes=file.size_bytes, source_repo=twin.repo, how=taken.how
            )
        )


async def _proven(disk: Disk, file: WantedFile, twins: Sequence[Twin]) -> dict[str, Seal]:
    on_record = await disk.seals.seals([(twin.where, file.etag) for twin in twins])
    return proven(twins, {where: seal for (where, _etag), seal in on_record.items()})
