"""`qwenctl limit`, `prio` and `download --limit-rate` as processes: what they ask of the daemon and what they say."""

from __future__ import annotations

import json

import pytest

from qwen_api import events as e
from tests.fakes import download as cast
from tests.fakes.daemon import Command, FakeDaemon
from tests.test_qwenctl import MODEL, RUN_S, Env, Run, daemon, env, run, start

__all__ = ["daemon", "env", "run"]  # fixtures


@pytest.mark.parametrize(
    ("words", "command", "said"),
    [
        (("limit", "20MB/s"), Command(verb="limits", body=b'{"rate_limit_bps":20000000}'), "at most 20.0 MB/s"),
        (("limit", "off"), Command(verb="limits", body=b'{"rate_limit_bps":null}'), "no speed limit"),
        (
            ("limit", "1.5MiB", "--max-files", "2", "--max-connections=4"),
            Command(verb="limits", body=b'{"rate_limit_bps":1572864,"max_files":2,"max_connections":4}'),
            "4 connections at once",
        ),
        (("limit", "--max-files", "2"), Command(verb="limits", body=b'{"max_files":2}'), "2 files at once"),
        (
            ("limit", MODEL, "500k"),
            Command(verb="limits", subject=cast.MODEL, body=b'{"rate_limit_bps":500000}'),
            "until the daemon ends",
        ),
        (
            ("limit", MODEL, "off"),
            Command(verb="limits", subject=cast.MODEL, body=b'{"rate_limit_bps":null}'),
            "no speed limit",
        ),
        (
            ("prio", MODEL, "4", "--file", "vae/*"),
            Command(verb="priority files", subject=cast.MODEL, body=b'{"paths":["vae/*"],"priority":4}'),
            "1 file of Qwen/Qwen-Image-Edit-2511: priority 4",
        ),
        (
            ("pause", MODEL, "--file", "vae/*", "--file=transformer/*"),
            Command(verb="pause files", subject=cast.MODEL, body=b'{"paths":["vae/*","transformer/*"]}'),
            "qwenctl resume Qwen/Qwen-Image-Edit-2511 --file 'vae/*' --file 'transformer/*'",
        ),
        (
            ("resume", MODEL, "--file", cast.ACTIVE),
            Command(verb="resume files", subject=cast.MODEL, body=b'{"paths":["%s"]}' % cast.ACTIVE.encode()),
            "1 file of Qwen/Qwen-Image-Edit-2511: fetched again",
        ),
        (
            ("retry", MODEL, "--file", "*"),
            Command(verb="retry files", subject=cast.MODEL, body=b'{"paths":["*"]}'),
            "tried again now",
        ),
        (("prio", MODEL, "-3"), Command(verb="priority", subject=cast.MODEL, body=b'{"priority":-3}'), "priority -3"),
    ],
)
def test_each_asks_one_thing_of_the_daemon(
    run: Run, daemon: FakeDaemon, words: tuple[str, ...], command: Command, said: str
) -> None:
    """And says on stderr what holds now."""
    done = run(*words)

    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert said in done.stderr
    assert daemon.wait_for_commands(1) == [command]


def test_without_a_limit_it_shows_those_in_force(run: Run, daemon: FakeDaemon) -> None:
    """The daemon's, and of the models that have any."""
    daemon.say(
        e.LimitsChanged(max_files=8, max_connections=16, rate_limit_bps=20_000_000),
        e.ModelLimitsChanged(model=cast.MODEL, priority=5),
    )

    text, found = run("limit"), run("limit", "--json")

    assert text.stdout.splitlines() == [
        "the daemon: at most 20.0 MB/s, 8 files and 16 connections at once",
        f"{cast.MODEL}: no speed limit, priority 5",
    ]
    answer = json.loads(found.stdout)
    assert answer["limits"] == {"rate_limit_bps": 20_000_000, "max_files": 8, "max_connections": 16}
    assert answer["models"] == [{"model": cast.MODEL, "rate_limit_bps": 0, "priority": 5}]
    assert daemon.commands == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("limit", "fast"), "such as 20MB/s"),
        (("limit", "20Mbit/s"), "bits"),
        (("limit", MODEL, "1k"), "between 10 kB/s"),
        (("limit", MODEL, "other", "1M"), "MODEL 20MB/s"),
        (("limit", MODEL, "1M", "--max-files", "2"), "--max-files"),
        (("limit", "--max-files", "65"), "from 1 to 64"),
        (("prio", MODEL, "high"), "from -100 to 100"),
        (("prio", MODEL), "N"),
        (("download", MODEL, "--limit-rate", "0"), "between 10 kB/s"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_the_daemon_is_asked(
    run: Run, daemon: FakeDaemon, words: tuple[str, ...], said: str
) -> None:
    """Exit code 2, with a way out."""
    done = run(*words)

    assert (done.returncode, done.stdout, daemon.commands) == (2, "", [])
    assert said in done.stderr


def test_a_file_that_is_not_meant_ends_with_its_own_code(run: Run, daemon: FakeDaemon) -> None:
    """3, as for everything that is not found, with the daemon's guess; --json prints which files were meant."""
    daemon.refuse_next("E_UNKNOWN_FILE", "no file", status=404, detail="vea/*", fix="did you mean: vae/w")
    done = run("pause", MODEL, "--file", "vea/*")
    assert done.returncode == 3 and "fix: did you mean: vae/w" in done.stderr
    found = json.loads(run("pause", MODEL, "--file", cast.ACTIVE, "--json").stdout)
    assert (found["model"], found["files"]) == (cast.MODEL, [cast.ACTIVE])


def test_the_status_shows_limits_and_what_is_paused(run: Run, daemon: FakeDaemon) -> None:
    """The daemon's, the model's own, and each paused file by name; so does --json."""
    daemon.say(
        e.LimitsChanged(max_files=8, max_connections=16, rate_limit_bps=20_000_000),
        e.ModelLimitsChanged(model=cast.MODEL, rate_limit_bps=5_000_000, priority=5),
        e.FilesPaused(model=cast.MODEL, paths=(cast.ACTIVE,)),
        e.ModelStateChanged(model=cast.MODEL, state="incomplete", code="E_FILES_PAUSED", detail="1 file paused by you"),
    )
    lines = run("status").stdout.splitlines()
    assert "Limits: at most 5.0 MB/s, priority 5" in lines
    assert lines[-1] == "The daemon: at most 20.0 MB/s, 8 files and 16 connections at once"
    assert any(line.endswith("00001-of-00002.safetensors  paused") for line in lines)
    assert any("transformer" in line and line.endswith("1 paused") for line in lines)
    assert "Why: files of it are paused (E_FILES_PAUSED)" in lines
    found = json.loads(run("status", "--json").stdout)
    assert found["limits"] == {"rate_limit_bps": 20_000_000, "max_files": 8, "max_connections": 16}
    (model,) = found["models"]
    assert (model["paused"], model["rate_limit_bps"], model["priority"]) == ([cast.ACTIVE], 5_000_000, 5)


def test_a_download_by_a_running_daemon_is_limited_for_its_time_only(env: Env, daemon: FakeDaemon) -> None:
    """The model is wanted without the limit, which the next start would keep, and limited by a command."""
    process = start(env, "download", MODEL, "--limit-rate", "2MB/s")
    wanted, limited = daemon.wait_for_commands(2)
    daemon.say(*cast.completed())
    _, said = process.communicate(timeout=RUN_S)

    assert process.returncode == 0, said
    assert (wanted.verb, b"rate_limit_bps" in wanted.body) == ("add", False)
    assert limited == Command(verb="limits", subject=cast.MODEL, body=b'{"rate_limit_bps":2000000}')


def test_changed_limits_are_told_in_the_stream(run: Run, daemon: FakeDaemon) -> None:
    """In one short line each."""
    daemon.say(
        e.LimitsChanged(max_files=8, max_connections=16, rate_limit_bps=20_000_000),
        e.ModelLimitsChanged(model=cast.MODEL, priority=5),
    )

    whole, one = run("events", "--no-follow", "--types", "limits.*,model.limits").stdout.splitlines()

    assert "limits" in whole and whole.endswith("at most 20.0 MB/s, 8 files, 16 connections at once")
    assert cast.MODEL in one and one.endswith("no speed limit, priority 5")
