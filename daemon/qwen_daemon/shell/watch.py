"""Changes on disk, through watchfiles (inotify): of snapshots, blobs and the configuration.

A tree that cannot be watched (inotify's limits, a network file system) is no failure: the timers look at it anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from watchfiles import Change, awatch

DEBOUNCE_MS = 400  # a burst (hf download, rm -r) becomes one look
_OURS = (".qwen-",)  # parts and temporary links of our own


class FileWatch:
    """The engine's Watch over watchfiles."""

    async def changes(self, folders: Sequence[Path]) -> AsyncIterator[frozenset[str]]:
        """Batches of changed paths under the folders that exist; ends at once if none of them does."""
        present = [folder for folder in folders if folder.is_dir()]
        if not present:
            return
        try:
            async for batch in awatch(
                *present,
                watch_filter=_is_foreign,
                debounce=DEBOUNCE_MS,
                stop_event=asyncio.Event(),
                ignore_permission_denied=True,
            ):
                yield frozenset(path for _, path in batch)
        except OSError:
            return


def _is_foreign(_change: Change, path: str) -> bool:
    return not Path(path).name.startswith(_OURS)
