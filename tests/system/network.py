"""A network of one's own: a loopback that a test may thin out, stop or take down, and a name server it answers for.

Only the calling thread enters; processes and threads that it starts inside are inside too. So the simulated Hub and the
daemon meet there, and nobody else on the machine notices. Needs root, iproute2 and nftables.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.hub_log import Signal

CLONE_FS, CLONE_NEWNS, CLONE_NEWNET = 0x00000200, 0x00020000, 0x40000000
MTU_BYTES = 1500  # a loopback's own are so large that a lost packet would be half a megabyte
REFUSED, NO_SUCH_NAME, FINE = 2, 3, 0  # of DNS; 2 is SERVFAIL
LIBC = ctypes.CDLL(None, use_errno=True)


def run(*command: str | Path, stdin: str = "") -> str:
    """What the command wrote; CalledProcessError if it fails."""
    return subprocess.run(command, check=True, input=stdin, stdout=subprocess.PIPE, text=True).stdout


def _done(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextmanager
def own_network(resolv_conf: Path | None = None) -> Iterator[None]:
    """A fresh network with nothing but 127.0.0.1; with that file in the place of /etc/resolv.conf, if one is given."""
    kinds = {"net": CLONE_NEWNET} | ({"mnt": CLONE_NEWNS} if resolv_conf else {})
    folder = Path.cwd()
    before = {kind: os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY) for kind in kinds}
    try:
        for number in kinds.values():
            _done(LIBC.unshare(number))
        if resolv_conf:
            run("mount", "--make-rprivate", "/")
            run("mount", "--bind", resolv_conf, "/etc/resolv.conf")
        run("ip", "link", "set", "lo", "mtu", str(MTU_BYTES), "up")
        yield
    finally:
        _done(LIBC.unshare(CLONE_FS))  # setns(2) wants it unshared, and a thread may be ending still
        for kind, number in kinds.items():
            _done(LIBC.setns(before[kind], number))
            os.close(before[kind])
        os.chdir(folder)


@contextmanager
def rule(text: str) -> Iterator[None]:
    """A rule of nftables for what arrives, such as `tcp sport 80 drop`, for as long as the context lasts."""
    table = f"table ip test {{\nchain arrives {{\ntype filter hook input priority 0\n{text}\n}}\n}}\n"
    run("nft", "-f", "-", stdin=table)
    try:
        yield
    finally:
        run("nft", "delete", "table", "ip", "test")


def port(endpoint: str) -> str:
    """The port of an endpoint."""
    return endpoint.rpartition(":")[2]


class NameServer:
    """Answers every name with 127.0.0.1, or says nothing, or refuses, as `code` says; one question a packet.

    `asked` counts the questions; `next_question` is set by the next one.
    """

    def __init__(self) -> None:
        self.code: int | None = FINE  # None: silence
        self.asked = 0
        self.next_question = Signal()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        self._thread = threading.Thread(target=self._serve, name="names")

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bell:
            bell.sendto(b"", ("127.0.0.1", 53))
        self._thread.join()
        self._socket.close()

    def say(self, code: int | None) -> None:
        """From now on."""
        self.code, self.next_question = code, Signal()

    def _serve(self) -> None:
        while True:
            question, whence = self._socket.recvfrom(4096)
            if not question:
                return
            self.asked += 1
            if self.code is not None:
                self._socket.sendto(self._answer(question, self.code), whence)
            self.next_question.set()

    @staticmethod
    def _answer(question: bytes, code: int) -> bytes:
        """RFC 1035: the question again, and for an A record one answer that points at its name."""
        end = question.index(b"\0", 12) + 5
        is_address = code == FINE and question[end - 4 : end - 2] == b"\0\x01"
        head = question[:2] + bytes([0x81, 0x80 | code, 0, 1, 0, is_address, 0, 0, 0, 0])
        record = b"\xc0\x0c\0\x01\0\x01" + bytes(4) + b"\0\x04" + bytes([127, 0, 0, 1])
        return head + question[12:end] + (record if is_address else b"")
