"""The way to a path where a file must stand: made free without following a link or losing what was there.

A file or a link where a folder must be, and a folder where the file must be, are moved aside and kept. Synchronous.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from qwen_daemon.shell import durable


def put(part: Path, named: Path, below: Path) -> None:
    """Move the part (durable, on the same file system) to `named`, atomically and durably."""
    clear(named, below)
    durable.make_folder(named.parent)
    part.replace(named)
    durable.sync_folder(named.parent)


def clear(named: Path, below: Path) -> None:
    """Move aside whatever below the folder `below` keeps a file from standing at `named`."""
    folders = [step for step in reversed(named.parents) if below in step.parents]
    for step in [*folders, named]:
        try:
            mode = step.lstat().st_mode  # one look: another file's publishing may be making this folder right now
        except (FileNotFoundError, NotADirectoryError):
            continue
        is_wrong = stat.S_ISDIR(mode) if step == named else not stat.S_ISDIR(mode)
        if is_wrong:
            step.rename(step.with_name(f".qwen-{secrets.token_hex(4)}.aside"))


def leads_straight(folder: str, below: str) -> bool:
    """True if no link stands between `below` (which may be behind one) and the folder."""
    return os.path.realpath(folder) == f"{os.path.realpath(below)}/{os.path.relpath(folder, below)}"


def make_folder(folder: Path, below: Path) -> None:
    """Make the folder, durably; links on the way are moved aside."""
    clear(folder / "_", below)
    durable.make_folder(folder)
