"""Codes to sentences: why something went wrong and what a person can do about it, in English.

The daemon speaks in stable codes; only its clients speak to people. Pure tables: an unknown code of a newer daemon
gets an honest general sentence. `{...}` is never expanded here; facts (paths, sizes) come from the caller.
"""

from __future__ import annotations

from qwen_api.events import FileState, LoaderState, ModelState
from qwen_monitor.display import UNICODE, Glyphs, safe

REASONS: dict[str, tuple[str, str]] = {
    "E_AUTH": (
        "the Hub refused the token",
        "check it with `hf auth whoami`; give the daemon a valid one in HF_TOKEN, or `systemctl edit qwen-daemon`",
    ),
    "E_GATED": (
        "the repository is gated and the token's account has not been let in",
        "open its page on the Hub, accept the terms, then: qwenctl retry MODEL",
    ),
    "E_FORBIDDEN": (
        "the server refused this request",
        "check the token's rights on the Hub; a firewall or proxy may also answer so",
    ),
    "E_DISABLED": ("the Hub has disabled this repository", "its page on the Hub says why; choose another model"),
    "E_FILE_NOT_FOUND": (
        "a listed file is not on the server",
        "nothing to do if it passes: the daemon asks for the list again",
    ),
    "E_NOT_FOUND": (
        "the Hub knows no such repository or file (a private one without a token looks the same)",
        "check the spelling; for a private repository give the daemon a token",
    ),
    "E_REVISION_NOT_FOUND": (
        "the repository has no such branch, tag or commit",
        "check the part behind '@', or leave it out for main",
    ),
    "E_DISK_FULL": (
        "there is not enough room on the disk",
        "free some room or set HF_HOME to another disk; the download goes on by itself",
    ),
    "E_READ_ONLY": (
        "the file system of the cache is mounted read-only",
        "look at `dmesg` for why; remount it, or set HF_HOME to another disk",
    ),
    "E_FILE_TOO_BIG": (
        "the file system cannot hold a file of this size",
        "set HF_HOME to a disk with another file system (not FAT32)",
    ),
    "E_DISK_IO": (
        "the disk reported an error while reading or writing",
        "look at `dmesg` and the disk's health before trying again",
    ),
    "E_PERMISSION": (
        "the daemon may not read or write a file in the cache",
        "check the owner and the group of the cache folder",
    ),
    "E_NETWORK": (
        "the connection failed",
        "nothing to do if the network comes back: what has arrived is kept and the daemon tries again",
    ),
    "E_DNS": ("the server's name could not be resolved", "check the DNS settings and HF_ENDPOINT"),
    "E_TLS": (
        "no trusted encrypted connection could be made",
        "check the clock and the proxy; set SSL_CERT_FILE for a company's own certificate",
    ),
    "E_CAPTIVE_PORTAL": (
        "a web page came instead of the file: a login page of this network, most likely",
        "log in to the network with a browser; the daemon tries again by itself",
    ),
    "E_REDIRECT": (
        "the server sent us to an address that is not safe to follow",
        "check HF_ENDPOINT and the proxy",
    ),
    "E_URL_EXPIRED": ("the signed address has expired", "nothing to do: the daemon asks for a new one"),
    "E_BAD_RANGE": (
        "the server did not send the part of the file that was asked for",
        "nothing to do if it passes; a proxy that changes answers is the usual cause",
    ),
    "E_ENCODED": (
        "the server or a proxy sent the file compressed, so its bytes cannot be placed",
        "keep proxies from changing answers; the daemon tries again",
    ),
    "E_PROXY": (
        "the proxy could not be reached, or refused the connection",
        "check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY in the daemon's environment",
    ),
    "E_TIMEOUT": ("the server did not answer in time", "nothing to do: the daemon tries again"),
    "E_STALLED": (
        "the connection was open but no byte came",
        "nothing to do: the daemon cuts it and goes on where it stopped; now: qwenctl retry MODEL",
    ),
    "E_HTTP": ("the server answered with an error", "nothing to do if it passes: the daemon tries again"),
    "E_RATE_LIMITED": (
        "the Hub asked to wait: too many requests from this account or address",
        "nothing to do: the daemon waits as long as it was told; a token raises the limit",
    ),
    "E_CORRUPT": (
        "the content does not have the hash that the Hub names",
        "nothing to do: only the damaged parts are fetched again; if it repeats, test the disk and the memory",
    ),
    "E_PART_GONE": (
        "the unfinished file was removed while it was being written",
        "nothing to do: it is fetched again; leave the cache's .qwen-*.part files alone",
    ),
    "E_CUT_SHORT": (
        "the connection ended in the middle of the file",
        "nothing to do: what has arrived is kept and the daemon fetches the rest",
    ),
    "E_UNREADABLE": ("the file is there but cannot be read", "check its owner, its mode and the disk"),
    "E_MISSING": ("files are not there", "fetch them with: qwenctl add MODEL"),
    "E_STRUCTURE": (
        "every file is as the Hub has it, but no loader can use them",
        "see what is wrong with: qwenctl check MODEL; it is the repository's own fault",
    ),
    "E_LOCKED": (
        "another program is downloading this file",
        "nothing to do: the daemon takes over or adopts the file when the other has ended",
    ),
    "E_NOTHING_WANTED": (
        "no file is wanted: the repository has none, or the patterns leave none",
        "add the model again with other include and exclude patterns",
    ),
    "E_LISTING": (
        "the Hub's list of files cannot be trusted or read",
        "do not load this repository; report it to its owner",
    ),
    "E_CONTENT_CHANGED": (
        "the file on the server is not the one that was listed",
        "nothing to do: the daemon asks for the list again",
    ),
    "E_OFFLINE": (
        "the daemon is told not to use the network",
        "unset HF_HUB_OFFLINE in the daemon's environment, or bring the files by other means",
    ),
    "E_FILES_PAUSED": ("files of it are paused", "go on with: qwenctl resume MODEL --file '*'"),
    "E_UNKNOWN_FILE": ("the model has no such file", "see them with: qwenctl check MODEL --all"),
    "E_FILES_UNKNOWN": ("the model's files are not known yet", "see what it waits for: qwenctl status MODEL"),
    "E_PAUSED": ("the model is paused", "go on with: qwenctl resume MODEL"),
    "E_INCOMPLETE": ("files are missing or not verified yet", "see which: qwenctl status MODEL"),
    "E_DAEMON_DOWN": (
        "no daemon answers",
        "start it with: systemctl start qwen-daemon, systemctl --user start qwen-daemon, or: qwen-daemon",
    ),
    "E_SOCKET_DENIED": (
        "you may not open the daemon's socket",
        "join its group: sudo usermod -aG qwen-admin $USER, then log in again",
    ),
    "E_READ_ONLY_SOCKET": (
        "this socket only answers questions",
        "use the control socket: join its group with sudo usermod -aG qwen-admin $USER, then log in again",
    ),
    "E_UNKNOWN_MODEL": ("the daemon was not asked for this model", "ask for it with: qwenctl add MODEL"),
    "E_USAGE": ("the command cannot be understood", "see --help"),
    "E_CONFIG": (
        "the configuration has an error",
        "mend the line it names; a running daemon keeps the configuration it had",
    ),
    "E_CONFIGURED": (
        "the configuration wants this model",
        "take it out of [[models]] in the configuration file",
    ),
    "E_ALREADY_RUNNING": ("another daemon works on this cache", "stop that one first, or use it: qwenctl ls"),
    "E_BUSY": ("the daemon has as many clients as it can serve", "close some, then try again"),
    "E_DISK_CHANGED": (
        "the file was changed while it was hashed",
        "find out which other program writes into the cache",
    ),
    "E_DISK_CHANGING": (
        "files keep changing while they are verified",
        "find out which other program writes into the cache",
    ),
    "E_STOPPED": ("the daemon was stopped before the work was done", "start it again: it goes on where it stopped"),
    "E_START": ("the daemon cannot start", "look at `journalctl -u qwen-daemon`"),
    "E_INTERNAL": (
        "the daemon met an error of its own",
        "look at `journalctl -u qwen-daemon` and report it with the lines around it",
    ),
}

MODEL_STATES: dict[ModelState, str] = {
    "queued": "waits for its turn",
    "checking": "is being checked",
    "downloading": "is being downloaded",
    "complete": "is complete and verified",
    "incomplete": "is incomplete",
    "paused": "is paused",
    "waiting": "waits for the next try",
    "failed": "needs a person",
}

FILE_STATES: dict[FileState, str] = {
    "missing": "missing",
    "queued": "queued",
    "downloading": "downloading",
    "stalled": "stalled",
    "retrying": "retry",
    "verifying": "verifying",
    "verified": "verified",
    "failed": "failed",
}

LOADER_STATES: dict[LoaderState, str] = {
    "waiting": "waits for the model",
    "loading": "is loading",
    "ready": "is ready",
    "failed": "has failed",
    "gone": "is gone",
}


def reason(code: str) -> tuple[str, str]:
    """(why, fix) of an error code; a general pair for one this version does not know."""
    known = REASONS.get(code)
    if known:
        return known
    return f"the daemon gave the code {safe(code)}", "look at `journalctl -u qwen-daemon`, or try a newer qwen-monitor"


def short_reason(code: str, detail: str = "", glyphs: Glyphs = UNICODE) -> str:
    """One clause for an event line: why, and the code that can be searched for."""
    if not code:
        return safe(detail, glyphs=glyphs)
    why = reason(code)[0] if code in REASONS else safe(detail, glyphs=glyphs) or "unknown reason"
    return f"{why} ({safe(code, glyphs=glyphs)})"


def error_text(code: str, what: str, why: str = "", fix: str = "", glyphs: Glyphs = UNICODE) -> str:
    """The three lines of every error: what happened, why, and what to do; empty `why` or `fix` come from the table.

    No newline at the end. All parts are made safe for a terminal.
    """
    table_why, table_fix = reason(code)
    return "\n".join(
        (
            f"error[{safe(code, glyphs=glyphs)}]: {safe(what, glyphs=glyphs)}",
            f"  why: {safe(why or table_why, glyphs=glyphs)}",
            f"  fix: {safe(fix or table_fix, glyphs=glyphs)}",
        )
    )
