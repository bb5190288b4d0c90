"""How `qwenctl` ends: one exit code for each kind of ending, and the exception that carries an error to the door.

The codes are part of the interface (scripts and units test them): aria2's and sysexits.h's meanings where those have
one. Which sentence belongs to an error code is `sentences`' business.
"""

from __future__ import annotations

from qwen_api.commands import Problem
from qwen_api.language import _
from qwen_monitor.sentences import of_daemon

OK = 0
OTHER = 1
USAGE = 2
NOT_FOUND = 3
INCOMPLETE = 4
AUTH = 5
NETWORK = 6
UNFINISHED = 7
DISK_FULL = 9
CORRUPT = 10
DAEMON_DOWN = 69  # EX_UNAVAILABLE
TIMED_OUT = 75  # EX_TEMPFAIL
CONFIG = 78  # EX_CONFIG
INTERRUPTED = 130  # 128 + SIGINT

_BY_CODE: dict[str, int] = {
    "E_USAGE": USAGE,
    "E_NOT_FOUND": NOT_FOUND,
    "E_REVISION_NOT_FOUND": NOT_FOUND,
    "E_FILE_NOT_FOUND": NOT_FOUND,
    "E_NOTHING_WANTED": NOT_FOUND,
    "E_DISABLED": NOT_FOUND,
    "E_UNKNOWN_MODEL": NOT_FOUND,
    "E_UNKNOWN_FILE": NOT_FOUND,
    "E_INCOMPLETE": INCOMPLETE,
    "E_MISSING": INCOMPLETE,
    "E_STRUCTURE": INCOMPLETE,
    "E_OFFLINE": INCOMPLETE,
    "E_AUTH": AUTH,
    "E_FORBIDDEN": AUTH,
    "E_GATED": AUTH,
    "E_NETWORK": NETWORK,
    "E_DNS": NETWORK,
    "E_TLS": NETWORK,
    "E_PROXY": NETWORK,
    "E_TIMEOUT": NETWORK,
    "E_STALLED": NETWORK,
    "E_HTTP": NETWORK,
    "E_RATE_LIMITED": NETWORK,
    "E_CAPTIVE_PORTAL": NETWORK,
    "E_CUT_SHORT": NETWORK,
    "E_REDIRECT": NETWORK,
    "E_BAD_RANGE": NETWORK,
    "E_ENCODED": NETWORK,
    "E_URL_EXPIRED": NETWORK,
    "E_PAUSED": UNFINISHED,
    "E_FILES_PAUSED": UNFINISHED,
    "E_STOPPED": UNFINISHED,
    "E_DISK_FULL": DISK_FULL,
    "E_NO_INODES": DISK_FULL,
    "E_QUOTA": DISK_FULL,
    "E_READ_ONLY": DISK_FULL,
    "E_CORRUPT": CORRUPT,
    "E_WAIT_TIMEOUT": TIMED_OUT,
    "E_DAEMON_DOWN": DAEMON_DOWN,
    "E_SOCKET_DENIED": DAEMON_DOWN,
    "E_PROTOCOL": DAEMON_DOWN,
    "E_CONFIG": CONFIG,
}


class Refusal(Exception):
    """The command cannot do what was asked; empty `why` and `fix` come from the sentence table of `code`."""

    def __init__(self, code: str, what: str, why: str = "", fix: str = "") -> None:
        super().__init__(f"{code}: {what}")
        self.code, self.what, self.why, self.fix = code, what, why, fix


class Ended(BaseException):
    """A signal asked to end; raised from its handler wherever the program waits."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def exit_code_of(code: str, default: int = OTHER) -> int:
    """The exit code for an error code; `default` for one this version does not know."""
    return _BY_CODE.get(code, default)


def refusal_of(problem: Problem) -> Refusal:
    """What the daemon said no to, as an error of the command."""
    detail = "" if problem.code == "E_UNKNOWN_MODEL" else problem.detail  # the key alone, of what was just typed
    why, fix = of_daemon(problem.code, detail, problem.fix)
    return Refusal(problem.code, _(problem.title), why, fix)
