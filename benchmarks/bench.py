"""Runs the cases: round by round, and within a round client after client, so that a noisy minute meets everyone.

Each run gets directories of its own and a number of its own, which the origin's log repeats. What was written is
checked by this harness afterwards, outside the measured time, and removed; then the disk is synchronised.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import file_digest
from pathlib import Path

from benchmarks import clients, content, nginx, profile
from benchmarks.attempt import Attempt, Source
from benchmarks.cases import Case, Variant
from benchmarks.clients import Client, Job
from benchmarks.content import Item, Model
from benchmarks.front import Front
from benchmarks.measure import Usage
from benchmarks.origin import Line, PacedOrigin
from benchmarks.profile import Spot
from benchmarks.results import Run
from benchmarks.wire import Served, account
from qwen_daemon.config import Network

SEED = 2511
MEMORY = Path("/dev/shm")
DISK_RESERVE = "[disk]\nreserve_bytes = 0\n"
Say = Callable[[str], None]


class Bench:
    """Use as a context manager: it owns the front and the origins. `folder` gets everything that is written."""

    def __init__(self, folder: Path, *, peers: Sequence[Path], say: Say, use_nginx: bool = True) -> None:
        self._folder = folder.absolute()
        self._use_nginx = use_nginx and nginx.is_here()
        self._bins = (clients.own_bin(), *peers)
        self._say = say
        self._stack = contextlib.ExitStack()
        self._paced: dict[Line, PacedOrigin] = {}
        self._nginx: nginx.Nginx | None = None
        self._runs = 0
        self.profiles: dict[str, tuple[Spot, ...]] = {}

    def __enter__(self) -> Bench:
        self._models = self._folder / "models"
        self._models.mkdir(parents=True, exist_ok=True)
        self._sockets = Path(tempfile.mkdtemp(prefix="qwen-"))  # short: a socket's path has at most 107 bytes
        self._stack.callback(shutil.rmtree, self._sockets, ignore_errors=True)
        self._stack.callback(shutil.rmtree, MEMORY / self._sockets.name, ignore_errors=True)
        self._front = self._stack.enter_context(Front())
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def run(
        self,
        case: Case,
        *,
        rounds: int,
        scale: float,
        only: Sequence[str] = (),
        variants: Sequence[str] = (),
        with_profile: bool = False,
    ) -> Iterator[Run]:
        """Every run of a case, interleaved, as they end; then, if wanted, `profiles` has one of ours."""
        for variant in case.variants(scale):
            if variants and variant.name not in variants:
                continue
            chosen = [clients.CLIENTS[name] for name in variant.clients if not only or name in only]
            for missing in [client for client in chosen if not clients.is_here(client, self._bins)]:
                self._say(f"{missing.name} is not installed: left out")
                chosen.remove(missing)
            source = self._source(variant)
            if source is None or not chosen:
                self._say(f"{variant.name}: left out (nginx or every client is missing)")
                continue
            needed = 2 * sum(size_bytes for _, size_bytes in variant.files)
            short = [folder for folder in {self._folder, self._where(variant)} if _free_bytes(folder) < needed]
            if short:
                self._say(f"{variant.name}: left out (it needs {needed / 1e9:.0f} GB free in {short[0]})")
                continue
            model = content.make(self._models, variant.model, variant.files, seed=SEED)
            self._front.publish(model)
            for number in range(1, rounds + 1):
                # Another one begins each round: who comes after a heavy writer is not always the same.
                shift = (number - 1) % len(chosen)
                for client in chosen[shift:] + chosen[:shift]:
                    yield self._one(case, variant, model, source, client, number)
            if with_profile and clients.CLIENTS["ours"] in chosen:
                self.profiles[variant.name] = self._profile(variant, model, source)

    def _source(self, variant: Variant) -> Source | None:
        if isinstance(variant.origin, Line):
            return self._paced_source(variant.origin)
        if not self._use_nginx:
            return self._paced_source(Line()) if variant.origin == "nginx" else None
        if self._nginx is None:
            self._nginx = self._stack.enter_context(nginx.Nginx(self._models, self._folder / "nginx"))
        if variant.origin == "nginx":
            return Source(origin=self._nginx, base=self._nginx.base, ca=None)
        return Source(origin=self._nginx, base=self._nginx.tls_base, ca=self._nginx.ca)

    def _paced_source(self, line: Line) -> Source:
        if line not in self._paced:
            self._paced[line] = self._stack.enter_context(PacedOrigin(self._models, line))
        return Source(origin=self._paced[line], base=self._paced[line].base, ca=None)

    def _one(self, case: Case, variant: Variant, model: Model, source: Source, client: Client, number: int) -> Run:
        job = self._job(variant, model, source)
        attempt = Attempt(self._next_run, variant, source, client, job)
        usage, served, figures = attempt.act()
        run = _joined(case, variant, client, number, job, usage, served, figures)
        self._say(_line(run))
        if not run.is_good:
            self._say(_tail(job.work / "log"))
        shutil.rmtree(job.work, ignore_errors=True)
        os.sync()
        return run

    def _profile(self, variant: Variant, model: Model, source: Source) -> tuple[Spot, ...]:
        job, ours = self._job(variant, model, source), clients.CLIENTS["ours"]
        stacks = job.work / "stacks"
        watched = replace(ours, command=lambda job: profile.command(job.program("py-spy"), stacks, ours.command(job)))
        Attempt(self._next_run, variant, source, watched, job).act()
        found = profile.spots(stacks.read_text()) if stacks.exists() else ()
        self._say("\n".join(f"      {spot.share:6.1%}  {spot.thread}: {spot.function}" for spot in found))
        shutil.rmtree(job.work, ignore_errors=True)
        return found

    def _job(self, variant: Variant, model: Model, source: Source) -> Job:
        work = self._where(variant) / "runs" / "now"
        shutil.rmtree(work, ignore_errors=True)
        (work / "target").mkdir(parents=True)
        return Job(
            model=model,
            endpoint=self._front.endpoint,
            address=lambda item: self._front.address(model, item),
            target=work / "target",
            work=work,
            socket=self._sockets / "control.sock",
            ca=source.ca,
            config=DISK_RESERVE + variant.config.replace("{connections}", _connections_key()),
            bin_folders=self._bins,
        )

    def _where(self, variant: Variant) -> Path:
        """Where clients write."""
        return MEMORY / self._sockets.name if variant.in_memory else self._folder

    def _next_run(self, source: Source) -> int:
        """A number of its own for what asks from now on."""
        self._runs += 1
        source.origin.begin(self._runs)
        self._front.direct(source.base, self._runs)
        return self._runs


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder if folder.exists() else folder.parent).free


def _joined(
    case: Case,
    variant: Variant,
    client: Client,
    number: int,
    job: Job,
    usage: Usage,
    served: Sequence[Served],
    figures: dict[str, float],
) -> Run:
    wire = account(served)
    ended_s = usage.began_s + usage.wall_s
    return Run(
        case=case.key,
        variant=variant.name,
        client=client.name,
        round=number,
        size_bytes=job.model.size_bytes,
        files=len(job.model.items),
        wall_s=usage.wall_s,
        cpu_s=usage.cpu_s,
        rss_bytes=usage.rss_bytes,
        exit_code=usage.exit_code,
        wire_bytes=wire.wire_bytes,
        body_bytes=wire.body_bytes,
        twice_bytes=wire.twice_bytes,
        streams_max=wire.streams_max,
        requests=wire.requests,
        correct=usage.exit_code == 0 if not client.keeps else _is_correct(client, job),
        verifies=client.verifies,
        complete_s=figures.get("complete_at_s", ended_s) - wire.last_byte_s if wire.requests else None,
        figures={**figures, **({} if variant.ideal_s is None else {"ideal_s": variant.ideal_s})},
    )


def _is_correct(client: Client, job: Job) -> bool:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return all(pool.map(lambda item: _has_hash(client.place(job, item), item), job.model.items))


def _has_hash(path: Path, item: Item) -> bool:
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest() == item.sha256
    except OSError:
        return False


def _connections_key() -> str:
    """The daemon's setting of how much it fetches at once: connections, or files while it has one stream per file."""
    return "max_connections" if "max_connections" in Network.__struct_fields__ else "max_files"


def _line(run: Run) -> str:
    state = ("" if run.is_good else f"FAILED ({run.exit_code}) ") + ("" if run.correct else "WRONG BYTES ")
    return (
        f"{run.case:>3} {run.variant} | {run.client} #{run.round}: {state}{run.wall_s:.2f} s, "
        f"{run.cpu_s:.2f} CPU s, {run.rss_bytes / 1e6:.0f} MB, {run.streams_max} streams, "
        f"{run.body_bytes / 1e6:.1f} MB fetched, {run.twice_bytes / 1e6:.1f} MB twice"
    )


def _tail(log: Path) -> str:
    return "\n".join("      " + line[:300] for line in log.read_text(errors="replace").splitlines()[-5:])
