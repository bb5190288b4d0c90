"""Completion in real shells: commands, flags, choices and the names of models."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes import model_folder

QWENCTL = Path(sys.executable).with_name("qwenctl")
RUN_S = 60  # only a hung process reaches it

# What bash-completion's own loader does at the Tab key: set the words, call the function, look at COMPREPLY.
BASH = """\
source <(qwenctl completion bash)
complete -p qwenctl >/dev/null || exit 3
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
_shtab_qwenctl qwenctl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A cache with one model, no daemon."""
    cache = tmp_path / ".cache" / "huggingface" / "hub"
    model_folder.write_cache(cache, {"config.json": b"{}"})
    hostile = cache / "models--org--$(touch pwned)" / "snapshots"
    hostile.mkdir(parents=True)
    return {
        "PATH": f"{QWENCTL.parent}:{os.environ.get('PATH', '')}",
        "HOME": str(tmp_path),
        "QWEN_DAEMON_SOCKET": str(tmp_path / "nobody.sock"),
        "PYTHONUTF8": "1",
    }


def bash(env: dict[str, str], *words: str) -> set[str]:
    """What the Tab key offers behind these words, the last of which is being written."""
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH, "bash", "qwenctl", *words],
        env=env,
        cwd=env["HOME"],
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return {line.strip() for line in done.stdout.splitlines() if line.strip()}


def test_bash_completes_commands_flags_and_choices(env: dict[str, str]) -> None:
    """Of the command that was written before them."""
    assert bash(env, "che") == {"check"}
    assert {"doctor", "download"} <= bash(env, "do")
    assert "--verify" in bash(env, "check", "--ver")
    assert bash(env, "check", "--verify", "f") == {"full"}
    assert bash(env, "config", "sh") == {"show"}


def test_bash_completes_names_of_models(env: dict[str, str]) -> None:
    """Aliases and what the cache holds; a folder's name that could be a command is not even offered."""
    assert "qwen-image-edit-2509" in bash(env, "check", "qwen-image-edit-25")
    assert bash(env, "status", model_folder.REPO[:8]) >= {model_folder.REPO}
    assert not (Path(env["HOME"]) / "pwned").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_script_is_one_that_its_shell_can_read(env: dict[str, str], shell: str) -> None:
    """Syntax only, where the shell is here; every command is in it in any case."""
    script = subprocess.run([QWENCTL, "completion", shell], env=env, capture_output=True, text=True, timeout=RUN_S)
    assert (script.returncode, script.stderr) == (0, "")
    assert all(name in script.stdout for name in ("doctor", "download", "completion models", "--limit-rate"))
    if shutil.which(shell):
        read = subprocess.run([shell, "-n"], input=script.stdout, capture_output=True, text=True, timeout=RUN_S)
        assert (read.returncode, read.stderr) == (0, "")


def test_a_shell_that_nobody_wrote_for_is_a_usage_error(env: dict[str, str]) -> None:
    """With those that there are."""
    done = subprocess.run([QWENCTL, "completion", "basch"], env=env, capture_output=True, text=True, timeout=RUN_S)
    assert done.returncode == 2
    assert "did you mean: bash" in done.stderr
