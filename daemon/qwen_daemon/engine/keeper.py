"""One wanted model, for ever: a round, then wait for whatever makes another one worth it.

What wakes it: a change on disk, a timer, a command, a signal, the end of a wait. Pausing cancels the round (what is
recorded stays); a followed branch that moves is told, or followed, or never asked about, as the policy says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qwen_api import events as e
from qwen_api.commands import AddModel
from qwen_api.manifest import Manifest
from qwen_api.models import ModelRef
from qwen_daemon.core.backoff import disk_delay_s, round_delay_s
from qwen_daemon.core.errors import MakeRoom, Trouble
from qwen_daemon.engine.cancel import beside, wait
from qwen_daemon.engine.disk import Disk
from qwen_daemon.engine.outcome import Outcome
from qwen_daemon.engine.patience import Patience
from qwen_daemon.engine.round import Round
from qwen_daemon.engine.supply import Supply
from qwen_daemon.engine.transfers import Transfer
from qwen_daemon.engine.world import Place, World

FAR_S = 365 * 24 * 3600.0  # "until something happens"


log = logging.getLogger(__name__)


class Watch(Protocol):
    """Tells of changes under folders."""

    def changes(self, folders: Sequence[Path]) -> AsyncIterator[frozenset[str]]:
        """Paths that changed, in batches, for ever; an empty batch first, when changes begin to be seen."""


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """How often a complete model is looked at: the disk, and the Hub's branch. Seconds."""

    check_s: float
    hub_s: float


class Keeper:
    """Keeps one model as it is wanted."""

    def __init__(
        self,
        world: World,
        watch: Watch,
        rhythm: Rhythm,
        ref: ModelRef,
        wanted: AddModel,
    ) -> None:
        self.ref = ref
        self.wanted = wanted
        self.complete = False
        self.settled = asyncio.Event()  # set whenever a round has ended and its outcome is told
        self.outcome: Outcome | None = None
        self._world = world
        self._watch = watch
        self._rhythm = rhythm
        self._paused = False
        self._distrust = False
        self._is_asked = False  # by somebody who waits to hear that it is complete
        self._reason = "start"
        self._failed_rounds = 0
        self._refusals = 0  # of the disk, since it was last complete
        self._woken = asyncio.Event()
        self._hurry = asyncio.Event()
        self._scope: asyncio.Timeout | None = None
        self._manifest: Manifest | None = None
        self._this: Round | None = None
        self._received: dict[str, int] = {}
        self._told_commit = ""
        self._hub_asked_s = world.clock.monotonic_s()

    @property
    def place(self) -> Place:
        """Where this model is kept."""
        return self._world.place

    @property
    def disk(self) -> Disk:
        """The ports of its place."""
        return self._world.disk

    @property
    def manifest(self) -> Manifest | None:
        """The files this model is about, as far as they are known."""
        return (self._this.manifest if self._this else None) or self._manifest

    @property
    def supply(self) -> Supply:
        """Where its bytes come from."""
        return self._world.supply(self.ref.key)

    def transfer(self, path: str) -> Transfer | None:
        """What one file's try has done so far, while it moves."""
        transfers = self._this.transfers if self._this else None
        return transfers.of(path) if transfers else None

    async def run(self) -> None:
        """Never returns; cancel it to stop."""
        while True:
            delay_s = await self._round()
            self.settled.set()
            await self._wait(delay_s)

    def wake(self, reason: str, *, distrust: bool = False) -> None:
        """Look again soon; a round under way is not disturbed, another follows it."""
        self._reason, self._distrust = reason, self._distrust or distrust
        self.settled.clear()
        self._woken.set()

    def verify(self, *, full: bool) -> None:
        """Look at the disk again, and hash every file if `full`. What is complete stays so until that finds damage,

        and is told as complete once more at the end: whoever asked waits for an answer.
        """
        self.wake("command", distrust=full)
        self._is_asked = True
        self._tell_asked()

    async def update(self) -> None:
        """Ask the Hub again which commit the revision names, and bring that one to complete."""
        if not self.ref.is_pinned:
            await self._world.desires.set_commit(self.ref.key, None)
            self.complete = False
        self._interrupt("command")

    def retry(self) -> None:
        """Cut every wait short."""
        self._hurry.set()
        self._world.controls.of(self.ref.key).files.call()
        self._failed_rounds = self._refusals = 0
        self.wake("command")

    def pause(self) -> None:
        """Stop fetching until resumed."""
        self._paused = True
        self._interrupt("command")

    def resume(self) -> None:
        """Go on after a pause."""
        self._paused = False
        self.wake("command")

    def nudge(self, *, also_after_round: bool) -> None:
        """What may be fetched has changed: an incomplete model is looked at again, unless a round does so already."""
        if not self.complete and (also_after_round or self._this is None):
            self._failed_rounds = self._refusals = 0
            self.wake("command")

    def change(self, wanted: AddModel) -> None:
        """Other patterns or another policy from now on."""
        self.wanted = wanted
        self._interrupt("command")

    def _interrupt(self, reason: str) -> None:
        self.wake(reason)
        if self._scope is not None:
            scope, self._scope = self._scope, None  # once: a scope that expires cannot be told so again
            scope.reschedule(asyncio.get_running_loop().time())

    async def _round(self) -> float:
        """One round, told; returns how long to wait for the next if nothing happens."""
        if self._paused:
            self.complete = False
            self._woken.clear()
            self._say("paused")
            return FAR_S
        reason, distrust, is_asked = self._reason, self._distrust, self._is_asked
        self._reason, self._distrust, self._is_asked = "timer", False, False
        if not self.complete:
            self._say("checking")
        patience = Patience(
            clock=self._world.clock,
            model=self.ref.key,
            publish=self._world.publish,
            state=None if self.complete else "checking",
        )
        this = Round(
            world=self._world.with_patience(patience),
            ref=self.ref,
            wanted=self.wanted,
            reason=reason,
            distrust=distrust,
            hurry=self._hurry,
            quiet=self.complete and reason in ("timer", "change"),
            was_complete=self.complete,
            received=self._received,
        )
        self._woken.clear()
        scope = asyncio.timeout(None)
        self._scope, self._this = scope, this
        try:
            async with scope, beside(patience.tell()):
                outcome = await this.run(self._manifest)
        except MakeRoom as full:
            return self._told_full(full)
        except Exception as error:  # one model's surprise must not take the others down; it is logged whole
            if isinstance(error, TimeoutError) and scope.expired():  # interrupted: paused or changed
                self.complete = False
                return 0.0
            log.exception("model.surprised", exc_info=error, extra={"model": self.ref.key})
            return self._told(Outcome(complete=False, manifest=None, code="E_INTERNAL", detail=type(error).__name__))
        finally:
            self._scope = self._this = None
            self._manifest = this.manifest or self._manifest
        return self._told(outcome, is_asked=is_asked)

    def _told_full(self, full: MakeRoom) -> float:
        self.complete = False
        self.outcome = Outcome(complete=False, manifest=self.manifest, code=full.code, detail=full.detail)
        if not full.is_foreseen:
            self._refusals += 1
        delay_s = disk_delay_s(0 if full.is_foreseen else self._refusals)
        self._say("waiting", full.code, full.detail, delay_s)
        return delay_s

    def _told(self, outcome: Outcome, *, is_asked: bool = False) -> float:
        self.outcome = outcome
        if outcome.complete:
            self._failed_rounds = self._refusals = 0
            self._tell_complete(outcome, is_asked=is_asked)
            return self._rhythm.check_s
        self.complete = False
        if outcome.needs_human:
            self._say("failed", outcome.code, outcome.detail)
            return FAR_S
        if outcome.code in ("E_OFFLINE", e.FILES_PAUSED):  # nothing may be fetched that is still missing
            self._say("incomplete", outcome.code, outcome.detail)
            return self._rhythm.check_s
        self._failed_rounds += 1
        delay_s = round_delay_s(self._failed_rounds)
        self._say("waiting", outcome.code, outcome.detail, delay_s)
        return delay_s

    def _tell_complete(self, outcome: Outcome, *, is_asked: bool) -> None:
        manifest = outcome.manifest
        assert manifest is not None and outcome.structure is not None, "complete without knowing of what"
        if self.complete and not outcome.worked and not is_asked:
            return  # it was and still is: nothing to tell
        self.complete = True
        self._world.publish(
            e.ModelComplete(
                model=self.ref.key,
                repo=manifest.repo,
                commit=manifest.commit,
                path=str(self._world.listings.snapshot(manifest)),
                files=len(manifest.files),
                size_bytes=manifest.size_bytes,
                has_code=outcome.structure.has_code,
                has_pickle=outcome.structure.has_pickle,
            )
        )
        self._tell_asked()

    def _tell_asked(self) -> None:
        """Told before the round begins: whoever waits for the verification must not take the last one's for it."""
        if self.complete and self._is_asked and (manifest := self.manifest) is not None:
            asked = e.ModelVerifying(model=self.ref.key, files=len(manifest.files), size_bytes=manifest.size_bytes)
            self._world.publish(asked)

    async def _wait(self, delay_s: float) -> None:
        """Until something wakes this model."""
        if self._woken.is_set():
            return
        async with beside(self._watch_disk()), beside(self._watch_hub()):
            await wait(self._woken, delay_s)

    async def _watch_disk(self) -> None:
        if not self.complete or self.manifest is None:
            return
        manifest = self.manifest
        async for _paths in self._watch.changes(self.place.watched(manifest)):
            with suppress(Trouble):  # a disk that cannot be read now is for the timer
                if not await self._is_untouched(manifest):
                    self.wake("change")

    async def _is_untouched(self, manifest: Manifest) -> bool:
        """Every file is named in the snapshot and still looks as it did when it was verified."""
        found = await self._world.disk.store.find(manifest)
        seals = await self._world.disk.sealed(manifest)
        return all(found[file.path].linked and found[file.path].seal == seals.get(file.path) for file in manifest.files)

    async def _watch_hub(self) -> None:
        """Ask now and then whether the branch moved."""
        if not self.complete or self.ref.is_pinned or self.wanted.follow == "pin" or self._world.offline:
            return
        clock = self._world.clock
        while True:
            await clock.sleep(max(0.0, self._hub_asked_s + self._rhythm.hub_s - clock.monotonic_s()))
            self._hub_asked_s = clock.monotonic_s()
            try:
                commit = await self._world.supply(self.ref.key).resolve(self.ref)
                if self.manifest is not None and commit not in (self.manifest.commit, self._told_commit):
                    await self._moved(commit)
            except Trouble:
                continue  # the model here is complete whatever the Hub's health; asked again next time

    async def _moved(self, commit: str) -> None:
        assert self.manifest is not None
        self._told_commit = commit
        self._world.publish(
            e.ModelMoved(
                model=self.ref.key,
                commit=self.manifest.commit,
                new_commit=commit,
                follow=self.wanted.follow,
            )
        )
        if self.wanted.follow == "auto":
            await self._world.desires.set_commit(self.ref.key, commit)
            self.complete = False
            self.wake("moved")

    def _say(self, state: e.ModelState, code: str = "", detail: str = "", retry_in_s: float | None = None) -> None:
        retry_at = "" if retry_in_s is None else self._world.clock.utc(retry_in_s)
        self._world.publish(
            e.ModelStateChanged(model=self.ref.key, state=state, code=code, detail=detail, retry_at=retry_at)
        )
