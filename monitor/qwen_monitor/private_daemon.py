"""A `qwen-daemon --once` of one's own, for `qwenctl download` on a machine where no daemon runs.

It is a child: it ends when its model is settled, when it is stopped, or when this process dies. Its state is kept per
cache or local_dir, so that the next one resumes; its socket and its log lie in a folder that goes with it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from qwen_api import places
from qwen_api.language import _
from qwen_api.models import ModelRef
from qwen_monitor.exits import Ended, Refusal
from qwen_monitor.questions import DAEMON, read_error

START_S = 60.0  # it reads its ledger first; a cold disk may take seconds
POLL_S = 0.02
STOP_S = 90.0  # it records what it has: one fdatasync of at most 64 MiB a stream
TURNS_MAX = 5  # how often another one may be quicker before that is told as an error
LOCK_FILE = "lock"  # in the state folder; the daemon holds flock(2) on it while it runs
SOCKET_PATH_BYTES_MAX = 100  # sun_path holds 108, unix(7); events.sock beside it is as long

# A service manager's variables speak of this process, not of a child: the child must neither take the caller's
# sockets nor report itself ready in the caller's name.
_NOT_INHERITED = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
_PR_SET_PDEATHSIG = 1  # prctl(2)


class PrivateDaemon:
    """Use as a context manager: entering starts it and waits for its socket; leaving stops it.

    Only one works in a cache or a local_dir at a time: entering waits for another one to end, after calling `on_wait`.
    Raises Refusal with the child's own words when it does not start.
    """

    def __init__(
        self,
        ref: ModelRef,
        env: Mapping[str, str],
        cache: Path,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        rate_limit_bps: int | None = None,
        local_dir: Path | None = None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._ref = ref
        self._on_wait = on_wait
        self._state = places.private_state_dir(env, local_dir or cache)
        self._folder = Path(_short_folder())
        self._log = self._folder / "daemon.log"
        self.socket = self._folder / places.CONTROL_SOCKET
        patterns = [f"--{flag}={p}" for flag, given in (("include", include), ("exclude", exclude)) for p in given]
        self._command = [
            *DAEMON,
            f"--once={ref.repo}",
            f"--revision={ref.revision}",
            f"--socket={self.socket}",
            f"--state-dir={self._state}",
            f"--cache-dir={cache}",
            *patterns,
            *([] if local_dir is None else [f"--local-dir={local_dir}"]),
            *([] if rate_limit_bps is None else [f"--limit-rate={rate_limit_bps}"]),
        ]
        self._env = {name: value for name, value in env.items() if name not in _NOT_INHERITED}
        self._child: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    def __enter__(self) -> Self:
        try:
            self._start_in_turn()
        except BaseException:
            self.stop()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def stop(self, tell: Callable[[], None] = lambda: None) -> None:
        """Ask it to record what it has and end; wait for that. A second signal kills it, which loses seconds' work.

        `tell` is called before; a signal that ends it early counts as that second one when this is asked again.
        """
        child = self._child
        if child is None or child.poll() is not None:
            return
        if not self._is_stopping:
            self._is_stopping = True
            with suppress(OSError):  # the terminal is gone
                tell()
            child.send_signal(signal.SIGTERM)
            with suppress(KeyboardInterrupt, Ended, subprocess.TimeoutExpired):
                child.wait(STOP_S)
                return
        child.kill()
        child.wait()

    def ended(self, within_s: float = 0.0) -> int | None:
        """Its exit code if it has ended, or ends within so many seconds; else None."""
        if self._child is None:
            return None
        try:
            return self._child.wait(within_s)
        except subprocess.TimeoutExpired:
            return None

    def complaint(self) -> Refusal:
        """What it said when it ended badly."""
        try:
            text = self._log.read_bytes()[-65536:].decode(errors="replace")
        except OSError:
            text = ""
        return read_error(text, _("the private daemon for {ref} ended", ref=self._ref))

    def _start_in_turn(self) -> None:
        for turn in range(1, TURNS_MAX + 1):
            _wait_for_turn(self._state / LOCK_FILE, self._on_wait)
            try:
                self._start()
                break
            except Refusal as error:
                if error.code != "E_ALREADY_RUNNING" or turn == TURNS_MAX:
                    raise  # else a third one was quicker

    def _start(self) -> None:
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is ours to hear; the child is told once, by SIGTERM
                preexec_fn=_die_with_parent(),  # safe: no threads run yet, and it calls prctl alone
            )
        self._wait_for_socket(self._child)

    def _wait_for_socket(self, child: subprocess.Popen[bytes]) -> None:
        deadline_s = time.monotonic() + START_S
        while not _answers(self.socket):
            code = child.poll()
            if code == 0:
                return  # there was nothing to do, and it is done
            if code is not None:
                raise self.complaint()
            if time.monotonic() > deadline_s:
                raise Refusal(
                    "E_TIMEOUT", _("the private daemon did not answer within {seconds:.0f} s", seconds=START_S)
                )
            time.sleep(POLL_S)


def _wait_for_turn(lock: Path, on_wait: Callable[[], None]) -> None:
    """Return when nobody holds the lock of this state; whoever takes it first afterwards has it."""
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        on_wait()
        fcntl.flock(handle, fcntl.LOCK_EX)  # Ctrl-C interrupts it
    finally:
        os.close(handle)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _short_folder() -> str:
    """A private folder whose sockets' paths a Unix socket can hold: TMPDIR may be deep."""
    folder = tempfile.mkdtemp(prefix="qwenctl-")
    if len(os.fsencode(folder)) + len(places.CONTROL_SOCKET) + 1 <= SOCKET_PATH_BYTES_MAX:
        return folder
    Path(folder).rmdir()
    return tempfile.mkdtemp(prefix="qwenctl-", dir="/tmp")


def _die_with_parent() -> Callable[[], None]:
    """Have the child stopped should this process be killed: an orphan would hold the ledger's lock unseen."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask
