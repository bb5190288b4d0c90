"""The Hub cache on disk, exactly as huggingface_hub 2.4 lays it out: blobs/, snapshots/, trees/, refs/.

Publishing order, so that a crash at any point leaves something true: trees/<commit>.json first; the part is synced,
renamed over blobs/<etag>, its folder synced; then the relative link under snapshots/<commit>/; refs/<revision> last.
Only a revision without a ref gets one at the start, as from `hf download`: `hf cache prune` removes what no ref names.
A blob that is a link into the shared store is read and may be replaced as a link, never written through.
What is on record about all this is the ledger's; what to do is the engine's. A cache without links is plain_cache's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from qwen_api import places
from qwen_api.manifest import Manifest, WantedFile, write_tree
from qwen_api.models import ModelRef, is_commit, is_etag
from qwen_api.seals import Seal, take_seal
from qwen_daemon.core.errors import Trouble
from qwen_daemon.core.plan import Found
from qwen_daemon.shell import durable, parts, way
from qwen_daemon.shell.batch import Batch
from qwen_daemon.shell.durable import in_thread
from qwen_daemon.shell.inside import plain_inside, plain_seal, real_inside, seal_inside, seal_of
from qwen_daemon.shell.stored import StoredFiles

CACHE_TAG = (  # what huggingface_hub writes, so that backup tools skip the folder (bford.info/cachedir)
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# This file is a cache directory tag created by huggingface_hub.\n"
    b"# For information about cache directory tags, see:\n#\thttps://bford.info/cachedir/\n"
)


class HubCache(StoredFiles):
    """ports.Store, ports.Batches, ports.Blobs and ports.Listings over the cache directory `cache`."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

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

    async def free_bytes(self) -> int:
        """See ports.Blobs."""
        return await in_thread(durable.free_bytes, self._cache)

    async def remove(self, manifest: Manifest, keep_etags: frozenset[str]) -> int:
        """See ports.Blobs."""
        return await in_thread(self._remove, manifest, keep_etags)

    async def sweep(self, known_parts: frozenset[str]) -> list[str]:
        """Remove parts that no ledger record names and nobody wrote to for a week; returns their names.

        And at once what was cut short in the folders where huggingface_hub would stumble over it.
        """
        return await in_thread(self._sweep, known_parts)

    async def listed(self, repo: str, commit: str) -> bytes | None:
        """The bytes of trees/<commit>.json, if it is there."""
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

    def lock(self, repo: str, file: WantedFile) -> Path:
        """The lock file that huggingface_hub takes while it downloads the content."""
        return self._cache / ".locks" / places.repo_dir(Path(), repo).name / f"{file.etag}.lock"

    def _plain(self, repo: str, file: WantedFile, found: Found) -> Path | None:
        snapshots = places.repo_dir(self._cache, repo) / "snapshots"
        plain = (snapshot / file.path for snapshot in (snapshots.iterdir() if snapshots.is_dir() else ()))
        return next((path for path in plain if seal_of(path) == found.seal), None)

    def _named(self, manifest: Manifest, file: WantedFile) -> Path:
        return self.snapshot(manifest) / file.path

    def _find(self, manifest: Manifest) -> dict[str, Found]:
        blobs = self.parts_folder(manifest.repo)
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
        seal = seal_of(named) if plain_inside(self._cache, manifest.repo, named) else None
        return Found(linked=seal is not None, seal=seal)

    def _begin(self, manifest: Manifest, ref: ModelRef) -> None:
        durable.make_folder(self._cache)
        tag = self._cache / "CACHEDIR.TAG"
        if not tag.exists():
            durable.write_file(tag, CACHE_TAG)
        tree = places.tree_file(self._cache, manifest.repo, manifest.commit)
        durable.write_if_other(tree, write_tree(manifest))
        if not ref.is_pinned and not places.ref_file(self._cache, ref.repo, ref.revision).exists():
            self._point(ref, manifest.commit)  # as huggingface_hub does: `hf cache prune` removes what no ref names

    def _publish_all(
        self, manifest: Manifest, contents: Sequence[tuple[WantedFile, bytes]]
    ) -> Sequence[Seal | Trouble]:
        blobs = self.parts_folder(manifest.repo)
        batch = Batch(
            blobs=blobs,
            snapshot=self.snapshot(manifest),
            replace=lambda part, blob: way.put(Path(part), Path(blob), below=blobs),
            link=partial(self._link, manifest),
            new_part=parts.new_part_name,
        )
        return batch.publish(contents)

    def _publish(self, manifest: Manifest, file: WantedFile, part: str | bytes | None) -> Seal:
        blobs = self.parts_folder(manifest.repo)
        blob, named = blobs / file.etag, self._named(manifest, file)
        if isinstance(part, bytes):
            durable.make_folder(blobs)
            part = parts.write_part(blobs, file.etag, part)
        if part is not None:
            way.put(blobs / part, blob, below=blobs)
        elif [each.etag for each in manifest.files].count(file.etag) > 1 and not os.path.lexists(blob):
            self._make_blob(manifest.repo, named, blob)
        if blob.exists():
            self._link(manifest, file)
        return take_seal(named)

    def _link(self, manifest: Manifest, file: WantedFile) -> None:
        """The snapshot's name for a blob, durable."""
        named, snapshots = self._named(manifest, file), self.snapshot(manifest).parent
        target = os.path.relpath(self.parts_folder(manifest.repo) / file.etag, named.parent)
        is_link = named.is_symlink() and way.leads_straight(str(named.parent), below=str(snapshots))
        if not is_link or os.readlink(named) != target:  # noqa: PTH115 - the text, not a Path
            way.clear(named, below=snapshots)
            durable.replace_link(named, target)
            durable.sync_folder(named.parent)

    def _make_blob(self, repo: str, named: Path, blob: Path) -> None:
        """Of a plain file whose content has several names: they can have one record only if they are one file."""
        if plain_inside(self._cache, repo, named):
            durable.make_folder(blob.parent)
            with suppress(OSError):  # another file system, or one without hardlinks: then it stays as it is
                os.link(named, blob)
                durable.sync_folder(blob.parent)

    def _sweep(self, known_parts: frozenset[str]) -> list[str]:
        for folders in (".", "models--*/trees", "models--*/refs/**"):
            durable.drop_unfinished(self._cache, folders)
        return parts.drop_strays(self._cache.glob(f"models--*/blobs/{parts.PARTS}"), known_parts)

    def _finish(self, manifest: Manifest, ref: ModelRef) -> Path:
        if not ref.is_pinned:
            self._point(ref, manifest.commit)
        parts.drop_spent(self.parts_folder(manifest.repo), {file.etag for file in manifest.files})
        durable.drop_unfinished(self.snapshot(manifest), "**")
        return self.snapshot(manifest)

    def _point(self, ref: ModelRef, commit: str) -> None:
        # 40 bytes, no newline: one would break huggingface_hub's reader.
        durable.write_if_other(places.ref_file(self._cache, ref.repo, ref.revision), commit.encode())

    def _remove(self, manifest: Manifest, keep_etags: frozenset[str]) -> int:
        # Also what earlier, wider patterns left in this snapshot.
        own = {f.etag for f in manifest.files} | _named_in(self.snapshot(manifest))
        shutil.rmtree(self.snapshot(manifest), ignore_errors=True)
        used = _named_in(places.repo_dir(self._cache, manifest.repo) / "snapshots")
        freed = 0
        for etag in own - used - keep_etags:
            blob = self.parts_folder(manifest.repo) / etag
            if blob.exists() and not blob.is_symlink():
                freed += blob.stat().st_size
            blob.unlink(missing_ok=True)
            for part in self.parts_folder(manifest.repo).glob(f".qwen-{etag}-*.part"):
                freed += part.stat().st_size
                part.unlink(missing_ok=True)
        for ref in (places.repo_dir(self._cache, manifest.repo) / "refs").rglob("*"):
            if ref.is_file() and durable.read(ref) == manifest.commit.encode():
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
