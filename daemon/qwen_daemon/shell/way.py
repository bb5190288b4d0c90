"""Putting a file or a link where it must stand: atomically, and without losing what was there.

The folder is held by the caller (beneath.Root); a folder where the file must be is moved aside and kept. Synchronous.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from qwen_daemon.shell import beneath, durable


def put(part: Path, named: Path) -> None:
    """Move the part (durable, on the same file system) to `named`, atomically and durably."""
    _clear(named)
    part.replace(named)
    durable.sync_folder(named.parent)


def link(named: Path, target: str) -> bool:
    """Make `named` a link with this text, atomically; False if it is one. The folder still has to be synced."""
    try:
        named.symlink_to(target)
    except FileExistsError:
        if _leads(named) == target:
            return False
        _clear(named)
        durable.replace_link(named, target)
    return True


def _leads(named: Path) -> str | None:
    """The link's text; None if it is no link, or the disk cannot read it."""
    try:
        return os.readlink(named) if named.is_symlink() else None  # noqa: PTH115 - the text, not a Path
    except OSError as error:
        if durable.is_unreadable(error):
            return None
        raise


def _clear(named: Path) -> None:
    """Raises OSError if what stands there is damaged and cannot even be removed."""
    try:
        is_folder = stat.S_ISDIR(named.lstat().st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        if not durable.is_unreadable(error):
            raise
        named.unlink()
        return
    if is_folder:
        named.rename(named.with_name(beneath.aside()))
