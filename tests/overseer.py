"""Asked by the kernel before each system call of a process that touches its files: let it be made, fail it, or kill.

strace counts calls in each thread, so its N-th is that of whichever thread gets there first. Here the kernel stops a
call before it is made, in whatever thread, and asks (seccomp_unotify(2)); the process waits for the answer. So calls
have one order, and one of them is named by what stays the same from run to run: its kind, its file, and the how many-th
of this kind on this file it is (`Point`). Needs no root, no strace, and Linux 5.5 on x86-64 or ARM 64.

Run as a program (with nothing but the standard library) it is the process's own half: it hands over the kernel's
questions and becomes the command it was given.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import platform
import re
import secrets
import select
import signal
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# Of each call: its number on x86-64 and on ARM 64 (0: there is none), and where its file stands in its arguments: "0"
# in a descriptor, "@1" a path, "0@1" a path below a descriptor, "&1" a socket's address. Of two names the one that is
# made counts.
CALLS: dict[str, tuple[int, int, str]] = {
    "write": (1, 64, "0"),
    "pwrite64": (18, 68, "0"),
    "writev": (20, 66, "0"),
    "pwritev": (296, 70, "0"),
    "pwritev2": (328, 287, "0"),
    "copy_file_range": (326, 285, "2"),
    "sendfile": (40, 71, "0"),
    "fsync": (74, 82, "0"),
    "fdatasync": (75, 83, "0"),
    "sync_file_range": (277, 84, "0"),
    "ftruncate": (77, 46, "0"),
    "truncate": (76, 45, "@0"),
    "fallocate": (285, 47, "0"),
    "open": (2, 0, "@0"),
    "creat": (85, 0, "@0"),
    "openat": (257, 56, "0@1"),
    "openat2": (437, 437, "0@1"),
    "mkdir": (83, 0, "@0"),
    "mkdirat": (258, 34, "0@1"),
    "mknod": (133, 0, "@0"),
    "mknodat": (259, 33, "0@1"),
    "rename": (82, 0, "@1"),
    "renameat": (264, 38, "2@3"),
    "renameat2": (316, 276, "2@3"),
    "link": (86, 0, "@1"),
    "linkat": (265, 37, "2@3"),
    "symlink": (88, 0, "@1"),
    "symlinkat": (266, 36, "1@2"),
    "unlink": (87, 0, "@0"),
    "unlinkat": (263, 35, "0@1"),
    "rmdir": (84, 0, "@0"),
    "chmod": (90, 0, "@0"),
    "fchmod": (91, 52, "0"),
    "fchmodat": (268, 53, "0@1"),
    "fchmodat2": (452, 452, "0@1"),
    "chown": (92, 0, "@0"),
    "lchown": (94, 0, "@0"),
    "fchown": (93, 55, "0"),
    "fchownat": (260, 54, "0@1"),
    "utimensat": (280, 88, "0@1"),
    "setxattr": (188, 5, "@0"),
    "lsetxattr": (189, 6, "@0"),
    "fsetxattr": (190, 7, "0"),
    "bind": (49, 200, "&1"),
    "ioctl": (16, 29, "0"),
    "read": (0, 63, "0"),
    "pread64": (17, 67, "0"),
    "readv": (19, 65, "0"),
    "preadv": (295, 69, "0"),
    "preadv2": (327, 286, "0"),
    "getdents64": (217, 61, "0"),
    "stat": (4, 0, "@0"),
    "lstat": (6, 0, "@0"),
    "fstat": (5, 80, "0"),
    "newfstatat": (262, 79, "0@1"),
    "statx": (332, 291, "0@1"),
    "readlink": (89, 0, "@0"),
    "readlinkat": (267, 78, "0@1"),
    "flock": (73, 32, "0"),
    "close": (3, 57, "0"),
}
_ARCHITECTURE = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column in CALLS, AUDIT_ARCH_*
FICLONE, FICLONERANGE = 0x40049409, 0x4020940D
_OPENING = {"open": 1, "openat": 2}  # where the flags stand; those of openat2 are in memory
_MAKING = os.O_CREAT | os.O_TRUNC

KILL, SKIP = -1, -2  # SIGKILL before it is made; it returns 0 and is not made
_NOTIF, _RESP = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")  # seccomp_notif, seccomp_notif_resp
_RECV, _SEND = 0xC0502100, 0xC0182101  # _IOWR('!', 0 and 1, ...)
_CONTINUE = 1
_RANDOM = re.compile(r"(?<=[.-])[0-9a-f]{8,16}(?=\.(part|tmp|aside)\b)")


@dataclass(frozen=True, order=True)
class Point:
    """The `number`-th `call` (from 1) on the file, which is named as below the process's root, without dice."""

    call: str
    file: str
    number: int


Decide = Callable[[Point], int]


class Overseen:
    """One process: what it asked about, in order, and what was answered with other than yes."""

    def __init__(self, root: Path, decide: Decide) -> None:
        self.points: list[Point] = []
        self.refused: list[Point] = []
        self._root = str(root.resolve())
        self._decide = decide
        self._counts: Counter[tuple[str, str]] = Counter()

    def answer(self, listener: int, pid: int) -> None:
        """Answer the kernel's questions about the process until it is gone."""
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        while not poll.poll()[0][1] & select.POLLHUP:
            question = bytearray(_NOTIF.size)
            with suppress(FileNotFoundError):  # killed, or interrupted, before we asked or before we answered
                fcntl.ioctl(listener, _RECV, question)
                number, thread, _, call, _, _, *arguments = _NOTIF.unpack(question)
                verdict = self._judge(thread, _NAMES[call], arguments)
                if verdict == KILL:
                    os.kill(pid, signal.SIGKILL)
                    continue
                error = 0 if verdict == SKIP else -verdict
                fcntl.ioctl(listener, _SEND, _RESP.pack(number, 0, error, 0 if verdict else _CONTINUE))

    def _judge(self, thread: int, call: str, arguments: Sequence[int]) -> int:
        try:
            named = _of_file(thread, call, arguments)
        except OSError:
            return 0  # no such descriptor, address or thread: the kernel says so itself
        if not (named == self._root or named.startswith(self._root + "/")):
            return 0
        file = _RANDOM.sub("*", named[len(self._root) :].lstrip("/"))
        kind = _kind(thread, call, arguments)
        self._counts[kind, file] += 1
        point = Point(kind, file, self._counts[kind, file])
        self.points.append(point)
        verdict = self._decide(point)
        if verdict:
            self.refused.append(point)
        return verdict


@contextmanager
def overseeing(root: Path, calls: Iterable[str], decide: Decide) -> Iterator[tuple[Overseen, list[str]]]:
    """What to put before the one command that is overseen; only its files below `root` are asked about.

    Of `calls`, "openat" is one that makes a name or cuts a file, "openat(read)" any other.

    `decide` runs in a thread and says 0 (let it be made), an errno, KILL or SKIP. Leave it when the command ended.
    """
    overseen = Overseen(root, decide)
    name = f"\0overseer-{secrets.token_hex(8)}"
    wanted = ",".join(_asked(set(calls)))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind(name)
        door.listen(1)
        thread = threading.Thread(target=_receive, args=(door, overseen), name="overseer")
        thread.start()
        try:
            yield overseen, [sys.executable, "-I", "-S", __file__, name[1:], wanted]
        finally:
            with suppress(OSError):
                door.shutdown(socket.SHUT_RDWR)  # if the command never came
            thread.join()


def _receive(door: socket.socket, overseen: Overseen) -> None:
    try:
        process, _ = door.accept()
    except OSError:
        return
    with process:
        pid = struct.unpack("3i", process.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        _, ancillary, _, _ = process.recvmsg(1, socket.CMSG_SPACE(4))
    if not ancillary:
        return
    (listener,) = array.array("i", ancillary[0][2])
    try:
        overseen.answer(listener, pid)
    finally:
        os.close(listener)  # whatever the process asks from now on is ENOSYS: it does not hang


def _of_file(thread: int, call: str, arguments: Sequence[int]) -> str:
    """The file's path; raises OSError if there is none."""
    if CALLS[call][2] == "&1":  # a family of two bytes, then a path (unix(7)) or what is none
        return _text(thread, arguments[1] + 2)
    descriptor, at, path = CALLS[call][2].partition("@")
    base = f"/proc/{thread}/cwd"
    if descriptor and (signed := ctypes.c_int32(arguments[int(descriptor)]).value) != -100:  # AT_FDCWD
        base = f"/proc/{thread}/fd/{signed}"
    if not at:
        return os.readlink(base)
    name = _text(thread, arguments[int(path)])
    if (held := re.match(r"/proc/self/fd/(\d+)(?=/|$)", name)) is not None:
        name = os.readlink(f"/proc/{thread}/fd/{held[1]}") + name[held.end() :]
    return os.path.normpath(name if name.startswith("/") else f"{os.readlink(base)}/{name}")


def _kind(thread: int, call: str, arguments: Sequence[int]) -> str:
    """Whether an open makes a name or cuts a file is another thing than reading it; so is a clone than other ioctls."""
    if call in _OPENING or call == "openat2":
        place = _OPENING.get(call)
        flags = arguments[place] if place else struct.unpack("Q", _bytes(thread, arguments[2], 8))[0]
        return call if flags & _MAKING else f"{call}(read)"
    if call == "ioctl":
        return "ficlone" if arguments[1] in (FICLONE, FICLONERANGE) else "ioctl"
    return call


def _asked(calls: Set[str]) -> list[str]:
    """The numbers of these calls; behind it the place of an open's flags, where one that only reads is not asked about.

    A start opens two thousand files to read them.
    """
    asked = []
    for call, (*numbers, _) in CALLS.items():
        if (numbers[_COLUMN] or call == "read") and calls & {call, f"{call}(read)"}:
            is_making = call in _OPENING and f"{call}(read)" not in calls
            asked.append(f"{numbers[_COLUMN]}:{_OPENING[call]}" if is_making else f"{numbers[_COLUMN]}:")
    return asked


def _bytes(thread: int, address: int, count: int) -> bytes:
    memory = os.open(f"/proc/{thread}/mem", os.O_RDONLY)
    try:
        return os.pread(memory, count, address)
    finally:
        os.close(memory)


def _text(thread: int, address: int) -> str:
    page = os.sysconf("SC_PAGE_SIZE")
    found = b""
    while b"\0" not in found:  # page by page: behind a page there may be none
        found += _bytes(thread, address + len(found), page - (address + len(found)) % page)
    return os.fsdecode(found.partition(b"\0")[0])


_COLUMN, _AUDIT = _ARCHITECTURE.get(platform.machine(), (0, 0))
_NAMES = {numbers[_COLUMN]: name for name, numbers in CALLS.items()}


def _hand_over(name: str, asked: Sequence[str]) -> None:
    """This process's calls of these numbers (see _asked) are asked about from now on, by whoever listens there."""
    libc = ctypes.CDLL(None, use_errno=True)
    load, equal, any_of, give = 0x20, 0x15, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JSET|K, BPF_RET|K
    allow, ask = (give, 0, 0, 0x7FFF0000), (give, 0, 0, 0x7FC00000)  # SECCOMP_RET_ALLOW, _USER_NOTIF
    steps = [(load, 0, 0, 4), (equal, 1, 0, _AUDIT), allow, (load, 0, 0, 0)]  # seccomp_data: nr, arch, ip, args[6]
    for number, _, flags in (each.partition(":") for each in asked):
        if flags:
            steps += [
                (equal, 0, 4, int(number)),
                (load, 0, 0, 16 + 8 * int(flags)),
                (any_of, 1, 0, _MAKING),
                allow,
                ask,
            ]
        else:
            steps += [(equal, 0, 1, int(number)), ask]
    steps += [allow]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(program)))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.connect("\0" + name)
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        # SECCOMP_SET_MODE_FILTER, _FILTER_FLAG_NEW_LISTENER
        listener = libc.syscall((317, 277)[_COLUMN], 1, ctypes.c_ulong(8), filter_)
        if listener < 0:
            sys.exit(f"overseer: {os.strerror(ctypes.get_errno())}")
        door.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))])


if __name__ == "__main__":
    _hand_over(sys.argv[1], sys.argv[2].split(","))
    os.execv(sys.argv[3], sys.argv[3:])
