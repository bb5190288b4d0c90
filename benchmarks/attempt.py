"""One run of one client, as the case's scenario wants it: prepared, killed in the middle, or with damage done first.

What is prepared is not measured. What the origin saw of the measured part comes back with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ear, measure, nginx
from benchmarks.cases import Variant
from benchmarks.clients import Client, Job
from benchmarks.measure import Usage
from benchmarks.origin import PacedOrigin
from benchmarks.wire import Served

BLOCK_BYTES = 512  # st_blocks' unit, whatever the file system's
HOLE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Source:
    """An origin, the address it has for this variant, and the CA to trust."""

    origin: PacedOrigin | nginx.Nginx
    base: str
    ca: Path | None


class Attempt:
    """One client in one variant: prepared, run, and what the origin saw of it."""

    def __init__(
        self, next_run: Callable[[Source], int], variant: Variant, source: Source, client: Client, job: Job
    ) -> None:
        self._next_run, self._variant, self._source = next_run, variant, source
        self._client, self._job = client, job

    def act(self) -> tuple[Usage, list[Served], dict[str, float]]:
        """Do what the variant's scenario says."""
        scenario = self._variant.scenario
        if scenario == "kill":
            return self._killed()
        if scenario in ("flip", "hole", "sealed", "full") and self._client.keeps:
            self._start()
            self._spoil()
        if self._client.name != "ours":
            return *self._start(), {}
        if scenario != "wait":
            usage, served = self._start()
            return usage, served, ear.figures(self._job.work / "log", usage)
        with ear.Waiting(self._job.socket) as waiting:
            usage, served = self._start()
        figures = ear.figures(self._job.work / "log", usage)
        return usage, served, figures | ({"complete_at_s": waiting.seen_at_s} if waiting.seen_at_s else {})

    def _killed(self) -> tuple[Usage, list[Served], dict[str, float]]:
        half = self._job.model.size_bytes // 2
        first, before = self._start(until=lambda: _allocated(self._job.target) >= half)
        second, after = self._start()
        usage = Usage(
            wall_s=first.wall_s + second.wall_s,
            cpu_s=first.cpu_s + second.cpu_s,
            rss_bytes=max(first.rss_bytes, second.rss_bytes),
            exit_code=second.exit_code if first.killed else 1,
            began_s=second.began_s,
            killed=second.killed,
        )
        return usage, before + after, {"before_kill_bytes": sum(one.body_bytes for one in before)}

    def _start(self, until: Callable[[], bool] = lambda: False) -> tuple[Usage, list[Served]]:
        number = self._next_run(self._source)
        log = self._job.work / "log"
        log.unlink(missing_ok=True)
        usage = measure.run(
            self._client.command(self._job),
            env=self._job.environment(),
            cwd=self._job.work,
            log=log,
            limit_s=self._variant.limit_s,
            until=until,
        )
        return usage, self._source.origin.served(number)

    def _spoil(self) -> None:
        if self._variant.scenario == "full":
            shutil.rmtree(self._job.work / "state", ignore_errors=True)  # ledger and seals: nothing is known any more
        if self._variant.scenario not in ("flip", "hole"):
            return
        path = self._client.place(self._job, self._job.model.items[0]).resolve()
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            spoilt = bytes(HOLE_BYTES) if self._variant.scenario == "hole" else bytes([file.read(1)[0] ^ 1])
            file.seek(path.stat().st_size // 2)
            file.write(spoilt[: path.stat().st_size // 2])


def _allocated(folder: Path) -> int:
    """Bytes on disk under a folder; files that vanish while one looks count as nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(root) / name).lstat().st_blocks * BLOCK_BYTES
    return total
