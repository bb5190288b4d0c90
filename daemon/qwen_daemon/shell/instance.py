"""One daemon per state directory and per socket: flock(2) decides, the lock file names who holds it.

A socket file that nobody listens on (left by SIGKILL) is taken over; one that answers is left alone.
"""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from qwen_api.language import N_

SOCKET_MODE = 0o660  # by group; see the units
SOCKET_PATH_BYTES_MAX = 107  # sun_path holds 108 with the NUL, unix(7)
BACKLOG = 128


class AlreadyRunning(RuntimeError):
    """Another daemon has it; `holder` is what it wrote about itself."""

    def __init__(self, what: Path, holder: str) -> None:
        super().__init__(f"another daemon ({holder or 'unknown'}) uses {what}")
        self.what, self.holder = what, holder


class SocketPathTooLong(ValueError):
    """No Unix socket can have this path."""

    def __init__(self, path: Path) -> None:
        length = len(os.fsencode(path))
        super().__init__(f"{path} has {length} bytes, and a Unix socket's path at most {SOCKET_PATH_BYTES_MAX}")


class InstanceLock:
    """Held from construction to `release` (or the process's end, however it ends)."""

    def __init__(self, path: Path, about: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._handle, 200, 0).decode(errors="replace").strip()
            os.close(self._handle)
            raise AlreadyRunning(path, holder) from None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, about.encode(), 0)

    def release(self) -> None:
        """Let another have it; after an error from close(2) it is free all the same."""
        with suppress(OSError):
            os.close(self._handle)


def check_socket_path(path: Path) -> None:
    """Raises SocketPathTooLong; called before anything is made on the disk."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise SocketPathTooLong(path)


def listen(path: Path) -> socket.socket:
    """Listen on a Unix socket at `path`. Raises AlreadyRunning if somebody answers there, OSError if it cannot be."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    if path.exists():
        if _answers(path):
            raise AlreadyRunning(path, N_("it answers on the socket"))
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~SOCKET_MODE)  # bind(2) makes the file with the umask: no moment with a wider mode
    try:
        listener.bind(str(path))
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True
