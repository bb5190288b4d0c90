"""What a model should be: which commit its revision names, which files that commit has, which of them are wanted.

The Hub is asked once per commit; after that the copy of its listing in the cache answers, also without a Hub.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from qwen_api import events as e
from qwen_api.commands import AddModel
from qwen_api.manifest import BadManifest, Manifest, read_tree
from qwen_api.models import ModelRef
from qwen_daemon.core.attempts import Again, Attempts, after_trouble
from qwen_daemon.core.errors import AskHuman, Trouble, TryAgain, TryLater
from qwen_daemon.engine.cancel import wait
from qwen_daemon.engine.world import World

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """One look-up for one round."""

    world: World
    ref: ModelRef
    wanted: AddModel
    reason: str
    hurry: asyncio.Event  # set by "retry now"

    async def manifest(self, last: Manifest | None) -> Manifest:
        """The files that are wanted of the commit, told if they are others than `last`. Raises Troubles."""
        commit = await self._commit()
        world, source = self.world, "cache"
        hub = world.supply(self.ref.key)
        whole: Manifest | None = None
        raw = await world.listings.listed(self.ref.repo, commit)
        if raw is not None:
            with suppress(BadManifest):  # damaged: ask the Hub again
                whole = await asyncio.to_thread(read_tree, self.ref.repo, commit, raw)
        if whole is None:
            if world.offline:
                raise TryAgain("E_OFFLINE", "the Hub may not be asked, and the cache has no listing of this commit")
            source = "hub"
            whole = await self._patiently(lambda: hub.list_files(self.ref.repo, commit))
            await world.disk.store.begin(whole, self.ref)
        manifest = world.select(whole, self.wanted.include, self.wanted.exclude)
        if not whole.files:
            raise AskHuman("E_NOTHING_WANTED", "the repository has no files at this commit")
        if not manifest.files:
            raise AskHuman("E_NOTHING_WANTED", "the patterns leave no file of this repository")
        if manifest != last:
            world.publish(
                e.ModelResolved(
                    model=self.ref.key,
                    commit=commit,
                    files=tuple(
                        e.ListedFile(path=f.path, size_bytes=f.size_bytes, etag=f.etag) for f in manifest.files
                    ),
                    size_bytes=manifest.size_bytes,
                    source="hub" if source == "hub" else "cache",
                )
            )
        return manifest

    async def _commit(self) -> str:
        """The commit this model is at: as recorded; else asked of the Hub; else, offline, what the cache says."""
        world = self.world
        if self.ref.is_pinned:
            return self.ref.revision
        known = await world.desires.commit_of(self.ref.key)
        is_asked_anew = self.wanted.follow == "auto" and self.reason == "start" and not world.offline
        if known is not None and not is_asked_anew:
            return known
        if world.offline:
            commit = await world.listings.ref(self.ref)
            if commit is None:
                raise TryAgain("E_OFFLINE", "the Hub may not be asked, and the cache does not know this revision")
        else:
            try:
                commit = await self._patiently(lambda: world.supply(self.ref.key).resolve(self.ref))
            except TryAgain:
                commit = known or await world.listings.ref(self.ref)
                if commit is None:
                    raise
                return commit  # not recorded: the Hub is asked again next time
        await world.desires.set_commit(self.ref.key, commit)
        return commit

    async def _patiently(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Ask the Hub with the same tries as a file has."""
        attempts = Attempts()
        while True:
            try:
                return await ask()
            except Trouble as trouble:
                decision = after_trouble(attempts, trouble, received_bytes=0, dice=self.world.clock.dice())
                if not isinstance(decision, Again):
                    raise
                retry_at = self.world.clock.utc(decision.delay_s)
                if isinstance(trouble, TryLater):
                    self.world.publish(e.HubThrottled(origin="api", retry_at=retry_at))
                self.world.publish(
                    e.ModelStateChanged(
                        model=self.ref.key,
                        state="checking",
                        code=trouble.code,
                        detail=trouble.detail,
                        retry_at=retry_at,
                    )
                )
            attempts = decision.attempts
            await wait(self.hurry, decision.delay_s)
