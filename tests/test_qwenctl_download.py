"""`qwenctl download` with no daemon running: a private one does the work, is stopped, resumes, and leaves nothing.

The real command, the real daemon, a real mirror in the place of the Hub; loopback only.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests import canary
from tests.fakes import model_folder as fake

COMMAND = (sys.executable, "-W", "error", "-m", "qwen_monitor.control")
MIRROR = (sys.executable, "-m", "qwen_daemon", "mirror")
RUN_S = 60  # only a hung process reaches it
MODEL = "acme/tiny"
LARGE = "vae/large.safetensors"

Env = dict[str, str]


@contextmanager
def mirror(folder: Path, *words: str) -> Iterator[str]:
    """Serve the folder; the base URL."""
    process = subprocess.Popen(
        [*MIRROR, str(folder), "--listen", "127.0.0.1:0", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(RUN_S)
        process.stdout.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: a pipeline with one file that takes a while."""
    folder = tmp_path_factory.mktemp("models")
    fake.write(folder / MODEL, {**fake.qwen(), LARGE: fake.safetensors("w", floats=1_000_000)})
    return folder


@pytest.fixture(scope="module")
def hub(models: Path) -> Iterator[str]:
    """A fast mirror."""
    with mirror(models) as url:
        yield url


@pytest.fixture
def env(tmp_path: Path) -> Env:
    """A home and temporary folder of its own, no daemon."""
    (tmp_path / "tmp").mkdir()
    env = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path / "tmp"),
        "QWEN_DAEMON_SOCKET": str(tmp_path / "nobody.sock"),
        "PYTHONUTF8": "1",
    }
    canary.plant(env)
    return env


def run(env: Env, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return canary.run([*COMMAND, *words], env=env)


def test_a_private_daemon_brings_the_model_and_its_path_is_the_answer(env: Env, tmp_path: Path, hub: str) -> None:
    """The files are in the cache, every hash is right, and nothing of the private daemon's is left to find."""
    env["HF_ENDPOINT"] = hub

    done = run(env, "download", MODEL)

    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path.is_dir() and path.is_relative_to(tmp_path / ".cache/huggingface/hub")
    assert run(env, "check", MODEL, "--verify", "full").returncode == 0
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_words_of_hf_download_mean_the_same(env: Env, tmp_path: Path, hub: str) -> None:
    """--include, --exclude, --cache-dir, --quiet, --model, file names, --json, --token."""
    env["HF_ENDPOINT"] = hub
    cache = str(tmp_path / "other")

    one = run(env, "download", MODEL, "README.md", "--cache-dir", cache, "--quiet")
    assert (one.returncode, one.stderr) == (0, "")
    assert [p.name for p in Path(one.stdout.strip()).iterdir()] == ["README.md"]
    patterns = ("--include=tokenizer/*", "--exclude=*.txt")
    some = run(env, "download", "--model", MODEL, *patterns, "--cache-dir", cache, "--json", "--token", "hf_secret")
    assert some.returncode == 0
    assert "HF_TOKEN" in some.stderr and "hf_secret" not in some.stderr
    answer = json.loads(some.stdout)
    assert sorted(p.name for p in Path(answer["path"], "tokenizer").iterdir()) == [
        "added_tokens.json",
        "chat_template.jinja",
        "tokenizer_config.json",
        "vocab.json",
    ]


@pytest.mark.fault("K4", "K5")
def test_ctrl_c_records_everything_and_the_same_command_resumes(env: Env, tmp_path: Path, models: Path) -> None:
    """130; then no byte is asked for twice."""
    with mirror(models, "--rate-limit", "3M") as url, started(env, url) as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=RUN_S)

        assert process.returncode == 130
        assert "the same command resumes" in said
        assert list((tmp_path / "tmp").iterdir()) == []
        assert run(env, "download", MODEL).returncode == 0
        assert stats(url)["bytes_sent_twice"] == 0


def test_a_killed_command_takes_its_daemon_with_it(env: Env, models: Path) -> None:
    """An orphan would hold the ledger's lock unseen; the next command waits for its end and just works."""
    with mirror(models, "--rate-limit", "3M") as url, started(env, url) as process:
        process.kill()
        process.communicate(timeout=RUN_S)

        done = run(env, "download", MODEL, "README.md")

        assert done.returncode == 0, done.stderr


@pytest.mark.fault("C5")
def test_two_downloads_into_one_cache_take_turns(env: Env, models: Path) -> None:
    """The second waits for the first, says so, and finds everything there."""
    with mirror(models, "--rate-limit", "3M") as url, started(env, url) as process:
        second = run(env, "download", MODEL)
        out, _ = process.communicate(timeout=RUN_S)

        assert (process.returncode, second.returncode) == (0, 0)
        assert out == second.stdout
        assert "another qwenctl download works in this cache" in second.stderr


@contextmanager
def started(env: Env, url: str) -> Iterator[subprocess.Popen[str]]:
    """`qwenctl download` whose private daemon has begun with the large file."""
    env["HF_ENDPOINT"] = url
    with subprocess.Popen(
        [*COMMAND, "download", MODEL], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "acme" in line)  # the private daemon speaks
        while not stats(url)["files"].get(f"{MODEL}:{LARGE}", {}).get("bytes_sent"):
            assert process.poll() is None, process.communicate()
        yield process


def stats(url: str) -> dict[str, Any]:
    """What the mirror has sent."""
    with urlopen(f"{url}/-/mirror/stats") as answer:
        found: dict[str, Any] = json.load(answer)
    return found


@pytest.mark.parametrize(
    ("words", "code"),
    [(("download", "acme/nothing"), 3), (("download", MODEL, "--revision", "nope"), 3), (("check", "acme/nothing"), 3)],
)
def test_what_the_hub_does_not_have_is_3(env: Env, hub: str, words: tuple[str, ...], code: int) -> None:
    """Said before any daemon is started."""
    env["HF_ENDPOINT"] = hub

    done = run(env, *words)

    assert (done.returncode, done.stdout) == (code, "")
    said = [line for line in done.stderr.splitlines() if not line.startswith("waiting for the list of files")]
    assert said[0].startswith("error[E_")  # perhaps after the word that the Hub takes its time: machines are busy


def test_a_mistyped_repository_is_answered_with_the_known_one(env: Env, hub: str) -> None:
    """Only if it is very like one that has an alias: the Hub has a million others."""
    env["HF_ENDPOINT"] = hub
    typo = run(env, "download", "Qwen/Qwen-Image-Edit-2551", "--dry-run")
    assert typo.returncode == 3
    assert "fix: did you mean: qwenctl download Qwen/Qwen-Image-Edit-2511 --dry-run\n" in typo.stderr
    assert "did you mean" not in run(env, "download", "Qwen/Qwen2.5-7B").stderr


def test_check_asks_the_hub_for_the_listing_that_is_not_cached(env: Env, hub: str) -> None:
    """Nothing is here, and yet every file is known by name and size."""
    env["HF_ENDPOINT"] = hub

    report = json.loads(run(env, "check", MODEL, "--json").stdout)

    assert (report["source"], report["totals"]["missing"]) == ("listing", 33)
    assert report["advice"]["fetch_bytes"] == report["totals"]["size_bytes"]


def test_an_unreachable_hub_is_6_for_a_download_and_no_matter_for_a_check(env: Env, tmp_path: Path) -> None:
    """A check goes by the model's own files; a download has nothing to go by."""
    env["HF_ENDPOINT"] = "http://127.0.0.1:1"
    fake.write_cache(tmp_path / ".cache/huggingface/hub", fake.qwen(), tree=False)

    check = run(env, "check", fake.REPO)

    assert check.returncode == 0
    assert "no listing from the Hub" in check.stderr


def test_a_download_says_why_nothing_moves_while_the_hub_is_away(env: Env, tmp_path: Path) -> None:
    """The host, the reason and when the next try is, before the tries are spent."""
    env["HF_ENDPOINT"] = "http://127.0.0.1:1"
    process = subprocess.Popen(
        [*COMMAND, "download", MODEL], env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process.stderr:
        told = next(line for line in process.stderr if "trying again" in line)
        process.send_signal(signal.SIGINT)
        process.stderr.read()
    assert process.wait(RUN_S) == 130
    assert "the Hub does not answer (cannot connect to 127.0.0.1:1: connection refused), trying again in 2 s" in told


@pytest.mark.parametrize("words", [("download", MODEL), ("check", MODEL)])
def test_a_hub_that_takes_its_time_is_named_meanwhile(env: Env, words: tuple[str, ...]) -> None:
    """It takes the connection and says nothing; Ctrl-C ends the wait."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env["HF_ENDPOINT"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [*COMMAND, *words], env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        with process.stderr:
            told = process.stderr.readline()
            process.send_signal(signal.SIGINT)
            process.stderr.read()
        assert process.wait(RUN_S) == 130
    assert told == f"waiting for the list of files from {env['HF_ENDPOINT']} ...\n"
