"""A model in a folder of the user's own, exactly as `hf download --local-dir` of huggingface_hub 2.4 lays it out.

DIR/<path> are real files; DIR/.cache/huggingface holds the commit's listing, the parts, and for each file the metadata
that keeps `hf download` from fetching it again. Publishing order, so that a crash at any point leaves something true:
metadata of other content goes first; the part is synced and renamed over the file, its folder synced; the new metadata
last. So a file counts as named once its metadata says what it is.

The folder is the user's: what is not wanted is not touched, what differs at a wanted path is replaced only by verified
bytes, and nothing below DIR is read or written through a link - what stands in the way is moved aside.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from qwen_api.manifest import Manifest, WantedFile, write_tree
from qwen_api.models import ModelRef
from qwen_api.seals import Seal
from qwen_daemon.core.errors import AskHuman
from qwen_daemon.core.plan import Found
from qwen_daemon.shell import durable, parts, way
from qwen_daemon.shell.durable import in_thread
from qwen_daemon.shell.inside import is_straight, plain_seal
from qwen_daemon.shell.metadata import read_metadata, write_metadata
from qwen_daemon.shell.store import CACHE_TAG
from qwen_daemon.shell.stored import StoredFiles

KEPT = Path(".cache") / "huggingface"  # huggingface_hub's own folder inside a local_dir


class LocalDir(StoredFiles):
    """ports.Store, ports.Blobs and ports.Listings over `folder`, a real path.

    `ref` says which commit a revision is when the Hub cannot be asked: the folder does not know, the Hub cache may.
    """

    def __init__(self, folder: Path, ref: Callable[[ModelRef], Awaitable[str | None]]) -> None:
        self._folder = folder
        self._download = folder / KEPT / "download"
        self._ref = ref

    async def find(self, manifest: Manifest) -> dict[str, Found]:
        """See ports.Store. A file without the metadata that describes it is there, but not linked."""
        return await in_thread(self._find, manifest)

    async def begin(self, manifest: Manifest, ref: ModelRef) -> None:
        """See ports.Store."""
        del ref
        await in_thread(self._begin, manifest)

    async def publish(self, manifest: Manifest, file: WantedFile, part: str | bytes | None) -> Seal:
        """See ports.Store."""
        return await in_thread(self._publish, manifest, file, part)

    async def finish(self, manifest: Manifest, ref: ModelRef) -> Path:
        """See ports.Store. The listing of this commit becomes the newest, which is how others find it."""
        del ref
        return await in_thread(self._finish, manifest)

    async def free_bytes(self) -> int:
        """See ports.Blobs."""
        return await in_thread(durable.free_bytes, self._folder)

    async def remove(self, manifest: Manifest, keep_etags: frozenset[str]) -> int:
        """See ports.Blobs: files that their metadata names as the Hub's and that nobody wrote to since."""
        del keep_etags
        return await in_thread(self._remove, manifest)

    async def listed(self, repo: str, commit: str) -> bytes | None:
        """See ports.Listings."""
        del repo
        return await in_thread(durable.read, self._tree(commit))

    async def ref(self, ref: ModelRef) -> str | None:
        """See ports.Listings; as huggingface_hub, which asks the cache's refs/ about a local_dir too."""
        return await self._ref(ref)

    def snapshot(self, manifest: Manifest) -> Path:
        """See ports.Listings: the folder itself."""
        del manifest
        return self._folder

    def watched(self, manifest: Manifest) -> tuple[Path, ...]:
        """The folders whose changes can concern this commit."""
        return (self.snapshot(manifest),)

    def where(self, manifest: Manifest, file: WantedFile) -> str:
        """Under which name the ledger keeps a content of this layout: each path is a file of its own."""
        return str(self.standing(manifest, file))

    def standing(self, manifest: Manifest, file: WantedFile) -> Path:
        """The file that holds the content once it is published."""
        return self.snapshot(manifest) / file.path

    def current(self, repo: str, file: WantedFile, found: Found) -> Path:
        """The file that `find` found. Raises FileNotFoundError if it is not there by now."""
        del repo, found
        path = self._folder / file.path
        if self._seal(path) is None:
            raise FileNotFoundError(2, "the file changed since it was looked at", str(path))
        return path

    def parts_folder(self, repo: str) -> Path:
        """The folder for what is being written; made if it is not there."""
        del repo
        self._make_folder(self._download)
        return self._download

    def lock(self, repo: str, file: WantedFile) -> Path:
        """The lock file that huggingface_hub takes while it downloads the file."""
        del repo
        path = self._download / f"{file.path}.lock"
        self._make_folder(path.parent)
        return path

    def _find(self, manifest: Manifest) -> dict[str, Found]:
        for file in manifest.files:
            if Path(file.path).is_relative_to(KEPT):
                raise AskHuman("E_LISTING", f"{file.path!r} of the repository would lie among the folder's own records")
        return {file.path: self._find_one(manifest, file) for file in manifest.files}

    def _find_one(self, manifest: Manifest, file: WantedFile) -> Found:
        seal = self._seal(self._folder / file.path)
        if seal is None:
            return Found()
        said = read_metadata(self._metadata(file))
        linked = said is not None and (said.commit, said.etag) == (manifest.commit, file.etag)
        return Found(linked=linked and said is not None and said.covers(seal.mtime_ns), seal=seal)

    def _seal(self, path: Path) -> Seal | None:
        return plain_seal(path) if is_straight(path) else None

    def _begin(self, manifest: Manifest) -> None:
        self._make_folder(self._download)
        for name, content in (("CACHEDIR.TAG", CACHE_TAG), (".gitignore", b"*")):
            if not os.path.lexists(self._folder / KEPT / name):
                durable.write_file(self._folder / KEPT / name, content)
        self._make_folder(self._tree(manifest.commit).parent)
        durable.write_if_other(self._tree(manifest.commit), write_tree(manifest))

    def _publish(self, manifest: Manifest, file: WantedFile, part: str | bytes | None) -> Seal:
        named, metadata = self._folder / file.path, self._metadata(file)
        folder = self.parts_folder(manifest.repo)
        if isinstance(part, bytes):
            part = parts.write_part(folder, file.etag, part)
        self._make_folder(metadata.parent)
        if part is not None:
            self._forget_other(metadata, manifest.commit, file.etag)
            way.put(folder / part, named, below=self._folder)
        elif is_straight(named):
            durable.sync_file(named)  # somebody else's; what the metadata says must be durable first
        seal = self._seal(named)
        if seal is None:
            raise FileNotFoundError(2, "the file changed while it was published", str(named))
        said = read_metadata(metadata)
        if said is None or (said.commit, said.etag) != (manifest.commit, file.etag) or not said.covers(seal.mtime_ns):
            write_metadata(metadata, manifest.commit, file.etag, seal.mtime_ns)
        return seal

    def _forget_other(self, metadata: Path, commit: str, etag: str) -> None:
        """What was said of other content must not be there when the new file is."""
        said = read_metadata(metadata)
        if said is not None and (said.commit, said.etag) != (commit, etag):
            metadata.unlink()
            durable.sync_folder(metadata.parent)

    def _finish(self, manifest: Manifest) -> Path:
        tree = self._tree(manifest.commit)
        self._begin(manifest)  # someone may have emptied .cache meanwhile
        if any(other.stat().st_mtime_ns > tree.stat().st_mtime_ns for other in tree.parent.glob("*.json")):
            os.utime(tree)
        parts.drop_spent(self._download, {file.etag for file in manifest.files})
        parts.drop_strays(self._download.glob(parts.PARTS))  # of other commits: this folder holds one
        durable.drop_unfinished(self._folder / KEPT, "**")
        return self._folder

    def _remove(self, manifest: Manifest) -> int:
        freed = 0
        for file in manifest.files:
            named, metadata = self._folder / file.path, self._metadata(file)
            seal, said = self._seal(named), read_metadata(metadata)
            if seal is not None and said is not None and said.etag == file.etag and said.covers(seal.mtime_ns):
                freed += seal.size_bytes
                named.unlink()
                metadata.unlink(missing_ok=True)
                (self._download / f"{file.path}.lock").unlink(missing_ok=True)
                _remove_empty(named.parent, self._folder)
                _remove_empty(metadata.parent, self._download)
        for part in self._download.glob(parts.PARTS):
            freed += part.stat().st_size
            part.unlink(missing_ok=True)
        self._tree(manifest.commit).unlink(missing_ok=True)
        return freed

    def _metadata(self, file: WantedFile) -> Path:
        return self._download / f"{file.path}.metadata"

    def _tree(self, commit: str) -> Path:
        return self._folder / KEPT / "trees" / f"{commit}.json"

    def _make_folder(self, folder: Path) -> None:
        if os.path.lexists(self._folder) and not is_straight(self._folder):
            detail = f"{self._folder} leads elsewhere since the daemon began: name the new place in local_dir"
            raise AskHuman("E_PERMISSION", detail)
        way.make_folder(folder, below=self._folder)


def _remove_empty(folder: Path, root: Path) -> None:
    """Folders that hold nothing any more, up to the root, which stays."""
    with suppress(OSError):
        while root in folder.parents:
            folder.rmdir()
            folder = folder.parent
