"""Where a content should stand as a plain file: in local_dirs, and in snapshots that were filled without links.

Nothing there is named by its hash, but huggingface_hub and the daemon keep the listing of the commit beside such files.
Only a hint: whether the file stands there, is a file, and is right is for others to see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from qwen_api import places
from qwen_api.manifest import BadManifest, read_tree
from qwen_api.models import is_commit
from qwen_api.snapshots import TREE_BYTES_MAX
from qwen_daemon.shell.local_dir import KEPT

ByEtag = Mapping[str, tuple[str, ...]]
Read = tuple[int, int, ByEtag]  # the listing's mtime_ns and size, and the paths by etag


class Listed:
    """The listings of a cache and of folders; each is read again only if it changed."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._read: dict[Path, Read] = {}

    def plain_files(self, folders: Mapping[Path, str]) -> Iterator[tuple[str, Path, ByEtag]]:
        """Of every listing: repository, folder, the paths in it by etag. `folders`: the local_dirs, with repository."""
        for tree in sorted(self._cache.glob("models--*/trees/*.json")):
            repo = tree.parent.parent.name.removeprefix("models--").replace("--", "/")
            yield repo, places.snapshot_dir(self._cache, repo, tree.stem), self._by_etag(tree)
        for folder, repo in folders.items():
            for tree in sorted((folder / KEPT / "trees").glob("*.json")):
                yield repo, folder, self._by_etag(tree)

    def _by_etag(self, tree: Path) -> ByEtag:
        try:
            found = tree.stat()
            known = self._read.get(tree)
            if known is None or known[:2] != (found.st_mtime_ns, found.st_size):
                known = self._read[tree] = (found.st_mtime_ns, found.st_size, _paths_in(tree, found.st_size))
        except OSError:
            return {}
        return known[2]


def _paths_in(tree: Path, size_bytes: int) -> ByEtag:
    if size_bytes > TREE_BYTES_MAX or not is_commit(tree.stem):
        return {}
    try:
        files = read_tree("", tree.stem, tree.read_bytes()).files
    except BadManifest:
        return {}
    paths: dict[str, tuple[str, ...]] = {}
    for file in files:
        paths[file.etag] = (*paths.get(file.etag, ()), file.path)
    return paths
