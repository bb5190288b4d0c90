"""Hashes many files at once, the largest first, with a progress line and a way out: `check --verify full`.

Which files and which algorithm is `check`'s to say; a file's hash is `qwen_api.inventory.hash_file`'s. hashlib lets
go of the interpreter lock, so threads are enough.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Literal

import msgspec

from qwen_api.inventory import hash_file
from qwen_api.language import _, ngettext
from qwen_monitor.console import Console
from qwen_monitor.display import bytes_text, duration_text, pair_text, percent_text, rate_text

WORKERS_MAX = 4  # a disk reads no faster from more, and the machine has other work
SHOWN_AFTER_S = 1.0  # a check that is over sooner needs no progress line
REDRAW_S = 0.25
LINE_EVERY_S = 30.0  # on a stream that cannot rewrite its line


class HashJob(msgspec.Struct, frozen=True, kw_only=True):
    """One file to hash: its path in the repository, where it is, and how."""

    path: str
    file: Path
    size_bytes: int
    algorithm: Literal["sha256", "git-sha1"]


class Hashed(msgspec.Struct, frozen=True, kw_only=True):
    """How much was hashed, and how fast."""

    files: int
    size_bytes: int
    duration_s: float
    rate_bps: int

    def text(self) -> str:
        """`hashed 35 files, 57.7 GB in 0:36, 1.6 GB/s`."""
        spent = duration_text(self.duration_s)
        return ngettext(
            "hashed {count} file, {size} in {time}, {rate}",
            "hashed {count} files, {size} in {time}, {rate}",
            self.files,
            size=bytes_text(self.size_bytes),
            time=spent,
            rate=rate_text(self.rate_bps),
        )


def hash_all(jobs: Sequence[HashJob], console: Console) -> tuple[Mapping[str, str], Hashed]:
    """The hash of every file by path; a file that cannot be read is left out. Ctrl-C ends it within a chunk."""
    # The largest first: one file is one core's work, so a large one at the end would leave the others idle.
    jobs = sorted(jobs, key=lambda job: -job.size_bytes)
    run = _Run(len(jobs), sum(job.size_bytes for job in jobs), console)
    hashes: dict[str, str] = {}
    workers = min(WORKERS_MAX, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(workers, thread_name_prefix="hash") as pool:
        waiting = {pool.submit(run.hash, job): job for job in jobs}
        try:
            while waiting:
                done, _ = wait(waiting, timeout=REDRAW_S, return_when=FIRST_COMPLETED)
                for future in done:
                    _take(future, waiting.pop(future), hashes)
                run.show(len(jobs) - len(waiting))
        except BaseException:
            run.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    console.end_progress()
    return hashes, run.result()


def _take(future: Future[str], job: HashJob, hashes: dict[str, str]) -> None:
    try:
        hashes[job.path] = future.result()
    except OSError:
        return  # the inventory already says that it cannot be read, or it has just vanished: no hash, no proof


class _Run:
    def __init__(self, files: int, size_bytes: int, console: Console) -> None:
        self.stop = threading.Event()
        self._files = files
        self._size_bytes = size_bytes
        self._console = console
        self._done_bytes = 0
        self._lock = threading.Lock()
        self._began_s = time.monotonic()
        self._said_s = self._began_s + SHOWN_AFTER_S - LINE_EVERY_S

    def hash(self, job: HashJob) -> str:
        return hash_file(
            job.file,
            algorithm=job.algorithm,
            size_bytes=job.size_bytes,
            progress=self._count,
            stop=self.stop.is_set,
        )

    def result(self) -> Hashed:
        spent_s = max(time.monotonic() - self._began_s, 1e-3)
        return Hashed(
            files=self._files,
            size_bytes=self._done_bytes,
            duration_s=round(spent_s, 3),
            rate_bps=int(self._done_bytes / spent_s),
        )

    def show(self, done_files: int) -> None:
        now_s = time.monotonic()
        spent_s = now_s - self._began_s
        if spent_s < SHOWN_AFTER_S:
            return
        rate = self._done_bytes / spent_s
        left_s = (self._size_bytes - self._done_bytes) / rate if rate else float("inf")
        done = f"{percent_text(self._done_bytes, self._size_bytes)} {pair_text(self._done_bytes, self._size_bytes)}"
        text = _(
            "hashing {done}, {files}, {rate}, {time} left",
            done=done,
            files=ngettext("{done}/{count} file", "{done}/{count} files", self._files, done=done_files),
            rate=rate_text(rate),
            time=duration_text(left_s),
        )
        if self._console.is_terminal:
            self._console.progress(text)
        elif now_s - self._said_s >= LINE_EVERY_S:
            self._said_s = now_s
            self._console.hint(text)

    def _count(self, count: int) -> None:
        with self._lock:
            self._done_bytes += count
