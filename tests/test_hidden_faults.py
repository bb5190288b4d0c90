"""What diffusers and transformers would load without a word, or call by a wrong name, is told before torch is there.

Each fault is made in a small pipeline with real safetensors and indexes, in a real Hub cache without a daemon.
"""

from __future__ import annotations

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
