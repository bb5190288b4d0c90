"""`qwenctl logs`: where the daemon's log is found, and what is shown of it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen_monitor.control_logs import Journal, LogFile, place_of
from tests import canary
from tests.fakes.hub import SimHub, ThreadedSimHub
from tests.running import Running

COMMAND = (sys.executable, "-W", "error", "-m", "qwen_monitor.control", "logs")
RUN_S = 60  # only a hung process reaches it
SYSTEM = "0::/system.slice/qwen-daemon.service\n"
USERS = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/qwen-daemon.service\n"
SHELL = "0::/user.slice/user-1000.slice/session-3.scope\n"

Env = dict[str, str]


@pytest.mark.parametrize(
    ("cgroup", "stderr", "place"),
    [
        (SYSTEM, "socket:[4711]", Journal(unit="qwen-daemon.service", is_users=False)),
        (SYSTEM, "", Journal(unit="qwen-daemon.service", is_users=False)),
        (USERS, "socket:[4711]", Journal(unit="qwen-daemon.service", is_users=True)),
        (SHELL, "/home/me/daemon.log", LogFile(path=Path("/home/me/daemon.log"))),
        (SYSTEM, "/var/log/daemon.log", LogFile(path=Path("/var/log/daemon.log"))),
        (SHELL, "/dev/pts/3", None),
        (SYSTEM, "/dev/pts/3", None),
        (SHELL, "pipe:[4711]", None),
        (SHELL, "", None),
        ("0::/user.slice/user-1000.slice/user@1000.service\n", "socket:[1]", None),
        ("", "", None),
    ],
)
def test_the_process_tells_where_it_logs(cgroup: str, stderr: str, place: Journal | LogFile | None) -> None:
    """A file by its name, a service by its unit, and a terminal or a pipe cannot be read."""
    assert place_of(cgroup, stderr) == place


@pytest.fixture
def env(tmp_path: Path) -> Env:
    """No daemon, and a journalctl that keeps a journal for `user` in journal-user, and tells how it was called."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "journalctl").write_text(
        "#!/bin/sh\n"
        'for word in "$@"; do case "$word" in --user-unit=*) kind=user;; --unit=*) kind=system;; esac; done\n'
        f'[ -e {tmp_path}/journal-$kind ] || exit 0\necho "journalctl $*"\n'
    )
    (programs / "journalctl").chmod(0o755)
    return {
        "PATH": f"{programs}:{os.environ.get('PATH', '')}",
        "HOME": str(tmp_path),
        "QWEN_DAEMON_SOCKET": str(tmp_path / "nobody.sock"),
        "PYTHONUTF8": "1",
    }


def run(env: Env, *words: str) -> subprocess.CompletedProcess[str]:
    return canary.run([*COMMAND, *words], env=env)


@pytest.mark.parametrize(("kind", "unit"), [("user", "--user-unit"), ("system", "--unit")])
def test_without_a_daemon_the_journal_that_has_lines_is_shown(env: Env, tmp_path: Path, kind: str, unit: str) -> None:
    """The last hundred lines of the unit, by journalctl itself."""
    (tmp_path / f"journal-{kind}").touch()

    done = run(env)

    assert done.returncode == 0
    assert done.stdout == f"journalctl --no-pager {unit}=qwen-daemon.service --lines=100\n"


def test_times_and_following_are_journalctls(env: Env, tmp_path: Path) -> None:
    """`2h` is a time ago; what is no duration goes on as it is; --since shows all lines since."""
    (tmp_path / "journal-user").touch()

    assert "--since=yesterday --follow" in run(env, "--since", "yesterday", "-f").stdout
    assert "--since=@" in run(env, "--since", "2h").stdout
    assert "--since=-oshort --lines=5" in run(env, "--since=-oshort", "-n", "5").stdout
    assert "--output=json" in run(env, "--json").stdout


def test_neither_a_journal_nor_a_file_is_said_with_a_way_out(env: Env) -> None:
    """Nobody is left with an empty screen."""
    done = run(env)

    assert done.returncode == 1
    assert "error[E_NO_LOG]" in done.stderr and "2>>daemon.log" in done.stderr


@pytest.fixture
def daemon() -> Iterator[Running]:
    """A real one, started into a file as from a shell."""
    with (
        tempfile.TemporaryDirectory(prefix="qd-") as folder,
        ThreadedSimHub(SimHub()) as hub,
        Running(Path(folder), endpoint=hub.endpoint) as running,
    ):
        running.wait_for(lambda: "reader.came" in running.stderr, "the last line for now: its own reader's")
        yield running


def test_the_file_that_a_daemon_was_started_into_is_shown(env: Env, daemon: Running) -> None:
    """Its last lines, safe to print."""
    with (daemon.root / "stderr").open("a") as log:
        log.write("hostile \x1b[2J name\nlast line\n")

    done = run(env, "--socket", str(daemon.control), "-n", "2")

    assert done.returncode == 0, done.stderr
    assert done.stdout == "hostile \\x1b[2J name\nlast line\n"


def test_a_file_has_no_times(env: Env, daemon: Running) -> None:
    """Lines of the plain form have no date: said, not guessed."""
    done = run(env, "--socket", str(daemon.control), "--since", "2h")
    assert done.returncode == 2
    assert "--since goes with a journal" in done.stderr


def test_following_shows_what_comes_also_after_the_file_was_put_away(env: Env, daemon: Running) -> None:
    """As logrotate does it: the new file of the same name is gone on with."""
    path = daemon.root / "stderr"
    with path.open("a") as log:
        log.write("before\n")
    process = subprocess.Popen(
        [*COMMAND, "--socket", str(daemon.control), "-f", "-n", "1"],
        env=env | {"PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "before\n"
        path.rename(path.with_suffix(".1"))
        path.write_text("in the new one\n")
        assert process.stdout.readline() == "in the new one\n"
        with path.open("a") as log:
            log.write("and on\n")
        assert process.stdout.readline() == "and on\n"
    finally:
        process.terminate()
        process.wait(RUN_S)
        process.stdout.close()
    assert process.returncode == 143
