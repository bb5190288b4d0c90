"""What waiting for a model ends in: the proven model, or one of the ways in which there is none.

Apart from `hook` so that `pipeline` can take a ReadyModel without knowing how it was waited for.
"""

from __future__ import annotations

import msgspec

from qwen_api.seals import Seal
from qwen_loader.gate import Source, Waiting


class ReadyModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model whose every file was proven. `path` is the snapshot of exactly `commit`.

    `verified` names the proof (`sha256`; `none` for the hub fallback), `source` who said that it is complete.
    `seals` are what the files looked like when they were proven: one that does not match any more was touched since.
    """

    repo: str
    commit: str
    path: str
    verified: str
    source: Source
    seals: dict[str, Seal] = {}


class NotReady(RuntimeError):
    """Base of the three below; `code` is stable, `why` and `fix` are for people, `missing` are files."""

    def __init__(self, code: str, why: str, fix: str, missing: tuple[str, ...] = ()) -> None:
        super().__init__(f"{why}; {fix}" if fix else why)
        self.code, self.why, self.fix, self.missing = code, why, fix, missing


class ModelUnavailable(NotReady):
    """Waiting will not help: the daemon gave up, or what is there must not be loaded."""


class ReadyTimeout(NotReady, TimeoutError):
    """The time is over; `waiting` is what was last known, None if nothing was."""

    def __init__(self, code: str, why: str, fix: str, *, waiting: Waiting | None) -> None:
        super().__init__(code, why, fix, waiting.missing if waiting else ())
        self.waiting = waiting


class WaitClosed(NotReady):
    """Somebody closed the wait from another thread."""
