"""What systemd is told (sd_notify(3)) and what it hands over (listening sockets, sd_listen_fds(3)).

Own code on purpose: the `sdnotify` package drops any message that is not latin-1, READY=1 included. A failed notify
is told to the caller as False and never raised: a daemon must not die because nobody listens.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

FIRST_FD = 3  # SD_LISTEN_FDS_START
STATUS_CHARACTERS_MAX = 200


class Notifier:
    """Messages to the service manager named by $NOTIFY_SOCKET; silent without one."""

    def __init__(self, env: Mapping[str, str]) -> None:
        address = env.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watchdog_us = env.get("WATCHDOG_USEC", "")
        meant_for_us = env.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(watchdog_us) / 1e6 if watchdog_us.isdigit() and meant_for_us else None

    def ready(self, status: str) -> bool:
        """The sockets answer."""
        return self._send("READY=1", _status(status))

    def status(self, status: str) -> bool:
        """One line that a person would ask for."""
        return self._send(_status(status))

    def watchdog(self) -> bool:
        """The event loop is alive."""
        return self._send("WATCHDOG=1")

    def reloading(self) -> bool:
        """The configuration is being read again; `ready` ends it."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str) -> bool:
        """What is in memory is being recorded."""
        return self._send("STOPPING=1", _status(status))

    def _send(self, *lines: str) -> bool:
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.connect(self._address)
                sender.send("\n".join(lines).encode())
        except OSError:
            return False
        return True


def inherited_sockets(env: Mapping[str, str]) -> dict[str, socket.socket]:
    """The listening sockets systemd opened for us, by FileDescriptorName=; empty without socket activation."""
    if env.get("LISTEN_PID") != str(os.getpid()) or not env.get("LISTEN_FDS", "").isdigit():
        return {}
    names = env.get("LISTEN_FDNAMES", "").split(":")
    found = {}
    for index in range(int(env["LISTEN_FDS"])):
        handle = socket.socket(fileno=FIRST_FD + index)
        handle.setblocking(False)
        os.set_inheritable(handle.fileno(), False)
        found[names[index] if index < len(names) else str(index)] = handle
    return found


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())[:STATUS_CHARACTERS_MAX]
