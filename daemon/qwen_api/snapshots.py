"""Finds a model in a Hub cache without asking the Hub: which commit, which folder, and the listing kept beside it.

The layout is huggingface_hub 2.4's: `models--org--name/{refs,snapshots,trees,blobs}`; for a plain folder filled with
`--local-dir`, `.cache/huggingface/trees`. Reads only. What the folder holds is left to `inventory`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from qwen_api import places
from qwen_api.manifest import BadManifest, Manifest, read_tree
from qwen_api.models import DEFAULT_REVISION, ModelRef, is_commit

TREE_BYTES_MAX = 64 << 20  # a listing of 100,000 files is about 30 MB


FoundBy = Literal["commit", "ref", "only", "newest"]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A model as the cache knows it. `folder` need not exist: with a listing, everything then reads as missing.

    `found_by`: `commit` (the revision is one), `ref` (refs/ names it), `only` (refs/ does not know the default branch
    yet, and the cache has heard of one commit alone), `newest` (refs/ does not know it, so the snapshot changed last
    was taken, which may be another branch's). `listing_error` says why a
    listing that is there could not be read.
    """

    commit: str
    folder: Path
    found_by: FoundBy
    manifest: Manifest | None = None
    listing_error: str = ""


class SnapshotParts(NamedTuple):
    """What the path of a snapshot folder says by itself."""

    cache: Path
    repo_dir: Path
    repo: str
    commit: str


def find_snapshot(cache: Path, ref: ModelRef) -> Snapshot | None:
    """The commit that `ref` stands for in this cache; None if the cache knows none. Raises no OSError."""
    if ref.is_pinned:
        found = _open(cache, ref.repo, ref.revision, "commit")
        return found if found.folder.is_dir() or found.manifest or found.listing_error else None
    commit = _read_ref(places.ref_file(cache, ref.repo, ref.revision))
    if commit:
        return _open(cache, ref.repo, commit, "ref")
    if ref.revision != DEFAULT_REVISION:
        return None
    snapshots = _commits(places.repo_dir(cache, ref.repo) / "snapshots")
    # A first download that was stopped has a listing, and perhaps a snapshot of it, but no refs/ yet.
    heard_of = {*snapshots, *_commits(places.repo_dir(cache, ref.repo) / "trees")}
    if len(heard_of) == 1:
        return _open(cache, ref.repo, heard_of.pop(), "only")
    return _open(cache, ref.repo, snapshots[0], "newest") if snapshots else None


def snapshot_parts(folder: Path) -> SnapshotParts | None:
    """Read `<cache>/models--org--name/snapshots/<commit>`; None if the path is not of that form."""
    folder = folder.absolute()
    repo_dir = folder.parent.parent
    kind, _, name = repo_dir.name.partition("--")
    if folder.parent.name != "snapshots" or kind != "models" or not name:
        return None
    return SnapshotParts(repo_dir.parent, repo_dir, name.replace("--", "/"), folder.name)


def listing_beside(folder: Path, repo: str = "") -> Manifest | None:
    """The listing that belongs to a folder given by its path: a snapshot's own, or the newest of a `--local-dir`.

    `repo` names the repository where the path does not. None if there is none or it cannot be read.
    """
    parts = snapshot_parts(folder)
    if parts is not None:
        return _read_listing(places.tree_file(parts.cache, parts.repo, parts.commit), parts.repo, parts.commit)[0]
    trees = _newest_first(folder / ".cache" / "huggingface" / "trees")
    for tree in trees:
        if tree.suffix == ".json" and is_commit(tree.stem):
            return _read_listing(tree, repo, tree.stem)[0]
    return None


def _open(cache: Path, repo: str, commit: str, found_by: FoundBy) -> Snapshot:
    manifest, error = _read_listing(places.tree_file(cache, repo, commit), repo, commit)
    return Snapshot(
        commit=commit,
        folder=places.snapshot_dir(cache, repo, commit),
        found_by=found_by,
        manifest=manifest,
        listing_error=error,
    )


def _read_ref(path: Path) -> str:
    """The commit in a refs/ file; "" if there is none. A newline, which huggingface_hub does not forgive, is."""
    try:
        with path.open("rb") as file:
            text = file.read(64).strip().decode("ascii", "replace")
    except OSError:
        return ""
    return text if is_commit(text) else ""


def _read_listing(path: Path, repo: str, commit: str) -> tuple[Manifest | None, str]:
    try:
        if path.stat().st_size > TREE_BYTES_MAX:
            return None, f"{path.name} is larger than {TREE_BYTES_MAX} bytes"
        return read_tree(repo, commit, path.read_bytes()), ""
    except FileNotFoundError:
        return None, ""
    except (OSError, BadManifest) as error:
        return None, str(error)


def _commits(folder: Path) -> list[str]:
    """The commits that a folder's entries are named by, the one changed last first."""
    names = (p.name.removesuffix(".json") for p in _newest_first(folder))
    return [name for name in names if is_commit(name)]


def _newest_first(folder: Path) -> list[Path]:
    try:
        dated = [(p.stat().st_mtime_ns, p) for p in folder.iterdir()]
    except OSError:
        return []
    return [p for _, p in sorted(dated, reverse=True)]
