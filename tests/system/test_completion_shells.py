"""Completion in zsh and fish themselves, as a person at their prompt meets it (bash: tests/test_completion.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes import model_folder
from tests.terminal import Tmux

pytestmark = pytest.mark.system

QWENCTL = Path(sys.executable).with_name("qwenctl")
RUN_S = 60  # only a hung process reaches it


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A home with the scripts where `qwenctl completion --help` says, a cache with one model, no daemon."""
    model_folder.write_cache(tmp_path / ".cache" / "huggingface" / "hub", {"config.json": b"{}"})
    (tmp_path / ".cache/huggingface/hub/models--org--$(touch pwned)/snapshots").mkdir(parents=True)
    env = {
        "PATH": f"{QWENCTL.parent}:{os.environ.get('PATH', '')}",
        "HOME": str(tmp_path),
        "QWEN_DAEMON_SOCKET": str(tmp_path / "nobody.sock"),
        "LC_ALL": "C.UTF-8",
    }
    for shell, path in (("zsh", ".zfunc/_qwenctl"), ("fish", ".config/fish/completions/qwenctl.fish")):
        made = subprocess.run([QWENCTL, "completion", shell], env=env, capture_output=True, timeout=RUN_S, check=True)
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(made.stdout)
    (tmp_path / ".zshrc").write_text(
        "PS1='ready> '; fpath+=~/.zfunc; autoload -Uz compinit; compinit -u\nunsetopt beep; setopt no_list_ambiguous\n"
    )
    return env


def fish(env: dict[str, str], line: str) -> set[str]:
    """The words that fish offers for the end of the line."""
    done = subprocess.run(
        ["fish", "-c", 'complete --do-complete "$argv[1]"', line],
        env=env,
        cwd=env["HOME"],
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return {offered.split("\t")[0] for offered in done.stdout.splitlines()}


def test_fish_completes_commands_flags_choices_and_models(env: dict[str, str]) -> None:
    """Of the command that was written before them; a folder's name that is no model's is not offered."""
    assert fish(env, "qwenctl che") == {"check"}
    assert fish(env, "qwenctl do") == {"doctor", "download"}
    assert "--verify" in fish(env, "qwenctl check --ver")
    assert fish(env, "qwenctl check --verify f") == {"full"}
    assert "show" in fish(env, "qwenctl config sh")
    assert fish(env, "qwenctl wait qwen-image-edit-25") == {f"qwen-image-edit-{year}" for year in (2508, 2509, 2511)}
    assert model_folder.REPO in fish(env, f"qwenctl status {model_folder.REPO[:8]}")
    assert not (Path(env["HOME"]) / "pwned").exists()


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("qwenctl che", "check"),
        ("qwenctl check --verify f", "full"),
        ("qwenctl config sh", "show"),
        ("qwenctl limit --max-c", "--max-connections"),
        ("qwenctl wait qwen-image-l", "qwen-image-layered"),
        (f"qwenctl status {model_folder.REPO[:8]}", model_folder.REPO),
        ("qwenctl download qwen-image-l", "qwen-image-layered"),
    ],
)
def test_zsh_completes_at_the_tab_key(env: dict[str, str], tmp_path: Path, typed: str, completed: str) -> None:
    """What stands at the prompt after it is the whole word."""
    with Tmux(tmp_path, ["zsh", "-i"], **env) as tmux:
        tmux.wait_for(lambda rows: "ready>" in rows)
        tmux.press(typed, "Tab")
        tmux.wait_for(lambda rows: f"ready> {typed.rpartition(' ')[0]} {completed}" in rows)
    assert not (Path(env["HOME"]) / "pwned").exists()
