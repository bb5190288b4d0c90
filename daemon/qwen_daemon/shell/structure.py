"""A look inside a complete snapshot: can a loader use it, and does it hold code or pickles?

Hashes prove that the files are the Hub's; a repository whose weights are LFS pointers, or whose index names a shard
that does not exist, is broken on the Hub itself. qwen_api.report does the judging.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from qwen_api import places
from qwen_api.causes import CAUSES
from qwen_api.inventory import look
from qwen_api.manifest import Manifest
from qwen_api.models import ModelRef
from qwen_api.report import make_report
from qwen_api.snapshots import listing_beside
from qwen_daemon.ports import Structure


class SnapshotStructure:
    """The engine's `structure` over a cache."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    async def __call__(self, ref: ModelRef, manifest: Manifest) -> Structure:
        """Look at the commit's snapshot. Files that the patterns leave out are nobody's problem."""
        return await asyncio.to_thread(self._look, ref, manifest)

    def _look(self, ref: ModelRef, manifest: Manifest) -> Structure:
        folder = places.snapshot_dir(self._cache, manifest.repo, manifest.commit)
        # Every file was just verified: one that only looks odd (a .json that is none) is as its author wanted it.
        hashes = {file.path: file.etag for file in manifest.files}
        whole = listing_beside(folder)  # what the patterns leave out is in the repository all the same
        report = make_report(
            ref=ref,
            inventory=look(folder),
            manifest=manifest,
            hashes=hashes,
            listed=whole.by_path() if whole else (),
            folder=str(folder),
        )
        problem = "; ".join(f"{p.path or p.component}: {CAUSES[p.cause]}" for p in report.findings[:3])
        return Structure(problem=problem, has_code=report.has_code, has_pickle=report.has_pickle)
