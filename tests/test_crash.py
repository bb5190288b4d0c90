"""SIGKILL and failing system calls, one after the other, in a small job of the real daemon (see tests/syscalls.py).

After each: what is named is right, what is on record or published is not fetched again, the same job finishes, and
nothing is left lying about. `make test` takes some of them, `make test-long` all, and thousands at random moments.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests import long_run
from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.syscalls import CHANGING, FILES, MIB, REPO, SIM, WEIGHTS, Job, count_calls

AT_ONCE = 3
# Before the first checkpoint, between them, at the end of the file, between blob, link and ref, in the ledger.
SOME = (
    ("pwrite64", 25), ("pwrite64", 45), ("fdatasync", 2), ("fsync", 7), ("fsync", 12), ("rename", 1), ("rename", 3),
    ("symlink", 1),
)  # fmt: skip


def kill_and_finish(root: Path, syscall: str, number: int) -> bool:
    """Killed before that call, looked at, run again to the end. False if there was no such call."""
    with ThreadedSimHub(SimHub(SIM)) as hub:
        job = Job(root, hub)
        was_killed = job.kill_at(syscall, number)
        job.look()
        assert job.run() == 0, job.daemon.stderr
        job.check_done()
        return was_killed


@pytest.mark.fault("K2", "K3", "K1", "C9")
def test_killed_at_some_calls_it_finishes(tmp_path: Path) -> None:
    """One of each kind, and some more."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        killed = list(pool.map(lambda at: kill_and_finish(tmp_path / f"{at[0]}{at[1]}", *at), SOME))
    assert killed.count(True) >= len(SOME) - 2, "which thread makes how many calls differs a little from run to run"


def kill_at_point(points: Sequence[tuple[str, int]], number: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return kill_and_finish(Path(folder) / "job", *points[number])


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.fault("K2", "K3")
def test_killed_at_every_call_it_finishes(tmp_path: Path) -> None:
    """All calls that change the disk."""
    counts = count_calls(tmp_path / "undisturbed")
    points = [(kind, number) for kind in CHANGING for number in range(1, counts[kind] + 1)]
    long_run.run("killed-calls", "kills before a system call", partial(kill_at_point, points), range(len(points)))


ERRORS = (
    ("pwrite64", "ENOSPC", 30), ("pwrite64", "EDQUOT", 5), ("pwrite64", "EFBIG", 8), ("fdatasync", "EIO", 1),
    ("fdatasync", "ENOSPC", 6), ("fsync", "EIO", 8), ("rename", "ENOSPC", 1), ("rename", "EIO", 2),
    ("rename", "EROFS", 3),
)  # fmt: skip
ERRORS_LONG = [
    (syscall, error, number)
    for syscall in CHANGING
    for error in ("ENOSPC", "EIO", "EINTR")
    for number in (1, 2, 3, 4, 6, 9, 13, 20, 30, 45)
]


def fail_and_finish(root: Path, syscall: str, error: str, number: int) -> tuple[int, str]:
    """That call fails once; then, if it was given up, the same job again. The first exit code, and what was said."""
    with ThreadedSimHub(SimHub(SIM)) as hub:
        job = Job(root, hub)
        code = job.run_injected(syscall, f"error={error}", number)
        job.look()
        said = job.daemon.stderr
        assert job.run() == 0, job.daemon.stderr
        job.check_done()
        return code, said


def fail_at_point(root: Path, point: tuple[str, str, int]) -> int:
    code, said = fail_and_finish(root, *point)
    assert code >= 0 and "Traceback" not in said and "E_INTERNAL" not in said, (point, code, said)
    return 1


def fail_in_a_folder(number: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return fail_at_point(Path(folder) / "job", ERRORS_LONG[number])


@pytest.mark.fault("D11", "D12", "D14", "D15", "D17", "D18", "D19", "D20")
def test_a_call_that_fails_once_costs_no_truth(tmp_path: Path) -> None:
    """ENOSPC, EDQUOT, EFBIG, EROFS and EIO from calls that change the disk: tried again or given up in words."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert sum(pool.map(lambda n: fail_at_point(tmp_path / str(n), ERRORS[n]), range(len(ERRORS)))) == len(ERRORS)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.fault("D11", "D15", "D20", "D24")
def test_each_call_that_fails_once_costs_no_truth() -> None:
    """ENOSPC, EIO and EINTR at many calls of every kind."""
    long_run.run("failed-calls", "jobs with a system call set to fail", fail_in_a_folder, range(len(ERRORS_LONG)))


@pytest.mark.fault("D24", "D20")
@pytest.mark.parametrize("syscall", ["pwrite64", "fsync", "fdatasync"])
def test_interrupted_calls_are_made_again(tmp_path: Path, syscall: str) -> None:
    """EINTR at every seventh call, as from signals on a network file system: the job does not notice."""
    with ThreadedSimHub(SimHub(SIM)) as hub:
        job = Job(tmp_path, hub)
        assert job.run_traced("-e", f"trace={syscall}", "-e", f"inject={syscall}:error=EINTR:when=7+7") == 0
        job.check_done()


@pytest.mark.fault("C6")
def test_locks_that_do_nothing_are_not_needed(tmp_path: Path) -> None:
    """Two daemons fill one cache, and every flock says yes: both end well, and what stands there is right."""
    with ThreadedSimHub(SimHub(SIM)) as hub:
        jobs = [Job(tmp_path / name, hub) for name in ("a", "b")]
        jobs[1].daemon.env["HF_HOME"] = jobs[0].daemon.env["HF_HOME"]
        with ThreadPoolExecutor(2) as pool:
            codes = pool.map(lambda job: job.run_traced("-e", "trace=flock", "-e", "inject=flock:retval=0"), jobs)
            assert list(codes) == [0, 0], [job.daemon.stderr for job in jobs]
        jobs[0].check_done()


# Imports once, then gives birth to a daemon for each line (the milliseconds it may live), and says how it ended.
MOTHER = """
import os, select, signal, sys
from qwen_daemon.__main__ import main
import qwen_daemon.process, qwen_daemon.app
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        sys.stdin = open(os.devnull)
        os.dup2(2, 1)
        os._exit(main(sys.argv[1:]))
    end = os.pidfd_open(pid)
    select.select([end], [], [], int(line) / 1000)
    signal.pidfd_send_signal(end, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    os.close(end)
"""
LARGER = FILES | {WEIGHTS: model_folder.safetensors("w", floats=6 * MIB)}  # three seconds
LIFE_MS = 600
KILLS, KILLS_LONG = 200, 3000
KILLS_PER_JOB = 25  # or fewer: in a few lives it is done before
JOBS, JOBS_LONG = KILLS // 20, KILLS_LONG // 20


def kill_at_random(root: Path, seed: int) -> int:
    """SIGKILL at random moments of one life after the other, then it finishes; how many were killed."""
    dice = random.Random(seed)
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=LARGER))) as hub:
        job = Job(root, hub, LARGER)
        with (
            (root / "stderr").open("ab") as stderr,
            subprocess.Popen(
                [sys.executable, "-c", MOTHER, "--config", str(job.daemon.config_file), "--once", REPO],
                env=job.daemon.env,
                cwd=root,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            ) as mother,
        ):
            assert mother.stdin is not None and mother.stdout is not None
            ends: list[int] = []
            while len(ends) < KILLS_PER_JOB and 0 not in ends:
                print(dice.randrange(LIFE_MS), file=mother.stdin, flush=True)
                ends.append(int(mother.stdout.readline()))
                job.look()
            mother.stdin.close()
        assert job.run() == 0, job.daemon.stderr
        job.check_done()
        killed = ends.count(-signal.SIGKILL)
        assert killed + ends.count(0) == len(ends), ends
        return killed


def kill_in_a_folder(seed: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return kill_at_random(Path(folder) / "job", seed)


@pytest.mark.fault("K1", "K10")
def test_killed_at_random_moments_it_finishes(tmp_path: Path) -> None:
    """Two hundred times: some jobs, each again and again."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        killed = sum(pool.map(lambda seed: kill_at_random(tmp_path / str(seed), seed), range(JOBS)))
    assert killed >= KILLS


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.fault("K1", "K10")
def test_killed_at_three_thousand_random_moments_it_finishes() -> None:
    """As many jobs as it takes for so many kills, and some more."""
    long_run.run("kills", "kills at random moments", kill_in_a_folder, range(1000, 1000 + JOBS_LONG))
