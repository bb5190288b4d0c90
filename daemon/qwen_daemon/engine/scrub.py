"""Seals say that nobody touched a file; only reading it says that the disk still gives back what was written.

So every file of every complete model is hashed again once per interval, one after the other, while the model stays
complete. When each was read last is on record, so a restart goes on where it was. What turns out wrong loses its seal,
and its model's keeper does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from qwen_api import events as e
from qwen_api.manifest import Manifest, WantedFile
from qwen_daemon.core.errors import Trouble, TryAgain
from qwen_daemon.engine.disk import Disk
from qwen_daemon.ports import Clock

LOOK_S = 3600.0  # how often it is asked whether something is due


class Readings(Protocol):
    """When each content was read last, across restarts; RFC 3339 UTC, so that text order is time order.

    By place and etag, as in ports.Ledger.
    """

    async def last_read(self, where: str, etag: str) -> str | None:
        """None if it never was."""

    async def set_last_read(self, where: str, etag: str, at: str) -> None:
        """It was read now, or is counted from now."""


class Kept(Protocol):
    """A model that may be scrubbed."""

    complete: bool

    @property
    def disk(self) -> Disk:
        """Where it is kept."""

    @property
    def manifest(self) -> Manifest | None:
        """Its files, once they are known."""

    def wake(self, reason: str) -> None:
        """Look at the disk again."""


@dataclass(frozen=True, kw_only=True)
class Scrub:
    """Reads everything once in `interval_s` seconds."""

    interval_s: float
    keepers: Callable[[], Mapping[str, Kept]]
    readings: Readings
    clock: Clock
    publish: Callable[[e.Event], int]

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            for key, keeper in self.keepers().items():
                try:
                    await self._model(key, keeper)
                except Trouble:
                    continue  # a disk or a ledger that cannot be read now: at the next look
            await self.clock.sleep(min(LOOK_S, self.interval_s))

    async def _model(self, key: str, keeper: Kept) -> None:
        manifest = keeper.manifest
        if manifest is None:
            return
        files = {(keeper.disk.where(manifest, file), file.etag): file for file in manifest.files}
        started_s, read, damaged = self.clock.monotonic_s(), [], 0
        for (where, etag), file in files.items():
            if not keeper.complete:
                break
            if not await self._is_due(where, etag):
                continue
            if not await self._is_right(keeper.disk, manifest, file):
                damaged += 1
                keeper.wake("change")
            read.append(file)
            await self.readings.set_last_read(where, etag, self.clock.utc())
        if read:
            self.publish(
                e.ModelScrubbed(
                    model=key,
                    files=len(read),
                    size_bytes=sum(file.size_bytes for file in read),
                    damaged=damaged,
                    duration_s=round(self.clock.monotonic_s() - started_s, 3),
                )
            )

    async def _is_due(self, where: str, etag: str) -> bool:
        last = await self.readings.last_read(where, etag)
        if last is None:  # it has just come, or this program has: either way somebody hashed it
            await self.readings.set_last_read(where, etag, self.clock.utc())
            return False
        return last <= self.clock.utc(-self.interval_s)

    async def _is_right(self, disk: Disk, manifest: Manifest, file: WantedFile) -> bool:
        """True also of a file that is not as it was sealed, or changes meanwhile: its keeper hashes it anyway."""
        this = manifest.keep([file.path])
        found, seal = (await disk.store.find(this))[file.path], (await disk.sealed(this)).get(file.path)
        if found.seal is None or found.seal != seal:
            return True
        try:
            if await disk.reader.digest(manifest.repo, file, found) == file.etag:
                return True
        except TryAgain:
            pass  # what the disk no longer gives back is as bad as what it gives back wrong
        if (await disk.store.find(this))[file.path].seal != seal:
            return True
        await disk.seals.seal(disk.where(manifest, file), file.etag, None)
        return False
