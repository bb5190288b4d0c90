"""All that one round fetches, each file with its own tries, and with whatever is said about it meanwhile.

A file that is paused, or whose tries are spent, waits to be called (resumed, tried now) for as long as others are at
work: so "retry now" means now, and one file neither ends the round of the others nor holds up its end. What one try
does stands in engine.files, what commands do to a fetch under way in engine.file_controls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qwen_api import events as e
from qwen_daemon.core.attempts import Again, Attempts, GiveUp, after_trouble
from qwen_daemon.core.backoff import ATTEMPTS_MAX
from qwen_daemon.core.errors import MakeRoom, Trouble
from qwen_daemon.core.plan import Found, Step
from qwen_daemon.engine.cancel import together, wait
from qwen_daemon.engine.file_controls import Fetch
from qwen_daemon.engine.files import Files


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A file that could not be had in this round."""

    path: str
    code: str
    detail: str
    needs_human: bool


class Fetches:
    """Brings the contents of one round. `failures` says what could not be had, `paused` what was not to be fetched."""

    def __init__(self, files: Files, found: Mapping[str, Found]) -> None:
        self.failures: list[Failure] = []
        self.paused: list[str] = []
        self._files = files
        self._found = found
        self._controls = files.controls.files
        self._working = 0
        self._resting: set[asyncio.Event] = set()

    async def bring(self, groups: Sequence[list[Step]]) -> None:
        """Fetch each content (the steps of a group differ in path only).

        Raises MakeRoom when the disk is full: that concerns the whole job.
        """
        self._working = len(groups)
        await together(self._bring(group) for group in groups)

    async def _bring(self, steps: list[Step]) -> None:
        paths = [step.file.path for step in steps]
        given_up: GiveUp | None = None
        with self._controls.fetching(paths) as fetch:
            while True:
                going = next((step for step in steps if not self._controls.is_paused(step.file.path)), None)
                if going is not None:
                    group = [going, *(step for step in steps if step is not going)]
                    started_s = self._files.clock.monotonic_s()
                    ended = await fetch.run(going.file.path, self._try(group, fetch))
                    if ended is None:
                        continue  # it was paused meanwhile
                    if isinstance(ended, bool):
                        if not ended:
                            await self._files.tell_fetched(group, started_s)
                        self._leave()
                        return
                    given_up = ended
                    self._tell_failed(paths, given_up)
                if not await self._rest(fetch):
                    break
        if all(map(self._controls.is_paused, paths)):
            self.paused += paths
        elif given_up is not None:
            self._note(paths, given_up)

    async def _try(self, steps: list[Step], fetch: Fetch) -> GiveUp | bool:
        """Until the tries are spent, or it is here: True if it was adopted and is told."""
        files, file, attempts = self._files, steps[0].file, Attempts()
        attempt = 1
        while True:
            received_before = files.transfers.received_bytes(file.path)
            try:
                return await files.fetch(steps, self._found[file.path], attempt)
            except MakeRoom:
                raise
            except Trouble as error:
                trouble = error
            received = files.transfers.received_bytes(file.path) - received_before
            decision = after_trouble(attempts, trouble, received_bytes=received, dice=files.clock.dice())
            if isinstance(decision, GiveUp):
                return decision
            attempts, attempt = decision.attempts, decision.attempt
            kept_bytes = await files.kept_bytes(file)
            self._tell_retry(file.path, decision, trouble, kept_bytes)
            await wait(fetch.called, decision.delay_s)

    def _leave(self) -> None:
        """One is done, or rests. With the last that works, those who rest wake up."""
        self._working -= 1
        if not self._working:
            for called in self._resting:
                called.set()

    async def _rest(self, fetch: Fetch) -> bool:
        """True when it is called from now on; False, at once or later, when nobody else works any more."""
        fetch.called.clear()
        self._resting.add(fetch.called)
        self._leave()
        try:
            await fetch.called.wait()
        finally:
            self._resting.discard(fetch.called)
        if not self._working:
            return False
        self._working += 1
        return True

    def _tell_retry(self, path: str, again: Again, trouble: Trouble, kept_bytes: int) -> None:
        self._files.publish(
            e.FileRetry(
                model=self._files.model,
                path=path,
                attempt=again.attempt,
                attempts_max=ATTEMPTS_MAX,
                retry_at=self._files.clock.utc(again.delay_s),
                code=trouble.code,
                detail=trouble.detail,
                kept_bytes=kept_bytes,
            )
        )

    def _tell_failed(self, paths: Sequence[str], given_up: GiveUp) -> None:
        for path in paths:
            self._files.publish(
                e.FileFailed(
                    model=self._files.model,
                    path=path,
                    code=given_up.code,
                    detail=given_up.detail,
                    needs_human=given_up.needs_human,
                )
            )

    def _note(self, paths: Sequence[str], given_up: GiveUp) -> None:
        self.failures += [
            Failure(path=path, code=given_up.code, detail=given_up.detail, needs_human=given_up.needs_human)
            for path in paths
        ]
