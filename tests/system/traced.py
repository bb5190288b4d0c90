"""One job of the real daemon under strace, which counts its system calls, ends it at one, or lies about them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.running import WAIT_S, Running

CHANGING = ("pwrite64", "fdatasync", "fsync", "rename", "symlink", "unlink", "ftruncate", "mkdir")


def run_once(daemon: Running, model: str, *options: str) -> int:
    """`--once` with these options of strace, to its end; returns the exit code. What strace saw is in `trace_of`."""
    command = ["strace", "-f", "-qq", "-o", str(trace_of(daemon)), *options]  # --seccomp-bpf miscounts
    command += [sys.executable, "-m", "qwen_daemon", "--config", str(daemon.config_file), "--once", model]
    with (daemon.root / "stderr").open("ab") as stderr, (daemon.root / "stdout").open("ab") as stdout:
        return subprocess.run(
            command, env=daemon.env, cwd=daemon.root, stdout=stdout, stderr=stderr, timeout=2 * WAIT_S
        ).returncode


def trace_of(daemon: Running) -> Path:
    """The file with a line for each call."""
    return daemon.root / "trace"


def count_calls(daemon: Running, model: str) -> dict[str, int]:
    """How many calls of each kind that changes the disk the busiest thread makes in an undisturbed job."""
    assert run_once(daemon, model, "-e", f"trace={','.join(CHANGING)}") == 0
    lines = (line.split() for line in trace_of(daemon).read_text().splitlines() if "(" in line)
    calls = Counter((words[0], words[1].partition("(")[0]) for words in lines)
    return {kind: max(count for (_, name), count in calls.items() if name == kind) for kind in CHANGING}
