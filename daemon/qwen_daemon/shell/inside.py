"""Which files on disk count as the cache's own: regular ones whose real place is inside it, whatever links lead there.

A link planted to lead out of the cache is not believed. A model's folder, or its blobs, may itself be a link: people
move models to larger disks.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from qwen_api import places
from qwen_api.seals import Seal, take_seal


def real_inside(cache: Path, repo: str, path: Path) -> Path | None:
    """Where `path` (a file of `repo`, or of the shared store if "") really is; None if that is not in the cache.

    None too if a link on the way vanishes while it is followed: os.path.realpath raises then.
    """
    roots = [cache]
    if repo:
        folder = places.repo_dir(cache, repo)
        roots += [folder, folder / "blobs"]
    try:
        real = Path(os.path.realpath(path))
        return real if any(real.is_relative_to(os.path.realpath(root)) for root in roots) else None
    except OSError:
        return None


def seal_inside(cache: Path, repo: str, path: Path) -> Seal | None:
    """The seal of the regular file behind the path, if there is one and it is the cache's own."""
    return seal_of(path) if real_inside(cache, repo, path) is not None else None


def plain_inside(cache: Path, repo: str, path: Path) -> bool:
    """True if something that is no link stands at `path`, really inside the cache."""
    return os.path.lexists(path) and not path.is_symlink() and real_inside(cache, repo, path) is not None


def is_straight(path: Path) -> bool:
    """True if no part of the path is a link."""
    try:
        return os.path.realpath(path) == str(path)
    except OSError:  # swapped while it was followed
        return False


def plain_seal(path: Path) -> Seal | None:
    """The seal of a regular file that is no link, in a folder that is known to be inside; None if it is anything else.

    Much cheaper than `seal_inside`: most blobs are plain files, and a look at a model takes thousands.
    """
    try:
        return take_seal(path) if stat.S_ISREG(path.lstat().st_mode) else None
    except (FileNotFoundError, NotADirectoryError):
        return None


def seal_of(path: Path) -> Seal | None:
    """The seal of the regular file behind the path, wherever it is; None if there is none."""
    try:
        return take_seal(path) if path.is_file() else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
