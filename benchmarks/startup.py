"""How long the commands take that people type all day: from exec to the answer, and to the monitor's first picture.

    python -m benchmarks.startup --runs 20

A daemon of its own, offline, that keeps one model of whose files nothing is here; installed commands; medians of wall
time, the interpreter's start included. Prints Markdown.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent
FIRST_PICTURE = b"Qwen-Image-Edit-2511"  # the model's name: what the daemon knows is on the screen
WAIT_S = 30.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--runs", type=int, default=20, metavar="N")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="qd-") as folder, a_daemon(Path(folder)) as env:
        cases: dict[str, Callable[[], float]] = {
            "`python -c pass`": lambda: answer_s(env, sys.executable, "-c", "pass"),
            "`qwenctl --help`": lambda: answer_s(env, str(BIN / "qwenctl"), "--help"),
            "`qwenctl status`": lambda: answer_s(env, str(BIN / "qwenctl"), "status"),
            "`qwen-monitor`, first picture at 80x24": lambda: first_picture_s(env),
        }
        for measure in cases.values():
            measure()  # what a cold disk costs is not ours
        print("| command | median | smallest | largest |\n|---|---|---|---|")
        for name, measure in cases.items():
            times = [measure() for _ in range(runs)]
            low, middle, high = min(times), statistics.median(times), max(times)
            print(f"| {name} | {middle:.2f} s | {low:.2f} s | {high:.2f} s |", flush=True)


@contextmanager
def a_daemon(folder: Path) -> Iterator[dict[str, str]]:
    """A running one; the environment in which commands find it."""
    (folder / "config.toml").write_text('offline = true\n[[models]]\nmodel = "qwen-image-edit"\n')
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "TERM": "xterm-256color",
        "PYTHONUTF8": "1",
        "QWEN_DAEMON_CONFIG": str(folder / "config.toml"),
        "QWEN_DAEMON_SOCKET": str(folder / "control.sock"),
    }
    command = [str(BIN / "qwen-daemon"), "--socket", env["QWEN_DAEMON_SOCKET"]]
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        until(
            lambda: subprocess.run([BIN / "qwenctl", "ls"], env=env, capture_output=True, check=False).returncode == 0
        )
        yield env
    finally:
        daemon.terminate()
        daemon.wait()


def until(happened: Callable[[], bool]) -> None:
    """Ask until it has. Raises TimeoutError."""
    deadline_s = time.monotonic() + WAIT_S
    while not happened():
        if time.monotonic() > deadline_s:
            raise TimeoutError("the daemon did not answer")


def answer_s(env: Mapping[str, str], *command: str) -> float:
    """Seconds from exec to exit."""
    begun_s = time.monotonic()
    subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
    return time.monotonic() - begun_s


def first_picture_s(env: Mapping[str, str]) -> float:
    """Seconds from exec until the terminal has the picture. Raises RuntimeError if it never comes."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    begun_s = time.monotonic()
    child = subprocess.Popen([BIN / "qwen-monitor"], env=env, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    seen = b""
    try:
        while FIRST_PICTURE not in seen:
            if not select.select([master], [], [], WAIT_S)[0]:
                raise RuntimeError(f"no picture: {seen[-200:]!r}")
            seen += os.read(master, 65536)
        return time.monotonic() - begun_s
    finally:
        child.kill()
        child.wait()
        os.close(master)


if __name__ == "__main__":
    main()
