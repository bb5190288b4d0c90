"""All wanted models: those the configuration names and those asked for by command, each with its keeper.

The engine's front door for the API and the application: it turns commands into wakes and never does work itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from qwen_api import events as e
from qwen_api.commands import AddModel, SetLimits, Whereabouts
from qwen_api.manifest import Manifest
from qwen_api.models import parse_model
from qwen_daemon.core.errors import Configured, UnknownModel
from qwen_daemon.engine.adopt import renew_seals, sealed_twins
from qwen_daemon.engine.disk import Disk
from qwen_daemon.engine.file_orders import FileOrders
from qwen_daemon.engine.keeper import Keeper, Rhythm, Watch
from qwen_daemon.engine.whereabouts import whereabouts
from qwen_daemon.engine.world import World


class Engine:
    """Wants models and keeps them. `run` must be running for anything to happen."""

    def __init__(
        self,
        world: World,
        watch: Watch,
        rhythm: Rhythm,
    ) -> None:
        self._world = replace(world, look_again=self._look_again)
        self._watch = watch
        self._rhythm = rhythm
        self._keepers: dict[str, tuple[Keeper, asyncio.Task[None]]] = {}
        self._configured: set[str] = set()
        self._changing = asyncio.Lock()  # adding and removing take several steps each
        self._group: asyncio.TaskGroup | None = None
        self._started = asyncio.Event()

    async def run(self) -> None:
        """Keep every wanted model until cancelled; a cancelled download records what it has."""
        async with asyncio.TaskGroup() as self._group:
            for wanted in (await self._world.desires.desired()).values():
                self._want(wanted)
            self._started.set()
            await asyncio.Event().wait()

    async def started(self) -> None:
        """Return once commands can be taken."""
        await self._started.wait()

    async def configure(self, wanted: Sequence[AddModel]) -> None:
        """The configuration wants exactly these (besides those wanted by command, which win back what it lets go)."""
        refs = {parse_model(model.model).key: model for model in wanted}
        async with self._changing:
            commanded = await self._world.desires.desired()
            for gone in self._configured - refs.keys():
                if gone in commanded:
                    self._want(commanded[gone])
                else:
                    self._drop(gone, freed_bytes=0)
            self._configured = set(refs)
            for model in refs.values():
                self._want(model)

    async def add(self, wanted: AddModel) -> str:
        """Want a model from now on, also after a restart; returns its key. Raises BadModelName."""
        ref = parse_model(wanted.model)
        async with self._changing:
            wanted = self._as_before(ref.key, wanted)
            if ref.key not in self._configured:
                await self._world.desires.desire(ref.key, wanted)
            self._want(wanted)
        return ref.key

    async def remove(self, key: str, *, delete_files: bool) -> None:
        """Want it no more. Raises UnknownModel, or Configured if the configuration names it."""
        async with self._changing:
            keeper = self._keeper(key)
            if key in self._configured:
                raise Configured(key)
            _, task = self._keepers.pop(key)
            task.cancel()
            await asyncio.wait([task])
            try:
                freed_bytes = await self._forget(key, keeper.manifest, delete_files=delete_files)
            except BaseException:
                self._want(keeper.wanted)  # half removed is still wanted: what is gone will come back
                raise
            self._world.controls.forget(key)
            self._world.publish(e.ModelRemoved(model=key, freed_bytes=freed_bytes))

    async def _forget(self, key: str, manifest: Manifest | None, *, delete_files: bool) -> int:
        world = self._world
        await world.desires.set_ready(key, None)
        freed_bytes = 0
        if delete_files and manifest is not None:
            disk = world.at(key).disk
            keep = self._etags_of_others(key, manifest.repo)
            for where, etag in {(disk.where(manifest, file), file.etag) for file in manifest.files}:
                if etag not in keep:
                    await disk.ledger.forget(where, etag)
            if not any(self._is_shared(keeper, key, manifest) for keeper, _ in self._keepers.values()):
                freed_bytes = await self._remove_files(disk, manifest, keep)
        await world.desires.desire(key, None)
        return freed_bytes

    async def _remove_files(self, disk: Disk, manifest: Manifest, keep: frozenset[str]) -> int:
        """Removing one name of a hardlinked file must not cost the other names their seals."""
        sealed = [(file, await sealed_twins(disk, manifest, file)) for file in manifest.files]
        freed_bytes = await disk.blobs.remove(manifest, keep)
        renewed = [await renew_seals(disk, manifest, file, before) for file, before in sealed]
        for repo in set[str]().union(*renewed):
            self._look_again(repo)
        return freed_bytes

    def pause(self, key: str) -> None:
        """See Keeper.pause. Raises UnknownModel, as the others do."""
        self._keeper(key).pause()

    def resume(self, key: str) -> None:
        """See Keeper.resume."""
        self._keeper(key).resume()

    def retry(self, key: str) -> None:
        """See Keeper.retry."""
        self._keeper(key).retry()

    async def update(self, key: str) -> None:
        """Take the commit that the followed revision names now."""
        await self._keeper(key).update()

    def verify(self, key: str, *, full: bool) -> None:
        """Look at the disk again; `full` hashes every file, seals or not."""
        self._keeper(key).verify(full=full)

    def set_limits(self, limits: SetLimits) -> None:
        """Change what holds for the whole daemon."""
        self._world.controls.set(limits)

    def limit(self, key: str, rate_limit_bps: int | None) -> None:
        """See Controls.limit."""
        self._keeper(key)
        self._world.controls.limit(key, rate_limit_bps)

    def prioritise(self, key: str, priority: int) -> None:
        """See Controls.prioritise."""
        self._keeper(key)
        self._world.controls.prioritise(key, priority)

    async def whereabouts(self, key: str, path: str) -> Whereabouts:
        """Where one file's bytes are. Raises UnknownFile and FilesUnknown."""
        return await whereabouts(self._keeper(key), path)

    def files(self, key: str) -> FileOrders:
        """Commands about single files."""
        return FileOrders(self._keeper(key), self._world.controls.of(key).files, self._world.publish)

    def order_components(self, key: str, components: Sequence[str]) -> None:
        """A loader loads a model's components in this order, so they are fetched in it from the next free slot on."""
        if key in self._keepers:
            self._world.controls.of(key).files.order(components)

    def recheck(self, reason: str) -> None:
        """Look at every model again."""
        for keeper, _ in self._keepers.values():
            keeper.retry() if reason == "signal" else keeper.wake(reason)

    def keepers(self) -> Mapping[str, Keeper]:
        """Every wanted model's keeper, by key."""
        return {key: keeper for key, (keeper, _) in self._keepers.items()}

    def _keeper(self, key: str) -> Keeper:
        try:
            return self._keepers[key][0]
        except KeyError:
            raise UnknownModel(key) from None

    def _want(self, wanted: AddModel) -> None:
        assert self._group is not None, "the engine does not run"
        ref = parse_model(wanted.model)
        known = self._keepers.get(ref.key)
        if known is not None and known[0].place is not self._world.place_of(ref.key):
            self._drop(ref.key, freed_bytes=0)  # the configuration keeps it in another folder now
            known = None
        if known is not None and _same(known[0].wanted, wanted):
            self._want_controls(ref.key, known[0].wanted, wanted)
            known[0].wanted = wanted
            return
        self._world.publish(
            e.ModelAdded(
                model=ref.key,
                repo=ref.repo,
                revision=ref.revision,
                include=wanted.include,
                exclude=wanted.exclude,
                follow=wanted.follow,
            )
        )
        self._want_controls(ref.key, known[0].wanted if known else None, wanted)
        if known is not None:
            known[0].change(wanted)
            return
        keeper = Keeper(self._world.at(ref.key), self._watch, self._rhythm, ref, wanted)
        self._keepers[ref.key] = (keeper, self._group.create_task(keeper.run()))

    def _look_again(self, repo: str) -> None:
        for keeper, _ in self._keepers.values():
            if keeper.ref.repo == repo and keeper.complete:
                keeper.wake("change")

    def _want_controls(self, key: str, before: AddModel | None, wanted: AddModel) -> None:
        """A limit or a priority that is wanted as before does not undo a command."""
        if before is None or _controls(before) != _controls(wanted):
            self._world.controls.want(key, wanted.rate_limit_bps, wanted.priority)

    def _as_before(self, key: str, wanted: AddModel) -> AddModel:
        """What a command leaves out of a known model's limit and priority stays."""
        known = self._keepers.get(key)
        if known is None:
            return wanted
        rate_limit_bps, priority = _controls(known[0].wanted)
        return msgspec.structs.replace(
            wanted,
            rate_limit_bps=wanted.rate_limit_bps or rate_limit_bps,
            priority=wanted.priority or priority,
        )

    def _is_shared(self, keeper: Keeper, key: str, manifest: Manifest) -> bool:
        """The keeper's model is the same snapshot as that of the model `key`."""
        other = keeper.manifest
        same_commit = other is not None and (other.repo, other.commit) == (manifest.repo, manifest.commit)
        return same_commit and keeper.place is self._world.place_of(key)

    def _drop(self, key: str, *, freed_bytes: int) -> None:
        known = self._keepers.pop(key, None)
        if known is not None:
            known[1].cancel()
            self._world.controls.forget(key)
            self._world.publish(e.ModelRemoved(model=key, freed_bytes=freed_bytes))

    def _etags_of_others(self, key: str, repo: str) -> frozenset[str]:
        return frozenset(
            file.etag
            for other, (keeper, _) in self._keepers.items()
            if other != key and keeper.manifest is not None and keeper.manifest.repo == repo
            if keeper.place is self._world.place_of(key)
            for file in keeper.manifest.files
        )


def _same(a: AddModel, b: AddModel) -> bool:
    return (a.include, a.exclude, a.follow) == (b.include, b.exclude, b.follow)


def _controls(wanted: AddModel) -> tuple[int | None, int]:
    return wanted.rate_limit_bps, wanted.priority
