"""Commands without standard streams (`>&-`), or with full ones: no traceback, and no file in their place."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import canary
from tests.fakes import download
from tests.fakes.daemon import FakeDaemon
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.running import Running

COMMANDS = {
    "qwen-daemon config": 0,
    "qwen-daemon --version": 0,
    "qwen-daemon mirror --help": 0,
    "qwenctl ls": 69,
    "qwenctl check .": 4,
    "qwen-monitor --once": 69,
    "qwen-loader --help": 0,
}


def shell(command: str, home: Path, redirections: str) -> subprocess.CompletedProcess[str]:
    program, _, rest = command.partition(" ")
    env = {"PATH": os.defpath, "HOME": str(home), "HF_TOKEN": canary.TOKEN, "LC_ALL": "C.UTF-8"}
    line = f"exec {Path(sys.executable).with_name(program)} {rest} {redirections}"
    return subprocess.run(
        ["sh", "-c", line], cwd=home, env=env, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_without_streams_ends_as_with_them(command: str, tmp_path: Path) -> None:
    """Whatever is closed, what is left says the same, with the same code."""
    whole = shell(command, tmp_path, "</dev/null")
    silent = shell(command, tmp_path, ">&-")
    deaf = shell(command, tmp_path, "2>&- <&-")
    assert (whole.returncode, silent.returncode, deaf.returncode) == (COMMANDS[command],) * 3, silent.stderr
    assert (silent.stderr, deaf.stdout) == (whole.stderr, whole.stdout)


@pytest.mark.parametrize("command", ["qwen-daemon config", "qwenctl check ."])
def test_an_answer_that_cannot_be_written_is_an_error(command: str, tmp_path: Path) -> None:
    """A full disk behind `>`: three lines and 1, as coreutils do, so that a script does not use half an answer."""
    ended = shell(command, tmp_path, "> /dev/full")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error[E_IO]: the command cannot go on\n  why: [Errno 28] No space left on device\n")


def test_a_daemon_without_streams_has_no_file_in_their_place(tmp_path: Path) -> None:
    """Otherwise the ledger or a socket would have number 1, and hear whatever is printed."""
    files = {"config.json": b'{"model_type": "none"}', "README.md": b"a"}
    with ThreadedSimHub(SimHub(SimRepo(id="org/name", files=files))) as hub:
        daemon = Running(tmp_path, endpoint=hub.endpoint, models=["org/name"])
        daemon.under = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
        with daemon:
            daemon.wait_complete("org--name")
            fds = Path(f"/proc/{daemon.pid}/fd")
            assert [os.readlink(fds / str(number)) for number in range(3)] == ["/dev/null"] * 3


@pytest.mark.parametrize("options", [["--once"], ["--plain"], ["--json"]], ids=lambda options: options[0])
def test_a_monitor_whose_lines_cannot_be_written_says_why(options: list[str], tmp_path: Path) -> None:
    """Its output may be a file on the very disk that is full."""
    with FakeDaemon(tmp_path, *download.half_way()) as daemon:
        command = shlex.join(["qwen-monitor", "--socket", str(daemon.control), *options])
        ended = shell(command, tmp_path, "> /dev/full")
    assert ended.returncode == 1
    assert "error[E_IO]: the command cannot go on\n" in ended.stderr and "Traceback" not in ended.stderr
