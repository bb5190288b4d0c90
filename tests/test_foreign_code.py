"""Repositories with code, pickles and weights that lie, from a Hub through the real daemon to the real loader."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qwen_api import places
from qwen_api.seals import read_ready
from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.fakes.model_folder import POINTER, safetensors, to_json
from tests.running import Running

REPO, KEY = "org/name", "org--name"
PLAIN = model_folder.transformers_model("Qwen2ForCausalLM")
CONFIG = json.loads(PLAIN["config.json"])
WEIGHTS = safetensors("w")
PICKLE = b"\x80\x04\x95" + bytes(64) + b"."
AUTO_MAP = {**CONFIG, "auto_map": {"AutoModel": "modeling_own.OwnModel"}}
ELSEWHERE = {**CONFIG, "auto_map": {"AutoModel": "someone/else--modeling.OwnModel"}}

# Files beside the configs, and what is told: code, pickles.
CONTENTS: dict[str, tuple[model_folder.Files, bool, bool]] = {
    "nothing of the kind": ({"model.safetensors": WEIGHTS}, False, False),
    "a script": ({"model.safetensors": WEIGHTS, "tools/convert.py": b"print('hello')"}, True, False),
    "code that the config asks for": (
        {"model.safetensors": WEIGHTS, "config.json": to_json(AUTO_MAP), "modeling_own.py": b"class OwnModel: ..."},
        True,
        False,
    ),
    "code of another repository": ({"model.safetensors": WEIGHTS, "config.json": to_json(ELSEWHERE)}, True, False),
    "pickled weights": ({"pytorch_model.bin": PICKLE}, False, True),
    "code and pickles": ({"pytorch_model.bin": PICKLE, "run.py": b""}, True, True),
    "a pickle beside the same as safetensors": (
        {"model.safetensors": WEIGHTS, "pytorch_model.bin": PICKLE},
        False,
        False,
    ),
}


def command(daemon: Running, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / name, *words], env=daemon.env, capture_output=True, text=True, timeout=60
    )


def load(daemon: Running, *flags: str) -> tuple[int, str]:
    """The loader in front of a command: how it ends, and what it says."""
    done = command(daemon, "qwen-loader", REPO, *flags, "--timeout", "30", "--", "true")
    return done.returncode, done.stderr


def check_refusals(daemon: Running, code: bool, pickle: bool) -> None:
    """Each has to be let in by its own name, and the refusal says what is wrong and how to go on."""
    ended, said = load(daemon)
    assert ended == (1 if code or pickle else 0), said
    assert ("E_HAS_CODE" in said, "--allow-code" in said) == (code, code)
    assert ("E_HAS_PICKLE" in said) == (pickle and not code)
    if code and pickle:
        ended, said = load(daemon, "--allow-code")
        assert ended == 1 and "E_HAS_PICKLE" in said
    if code or pickle:
        assert load(daemon, *["--allow-code"] * code, *["--allow-pickle"] * pickle)[0] == 0


@pytest.mark.fault("X3")
@pytest.mark.parametrize("content", CONTENTS)
def test_code_and_pickles_are_told_everywhere_and_refused_by_the_loader(tmp_path: Path, content: str) -> None:
    """In model.complete, the state, the ready file and the report; also when the daemon is gone, or the ready file."""
    more, code, pickle = CONTENTS[content]
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=PLAIN | more))) as hub:
        with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
            complete = daemon.wait_complete(KEY)
            state = daemon.client.state().models[KEY]
            ready = read_ready(places.ready_file(daemon.state_dir, KEY))
            assert ready is not None
            assert {(x.has_code, x.has_pickle) for x in (complete, state, ready)} == {(code, pickle)}
            report = command(daemon, "qwenctl", "check", REPO, "--json")
            told = json.loads(report.stdout)
            assert report.returncode == 0 and (told["has_code"], told["has_pickle"]) == (code, pickle)
            said = command(daemon, "qwenctl", "check", REPO).stdout
            assert ("holds Python code" in said, "are pickles" in said) == (code, pickle)
            check_refusals(daemon, code, pickle)
            assert daemon.stop() == 0
        check_refusals(daemon, code, pickle)
        places.ready_file(daemon.state_dir, KEY).unlink()
        check_refusals(daemon, code, pickle)


@pytest.mark.fault("X3", "K7")
def test_a_ready_file_that_does_not_say_is_no_word(tmp_path: Path) -> None:
    """One of a version that did not look for code: the loader looks for itself, a new daemon writes what it finds."""
    files = PLAIN | {"model.safetensors": WEIGHTS, "config.json": to_json(ELSEWHERE)}
    with (
        ThreadedSimHub(SimHub(SimRepo(id=REPO, files=files))) as hub,
        Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon,
    ):
        daemon.wait_complete(KEY)
        assert daemon.stop() == 0
        path = places.ready_file(daemon.state_dir, KEY)
        right = path.read_bytes()
        for missing in ("has_code", "has_pickle"):
            older = {name: value for name, value in json.loads(right).items() if name != missing}
            path.write_text(json.dumps(older))
            assert read_ready(path) is None
            check_refusals(daemon, True, False)
        daemon.start()
        daemon.wait_complete(KEY)
        assert path.read_bytes() == right


def lying(header: bytes, declared: int | None = None) -> bytes:
    return (len(header) if declared is None else declared).to_bytes(8, "little") + header + bytes(64)


def tensor(**facts: object) -> bytes:
    return to_json({"w": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64], **facts}})


LIES: dict[str, bytes] = {
    "an LFS pointer": POINTER,
    "a login page": model_folder.PAGE,
    "a header of 2**62 bytes": lying(b"{}", 1 << 62),
    "a header longer than the file": lying(tensor(), 4096),
    "a header that is no JSON": lying(b"{" * 64),
    "a tensor behind the end": lying(tensor(shape=[1 << 40], data_offsets=[0, 1 << 42])),
    "a tensor that is smaller than its shape": lying(tensor(shape=[1 << 20])),
    "a tensor that ends before it begins": lying(tensor(data_offsets=[64, 0])),
    "negative offsets": lying(tensor(data_offsets=[-64, 0])),
}


@pytest.mark.fault("X4", "X5")
@pytest.mark.parametrize("lie", LIES)
def test_weights_that_lie_are_named_and_never_complete(tmp_path: Path, lie: str) -> None:
    """Right by the Hub's own hash, and no weights: E_STRUCTURE with the file's name, and nothing for a loader."""
    files = PLAIN | {"model.safetensors": LIES[lie]}
    with (
        ThreadedSimHub(SimHub(SimRepo(id=REPO, files=files))) as hub,
        Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon,
    ):
        failed = daemon.wait_state(KEY, "failed")
        assert failed.code == "E_STRUCTURE" and "model.safetensors" in failed.detail
        assert not places.ready_file(daemon.state_dir, KEY).exists()
        said = command(daemon, "qwenctl", "check", REPO)
        assert said.returncode != 0 and "model.safetensors" in said.stdout
        ended, error = load(daemon)
        assert ended == 4 and "E_STRUCTURE" in error and "model.safetensors" in error
        assert "Traceback" not in daemon.stderr + error
