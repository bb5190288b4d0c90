"""Every process that a test starts, and every folder that goes before the test ends, is looked through for canaries.

By construction, and not by a call that a test could forget: `subprocess.Popen` is one that listens (conftest puts it
there before any test is imported), and an audit hook hears of folders that are about to be removed, so that a
TemporaryDirectory of a test's own, here or on another disk, is none that nobody looked into. What is found is kept
until conftest asks for it after each test: a leak must fail the test and not change its course.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from tests import canary

LOOK_AGAIN_S = 0.1  # a look at all processes of the machine costs milliseconds

_LibrarysPopen = subprocess.Popen
_found: list[str] = []
_folders: set[Path] = set()
_is_over = False  # an audit hook is for ever; when the session is over, pytest sweeps what older ones left


class Popen(_LibrarysPopen):
    """As the library's. Its arguments and environment are looked at, and all that is read from its pipes.

    What a test would throw away (DEVNULL) goes into a file in memory, to be looked at when the process is waited for.
    """

    def __init__(self, args: Any, *more: Any, **options: Any) -> None:
        words = [args] if isinstance(args, str | bytes | os.PathLike) else list(args)
        self._of = " ".join(os.fsdecode(word) for word in words)[:200]
        self._own = set((options.get("env") or os.environ).values())
        self._dropped: dict[str, int] = {}
        self._looked_s = 0.0
        look(lambda: canary.refuse({f"an argument of {self._of}": os.fsdecode(word) for word in words}))
        if os.fsdecode(words[0]).endswith("umount"):  # what is unmounted is out of sight
            look(lambda: canary.refuse_in_files(Path(os.fsdecode(words[-1]))))
        for name in ("stdout", "stderr"):
            if options.get(name) == subprocess.DEVNULL:
                options[name] = self._dropped[name] = os.memfd_create(name)
        super().__init__(args, *more, **options)
        for name in ("stdout", "stderr"):
            if (pipe := getattr(self, name)) is not None:
                setattr(self, name, _heard(pipe, self._hear))

    def communicate(self, *more: Any, **options: Any) -> Any:
        """As the library's."""
        said = super().communicate(*more, **options)
        self._look_around()
        for text in filter(None, said):
            look(lambda text=text: canary.refuse({f"what {self._of} says": text}))
        return said

    def wait(self, timeout: float | None = None) -> int:
        """As the library's."""
        self._look_around()
        code = super().wait(timeout)
        self._look_at_dropped()
        return code

    def send_signal(self, number: int) -> None:
        """As the library's."""
        self._look_around()
        super().send_signal(number)

    def __del__(self, *more: Any) -> None:
        self._look_at_dropped()
        super().__del__(*more)

    def _hear(self, text: bytes) -> None:
        look(lambda: canary.refuse({f"what {self._of} says": text}))
        if time.monotonic() - self._looked_s > LOOK_AGAIN_S:
            self._look_around()

    def _look_around(self) -> None:
        """It and its descendants may show no secret in /proc but what the test itself put into its environment."""
        if self.returncode is not None:
            return
        self._looked_s = time.monotonic()
        secrets = [secret for secret in canary.PLANTED if not any(secret in value for value in map(str, self._own))]
        for pid in (self.pid, *_descendants(self.pid)):
            with suppress(OSError):  # gone meanwhile
                look(lambda pid=pid: canary.refuse_in_process(pid, secrets))

    def _look_at_dropped(self) -> None:
        while self._dropped:
            name, handle = self._dropped.popitem()
            look(lambda name=name, handle=handle: canary.refuse_in_open(handle, f"{name} of {self._of}"))
            os.close(handle)


class _Ear(io.RawIOBase):
    """A pipe's end, whose every byte is heard; a secret that comes in two pieces too."""

    def __init__(self, pipe: io.RawIOBase, hear: Callable[[bytes], None]) -> None:
        self._pipe, self._hear, self._before = pipe, hear, b""

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._pipe.fileno()

    def readinto(self, room: Any) -> int | None:
        count = self._pipe.readinto(room)
        if count:
            heard = self._before + bytes(room[:count])
            self._hear(heard)
            self._before = heard[-max(map(len, canary.PLANTED)) :]
        return count

    def close(self) -> None:
        self._pipe.close()
        super().close()


def _heard(pipe: IO[Any], hear: Callable[[bytes], None]) -> IO[Any]:
    """The same pipe, buffered and decoded as it was, with an ear at it."""
    if isinstance(pipe, io.TextIOWrapper):
        encoding, errors = pipe.encoding, pipe.errors
        under = pipe.detach()
        return io.TextIOWrapper(_heard(under, hear), encoding=encoding, errors=errors)
    if isinstance(pipe, io.BufferedReader):
        return io.BufferedReader(_Ear(pipe.detach(), hear))
    return _Ear(pipe, hear)


def install() -> None:
    """From here on every process and every folder of this process is watched."""
    if subprocess.Popen is not Popen:
        subprocess.Popen = Popen
        sys.addaudithook(_hook)


def end() -> None:
    """No folder is watched any more."""
    global _is_over
    _is_over = True


def look(refuse: Callable[[], object]) -> None:
    """What it finds is kept for the end of the test."""
    try:
        refuse()
    except canary.Leaked as leaked:
        _found.append(str(leaked))


def found() -> list[str]:
    """What was found since the last time this was asked, folders that tests made and left included."""
    for folder in [folder for folder in _folders if folder.exists()]:
        look(lambda folder=folder: canary.refuse_in_files(folder))
    _folders.clear()
    told = list(_found)
    _found.clear()
    return told


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _is_over:
        return
    if event == "tempfile.mkdtemp":
        _folders.add(Path(os.fsdecode(args[0])))
    elif event == "shutil.rmtree" and args[1] is None:
        _folders.discard(folder := Path(os.fsdecode(args[0])))
        look(lambda: canary.refuse_in_files(folder))


def _descendants(pid: int) -> Iterable[int]:
    children: Mapping[int, list[int]] = _children()
    below = list(children.get(pid, ()))
    for child in below:
        below.extend(children.get(child, ()))
    return below


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                facts = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()
                children.setdefault(int(facts[1]), []).append(int(name))
    return children
