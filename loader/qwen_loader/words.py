"""What the loader says to people, and the exit code that goes with each error code. Pure tables and formatting.

The daemon speaks in codes; the loader needs only the few sentences that tell why a GPU process does not start. The
rest of the codes stand in `qwen_api.errors`. In another language than English an error is told by its code, and what
goes to the daemon is only the code (`for_daemon`): its stream and its log are English.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from qwen_api.errors import ERRORS
from qwen_api.events import ModelState
from qwen_api.language import N_, _, decimal, ngettext, spoken

STATES: dict[ModelState, str] = {
    "queued": N_("the daemon has not looked at it yet"),
    "checking": N_("the daemon compares the disk with the listing"),
    "downloading": N_("the daemon downloads it"),
    "complete": N_("the daemon is about to say where it is"),
    "incomplete": N_("files are missing that the daemon may not fetch"),
    "paused": N_("somebody paused it"),
    "waiting": N_("something failed; the daemon will try again"),
    "failed": N_("the daemon gave up"),
}

# MODEL stands for the model that was asked for.
FIXES: dict[str, str] = {
    "E_AUTH": "give the daemon a valid token",
    "E_GATED": "accept the terms on the model's page, give the daemon that account's token, then: qwenctl retry MODEL",
    "E_FORBIDDEN": "give the daemon a token that may read this repository",
    "E_NOT_FOUND": "check the spelling; for a private repository give the daemon a token",
    "E_REVISION_NOT_FOUND": "check the part behind '@', or leave it out for main",
    "E_DISK_FULL": "free some room on the daemon's disk; the download goes on by itself",
    "E_OFFLINE": "unset HF_HUB_OFFLINE in the daemon's environment, or bring the files by other means",
}

EXIT_OK, EXIT_OTHER, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_INCOMPLETE, EXIT_AUTH, EXIT_NETWORK = range(7)
EXIT_DISK_FULL, EXIT_CHECKSUM = 9, 10
EXIT_NO_DAEMON, EXIT_TIMEOUT, EXIT_CANNOT_RUN, EXIT_NO_COMMAND = 69, 75, 126, 127
EXIT_SIGNAL = 128  # and the signal's number, as a shell tells it

_EXITS: dict[str, int] = {
    "E_USAGE": EXIT_USAGE,
    "E_NOT_FOUND": EXIT_NOT_FOUND,
    "E_REVISION_NOT_FOUND": EXIT_NOT_FOUND,
    "E_FILE_NOT_FOUND": EXIT_NOT_FOUND,
    "E_UNKNOWN_MODEL": EXIT_NOT_FOUND,
    "E_MODEL_REMOVED": EXIT_NOT_FOUND,
    "E_DISABLED": EXIT_NOT_FOUND,
    "E_INCOMPLETE": EXIT_INCOMPLETE,
    "E_MISSING": EXIT_INCOMPLETE,
    "E_STRUCTURE": EXIT_INCOMPLETE,
    "E_OFFLINE": EXIT_INCOMPLETE,
    "E_AUTH": EXIT_AUTH,
    "E_GATED": EXIT_AUTH,
    "E_FORBIDDEN": EXIT_AUTH,
    **dict.fromkeys(
        (
            "E_NETWORK",
            "E_DNS",
            "E_TLS",
            "E_PROXY",
            "E_TIMEOUT",
            "E_STALLED",
            "E_HTTP",
            "E_RATE_LIMITED",
            "E_CAPTIVE_PORTAL",
            "E_CUT_SHORT",
            "E_REDIRECT",
            "E_BAD_RANGE",
            "E_ENCODED",
            "E_URL_EXPIRED",
        ),
        EXIT_NETWORK,
    ),
    "E_DISK_FULL": EXIT_DISK_FULL,
    "E_NO_INODES": EXIT_DISK_FULL,
    "E_QUOTA": EXIT_DISK_FULL,
    "E_CORRUPT": EXIT_CHECKSUM,
    "E_DAEMON_DOWN": EXIT_NO_DAEMON,
    "E_SOCKET_DENIED": EXIT_NO_DAEMON,
    "E_PROTOCOL": EXIT_NO_DAEMON,
    "E_WAIT_TIMEOUT": EXIT_TIMEOUT,
    "E_CANNOT_RUN": EXIT_CANNOT_RUN,
    "E_NO_COMMAND": EXIT_NO_COMMAND,
}

_UNITS = (N_("B"), N_("kB"), N_("MB"), N_("GB"), N_("TB"))
_NAMES_SHOWN = 5  # of a list of files in one message; all of them are in --json


def exit_code(code: str) -> int:
    """The exit code of an error code; 1 for one that has none of its own."""
    return _EXITS.get(code, EXIT_OTHER)


def size_text(size_bytes: int) -> str:
    """Decimal units, as the Hub's own pages show them: `30.1 GB`."""
    value, power = float(size_bytes), 0
    while value >= 1000 and power < len(_UNITS) - 1:
        value, power = value / 1000, power + 1
    number = decimal(f"{value:.1f}") if power else f"{value:.0f}"
    return f"{number} {_(_UNITS[power])}"


def progress_text(*, done_bytes: int, size_bytes: int, rate_bps: int = 0) -> str:
    """`52 % 30.1/57.7 GB 84.9 MB/s`; never 100 % before the end; empty while the size is unknown."""
    if size_bytes <= 0:
        return ""
    percent = 100 if done_bytes >= size_bytes else min(99, 100 * done_bytes // size_bytes)
    whole, unit = size_text(size_bytes).split(" ")
    scale = 1000 ** [_(name) for name in _UNITS].index(unit)
    done = decimal(f"{done_bytes / scale:.1f}") if scale > 1 else str(done_bytes)
    text = f"{percent} % {done}/{whole} {unit}"
    return f"{text} {_('{size}/s', size=size_text(rate_bps))}" if rate_bps else text


def missing_text(count: int) -> str:
    """`1 file missing`, `3 files missing`."""
    return ngettext("{count} file missing", "{count} files missing", count)


def damaged_text(count: int) -> str:
    """`3 files damaged or missing on the disk`."""
    return ngettext(
        "{count} file damaged or missing on the disk", "{count} files damaged or missing on the disk", count
    )


def names_text(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return _("{names} and {more} more", names=shown, more=more) if more > 0 else shown


def for_daemon(code: str, why: str) -> str:
    """What the daemon, its log and every monitor are told: in English, so the code alone if `why` is not."""
    return f"{code}: {why}" if spoken() == "en" else code


def of_code(code: str, why: str, fix: str) -> tuple[str, str]:
    """(why, fix) in the language spoken: by the code where that is not English, with `why` behind it for its facts."""
    if spoken() == "en" or code not in ERRORS:
        return why, fix
    told, cure = ERRORS[code]
    is_said = not why or _(told) in why
    return why or _(told) if is_said else f"{_(told)} ({why})", _(cure)


def error_text(code: str, what: str, why: str, fix: str) -> str:
    """What, why and fix on three lines, safe to print."""
    lines = [f"{_('error')}[{code}]: {what}"]
    lines += [f"  {_('why:')} {why}"] if why else []
    lines += [f"  {_('fix:')} {fix}"] if fix else []
    return "\n".join(printable(line) for line in lines)


def printable(text: str) -> str:
    """Control, direction and other invisible characters as escapes: names and details come from the network."""
    return "".join(c if c == " " or unicodedata.category(c)[0] not in "CZ" else ascii(c)[1:-1] for c in text)
