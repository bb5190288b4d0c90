"""Folders below a root, opened one step at a time, so that nothing is written where a swapped-in link leads.

Others write to a shared cache too: between a look at a folder and a write into it they can put a link in its place. So
a folder is held open while it is worked in, no step on the way to it follows a link (as openat2(2) with
RESOLVE_NO_SYMLINKS, which Python does not have), and all work goes through `/proc/self/fd/N`, which leads into that
very folder whatever its name leads to by now. What stands in the way of a folder is moved aside and kept; so is a
folder that the disk cannot read any more, if what it holds is soon made again.

Two kinds of links are followed: the root itself is wherever it leads, and a folder that people move to other disks may
be a link - if the daemon's user, root or the owner of the folder it lies in made it, and to where it led when the
round of work began. Synchronous. Reading by name is still allowed: a hash decides about what was read.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import structlog

from qwen_daemon.core.errors import AskHuman, MakeRoom, TryAgain
from qwen_daemon.shell import durable

TRIES = 5  # at one folder, before whoever swaps it is the trouble; each try moves one thing out of the way
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC  # O_PATH: of a folder on the way one need not read the names
_STEP = _FOLDER | os.O_NOFOLLOW
log = structlog.get_logger(__name__)


class Root:
    """The folder `path`. `may_be_link` says of names below it whether that folder may be a link to another disk.

    `may_be_renewed` says which ones are made anew when they cannot be read.
    `is_real`: the root must be `path` itself, without any link that leads there.
    """

    def __init__(
        self,
        path: Path,
        *,
        may_be_link: Callable[[Sequence[str]], bool] = lambda _names: False,
        may_be_renewed: Callable[[Sequence[str]], bool] = lambda _names: False,
        is_real: bool = False,
    ) -> None:
        self._path = path
        self._may_be_link = may_be_link
        self._may_be_renewed = may_be_renewed
        self._is_real = is_real
        self._was_there = path.is_dir()
        self._led: dict[Path, Path | None] = {}  # where what may be a link led at the last look; None: it was none

    def look_again(self, *folders: Path) -> None:
        """See where the links on the way to these folders lead now: call it when a round of work begins.

        Raises MakeRoom(E_CACHE_GONE) if the root was there, and is not any more.
        """
        self._miss()
        for link in {link for folder in folders for link in (folder, *folder.parents)}:
            self._led.pop(link, None)
        for folder in folders:
            self._start(folder)

    @contextmanager
    def inside(self, folder: Path, *, make: bool = False) -> Iterator[Path]:
        """Hold the folder (the root, or below it) open; gives a path that leads into it as long as it is held.

        `make`: made durably if it is not there; what stands in the way is moved aside. Otherwise FileNotFoundError and
        NotADirectoryError say that it is none. Raises OSError and Troubles, E_FOLDER_IS_LINK among them.
        """
        held = self._open(folder, make)
        try:
            yield Path(f"/proc/self/fd/{held}")
        except OSError as error:
            error.filename = _told(error.filename, held, folder)
            error.filename2 = _told(error.filename2, held, folder)
            raise
        finally:
            os.close(held)

    def _open(self, folder: Path, make: bool) -> int:
        start, steps = self._start(folder)
        names = folder.relative_to(self._path).parts
        held = self._open_root(make) if start == self._path else os.open(start, _STEP)
        for depth, name in enumerate(steps, len(names) - len(steps) + 1):
            try:
                if make and self._may_be_renewed(names[:depth]):
                    _renew_if_damaged(held, name)
                below = _step(held, name, folder, make=make, move=not self._may_be_link(names[:depth]))
            finally:
                os.close(held)
            held = below
        return held

    def _start(self, folder: Path) -> tuple[Path, list[str]]:
        """Where the nearest link that is followed leads, or the root; and the steps from there to the folder."""
        start, steps = self._path, list[str]()
        names = folder.relative_to(self._path).parts
        for depth, name in enumerate(names, 1):
            steps.append(name)
            if self._may_be_link(names[:depth]):
                link = self._path.joinpath(*names[:depth])
                try:
                    led = self._led[link]
                except KeyError:
                    led = self._led[link] = _trusted_target(start.joinpath(*steps))
                start, steps = (led, []) if led is not None else (start, steps)
        return start, steps

    def _miss(self) -> None:
        """A root that vanished may be a disk that was unmounted: made anew it would fill what lies below."""
        if self._was_there and not self._path.is_dir():
            raise MakeRoom("E_CACHE_GONE", f"{self._path} was there and is not any more", is_foreseen=True)

    def _open_root(self, make: bool) -> int:
        if make:
            self._miss()
            durable.make_folder(self._path)
        held = os.open(self._path, _FOLDER)
        self._was_there = True
        if self._is_real and (real := os.readlink(f"/proc/self/fd/{held}")) != str(self._path):  # noqa: PTH115
            os.close(held)
            detail = f"{self._path} leads to {real} since the daemon began: name the new place in local_dir"
            raise AskHuman("E_PERMISSION", detail)
        return held


@asynccontextmanager
async def held(folder: AbstractContextManager[Path]) -> AsyncIterator[Path]:
    """`Root.inside`, opened in a thread. Raises Troubles."""
    path = await durable.in_thread(folder.__enter__)
    try:
        yield path
    finally:
        folder.__exit__(None, None, None)


def aside() -> str:
    """A new name for what stood in the way."""
    return f".qwen-{secrets.token_hex(4)}.aside"


def _step(held: int, name: str, folder: Path, *, make: bool, move: bool) -> int:
    """Open the folder `name` of the one that is held."""
    for _ in range(TRIES):
        try:
            return os.open(name, _STEP, dir_fd=held)
        except FileNotFoundError:
            if not make:
                raise
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=held)
                durable.sync_folder(Path(f"/proc/self/fd/{held}"))
        except NotADirectoryError:
            if not make:
                raise
            if not move:
                break
            _move_aside(held, name)
    raise TryAgain("E_FOLDER_IS_LINK", f"{name!r} on the way to {folder} was replaced while the daemon worked there")


def _move_aside(held: int, name: str) -> None:
    """What is no folder gets another name; a folder that was put back meanwhile gets its own again."""
    other = aside()
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.stat(name, dir_fd=held, follow_symlinks=False).st_mode):
            os.rename(name, other, src_dir_fd=held, dst_dir_fd=held)
            if stat.S_ISDIR(os.stat(other, dir_fd=held, follow_symlinks=False).st_mode):
                with suppress(OSError):  # the name is taken again: it stays aside, and nothing in it is lost
                    os.rename(other, name, src_dir_fd=held, dst_dir_fd=held)


def _renew_if_damaged(held: int, name: str) -> None:
    """What cannot be read can be named by nobody either, and what is made in it would be lost: it gets another name."""
    try:
        below = os.open(name, _STEP, dir_fd=held)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        with os.scandir(f"/proc/self/fd/{below}") as names:
            next(names, None)
    except OSError as error:
        # Another thread may have been faster, and what has the name now be the new one.
        with suppress(FileNotFoundError):
            if durable.is_unreadable(error) and os.path.samestat(os.stat(name, dir_fd=held), os.fstat(below)):
                other = aside()
                os.rename(name, other, src_dir_fd=held, dst_dir_fd=held)
                why = durable.translate(OSError(error.errno, error.strerror)).detail
                log.warning("folder.unreadable", name=name, moved_to=other, why=why)
    finally:
        os.close(below)


def _trusted_target(link: Path) -> Path | None:
    """Where the link leads that somebody trusted made; None if it is no link. The link is held while it is judged."""
    try:
        held = os.open(link, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        found = os.fstat(held)
        if not stat.S_ISLNK(found.st_mode):
            return None
        if found.st_uid not in (0, os.geteuid(), link.parent.stat().st_uid):
            detail = f"{link} is a link that user {found.st_uid} made: root or the daemon's user must own it (chown -h)"
            raise AskHuman("E_FOLDER_IS_LINK", detail)
        return Path(os.path.realpath(link.parent / os.readlink("", dir_fd=held)))
    finally:
        os.close(held)


def _told(name: object, held: int, folder: Path) -> object:
    """The name for people: of the folder, not of our hold on it."""
    hold = f"/proc/self/fd/{held}/"
    return f"{folder}/{name[len(hold) :]}" if isinstance(name, str) and name.startswith(hold) else name
