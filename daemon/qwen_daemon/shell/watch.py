"""Changes on disk, through watchfiles (inotify): of snapshots, blobs and the configuration.

A tree that cannot be watched (inotify's limits, a network file system) is no failure: the timers look at it anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from watchfiles import Change, awatch

DEBOUNCE_MS = 400  # a burst (hf download, rm -r) becomes one look
QUIET_MS = 500  # how soon a watch that sees nothing says that it has begun
_OURS = (".qwen-",)  # parts and temporary links of our own


class FileWatch:
    """The engine's Watch over watchfiles."""

    async def changes(self, folders: Sequence[Path]) -> AsyncIterator[frozenset[str]]:
        """Batches of changed paths under the folders that exist; ends at once if none of them does.

        The first batch may be empty: it says that changes are seen from now on.
        """
        present = [folder for folder in folders if folder.is_dir()]
        if not present:
            return
        has_begun = False
        try:
            async for batch in awatch(
                *present,
                watch_filter=_is_foreign,
                debounce=DEBOUNCE_MS,
                stop_event=asyncio.Event(),
                rust_timeout=QUIET_MS,
                yield_on_timeout=True,
                ignore_permission_denied=True,
            ):
                if batch or not has_begun:
                    yield frozenset(path for _, path in batch)
                has_begun = True
        except (OSError, RuntimeError):  # RuntimeError: what watchfiles raises for trouble of its own
            return


def _is_foreign(_change: Change, path: str) -> bool:
    return not Path(path).name.startswith(_OURS)
