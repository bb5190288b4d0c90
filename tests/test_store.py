"""What every layout promises of files on disk, and where each puts them; nothing else is touched."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from qwen_api import places
from qwen_api.manifest import Manifest, WantedFile, make_manifest, write_tree
from qwen_api.models import ModelRef
from qwen_api.seals import take_seal
from qwen_daemon.core.errors import AskHuman, Trouble, TryAgain
from qwen_daemon.shell import durable
from qwen_daemon.shell.local_dir import LocalDir
from qwen_daemon.shell.locks import HubLocks
from qwen_daemon.shell.part import PartFile
from qwen_daemon.shell.store import HubCache
from tests.fakes.model_folder import COMMIT, REPO, Files, listing, qwen, safetensors, write_cache
from tests.layouts import LOCAL_DIR, Layout, every_layout

REF = ModelRef(repo=REPO)
DOWNLOAD = ".cache/huggingface/download"
FILES: Files = {"README.md": b"# Hello\n", "deep/er/w.safetensors": safetensors("w"), "deep/empty.txt": b""}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub"


def no_digest(_data: bytes | bytearray) -> None:
    """What was written is of no interest."""


async def fill(store: HubCache | LocalDir, files: Files = FILES, ref: ModelRef = REF) -> Manifest:
    """Publish all files as the engine does."""
    manifest = listing(files)
    await store.begin(manifest, ref)
    for file in manifest.files:
        part = await store.open_part(REPO, file, None)
        await part.write(0, files[file.path], no_digest)
        await part.sync()
        await part.close()
        await store.publish(manifest, file, part.name)
    await store.finish(manifest, ref)
    return manifest


def repo_dir(cache: Path) -> Path:
    return places.repo_dir(cache, REPO)


def blob(cache: Path, file: WantedFile) -> Path:
    return repo_dir(cache) / "blobs" / file.etag


async def test_the_layout_is_huggingface_hubs(cache: Path) -> None:
    """Relative links of the right depth, blobs by etag, 40 bytes of ref, the listing, the tag; nothing else."""
    before = os.umask(0o002)
    try:
        manifest = await fill(HubCache(cache))
    finally:
        os.umask(before)
    folder = repo_dir(cache)
    links = {path: os.readlink(folder / "snapshots" / COMMIT / path) for path in FILES}
    etags = {file.path: file.etag for file in manifest.files}
    assert links == {path: "../" * (path.count("/") + 2) + f"blobs/{etags[path]}" for path in FILES}
    assert {path.name for path in (folder / "blobs").iterdir()} == set(etags.values())
    assert (folder / "refs" / "main").read_bytes() == COMMIT.encode()
    assert (folder / "trees" / f"{COMMIT}.json").read_bytes() == write_tree(manifest)
    assert sorted(path.name for path in cache.iterdir()) == ["CACHEDIR.TAG", folder.name]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder / "blobs").iterdir()} == {0o664}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_dir()} == {0o775}


@every_layout
async def test_what_is_found_is_what_was_put(cache: Path, layout: Layout) -> None:
    """After publishing, each file is linked and its seal is the one publishing returned; before, nothing is there."""
    store, manifest = layout.store(cache), listing(FILES)
    assert {f.seal for f in (await store.find(manifest)).values()} == {None}
    await fill(store)
    found = await store.find(manifest)
    for file in manifest.files:
        assert found[file.path].linked and found[file.path].seal == take_seal(store.standing(manifest, file))
        assert await store.digest(REPO, file, found[file.path], lambda _: None) == (
            file.etag,
            (await store.digest(REPO, file, found[file.path], lambda _: None))[1],
        )
        assert (store.snapshot(manifest) / file.path).read_bytes() == FILES[file.path]
    assert await store.ref(REF) == (None if layout is LOCAL_DIR else COMMIT)
    assert await store.ref(ModelRef(repo=REPO, revision="v1")) is None
    assert await store.listed(REPO, COMMIT) == write_tree(manifest)


async def test_a_cache_that_others_filled_is_found(cache: Path) -> None:
    """As huggingface_hub writes it, with links, with plain files, with a model's folder moved to another disk."""
    files = qwen()
    write_cache(cache, files)
    store, manifest = HubCache(cache), listing(files)
    assert all(found.linked for found in (await store.find(manifest)).values())
    elsewhere = cache.with_name("other-disk")
    repo_dir(cache).rename(elsewhere)
    repo_dir(cache).symlink_to(elsewhere)
    assert all(found.linked for found in (await store.find(manifest)).values())


@pytest.mark.fault("C4")
async def test_a_blob_in_the_shared_store_is_read_and_never_written_through(cache: Path) -> None:
    """blobs/<etag> may be a link to <cache>/blobs/xx/<xet>: it counts; repairing replaces the link, not its target."""
    store, manifest = HubCache(cache), await fill(HubCache(cache))
    file = manifest.by_path()["deep/er/w.safetensors"]
    shared = cache / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob(cache, file).rename(shared)
    shared.chmod(0o444)
    blob(cache, file).symlink_to(f"../../blobs/ab/{shared.name}")
    found = (await store.find(manifest))[file.path]
    assert found.linked and found.seal == take_seal(shared)
    name = await store.copy_for_repair(REPO, file, found)
    assert name is not None
    await store.publish(manifest, file, name)
    assert not blob(cache, file).is_symlink() and shared.read_bytes() == FILES[file.path]
    assert await store.remove(manifest, frozenset()) > 0
    assert shared.exists()


@pytest.mark.fault("C2")
async def test_links_that_lead_out_of_the_cache_are_nothing(cache: Path, tmp_path: Path) -> None:
    """A blob, a snapshot's folder, the snapshot itself: not believed, and replaced; nothing outside changes."""
    outside = tmp_path / "outside"
    outside.mkdir()
    store, manifest = HubCache(cache), await fill(HubCache(cache))
    file = manifest.by_path()["deep/er/w.safetensors"]
    (outside / file.etag).write_bytes(FILES[file.path])
    snapshot = repo_dir(cache) / "snapshots" / COMMIT

    kept = blob(cache, file).rename(blob(cache, file).with_name("kept"))
    blob(cache, file).symlink_to(outside / file.etag)
    assert (await store.find(manifest))[file.path].seal is None
    blob(cache, file).unlink()
    kept.rename(blob(cache, file))

    for victim in (snapshot / "deep", snapshot):
        victim.rename(victim.with_name("old"))
        victim.symlink_to(outside)
        found = await store.find(manifest)
        assert not found[file.path].linked and found[file.path].seal == take_seal(blob(cache, file))
        for each in manifest.files:
            await store.publish(manifest, each, None)
        assert all(f.linked for f in (await store.find(manifest)).values())
    assert [path.name for path in outside.iterdir()] == [file.etag]


@pytest.mark.fault("C10")
@every_layout
async def test_what_stands_in_the_way_is_moved_aside(cache: Path, layout: Layout) -> None:
    """A folder where a file must be, a file where a folder must be; what was in them is kept."""
    store, manifest = layout.store(cache), await fill(layout.store(cache))
    file = manifest.by_path()["README.md"]
    standing = store.standing(manifest, file)
    standing.unlink()
    standing.mkdir()
    (standing / "mine").touch()
    assert (await store.find(manifest))[file.path].seal is None
    await store.publish(manifest, file, FILES[file.path])
    assert standing.read_bytes() == FILES[file.path]
    deep = manifest.by_path()["deep/er/w.safetensors"]
    shutil.rmtree(store.snapshot(manifest) / "deep")
    (store.snapshot(manifest) / "deep").write_bytes(b"mine")
    assert not (await store.find(manifest))[deep.path].linked
    await store.publish(manifest, deep, FILES[deep.path])
    assert (await store.find(manifest))[deep.path].linked
    assert len(list(cache.rglob("mine"))) == 1
    assert [path.read_bytes() for path in cache.rglob("*.aside") if path.is_file()] == [b"mine"]


@every_layout
async def test_files_published_at_the_same_time_into_a_new_folder_do_not_take_it_from_each_other(
    cache: Path, layout: Layout
) -> None:
    """The folder that one of them has just made is not in the other's way."""
    store = layout.store(cache)
    for round_ in range(40):
        manifest = listing({f"{round_}/a/b/c/{name}": f"{round_} {name}".encode() for name in "rstuvwxy"})
        contents = [f"{round_} {file.path[-1]}".encode() for file in manifest.files]
        await asyncio.gather(*map(store.publish, [manifest] * 8, manifest.files, contents))
    assert list(cache.rglob(".qwen-*")) == []


@pytest.mark.fault("H50", "C2")
@every_layout
async def test_parts_are_opened_by_names_of_their_own_only(cache: Path, tmp_path: Path, layout: Layout) -> None:
    """A name from a damaged ledger opens nothing else; a link in a part's place is refused."""
    store, file = layout.store(cache), listing(FILES).files[0]
    other = f".qwen-{'0' * 64}-01234567.part"
    for name in ("../../../escape", "/etc/passwd", other, ".qwen-x.part", ""):
        part = await store.open_part(REPO, file, name)
        assert part.name != name and file.etag in part.name
        await part.close()
    await store.drop_part(REPO, part.name)
    await store.drop_part(REPO, part.name)
    precious = tmp_path / "precious"
    precious.write_bytes(b"x")
    (store.parts_folder(REPO) / part.name).symlink_to(precious)
    with pytest.raises(TryAgain):
        await store.open_part(REPO, file, part.name)
    assert precious.read_bytes() == b"x"


async def read(part: PartFile, offset: int, length: int) -> bytes:
    pieces: list[bytes] = []
    fed = await part.feed(offset, length, lambda piece: pieces.append(bytes(piece)))
    assert fed == sum(map(len, pieces))
    return b"".join(pieces)


async def test_writes_that_wait_go_together_and_fail_alone(cache: Path) -> None:
    """Each hears of its own end: one that does not fit into what a file may be fails, its neighbours are written."""
    store, file = HubCache(cache), listing(FILES).files[0]
    part = await store.open_part(REPO, file, None)
    offsets = [0, 5, 1 << 62, 10]  # no file system has room at 4 EiB
    writes = [part.write(offset, b"hello", no_digest) for offset in offsets]
    ends = await asyncio.gather(*writes, return_exceptions=True)
    assert [isinstance(end, Trouble) for end in ends] == [False, False, True, False]
    assert await read(part, 0, 100) == b"hellohellohello"
    await part.close()


@pytest.mark.fault("H13")
@every_layout
async def test_a_part_takes_bytes_anywhere(cache: Path, layout: Layout) -> None:
    """Writes at offsets, reads back, and gives less at its end."""
    store, file = layout.store(cache), listing(FILES).files[0]
    part = await store.open_part(REPO, file, None)
    await part.write(5, b"world", no_digest)
    await part.write(0, bytearray(b"hello"), no_digest)
    assert await read(part, 0, 100) == b"helloworld"
    assert await read(part, 8, 5) == b"ld"
    await part.sync()
    await part.close()
    again = await store.open_part(REPO, file, part.name)
    assert (again.name, await read(again, 0, 5)) == (part.name, b"hello")
    await again.close()


@pytest.mark.fault("C9")
async def test_only_strays_that_nobody_knows_are_swept(cache: Path) -> None:
    """Old and unknown goes; young, or known to the ledger, stays; huggingface_hub's own files are none of ours."""
    store, file = HubCache(cache), listing(FILES).files[0]
    names = []
    for _ in range(3):
        part = await store.open_part(REPO, file, None)
        await part.close()
        names.append(part.name)
    blobs = repo_dir(cache) / "blobs"
    (blobs / f"{file.etag}.0123.incomplete").touch()
    for name in (*names[:2], f"{file.etag}.0123.incomplete"):
        os.utime(blobs / name, (0, 0))
    assert await store.sweep(frozenset(names[1:2])) == names[:1]
    assert {path.name for path in blobs.iterdir()} == {*names[1:], f"{file.etag}.0123.incomplete"}


@pytest.mark.fault("C9", "K2")
async def test_what_a_kill_cut_short_does_not_stay(cache: Path) -> None:
    """A file half-way to its name in refs/ makes `hf cache ls` call the whole repository corrupted."""
    store, manifest = HubCache(cache), await fill(HubCache(cache))
    snapshot = store.snapshot(manifest)
    left = [folder / ".qwen-0123abcd.tmp" for folder in (cache, repo_dir(cache) / "refs", repo_dir(cache) / "trees")]
    for path in left:
        path.touch()
    link = snapshot / "vae" / ".qwen-0123abcd.tmp"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to("nowhere")
    assert scan_cache_dir(cache).warnings
    await store.sweep(frozenset())
    await store.finish(manifest, REF)
    assert not any(path.exists() for path in left) and not link.is_symlink()
    assert scan_cache_dir(cache).warnings == []


@pytest.mark.fault("C9", "K2")
@every_layout
async def test_records_that_a_kill_cut_short_go_with_the_next_completion(cache: Path, layout: Layout) -> None:
    """What a layout keeps beside the files - listings, refs, metadata - is written under another name first."""
    store = layout.store(cache)
    manifest = await fill(store)
    kept = [cache / DOWNLOAD / "deep", cache / DOWNLOAD / "../trees"] if layout is LOCAL_DIR else [cache]
    left = [folder / ".qwen-0123abcd.tmp" for folder in kept]
    for path in left:
        path.touch()
    if isinstance(store, HubCache):
        await store.sweep(frozenset())
    await store.finish(manifest, REF)
    assert [path for path in left if path.exists()] == []


@pytest.mark.fault("C6", "C9")
def test_what_another_daemon_sweeps_meanwhile_is_made_again(tmp_path: Path) -> None:
    """Where locks do nothing a second daemon may begin, and sweep, between our writing and our renaming."""
    named, made = tmp_path / "folder" / "file", []

    def make(beside: Path) -> None:
        beside.write_bytes(b"content")
        made.append(beside)
        if len(made) < 3:
            durable.drop_unfinished(beside.parent)

    durable.put(named, make)
    assert (named.read_bytes(), len(made), list(named.parent.iterdir())) == (b"content", 3, [named])


@pytest.mark.fault("D16")
@every_layout
async def test_a_folder_that_looks_unfinished_ends_no_round(cache: Path, layout: Layout) -> None:
    """It is somebody's, and stays; what a SIGKILL left beside it goes."""
    store, manifest = layout.store(cache), await fill(layout.store(cache))
    folder = await store.finish(manifest, REF)
    kept = folder / ".cache" / "huggingface" if layout is LOCAL_DIR else folder
    for name in ("deep", ".qwen-0.tmp", ".qwen-2.tmp"):
        (kept / name).mkdir(exist_ok=True)
    (kept / ".qwen-1.tmp").write_bytes(b"cut sh")
    (kept / "deep" / ".qwen-1.tmp").write_bytes(b"cut sh")
    await store.finish(manifest, REF)
    assert {path.relative_to(kept).as_posix() for path in kept.rglob(".qwen-*.tmp")} == {".qwen-0.tmp", ".qwen-2.tmp"}


@pytest.mark.fault("D16")
def test_what_vanishes_while_it_is_looked_through_is_no_trouble(tmp_path: Path) -> None:
    """Somebody removes folders, a tool of huggingface_hub's for example, while we look for what was left in them."""
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            for name in "abcdef":
                (tmp_path / name / "deep").mkdir(parents=True)
            for name in "abcdef":
                shutil.rmtree(tmp_path / name)

    with ThreadPoolExecutor(1) as others:
        others.submit(come_and_go)
        try:
            for _ in range(500):
                durable.drop_unfinished(tmp_path, deep=True)
        finally:
            over.set()


@pytest.mark.fault("D16")
async def test_a_part_that_cannot_be_cut_is_closed(tmp_path: Path) -> None:
    """Each failed try would cost a descriptor until the error is forgotten; no size below 0 is one for the system."""
    path = tmp_path / "part"
    with pytest.raises(TryAgain) as refused:
        await PartFile.open(path, bytes_max=-1)
    assert refused.value.code == "E_DISK_IO" and path.exists()
    assert path not in [each.readlink() for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]


@pytest.mark.fault("D16")
def test_what_can_never_be_renamed_is_trouble(tmp_path: Path) -> None:
    """Not tried for ever: somebody who removes everything at once is told of as the disk's trouble."""
    with pytest.raises(FileNotFoundError):
        durable.put(tmp_path / "file", lambda beside: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault("C12")
@every_layout
async def test_what_is_finished_has_the_whole_listing(cache: Path, layout: Layout) -> None:
    """Also when only a part of the repository is wanted; if somebody removed it, another round asks for it."""
    store, whole = layout.store(cache), listing(FILES)
    part = make_manifest(REPO, COMMIT, [whole.by_path()["README.md"]])
    await store.begin(whole, REF)
    await store.publish(part, part.files[0], FILES["README.md"])
    await store.finish(part, REF)
    assert await store.listed(REPO, COMMIT) == write_tree(whole)
    (tree,) = cache.rglob(f"trees/{COMMIT}.json")
    tree.unlink()
    with pytest.raises(TryAgain, match="E_DISK_CHANGING"):
        await store.finish(part, REF)


@pytest.mark.fault("D16")
@every_layout
async def test_a_disk_that_refuses_is_told_as_trouble(cache: Path, layout: Layout) -> None:
    """Foreign exceptions do not leave the store: a file that vanished, a place that is a file."""
    store, manifest = layout.store(cache), await fill(layout.store(cache))
    file = manifest.by_path()["README.md"]
    found = (await store.find(manifest))[file.path]
    store.standing(manifest, file).unlink()
    with pytest.raises(TryAgain):
        await store.digest(REPO, file, found, lambda _: None)
    assert await store.copy_for_repair(REPO, file, found) is None
    (cache / "file").touch()
    broken = layout.store(cache / "file")
    with pytest.raises((TryAgain, AskHuman)):
        await broken.begin(manifest, REF)


@every_layout
async def test_the_lock_is_huggingface_hubs(cache: Path, layout: Layout) -> None:
    """The same file, the same flock: while one holds it the other is told so at once."""
    locks, file = HubLocks(layout.store(cache).lock), listing(FILES).files[0]
    async with locks.hold(REPO, file) as mine:
        async with HubLocks(layout.store(cache).lock).hold(REPO, file) as theirs:
            assert (mine, theirs) == (True, False)
        in_cache, in_folder = f".locks/{repo_dir(cache).name}/{file.etag}.lock", f"{DOWNLOAD}/{file.path}.lock"
        lock = cache / (in_folder if layout is LOCAL_DIR else in_cache)
        assert lock.is_file() and stat.S_IMODE(lock.stat().st_mode) & 0o600 == 0o600
    async with locks.hold(REPO, file) as again:
        assert again


@pytest.mark.fault("C9")
@every_layout
async def test_parts_that_nothing_will_resume_go_when_the_model_is_complete(cache: Path, layout: Layout) -> None:
    """A SIGKILL leaves parts of which nothing is on record; those of other files, and other programs', stay."""
    store = layout.store(cache)
    manifest = await fill(store)
    parts = store.parts_folder(REPO)
    spent = [await store.open_part(REPO, file, None) for file in manifest.files]
    other = await store.open_part(REPO, WantedFile(path="x", size_bytes=1, git_sha1="0" * 40), None)
    for part in (*spent, other):
        await part.close()
    foreign = parts / f"{manifest.files[0].etag}.incomplete"
    foreign.touch()
    await store.finish(manifest, REF)
    assert {path.name for path in parts.glob("*.part")} == {other.name} and foreign.exists()


async def test_a_part_that_somebody_removed_is_missed_at_the_next_sync(cache: Path) -> None:
    """Its bytes are durable and nobody can ever name them: told at the checkpoint, not when it is published."""
    store, (file, *_) = HubCache(cache), listing(FILES).files
    part = await store.open_part(REPO, file, None)
    try:
        await part.write(0, b"bytes", no_digest)
        await part.sync()
        (repo_dir(cache) / "blobs" / part.name).unlink()
        with pytest.raises(TryAgain) as gone:
            await part.sync()
        assert gone.value.code == "E_PART_GONE"
    finally:
        await part.close()


# A local_dir's own


async def test_metadata_says_what_stands_there_and_nothing_else(cache: Path) -> None:
    """Without it, or with that of something else, or too old, the file is there but has no name; linking mends it."""
    store, manifest = LOCAL_DIR.store(cache), await fill(LOCAL_DIR.store(cache))
    file = manifest.by_path()["README.md"]
    metadata = cache / DOWNLOAD / "README.md.metadata"
    good = metadata.read_text().split("\n")
    assert good[:2] == [COMMIT, file.etag] and len(good) == 4
    for wrong in (
        "",
        "x",
        "\n".join(["0" * 40, *good[1:]]),
        "\n".join([COMMIT, "0" * 40, good[2]]),
        f"{COMMIT}\n{file.etag}\n1.0\n",
        f"{COMMIT}\n{file.etag}\nnan\n",
    ):
        metadata.write_text(wrong)
        found = (await store.find(manifest))[file.path]
        assert not found.linked and found.seal is not None
        assert await store.publish(manifest, file, None) == found.seal
        assert (await store.find(manifest))[file.path].linked
    os.utime(cache / "README.md", (4e9, 4e9))
    await store.publish(manifest, file, None)
    assert (await store.find(manifest))[file.path].linked, "a time in the future is no reason to look for ever"


async def test_what_was_said_of_other_content_goes_before_the_new_file_comes(cache: Path) -> None:
    """A publishing that fails half-way leaves the old file, and no word about it that could become wrong."""
    store, manifest = LOCAL_DIR.store(cache), await fill(LOCAL_DIR.store(cache))
    later = listing({**FILES, "README.md": b"# Later\n"}, commit="1" * 40)
    with pytest.raises(TryAgain):
        await store.publish(later, later.by_path()["README.md"], f".qwen-{'0' * 40}-00000000.part")
    assert (cache / "README.md").read_bytes() == FILES["README.md"]
    assert not (cache / DOWNLOAD / "README.md.metadata").exists()
    assert not (await store.find(manifest))["README.md"].linked


@pytest.mark.fault("C2")
async def test_links_inside_a_folder_are_not_followed(cache: Path, tmp_path: Path) -> None:
    """Of a file, a folder, the records, out of the folder or within it: nothing is read, written or removed there."""
    outside = tmp_path / "outside"
    store, manifest = LOCAL_DIR.store(cache), await fill(LOCAL_DIR.store(cache))
    for victim in ("README.md", "deep/er", "deep", DOWNLOAD, ".cache"):
        shutil.move(cache / victim, outside)
        (cache / victim).symlink_to(outside)
        before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} or outside.read_bytes()
        for file in manifest.files:
            await store.publish(manifest, file, FILES[file.path])
        assert all(found.linked for found in (await store.find(manifest)).values())
        after = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} or outside.read_bytes()
        assert after == before and not (cache / victim).is_symlink()
        shutil.rmtree(outside) if outside.is_dir() else outside.unlink()


@pytest.mark.fault("C2")
async def test_a_folder_that_became_a_link_is_left_alone(cache: Path, tmp_path: Path) -> None:
    """Somebody moved it; where to is for the configuration to say."""
    store, manifest = LOCAL_DIR.store(cache), await fill(LOCAL_DIR.store(cache))
    cache.rename(tmp_path / "moved")
    cache.symlink_to(tmp_path / "moved")
    assert {found.seal for found in (await store.find(manifest)).values()} == {None}
    with pytest.raises(AskHuman, match="local_dir"):
        await store.publish(manifest, manifest.files[0], b"x")


@pytest.mark.fault("H49")
async def test_a_repository_may_not_bring_a_folders_records(cache: Path) -> None:
    """Names below .cache/huggingface are ours and huggingface_hub's."""
    with pytest.raises(AskHuman, match="records"):
        await LOCAL_DIR.store(cache).find(listing({".cache/huggingface/download/x.metadata": b"x"}))


async def test_removing_takes_what_came_from_the_hub_and_nothing_else(cache: Path) -> None:
    """What somebody edited, strangers and their folders stay; empty folders and the records go."""
    store, manifest = LOCAL_DIR.store(cache), await fill(LOCAL_DIR.store(cache))
    (cache / "mine").mkdir()
    (cache / "mine" / "notes").write_bytes(b"mine")
    (cache / "README.md").write_bytes(b"edited")
    os.utime(cache / "README.md", (4e9, 4e9))
    part = await store.open_part(REPO, manifest.files[0], None)
    await part.close()
    assert await store.remove(manifest, frozenset()) == len(FILES["deep/er/w.safetensors"])
    left = {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()}
    own = {f"{DOWNLOAD}/README.md.metadata", ".cache/huggingface/.gitignore", ".cache/huggingface/CACHEDIR.TAG"}
    assert left == {"mine/notes", "README.md", *own} and not (cache / "deep").exists()
