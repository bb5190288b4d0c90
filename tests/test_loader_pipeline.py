"""The command loads a real, tiny pipeline on the CPU and edits a picture; how weights are stored is found out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import msgspec
import pytest

from qwen_api import events as e
from qwen_api import places
from qwen_loader.editing import edit
from qwen_loader.libraries import DIFFUSERS_MIN, LoadFailed, version_numbers, version_of
from qwen_loader.pipeline import load_pipeline
from qwen_loader.ready import ReadyModel
from qwen_loader.snapshot import refuse_unsound
from qwen_loader.stored import BadHeader, pick_variant, stored_dtype, weight_paths
from tests.fakes.daemon import FakeDaemon
from tests.fakes.small_model import COMMIT, REPO, SmallModel, folder_as_model

loader = pytest.mark.loader


# Reading what is stored: no torch.


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["unet/model.safetensors"], None),
        (["unet/model.fp16.safetensors"], "fp16"),
        (["unet/model.fp16.safetensors", "unet/model.safetensors"], None),
        (["unet/model.fp16.safetensors", "vae/model.safetensors"], "fp16"),
        (["unet/model.fp16-00001-of-00002.safetensors", "vae/m.fp16.safetensors", "vae/m.bf16.safetensors"], "fp16"),
        (["unet/diffusion_pytorch_model-00001-of-00005.safetensors"], None),
        (["single_file.fp16.safetensors"], None),
        ([], None),
    ],
)
def test_a_variant_is_picked_only_where_nothing_plain_is(names: list[str], expected: str | None) -> None:
    """diffusers finds `fp16` weights only if it is told to look for them."""
    assert expected == pick_variant(names)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ([("BF16", 8)], "bfloat16"),
        ([("F32", 8), ("BF16", 80)], "bfloat16"),
        ([("F16", 80), ("F32", 8)], "float16"),
        ([("F8_E4M3", 80)], "bfloat16"),
        ([("I64", 800), ("F32", 8)], "float32"),
        ([], "float32"),
    ],
)
def test_the_dtype_is_that_of_most_bytes(tmp_path: Path, stored: list[tuple[str, int]], expected: str) -> None:
    """One for the whole pipeline: its parts hand tensors to each other."""
    (tmp_path / "vae").mkdir()
    for number, (dtype, count) in enumerate(stored):
        header = {"w": {"dtype": dtype, "shape": [count], "data_offsets": [0, 0]}, "__metadata__": {"format": "pt"}}
        text = json.dumps(header).encode()
        (tmp_path / "vae" / f"m-{number}.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    assert expected == stored_dtype(sorted(tmp_path.glob("vae/*")))


def test_only_the_weights_that_will_be_read_count() -> None:
    """With a variant, a component's plain weights stay unread."""
    present = ["unet/m.fp16.safetensors", "unet/m.safetensors", "vae/m.safetensors"]
    assert weight_paths(present, "fp16") == ["unet/m.fp16.safetensors", "vae/m.safetensors"]


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"\0" * 64, b"\x02\0\0\0\0\0\0\0[]", b'\x08\0\0\0\0\0\0\0{"w": 1}']
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """Before torch is imported."""
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(BadHeader):
        stored_dtype([tmp_path / "w.safetensors"])


@pytest.mark.parametrize(
    ("version", "is_refused"), [("0.42.0", True), ("0.9.9", True), ("0.42.1", False), ("1.0.dev0", False)]
)
def test_old_diffusers_is_known_by_its_number(version: str, is_refused: bool) -> None:
    """As numbers, not as text."""
    assert is_refused == (version_numbers(version) < DIFFUSERS_MIN)


@pytest.mark.parametrize("repo", ["org/name", ""])
def test_what_is_unsound_is_told_with_the_command_that_mends_it(tmp_path: Path, repo: str) -> None:
    """Ready to paste: the model's name is known, if need be from the cache's own folder."""
    folder = tmp_path / "models--org--name" / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text("{")
    with pytest.raises(LoadFailed) as raised:
        refuse_unsound(folder, repo=repo)
    assert "qwenctl download org/name, or with a daemon: qwenctl verify org/name" in raised.value.fix


def test_a_checkout_that_is_not_installed_has_no_version() -> None:
    """PYTHONPATH is a way to run it; only its number is missing then."""
    assert version_of("a-package-that-is-not-installed") == "unknown"
    assert version_of("msgspec") == msgspec.__version__


IMPORTED_BEFORE = """
import diffusers, huggingface_hub
from diffusers.utils.dynamic_modules_utils import resolve_trust_remote_code
from huggingface_hub.errors import OfflineModeIsEnabled
assert resolve_trust_remote_code(True, "org/name", True)
from qwen_loader.libraries import import_libraries
import_libraries()
try:
    huggingface_hub.HfApi().model_info("org/name")
except OfflineModeIsEnabled:
    print("offline")
try:
    resolve_trust_remote_code(True, "org/name", True)
except ValueError:
    print("no code")
"""


@loader
def test_a_program_that_imported_diffusers_first_is_held_to_it_too(tmp_path: Path) -> None:
    """Neither the Hub nor a repository's code, though the libraries have read the environment before."""
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", IMPORTED_BEFORE], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "offline\nno code\n", done.stderr


@loader
def test_old_diffusers_is_refused_before_it_is_imported(tmp_path: Path) -> None:
    """What an index of packages says of it is enough; the fix is one command."""
    about = tmp_path / "diffusers-0.35.2.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text("Metadata-Version: 2.1\nName: diffusers\nVersion: 0.35.2\n")
    ask = "import sys; from qwen_loader.libraries import *\n"
    ask += "try: import_libraries()\nexcept LoadFailed as error: print(error.code, error, 'diffusers' in sys.modules)"
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", ask], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("E_OLD_DIFFUSERS diffusers 0.35.2 may run code"), done.stderr
    assert "pip install -U 'diffusers>=0.42.1'" in done.stdout
    assert done.stdout.endswith(" False\n")


# The real thing.

PATIENCE_S = 250.0  # torch, diffusers and a picture; only a test that fails waits this long
PROMPT = "Make the sky orange: “закат”."


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> SmallModel:
    return folder_as_model(tmp_path / "hub", tiny).write()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    from PIL import Image

    path = tmp_path / "in.png"
    Image.linear_gradient("L").convert("RGB").resize((64, 64)).save(path)
    return path


def start(model: SmallModel, *arguments: str, **more: str) -> subprocess.Popen[str]:
    home = model.cache.parent
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "HF_HUB_CACHE": str(model.cache),
        "OMP_NUM_THREADS": "2",
        **more,
    }
    command = [sys.executable, "-m", "qwen_loader", REPO, *arguments]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def edit_options(picture: Path, output: Path) -> tuple[str, ...]:
    return ("--edit", str(picture), "--prompt", PROMPT, "--output", str(output), "--steps", "2", "--size", "64")


@loader
def test_loads_and_edits_from_a_bare_disk(model: SmallModel, picture: Path, tmp_path: Path) -> None:
    """Every file hashed, the stored dtype kept, each step told, a picture of the asked size, and no part file left."""
    from PIL import Image

    output = tmp_path / "out" / "edited.png"
    output.parent.mkdir()
    with start(model, *edit_options(picture, output), "--json") as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    said = json.loads(out)
    expected = {"state": "ready", "source": "disk", "verified": "sha256", "device": "cpu", "dtype": "bfloat16"}
    assert {name: said[name] for name in expected} == expected
    assert said["picture"] == str(output)
    assert said["path"] == str(model.folder)
    assert [output] == list(output.parent.iterdir())
    assert "editing: step 1 of 2\n" in err and "editing: step 2 of 2\n" in err
    with Image.open(output) as edited:
        assert edited.size == (64, 64)
        assert edited.convert("L").getextrema() not in ((0, 0), (255, 255))
        made = {"model": f"{REPO}@{COMMIT}", "verified": "sha256", "steps": "2", "seed": "0", "images": "1"}
        assert {name: edited.info[name] for name in made} == made
        assert edited.info["prompt"] == PROMPT
        assert "diffusers" in edited.info["Software"]


@loader
def test_dtype_and_placement_are_taken_from_the_command_line(model: SmallModel) -> None:
    """Also where the weights are stored otherwise, and where there is nothing to choose from."""
    with start(model, "--placement", "cpu", "--dtype", "float32", "--json") as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert (json.loads(out)["device"], json.loads(out)["dtype"]) == ("cpu", "float32")
    assert "placement: cpu, as asked" in err


@loader
def test_several_pictures_become_one(model: SmallModel, picture: Path, tmp_path: Path) -> None:
    """As the Plus pipeline takes them; the picture says how many and which seed."""
    from PIL import Image

    output = tmp_path / "edited.png"
    other = tmp_path / "other.png"
    Image.radial_gradient("L").convert("RGB").resize((64, 64)).save(other)
    with start(model, *edit_options(picture, output), "--edit", str(other), "--seed", "7") as process:
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    with Image.open(output) as edited:
        assert (edited.info["images"], edited.info["seed"]) == ("2", "7")


@loader
def test_a_picture_that_cannot_be_kept_is_not_the_models_fault(
    model: SmallModel, picture: Path, tmp_path: Path
) -> None:
    """The folder is gone when the picture is made: that is what is said, and nothing repeated between the steps."""
    (tmp_path / "out").mkdir()
    with start(model, *edit_options(picture, tmp_path / "out" / "edited.png")) as process:
        assert process.stderr is not None and process.stdout is not None
        assert any(line.startswith("loading: ") for line in process.stderr)
        (tmp_path / "out").rmdir()
        err = process.stderr.read()
        assert (process.wait(60), process.stdout.read()) == (1, "")
    assert "error[E_IO]: the picture was not made\n" in err
    assert err[err.index("editing: step 1") :].count("loading: ") == 0


@loader
def test_the_same_seed_is_the_same_picture(tiny: Path, picture: Path, tmp_path: Path) -> None:
    """Pixel by pixel; another seed, another prompt or a second picture is another result."""
    from PIL import Image

    ready = ReadyModel(repo=REPO, commit="", path=str(tiny), verified="sha256", source="disk")
    pipeline = load_pipeline(ready, device="cpu", progress=lambda *step: None)

    def made(images: Path | list[Path], prompt: str, seed: int) -> bytes:
        steps: list[tuple[int, int]] = []
        output = tmp_path / "out.png"
        edit(pipeline, images, prompt, output, steps=2, size_px=64, seed=seed, on_step=lambda *s: steps.append(s))
        assert steps == [(1, 2), (2, 2)]
        with Image.open(output) as edited:
            return edited.tobytes()

    first = made(picture, PROMPT, 7)
    assert made([picture], PROMPT, 7) == first
    assert first not in (made(picture, PROMPT, 8), made([picture, picture], PROMPT, 7), made(picture, "x", 7))


@loader
def test_waits_for_the_daemon_loads_and_stays(model: SmallModel) -> None:
    """The daemon hears waiting, each component, ready, gone; a signal ends it in order."""
    runtime = model.cache.parent / "run" / "qwen-daemon"
    model.write_ready(runtime)
    with FakeDaemon(runtime, *model.wanted_events(), bookmark_s=0.2) as daemon, start(model, "--keep") as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert process.stderr.readline().startswith("waiting: 0 % 0.0/")
        daemon.say(*model.complete_events())
        assert process.stdout.readline() == f"{model.folder}\n"
        assert any(line.startswith("ready: ") for line in process.stderr)
        seen = 0
        while not any(s.state == "ready" for s in daemon.status.loaders.values()):
            seen = len(daemon.wait_for_commands(seen + 1))
        (shown,) = daemon.status.loaders.values()
        assert (shown.model, shown.pid, shown.device) == (model.ref.key, process.pid, "cpu")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        process.stderr.read()
        (shown,) = daemon.status.loaders.values()
        assert shown.state == "gone"


@loader
def test_the_daemon_hears_every_state_of_a_short_life(model: SmallModel, picture: Path, tmp_path: Path) -> None:
    """Ready comes before the picture is edited and is not lost because the loader is gone a moment later."""
    runtime = model.cache.parent / "run" / "qwen-daemon"
    model.write_ready(runtime)
    edit = edit_options(picture, tmp_path / "edited.png")
    with (
        FakeDaemon(runtime, *model.wanted_events(), *model.complete_events()) as daemon,
        start(model, *edit) as process,
    ):
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, err
        states = [report.state for report in daemon.loader_reports()]
    assert [state for state, _ in groupby(states)] == ["waiting", "loading", "ready", "gone"]


@loader
def test_a_signal_in_the_middle_of_loading_ends_it(model: SmallModel) -> None:
    """torch cannot be asked to stop; the process can."""
    with start(model) as process:
        assert process.stderr is not None
        assert any(line.startswith("loading: ") for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(60) in (143, 0)  # 0: it was done before the signal came


@loader
def test_holds_it_until_there_is_a_newer_commit(model: SmallModel) -> None:
    """Whoever starts it again (systemd: Restart=always) gets the new one; what is loaded is never changed."""
    runtime = model.cache.parent / "run" / "qwen-daemon"
    model.write_ready(runtime)
    newer = "beef" + "0" * 36
    folder = shutil.copytree(model.folder, model.folder.with_name(newer), symlinks=True)
    resolved, complete = model.wanted_events()[1], model.complete_events()[-1]
    script = (*model.wanted_events(), *model.complete_events())
    with FakeDaemon(runtime, *script, bookmark_s=0.2) as daemon, start(model, "--until-update") as process:
        assert process.stderr is not None
        assert any(line.startswith("ready: ") for line in process.stderr)
        ready = msgspec.structs.replace(model.ready(), commit=newer, path=str(folder))
        places.ready_file(runtime, model.ref.key).write_bytes(msgspec.json.encode(ready))
        daemon.say(
            msgspec.structs.replace(resolved, commit=newer),
            *[model.verified_event(path) for path in model.contents],
            msgspec.structs.replace(complete, commit=newer, path=str(folder)),
        )
        assert process.stderr.readline() == f"update: commit {newer} of {model.ref} is complete: {folder}\n"
        assert process.wait(60) == 0


@loader
def test_the_fallback_is_marked_unverified(model: SmallModel) -> None:
    """The daemon gave up, the user insists: diffusers is let loose (here it has no network) and all is told."""
    runtime = model.cache.parent / "run" / "qwen-daemon"
    gated = e.ModelStateChanged(model=model.ref.key, state="failed", code="E_GATED", detail="terms not accepted")
    with FakeDaemon(runtime, *model.wanted_events(), gated) as daemon:
        # What the Hub would give is what lies in the cache; offline, diffusers takes it from there.
        with start(model, "--fallback", "hub", HF_HUB_OFFLINE="1") as process:
            out, err = process.communicate(timeout=PATIENCE_S)
        told = [c.body for c in daemon.commands if c.verb == "loader"]
    assert process.returncode == 0, err
    assert "UNVERIFIED, because the daemon gave up: terms not accepted" in err
    assert out == f"{REPO} (unverified)\n"
    assert any(b"unverified, from the Hub: E_GATED" in body for body in told)


@loader
def test_the_fallback_takes_no_damaged_file(model: SmallModel) -> None:
    """diffusers would take it from the cache without a look at its hash."""
    blob = model.file("vae/diffusion_pytorch_model.safetensors")
    content = blob.read_bytes()
    blob.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    with start(model, "--fallback", "hub", "--timeout", "0", HF_HUB_OFFLINE="1") as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (10, ""), err
    assert "error[E_CORRUPT]" in err


@pytest.mark.fault("X6")
@loader
def test_a_wrong_shard_is_never_loaded(model: SmallModel, picture: Path, tmp_path: Path) -> None:
    """diffusers would load it and paint another picture without a word."""
    shard = next(path for path in model.contents if path.startswith("transformer/") and "00002" in path)
    blob = model.file(shard)
    content = bytearray(blob.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    blob.write_bytes(content)
    output = tmp_path / "edited.png"
    with start(model, *edit_options(picture, output), "--timeout", "0", "--json") as process:
        out, _ = process.communicate(timeout=PATIENCE_S)
    assert json.loads(out)["error"]["missing"] == [shard]
    assert process.returncode == 10
    assert not output.exists()


@loader
def test_fp16_only_weights_are_found(tiny: Path, tmp_path: Path) -> None:
    """A folder with nothing but a variant loads as that variant."""
    folder = tmp_path / "variant"
    shutil.copytree(tiny, folder)
    vae = folder / "vae"
    (vae / "diffusion_pytorch_model.safetensors").rename(vae / "diffusion_pytorch_model.fp16.safetensors")
    seen: list[tuple[str, int]] = []
    ready = ReadyModel(repo=REPO, commit="", path=str(folder), verified="sha256", source="disk")
    before = {name: os.environ.get(name) for name in ("HF_HUB_OFFLINE", "DIFFUSERS_DISABLE_REMOTE_CODE")}
    try:
        pipeline = load_pipeline(ready, device="cpu", progress=lambda *step: seen.append(step))
        assert {"HF_HUB_OFFLINE", "DIFFUSERS_DISABLE_REMOTE_CODE"} <= set(os.environ)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    assert str(pipeline.dtype) == "torch.bfloat16"
    assert {name for name, _ in seen} == {"processor", "scheduler", "text_encoder", "tokenizer", "transformer", "vae"}
    assert sorted(loaded_bytes for _, loaded_bytes in seen) == [loaded_bytes for _, loaded_bytes in seen]


@loader
def test_a_gpu_that_is_not_there_is_said_so(model: SmallModel) -> None:
    """Before a byte of the weights is read."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    ready = ReadyModel(repo=REPO, commit="", path=str(model.folder), verified="sha256", source="disk")
    with pytest.raises(LoadFailed) as raised:
        load_pipeline(ready, device="cuda")
    assert raised.value.code == "E_NO_GPU"
