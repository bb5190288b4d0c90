"""Proof that a file was verified: its inode, size and times right after its hash was found right.

While the seal matches, nobody hashes the file again; when it does not, somebody touched the file and only a hash can
say whether it is still right. The daemon takes seals and writes the ready file; the loader checks them.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from qwen_api.undecodable import UNDECODABLE


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """What stat(2) said of the file that a snapshot path leads to (symlinks followed)."""

    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The ready file: a model that is complete, where it is, and the seal of every wanted file by path."""

    repo: str
    revision: str
    commit: str
    path: str
    verified: str
    seals: dict[str, Seal]
    # Neither has a default: a file that does not say it is none, for an unsaid danger would be no danger.
    has_code: bool
    has_pickle: bool


def take_seal(file: Path | int) -> Seal:
    """Stat the file behind the path, or the one that is open there. Raises OSError if there is none."""
    found = os.stat(file)  # noqa: PTH116 - a Path has no stat for what is open
    return Seal(inode=found.st_ino, size_bytes=found.st_size, mtime_ns=found.st_mtime_ns, ctime_ns=found.st_ctime_ns)


def seal_matches(path: Path, seal: Seal) -> bool:
    """True when the file behind `path` is there and untouched since `seal` was taken."""
    try:
        return take_seal(path) == seal
    except OSError:
        return False


def read_ready(path: Path) -> Ready | None:
    """The ready file's content; None if it is absent or not one (then the model counts as not ready)."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ready)
    except (OSError, *UNDECODABLE):
        return None
