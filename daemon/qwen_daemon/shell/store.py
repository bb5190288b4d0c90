"""The Hub cache on disk, exactly as huggingface_hub 2.4 lays it out: blobs/, snapshots/, trees/, refs/.

Publishing order, so that a crash at any point leaves something true: trees/<commit>.json first; the part is synced,
renamed over blobs/<etag>, its folder synced; then the relative link under snapshots/<commit>/; refs/<revision> last.
Only a revision without a ref gets one at the start, as from `hf download`: `hf cache prune` removes what no ref names.
Parts are called `.qwen-<etag>-<random>.part`, a name that neither `hf download` (*.incomplete) nor `hf cache prune`
touches. A blob that is a link into the shared store is read and may be replaced as a link, never written through.
What is on record about all this is the ledger's; what to do is the engine's.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from qwen_api import places
from qwen_api.manifest import Manifest, WantedFile, write_tree
from qwen_api.models import ModelRef, is_commit, is_etag
from qwen_api.seals import Seal, take_seal
from qwen_daemon.core.errors import MakeRoom, Trouble, TryAgain
from qwen_daemon.core.plan import Found
from qwen_daemon.core.spans import Span
from qwen_daemon.shell import clone, durable
from qwen_daemon.shell.batch import Batch
from qwen_daemon.shell.digest import digest_file
from qwen_daemon.shell.inside import plain_seal, real_inside, seal_inside, seal_of
from qwen_daemon.shell.part import PartFile

PART_NAME = re.compile(r"\.qwen-([0-9a-f]{40}|[0-9a-f]{64})-[0-9a-f]{8}\.part")
STRAY_AGE_S = 7 * 24 * 3600  # an unknown part this old belongs to nobody who still runs
_CACHE_TAG = (  # what huggingface_hub writes, so that backup tools skip the folder (bford.info/cachedir)
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# This file is a cache directory tag created by huggingface_hub.\n"
    b"# For information about cache directory tags, see:\n#\thttps://bford.info/cachedir/\n"
)

T = TypeVar("T")


class HubCache:
    """ports.Store, ports.Batches and ports.Blobs over the cache directory `cache`."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    async def find(self, manifest: Manifest) -> dict[str, Found]:
        """See ports.Store."""
        return await _in_thread(self._find, manifest)

    async def begin(self, manifest: Manifest, ref: ModelRef) -> None:
        """See ports.Store."""
        await _in_thread(self._begin, manifest, ref)

    async def open_part(self, repo: str, file: WantedFile, name: str | None) -> PartFile:
        """See ports.Store."""
        blobs = self._blobs(repo)
        known = PART_NAME.fullmatch(name or "")
        if name is not None and (known is None or known[1] != file.etag):
            name = None  # a ledger is a hint; a name of another shape is never opened
        await _in_thread(durable.make_folder, blobs)
        part = await PartFile.open(blobs / (name or new_part_name(file.etag)), file.size_bytes)
        if name is None:
            await _in_thread(durable.sync_folder, blobs)  # what is recorded must still have its name after a power cut
        return part

    async def publish(self, manifest: Manifest, file: WantedFile, part: str | None) -> Seal:
        """See ports.Store."""
        return await _in_thread(self._publish, manifest, file, part)

    async def publish_all(
        self, manifest: Manifest, contents: Sequence[tuple[WantedFile, bytes]]
    ) -> Sequence[Seal | Trouble]:
        """See ports.Batches."""
        batch = Batch(
            blobs=self._blobs(manifest.repo),
            snapshot=self.snapshot(manifest),
            replace=_replace,
            link=partial(self._link, manifest),
            new_part=new_part_name,
        )
        return await _in_thread(batch.publish, contents)

    async def finish(self, manifest: Manifest, ref: ModelRef) -> Path:
        """See ports.Store."""
        return await _in_thread(self._finish, manifest, ref)

    async def digest(
        self, repo: str, file: WantedFile, found: Found, progress: Callable[[int], None]
    ) -> tuple[str, tuple[Span, ...]]:
        """See ports.Blobs. `progress` is called in the hashing thread with the bytes hashed so far."""
        try:
            return await digest_file(current_file(self._cache, repo, file, found), file, progress)
        except OSError as error:
            raise durable.translate(error) from error

    async def copy_for_repair(self, repo: str, file: WantedFile, found: Found) -> str | None:
        """See ports.Blobs. None if there is no room for it, or no reading it; then the file is fetched whole."""
        name = new_part_name(file.etag)
        try:
            await _in_thread(_copy, current_file(self._cache, repo, file, found), self._blobs(repo) / name)
        except (MakeRoom, TryAgain):
            return None
        return name

    async def free_bytes(self) -> int:
        """See ports.Blobs."""
        return await _in_thread(self._free_bytes)

    async def remove(self, manifest: Manifest, keep_etags: frozenset[str]) -> int:
        """See ports.Blobs."""
        return await _in_thread(self._remove, manifest, keep_etags)

    async def drop_part(self, repo: str, name: str) -> None:
        """Remove a part that nothing will resume."""
        await _in_thread((self._blobs(repo) / name).unlink, True)

    async def sweep(self, known_parts: frozenset[str]) -> list[str]:
        """Remove parts that no ledger record names and nobody wrote to for STRAY_AGE_S; returns their names."""
        return await _in_thread(self._sweep, known_parts)

    async def listed(self, repo: str, commit: str) -> bytes | None:
        """The bytes of trees/<commit>.json, if it is there."""
        return await _in_thread(_read, places.tree_file(self._cache, repo, commit))

    async def ref(self, ref: ModelRef) -> str | None:
        """The commit that refs/<revision> names, if it is there; a commit names itself."""
        if ref.is_pinned:
            return ref.revision
        raw = await _in_thread(_read, places.ref_file(self._cache, ref.repo, ref.revision))
        text = (raw or b"").decode(errors="replace").strip()
        return text if is_commit(text) else None

    def snapshot(self, manifest: Manifest) -> Path:
        """The folder that loaders are given."""
        return places.snapshot_dir(self._cache, manifest.repo, manifest.commit)

    def watched(self, manifest: Manifest) -> tuple[Path, ...]:
        """The folders whose changes can concern this commit."""
        return (self.snapshot(manifest), self._blobs(manifest.repo))

    def _blobs(self, repo: str) -> Path:
        return places.repo_dir(self._cache, repo) / "blobs"

    def _named(self, manifest: Manifest, file: WantedFile) -> Path:
        return self.snapshot(manifest) / file.path

    def _find(self, manifest: Manifest) -> dict[str, Found]:
        blobs = self._blobs(manifest.repo)
        is_inside = real_inside(self._cache, manifest.repo, blobs) is not None  # asked once, not for each plain blob
        return {file.path: self._find_one(manifest, file, blobs / file.etag, is_inside) for file in manifest.files}

    def _find_one(self, manifest: Manifest, file: WantedFile, blob: Path, is_inside: bool) -> Found:
        named = self._named(manifest, file)
        seal = plain_seal(blob) if is_inside else None
        if seal is None and os.path.lexists(blob):
            seal = seal_inside(self._cache, manifest.repo, blob)
        if seal is not None:
            return Found(linked=_leads_to(named, blob, seal), seal=seal)
        # A plain file in the snapshot (HF_HUB_DISABLE_SYMLINKS) is its own blob; a link must lead to the blob.
        is_plain = os.path.lexists(named) and not named.is_symlink()
        seal = seal_inside(self._cache, manifest.repo, named) if is_plain else None
        return Found(linked=seal is not None, seal=seal)

    def _begin(self, manifest: Manifest, ref: ModelRef) -> None:
        durable.make_folder(self._cache)
        tag = self._cache / "CACHEDIR.TAG"
        if not tag.exists():
            durable.write_file(tag, _CACHE_TAG)
        tree = places.tree_file(self._cache, manifest.repo, manifest.commit)
        durable.write_if_other(tree, write_tree(manifest))
        if not ref.is_pinned and not places.ref_file(self._cache, ref.repo, ref.revision).exists():
            self._point(ref, manifest.commit)  # as huggingface_hub does: `hf cache prune` removes what no ref names

    def _publish(self, manifest: Manifest, file: WantedFile, part: str | None) -> Seal:
        blobs = self._blobs(manifest.repo)
        blob = blobs / file.etag
        if part is not None:
            _replace(str(blobs / part), str(blob))
            durable.sync_folder(blobs)
        if blob.exists():
            self._link(manifest, file)
        return take_seal(self._named(manifest, file))

    def _link(self, manifest: Manifest, file: WantedFile) -> None:
        """The snapshot's name for a blob, durable."""
        named = self._named(manifest, file)
        target = os.path.relpath(self._blobs(manifest.repo) / file.etag, named.parent)
        if not named.is_symlink() or os.readlink(named) != target:  # noqa: PTH115 - the text, not a Path
            self._clear_way(named, self.snapshot(manifest))
            durable.replace_link(named, target)
            durable.sync_folder(named.parent)

    def _clear_way(self, named: Path, snapshot: Path) -> None:
        """A file or a link where a folder must be, or a folder where the file must be, is moved aside."""
        for step in [*reversed(named.parents), named]:
            if step != snapshot and snapshot not in step.parents:
                continue
            try:
                mode = step.lstat().st_mode  # one look: another file's publishing may be making this folder right now
            except (FileNotFoundError, NotADirectoryError):
                continue
            is_wrong = stat.S_ISDIR(mode) if step == named else not stat.S_ISDIR(mode)
            if is_wrong:
                _move_aside(step)

    def _finish(self, manifest: Manifest, ref: ModelRef) -> Path:
        if not ref.is_pinned:
            self._point(ref, manifest.commit)
        self._drop_spent_parts(manifest)
        return self.snapshot(manifest)

    def _point(self, ref: ModelRef, commit: str) -> None:
        # 40 bytes, no newline: one would break huggingface_hub's reader.
        durable.write_if_other(places.ref_file(self._cache, ref.repo, ref.revision), commit.encode())

    def _drop_spent_parts(self, manifest: Manifest) -> None:
        """Parts of files that are all published: a SIGKILL left them before anything of them was on record."""
        done = {file.etag for file in manifest.files}
        for part in self._blobs(manifest.repo).glob(".qwen-*.part"):
            known = PART_NAME.fullmatch(part.name)
            if known is not None and known[1] in done:
                part.unlink(missing_ok=True)

    def _free_bytes(self) -> int:
        folder = self._cache
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def _sweep(self, known_parts: frozenset[str]) -> list[str]:
        oldest_s = time.time() - STRAY_AGE_S
        strays = [
            part
            for part in self._cache.glob("models--*/blobs/.qwen-*.part")
            if part.name not in known_parts and part.stat().st_mtime < oldest_s
        ]
        for stray in strays:
            stray.unlink(missing_ok=True)
        return [stray.name for stray in strays]

    def _remove(self, manifest: Manifest, keep_etags: frozenset[str]) -> int:
        # Also what earlier, wider patterns left in this snapshot.
        own = {f.etag for f in manifest.files} | _named_in(self.snapshot(manifest))
        shutil.rmtree(self.snapshot(manifest), ignore_errors=True)
        used = _named_in(places.repo_dir(self._cache, manifest.repo) / "snapshots")
        freed = 0
        for etag in own - used - keep_etags:
            blob = self._blobs(manifest.repo) / etag
            if blob.exists() and not blob.is_symlink():
                freed += blob.stat().st_size
            blob.unlink(missing_ok=True)
            for part in self._blobs(manifest.repo).glob(f".qwen-{etag}-*.part"):
                freed += part.stat().st_size
                part.unlink(missing_ok=True)
        for ref in (places.repo_dir(self._cache, manifest.repo) / "refs").rglob("*"):
            if ref.is_file() and _read(ref) == manifest.commit.encode():
                ref.unlink()
        places.tree_file(self._cache, manifest.repo, manifest.commit).unlink(missing_ok=True)
        self._remove_if_empty(manifest.repo)
        return freed

    def _remove_if_empty(self, repo: str) -> None:
        """Nothing of the repository is left: its folder goes, as `hf cache rm` would do it."""
        folder = places.repo_dir(self._cache, repo)
        holds = [path for part in ("snapshots", "blobs") for path in (folder / part).rglob("*") if not path.is_dir()]
        if not holds and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)


def current_file(cache: Path, repo: str, file: WantedFile, found: Found) -> Path:
    """The file that `find` found: the blob, else the plain file of the snapshot that has this seal."""
    folder = places.repo_dir(cache, repo)
    blob, snapshots = folder / "blobs" / file.etag, folder / "snapshots"
    if blob.exists() or not snapshots.is_dir():
        return blob
    plain = (snapshot / file.path for snapshot in snapshots.iterdir())
    return next((path for path in plain if seal_of(path) == found.seal), blob)


def _leads_to(named: Path, blob: Path, seal: Seal) -> bool:
    try:
        text = os.readlink(named)  # noqa: PTH115 - the text, not a Path
    except OSError:
        return False  # no link, or nothing
    if text == os.path.relpath(blob, named.parent) and seal_of(named) == seal:
        return True  # what we and huggingface_hub write
    return os.path.realpath(named) == os.path.realpath(blob)


def _named_in(folder: Path) -> set[str]:
    """The blobs that links below the folder lead to; other links are nobody's."""
    names = {os.path.basename(os.readlink(link)) for link in folder.rglob("*") if link.is_symlink()}  # noqa: PTH115, PTH119
    return {name for name in names if is_etag(name)}


async def _in_thread(work: Callable[..., T], *args: object) -> T:
    try:
        return await asyncio.to_thread(work, *args)
    except OSError as error:
        raise durable.translate(error) from error


def new_part_name(etag: str) -> str:
    """A name that no part has yet."""
    return f".qwen-{etag}-{secrets.token_hex(4)}.part"


def _replace(part: str, blob: str) -> None:
    try:
        os.replace(part, blob)  # noqa: PTH105 - shell.batch has no Paths
    except IsADirectoryError:
        _move_aside(Path(blob))
        os.replace(part, blob)  # noqa: PTH105


def _move_aside(path: Path) -> None:
    path.rename(path.with_name(f".qwen-{secrets.token_hex(4)}.aside"))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _copy(source: Path, target: Path) -> None:
    try:
        with source.open("rb") as damaged:
            if clone.clone(damaged.fileno(), source, target, ("reflink",)):  # never a hardlink: it will be written to
                return
        shutil.copyfile(source, target)
        with target.open("rb") as copy:
            os.fsync(copy.fileno())  # its good spans will count as durable
        durable.sync_folder(target.parent)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise durable.translate(error) from error
