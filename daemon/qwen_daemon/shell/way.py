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
        if named.is_symlink() and os.readlink(named) == target:  # noqa: PTH115 - the text, not a Path
            return False
        _clear(named)
        durable.replace_link(named, target)
    return True


def _clear(named: Path) -> None:
    try:
        is_folder = stat.S_ISDIR(named.lstat().st_mode)
    except FileNotFoundError:
        return
    if is_folder:
        named.rename(named.with_name(beneath.aside()))
