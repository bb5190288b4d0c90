"""SIGKILL and failing system calls, one after the other, in a small job of the real daemon (see tests/syscalls.py).

After each: what is named is right, what is on record or published is not fetched again, the same job finishes, and
nothing is left lying about. `make test` takes some of them, `make test-long` all, and thousands at random moments.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from qwen_api import events as e
from tests import long_run
from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.overseer import KILL, SKIP, Point, overseeing
from tests.running import Running
from tests.syscalls import CHANGING, FILES, KEY, MIB, READING, REPO, SIM, WEIGHTS, Job, disturb, points

AT_ONCE = 3
TRIES = 3  # at one point: the order of calls on one file is the same in every run, unless the machine is very busy
MODEL = "hf/hub/models--org--one"
BLOB = f"{MODEL}/blobs/{SIM.entry(WEIGHTS).etag}"
PART = f"{MODEL}/blobs/.qwen-{SIM.entry(WEIGHTS).etag}-*.part"
SNAPSHOT = f"{MODEL}/snapshots/{SIM.sha}"
LOCK = f"hf/hub/.locks/models--org--one/{SIM.entry(WEIGHTS).etag}.lock"
WAL = "state/qwen-daemon/ledger.sqlite-wal"
# Before the first checkpoint, after it, at the end of the file, between blob, link and branch, and between that and the
# event; in the ledger while it is made and while it is in use.
SOME = (
    Point("pwrite64", PART, 5), Point("pwrite64", PART, 45), Point("rename", BLOB, 1),
    Point("symlink", f"{SNAPSHOT}/{WEIGHTS}", 1), Point("rename", f"{MODEL}/refs/main", 1),
    Point("rename", f"state/qwen-daemon/ready/{KEY}.json", 1), Point("fdatasync", "state/qwen-daemon/ledger.sqlite", 1),
    Point("fdatasync", WAL, 6), Point("mkdirat", f"{MODEL}/snapshots", 1),
)  # fmt: skip


def kill_at(point: Point) -> int:
    """Killed before that call, looked at, run again to the end; AssertionError, too, if it never came to that call."""
    for _ in range(TRIES):
        code, was_there = disturb(point, KILL)
        if was_there:
            assert code == -signal.SIGKILL
            return 1
    raise AssertionError(f"never came to {point}")


@pytest.mark.fault("K2", "K3", "K1", "C9")
def test_killed_at_some_calls_it_finishes() -> None:
    """Between every two steps whose order matters."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert sum(pool.map(kill_at, SOME)) == len(SOME)


def kill_at_point(points: Sequence[Point], number: int) -> int:
    return kill_at(points[number])


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.fault("K2", "K3")
def test_killed_at_every_call_it_finishes() -> None:
    """All calls that change the disk, each exactly once; which ones there are, an undisturbed job says."""
    every = points(CHANGING)
    assert len(set(every)) == len(every)
    work = partial(kill_at_point, every)
    long_run.run("killed-calls", "kills, one before each system call that changes the disk", work, range(len(every)))


SMALLER = FILES | {WEIGHTS: model_folder.safetensors("w", floats=MIB * 3 // 8)}
EVERY_ERROR = (errno.ENOSPC, errno.EIO, errno.EINTR)
Refusal = tuple[Point, int]
REFUSED = (
    (Point("pwrite64", PART, 30), errno.ENOSPC), (Point("openat", PART, 1), errno.EDQUOT),
    (Point("pwrite64", PART, 8), errno.EFBIG), (Point("pwrite64", PART, 20), errno.EROFS),
    (Point("fdatasync", PART, 1), errno.EIO),
    (Point("fdatasync", WAL, 6), errno.ENOSPC), (Point("pwrite64", WAL, 20), errno.EIO),
    (Point("rename", BLOB, 1), errno.EIO), (Point("rename", f"{MODEL}/refs/main", 1), errno.EROFS),
    (Point("fchmod", LOCK, 1), errno.EIO),
    (Point("preadv2", PART, 1), errno.EIO), (Point("close", PART, 1), errno.EIO),
    (Point("pread64", "state/qwen-daemon/ledger.sqlite", 6), errno.EIO),
    (Point("unlink", "run/qwen-daemon/events.sock", 1), errno.EIO),
)  # fmt: skip


def refuse(refusal: Refusal, files: Mapping[str, bytes] = FILES) -> int:
    """That call fails once; then, given up or not, the job is finished. AssertionError, too, if it was never made."""
    point, error = refusal
    for _ in range(TRIES):
        code, was_there = disturb(point, error, files)
        if was_there:
            assert code >= 0
            return 1
    raise AssertionError(f"never came to {point}")


# What is over by then: nothing that is left to do depends on these.
TOO_LATE = (
    Point("flock", LOCK, 2), Point("close", LOCK, 1), Point("close", "state/qwen-daemon/lock", 1),
    Point("close", "run/qwen-daemon/control.sock.lock", 1), Point("close", "state/qwen-daemon/ledger.sqlite", 1),
)  # fmt: skip


@pytest.mark.fault("D20")
def test_a_lock_that_cannot_be_given_back_is_no_failure() -> None:
    """EIO from unlocking and closing, as network file systems have it: complete at once all the same, exit code 0."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended = list(pool.map(lambda point: disturb(point, errno.EIO), TOO_LATE))
    assert dict(zip(TOO_LATE, ended, strict=True)) == dict.fromkeys(TOO_LATE, (0, True))


def refuse_number(refusals: Sequence[Refusal], number: int) -> int:
    return refuse(refusals[number], SMALLER)


@pytest.mark.fault("D11", "D12", "D14", "D15", "D16", "D17", "D18", "D19", "D20")
def test_a_call_that_fails_once_costs_no_truth() -> None:
    """ENOSPC, EDQUOT, EFBIG, EROFS and EIO from calls on the disk: tried again or given up in words."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert sum(pool.map(refuse, REFUSED)) == len(REFUSED)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.fault("D11", "D15", "D16", "D20", "D24")
def test_each_call_that_fails_once_costs_no_truth() -> None:
    """ENOSPC, EIO and EINTR at each call that changes the disk, EIO at the first and last of each kind that reads."""
    changing, reading = points(CHANGING, SMALLER), points(READING, SMALLER)
    refusals = [(point, error) for point in changing for error in EVERY_ERROR]
    written = {point.file for point in changing if point.call in ("write", "pwrite64")}
    # Nothing is left to write when a folder is closed, so that fails nowhere; Rust's library, in watchfiles, aborts.
    refusals += [
        (point, errno.EIO) for point in _first_and_last(reading) if point.call != "close" or point.file in written
    ]
    work = partial(refuse_number, refusals)
    long_run.run("failed-calls", "jobs with a system call that failed", work, range(len(refusals)))


def _first_and_last(every: Sequence[Point]) -> list[Point]:
    """Of each kind of call on each file."""
    ends: dict[tuple[str, str], list[Point]] = {}
    for point in every:
        ends.setdefault((point.call, point.file), []).append(point)
    return sorted({point for same in ends.values() for point in (same[0], same[-1])})


RESTARTED = frozenset({
    "pwrite64", "write", "fsync", "fdatasync", "openat", "read", "pread64", "preadv2", "flock", "ftruncate",
})  # fmt: skip


@pytest.mark.fault("D24", "D20")
def test_interrupted_calls_are_made_again(tmp_path: Path) -> None:
    """EINTR at every seventh call, as from signals on a network file system: the job does not notice."""
    turn = count(1)

    def decide(point: Point) -> int:
        return errno.EINTR if point.call in RESTARTED and not next(turn) % 7 else 0

    with ThreadedSimHub(SimHub(SIM)) as hub:
        job = Job(tmp_path, hub)
        code, made = job.run_overseen(decide, RESTARTED)
        assert (code, {point.call for point in made}) == (0, RESTARTED), job.daemon.stderr
        job.check_done()


@pytest.mark.fault("C6")
def test_locks_that_do_nothing_are_not_needed(tmp_path: Path) -> None:
    """Two daemons fill one cache, and every flock says yes: both end well, and what stands there is right."""

    def run(daemon: Running) -> tuple[int, bool]:
        with overseeing(tmp_path, {"flock"}, lambda _: SKIP) as (overseen, daemon.under):
            code = daemon.run("--config", str(daemon.config_file), "--once", REPO)
        return code, any(BLOB.rpartition("/")[2] in point.file for point in overseen.refused)

    with ThreadedSimHub(SimHub(SIM)) as hub:
        jobs = [Job(tmp_path / name, hub) for name in ("a", "b")]
        daemons = [job.daemon for job in jobs]
        daemons[1].env["HF_HOME"] = daemons[0].env["HF_HOME"]
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(run, daemons)) == [(0, True)] * 2, [daemon.stderr for daemon in daemons]
        jobs[0].look(0)
        jobs[0].check_done()


READS = frozenset({"read", "pread64", "preadv", "preadv2"})


@pytest.mark.fault("C15")
def test_a_file_put_in_the_place_of_a_finished_one_is_not_believed(tmp_path: Path) -> None:
    """Between its hash and its name, with its length and its times: it is seen, and the right one comes."""
    put = []

    def decide(point: Point) -> int:
        if point == Point("rename", BLOB, 1):
            (part,) = (tmp_path / MODEL / "blobs").glob(Path(PART).name)
            before, other = part.stat(), part.with_name("other")
            other.write_bytes(bytes(before.st_size))
            os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
            put.append(other.rename(part))
        return 0

    with ThreadedSimHub(SimHub(SIM)) as hub:
        job = Job(tmp_path, hub)
        job.may_be_fetched_again(WEIGHTS)
        assert job.run_overseen(decide, frozenset({"rename"}))[0] == 0
        assert len(put) == 1
        job.check_done()


@pytest.mark.fault("D16")
@pytest.mark.parametrize("is_complete", [True, False], ids=["published", "half"])
def test_what_cannot_be_read_is_not_called_verified(tmp_path: Path, is_complete: bool) -> None:
    """EIO from each read of a file that must be hashed, or of a part: told, not verified; read later, all is well."""
    is_broken = threading.Event()
    is_broken.set()
    etag = SIM.entry(WEIGHTS).etag

    def decide(point: Point) -> int:
        return errno.EIO if is_broken.is_set() and etag in point.file else 0

    with ThreadedSimHub(SimHub(SIM)) as hub:
        job = Job(tmp_path, hub)
        if is_complete:
            assert job.run() == 0
            for path in job.daemon.state_dir.glob("ledger*"):
                path.unlink()  # so that nobody knows that it is verified
        else:
            job.run_overseen(lambda point: KILL if point == Point("pwrite64", PART, 50) else 0)
        daemon = job.daemon
        daemon.configure([REPO])
        with overseeing(daemon.root, READS, decide) as (overseen, daemon.under), daemon:
            told = daemon.wait_event(e.FileRetry, path=WEIGHTS)
            assert told.code == "E_DISK_IO"
            assert overseen.refused
            assert daemon.seen(e.FileVerified, path=WEIGHTS) + daemon.seen(e.ModelComplete) == []
            is_broken.clear()
            daemon.client.retry(KEY)
            daemon.wait_complete(KEY)
            job.check_running()
            assert daemon.stop() == 0
        job.may_be_fetched_again(WEIGHTS)
        job.look()
        job.check_done()


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
        job.finish()
        killed = ends.count(-signal.SIGKILL)
        assert killed + ends.count(0) == len(ends), ends
        return killed


def kill_in_a_folder(seed: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return kill_at_random(Path(folder) / "job", seed)


@pytest.mark.timeout(600)  # two hundred starts of Python: three quarters of a minute where nothing else runs
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
