"""No fault of docs/matrix.toml and no invariant is without a test or a plain reason; and what only the sources show."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]
GENERATE = runpy.run_path(str(ROOT / "docs" / "generate.py"))
FAULTS, INVARIANTS = (GENERATE["matrix"]()[table] for table in ("faults", "invariants"))
FAULT_COUNT, INVARIANT_COUNT = 85, 15

# Each is seen by people or compared with a file's time; nothing waits for it, and nothing is put in order by it.
CLOCK_READERS = {
    "qwen_daemon/shell/clock.py": "the `ts` of events",
    "qwen_daemon/shell/metadata.py": "the time in huggingface_hub's own record of a file",
    "qwen_daemon/shell/parts.py": "how old a stranger's leftover is, before it is swept",
    "qwen_daemon/shell/reach.py": "how wrong our clock is, for `qwen-daemon probe`",
}


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(1, count + 1)]


def test_every_fault_has_a_test_or_a_reason() -> None:
    """All numbers are there; each fault leads to rows that have tests, or to a reason why there is none."""
    assert list(FAULTS) == numbers(FAULT_COUNT)
    rows = {row: words for group in GENERATE["fault_groups"]().values() for row, words in group.items()}
    shown = {row for test in GENERATE["fault_tests"]() for row in test.rows}
    for number, fault in FAULTS.items():
        assert fault["fault"] and fault["rows"] and set(fault["rows"]) <= rows.keys(), number
        assert all(row in shown or rows[row]["untested"] for row in fault["rows"]), number
        assert bool(fault["how"]) == bool(shown & set(fault["rows"])), number


def test_every_invariant_has_tests_and_faults() -> None:
    """All numbers are there; each names tests that exist, and some fault is put in that would break it."""
    assert list(INVARIANTS) == numbers(INVARIANT_COUNT)
    asserted = {str(number) for fault in FAULTS.values() for number in fault["asserts"]}
    assert asserted == INVARIANTS.keys()
    for invariant in INVARIANTS.values():
        assert invariant["holds"] and invariant["by"] and invariant["tests"]
        for test in invariant["tests"]:
            file, _, name = test.partition("::")
            assert name in defined_in(ROOT / "tests" / file), test


def defined_in(path: Path) -> set[str]:
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_the_wall_clock_is_read_in_few_places() -> None:
    """In the daemon; everything that waits, expires or comes before something else goes by the monotonic clock."""
    sources = ROOT / "daemon"
    readers = {
        path.relative_to(sources).as_posix()
        for path in (sources / "qwen_daemon").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "time.time_ns", "datetime.now")
    }
    assert readers == CLOCK_READERS.keys()
