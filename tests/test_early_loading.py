"""Components are loaded while the rest of the model downloads; what changes meanwhile is loaded again or given back.

The daemon is a fake that says what each test wants; the model is the tiny real pipeline, on a real disk.
"""

from __future__ import annotations

import gc
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from demo import tiny_pipeline
from qwen_api import events as e
from qwen_api.manifest import component_of
from qwen_api.seals import take_seal
from qwen_api.status import FileStatus, ModelStatus
from qwen_daemon.config import ConfiguredModel
from qwen_loader.arrival import Arrival, Later, News, Ordered
from qwen_loader.assembly import Assembly, Dropped, Loaded, Placed, Step, Wishes
from qwen_loader.gate import Waiting
from qwen_loader.libraries import LoadFailed
from qwen_loader.overlap import load_order, next_component
from qwen_loader.ready import ModelUnavailable, ReadyModel, WaitClosed
from tests.fakes.daemon import FakeDaemon
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.fakes.hub_wire import Gate
from tests.fakes.small_model import SmallModel, folder_as_model
from tests.running import Running

loader = pytest.mark.loader
PATIENCE_S = 100.0  # importing torch on a busy machine
T = TypeVar("T")


# What is to be loaded now: pure.


def status(*verified: str, state: e.ModelState = "downloading") -> ModelStatus:
    sizes = {
        "model_index.json": 5,
        "transformer/a.safetensors": 900,
        "transformer/config.json": 1,
        "vae/a.safetensors": 300,
        "text_encoder/a.safetensors": 600,
        "tokenizer/vocab.json": 7,
    }
    files = {
        path: FileStatus(path=path, size_bytes=size, state="verified" if path in verified else "downloading")
        for path, size in sizes.items()
    }
    return ModelStatus(model="org--name", repo="org/name", revision="main", state=state, commit="c", files=files)


EVERYTHING = tuple(status().files)


def test_the_largest_component_goes_first() -> None:
    """It takes longest; what is small is loaded in no time after the last byte."""
    assert load_order(status()) == ("transformer", "text_encoder", "vae")
    loaded: list[str] = []
    while name := next_component(status(*EVERYTHING), loaded):
        loaded.append(name)
    assert loaded == ["transformer", "text_encoder", "vae", "tokenizer"]


def test_nothing_is_loaded_before_the_index_is_verified() -> None:
    """model_index.json names the classes: an unverified one could name any."""
    others = [path for path in EVERYTHING if path != "model_index.json"]
    assert next_component(status(*others), ()) is None
    assert next_component(status(*others, "model_index.json"), ()) == "transformer"


def test_a_component_waits_for_its_last_file() -> None:
    """Weights without their configuration would be another model."""
    assert next_component(status("model_index.json", "transformer/a.safetensors"), ()) is None


@pytest.mark.parametrize("state", ["queued", "checking", "paused", "failed", "incomplete"])
def test_nothing_is_begun_while_nothing_comes(state: e.ModelState) -> None:
    """Only a download that goes on is worth a GPU's memory."""
    assert next_component(status(*EVERYTHING, state=state), ()) is None


# The real thing.


class Scene:
    """A model that is downloading, as the daemon tells it, and the arrival of it in a thread."""

    def __init__(self, model: SmallModel, runtime: Path) -> None:
        self.model = model
        self.runtime = runtime
        self.daemon = FakeDaemon(runtime, *model.wanted_events(), bookmark_s=0.2)
        self.daemon.folder = str(model.folder)
        self.told: queue.SimpleQueue[News] = queue.SimpleQueue()
        self.seen: list[News] = []
        self.may_read = threading.Event()
        self.may_read.set()
        self.pipeline: Any = None
        self.error: Exception | None = None
        self.arrival = Arrival(
            model.ref,
            Wishes(device="cpu"),
            tell=self._tell,
            env={"HOME": str(runtime.parent), "XDG_RUNTIME_DIR": str(runtime.parent)},
            cache_dir=model.cache,
        )
        self._thread = threading.Thread(target=self._arrive)

    def __enter__(self) -> Scene:
        self.daemon.__enter__()
        self._thread.start()
        self.next(Ordered)
        return self

    def __exit__(self, *_: object) -> None:
        self.arrival.close()
        self._thread.join()
        self.daemon.__exit__(None, None, None)

    def _tell(self, news: News) -> None:
        """In the thread that reads: it goes on when it may."""
        self.told.put(news)
        if isinstance(news, Loaded):
            self.may_read.wait(PATIENCE_S)

    def _arrive(self) -> None:
        try:
            self.pipeline = self.arrival.load(self.arrival.wait())
        except Exception as error:
            self.error = error

    def came(self, *names: str) -> None:
        """These components are whole and right; "" is the root."""
        paths = [path for path in self.model.contents if component_of(path) in names]
        self.daemon.seals |= {path: take_seal(self.model.folder / path) for path in paths}
        self.daemon.say(*[self.model.verified_event(path) for path in paths])

    def complete(self) -> None:
        """The whole model is; waits for what becomes of it."""
        self.model.write_ready(self.runtime)
        self.daemon.say(*self.model.complete_events())
        self._thread.join(PATIENCE_S)

    def end(self) -> None:
        """Wait for what becomes of it."""
        self._thread.join(PATIENCE_S)

    def next(self, kind: type[T]) -> T:
        """The next news of this kind."""
        while True:
            news = self.told.get(timeout=PATIENCE_S)
            self.seen.append(news)
            if isinstance(news, kind):
                return news

    def all(self, kind: type[T]) -> list[T]:
        """All news of this kind."""
        while not self.told.empty():
            self.seen.append(self.told.get())
        return [news for news in self.seen if isinstance(news, kind)]


@pytest.fixture
def scene(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    for name in ("HF_HUB_OFFLINE", "DIFFUSERS_DISABLE_REMOTE_CODE"):
        monkeypatch.setenv(name, "1")  # loading sets them; here they are taken back
    with Scene(folder_as_model(tmp_path / "hub", tiny).write(), tmp_path / "qwen-daemon") as scene:
        yield scene


def vaes() -> int:
    """How many of them are in memory."""
    gc.collect()
    return sum(type(thing).__name__ == "AutoencoderKLQwenImage" for thing in gc.get_objects())


@loader
def test_a_component_is_loaded_while_the_rest_is_not_there(scene: Scene) -> None:
    """The transformer's files do not exist yet; at the end all is one pipeline and nothing was loaded twice."""
    shards = [scene.model.file(path) for path in scene.model.contents if path.startswith("transformer/")]
    aside = [shard.rename(shard.with_suffix(".aside")) for shard in shards]
    scene.came("", "vae")
    assert scene.next(Loaded).component == "vae"
    assert scene.next(Waiting).missing
    for moved, shard in zip(aside, shards, strict=True):
        moved.rename(shard)
    scene.complete()
    assert scene.error is None
    assert type(scene.pipeline).__name__ == "QwenImageEditPlusPipeline"
    assert str(scene.pipeline.dtype) == "torch.bfloat16"
    names = [loaded.component for loaded in scene.all(Loaded)]
    assert names[0] == "vae"
    assert sorted(names) == ["processor", "scheduler", "text_encoder", "tokenizer", "transformer", "vae"]
    assert scene.all(Dropped) == []
    assert [placed.plan.placement for placed in scene.all(Placed)] == ["cpu"]


@loader
def test_what_was_touched_after_it_was_loaded_is_loaded_again(scene: Scene) -> None:
    """What is in memory is of the file as it was; the daemon verified the file as it is now."""
    scene.came("", "vae")
    scene.next(Loaded)
    blob = scene.model.file("vae/diffusion_pytorch_model.safetensors")
    content = blob.read_bytes()
    blob.unlink()
    blob.write_bytes(content)
    scene.complete()
    assert scene.error is None
    (dropped,) = scene.all(Dropped)
    assert (dropped.components, "touched" in dropped.why) == (("vae",), True)
    assert [loaded.component for loaded in scene.all(Loaded)].count("vae") == 2


@loader
def test_a_download_that_fails_gives_the_memory_back(scene: Scene) -> None:
    """And says so; nothing refers to the component any more."""
    scene.came("", "vae")
    scene.next(Loaded)
    before = vaes()
    key = scene.model.ref.key
    scene.daemon.say(e.ModelStateChanged(model=key, state="failed", code="E_GATED", detail="terms not accepted"))
    scene.end()
    assert isinstance(scene.error, ModelUnavailable)
    (dropped,) = scene.all(Dropped)
    assert (dropped.components, dropped.why) == (("vae",), "the model did not come: terms not accepted")
    assert (before, vaes()) == (1, 0)


@loader
def test_a_wait_that_is_closed_gives_the_memory_back(scene: Scene) -> None:
    """A program that changes its mind."""
    scene.came("", "vae")
    scene.next(Loaded)
    scene.arrival.close()
    scene.end()
    assert [dropped.components for dropped in scene.all(Dropped)] == [("vae",)]


@loader
def test_a_wait_that_ends_does_not_wait_for_what_is_being_read(scene: Scene) -> None:
    """A component takes minutes to read from a slow disk, --timeout is over now; what was read is freed afterwards."""
    scene.may_read.clear()
    scene.came("", "vae")
    scene.next(Loaded)
    scene.arrival.close()
    scene.end()
    assert (type(scene.error), scene.arrival.is_reading) == (WaitClosed, True)
    scene.may_read.set()
    assert scene.next(Dropped).components == ("vae",)


@loader
def test_a_fallback_can_wait_until_what_is_being_read_is_let_go_of(scene: Scene) -> None:
    """The whole model must not be loaded from the Hub beside it."""
    scene.may_read.clear()
    scene.came("", "vae")
    scene.next(Loaded)
    scene.arrival.close()
    scene.end()
    waiting = threading.Thread(target=scene.arrival.end_reading)
    waiting.start()
    scene.may_read.set()
    waiting.join()
    assert not scene.arrival.is_reading and scene.next(Dropped).components == ("vae",)


@loader
def test_another_commit_in_mid_download_begins_anew(scene: Scene) -> None:
    """Components of two commits are never one pipeline."""
    scene.came("", "vae")
    scene.next(Loaded)
    resolved = scene.model.wanted_events()[1]
    assert isinstance(resolved, e.ModelResolved)
    scene.daemon.say(msgspec.structs.replace(resolved, commit="d" * 40))
    assert scene.next(Dropped).components == ("vae",)
    assert scene.next(Ordered).components[0] in ("transformer", "text_encoder")


@loader
def test_what_no_seal_vouches_for_is_hashed_before_it_is_loaded(scene: Scene) -> None:
    """Half a shard of zeros, called verified: it stays out, and no exception ends the wait."""
    blob = scene.model.file("vae/diffusion_pytorch_model.safetensors")
    right = blob.read_bytes()
    scene.came("")
    blob.write_bytes(right[: len(right) // 2] + bytes(len(right) - len(right) // 2))
    scene.daemon.say(*[scene.model.verified_event(p) for p in scene.model.contents if component_of(p) == "vae"])
    assert scene.next(Later).component == "vae"
    blob.write_bytes(right)
    scene.complete()
    assert scene.error is None
    assert scene.pipeline is not None


@loader
def test_a_right_file_without_a_seal_is_hashed_and_loaded(scene: Scene) -> None:
    """A daemon whose seals were lost or moved (a hardlink was made) costs a hash, not the early start."""
    scene.came("")
    scene.daemon.say(*[scene.model.verified_event(p) for p in scene.model.contents if component_of(p) == "vae"])
    assert scene.next(Loaded).component == "vae"


@loader
def test_a_component_without_its_configuration_is_not_built(scene: Scene) -> None:
    """transformers would build the class's default model of 144 GB instead of failing."""
    config = "text_encoder/config.json"
    (scene.model.folder / config).unlink()
    resolved = scene.model.wanted_events()[1]
    assert isinstance(resolved, e.ModelResolved)
    scene.daemon.say(msgspec.structs.replace(resolved, files=tuple(f for f in resolved.files if f.path != config)))
    del scene.model.contents[config]
    scene.came("", "text_encoder")
    later = scene.next(Later)
    assert later.component == "text_encoder"
    assert "more than 100 GB" in later.why


class _Shortened:
    """While this lasts, the file is short as soon as a transfer opens it: its component was built by then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = path.read_bytes()
        self._lasts = False

    def __enter__(self) -> None:
        self._lasts = True
        sys.addaudithook(self._hear)  # there is no taking it back

    def __exit__(self, *_: object) -> None:
        self._lasts = False
        self._path.write_bytes(self._content)

    def _hear(self, event: str, about: tuple[Any, ...]) -> None:
        is_it = self._lasts and event == "open" and str(about[0]) == os.path.realpath(self._path)
        if is_it and threading.current_thread().name.startswith("transfer"):
            os.truncate(self._path, 5000)


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """The tiny pipeline, one's own."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def whole(folder: Path) -> ReadyModel:
    return ReadyModel(repo="org/tiny", commit="", path=str(folder), verified="none", source="disk")


@loader
def test_what_failed_is_not_kept_by_its_error(folder: Path) -> None:
    """A program that logs the error and goes on has its memory back."""
    before = vaes()
    assembly = Assembly(Wishes(device="cpu", mmap=False), lambda _step: None)
    with (
        _Shortened(folder / "vae/diffusion_pytorch_model.safetensors"),
        pytest.raises(LoadFailed, match="ends before byte") as kept,
    ):
        assembly.finish(whole(folder))
    assert kept.value.code == "E_LOAD"
    assert vaes() == before


@loader
def test_a_component_that_could_not_be_read_early_is_read_at_the_end(folder: Path) -> None:
    """What was wrong with the file then is no reason to fail now: nothing half-read is kept."""
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.glob("*/*")}
    told: list[Step] = []
    assembly = Assembly(Wishes(device="cpu", mmap=False), told.append)
    with (
        _Shortened(folder / "vae/diffusion_pytorch_model.safetensors"),
        pytest.raises(LoadFailed, match="ends before byte"),
    ):
        assembly.load_early(folder, "vae", sizes, {})
    assert assembly.held == frozenset()
    assert [step for step in told if isinstance(step, Dropped)] == [
        Dropped(components=("vae",), why="it could not be loaded early")
    ]
    pipeline = assembly.finish(whole(folder))
    assert all(bool(weight.isfinite().all()) for weight in pipeline.vae.parameters())


MEASURE = """
import gc, pathlib, sys
from qwen_loader.libraries import import_libraries
from qwen_loader.pipeline import load_pipeline
from qwen_loader.ready import ReadyModel

def kib(name):
    text = pathlib.Path("/proc/self/status").read_text()
    return int(text.split(name + ":")[1].split()[0])

import_libraries()
from diffusers import AutoencoderKLQwenImage, QwenImageEditPlusPipeline, QwenImageTransformer2DModel
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLProcessor
base = kib("VmRSS")
ready = ReadyModel(repo="a/b", commit="", path=sys.argv[1], verified="sha256", source="disk")
pipeline = load_pipeline(ready, device="cpu", progress=lambda *step: None)
models = (pipeline.vae, pipeline.transformer, pipeline.text_encoder)
assert sum(p.numel() for m in models for p in m.parameters() if p.float().sum().isfinite())
print((kib("VmHWM") - base) * 1024)
"""


@loader
def test_the_peak_is_one_copy_of_the_weights(tmp_path: Path) -> None:
    """Weights are the file's own pages: no second copy is made on the way, even when each of them is read."""
    folder = tiny_pipeline.build(tmp_path / "model", size="118mb")
    weights_bytes = sum(path.stat().st_size for path in folder.glob("*/*.safetensors"))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder)],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) <= weights_bytes * 1.3


# The real daemon.


@loader
@pytest.mark.parametrize("place", ["cache", "local_dir"])
def test_a_real_daemon_and_the_real_command(tiny: Path, tmp_path: Path, place: str) -> None:
    """A shard of the transformer is held back on the wire until the text encoder is in memory; then ready follows.

    The folder that fills may be the cache's snapshot or the user's own.
    """
    folder = str(tmp_path / "own") if place == "local_dir" else ""
    wanted = ConfiguredModel(model="org/tiny", local_dir=folder)
    files = {path.relative_to(tiny).as_posix(): path.read_bytes() for path in tiny.rglob("*") if path.is_file()}
    with ThreadedSimHub(SimHub(SimRepo(id="org/tiny", files=files))) as hub:
        gate = hub.gate("transformer/*-00003-*", 0, repo="org/tiny")
        config = "[network]\nread_timeout_s = 600\n"
        with Running(tmp_path, endpoint=hub.endpoint, models=[wanted], config=config) as daemon:
            _load_early_and_die(daemon, gate, folder)


def _load_early_and_die(daemon: Running, gate: Gate, folder: str) -> None:
    command = [sys.executable, "-m", "qwen_loader", "org/tiny", "--device", "cpu", "--keep", "--name", "gpu0"]
    env = {**daemon.env, "QWEN_DAEMON_SOCKET": str(daemon.control), "OMP_NUM_THREADS": "2"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            told = daemon.wait_event(e.LoaderChanged, state="loading", component="text_encoder", timeout=PATIENCE_S)
            assert told.components[0] == "text_encoder"
            assert told.loaded_bytes == told.component_bytes == told.component_size_bytes > 0
            assert daemon.status.models["org--tiny"].state == "downloading"
            gate.open()
            ready = daemon.wait_event(e.LoaderChanged, state="ready", timeout=PATIENCE_S)
            assert (ready.name, ready.device, ready.pid) == ("gpu0", "cpu", process.pid)
            path = daemon.status.models["org--tiny"].path
            assert path == (folder or path) and (Path(path) / "model_index.json").is_file()
        finally:
            process.kill()
            process.communicate()
    died = daemon.wait_event(e.LoaderChanged, state="failed", timeout=PATIENCE_S)
    assert died.detail.startswith("killed, or out of memory") and died.detail.endswith("while ready")


@loader
def test_a_loader_that_is_killed_while_it_loads_is_told_to_everybody(tiny: Path, tmp_path: Path) -> None:
    """The kernel says nothing to anybody; the daemon looks, and the monitor has why."""
    files = {path.relative_to(tiny).as_posix(): path.read_bytes() for path in tiny.rglob("*") if path.is_file()}
    with ThreadedSimHub(SimHub(SimRepo(id="org/tiny", files=files))) as hub:
        hub.gate("transformer/*-00003-*", 0, repo="org/tiny")
        config = "[network]\nread_timeout_s = 600\n"
        with Running(tmp_path, endpoint=hub.endpoint, models=["org/tiny"], config=config) as daemon:
            env = {**daemon.env, "QWEN_DAEMON_SOCKET": str(daemon.control), "OMP_NUM_THREADS": "2"}
            command = ["qwen-loader", "org/tiny", "--name", "gpu0"]
            with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as load:
                try:
                    daemon.wait_event(e.LoaderChanged, name="gpu0", state="loading", timeout=PATIENCE_S)
                finally:
                    load.kill()
            died = daemon.wait_event(e.LoaderChanged, name="gpu0", state="failed", timeout=PATIENCE_S)
            with subprocess.Popen(["qwen-monitor", "--json"], env=env, stdout=subprocess.PIPE, text=True) as watch:
                assert watch.stdout is not None
                shown = [watch.stdout.readline() for _ in range(2)]  # hello, and the state of all
                watch.kill()
    assert f"process {load.pid} ended" in died.detail
    assert died.detail.startswith("killed, or out of memory") and died.detail.endswith("while loading")
    assert died.detail in shown[1]
