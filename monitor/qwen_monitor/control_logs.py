"""`qwenctl logs`: the daemon's log, wherever it goes: the journal of its unit, or the file that it was started into.

The running daemon's own process tells (proc(5)): its control group names its unit, its standard error a file. Without
one, a unit that ever wrote into a journal is taken. `place_of` decides; journalctl(1) shows a journal.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import time
from collections import deque
from pathlib import Path
from typing import NoReturn

import msgspec

from qwen_api.client import Client, DaemonUnreachable, find_socket
from qwen_api.durations import parse_duration_s
from qwen_api.language import _
from qwen_api.places import APP
from qwen_monitor import exits
from qwen_monitor.console import Console
from qwen_monitor.display import safe
from qwen_monitor.exits import Refusal

UNIT = f"{APP}.service"
LINES_SHOWN = 100  # a screen or two; -n gives more
LOOK_S = 0.5  # how often a followed file is looked at
JOURNAL_S = 10.0  # a journal of gigabytes is searched from its end
_SERVICE = re.compile(r"/([A-Za-z0-9:_.\\@-]+\.service)$", re.MULTILINE)


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """The journal of a unit, the user's or the system's."""

    unit: str
    is_users: bool


class LogFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that the daemon's standard error goes to."""

    path: Path


def place_of(cgroup: str, stderr: str) -> Journal | LogFile | None:
    """Where a process logs, by /proc/PID/cgroup and what /proc/PID/fd/2 links to ("" if that may not be read).

    1. A file by its path.
    2. A socket, or nobody knows, and a service's control group: the journal (a shell in a service has a terminal).
    3. A terminal, a pipe, /dev/null: nowhere that it could be read from.
    """
    if stderr.startswith("/") and not stderr.startswith(("/dev/", "/proc/")):
        return LogFile(path=Path(stderr.removesuffix(" (deleted)")))
    unit = _SERVICE.search(cgroup.strip())
    if unit is None or unit[1].startswith("user@") or (stderr and not stderr.startswith("socket:")):
        return None
    return Journal(unit=unit[1], is_users="/user@" in cgroup)


def logs(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command; the exit code. Raises Refusal (E_NO_LOG)."""
    place = _of_running(arguments.socket, console) or _of_journals()
    if place is None:
        raise Refusal(
            "E_NO_LOG",
            _("no log of qwen-daemon was found"),
            _("no daemon that can be reached logs into a file or a journal, and no unit {unit} ever did", unit=UNIT),
            _("as a service it logs into the journal; in a terminal: qwen-daemon 2>>daemon.log"),
        )
    if isinstance(place, Journal):
        _become_journalctl(place, arguments, console)
    if arguments.since:
        raise Refusal(
            "E_USAGE",
            _("--since goes with a journal"),
            _("the daemon logs into the file {path}, whose lines have no date", path=place.path),
            "qwenctl logs -n 500",
        )
    return _show_file(place.path, arguments, console)


def _of_running(given: Path | None, console: Console) -> Journal | LogFile | None:
    try:
        pid = Client(find_socket(console.env, given)).version().pid
    except DaemonUnreachable as error:
        if given is not None or error.code == "E_SOCKET_DENIED":
            console.hint(safe(error.why, glyphs=console.err_glyphs))
        return None
    process = Path("/proc") / str(pid)
    try:
        stderr = str((process / "fd/2").readlink())
    except OSError:
        stderr = ""  # another user's
    try:
        cgroup = (process / "cgroup").read_text()
    except OSError:
        return None
    place = place_of(cgroup, stderr)
    if place is None:
        hint = _("the daemon (pid {pid}) writes its log to {place}", pid=pid, place=safe(stderr) or "?")
        console.hint(hint)
    return place


def _of_journals() -> Journal | None:
    return next((j for j in (Journal(unit=UNIT, is_users=u) for u in (True, False)) if _has_lines(j)), None)


def _has_lines(journal: Journal) -> bool:
    command = [*_journalctl(journal), "--quiet", "--lines=1", "--output=cat"]
    try:
        found = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=JOURNAL_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return bool(found.stdout.strip())


def _journalctl(journal: Journal) -> list[str]:
    unit = f"--user-unit={journal.unit}" if journal.is_users else f"--unit={journal.unit}"
    return ["journalctl", "--no-pager", unit]


def _become_journalctl(journal: Journal, arguments: argparse.Namespace, console: Console) -> NoReturn:
    command = _journalctl(journal)
    command += [f"--since={_journal_time(arguments.since)}"] if arguments.since else []
    if arguments.lines is not None or not arguments.since:
        command += [f"--lines={LINES_SHOWN if arguments.lines is None else arguments.lines}"]
    command += ["--follow"] if arguments.follow else []
    command += ["--output=json"] if console.as_json else []
    try:
        os.execvp(command[0], command)  # noqa: S606  # no shell; it is the command from here on, Ctrl-C included
    except OSError as error:
        why = _("journalctl cannot be run: {why}", why=error.strerror)
        raise Refusal("E_NO_LOG", _("the journal cannot be shown"), why, _("install systemd's journalctl")) from error


def _journal_time(text: str) -> str:
    """`2h` is two hours ago; all else journalctl(1) understands by itself (`yesterday`, `2026-11-23 14:00`)."""
    try:
        return f"@{int(time.time() - parse_duration_s(text))}"
    except ValueError:
        return text


def _show_file(path: Path, arguments: argparse.Namespace, console: Console) -> int:
    """The last lines, and with --follow what comes; a file that was put away or cut off is begun anew."""
    count = LINES_SHOWN if arguments.lines is None else arguments.lines
    if not path.is_file():  # a pipe: what is read from it is lost to its reader
        raise Refusal("E_NO_LOG", _("the daemon writes its log to {place}", place=safe(str(path))))
    log = path.open("rb")
    try:
        console.data(_shown(line, console) for line in deque(log, maxlen=count))
        while arguments.follow:
            if line := log.readline():
                console.data([_shown(line, console)])
            elif _is_another(path, log.fileno(), log.tell()):
                log.close()
                log = path.open("rb")
            else:
                time.sleep(LOOK_S)
    finally:
        log.close()
    return exits.OK


def _is_another(path: Path, handle: int, at_byte: int) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(handle)
    return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino) or there.st_size < at_byte


def _shown(line: bytes, console: Console) -> str:
    return safe(line.decode(errors="replace").rstrip("\n"), glyphs=console.glyphs)
