"""What huggingface_hub keeps about each file of a local_dir, in `.cache/huggingface/download/<path>.metadata`.

Three lines: commit, etag, when that was true (Unix time; _local_folder.py of 2.4). It is believed by huggingface_hub
while the file is not newer by more than a second, so it must never stand beside a file that it does not describe.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import msgspec

from qwen_daemon.shell import durable

SLACK_S = 1.0  # as there: a file system's times may be coarse
BYTES_MAX = 4096


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """At that time, the file was the one with this etag at this commit."""

    commit: str
    etag: str
    at_s: float

    def covers(self, mtime_ns: int) -> bool:
        """The file was not written to since."""
        return mtime_ns / 1e9 - SLACK_S <= self.at_s


def read_metadata(path: Path) -> Metadata | None:
    """None if there is none, or nothing that huggingface_hub could read."""
    try:
        with path.open("rb") as file:
            lines = file.read(BYTES_MAX).decode().split("\n")
        at_s = float(lines[2])
    except (OSError, ValueError, IndexError):
        return None
    return Metadata(commit=lines[0].strip(), etag=lines[1].strip(), at_s=at_s) if math.isfinite(at_s) else None


def write_metadata(path: Path, commit: str, etag: str, mtime_ns: int) -> None:
    """Say so of a file that is durable. One from the future is covered as well: it will not change by waiting."""
    at_s = max(time.time(), mtime_ns / 1e9)
    durable.write_file(path, f"{commit}\n{etag}\n{at_s}\n".encode())
