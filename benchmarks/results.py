"""What a benchmark found, as it is kept in JSON: every run, and the machine it ran on. Medians are made when read."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks.profile import Spot

GB = 1_000_000_000
VERSION_WORDS = 3  # what follows are the libraries' versions


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One client, once. Bytes are the origin's count; `correct` is the harness's own look at the files afterwards.

    `verifies`: the client compares with the Hub's sha256. `complete_s`: last byte to `complete` (or to the end of the
    client's own verification). `figures` are what only one case has.
    """

    case: str
    variant: str
    client: str
    round: int
    size_bytes: int
    files: int
    wall_s: float
    cpu_s: float
    rss_bytes: int
    exit_code: int
    wire_bytes: int = 0
    body_bytes: int = 0
    twice_bytes: int = 0
    streams_max: int = 0
    requests: int = 0
    correct: bool = False
    verifies: bool = False
    complete_s: float | None = None
    figures: dict[str, float] = {}

    @property
    def is_good(self) -> bool:
        """It ended well."""
        return self.exit_code == 0


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it ran."""

    cores: int
    processor: str
    memory_bytes: int
    system: str
    versions: dict[str, str]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One file of results. `settings` says per case with how many rounds and at which scale it ran, and when;
    `profiles` has, by comparison, where our time went."""

    date: str
    machine: Machine
    settings: dict[str, str]
    runs: tuple[Run, ...]
    profiles: dict[str, tuple[Spot, ...]] = {}


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The runs of one client in one variant."""

    variant: str
    client: str
    runs: tuple[Run, ...]

    def values(self, field: str) -> list[float]:
        """One figure of every run that ended well."""
        return [value for run in self.runs if run.is_good and (value := figure(run, field)) is not None]

    def median(self, field: str) -> float | None:
        """Its median; None if no run ended well."""
        values = self.values(field)
        return statistics.median(values) if values else None


def figure(run: Run, field: str) -> float | None:
    """A figure by name: a field, a derived one, or one that only its case has."""
    if field == "cpu_s_per_gb":
        return run.cpu_s / run.size_bytes * GB
    if field == "files_per_s":
        return run.files / run.wall_s
    value = run.figures.get(field, getattr(run, field, None))
    return None if value is None else float(value)


def groups(runs: Iterable[Run]) -> list[Group]:
    """Runs by variant and client, in the order in which they first ran."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.variant, run.client), []).append(run)
    return [Group(variant=v, client=c, runs=tuple(rs)) for (v, c), rs in found.items()]


def merged(old: Report | None, new: Report) -> Report:
    """The new runs, and of the old ones the comparisons that did not run again."""
    if old is None:
        return new
    again = {(run.case, run.variant) for run in new.runs}
    kept = tuple(run for run in old.runs if (run.case, run.variant) not in again)
    runs = tuple(sorted(kept + new.runs, key=lambda run: in_order(run.case)))
    return msgspec.structs.replace(
        new, runs=runs, settings={**old.settings, **new.settings}, profiles={**old.profiles, **new.profiles}
    )


def read(path: Path) -> Report | None:
    """A file of results; None if there is none. Raises msgspec.DecodeError."""
    return msgspec.json.decode(path.read_bytes(), type=Report) if path.exists() else None


def write(path: Path, report: Report) -> None:
    """Write it, readable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def this_machine(commands: Mapping[str, Sequence[str]]) -> Machine:
    """The machine, and the first line that each command says of its version."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return Machine(
        cores=os.cpu_count() or 1,
        processor=processor or platform.machine(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()}",
        versions={name: _first_line(command) for name, command in commands.items()},
    )


def _first_line(command: Sequence[str]) -> str:
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return "not installed"
    first = ((said.stdout or said.stderr).strip().splitlines() or [""])[0]
    return " ".join(first.split()[:VERSION_WORDS])


def in_order(case: str) -> tuple[int, str]:
    """Sorts 1, 1b, 2, 10."""
    digits = case.rstrip("abcdefghijklmnopqrstuvwxyz")
    return int(digits), case[len(digits) :]
