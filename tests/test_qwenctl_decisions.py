"""What `qwenctl` decides without touching anything: durations, exit codes, which daemon will do, when it is over."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import pytest

from qwen_api.commands import Version
from qwen_api.models import ModelRef
from qwen_api.status import ModelStatus
from qwen_monitor.argument_values import duration_s
from qwen_monitor.download_job import Job, Settled, serves, settle
from qwen_monitor.exits import exit_code_of
from qwen_monitor.questions import read_error

REF = ModelRef(repo="org/name")
JOB = Job(ref=REF, include=("a",))
DAEMON = Version(
    version="1", wire=1, epoch="e", pid=1, cache_dir="/srv/hf", state_dir="/s", endpoint="https://huggingface.co"
)
MODEL = ModelStatus(model=REF.key, repo=REF.repo, revision="main", include=("a",))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("45s", 45), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1d", 86400), ("0.5s", 0.5)],
)
def test_durations_are_written_as_people_do(text: str, seconds: float) -> None:
    """A bare number is seconds."""
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "h", "1x", "-3", "31d", "1m2h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """Also what nobody means: a month and more."""
    with pytest.raises(argparse.ArgumentTypeError):
        duration_s(text)


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("E_GATED", 5), ("E_DNS", 6), ("E_DISK_FULL", 9), ("E_CORRUPT", 10), ("E_DAEMON_DOWN", 69), ("E_OF_TOMORROW", 1)],
)
def test_every_error_code_has_an_exit_code(code: str, exit_code: int) -> None:
    """One that a newer daemon brings is an error all the same."""
    assert exit_code_of(code) == exit_code


@pytest.mark.parametrize(
    ("job", "word"),
    [
        (Job(ref=REF), ""),
        (Job(ref=REF, cache=Path("/srv/hf")), ""),
        (Job(ref=REF, cache=Path("/home/me/hub")), "cache"),
        (Job(ref=REF, endpoint="https://huggingface.co"), ""),
        (Job(ref=REF, endpoint="http://mirror"), "endpoint"),
        (Job(ref=REF, has_token=True), "token"),
    ],
)
def test_a_running_daemon_does_only_what_it_would_do_as_asked(job: Job, word: str) -> None:
    """Another cache, endpoint or token than the caller's is not silently taken instead."""
    why = serves(DAEMON, job)

    assert bool(why) == bool(word)
    assert word in why


def in_state(state: str, code: str = "", include: tuple[str, ...] = ("a",)) -> ModelStatus:
    """The model, so."""
    return msgspec.structs.replace(MODEL, state=state, code=code, include=include)


def test_a_bad_state_of_before_says_nothing_until_there_is_news() -> None:
    """A model that was gated yesterday is asked for again today."""
    before = in_state("failed", "E_GATED")

    assert settle(before, False, before, JOB) is None
    assert settle(before, True, before, JOB) == Settled(code="E_GATED")


def test_complete_counts_at_once_only_for_the_same_files() -> None:
    """Complete for other patterns is not complete for these."""
    same, other = in_state("complete"), in_state("complete", include=("b",))

    assert settle(same, False, same, JOB) == Settled()
    assert settle(same, False, other, JOB) is None
    assert settle(same, True, other, JOB) == Settled()
    assert settle(same, False, None, JOB) == Settled()


@pytest.mark.parametrize("state", ["queued", "checking", "downloading", "waiting"])
def test_what_goes_on_by_itself_is_followed(state: str) -> None:
    """Waiting is the daemon's business: it tries again."""
    assert settle(in_state(state), True, None, JOB) is None


@pytest.mark.parametrize(
    ("state", "code"), [("paused", "E_PAUSED"), ("incomplete", "E_INCOMPLETE"), ("failed", "E_INCOMPLETE")]
)
def test_what_does_not_go_on_ends_the_command(state: str, code: str) -> None:
    """With a code even where the daemon gave none."""
    settled = settle(in_state(state), True, None, JOB)

    assert settled is not None and settled.code == code


def test_a_removed_model_ends_the_command() -> None:
    """But one that is not there yet does not."""
    assert settle(None, False, None, JOB) is None
    assert settle(None, True, MODEL, JOB) is not None


def test_the_last_error_among_log_lines_is_found() -> None:
    """Code, what, why and fix; without one the last line is the why."""
    text = "info noise\nerror[E_START]: cannot start\n  why: no room\n  fix: make some\n"

    error, other = read_error(text, "x"), read_error("Traceback\nValueError: y\n\n", "x")

    assert (error.code, error.what, error.why, error.fix) == ("E_START", "cannot start", "no room", "make some")
    assert (other.code, other.what, other.why) == ("E_INTERNAL", "x", "ValueError: y")
