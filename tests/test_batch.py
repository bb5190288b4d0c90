"""Small files published together: each durable and sealed before it is told, each failure its own file's alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from qwen_api import places
from qwen_api.manifest import Manifest, WantedFile
from qwen_api.seals import Seal, take_seal
from qwen_daemon.core.errors import MakeRoom, Trouble, TryAgain
from qwen_daemon.engine.batch import BATCH_FILES, Batch
from qwen_daemon.shell.ledger import SqliteLedger
from qwen_daemon.shell.store import HubCache
from tests.fakes.model_folder import COMMIT, REPO, Files, listing

FILES: Files = {f"deep/{number % 3}/{number}.json": b"%d" % number for number in range(40)}


class Disk:
    """ports.Batches and ports.Seals that keep what they were given; `refuses` fails whole batches, `bad` one file."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.sealed: dict[tuple[str, str], Seal] = {}
        self.refuses: Trouble | None = None
        self.bad = ""

    async def publish_all(
        self, manifest: Manifest, contents: Sequence[tuple[WantedFile, bytes]]
    ) -> Sequence[Seal | Trouble]:
        assert contents, "nobody has anything to publish"
        await asyncio.sleep(0)
        self.batches.append([file.path for file, _ in contents])
        if self.refuses is not None:
            raise self.refuses
        seal = Seal(inode=1, size_bytes=1, mtime_ns=1, ctime_ns=1)
        return [TryAgain("E_DISK_IO") if file.path == self.bad else seal for file, _ in contents]

    async def seals(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Seal]:
        return self.sealed

    async def seal(self, where: str, etag: str, seal: Seal | None) -> None:
        raise AssertionError("one by one is what a batch avoids")

    async def seal_all(self, seals: Mapping[tuple[str, str], Seal]) -> None:
        await asyncio.sleep(0)
        self.sealed.update(seals)


def where(_file: WantedFile) -> str:
    """The place of a content in the ledger, in a layout with blobs."""
    return REPO


async def publish_each(batch: Batch, manifest: Manifest) -> list[BaseException | None]:
    works = [batch.publish(file, FILES[file.path]) for file in manifest.files]
    return await asyncio.gather(*works, return_exceptions=True)


async def test_who_comes_together_is_published_together() -> None:
    """Each once, sealed before its caller is told."""
    disk, manifest = Disk(), listing(FILES)
    assert await publish_each(Batch(manifest, disk, disk, where), manifest) == [None] * len(FILES)
    assert sorted(path for paths in disk.batches for path in paths) == sorted(FILES)
    assert len(disk.batches) <= 1 + len(FILES) // BATCH_FILES
    assert disk.sealed.keys() == {(REPO, file.etag) for file in manifest.files}


async def test_a_refusal_is_one_files_own() -> None:
    """The others of its batch are published and sealed."""
    disk, manifest = Disk(), listing(FILES)
    disk.bad = "deep/1/7.json"
    outcomes = await publish_each(Batch(manifest, disk, disk, where), manifest)
    by_path = dict(zip((file.path for file in manifest.files), outcomes, strict=True))
    assert isinstance(by_path.pop(disk.bad), TryAgain) and set(by_path.values()) == {None}
    assert len(disk.sealed) == len(FILES) - 1


async def test_a_full_disk_is_everybodys() -> None:
    """Nobody is told that a file is there."""
    disk, manifest = Disk(), listing(FILES)
    disk.refuses = MakeRoom("E_DISK_FULL")
    assert all(
        isinstance(outcome, MakeRoom) for outcome in await publish_each(Batch(manifest, disk, disk, where), manifest)
    )
    assert disk.sealed == {}


@pytest.mark.parametrize("turns", range(8))
async def test_whoever_is_cancelled_takes_no_one_along(turns: int) -> None:
    """The first, who publishes for all, may go at any moment: the others' files are published all the same."""
    disk, manifest = Disk(), listing(FILES)
    batch = Batch(manifest, disk, disk, where)
    tasks = [asyncio.create_task(batch.publish(file, b"")) for file in manifest.files[: BATCH_FILES + 3]]
    for _ in range(turns):
        await asyncio.sleep(0)
    tasks[0].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[1:] == [None] * (len(tasks) - 1)
    assert {(REPO, file.etag) for file in manifest.files[1 : len(tasks)]} <= disk.sealed.keys()


@pytest.mark.parametrize("turns", range(8))
async def test_what_came_is_kept_when_all_are_cancelled(turns: int) -> None:
    """A stop publishes what waits for its batch."""
    disk, manifest = Disk(), listing(FILES)
    batch = Batch(manifest, disk, disk, where)
    tasks = [asyncio.create_task(batch.publish(file, b"")) for file in manifest.files[: BATCH_FILES + 3]]
    await asyncio.sleep(0)
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert disk.sealed.keys() == {(REPO, file.etag) for file in manifest.files[: len(tasks)]}


async def test_on_the_disk_it_is_what_one_by_one_would_be(tmp_path: Path) -> None:
    """Blobs, relative links, seals; what stands in the way is moved aside; no part is left."""
    cache, ledger, manifest = tmp_path / "hub", SqliteLedger(tmp_path / "state"), listing(FILES)
    store, folder = HubCache(cache), places.repo_dir(cache, REPO)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "snapshots" / COMMIT / "deep").write_bytes(b"a file where a folder must be")
    (folder / "blobs" / manifest.files[0].etag).mkdir(parents=True)
    await ledger.open()
    try:
        assert await publish_each(Batch(manifest, store, ledger, where), manifest) == [None] * len(FILES)
        seals = await ledger.seals([(REPO, file.etag) for file in manifest.files])
    finally:
        await ledger.close()
    for file in manifest.files:
        named = folder / "snapshots" / COMMIT / file.path
        assert named.read_bytes() == FILES[file.path] and named.readlink() == Path("../../../../blobs") / file.etag
        assert seals[REPO, file.etag] == take_seal(named)
    found = await store.find(manifest)
    assert all(each.linked for each in found.values())
    assert not list((folder / "blobs").glob(".qwen-*.part"))


@pytest.mark.parametrize("planted", [".", "deep", "deep/1"])
async def test_no_link_is_made_behind_a_planted_one(tmp_path: Path, planted: str) -> None:
    """Where the snapshot, or a folder of it, is a link to elsewhere, the link is moved aside; elsewhere stays empty."""
    cache, outside, manifest = tmp_path / "hub", tmp_path / "outside", listing(FILES)
    store, snapshot = HubCache(cache), places.snapshot_dir(cache, REPO, COMMIT)
    outside.mkdir()
    (snapshot / planted).parent.mkdir(parents=True)
    (snapshot / planted).symlink_to(outside)
    seals = await store.publish_all(manifest, [(file, FILES[file.path]) for file in manifest.files])
    assert not list(outside.iterdir())
    assert seals == [take_seal(snapshot / file.path) for file in manifest.files]
    assert all((snapshot / file.path).read_bytes() == FILES[file.path] for file in manifest.files)
    assert len(list(snapshot.parent.rglob(".qwen-*.aside"))) == 1
