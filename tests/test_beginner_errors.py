"""The mistakes of the first hour: each is answered with what, why and a fix, at once, and with no traceback."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen_api.durations import parse_duration_s
from qwen_daemon.config import BadConfig, endpoint_in_force, read
from qwen_daemon.shell.instance import SOCKET_PATH_BYTES_MAX, SocketPathTooLong, check_socket_path, listen
from tests import canary

BIN = Path(sys.executable).parent
RUN_S = 60  # only a hung process reaches it
NOBODY = "http://127.0.0.1:9"  # the discard port: nobody listens


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="home-") as folder:  # tmp_path may be too long for a socket
        yield Path(folder)


def run(home: Path, *command: str, **env: str) -> tuple[int, str]:
    """The exit code and standard error of an installed command in a bare environment."""
    bare = {"PATH": os.environ.get("PATH", ""), "HOME": str(home), "HF_ENDPOINT": NOBODY, "PYTHONUTF8": "1"}
    kept = {name: value for name, value in (bare | env).items() if value}
    done = canary.run([str(BIN / command[0]), *command[1:]], env=kept, cwd=home)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("qwen-daemon mirorr", 2, "did you mean: qwen-daemon mirror"),
        ("qwen-daemon status", 2, "qwenctl has the commands"),
        ("qwen-daemon --nope", 2, "--nope"),
        ("qwen-daemon --config nowhere.toml", 78, "nowhere.toml"),
        ("qwen-daemon --once qwen-image-edti", 2, "fix: did you mean: qwen-daemon --once qwen-image-edit\n"),
        ("qwen-monitor --nope", 2, "--nope"),
        ("qwen-monitor --once", 69, "start it with"),
        ("qwen-monitor qwen-image-edti --plain", 2, "fix: did you mean: qwen-monitor qwen-image-edit --plain\n"),
        ("qwenctl stauts", 2, "did you mean: qwenctl status"),
        ("qwenctl download qwen-image-edti", 2, "did you mean 'qwen-image-edit'?"),
        ("qwenctl add qwen-image-edit", 69, "start it with"),
        ("qwenctl wait qwen-image-edit --timeout soon", 2, "such as 90, 45s, 30m or 1h30m"),
        ("qwen-loader qwen-image-edit --timeout soon", 2, "such as 90, 45s, 30m or 1h30m"),
        ("qwen-loader qwen-image-edti --keep", 2, "fix: did you mean: qwen-loader qwen-image-edit --keep\n"),
        ("qwen-loader qwen-image-edit --timeout 0", 69, "start it with"),
    ],
)
def test_an_error_has_three_lines(home: Path, line: str, code: int, said: str) -> None:
    """error[CODE], why, fix; and what was probably meant."""
    ended, told = run(home, *line.split())
    assert (ended, "Traceback" in told) == (code, False), told
    assert said in told
    assert "error[E_" in told and "\n  why: " in told and "\n  fix: " in told


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_no_locale_breaks_a_message(home: Path, locale: dict[str, str]) -> None:
    """A name that the locale cannot write is still told."""
    for command in (("qwenctl", "check", "./тест"), ("qwen-daemon", "--config", "тест"), ("qwen-loader", "тест")):
        code, told = run(home, *command, **locale)
        assert code in (2, 3, 78) and "error[E_" in told and "Traceback" not in told, told


@pytest.mark.parametrize("command", ["qwen-daemon", "qwenctl", "qwen-monitor", "qwen-loader"])
def test_every_command_says_its_version(home: Path, command: str) -> None:
    """All four are one distribution, so it is the same one; no daemon is needed for it."""
    told = subprocess.run(
        [str(BIN / command), "--version"], env={"HOME": str(home)}, capture_output=True, text=True, timeout=RUN_S
    )
    assert (told.returncode, told.stdout) == (0, f"{command} {importlib.metadata.version('qwen-daemon')}\n")


def test_no_home_is_no_error(home: Path) -> None:
    """HOME may be unset, as in a service."""
    code, told = run(home, "qwenctl", "version", HOME="")
    assert (code, "Traceback" in told) == (0, False)


def test_a_socket_path_that_is_too_long_says_so_and_what_to_do(home: Path) -> None:
    """Before anything is made there."""
    folder = home / ("x" * 110)
    code, told = run(home, "qwen-daemon", "--socket", str(folder / "control.sock"))
    assert code == 1
    assert f"at most {SOCKET_PATH_BYTES_MAX}" in told and "--socket" in told and "QWEN_DAEMON_SOCKET" in told
    assert not folder.exists()
    code, told = run(home, "qwenctl", "ls", QWEN_DAEMON_SOCKET=str(folder / "control.sock"))
    assert code == 69 and f"at most {SOCKET_PATH_BYTES_MAX}" in told and "QWEN_DAEMON_SOCKET" in told


@pytest.mark.parametrize("letter", ["x", "я"])
def test_the_limit_of_a_socket_path_is_the_kernels(letter: str) -> None:
    """In bytes: the longest that is let through can be listened on, and one byte more is refused."""
    with tempfile.TemporaryDirectory(prefix="s-") as short:
        room = SOCKET_PATH_BYTES_MAX - len(os.fsencode(short)) - 1
        name = letter * (room // len(letter.encode()))
        path = Path(short, name + "." * (room - len(name.encode())))
        check_socket_path(path)
        listen(path).close()
        with pytest.raises(SocketPathTooLong):
            check_socket_path(path.with_name(path.name + "y"))


@pytest.mark.fault("X8")
@pytest.mark.parametrize("endpoint", ["huggingface.co", "garbage", "ftp://x", "http://", "http://[::1"])
def test_an_endpoint_that_is_no_address_is_refused_at_once(home: Path, endpoint: str) -> None:
    """By its source: the environment or the file; a download does not wait 14 s for what cannot be."""
    with pytest.raises(BadConfig, match="HF_ENDPOINT"):
        endpoint_in_force({"HF_ENDPOINT": endpoint})
    file = home / "config.toml"
    file.write_text(f'endpoint = "{endpoint}"')
    with pytest.raises(BadConfig, match="endpoint"):
        read(file)


def test_a_download_from_no_address_says_which_variable(home: Path) -> None:
    """Exit code 78, as for any unusable configuration."""
    code, told = run(home, "qwenctl", "download", "qwen-image-edit", HF_ENDPOINT="garbage")
    assert code == 78 and "HF_ENDPOINT" in told and "\n  fix: " in told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[models]\nmodel = "a/b"', "[[models]]"),
        ('models = "a/b"', "[[models]]"),
        ('[[models]]\nmodel = "a/b"\nfollow = "aut"', "notify, auto, pin"),
        ('[[models]]\nmodel = "a/b"\n[[models]]\nmodel = "a/b@main"', "the same model"),
    ],
)
def test_a_mistake_in_the_models_says_what_was_meant(home: Path, text: str, said: str) -> None:
    """Also a model that stands twice: only one of the two would have been kept, silently."""
    file = home / "config.toml"
    file.write_text(text)
    with pytest.raises(BadConfig) as refused:
        read(file)
    assert said in str(refused.value)


def test_a_duration_is_written_the_same_everywhere() -> None:
    """What qwenctl takes, qwen-loader takes."""
    assert [parse_duration_s(text) for text in ("90", "0", "1h30m", "0.5s", "1d")] == [90, 0, 5400, 0.5, 86400]
    for text in ("", "h", "-1", "nan", "inf", "31d", "١"):
        with pytest.raises(ValueError, match="not a duration"):
            parse_duration_s(text)


def test_a_second_daemon_is_told_of_the_first(home: Path) -> None:
    """Who it is, and what can be done."""
    first = subprocess.Popen(
        [BIN / "qwen-daemon"],
        env={"PATH": os.environ.get("PATH", ""), "HOME": str(home), "HF_ENDPOINT": NOBODY},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert first.stderr is not None
    try:
        assert "daemon.started" in first.stderr.readline()
        code, told = run(home, "qwen-daemon")
        assert code == 1
        assert f"pid {first.pid}" in told and "another qwen-daemon is running" in told and "qwenctl status" in told
    finally:
        first.terminate()
        first.wait(RUN_S)
        first.stderr.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written_is_named(home: Path) -> None:
    """No traceback."""
    home.chmod(0o555)
    for line in (("qwen-daemon",), ("qwenctl", "download", "qwen-image-edit")):
        code, told = run(home, *line)
        assert code != 0 and "Permission denied" in told and "Traceback" not in told
    home.chmod(0o755)


def test_the_demonstration_refuses_a_name_at_once(home: Path) -> None:
    """And does not wait for a daemon that cannot start."""
    done = subprocess.run(
        [sys.executable, "-m", "demo", "nope", "--var", str(home)],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 2 and "'nope' names no model" in done.stderr
    assert list(home.iterdir()) == []
