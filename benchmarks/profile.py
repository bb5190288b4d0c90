"""Where our time goes, when a goal is not met: the daemon under py-spy, in a run of its own that counts for nothing.

Samples are summed by thread and by the innermost function of ours or of a library; code in C counts for its caller.
py-spy leaves out threads that wait, so the shares are of the time in which something ran.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

RATE_HZ = 200
LINES_SHOWN = 12
THREAD = re.compile(r"thread \([^)]*\): (.*)")  # as py-spy names one that has a name


class Spot(msgspec.Struct, frozen=True, kw_only=True):
    """A function in a thread, and its share of all samples (0 to 1)."""

    thread: str
    function: str
    share: float


def command(py_spy: str, target: Path, of: Sequence[str]) -> Sequence[str]:
    """The command that runs another one and writes its stacks to `target`."""
    options = ("--rate", str(RATE_HZ), "--threads", "--format", "raw", "--nonblocking", "--output", str(target))
    return (py_spy, "record", *options, "--", *of)


def spots(stacks: str) -> tuple[Spot, ...]:
    """The heaviest functions of stacks in py-spy's raw format: `thread;frame;...;frame count` per line."""
    found: Counter[tuple[str, str]] = Counter()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if frames and count.isdigit():
            found[_name(thread), _short(frames[-1])] += int(count)
    total = found.total() or 1
    return tuple(
        Spot(thread=thread, function=function, share=samples / total)
        for (thread, function), samples in found.most_common(LINES_SHOWN)
    )


def _name(thread: str) -> str:
    """`hash` for `thread (0x7F01): hash_0`: threads of one pool are one."""
    named = THREAD.fullmatch(thread)
    return re.sub(r"[_-]?\d+$", "", named[1]) if named else "unnamed"


def _short(frame: str) -> str:
    """`name (…/package/module.py:12)` without the folders before the package and without the line."""
    name, _, place = frame.partition(" (")
    parts = place.rstrip(")").partition(":")[0].split("/")
    return f"{name} ({'/'.join(parts[-2:])})"
