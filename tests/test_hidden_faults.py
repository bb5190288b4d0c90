"""What diffusers and transformers would load without a word, or call by a wrong name, is told before torch is there.

Each fault is made in a small pipeline with real safetensors and indexes, in a real Hub cache without a daemon.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qwen_loader import LoadFailed, ReadyModel, ReadyTimeout, load_pipeline, wait_ready
from tests.fakes import model_folder
from tests.fakes.model_folder import COMMIT, REPO, safetensors

SHARD = "transformer/diffusion_pytorch_model-00002-of-00005.safetensors"
TEXT_SHARD = "text_encoder/model-00002-of-00004.safetensors"

Fault = Callable[[bytes], bytes | None]


def half_zeros(content: bytes) -> bytes:
    return content[: len(content) // 2] + bytes(len(content) - len(content) // 2)


def remove(_content: bytes) -> None:
    return None


def other_revision(content: bytes) -> bytes:
    """Equal names and shapes, other numbers."""
    header_bytes = 8 + int.from_bytes(content[:8], "little")
    return content[:header_bytes] + bytes(reversed(content[header_bytes:]))


FAULTS: list[tuple[str, Fault, str, str]] = [
    ("text_encoder/config.json", remove, "E_INCOMPLETE", "builds the class's default model"),
    (SHARD, half_zeros, "E_CORRUPT", "zeros"),
    (TEXT_SHARD, half_zeros, "E_CORRUPT", "zeros"),
    (SHARD, other_revision, "E_CORRUPT", "hash"),
    (SHARD, remove, "E_INCOMPLETE", "the index names this shard"),
    (SHARD, lambda c: c[:-1], "E_INCOMPLETE", "ends too early"),
    (SHARD, lambda c: c + bytes(100), "E_INCOMPLETE", "goes on after"),
    (SHARD, lambda c: b"", "E_INCOMPLETE", "no content"),
    (SHARD, lambda c: model_folder.POINTER, "E_INCOMPLETE", "Git LFS pointer"),
    (SHARD, lambda c: model_folder.PAGE, "E_INCOMPLETE", "page"),
    ("transformer/diffusion_pytorch_model.safetensors.index.json", remove, "E_INCOMPLETE", "index"),
    ("vae/diffusion_pytorch_model.safetensors", remove, "E_INCOMPLETE", "no weights"),
    ("vae/config.json", remove, "E_INCOMPLETE", "cannot be built"),
    ("scheduler/scheduler_config.json", remove, "E_INCOMPLETE", "its whole folder is absent"),
    ("tokenizer/vocab.json", remove, "E_INCOMPLETE", "vocabulary"),
    ("tokenizer/merges.txt", lambda c: c[: len(c) // 2], "E_INCOMPLETE", "too early"),
    ("model_index.json", remove, "E_INCOMPLETE", "names its components"),
    ("model_index.json", lambda c: c[: len(c) // 2], "E_INCOMPLETE", "too early"),
]


def env_of(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "HF_HUB_CACHE": str(home / "hub")}


@pytest.mark.parametrize(("path", "fault", "code", "cause"), FAULTS)
def test_a_fault_is_told_by_its_cause(tmp_path: Path, path: str, fault: Fault, code: str, cause: str) -> None:
    """By a hash, a size or the structure, with the file's name and the command that mends it."""
    files = model_folder.qwen()
    folder = model_folder.write_cache(tmp_path / "hub", files)
    content = fault(files[path])
    (folder / path).unlink()
    if content is not None:  # in the link's place: equal files share a blob
        (folder / path).write_bytes(content)
    with pytest.raises(ReadyTimeout) as raised:
        wait_ready(REPO, timeout_s=0, env=env_of(tmp_path))
    assert raised.value.missing == (path,)
    assert raised.value.waiting is not None
    assert (raised.value.waiting.code, raised.value.fix) == (code, f"qwenctl download {REPO}")
    assert f"{path}: " in raised.value.why
    assert cause in raised.value.why


def test_a_sound_pipeline_is_let_in(tmp_path: Path) -> None:
    """So the faults above are faults, and not the way the pipeline is made."""
    folder = model_folder.write_cache(tmp_path / "hub", model_folder.qwen())
    ready = wait_ready(REPO, timeout_s=0, env=env_of(tmp_path))
    assert (ready.path, ready.commit, set(ready.seals)) == (str(folder), COMMIT, set(model_folder.qwen()))


STRUCTURE_FAULTS = [
    ("text_encoder/config.json", None, "builds the class's default model"),
    ("transformer/diffusion_pytorch_model.safetensors.index.json", None, "index"),
    ("tokenizer/vocab.json", None, "empty tokenizer"),
    (SHARD, None, "the index names this shard"),
    ("vae/diffusion_pytorch_model.safetensors", safetensors("encoder.w", "decoder.w")[:-1], "ends too early"),
]


@pytest.mark.parametrize(("path", "content", "cause"), STRUCTURE_FAULTS)
def test_a_folder_that_nobody_checked_is_looked_through(
    tmp_path: Path, path: str, content: bytes | None, cause: str
) -> None:
    """`load_pipeline` of a path of one's own: no listing, no hashes, and still not a word too late."""
    files = model_folder.qwen()
    if content is None:
        del files[path]
    else:
        files[path] = content
    folder = model_folder.write(tmp_path / "model", files)
    with pytest.raises(LoadFailed) as raised:
        load_pipeline(ReadyModel(repo=REPO, commit="", path=str(folder), verified="none", source="disk"))
    assert raised.value.why.startswith(f"{path}: ")
    assert cause in raised.value.why
    assert "qwenctl download" in raised.value.fix


LATE = """
import sys
from pathlib import Path
from qwen_loader import LoadFailed, ReadyModel, load_pipeline
try:
    load_pipeline(ReadyModel(repo="a/b", commit="", path=sys.argv[1], verified="none", source="disk"))
except LoadFailed as error:
    print(error.code, "torch" in sys.modules)
"""


def test_the_default_model_of_144_gb_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    """The machine would be gone before anybody could read the message."""
    files = model_folder.qwen()
    del files["text_encoder/config.json"]
    folder = model_folder.write(tmp_path / "model", files)
    command = [sys.executable, "-W", "error", "-c", LATE, str(folder)]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("E_MISSING False\n", "")


def flipped(content: bytes) -> bytes:
    """One byte of a weight."""
    return content[:-1] + bytes([content[-1] ^ 1])


def as_it_is(content: bytes) -> bytes:
    return content


GATE: list[tuple[str, Fault, int, str, str, str]] = [
    (SHARD, flipped, 10, "E_CORRUPT", "hash", "qwenctl download"),
    (SHARD, half_zeros, 10, "E_CORRUPT", "zeros", "qwenctl download"),
    (SHARD, other_revision, 10, "E_CORRUPT", "hash", "qwenctl download"),
    ("text_encoder/config.json", remove, 4, "E_INCOMPLETE", "builds the class's default model", "qwenctl download"),
    ("pipeline.py", as_it_is, 1, "E_HAS_CODE", "code of its own", "--allow-code"),
    ("unet/diffusion_pytorch_model.bin", as_it_is, 1, "E_HAS_PICKLE", "run code when they are read", "--allow-pickle"),
]


def run_without_torch(home: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], bool]:
    """The installed command, and whether it has imported torch: one that leaves a mark and is of no use."""
    (home / "torch").mkdir()
    (home / "torch" / "__init__.py").write_text("open(__file__ + '.mark', 'w').close(); raise ImportError('a dummy')")
    env = {**env_of(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(home)}
    command = ["qwen-loader", REPO, *arguments]
    done = subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, check=False)
    return done, (home / "torch" / "__init__.py.mark").exists()


@pytest.mark.parametrize(("path", "fault", "expected", "code", "cause", "cure"), GATE)
def test_the_command_stops_at_the_gate(
    tmp_path: Path, path: str, fault: Fault, expected: int, code: str, cause: str, cure: str
) -> None:
    """The cause in words, the file, the command that mends it, an exit code of its own; torch was not even imported."""
    files = model_folder.qwen()
    folder = model_folder.write_cache(tmp_path / "hub", {path: b"x", **files})
    content = fault((folder / path).read_bytes())
    (folder / path).unlink()
    if content is not None:
        (folder / path).write_bytes(content)
    done, has_torch = run_without_torch(tmp_path, "--patience", "0", "--json")
    assert (done.returncode, has_torch) == (expected, False)
    error = json.loads(done.stdout)["error"]
    assert (error["code"], error["missing"]) == (code, [path])
    assert cause in error["why"] and cure in error["fix"]
    told = done.stderr.partition(f"error[{code}]")[2]
    assert path in told and cause in told and cure in told


def test_behind_the_gate_torch_is_imported(tmp_path: Path) -> None:
    """So the mark above would be left, and what is refused by name is let in by name."""
    folder = model_folder.write_cache(tmp_path / "hub", {"pipeline.py": b"x", **model_folder.qwen()})
    assert (folder / "pipeline.py").is_file()
    done, has_torch = run_without_torch(tmp_path, "--patience", "0", "--allow-code")
    assert (done.stderr.partition("error[")[2][:10], has_torch) == ("E_NO_TORCH", True)
