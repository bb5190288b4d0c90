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
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qwen_api.manifest import Manifest, WantedFile, write_tree
from qwen_api.models import ModelRef
from qwen_api.seals import Seal
from qwen_daemon.core.amounts import Free
from qwen_daemon.core.errors import AskHuman
from qwen_daemon.core.plan import Found
from qwen_daemon.shell import durable, parts, way
from qwen_daemon.shell.beneath import Root
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
        self._root = Root(folder, is_real=True)
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

    async def free(self) -> Free:
        """See ports.Blobs."""
        return await in_thread(durable.free_room, self._folder)

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
        """The folder for what is being written."""
        del repo
        return self._download

    @contextmanager
    def lock(self, repo: str, file: WantedFile) -> Iterator[Path]:
        """The lock file that huggingface_hub takes while it downloads the file, its folder made and held."""
        del repo
        path = self._download / f"{file.path}.lock"
        with self._root.inside(path.parent, make=True) as folder:
            yield folder / path.name

    def _find(self, manifest: Manifest) -> dict[str, Found]:
        for file in manifest.files:
            if Path(file.path).is_relative_to(KEPT):
                raise AskHuman("E_LISTING", f"{file.path!r} of the repository would lie among the folder's own records")
        return {file.path: self._seen(self._find_one, manifest, file) for file in manifest.files}

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
        with self._root.inside(self._folder / KEPT, make=True) as kept:
            for name, content in (("CACHEDIR.TAG", CACHE_TAG), (".gitignore", b"*")):
                if not os.path.lexists(kept / name):
                    durable.write_file(kept / name, content)
        tree = self._tree(manifest.commit)
        with self._root.inside(tree.parent, make=True) as trees:
            durable.write_if_other(trees / tree.name, write_tree(manifest))

    def _publish(self, manifest: Manifest, file: WantedFile, part: str | bytes | None) -> Seal:
        named, metadata = self._folder / file.path, self._metadata(file)
        with (
            self._root.inside(metadata.parent, make=True) as kept,
            self._root.inside(named.parent, make=part is not None) as folder,
        ):
            if part is not None:
                self._put(manifest, file, part, folder / named.name, kept / metadata.name)
            elif plain_seal(folder / named.name) is not None:
                durable.sync_file(folder / named.name)  # somebody else's; what the metadata says must be durable first
            seal = plain_seal(folder / named.name)
            if seal is None:
                raise FileNotFoundError(2, "the file changed while it was published", str(named))
            said = read_metadata(kept / metadata.name)
            is_said = said is not None and (said.commit, said.etag) == (manifest.commit, file.etag)
            if said is None or not is_said or not said.covers(seal.mtime_ns):
                write_metadata(kept / metadata.name, manifest.commit, file.etag, seal.mtime_ns)
            return seal

    def _put(self, manifest: Manifest, file: WantedFile, part: str | bytes, named: Path, metadata: Path) -> None:
        with self.writing(manifest.repo) as download:
            name = parts.write_part(download, file.etag, part) if isinstance(part, bytes) else part
            self._forget_other(metadata, manifest.commit, file.etag)
            way.put(download / name, named)

    def _forget_other(self, metadata: Path, commit: str, etag: str) -> None:
        """What was said of other content must not be there when the new file is."""
        said = read_metadata(metadata)
        if said is not None and (said.commit, said.etag) != (commit, etag):
            metadata.unlink()
            durable.sync_folder(metadata.parent)

    def _finish(self, manifest: Manifest) -> Path:
        with self._listing(self._tree(manifest.commit)) as tree:
            if any(other.stat().st_mtime_ns > tree.stat().st_mtime_ns for other in tree.parent.glob("*.json")):
                os.utime(tree, follow_symlinks=False)
        with self.writing(manifest.repo) as download:
            parts.drop_spent(download, {file.etag for file in manifest.files})
            parts.drop_strays(download.glob(parts.PARTS))  # of other commits: this folder holds one
        with self._root.inside(self._folder / KEPT, make=True) as kept:
            durable.drop_unfinished(kept, deep=True)
        return self._folder

    def _remove(self, manifest: Manifest) -> int:
        freed = 0
        for file in manifest.files:
            with suppress(FileNotFoundError, NotADirectoryError):
                freed += self._remove_one(file)
        with suppress(FileNotFoundError, NotADirectoryError), self._root.inside(self._download) as download:
            for part in download.glob(parts.PARTS):
                freed += part.stat().st_size
                part.unlink(missing_ok=True)
        tree = self._tree(manifest.commit)
        with suppress(FileNotFoundError, NotADirectoryError), self._root.inside(tree.parent) as trees:
            (trees / tree.name).unlink()
        return freed

    def _remove_one(self, file: WantedFile) -> int:
        """Remove the file if it is still the Hub's; returns bytes freed."""
        named, metadata = self._folder / file.path, self._metadata(file)
        with self._root.inside(named.parent) as folder, self._root.inside(metadata.parent) as kept:
            seal, said = plain_seal(folder / named.name), read_metadata(kept / metadata.name)
            if seal is None or said is None or said.etag != file.etag or not said.covers(seal.mtime_ns):
                return 0
            (folder / named.name).unlink()
            (kept / metadata.name).unlink(missing_ok=True)
            (kept / f"{named.name}.lock").unlink(missing_ok=True)
        self._remove_empty(named.parent, self._folder)
        self._remove_empty(metadata.parent, self._download)
        return seal.size_bytes

    def _remove_empty(self, folder: Path, top: Path) -> None:
        """Folders that hold nothing any more, up to the top, which stays."""
        with suppress(OSError):
            while top in folder.parents:
                with self._root.inside(folder.parent) as above:
                    (above / folder.name).rmdir()
                folder = folder.parent

    def _metadata(self, file: WantedFile) -> Path:
        return self._download / f"{file.path}.metadata"

    def _tree(self, commit: str) -> Path:
        return self._folder / KEPT / "trees" / f"{commit}.json"
