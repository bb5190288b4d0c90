"""Every command of `qwenctl` where there is nothing yet: no daemon, a daemon without models, a model nobody asked for.

Each ends with its code, and with three lines or a sentence that says what to do next; and each fits a terminal of 80
columns in both languages.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen_monitor.control_commands import COMMANDS
from qwen_monitor.display import cell_width
from qwen_monitor.wrapping import wrapped
from tests import canary
from tests.fakes import download as cast
from tests.fakes.daemon import FakeDaemon
from tests.running import Running
from tests.terminal import Terminal

QWENCTL = str(Path(sys.executable).with_name("qwenctl"))
MONITOR = str(Path(sys.executable).with_name("qwen-monitor"))
M = "qwen-image"

Env = dict[str, str]

# What is typed; the exit code without a daemon, and with one that was asked for nothing.
CODES: dict[str, tuple[int, int]] = {
    f"check {M}": (4, 4),
    "check ./nowhere": (3, 3),
    f"download {M} --dry-run": (4, 4),
    f"rm {M} --yes": (69, 3),
    "ls": (69, 0),
    "status": (4, 4),
    f"status {M}": (4, 4),
    f"status {M} --file config.json": (69, 3),
    f"pause {M}": (69, 3),
    f"pause {M} --file *": (69, 3),
    f"resume {M}": (69, 3),
    f"retry {M}": (69, 3),
    f"update {M}": (69, 3),
    f"verify {M}": (69, 3),
    f"verify {M} --wait": (69, 3),
    "limit": (69, 0),
    "limit 5MB/s": (69, 0),
    f"limit {M} 5MB/s": (69, 3),
    f"prio {M} 4": (69, 3),
    f"prio {M} 4 --file *": (69, 3),
    f"wait {M} --no-wait": (69, 3),
    "events --no-follow": (69, 0),
    f"events {M} --no-follow": (69, 0),
    "doctor --quick": (0, 0),
    "logs": (1, 0),
    "config check": (0, 0),
    "config show": (0, 0),
    "completion bash": (0, 0),
    "completion models": (0, 0),
    "version": (0, 0),
    f"download {M}": (4, 4),  # these come last: from here on the daemon has a model
    f"add {M}": (69, 0),
}
NO_JSON = ("completion", "logs", "events")  # a script, and what others wrote


@pytest.fixture(scope="module")
def env() -> Iterator[Env]:
    """A home of its own, nothing in it, no network."""
    with tempfile.TemporaryDirectory(prefix="h-") as home:
        yield {
            "PATH": os.environ.get("PATH", ""),
            "HOME": home,
            "HF_HUB_OFFLINE": "1",
            "QWEN_DAEMON_SOCKET": f"{home}/nobody.sock",
            "PYTHONUTF8": "1",
        }


@pytest.fixture(scope="module")
def idle() -> Iterator[Running]:
    """A real daemon that was asked for nothing."""
    with tempfile.TemporaryDirectory(prefix="qd-") as root:
        daemon = Running(Path(root), endpoint="http://127.0.0.1:9", env={"HF_HUB_OFFLINE": "1"})
        with daemon:
            yield daemon


def test_the_table_has_every_command() -> None:
    """A new command is tried here, too."""
    assert {line.split()[0] for line in CODES} == set(COMMANDS)


@pytest.mark.parametrize("line", CODES)
def test_without_a_daemon(env: Env, line: str) -> None:
    """What needs one says how to start it; what does not, works; with --json it ends the same."""
    done = canary.run([QWENCTL, *line.split()], env=env)
    assert done.returncode == CODES[line][0], done
    assert_helpful(done)
    if line.split()[0] not in NO_JSON:
        as_json = canary.run([QWENCTL, *line.split(), "--json"], env=env)
        assert as_json.returncode == done.returncode
        assert ("error" in json.loads(as_json.stdout)) == ("error[" in done.stderr)


@pytest.mark.parametrize("line", CODES)
def test_with_a_daemon_that_was_asked_for_nothing(idle: Running, line: str) -> None:
    """A model that it does not know is 3, with the way to have it known."""
    done = canary.run([QWENCTL, *line.split()], env=idle.env)
    assert done.returncode == CODES[line][1], done
    assert_helpful(done)
    if "E_UNKNOWN_MODEL" in done.stderr:
        assert re.search(rf"fix: .*qwenctl add ({M}|Qwen/Qwen-Image)", done.stderr), done


@pytest.mark.parametrize(("more", "code"), [(["--once"], 69), (["--once", M], 69), (["--no-wait"], 69)])
def test_the_monitor_without_a_daemon(env: Env, more: list[str], code: int) -> None:
    """As a script calls it."""
    done = canary.run([MONITOR, *more], env=env)
    assert done.returncode == code
    assert_helpful(done)


def assert_helpful(done: subprocess.CompletedProcess[str]) -> None:
    """An error has its three lines, none of them empty; what is not there yet comes with the command that brings it."""
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert not re.search(r"\bMODEL\b", done.stderr), done.stderr
    if done.returncode not in (0, 4):
        lines = [line for line in done.stderr.splitlines() if not line.startswith("hint:")]
        assert re.match(r"error\[E_[A-Z_]+\]: \S", lines[-3]), done
        assert re.match(r"  why: \S", lines[-2]) and re.match(r"  fix: \S", lines[-1]), done
    elif done.returncode == 4:
        assert "qwenctl " in said or "fix: " in said, done


# On a terminal


SHOWN = (
    "ls",
    "status",
    "limit",
    "limit 20MB/s --max-files 4",
    "prio qwen-image-edit 7",
    "events --since 0 --no-follow",
    "pause qwen-image-edit",
    "retry qwen-image-edit",
    "verify qwen-image-edit",
    "doctor --quick",
    "config show --origin",
    "config check",
    "logs",
    "version",
    "pause no/such-model",
    "wait qwen-image-edit --timeout soon",
    "check qwen-image",
)


@pytest.fixture(scope="module")
def busy() -> Iterator[FakeDaemon]:
    """Half-way through a download."""
    with tempfile.TemporaryDirectory(prefix="qd-") as folder, FakeDaemon(Path(folder), *cast.half_way()) as running:
        yield running


@pytest.mark.parametrize("lang", ["en", "ru"])
@pytest.mark.parametrize("line", SHOWN)
def test_everything_fits_80_columns(env: Env, busy: FakeDaemon, line: str, lang: str) -> None:
    """Broken between words where it is longer, nothing left out, and a command to copy is on one line."""
    asked = env | {"QWEN_DAEMON_SOCKET": str(busy.control)}
    with Terminal([QWENCTL, *line.split(), "--lang", lang], **asked) as terminal:
        terminal.end()
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]|\r", "", terminal.output.decode())
    lines = text.splitlines()
    assert lines
    assert [row for row in lines if cell_width(row) > 80] == []
    assert "…" not in text
    whole = canary.run([QWENCTL, *line.split(), "--lang", lang], env=asked)
    for command in re.findall(r"qwenctl \w+ [\w/.-]+", whole.stdout + whole.stderr):
        assert command in text


def test_without_a_terminal_nothing_is_broken(env: Env) -> None:
    """A program that reads an error finds three lines."""
    assert len(canary.run([QWENCTL, "ls"], env=env).stderr.splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("short", ["short"]),
        ("one two three four five six", ["one two three four", "  five six"]),
        ("see qwenctl add org/name, or not", ["see", "  qwenctl add org/name,", "  or not"]),
        ("a/path/that/is/longer/than/all", ["a/path/that/is/longer/than/all"]),
    ],
)
def test_a_command_is_not_broken(text: str, lines: list[str]) -> None:
    """However narrow the terminal."""
    assert wrapped(text, 20, "  ") == lines
