"""How much of what a download lacks lies in another model's folder of the same cache, where the daemon will look first.

By name and size only, as in a plan: the daemon believes a file when its seal or its hash is right.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from qwen_api import places
from qwen_api.manifest import Manifest


def bytes_elsewhere(cache: Path, manifest: Manifest, paths: Iterable[str], *, may_be_own: bool = False) -> int:
    """Bytes of these files, each content once, that need not come over the network if they are what they seem.

    `may_be_own`: it is for a folder outside the cache, so the repository's own blobs are elsewhere too.
    """
    own = places.repo_dir(cache, manifest.repo)
    others = [folder / "blobs" for folder in cache.glob("models--*") if may_be_own or folder != own]
    wanted = manifest.by_path()
    sizes = {wanted[path].etag: wanted[path].size_bytes for path in paths if path in wanted}
    return sum(size for etag, size in sizes.items() if any(_size_of(blobs / etag) == size for blobs in others))


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None
