"""Runs of hours: numbered pieces of work on all processors, taken up where they were left, and their figures.

A piece that fails is told with its number and does not stop the others; the run fails at its end. What was done so far
stands in docs/figures.toml, from which `make docs` writes docs/reliability.md. Two environment variables:

    QWEN_LONG=4000:100000       these pieces; those that begin where the figures end are added to them
    QWEN_LONG_PROCESSES=2       so many at once
"""

from __future__ import annotations

import os
import sys
import time
import tomllib
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests import watched

FIGURES = Path(__file__).parents[1] / "docs" / "figures.toml"
TELL_S = 20.0  # how often progress is told and kept


def run(name: str, what: str, work: Callable[[int], int], numbers: range, *, at_once: int = 1) -> None:
    """Do `work` for each of the numbers; it returns how many of `what` that was, and raises if something is wrong.

    `name` is the figures' table; a process takes `at_once` numbers at a time. Raises AssertionError in the end.
    """
    numbers = _asked(os.environ.get("QWEN_LONG", "")) or numbers
    processes = int(os.environ.get("QWEN_LONG_PROCESSES", "0")) or os.cpu_count() or 1
    blocks = [range(first, min(first + at_once, numbers.stop)) for first in range(numbers.start, numbers.stop, at_once)]
    before = _before(name, numbers.start)
    wrong: list[str] = []
    began_s = told_s = time.monotonic()
    count = 0
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for block, (done, failures) in zip(blocks, pool.map(partial(_do, work), blocks), strict=True):
            count += done
            wrong += failures
            now_s = time.monotonic()
            for failure in failures:
                print(failure, file=sys.stderr, flush=True)
            if now_s - told_s >= TELL_S or block is blocks[-1]:
                told_s = now_s
                _tell(name, what, numbers, block.stop, count, len(wrong), now_s - began_s)
                entry = {
                    "what": what,
                    "date": date.today(),
                    "first": before.get("first", numbers.start),
                    "end": block.stop,
                    "count": before.get("count", 0) + count,
                    "seconds": round(before.get("seconds", 0) + now_s - began_s),
                    "processes": processes,
                    "violations": before.get("violations", 0) + len(wrong),
                }
                keep(name, entry)
    assert wrong == [], f"{len(wrong)} of {what}"


def figures() -> dict[str, dict[str, Any]]:
    """What all runs found so far, by their names."""
    return tomllib.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}


def keep(name: str, entry: Mapping[str, object]) -> None:
    """Put a run's figures in the place of its former ones."""
    known = dict(sorted({**figures(), name: entry}.items()))
    tables = [
        "\n".join([f"[{table}]", *(f"{key} = {_toml(fact)}" for key, fact in known[table].items()), ""])
        for table in known
    ]
    head = "# Written by the long runs (tests/long_run.py); `make docs` puts it into reliability.md.\n\n"
    FIGURES.write_text(head + "\n".join(tables), encoding="utf-8")


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _asked(text: str) -> range | None:
    first, colon, end = text.partition(":")
    return range(int(first), int(end)) if colon else None


def _before(name: str, first: int) -> Mapping[str, Any]:
    known = figures().get(name, {})
    return known if known.get("end") == first else {}


def _do(work: Callable[[int], int], block: range) -> tuple[int, list[str]]:
    watched.install()  # this is a process that conftest knows nothing of
    count, failures = 0, []
    for number in block:
        try:
            count += work(number)
            assert watched.found() == []
        except Exception:
            failures.append(f"number {number}:\n{traceback.format_exc()}")
    return count, failures


def _tell(name: str, what: str, numbers: range, end: int, count: int, wrong: int, spent_s: float) -> None:
    left_s = spent_s * (numbers.stop - end) / (end - numbers.start)
    print(
        f"{name}: {count} {what} in {spent_s:.0f} s, {wrong} violations; {left_s / 60:.0f} minutes left; "
        f"to go on from here: QWEN_LONG={end}:{numbers.stop}",
        file=sys.stderr,
        flush=True,
    )
