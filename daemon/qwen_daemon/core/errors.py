"""What went wrong, named by what the caller must do about it.

Every module of the shell translates foreign exceptions into one of these at its door; `code` is stable and reaches
people through the clients' sentence tables, `detail` is for logs and must hold no token and no signed URL.
"""

from __future__ import annotations


class Trouble(Exception):
    """Base of all: something did not go as wanted."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code, self.detail = code, detail


class TryAgain(Trouble):
    """Transient: try again after a growing pause; counts against the file's tries unless bytes moved."""


class StartOver(TryAgain):
    """What came was wrong and is thrown away: counts against the file's tries however many bytes moved."""


class TryLater(Trouble):
    """The server said when: wait `after_s` seconds; does not count against the tries."""

    def __init__(self, code: str, detail: str = "", *, after_s: float) -> None:
        super().__init__(code, detail)
        self.after_s = after_s


class StillShut(TryLater):
    """Nothing was asked, because an earlier answer said when: another endpoint may be asked meanwhile."""


class ResolveAgain(Trouble):
    """The signed address is spent, and a fresh one was refused too: ask again a little later, at the same byte."""


class AskHuman(Trouble):
    """Nothing but a person can help (gated, not found, a bad certificate): do not spin."""


class MakeRoom(Trouble):
    """The disk cannot take it: keep everything, go on by itself when there is room.

    `is_foreseen`: nothing was fetched in vain, it is known from the numbers.
    """

    def __init__(
        self, code: str, detail: str = "", *, needed_bytes: int = 0, free_bytes: int = 0, is_foreseen: bool = False
    ) -> None:
        super().__init__(code, detail)
        self.needed_bytes, self.free_bytes, self.is_foreseen = needed_bytes, free_bytes, is_foreseen


class UnknownModel(LookupError):
    """No such model is wanted."""


class Configured(ValueError):
    """The configuration wants this model; a command cannot undo that."""


class FilesUnknown(LookupError):
    """The model's files are not known yet, so none of them can be meant."""
