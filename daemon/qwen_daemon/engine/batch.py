"""Small files that have come are published and sealed many at a time: the disk is waited for once for all of them.

Each caller waits for its own file; whoever comes first takes everybody along. Nothing is told before it is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from qwen_api.manifest import Manifest, WantedFile
from qwen_api.seals import Seal
from qwen_daemon.core.errors import Trouble, TryAgain
from qwen_daemon.engine.cancel import finish, wait
from qwen_daemon.ports import Batches, Seals

BATCH_FILES = 16  # more make it no cheaper: what is left is each file's own
LINGER_S = 0.02  # for others to come along; less than a person sees, more than a file takes on a fast line
WAITING_FILES_MAX = 2 * BATCH_FILES  # over all models: while one batch is written another gathers; bounds the memory


@dataclass(eq=False)
class _Waiting:
    file: WantedFile
    content: bytes
    is_taken: bool = False
    outcome: Seal | Trouble | None = None


class Batch:
    """Of one model's round."""

    def __init__(self, manifest: Manifest, batches: Batches, seals: Seals, where: Callable[[WantedFile], str]) -> None:
        self._manifest, self._batches, self._seals, self._where = manifest, batches, seals, where
        self._waiting: list[_Waiting] = []
        self._full = asyncio.Event()
        self._turn = asyncio.Lock()

    async def publish(self, file: WantedFile, content: bytes) -> None:
        """Return when the file is published, durable and sealed. Raises Troubles.

        A cancelled one is published all the same, without waiting for others: what came is not fetched again.
        """
        mine = _Waiting(file, content)
        self._waiting.append(mine)
        if len(self._waiting) >= BATCH_FILES:
            self._full.set()
        try:
            async with self._turn:
                if not mine.is_taken:
                    await self._gather()
                if not mine.is_taken:
                    await finish(self._publish_waiting())
        except asyncio.CancelledError:
            if not mine.is_taken:
                await finish(self._publish_waiting())
            raise
        if mine.outcome is None:
            raise TryAgain("E_DISK_IO", "the files that were to be written with it could not be")
        if isinstance(mine.outcome, Trouble):
            raise mine.outcome

    async def _gather(self) -> None:
        if len(self._waiting) < BATCH_FILES:
            await wait(self._full, LINGER_S)

    async def _publish_waiting(self) -> None:
        batch, self._waiting = self._waiting, []
        if not batch:  # a cancelled one has taken them all since this was decided
            return
        for each in batch:
            each.is_taken = True
        outcomes: list[Seal | Trouble]
        try:
            outcomes = list(await self._batches.publish_all(self._manifest, [(one.file, one.content) for one in batch]))
            done = zip(batch, outcomes, strict=True)
            await self._seals.seal_all(
                {(self._where(each.file), each.file.etag): seal for each, seal in done if isinstance(seal, Seal)}
            )
        except Trouble as trouble:
            outcomes = [trouble] * len(batch)
        for each, outcome in zip(batch, outcomes, strict=True):
            each.outcome = outcome
