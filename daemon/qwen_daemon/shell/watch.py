"""Changes on disk, through watchfiles (inotify): of snapshots, blobs and the configuration.

A tree that cannot be watched (inotify's limits, a network file system) is no failure: the timers look at it anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path

from watchfiles import Change, awatch

DEBOUNCE_MS = 400  # a burst (hf download, rm -r) becomes one look
STEP_MS = 200  # how often its thread looks; at the usual 50 ms that was half of all that an idle daemon did
QUIET_MS = 60_000  # how often a watch that sees nothing begins anew
_OURS = (".qwen-",)  # parts and temporary links of our own


class FileWatch:
    """The engine's Watch over watchfiles."""

    async def changes(self, folders: Sequence[Path]) -> AsyncIterator[frozenset[str]]:
        """Batches of changed paths under the folders that exist; ends at once if none of them does.

        The first batch is empty: it says that changes are seen from now on.
        """
        present = [folder for folder in folders if folder.is_dir()]
        if not present:
            return
        watching = awatch(
            *present,
            watch_filter=_is_foreign,
            debounce=DEBOUNCE_MS,
            step=STEP_MS,
            stop_event=asyncio.Event(),
            rust_timeout=QUIET_MS,
            ignore_permission_denied=True,
        )
        waiting = asyncio.create_task(_next(watching))
        try:
            await asyncio.sleep(0)  # it runs up to its first wait: by then everything is watched
            yield frozenset()
            while (batch := await waiting) is not None:
                waiting = asyncio.create_task(_next(watching))
                yield frozenset(path for _, path in batch)
        finally:
            waiting.cancel()
            await asyncio.wait([waiting])
            await watching.aclose()


async def _next(watching: AsyncGenerator[set[tuple[Change, str]]]) -> set[tuple[Change, str]] | None:
    """The next batch; None when there will be none."""
    try:
        return await anext(watching, None)
    except (OSError, RuntimeError):  # RuntimeError: what watchfiles raises for trouble of its own
        return None


def _is_foreign(_change: Change, path: str) -> bool:
    return not Path(path).name.startswith(_OURS)
