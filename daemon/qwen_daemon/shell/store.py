"""The Hub cache on disk, exactly as huggingface_hub 2.4 lays it out: blobs/, snapshots/, trees/, refs/.

Publishing order, so that a crash at any point leaves something true: trees/<commit>.json first; the part is synced,
renamed over blobs/<etag>, its folder synced; then the relative link under snapshots/<commit>/; refs/<revision> last.
Only a revision without a ref gets one at the start, as from `hf download`: `hf cache prune` removes what no ref names.
A blob that is a link into the shared store is read and may be replaced as a link, never written through. All that is
written or removed is in a folder that is held open (beneath.Root), so that a swapped-in link leads nothing astray.
What is on record about all this is the ledger's; what to do is the engine's. A cache without links is plain_cache's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from qwen_api import places
from qwen_api.manifest import Manifest, WantedFile, write_tree
from qwen_api.models import ModelRef, is_commit, is_etag
from qwen_api.seals import Seal, take_seal
from qwen_daemon.core.amounts import Free
from qwen_daemon.core.errors import Trouble
from qwen_daemon.core.plan import Found
from qwen_daemon.shell import durable, parts, way
from qwen_daemon.shell.batch import Batch
from qwen_daemon.shell.beneath import Root
from qwen_daemon.shell.durable import in_thread
from qwen_daemon.shell.inside import plain_inside, plain_seal, real_inside, seal_inside, seal_of
from qwen_daemon.shell.stored import StoredFiles

log = structlog.get_logger(__name__)

CACHE_TAG = (  # what huggingface_hub writes, so that backup tools skip the folder (bford.info/cachedir)
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# This file is a cache directory tag created by huggingface_hub.\n"
    b"# For information about cache directory tags, see:\n#\thttps://bford.info/cachedir/\n"
)
# Where there is nothing to clean, or somebody else's: a stranger's link in a shared cache must not end the daemon.
_NOT_OURS = (FileNotFoundError, NotADirectoryError, PermissionError, Trouble)


class HubCache(StoredFiles):
    """ports.Store, ports.Batches, ports.Blobs and ports.Listings over the cache directory `cache`."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._root = Root(cache, may_be_link=_may_be_link, may_be_renewed=_may_be_renewed)

    async def find(self, manifest: Manifest) -> dict[str, Found]:
        """See ports.Store."""
        return await in_thread(self._find, manifest)

    async def begin(self, manifest: Manifest, ref: ModelRef) -> None:
        """See ports.Store."""
        await in_thread(self._begin, manifest, ref)

    async def publish(self, manifest: Manifest, file: WantedFile, part: str | bytes | None) -> Seal:
        """See ports.Store."""
        return await in_thread(self._publish, manifest, file, part)

    async def finish(self, manifest: Manifest, ref: ModelRef) -> Path:
        """See ports.Store."""
        return await in_thread(self._finish, manifest, ref)

    async def free(self) -> Free:
        """See ports.Blobs."""
        return await in_thread(durable.free_room, self._cache)

    async def remove(self, manifest: Manifest, keep_etags: frozenset[str]) -> int:
        """See ports.Blobs."""
        return await in_thread(self._remove, manifest, keep_etags)

    async def sweep(self, known_parts: frozenset[str]) -> list[str]:
        """Remove parts that no ledger record names and nobody wrote to for a week; returns their names.

        And at once what was cut short in the folders where huggingface_hub would stumble over it.
        """
        return await in_thread(self._sweep, known_parts)

    async def listed(self, repo: str, commit: str) -> bytes | None:
        """The bytes of trees/<commit>.json, if it is there.

        Each round of work begins with this: from now on the model's folder is where it leads to now.
        """
        await in_thread(self._look_again, repo)
        return await in_thread(durable.read, places.tree_file(self._cache, repo, commit))

    async def ref(self, ref: ModelRef) -> str | None:
        """The commit that refs/<revision> names, if it is there; a commit names itself."""
        if ref.is_pinned:
            return ref.revision
        raw = await in_thread(durable.read, places.ref_file(self._cache, ref.repo, ref.revision))
        text = (raw or b"").decode(errors="replace").strip()
        return text if is_commit(text) else None

    def snapshot(self, manifest: Manifest) -> Path:
        """The folder that loaders are given."""
        return places.snapshot_dir(self._cache, manifest.repo, manifest.commit)

    def watched(self, manifest: Manifest) -> tuple[Path, ...]:
        """The folders whose changes can concern this commit."""
        return (self.snapshot(manifest), self.parts_folder(manifest.repo))

    def where(self, manifest: Manifest, file: WantedFile) -> str:
        """Under which name the ledger keeps a content of this layout: a blob is one file for all its paths."""
        del file
        return manifest.repo

    def standing(self, manifest: Manifest, file: WantedFile) -> Path:
        """The file that holds the content once it is published."""
        return self.parts_folder(manifest.repo) / file.etag

    def current(self, repo: str, file: WantedFile, found: Found) -> Path:
        """The file that `find` found: the blob, else the plain file of the snapshot that has this seal."""
        blob = self.parts_folder(repo) / file.etag
        return blob if blob.exists() else self._plain(repo, file, found) or blob

    def parts_folder(self, repo: str) -> Path:
        """The folder for what is being written: blobs/."""
        return places.repo_dir(self._cache, repo) / "blobs"

    @contextmanager
    def lock(self, repo: str, file: WantedFile) -> Iterator[Path]:
        """The lock file that huggingface_hub takes while it downloads the content, its folder made and held."""
        with self._root.inside(self._cache / ".locks" / places.repo_dir(Path(), repo).name, make=True) as folder:
            yield folder / f"{file.etag}.lock"

    def _plain(self, repo: str, file: WantedFile, found: Found) -> Path | None:
        snapshots = places.repo_dir(self._cache, repo) / "snapshots"
        plain = (snapshot / file.path for snapshot in (snapshots.iterdir() if snapshots.is_dir() else ()))
        return next((path for path in plain if seal_of(path) == found.seal), None)

    def _named(self, manifest: Manifest, file: WantedFile) -> Path:
        return self.snapshot(manifest) / file.path

    def _find(self, manifest: Manifest) -> dict[str, Found]:
        blobs = self.parts_folder(manifest.repo)
        is_inside = real_inside(self._cache, manifest.repo, blobs) is not None  # asked once, not for each plain blob
        return {
            file.path: self._seen(self._find_one, manifest, file, blobs / file.etag, is_inside)
            for file in manifest.files
        }

    def _find_one(self, manifest: Manifest, file: WantedFile, blob: Path, is_inside: bool) -> Found:
        named = self._named(manifest, file)
        seal = plain_seal(blob) if is_inside else None
        if seal is None and os.path.lexists(blob):
            seal = seal_inside(self._cache, manifest.repo, blob)
        if seal is not None:
            return Found(linked=_leads_to(named, blob, seal), seal=seal)
        # A plain file in the snapshot (HF_HUB_DISABLE_SYMLINKS) is its own blob; a link must lead to the blob.
        seal = seal_of(named) if plain_inside(self._cache, manifest.repo, named) else None
        return Found(linked=seal is not None, seal=seal)

    def _begin(self, manifest: Manifest, ref: ModelRef) -> None:
        self._look_again(manifest.repo)
        with self._root.inside(self._cache, make=True) as cache:
            if not (cache / "CACHEDIR.TAG").exists():
                durable.write_file(cache / "CACHEDIR.TAG", CACHE_TAG)
        self._write(places.tree_file(self._cache, manifest.repo, manifest.commit), write_tree(manifest))
        if not ref.is_pinned and not places.ref_file(self._cache, ref.repo, ref.revision).exists():
            self._point(ref, manifest.commit)  # as huggingface_hub does: `hf cache prune` removes what no ref names

    def _publish_all(
        self, manifest: Manifest, contents: Sequence[tuple[WantedFile, bytes]]
    ) -> Sequence[Seal | Trouble]:
        blobs, snapshot = self.parts_folder(manifest.repo), self.snapshot(manifest)
        batch = Batch(inside=self._root.inside, blobs=blobs, snapshot=snapshot, new_part=parts.new_part_name)
        return batch.publish(contents)

    def _publish(self, manifest: Manifest, file: WantedFile, part: str | bytes | None) -> Seal:
        with self.writing(manifest.repo) as blobs:
            blob = blobs / file.etag
            if isinstance(part, bytes):
                part = parts.write_part(blobs, file.etag, part)
            if part is not None:
                way.put(blobs / part, blob)
            elif [each.etag for each in manifest.files].count(file.etag) > 1 and not os.path.lexists(blob):
                self._make_blob(self._named(manifest, file), blob)
            if blob.exists():
                self._link(manifest, file)
                return take_seal(blob)
        return take_seal(self._named(manifest, file))

    def _link(self, manifest: Manifest, file: WantedFile) -> None:
        """The snapshot's name for a blob, durable."""
        named = self._named(manifest, file)
        target = os.path.relpath(self.parts_folder(manifest.repo) / file.etag, named.parent)
        with self._root.inside(named.parent, make=True) as folder:
            if way.link(folder / named.name, target):
                durable.sync_folder(folder)

    def _make_blob(self, named: Path, blob: Path) -> None:
        """Of a plain file whose content has several names: they can have one record only if they are one file."""
        with suppress(OSError), self._root.inside(named.parent) as folder:
            if plain_seal(folder / named.name) is not None:
                os.link(folder / named.name, blob)  # refused by another file system, or one without hardlinks
                durable.sync_folder(blob.parent)

    def _sweep(self, known_parts: frozenset[str]) -> list[str]:
        swept = []
        self._drop_unfinished(self._cache)
        for repo in self._cache.glob("models--*"):
            self._drop_unfinished(repo / "trees")
            self._drop_unfinished(repo / "refs", deep=True)
            with _passing_over(repo / "blobs"), self._root.inside(repo / "blobs") as blobs:
                swept += parts.drop_strays(blobs.glob(parts.PARTS), known_parts)
        return swept

    def _drop_unfinished(self, folder: Path, *, deep: bool = False) -> None:
        with _passing_over(folder), self._root.inside(folder) as held:
            durable.drop_unfinished(held, deep=deep)

    def _finish(self, manifest: Manifest, ref: ModelRef) -> Path:
        with self._listing(places.tree_file(self._cache, manifest.repo, manifest.commit)):
            if not ref.is_pinned:
                self._point(ref, manifest.commit)
        with self.writing(manifest.repo) as blobs:
            parts.drop_spent(blobs, {file.etag for file in manifest.files})
        self._drop_unfinished(self.snapshot(manifest), deep=True)
        return self.snapshot(manifest)

    def _point(self, ref: ModelRef, commit: str) -> None:
        # 40 bytes, no newline: one would break huggingface_hub's reader.
        self._write(places.ref_file(self._cache, ref.repo, ref.revision), commit.encode())

    def _look_again(self, repo: str) -> None:
        self._root.look_again(self.parts_folder(repo), self._cache / ".locks")

    def _write(self, path: Path, content: bytes) -> None:
        with self._root.inside(path.parent, make=True) as folder:
            durable.write_if_other(folder / path.name, content)

    def _remove(self, manifest: Manifest, keep_etags: frozenset[str]) -> int:
        folder, snapshot = places.repo_dir(self._cache, manifest.repo), self.snapshot(manifest)
        self._look_again(manifest.repo)
        unused, freed = {file.etag for file in manifest.files}, 0
        with suppress(FileNotFoundError, NotADirectoryError), self._root.inside(snapshot.parent) as snapshots:
            unused |= _named_in(snapshots / snapshot.name)  # also what earlier, wider patterns left in this snapshot
            shutil.rmtree(snapshots / snapshot.name, ignore_errors=True)
            unused -= _named_in(snapshots)
        with suppress(FileNotFoundError, NotADirectoryError), self._root.inside(folder / "blobs") as blobs:
            freed = sum(_drop_blob(blobs, etag) for etag in unused - keep_etags)
        with suppress(FileNotFoundError, NotADirectoryError), self._root.inside(folder / "refs") as refs:
            for ref in durable.files_below(refs):
                if ref.is_file() and durable.read(ref) == manifest.commit.encode():
                    ref.unlink()
        with suppress(FileNotFoundError, NotADirectoryError), self._root.inside(folder / "trees") as trees:
            (trees / f"{manifest.commit}.json").unlink(missing_ok=True)
        self._remove_if_empty(folder)
        return freed

    def _remove_if_empty(self, folder: Path) -> None:
        """Nothing of the repository is left: its folder goes, as `hf cache rm` would do it."""
        holds = any(True for part in ("snapshots", "blobs") for _ in durable.files_below(folder / part))
        if not holds and not folder.is_symlink():
            with self._root.inside(self._cache) as cache:
                shutil.rmtree(cache / folder.name, ignore_errors=True)


@contextmanager
def _passing_over(folder: Path) -> Iterator[None]:
    """What cannot be cleaned is left as it is: nothing wanted depends on it, least of all the daemon's start."""
    try:
        with suppress(*_NOT_OURS):
            yield
    except OSError as error:
        if not durable.is_unreadable(error):
            raise
        log.warning("folder.unreadable", path=str(folder), why=durable.translate(error).detail)


def _may_be_link(names: Sequence[str]) -> bool:
    """A model's folder, its blobs, the locks: people move them to larger disks, or to disks with locks."""
    match names:
        case [only]:
            return only == ".locks" or only.startswith("models--")
        case [_, "blobs"]:
            return True
    return False


def _may_be_renewed(names: Sequence[str]) -> bool:
    """Folders that hold nothing which is not soon made again: not the blobs."""
    return len(names) > 1 and (names[0] == ".locks" or names[1] in ("snapshots", "refs", "trees"))


def _drop_blob(blobs: Path, etag: str) -> int:
    """Remove the blob and its parts; returns bytes freed."""
    blob, freed = blobs / etag, 0
    if blob.exists() and not blob.is_symlink():
        freed += blob.stat().st_size
    blob.unlink(missing_ok=True)
    for part in blobs.glob(f".qwen-{etag}-*.part"):
        freed += part.stat().st_size
        part.unlink(missing_ok=True)
    return freed


def _leads_to(named: Path, blob: Path, seal: Seal) -> bool:
    try:
        text = os.readlink(named)  # noqa: PTH115 - the text, not a Path
    except OSError:
        return False  # no link, or nothing
    if text == os.path.relpath(blob, named.parent) and seal_of(named) == seal:
        return True  # what we and huggingface_hub write
    try:
        return os.path.realpath(named) == os.path.realpath(blob)
    except OSError:
        return False  # swapped while it was followed


def _named_in(folder: Path) -> set[str]:
    """The blobs that links below the folder lead to; other links are nobody's."""
    links = (path for path in durable.files_below(folder) if path.is_symlink())
    names = {os.path.basename(os.readlink(link)) for link in links}  # noqa: PTH115, PTH119
    return {name for name in names if is_etag(name)}
