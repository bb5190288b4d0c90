"""The Hub cache without symbolic links, as huggingface_hub 2.4 fills it under HF_HUB_DISABLE_SYMLINKS.

There the snapshot's files are plain files, and blobs/ holds nothing but what is being written: huggingface_hub moves a
new blob into the snapshot, and copies an older one. Each file is verified and sealed by itself; a blob that is there
from before is a source like any other (shell.elsewhere).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qwen_api.manifest import Manifest, WantedFile
from qwen_api.seals import Seal, take_seal
from qwen_daemon.core.errors import Trouble
from qwen_daemon.core.plan import Found
from qwen_daemon.shell import durable, parts, way
from qwen_daemon.shell.inside import plain_inside, seal_of
from qwen_daemon.shell.store import HubCache
from qwen_daemon.shell.stored import StoredFiles


class PlainCache(HubCache):
    """ports.Store, ports.Blobs and ports.Listings over the cache directory `cache`, whose snapshots hold the files."""

    def where(self, manifest: Manifest, file: WantedFile) -> str:
        """See HubCache.where: here each path is a file of its own."""
        return str(self.standing(manifest, file))

    def standing(self, manifest: Manifest, file: WantedFile) -> Path:
        """See HubCache.standing."""
        return self.snapshot(manifest) / file.path

    def current(self, repo: str, file: WantedFile, found: Found) -> Path:
        """See HubCache.current. Raises FileNotFoundError."""
        path = self._plain(repo, file, found)
        if path is None:
            raise FileNotFoundError(2, "the file changed since it was looked at", file.path)
        return path

    def _find(self, manifest: Manifest) -> dict[str, Found]:
        return {file.path: self._seen(self._find_plain, manifest, file) for file in manifest.files}

    def _find_plain(self, manifest: Manifest, file: WantedFile) -> Found:
        named = self.standing(manifest, file)
        seal = seal_of(named) if plain_inside(self._cache, manifest.repo, named) else None
        return Found(linked=seal is not None, seal=seal)

    def _publish(self, manifest: Manifest, file: WantedFile, part: str | bytes | None) -> Seal:
        named = self.standing(manifest, file)
        with self._root.inside(named.parent, make=part is not None) as folder:
            if part is not None:
                with self.writing(manifest.repo) as blobs:
                    name = parts.write_part(blobs, file.etag, part) if isinstance(part, bytes) else part
                    way.put(blobs / name, folder / named.name)
            return take_seal(folder / named.name)

    def _publish_all(
        self, manifest: Manifest, contents: Sequence[tuple[WantedFile, bytes]]
    ) -> Sequence[Seal | Trouble]:
        return StoredFiles._publish_all(self, manifest, contents)  # the cache's way makes links

    def _remove(self, manifest: Manifest, keep_etags: frozenset[str]) -> int:
        freed = sum(path.lstat().st_size for path in durable.files_below(self.snapshot(manifest)))
        return freed + super()._remove(manifest, keep_etags)
