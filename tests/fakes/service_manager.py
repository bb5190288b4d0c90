"""A service manager for one process: what systemd does at its ends of the pipes, without systemd.

It listens where $NOTIFY_SOCKET points, hands over listening sockets, and starts the real `qwen-daemon` with homes and
state of its own and a Hub that cannot be reached. What it waits for has a deadline that only a failure meets.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests import canary

DEADLINE_S = 60.0  # for a machine that is busy with other things; nothing here takes a second

# Becomes the daemon with its sockets at file descriptor 3 and on, as sd_listen_fds(3) describes. LISTEN_PID is the
# process's own, so it must be set after the fork.
_HAND_OVER = """
import fcntl, os, sys
given = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 20) for fd in sys.argv[1].split(",")]
for place, handle in enumerate(given, start=3):
    os.dup2(handle, place, inheritable=True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "qwen_daemon", *sys.argv[2:]])
"""


class ServiceManager:
    """The receiving end of sd_notify(3). A path that begins with "@" is an abstract address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.seen: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(DEADLINE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def receive(self) -> dict[str, str]:
        """The next message, as its assignments. Raises TimeoutError after the deadline."""
        text = self._socket.recv(1 << 16).decode()
        message = dict(line.split("=", 1) for line in text.splitlines())
        self.seen.append(message)
        return message

    def wait_for(self, wanted: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        """The next message that is wanted; the ones before it are only in `seen`."""
        while not wanted(message := self.receive()):
            pass
        return message

    def wait_for_word(self, word: str) -> dict[str, str]:
        """The next message with `word`=1."""
        return self.wait_for(lambda message: message.get(word) == "1")


def quiet_environment(home: Path) -> dict[str, str]:
    """An environment of its own under `home`, with no Hub behind it."""
    runtime = home / "run"
    runtime.mkdir(parents=True, exist_ok=True, mode=0o700)
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(runtime),
        "XDG_STATE_HOME": str(home / "state"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "HF_ENDPOINT": "http://127.0.0.1:9",  # discard(9): nobody listens
        "QWEN_DAEMON_LOG": "json",
    }
    canary.plant(env)
    return env


@contextmanager
def running_daemon(
    env: Mapping[str, str], *arguments: str, sockets: Sequence[tuple[str, socket.socket]] = ()
) -> Iterator[subprocess.Popen[str]]:
    """The real daemon; `sockets` are handed over under their names. At the end it is killed if it still runs."""
    command = [sys.executable, "-m", "qwen_daemon", *arguments]
    environment = dict(env)
    handles = [listener.fileno() for _, listener in sockets]
    if sockets:
        environment |= {"LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": ":".join(name for name, _ in sockets)}
        command = [sys.executable, "-c", _HAND_OVER, ",".join(map(str, handles)), *arguments]
    process = subprocess.Popen(
        command, env=environment, pass_fds=handles, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=DEADLINE_S)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end: exit code and what it wrote to stderr."""
    _, errors = process.communicate(timeout=DEADLINE_S)
    canary.refuse({"standard error": errors})
    return process.returncode, errors
