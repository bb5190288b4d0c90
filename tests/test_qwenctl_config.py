"""`qwenctl config`: every value in force, who said it, and a mistake with the line to mend; never a secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qwen_daemon.origins import lines_of_keys
from tests import canary

COMMAND = (sys.executable, "-W", "error", "-m", "qwen_monitor.control", "config")
RUN_S = 60  # only a hung process reaches it
SECRET, PASSWORD = "hf_canaryConfig0000", "canarypassword"

FILE = """\
# a comment
cache_dir = "/srv/hub"
endpoints = [
    "lan",   # first
    "hub",
]

[mirrors]
lan = "http://10.0.0.5:8090"

[mirrors.far]
url = "https://far.example"
token_env = "FAR_TOKEN"

[network]
max_files = 3
rate_limit_bps = "20MB/s"

[[models]]
model = "org/one"

[[models]]
model = "org/two"
exclude = ["*.md"]
"""


def test_each_key_has_the_line_on_which_its_statement_begins() -> None:
    """Arrays and strings of several lines, tables, arrays of tables."""
    assert lines_of_keys(FILE) == {
        "cache_dir": 2,
        "endpoints": 3,
        "mirrors.lan": 9,
        "mirrors.far.url": 12,
        "mirrors.far.token_env": 13,
        "network.max_files": 16,
        "network.rate_limit_bps": 17,
        "models[0].model": 20,
        "models[1].model": 23,
        "models[1].exclude": 24,
    }


def test_what_only_looks_like_a_key_is_none() -> None:
    """Inside a string of several lines nothing is a statement; dotted keys are."""
    text = 'a = """\n[network]\nmax_files = 1\n"""\nnetwork.max_files = 2\n'
    assert lines_of_keys(text) == {"a": 1, "network.max_files": 5}


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A home of its own with that file as its configuration."""
    folder = tmp_path / ".config" / "qwen-daemon"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(FILE)
    return {"PATH": os.environ.get("PATH", ""), "HOME": str(tmp_path), "PYTHONUTF8": "1"}


def run(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return canary.run([*COMMAND, *words], env=env)


def test_every_value_says_where_it_comes_from(env: dict[str, str], tmp_path: Path) -> None:
    """Default, file and line, environment, command line."""
    more = {"HF_ENDPOINT": "http://127.0.0.1:9", "XDG_STATE_HOME": str(tmp_path / "state")}
    done = run(env | more, "show", "--origin", "--socket", "/tmp/q.sock")

    assert done.returncode == 0, done.stderr
    file = tmp_path / ".config/qwen-daemon/config.toml"
    said = {key.strip(): (value.strip(), origin.strip()) for key, value, origin in map(split, done.stdout.splitlines())}
    assert said["network.max_files"] == ("3", f"file {file}:16")
    assert said["network.max_connections"] == ("16", "default")
    assert said["cache_dir"] == ('"/srv/hub"', f"file {file}:2")
    assert said["endpoint"] == ('"http://127.0.0.1:9"', "environment HF_ENDPOINT")
    assert said["control_socket"] == ('"/tmp/q.sock"', "command line --socket")
    assert said["state_dir"][1] == "environment XDG_STATE_HOME"
    assert said["mirrors.lan.url"] == ('"http://10.0.0.5:8090"', f"file {file}:9")
    assert said["models[1].model"] == ('"org/two"', f"file {file}:23")
    assert said["network.rate_limit_bps"] == ("20000000", f"file {file}:17")


def split(line: str) -> tuple[str, str, str]:
    text, _, origin = line.partition("  # ")
    key, _, value = text.partition(" = ")
    return key, value, origin


def test_no_secret_is_shown(env: dict[str, str]) -> None:
    """A token is set or not, and from where; addresses lose their passwords."""
    secret = {
        "HF_TOKEN": SECRET,
        "FAR_TOKEN": SECRET,
        "HTTPS_PROXY": f"http://me:{PASSWORD}@proxy.example:3128",
    }
    for words in (("show", "--origin"), ("show", "--json"), ("check",)):
        done = run(env | secret, *words)
        assert done.returncode == 0, done.stderr
        assert SECRET not in done.stdout + done.stderr and PASSWORD not in done.stdout + done.stderr
    told = {row["key"]: row for row in json.loads(run(env | secret, "show", "--json").stdout)["settings"]}
    assert told["token"] == {"key": "token", "value": "set", "origin": "environment", "place": "HF_TOKEN"}
    assert told["https_proxy"]["value"] == '"proxy.example:3128"'


def test_an_endpoint_with_a_password_is_refused_without_showing_it(env: dict[str, str]) -> None:
    """Events, logs and the version tell the endpoint to whoever may read them."""
    done = run(env | {"HF_ENDPOINT": f"http://me:{PASSWORD}@127.0.0.1:9"}, "show")
    assert done.returncode == 78
    assert "HF_ENDPOINT: an address holds no password" in done.stderr and PASSWORD not in done.stdout + done.stderr


def test_a_file_that_is_right_is_0_and_counted(env: dict[str, str]) -> None:
    """The one that a daemon would find."""
    done = run(env, "check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip().endswith("is right: 2 models, 2 mirrors")


def test_a_mistake_is_78_with_what_was_meant(env: dict[str, str], tmp_path: Path) -> None:
    """Before it is put in place: the file is named on the command line."""
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[network]\nmax_fils = 3\n")
    done = run(env, "check", str(wrong))
    assert done.returncode == 78
    assert "error[E_CONFIG]" in done.stderr and "did you mean `max_files`?" in done.stderr
    missing = run(env, "check", str(tmp_path / "nowhere.toml"))
    assert missing.returncode == 78 and "nowhere.toml" in missing.stderr


def test_without_a_file_the_defaults_are_used(tmp_path: Path) -> None:
    """Which is no error."""
    done = run({"PATH": os.environ.get("PATH", ""), "HOME": str(tmp_path)}, "check")
    assert done.returncode == 0 and "the defaults are used" in done.stdout
