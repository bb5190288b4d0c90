"""One round for one model: check, plan, make room, fetch, finish. Ends complete or says why not.

A round changes nothing that another round cannot take up; it can be cancelled anywhere. When to run the next one is
the keeper's business (engine.keeper); what the files should be, engine.lookup's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from qwen_api import events as e
from qwen_api.commands import AddModel
from qwen_api.manifest import Manifest, WantedFile
from qwen_api.models import ModelRef
from qwen_api.seals import Ready, Seal
from qwen_daemon.core.errors import AskHuman, MakeRoom, Trouble, TryAgain
from qwen_daemon.core.plan import Found, Plan, Step, make_plan
from qwen_daemon.core.twins import ways_without_room
from qwen_daemon.engine.adopt import Adoption
from qwen_daemon.engine.cancel import beside, together
from qwen_daemon.engine.fetches import Fetches
from qwen_daemon.engine.file_controls import FileControls
from qwen_daemon.engine.files import Files
from qwen_daemon.engine.lookup import Lookup
from qwen_daemon.engine.outcome import Outcome, failed, paused
from qwen_daemon.engine.transfers import Transfers
from qwen_daemon.engine.world import World
from qwen_daemon.ports import Structure

LOOKS_MAX = 5  # a folder that changes faster than it is verified is not called complete


@dataclass
class Round:
    """One go at one model."""

    world: World
    ref: ModelRef
    wanted: AddModel
    reason: str
    distrust: bool  # hash every file, seals or not
    hurry: asyncio.Event
    quiet: bool  # a routine look at a complete model: say nothing if all is well
    was_complete: bool = False
    received: dict[str, int] = field(default_factory=dict)  # by path, since the daemon began with this commit
    manifest: Manifest | None = None  # known once the round got that far
    transfers: Transfers | None = None  # while there is work
    _is_still_complete: bool = False  # every seal holds: it is only distrusted, and no file was found damaged so far

    async def run(self, last: Manifest | None) -> Outcome:
        """Do it. `last` is the manifest of the round before. Raises no Trouble but MakeRoom."""
        try:
            lookup = Lookup(world=self.world, ref=self.ref, wanted=self.wanted, reason=self.reason, hurry=self.hurry)
            self.manifest = await lookup.manifest(last)
            if last is None or last.commit != self.manifest.commit:
                self.received.clear()
            self._controls.want(self.manifest.files)
            return await self._complete(self.manifest)
        except MakeRoom:
            raise
        except Trouble as trouble:
            if trouble.code == "E_DISK_IO":
                await self._miss()
            return Outcome(
                complete=False,
                manifest=self.manifest,
                code=trouble.code,
                detail=trouble.detail,
                needs_human=isinstance(trouble, AskHuman),
            )

    async def _miss(self) -> None:
        """What failed while the whole cache was being removed is no fault of the disk's: raises MakeRoom."""
        if self.manifest is not None:
            with suppress(TryAgain, AskHuman):
                await self.world.listings.listed(self.manifest.repo, self.manifest.commit)

    async def _complete(self, manifest: Manifest) -> Outcome:
        """Look, work, and look again, until a look finds nothing to do: what was seen last decides."""
        distrust = self.distrust
        for looks in range(LOOKS_MAX):
            found = await self.world.disk.store.find(manifest)
            plan = await self._plan(manifest, found, distrust)
            proven = await self._plan(manifest, found, False) if distrust else plan
            self._is_still_complete = self.was_complete and distrust and proven.is_done
            self._tell_plan(manifest, proven if self._is_still_complete else plan, first=looks == 0)
            if plan.is_done:
                outcome = await self._finish(manifest)
                if outcome is not None:
                    return replace(outcome, worked=looks > 0)
                continue
            fetches = await self._carry_out(manifest, plan, found)
            if fetches.failures:
                return failed(manifest, fetches.failures)
            if fetches.paused:
                return paused(manifest, len(fetches.paused))
            distrust = False
        raise TryAgain("E_DISK_CHANGING", "files of this model are being changed while they are verified")

    def _tell_plan(self, manifest: Manifest, plan: Plan, *, first: bool) -> None:
        if plan.is_done and (self.quiet or not first):
            return
        if self.quiet or not first:
            changed = tuple(step.file.path for step in plan.of("link", "hash", "fetch"))
            self.world.publish(e.ModelChanged(model=self.ref.key, paths=changed))
        self.world.publish(_checked(self.ref.key, manifest, self.reason, plan))

    async def _carry_out(self, manifest: Manifest, plan: Plan, found: dict[str, Found]) -> Fetches:
        if not self._is_still_complete:
            await self._not_complete(
                "downloading" if any(not self._is_paused([step]) for step in plan.of("fetch")) else "checking"
            )
        self.transfers = transfers = Transfers(
            self.ref.key,
            self.world.clock,
            self.world.publish,
            to_hash=[step.file for step in plan.of("hash")],
            is_complete=self._is_still_complete,
            ever=self.received,
            waits_for_disk=self.world.waits_for_disk,
        )
        files = self._files(manifest, transfers, plan)
        fetches = Fetches(files, found)
        try:
            async with beside(transfers.tell()):
                await self._work(files, fetches, plan, found)
        except Trouble:
            if self._is_still_complete:
                await self._not_complete("checking")
            raise
        return fetches

    async def _not_complete(self, state: e.ModelState) -> None:
        self._is_still_complete = False
        await self.world.desires.set_ready(self.ref.key, None)  # not true any more, or not yet
        self._say(state)

    async def _work(self, files: Files, fetches: Fetches, plan: Plan, found: dict[str, Found]) -> None:
        for step in plan.of("link"):
            await files.link(step)
        # The largest first, so that the end is not one core with one long file.
        to_hash = sorted(plan.of("hash"), key=lambda step: -step.file.size_bytes)
        damaged = await together(self._hash(files, step, found[step.file.path]) for step in to_hash)
        if to_hash:
            files.transfers.tell_hashed(sum(step is not None for step in damaged))
        steps = [*plan.of("fetch"), *(step for step in damaged if step is not None)]
        for step in plan.of("fetch"):
            if found[step.file.path].unreadable:
                files.tell_unreadable(step.file, found[step.file.path].unreadable)
        contents: dict[tuple[str, str], list[Step]] = {}  # those of one group are one file on disk
        for step in steps:
            contents.setdefault((self.world.disk.where(files.manifest, step.file), step.file.etag), []).append(step)
            if found[step.file.path].seal is not None:
                await files.adoption.distrust(step.file)
        held = [group for group in contents.values() if self._is_paused(group)]
        try:
            groups = await self._adopt(files, [group for group in contents.values() if not self._is_paused(group)])
            if groups and self.world.offline:
                count = sum(map(len, groups))
                raise TryAgain("E_OFFLINE", f"{count} files are missing or wrong, and nothing may be fetched")
            await self._announce_fetch(files, groups, plan)
            await fetches.bring([*groups, *held])
        except MakeRoom as refused:
            raise await self.world.room.ran_out(self.ref.key, refused) from refused
        finally:
            self.world.room.release(self.ref.key)
            for repo in files.adoption.touched:
                self.world.look_again(repo)

    async def _adopt(self, files: Files, groups: list[list[Step]]) -> list[list[Step]]:
        """Take what lies elsewhere, first what costs no room; returns what is left to fetch."""
        wanted = [group[0].file for group in groups]
        present = await self.world.disk.twins.present(files.manifest, wanted)  # mostly nothing: one look for all
        absent = [group for group in groups if group[0].file.etag not in present]
        groups = [group for group in groups if group[0].file.etag in present]
        groups = await self._left(files, groups, ways_without_room)
        copied_bytes = 0
        for group in groups:
            if await files.adoption.could(group[0].file):
                copied_bytes += group[0].file.size_bytes
        if copied_bytes:
            await self.world.room.claim(self.ref.key, copied_bytes, lambda: 0)
            groups = await self._left(files, groups, lambda _file: ("copy",))
        return _in_order([*absent, *groups], wanted)

    async def _left(
        self, files: Files, groups: list[list[Step]], ways: Callable[[WantedFile], Sequence[e.AdoptedHow]]
    ) -> list[list[Step]]:
        adopted = await together(files.adopt(group, ways(group[0].file)) for group in groups)
        return [group for group, is_done in zip(groups, adopted, strict=True) if not is_done]

    async def _announce_fetch(self, files: Files, groups: list[list[Step]], plan: Plan) -> None:
        """Claim the room and say what comes. A file that is paused now asks for none, also if it is resumed later."""
        firsts = [group[0] for group in groups]
        fetch_bytes = sum(step.fetch_bytes for step in {step.file.etag: step for step in firsts}.values())
        needed_bytes = sum(step.fetch_bytes for step in firsts)  # one content may have to stand at several places
        free_bytes = await self.world.room.claim(self.ref.key, needed_bytes, files.transfers.moved_bytes)
        if not firsts:
            return
        if not plan.of("fetch"):
            self._say("downloading")  # a file that was here turned out wrong
        self.world.publish(
            e.ModelPlanned(
                model=self.ref.key,
                fetch_files=sum(map(len, groups)),
                fetch_bytes=fetch_bytes,
                kept_bytes=sum(step.kept_bytes for step in firsts),
                free_bytes=free_bytes,
                verify_files=len(plan.of("hash")),
            )
        )

    async def _hash(self, files: Files, step: Step, found: Found) -> Step | None:
        if await files.hash(step, found):
            return None
        if self._is_still_complete:
            await self._not_complete("checking")
        return Step(file=step.file, action="fetch", finding="corrupt")

    async def _finish(self, manifest: Manifest) -> Outcome | None:
        """None if files that were sealed cannot be read any more: without their seals they are looked at again."""
        world = self.world
        path = await world.disk.store.finish(manifest, self.ref)
        structure = await world.place.structure(self.ref, manifest)
        for file in manifest.keep(structure.unreadable).files:
            await world.disk.seals.seal(world.disk.where(manifest, file), file.etag, None)
        if structure.unreadable:
            return None
        if structure.problem:
            await world.desires.set_ready(self.ref.key, None)
            raise AskHuman(
                "E_STRUCTURE", f"every file is as the Hub has it, but no loader can use it: {structure.problem}"
            )
        seals = await world.disk.sealed(manifest)
        await world.desires.set_ready(self.ref.key, _ready(self.ref, manifest, path, seals, structure))
        return Outcome(complete=True, manifest=manifest, structure=structure)

    async def _plan(self, manifest: Manifest, found: dict[str, Found], distrust: bool) -> Plan:
        disk = self.world.disk
        seals = await disk.sealed(manifest)
        unsure = [file for file in manifest.files if seals.get(file.path) is None or found[file.path].seal is None]
        kept = await disk.ledger.kept_bytes([(disk.where(manifest, file), file) for file in unsure])
        components = self._controls.components
        return await asyncio.to_thread(
            make_plan, manifest, found, seals, kept, distrust=distrust, components=components
        )

    @property
    def _controls(self) -> FileControls:
        return self.world.controls.of(self.ref.key).files

    def _is_paused(self, group: Sequence[Step]) -> bool:
        return all(self._controls.is_paused(step.file.path) for step in group)

    def _files(self, manifest: Manifest, transfers: Transfers, plan: Plan) -> Files:
        world = self.world
        components = manifest.components()
        left = {name: {f.path for f in files} for name, files in components.items()}
        for step in plan.of("keep"):
            left[step.file.component].discard(step.file.path)

        def verified(file: WantedFile) -> None:
            mine = left[file.component]
            if file.path not in mine:
                return
            mine.discard(file.path)
            if not mine:
                self._component_complete(manifest, file.component, components[file.component])

        return Files(
            manifest=manifest,
            model=self.ref.key,
            disk=world.disk,
            origin=world.supply(self.ref.key),
            clock=world.clock,
            budget=world.budget,
            controls=world.controls.of(self.ref.key),
            transfers=transfers,
            publish=world.publish,
            verified=verified,
            adoption=Adoption(
                manifest=manifest,
                model=self.ref.key,
                disk=world.disk,
                hashes=world.budget.hashes,
                transfers=transfers,
                publish=world.publish,
            ),
            tuning=world.tuning,
        )

    def _component_complete(self, manifest: Manifest, name: str, files: tuple[WantedFile, ...]) -> None:
        self.world.publish(
            e.ComponentComplete(
                model=self.ref.key,
                component=name,
                path=str(self.world.listings.snapshot(manifest)),
                files=len(files),
                size_bytes=sum(f.size_bytes for f in files),
            )
        )

    def _say(self, state: e.ModelState) -> None:
        self.world.publish(e.ModelStateChanged(model=self.ref.key, state=state))


def _in_order(groups: list[list[Step]], wanted: list[WantedFile]) -> list[list[Step]]:
    rank = {file.path: index for index, file in enumerate(wanted)}
    return sorted(groups, key=lambda group: rank[group[0].file.path])


def _checked(model: str, manifest: Manifest, reason: str, plan: Plan) -> e.ModelChecked:
    findings = [step.finding for step in plan.steps]
    return e.ModelChecked(
        model=model,
        commit=manifest.commit,
        reason=reason,
        files=plan.checked_files(),
        missing=findings.count("missing"),
        incomplete=sum(findings.count(kind) for kind in ("short", "long", "empty")),
        unverified=findings.count("unverified"),
        missing_bytes=plan.fetch_bytes,
    )


def _ready(ref: ModelRef, manifest: Manifest, path: Path, seals: Mapping[str, Seal], structure: Structure) -> Ready:
    return Ready(
        repo=manifest.repo,
        revision=ref.revision,
        commit=manifest.commit,
        path=str(path),
        verified="sha256",
        seals=dict(seals),
        has_code=structure.has_code,
        has_pickle=structure.has_pickle,
    )
