"""Content that lies elsewhere in the cache is proven and taken, not fetched; what it is taken from stays as it was."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from qwen_api import events as e
from qwen_api import places
from qwen_api.commands import AddModel
from qwen_api.manifest import make_manifest
from qwen_api.seals import Seal, read_ready, seal_matches, take_seal
from qwen_daemon.core.twins import Taken, Twin, candidates, is_same_file, proven, ways_without_room
from qwen_daemon.shell import clone
from qwen_daemon.shell.digest import Stopped, hash_file
from qwen_daemon.shell.elsewhere import Elsewhere
from qwen_daemon.shell.store import HubCache
from qwen_monitor.event_text import event_text
from tests import canary
from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.layouts import CACHE, LAYOUTS, LOCAL_DIR, Layout
from tests.running import Running

OLD, OLD_KEY, NEW, NEW_KEY = "org/edit-2509", "org--edit-2509", "org/edit-2511", "org--edit-2511"
MIB = 1 << 20
SPAN = 16 * MIB
WEIGHTS, ENCODER, VAE = "model.safetensors", "parts/encoder.safetensors", "parts/vae.safetensors"
SHARED = {
    **model_folder.transformers_model("Qwen2ForCausalLM"),
    ENCODER: model_folder.safetensors("encoder", floats=5 * MIB),  # 20 MiB: two spans
    VAE: model_folder.safetensors("vae", floats=MIB),
}
OLD_FILES = {**SHARED, WEIGHTS: model_folder.safetensors("w", floats=MIB)}
NEW_FILES = {**SHARED, WEIGHTS: model_folder.safetensors("w", floats=MIB, seed=2), "README.md": b"# new\n"}
NEW_BYTES = len(NEW_FILES[WEIGHTS]) + len(NEW_FILES["README.md"])
LINKED: tuple[e.AdoptedHow, ...] = ("reflink", "hardlink")
COPIED: tuple[e.AdoptedHow, ...] = ("copy",)
HF_TIMEOUT_S = 60
SECOND_DISK = Path("/dev/shm")  # another file system than /tmp's, nearly everywhere


@pytest.fixture
def hub() -> Iterator[SimHub]:
    """A Hub with two models that share most of their bytes."""
    with ThreadedSimHub(SimHub(SimRepo(id=OLD, files=OLD_FILES), SimRepo(id=NEW, files=NEW_FILES))) as hub:
        yield hub


def hf_verify(daemon: Running, repo: str) -> str:
    command = [str(Path(sys.executable).parent / "hf"), "cache", "verify", repo]
    return canary.run(command, env=daemon.env, timeout=HF_TIMEOUT_S).stdout


def dry_run(daemon: Running, repo: str) -> dict[str, int]:
    """What `qwenctl download` says it would fetch."""
    command = [sys.executable, "-m", "qwen_monitor.control", "download", repo, "--dry-run", "--json"]
    asked = canary.run(command, env=daemon.env, timeout=HF_TIMEOUT_S)
    found: dict[str, int] = json.loads(asked.stdout)
    return found


def has_second_disk(first: Path) -> bool:
    return SECOND_DISK.is_dir() and SECOND_DISK.stat().st_dev != first.stat().st_dev


def contents(folder: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: (folder / path).read_bytes() for path in files}


def is_ready(daemon: Running, key: str) -> bool:
    """The ready file is there and every seal in it holds."""
    ready = read_ready(places.ready_file(daemon.state_dir, key))
    return ready is not None and all(seal_matches(Path(ready.path) / path, seal) for path, seal in ready.seals.items())


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


# The whole way


def test_the_next_model_fetches_only_what_the_first_does_not_have(hub: SimHub, tmp_path: Path) -> None:
    """What they share costs no byte and is not counted as one; `hf cache verify` agrees; the first stays sealed."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[OLD]) as daemon:
        old = Path(daemon.wait_complete(OLD_KEY).path)
        planned = dry_run(daemon, NEW)
        assert planned["fetch_bytes"] - planned["elsewhere_bytes"] == NEW_BYTES
        hub.log.clear()
        mark = daemon.mark
        daemon.client.add(AddModel(model=NEW))
        new = Path(daemon.wait_complete(NEW_KEY).path)
        assert hub.log.bytes_served() == NEW_BYTES
        assert daemon.seen(e.ModelPlanned, model=NEW_KEY)[-1].fetch_bytes == NEW_BYTES
        adopted = {event.path: event for event in daemon.seen(e.FileAdopted)}
        assert set(adopted) == set(SHARED)
        assert {(event.model, event.source_repo) for event in adopted.values()} == {(NEW_KEY, OLD)}
        assert {adopted[path].how for path in (ENCODER, VAE)} <= set(LINKED)
        assert {event.path for event in daemon.seen(e.FileVerified, model=NEW_KEY)} == set(NEW_FILES)
        assert contents(new, NEW_FILES) == NEW_FILES and contents(old, OLD_FILES) == OLD_FILES
        assert f"Verified {len(NEW_FILES)} file(s)" in hf_verify(daemon, NEW)
        assert f"Verified {len(OLD_FILES)} file(s)" in hf_verify(daemon, OLD)
        looked = daemon.mark
        daemon.client.verify(OLD_KEY, full=False)
        daemon.wait_complete(OLD_KEY, after=looked)
        assert is_ready(daemon, OLD_KEY) and is_ready(daemon, NEW_KEY)
        assert daemon.seen(e.ModelChanged, after=mark) == [], "a link to a file of theirs is no change"
        daemon.stop()
        daemon.start()
        daemon.wait_complete(OLD_KEY)
        daemon.wait_complete(NEW_KEY)
        assert daemon.seen(e.FileVerified) == [], "nothing had to be hashed again"
        assert list(daemon.cache.glob("models--*/blobs/.qwen-*")) == []


@pytest.mark.parametrize("first", LAYOUTS, ids=lambda layout: f"from {layout.name}")
@pytest.mark.parametrize("second", LAYOUTS, ids=lambda layout: f"to {layout.name}")
def test_what_one_layout_has_another_takes(hub: SimHub, tmp_path: Path, first: Layout, second: Layout) -> None:
    """Only blobs are hardlinked, and only to blobs: files at their own path people edit in place."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[first.model(tmp_path, OLD)], env=first.env) as daemon:
        old = Path(daemon.wait_complete(OLD_KEY).path)
        daemon.stop()
        hub.log.clear()
        daemon.env.pop("HF_HUB_DISABLE_SYMLINKS", None)
        daemon.env |= second.env
        kept = [first.model(tmp_path, OLD)] if first is LOCAL_DIR else []  # only what is configured is known
        daemon.configure([*kept, second.model(tmp_path, NEW)])
        daemon.start()
        new = Path(daemon.wait_complete(NEW_KEY).path)
        assert hub.log.bytes_served() == NEW_BYTES
        assert contents(new, NEW_FILES) == NEW_FILES and contents(old, OLD_FILES) == OLD_FILES
        adopted = daemon.seen(e.FileAdopted, model=NEW_KEY)
        assert {event.path for event in adopted} == set(SHARED)
        both_blobs = first is CACHE and second is CACHE
        assert {event.how for event in adopted} <= {"reflink", "copy", *(("hardlink",) if both_blobs else ())}
        assert both_blobs or not (old / ENCODER).samefile(new / ENCODER)
        daemon.stop()
        daemon.start()
        daemon.wait_complete(NEW_KEY)
        assert daemon.seen(e.FileVerified) == [], "nothing had to be hashed again"


@pytest.mark.fault("C3")
def test_what_nobody_vouches_for_is_hashed_first(hub: SimHub, tmp_path: Path) -> None:
    """A cache of another tool: right content is taken, also with no Hub to fetch from; wrong content is not."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[OLD]) as daemon:
        old = Path(daemon.wait_complete(OLD_KEY).path)
        daemon.stop()
        for path in daemon.state_dir.glob("ledger*"):
            path.unlink()
        flip(old / ENCODER, SPAN + 1)
        before = (old / ENCODER).read_bytes()
        hub.log.clear()
        daemon.configure([NEW])
        daemon.start()
        new = Path(daemon.wait_complete(NEW_KEY).path)
        assert {event.path for event in daemon.seen(e.FileAdopted)} == set(SHARED) - {ENCODER}
        assert hub.log.bytes_served() == NEW_BYTES + len(NEW_FILES[ENCODER])
        assert contents(new, NEW_FILES) == NEW_FILES
        assert (old / ENCODER).read_bytes() == before, "it is not this model's to mend"


def test_two_models_wanted_at_once_fetch_what_they_share_once(hub: SimHub, tmp_path: Path) -> None:
    """One of them waits for the other, then takes it."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[OLD, NEW]) as daemon:
        old, new = (Path(daemon.wait_complete(key).path) for key in (OLD_KEY, NEW_KEY))
        assert hub.log.bytes_served() == sum(map(len, {*OLD_FILES.values(), *NEW_FILES.values()}))
        assert len(daemon.seen(e.FileAdopted)) == len(SHARED)
        assert contents(new, NEW_FILES) == NEW_FILES and contents(old, OLD_FILES) == OLD_FILES


def test_damage_to_one_name_of_a_file_is_mended_under_both(hub: SimHub, tmp_path: Path) -> None:
    """One span is fetched for both models; the damaged file itself is replaced, never written to."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[OLD]) as daemon:
        old = Path(daemon.wait_complete(OLD_KEY).path)
        daemon.client.add(AddModel(model=NEW))
        new = Path(daemon.wait_complete(NEW_KEY).path)
        if not (old / ENCODER).samefile(new / ENCODER):
            pytest.skip("this file system shares blocks, not files")
        mark = daemon.mark
        daemon.client.verify(OLD_KEY, full=False)
        daemon.wait_complete(OLD_KEY, after=mark)
        hub.log.clear()
        mark = daemon.mark
        with (old / ENCODER).open("rb") as damaged:
            flip(new / ENCODER, SPAN + 7)
            found = damaged.read()
            daemon.wait_complete(NEW_KEY, after=mark)
            daemon.wait_complete(OLD_KEY, after=mark)
            damaged.seek(0)
            assert damaged.read() == found != SHARED[ENCODER]
        assert contents(new, NEW_FILES) == NEW_FILES and contents(old, OLD_FILES) == OLD_FILES
        assert 0 < hub.log.bytes_served() <= SPAN
        assert {event.model for event in daemon.seen(e.FileCorrupt, after=mark)} == {OLD_KEY, NEW_KEY}


def test_removing_one_model_leaves_the_other_as_it_was(hub: SimHub, tmp_path: Path) -> None:
    """Its files, and the seals on them."""
    with Running(tmp_path, endpoint=hub.endpoint) as daemon:
        daemon.client.add(AddModel(model=OLD))
        old = Path(daemon.wait_complete(OLD_KEY).path)
        daemon.client.add(AddModel(model=NEW))
        new = Path(daemon.wait_complete(NEW_KEY).path)
        mark = daemon.mark
        daemon.client.remove(OLD_KEY, delete_files=True)
        daemon.wait_event(e.ModelRemoved, after=mark)
        assert not old.exists() and contents(new, NEW_FILES) == NEW_FILES
        daemon.client.verify(NEW_KEY, full=False)
        daemon.wait_complete(NEW_KEY, after=mark)
        assert is_ready(daemon, NEW_KEY) and daemon.seen(e.FileVerified, after=mark) == [], "nothing was hashed again"


def test_from_another_disk_it_is_copied(hub: SimHub, tmp_path: Path) -> None:
    """People move models to larger disks and leave a link; a copy that does not fit is waited for, not attempted."""
    if not has_second_disk(tmp_path):
        pytest.skip("there is no second file system to write to")
    with tempfile.TemporaryDirectory(dir=SECOND_DISK) as disk, Running(tmp_path, endpoint=hub.endpoint) as daemon:
        daemon.client.add(AddModel(model=OLD))
        daemon.wait_complete(OLD_KEY)
        daemon.stop()
        folder = places.repo_dir(daemon.cache, OLD)
        folder.symlink_to(shutil.move(folder, Path(disk) / "moved"))
        hub.log.clear()
        daemon.configure([NEW], "[disk]\nreserve_bytes = 1_000_000_000_000_000\n")
        daemon.start()
        assert daemon.wait_state(NEW_KEY, "waiting").code == "E_DISK_FULL"
        assert hub.log.bytes_served() == 0 and daemon.seen(e.FileAdopted) == []
        daemon.stop()
        daemon.configure([NEW])
        daemon.start()
        new = Path(daemon.wait_complete(NEW_KEY).path)
        assert {event.how for event in daemon.seen(e.FileAdopted, model=NEW_KEY)} == {"copy"}
        assert hub.log.bytes_served() == NEW_BYTES and contents(new, NEW_FILES) == NEW_FILES


@pytest.mark.fault("C4")
def test_the_shared_store_is_a_source_that_is_never_written_to(hub: SimHub, tmp_path: Path) -> None:
    """A blob that is a link into it counts as that repository's; so does what no repository links to any more."""
    with Running(tmp_path, endpoint=hub.endpoint, models=[OLD]) as daemon:
        old = Path(daemon.wait_complete(OLD_KEY).path)
        daemon.stop()
        new_encoder = SimRepo(id=NEW, files=NEW_FILES).entry(ENCODER).xet_hash
        assert new_encoder is not None
        for path, name in ((ENCODER, new_encoder), (VAE, "ab" * 32)):
            blob, shared = (old / path).resolve(), daemon.cache / "blobs" / name[:2] / name
            shared.parent.mkdir(parents=True)
            blob.rename(shared)
            shared.chmod(0o444)
            if path == VAE:
                blob.symlink_to(os.path.relpath(shared, blob.parent))
        hub.log.clear()
        daemon.configure([NEW])
        daemon.start()
        new = Path(daemon.wait_complete(NEW_KEY).path)
        sources = {event.path: event.source_repo for event in daemon.seen(e.FileAdopted)}
        assert (sources[ENCODER], sources[VAE]) == ("", OLD)
        assert hub.log.bytes_served() == NEW_BYTES and contents(new, NEW_FILES) == NEW_FILES
        assert all(not (new / path).resolve().is_relative_to(daemon.cache / "blobs") for path in SHARED)


# One file system


@pytest.mark.system
@pytest.mark.parametrize(("kind", "how"), [("ext4", "hardlink"), ("xfs", "reflink"), ("btrfs", "reflink")])
async def test_each_file_system_gives_its_best(tmp_path: Path, kind: str, how: e.AdoptedHow) -> None:
    """Where blocks can be shared they are: a write to the one is not seen in the other."""
    image, mounted = tmp_path / "image", tmp_path / "mounted"
    with image.open("wb") as file:
        file.truncate(512 * MIB)
    mounted.mkdir()
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        cache = mounted / "hub"
        blob = put(cache, OLD)
        taken = await take(cache)
        assert isinstance(taken, Taken) and taken.how == how
        part = places.repo_dir(cache, NEW) / "blobs" / taken.name
        flip(part, MIB)
        assert (blob.read_bytes() == BIG) == (how == "reflink")
    finally:
        subprocess.run(["umount", mounted], check=True)


# One file


BIG = model_folder.safetensors("t", floats=MIB)
FILE = model_folder.wanted("w.safetensors", BIG)
WANTED = make_manifest(NEW, model_folder.COMMIT, [FILE])
XET_FILE = msgspec.structs.replace(FILE, xet_hash="cd" * 32)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub"


def put(cache: Path, repo: str, content: bytes = BIG) -> Path:
    blob = places.repo_dir(cache, repo) / "blobs" / FILE.etag
    blob.parent.mkdir(parents=True)
    blob.write_bytes(content)
    return blob


def quiet(_done_bytes: int) -> None:
    pass


async def take(
    cache: Path, ways: Sequence[e.AdoptedHow] = ("reflink", "hardlink", "copy"), *, is_proven: bool = False
) -> object:
    blobs = Elsewhere(cache, HubCache(cache))
    (twin,) = await blobs.find(WANTED, FILE)
    return await blobs.take(WANTED, FILE, twin, is_proven=is_proven, ways=ways, progress=quiet)


async def test_a_file_with_a_good_seal_is_not_read(cache: Path) -> None:
    """Who says it is proven is believed: wrong bytes of the right length go through, and they are refused without."""
    blob = put(cache, OLD, bytes(len(BIG)))
    taken = await take(cache, is_proven=True)
    assert isinstance(taken, Taken) and taken.spans is None and taken.how in LINKED
    assert await take(cache) == "wrong"
    assert await take(cache, COPIED, is_proven=True) == "wrong", "a copy is hashed as it is made"
    ours = places.repo_dir(cache, NEW) / "blobs"
    assert [path.name for path in ours.iterdir()] == [taken.name] and blob.read_bytes() == bytes(len(BIG))


async def test_the_ways_are_tried_in_order(cache: Path) -> None:
    """What this file system refuses is passed over; a copy is the last resort, and only if it is allowed."""
    blob = put(cache, OLD)
    linked = await take(cache)
    assert isinstance(linked, Taken) and linked.how in LINKED
    assert linked.spans == hash_file(blob, FILE, quiet, threading.Event())[1]
    part = places.repo_dir(cache, NEW) / "blobs" / linked.name
    assert part.samefile(blob) == (linked.how == "hardlink") and part.read_bytes() == BIG
    copied = await take(cache, COPIED)
    assert isinstance(copied, Taken) and copied.how == "copy"
    part = places.repo_dir(cache, NEW) / "blobs" / copied.name
    assert not part.samefile(blob) and part.read_bytes() == BIG and copied.seal == take_seal(part)
    assert await take(cache, ()) == "no way"


async def test_between_two_file_systems_only_a_copy_is_left(cache: Path) -> None:
    """A model whose folder was moved to another disk: EXDEV is no error."""
    if not has_second_disk(cache.parent):
        pytest.skip("there is no second file system to write to")
    with tempfile.TemporaryDirectory(dir=SECOND_DISK) as elsewhere:
        cache.mkdir()
        places.repo_dir(cache, OLD).symlink_to(elsewhere)
        put(cache, OLD)
        assert await take(cache, LINKED) == "no way"
        taken = await take(cache)
        assert isinstance(taken, Taken) and taken.how == "copy"
        assert (places.repo_dir(cache, NEW) / "blobs" / taken.name).read_bytes() == BIG
        assert len(list((places.repo_dir(cache, NEW) / "blobs").iterdir())) == 1


@pytest.mark.fault("C2")
async def test_only_regular_files_of_the_cache_are_twins(cache: Path, tmp_path: Path) -> None:
    """A link that leads out, a folder, a pipe: nothing; what was swapped in after the look is refused."""
    outside = tmp_path / "outside"
    outside.write_bytes(BIG)
    blob = put(cache, OLD)
    blobs = Elsewhere(cache, HubCache(cache))
    (twin,) = await blobs.find(WANTED, FILE)
    for swap in (lambda: blob.symlink_to(outside), blob.mkdir, lambda: os.mkfifo(blob), lambda: blob.write_bytes(BIG)):
        blob.rmdir() if blob.is_dir() else blob.unlink()
        swap()
        if blob.is_file() and not blob.is_symlink():
            assert (await blobs.find(WANTED, FILE)) != (twin,)
        else:
            assert await blobs.find(WANTED, FILE) == ()
        for ways in (LINKED, COPIED):
            assert await blobs.take(WANTED, FILE, twin, is_proven=False, ways=ways, progress=quiet) == "wrong"
    assert list((places.repo_dir(cache, NEW) / "blobs").glob("*")) == [] and outside.read_bytes() == BIG


async def test_the_file_that_our_name_leads_to_is_told_apart(cache: Path) -> None:
    """A hardlink of ours is shared; a copy in a third place is not; the shared store is looked into by its own name."""
    ours = put(cache, NEW)
    old = places.repo_dir(cache, OLD) / "blobs" / FILE.etag
    old.parent.mkdir(parents=True)
    os.link(ours, old)
    put(cache, "org/third")
    shared = cache / "blobs" / "cd" / ("cd" * 32)
    shared.parent.mkdir(parents=True)
    shared.write_bytes(BIG)
    found = await Elsewhere(cache, HubCache(cache)).find(WANTED, XET_FILE)
    assert [(twin.repo, twin.shared) for twin in found] == [(OLD, True), ("org/third", False), ("", False)]
    assert [twin.repo for twin in candidates(XET_FILE, found, {})] == ["", "org/third"]


async def test_a_copy_that_nobody_waits_for_any_more_stops_and_leaves_nothing(cache: Path) -> None:
    """Cancelling ends it at its next read."""
    put(cache, OLD)
    blobs, began, go_on = Elsewhere(cache, HubCache(cache)), asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    (twin,) = await blobs.find(WANTED, FILE)

    def progress(_done_bytes: int) -> None:
        loop.call_soon_threadsafe(began.set)
        go_on.wait()

    task = asyncio.create_task(blobs.take(WANTED, FILE, twin, is_proven=False, ways=COPIED, progress=progress))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await loop.shutdown_default_executor()
    assert list((places.repo_dir(cache, NEW) / "blobs").iterdir()) == []


def test_a_stopped_copy_leaves_nothing(tmp_path: Path) -> None:
    """Nor does one whose disk is full, or whose target is there already."""
    source, target, stop = tmp_path / "source", tmp_path / "target", threading.Event()
    source.write_bytes(BIG)
    stop.set()
    with source.open("rb") as file, pytest.raises(Stopped):
        clone.copy(file.fileno(), target, FILE, quiet, stop)
    assert not target.exists()
    target.write_bytes(b"mine")
    with source.open("rb") as file:
        assert clone.clone(file.fileno(), target, LINKED) is None
        with pytest.raises(FileExistsError):
            clone.copy(file.fileno(), target, FILE, quiet, threading.Event())
    assert target.read_bytes() == b"mine"


def test_a_hardlink_is_of_the_file_that_was_opened(tmp_path: Path) -> None:
    """Whatever took its name meanwhile is not linked, not even for a moment."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(BIG)
    with source.open("rb") as file:
        source.rename(tmp_path / "moved")
        source.write_bytes(b"x" * len(BIG))
        other = source.stat()
        assert clone.clone(file.fileno(), target, ("hardlink",)) == "hardlink"
    assert target.samefile(tmp_path / "moved") and source.stat() == other


# Decisions


def seal(inode: int, *, size: int = FILE.size_bytes, ctime: int = 1) -> Seal:
    return Seal(inode=inode, size_bytes=size, mtime_ns=1, ctime_ns=ctime)


def test_what_needs_no_hash_comes_first() -> None:
    """And neither our own file nor one of another size comes at all."""
    twins = [
        Twin(repo="a/short", where="a/short", seal=seal(1, size=1)),
        Twin(repo="b/ours", where="b/ours", seal=seal(2), shared=True),
        Twin(repo="c/unknown", where="c/unknown", seal=seal(3)),
        Twin(repo="d/sealed", where="d/sealed", seal=seal(4)),
        Twin(repo="e/touched", where="e/touched", seal=seal(5, ctime=2)),
    ]
    sealed = proven(twins, {"d/sealed": seal(4), "e/touched": seal(5), "f/gone": seal(6)})
    assert sealed == {"d/sealed": seal(4)}
    assert [twin.repo for twin in candidates(FILE, twins, sealed)] == ["d/sealed", "c/unknown", "e/touched"]


def test_only_a_new_ctime_leaves_a_file_the_same() -> None:
    """A link moves it; whatever else differs may be other content."""
    assert is_same_file(seal(1), seal(1, ctime=9))
    assert not is_same_file(seal(1), seal(2))
    assert not is_same_file(seal(1), Seal(inode=1, size_bytes=FILE.size_bytes, mtime_ns=2, ctime_ns=1))


def test_what_was_adopted_is_told_in_one_line() -> None:
    """From where, and how."""
    event = e.FileAdopted(model=NEW_KEY, path=ENCODER, size_bytes=20_000_000, source_repo=OLD, how="hardlink")
    told, shared = event_text(event), event_text(msgspec.structs.replace(event, source_repo=""))
    assert told is not None and (told.word, told.detail) == ("adopted", f"20.0 MB from {OLD}, by hardlink")
    assert shared is not None and "the shared store" in shared.detail


def test_small_files_are_not_hardlinked() -> None:
    """People edit configs in place."""
    assert ways_without_room(FILE) == ("reflink", "hardlink")
    assert ways_without_room(model_folder.wanted("config.json", b"{}")) == ("reflink",)
