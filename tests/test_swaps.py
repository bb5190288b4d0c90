"""Folders that another writer of a shared cache swaps for links while we work: nothing behind those links changes."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from qwen_api import places
from qwen_api.manifest import Manifest, make_manifest
from qwen_api.models import ModelRef
from qwen_daemon.core.errors import AskHuman, Trouble, TryAgain
from qwen_daemon.shell.beneath import Root
from qwen_daemon.shell.elsewhere import Elsewhere
from qwen_daemon.shell.local_dir import LocalDir
from qwen_daemon.shell.locks import HubLocks
from qwen_daemon.shell.parts import new_part_name
from qwen_daemon.shell.store import HubCache
from tests.fakes.model_folder import COMMIT, REPO, Files, listing, safetensors
from tests.layouts import CACHE, LOCAL_DIR, PLAIN_CACHE, Layout

SWAPS = 200  # of each folder
ROUNDS = 4  # of work, at least
REF = ModelRef(repo=REPO)
FILES: Files = {"README.md": b"# Hello\n", "deep/er/w.safetensors": safetensors("w"), "deep/config.json": b"{}"}
FOLDER, DOWNLOAD = places.repo_dir(Path(), REPO).name, ".cache/huggingface/download"
IN_CACHE = [
    f"{FOLDER}/{name}"
    for name in ("snapshots", f"snapshots/{COMMIT}", f"snapshots/{COMMIT}/deep", "refs", "refs/pr", "trees")
]
MOVABLE = [FOLDER, f"{FOLDER}/blobs", ".locks"]
IN_LOCAL_DIR = [".", "deep", "deep/er", ".cache", DOWNLOAD, f"{DOWNLOAD}/deep", ".cache/huggingface/trees"]
PLACES = [
    *((CACHE, name) for name in [*IN_CACHE, *MOVABLE, f".locks/{FOLDER}"]),
    *((PLAIN_CACHE, name) for name in [f"{FOLDER}/snapshots/{COMMIT}/deep", f"{FOLDER}/blobs"]),
    *((LOCAL_DIR, name) for name in IN_LOCAL_DIR),
]


def exchange(one: Path, other: Path) -> None:
    """renameat2(2) with RENAME_EXCHANGE: each gets the other's name, at once."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(one))


class Swapper:
    """Swaps `victim` for a link to `outside` and back, until it is told to stop; then the folder has its place."""

    def __init__(self, victim: Path, outside: Path) -> None:
        self.victim, self.outside = victim, outside
        self.spare, self.swaps, self.over = outside.with_name("spare"), 0, threading.Event()
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            if not self.spare.is_symlink() and not self.victim.is_symlink():  # it was moved aside
                if self.spare.is_dir():
                    self.spare.rename(self.spare.with_name(f"set-aside-{self.swaps}"))
                self.spare.symlink_to(self.outside)
            with suppress(FileNotFoundError):
                exchange(self.victim, self.spare)
                self.swaps += 1
            if self.swaps >= SWAPS:
                self.enough.set()
        if self.victim.is_symlink():
            exchange(self.victim, self.spare)


@contextmanager
def swapping(victim: Path, outside: Path) -> Iterator[Swapper]:
    swapper = Swapper(victim, outside)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(swapper.run)
        try:
            yield swapper
        finally:
            swapper.over.set()
        running.result()


def everything(folder: Path) -> dict[str, object]:
    """Every name below the folder, the folder included: its content and all that stat(2) says but for access times."""
    told: dict[str, object] = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        found = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        seen = (found.st_ino, found.st_mode, found.st_nlink, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        told[str(path)] = (*seen, content)
    return told


def lay_bait(victim: Path, outside: Path) -> None:
    """Outside looks like the folder: whatever the daemon would write, rename, cut or remove there has its name."""
    shutil.copytree(victim, outside, symlinks=True)
    for folder in [outside, *(path for path in outside.rglob("*") if path.is_dir())]:
        for file in listing(FILES).files:
            (folder / new_part_name(file.etag)).write_bytes(b"x" * 4096)
        (folder / ".qwen-01234567.tmp").write_bytes(b"precious")
        for path in (path for path in folder.iterdir() if path.is_file()):
            os.utime(path, (1, 1))


async def work(store: HubCache | LocalDir, manifest: Manifest, cache: Path, *, begin: bool) -> int:
    """All that is ever written, each on its own: how much of it was refused."""
    refused = 0
    if begin:
        refused += await refuses(store.begin(manifest, REF)) + await refuses(store.begin(manifest, PULL))
    for file in manifest.files:
        for content in (FILES[file.path], None):
            refused += await refuses(store.publish(manifest, file, content))
        refused += await refuses(by_part(store, manifest, file.path))
        refused += await refuses(locked(store, manifest, file.path))
        refused += await refuses(adopted(store, manifest, file.path, cache))
    refused += await refuses(store.publish_all(manifest, [(file, FILES[file.path]) for file in manifest.files]))
    refused += await refuses(store.finish(manifest, REF))
    if isinstance(store, HubCache):
        refused += await refuses(store.sweep(frozenset()))
    if begin:
        refused += await refuses(store.remove(manifest, frozenset()))
    return refused


async def refuses(doing: object) -> int:
    try:
        await doing  # type: ignore[misc]
    except (Trouble, FileNotFoundError, NotADirectoryError):
        return 1
    return 0


PULL = ModelRef(repo=REPO, revision="pr/1")


async def by_part(store: HubCache | LocalDir, manifest: Manifest, path: str) -> None:
    file = manifest.by_path()[path]
    found = (await store.find(manifest))[path]
    copied = await store.copy_for_repair(REPO, file, found)
    if copied is not None:
        await store.drop_part(REPO, copied)
    part = await store.open_part(REPO, file, None)
    try:
        await part.write(0, FILES[path], lambda _: None)
        await part.sync()
    finally:
        await part.close()
    await store.publish(manifest, file, part.name)


async def locked(store: HubCache | LocalDir, manifest: Manifest, path: str) -> None:
    async with HubLocks(store.lock).hold(REPO, manifest.by_path()[path]):
        await asyncio.sleep(0)


async def adopted(store: HubCache | LocalDir, manifest: Manifest, path: str, cache: Path) -> None:
    twins, file = Elsewhere(cache, store), manifest.by_path()[path]
    for twin in await twins.find(manifest, file):
        taken = await twins.take(
            manifest, file, twin, is_proven=False, ways=("reflink", "hardlink", "copy"), progress=lambda _: None
        )
        if not isinstance(taken, str):
            await store.drop_part(REPO, taken.name)


@pytest.mark.fault("C11")
@pytest.mark.parametrize(("layout", "name"), PLACES, ids=lambda each: each if isinstance(each, str) else each.name)
async def test_what_a_swapped_folder_leads_to_stays_as_it_is(layout: Layout, name: str, tmp_path: Path) -> None:
    """A folder becomes a link and a folder again some hundred times while everything is written, renamed and removed.

    Outside not even a time changes; once nobody swaps any more, the next try ends right.
    """
    root, outside = tmp_path / "hub", tmp_path / "outside"
    store, manifest, cache = layout.store(root), listing(FILES), tmp_path / "hf" if layout is LOCAL_DIR else root
    other = make_manifest("org/other", COMMIT, manifest.files)
    await HubCache(cache).publish_all(other, [(file, FILES[file.path]) for file in other.files])
    await store.begin(manifest, REF)
    assert await work(store, manifest, cache, begin=False) == 0
    await store.begin(manifest, PULL)
    lay_bait(root / name, outside)
    before = everything(outside)
    rounds = 0
    with swapping(root / name, outside) as swapper:
        while rounds < ROUNDS or not swapper.enough.is_set():
            await work(store, manifest, cache, begin=name not in MOVABLE)  # a moved folder is followed from `begin` on
            rounds += 1
    assert everything(outside) == before
    await store.begin(manifest, REF)
    assert await work(store, manifest, cache, begin=False) == 0
    assert all(found.linked for found in (await store.find(manifest)).values())
    folder = store.snapshot(manifest)
    assert {path: (folder / path).read_bytes() for path in FILES} == FILES
    assert everything(outside) == before


@pytest.mark.fault("C11")
async def test_a_model_that_is_moved_is_written_to_where_it_is_from_the_next_round_on(tmp_path: Path) -> None:
    """In mid-work nothing follows a link that was not there: E_FOLDER_IS_LINK; a new round looks where it is now."""
    cache, moved = tmp_path / "hub", tmp_path / "other-disk"
    store, manifest = HubCache(cache), listing(FILES)
    file = manifest.files[0]
    await store.begin(manifest, REF)
    (cache / FOLDER).rename(moved)
    (cache / FOLDER).symlink_to(moved)
    with pytest.raises(TryAgain, match="E_FOLDER_IS_LINK"):
        await store.publish(manifest, file, FILES[file.path])
    assert not (moved / "blobs").exists()
    assert await store.listed(REPO, COMMIT) is not None
    await store.publish(manifest, file, FILES[file.path])
    assert (moved / "blobs" / file.etag).read_bytes() == FILES[file.path] and (cache / FOLDER).is_symlink()


@pytest.mark.fault("C11")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_a_link_that_a_stranger_put_in_the_place_of_a_model_is_not_followed(tmp_path: Path) -> None:
    """The daemon's user, root and the owner of the folder may move a model: another writer of the cache may not."""
    cache, outside = tmp_path / "hub", tmp_path / "outside"
    outside.mkdir()
    cache.mkdir()
    (cache / FOLDER).symlink_to(outside)
    os.chown(cache / FOLDER, 65534, 65534, follow_symlinks=False)
    with pytest.raises(AskHuman, match="E_FOLDER_IS_LINK"):
        await HubCache(cache).begin(listing(FILES), REF)
    assert await HubCache(cache).sweep(frozenset()) == []  # and the daemon starts all the same
    os.chown(cache, 65534, 65534)
    await HubCache(cache).begin(listing(FILES), REF)
    assert (outside / "trees").is_dir()


def test_a_folder_that_is_held_costs_no_descriptor_afterwards(tmp_path: Path) -> None:
    """Neither when it was made nor when it is none, or what was done in it failed; the error has the folder's name."""
    root = Root(tmp_path, may_be_link=lambda names: names == ("moved",))
    (tmp_path / "file").touch()
    (tmp_path / "moved").symlink_to(tmp_path)
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with root.inside(tmp_path / "moved" / "a" / "b", make=True) as held:
            assert held.resolve() == tmp_path / "a" / "b"
        with pytest.raises(FileNotFoundError), root.inside(tmp_path / "a" / "c"):
            pass
        with pytest.raises(NotADirectoryError), root.inside(tmp_path / "file" / "c"):
            pass
        with pytest.raises(FileNotFoundError) as refused, root.inside(tmp_path / "a") as held:
            (held / "nothing").unlink()
        assert refused.value.filename == str(tmp_path / "a" / "nothing")
    assert sorted(os.listdir("/proc/self/fd")) == before
