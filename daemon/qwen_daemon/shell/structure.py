"""A look inside a complete snapshot: can a loader use it, and does it hold code or pickles?

Hashes prove that the files are the Hub's; a repository whose weights are LFS pointers, or whose index names a shard
that does not exist, is broken on the Hub itself. qwen_api.report does the judging.
"""

from __future__ import annotations

from contextlib import suppress

from qwen_api.causes import CAUSES
from qwen_api.inventory import look
from qwen_api.manifest import BadManifest, Manifest, read_tree
from qwen_api.models import ModelRef
from qwen_api.report import make_report
from qwen_daemon.ports import Listings, Structure
from qwen_daemon.shell.durable import in_thread


class SnapshotStructure:
    """The engine's `structure` over a layout."""

    def __init__(self, listings: Listings) -> None:
        self._listings = listings

    async def __call__(self, ref: ModelRef, manifest: Manifest) -> Structure:
        """Look at the commit's snapshot. Files that the patterns leave out are nobody's problem. Raises Troubles."""
        raw = await self._listings.listed(manifest.repo, manifest.commit)
        return await in_thread(self._look, ref, manifest, raw or b"")

    def _look(self, ref: ModelRef, manifest: Manifest, raw: bytes) -> Structure:
        whole = manifest
        with suppress(BadManifest):
            whole = read_tree(manifest.repo, manifest.commit, raw)
        folder = self._listings.snapshot(manifest)
        # Every file was just verified: one that only looks odd (a .json that is none) is as its author wanted it.
        hashes = {file.path: file.etag for file in manifest.files}
        report = make_report(
            ref=ref,
            inventory=look(folder),
            manifest=manifest,
            hashes=hashes,
            listed=whole.by_path(),  # what the patterns leave out is in the repository all the same
            folder=str(folder),
        )
        # Behind a seal that holds, and still not to be read: the disk forgot it.
        unreadable = tuple(p.path for p in report.findings if p.cause == "unreadable" and p.path in hashes)
        problem = "; ".join(f"{p.path or p.component}: {CAUSES[p.cause]}" for p in report.findings[:3])
        return Structure(problem=problem, has_code=report.has_code, has_pickle=report.has_pickle, unreadable=unreadable)
