"""A model in a folder of the user's own: as `hf download --local-dir` leaves it, and nothing else there is touched.

The installed commands, a simulated Hub or the repository's own mirror, and the real `hf`.
"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from qwen_api import events as e
from qwen_api import places
from qwen_api.seals import read_ready, seal_matches, take_seal
from qwen_daemon.config import ConfiguredModel
from tests import canary
from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.overseer import Point, overseeing
from tests.running import Running

REPO, KEY, WEIGHTS, COPY = "org/one", "org--one", "model.safetensors", "deep/er/same.safetensors"
MIB = 1 << 20
BIG = model_folder.safetensors("w", floats=5 * MIB)  # 20 MiB: two spans
FILES = {
    **model_folder.transformers_model("Qwen2ForCausalLM"),
    "README.md": b"# one\n",
    "docs/note.md": b"note",
    "docs/same.md": b"note",
    WEIGHTS: BIG,
    COPY: BIG,
}
CONTENT_BYTES = sum(map(len, set(FILES.values())))
RUN_S = 60
SLOW = '[disk]\nreserve_bytes = 0\n[network]\nrate_limit_bps = "4MB/s"\n'
BIN = Path(sys.executable).parent


@pytest.fixture
def repo() -> SimRepo:
    return SimRepo(id=REPO, files=FILES)


@pytest.fixture
def hub(repo: SimRepo) -> Iterator[SimHub]:
    with ThreadedSimHub(SimHub(repo)) as hub:
        yield hub


def kept_in(folder: Path, model: str = REPO) -> ConfiguredModel:
    return ConfiguredModel(model=model, local_dir=str(folder))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of the folder but huggingface_hub's own."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.relative_to(folder).parts]
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def command(env: dict[str, str], name: str, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run an installed command to its end."""
    return canary.run([BIN / name, *words], env=env, cwd=cwd)


def hf_download(env: dict[str, str], folder: Path) -> None:
    done = command(env, "hf", "download", REPO, "--local-dir", str(folder))
    assert done.returncode == 0, done.stderr


def test_a_configured_folder_is_filled_and_handed_over(hub: SimHub, tmp_path: Path) -> None:
    """Real files, each content fetched once, the folder in every answer, nothing in the cache; nothing hashed twice."""
    folder = tmp_path / "models" / "one"
    with Running(tmp_path, endpoint=hub.endpoint, models=[kept_in(folder)]) as daemon:
        complete = daemon.wait_complete(KEY)
        assert complete.path == str(folder) == daemon.seen(e.ComponentComplete)[-1].path
        assert contents(folder) == FILES
        assert hub.log.bytes_served() == CONTENT_BYTES
        assert {path.name for path in daemon.cache.glob("*")} <= {".locks"}
        ready = read_ready(places.ready_file(daemon.state_dir, KEY))
        assert ready is not None and ready.path == str(folder) and set(ready.seals) == set(FILES)
        assert all(seal_matches(folder / path, seal) for path, seal in ready.seals.items())
        assert len({seal.inode for seal in ready.seals.values()}) == len(FILES)
        assert list(folder.rglob(".qwen-*")) == []
        assert command(daemon.env, "qwenctl", "wait", REPO).stdout == f"{folder}\n"
        daemon.stop()
        daemon.start()
        daemon.wait_complete(KEY)
        assert daemon.seen(e.FileVerified) == [] and hub.log.bytes_twice() == 0


# Together with `hf download --local-dir`


def test_what_hf_brought_is_hashed_once_and_kept(hub: SimHub, tmp_path: Path) -> None:
    """Not a byte is fetched, no file is replaced, and after a restart none is hashed again."""
    folder = tmp_path / "one"
    with Running(tmp_path, endpoint=hub.endpoint) as daemon:
        hf_download(daemon.env, folder)
        before = {path: take_seal(folder / path) for path in FILES}
        hub.log.clear()
        daemon.configure([kept_in(folder)])
        daemon.wait_complete(KEY)
        assert hub.log.bytes_served() == 0
        assert {event.path for event in daemon.seen(e.FileVerified)} == set(FILES)
        assert {path: take_seal(folder / path) for path in FILES} == before
        daemon.stop()
        daemon.start()
        daemon.wait_complete(KEY)
        assert daemon.seen(e.FileVerified) == []


def test_hf_fetches_nothing_again_after_us(hub: SimHub, tmp_path: Path) -> None:
    """Nor does it after a repair."""
    folder = tmp_path / "one"
    with Running(tmp_path, endpoint=hub.endpoint, models=[kept_in(folder)]) as daemon:
        daemon.wait_complete(KEY)
        mark = daemon.mark
        (folder / "README.md").write_bytes(b"# two\n")
        daemon.wait_complete(KEY, after=mark)
        hub.log.clear()
        hf_download(daemon.env, folder)
        assert hub.log.bytes_served() == 0 and contents(folder) == FILES


def test_hf_fetches_nothing_again_from_our_own_mirror(tmp_path: Path) -> None:
    """`qwenctl download` from it, then `hf download`, then both the other way round: every file stays as it stood."""
    model_folder.write(tmp_path / "models" / REPO, FILES)
    serve = [BIN / "qwen-daemon", "mirror", tmp_path / "models", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as mirror:
        assert mirror.stdout is not None
        env = Running(tmp_path, endpoint=mirror.stdout.readline().strip()).env
        try:
            ours, theirs = tmp_path / "ours", tmp_path / "theirs"
            done = command(env, "qwenctl", "download", REPO, "--local-dir", "ours", cwd=tmp_path)
            assert (done.returncode, done.stdout) == (0, f"{ours}\n"), done.stderr
            hf_download(env, theirs)
            before = {path: take_seal(path) for name in FILES for path in (ours / name, theirs / name)}
            hf_download(env, ours)
            done = command(env, "qwenctl", "download", REPO, "--local-dir", str(theirs))
            assert (done.returncode, done.stdout) == (0, f"{theirs}\n"), done.stderr
            assert {path: take_seal(path) for path in before} == before
            assert contents(ours) == contents(theirs) == FILES
        finally:
            mirror.terminate()


def test_the_records_are_those_of_hf(hub: SimHub, tmp_path: Path) -> None:
    """The same names with the same content below .cache/huggingface; only times and lock files are one's own."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with Running(tmp_path, endpoint=hub.endpoint, models=[kept_in(ours)]) as daemon:
        daemon.wait_complete(KEY)
        hf_download(daemon.env, theirs)
    assert records(ours) == records(theirs)
    locks = {str(path.relative_to(folder)) for folder in (ours, theirs) for path in folder.rglob("*.lock")}
    assert {str(path.relative_to(ours)) for path in ours.rglob("*.lock")} <= locks
    assert f".cache/huggingface/download/{COPY}.lock" in locks


def records(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in (folder / ".cache").rglob("*"):
        if path.is_file() and path.suffix != ".lock":
            text = path.read_text()
            told = text.split("\n")[:2] if path.suffix == ".metadata" else text
            found[str(path.relative_to(folder))] = json.loads(text) if path.suffix == ".json" else told
    return found


def test_when_the_branch_moves_only_what_changed_is_fetched(hub: SimHub, repo: SimRepo, tmp_path: Path) -> None:
    """The records of the other files name the new commit, so that `hf download` asks for none of them either."""
    folder = tmp_path / "one"
    with Running(tmp_path, endpoint=hub.endpoint, models=[kept_in(folder)]) as daemon:
        daemon.wait_complete(KEY)
        repo.commit_files({"README.md": b"# two\n"})
        hub.log.clear()
        mark = daemon.mark
        daemon.client.update(KEY)
        daemon.wait_complete(KEY, after=mark)
        hf_download(daemon.env, folder)
        assert hub.log.bytes_served() == len(b"# two\n")
        assert contents(folder) == {**FILES, "README.md": b"# two\n"}


@pytest.mark.fault("C7")
def test_while_hf_downloads_a_file_we_wait_for_it(hub: SimHub, tmp_path: Path) -> None:
    """Its lock is ours: the file is tried again, the others come meanwhile."""
    folder = tmp_path / "one"
    path = folder / f".cache/huggingface/download/{COPY}.lock"
    path.parent.mkdir(parents=True)
    lock = FileLock(path)
    lock.acquire()
    with Running(tmp_path, endpoint=hub.endpoint, models=[kept_in(folder)]) as daemon:
        assert daemon.wait_event(e.FileRetry, path=COPY).code == "E_LOCKED"
        daemon.wait_event(e.FileVerified, path="README.md")
        assert not (folder / COPY).exists()
        lock.release()
        daemon.client.retry(KEY)
        daemon.wait_complete(KEY)
        assert contents(folder) == FILES


# The user's own files


@pytest.mark.fault("C10")
def test_files_of_the_users_own_are_left_and_wanted_paths_become_right(hub: SimHub, tmp_path: Path) -> None:
    """A file that is right already counts; one that differs is replaced; a folder, a link and strangers are kept."""
    folder, outside = tmp_path / "one", tmp_path / "outside"
    outside.mkdir()
    (outside / "note.md").write_bytes(b"precious")
    mine = {"mine/notes.txt": b"mine", "weights.bin": b"mine too", WEIGHTS: BIG, "config.json": b"{}"}
    model_folder.write(folder, mine)
    (folder / "README.md").mkdir()
    (folder / "README.md" / "kept").write_bytes(b"kept")
    (folder / "docs").symlink_to(outside)
    with Running(tmp_path, endpoint=hub.endpoint, models=[kept_in(folder)]) as daemon:
        daemon.wait_complete(KEY)
        assert {path: (folder / path).read_bytes() for path in FILES} == FILES
        assert hub.log.bytes_served() == CONTENT_BYTES - len(BIG)
        assert (folder / "mine/notes.txt").read_bytes() == b"mine" and (folder / "weights.bin").exists()
        assert [path.read_bytes() for path in folder.rglob("kept")] == [b"kept"]
        assert [path.readlink() for path in folder.iterdir() if path.is_symlink()] == [outside]
        assert [(path.name, path.read_bytes()) for path in outside.iterdir()] == [("note.md", b"precious")]


def test_a_wrong_file_stands_until_the_right_bytes_are_verified(hub: SimHub, tmp_path: Path) -> None:
    """Offline nothing comes, so nothing is taken away."""
    folder = tmp_path / "one"
    model_folder.write(folder, {WEIGHTS: b"x" * len(BIG)})
    with Running(tmp_path, endpoint=hub.endpoint) as daemon:
        hf_download(daemon.env, tmp_path / "listed")
        (tmp_path / "listed" / ".cache").rename(folder / ".cache")
        commit = SimRepo(id=REPO, files=FILES).sha
        daemon.stop()
        daemon.env["HF_HUB_OFFLINE"] = "1"
        daemon.configure([kept_in(folder, f"{REPO}@{commit}")])
        daemon.start()
        key = f"{KEY}@{commit}"
        daemon.wait_for(lambda: daemon.seen(e.ModelStateChanged, state="incomplete"), f"{key} incomplete")
        assert (folder / WEIGHTS).read_bytes() == b"x" * len(BIG)


# Sources for each other


@pytest.mark.parametrize("first", ["folder", "cache"])
def test_the_cache_and_the_folder_take_from_each_other_and_share_nothing(
    hub: SimHub, tmp_path: Path, first: str
) -> None:
    """Nothing is fetched twice; who edits the folder's file in place leaves the cache's as it was."""
    folder, commit = tmp_path / "one", SimRepo(id=REPO, files=FILES).sha
    both = [kept_in(folder), ConfiguredModel(model=f"{REPO}@{commit}")]
    with Running(tmp_path, endpoint=hub.endpoint, models=both[:1] if first == "folder" else both[1:]) as daemon:
        daemon.wait_event(e.ModelComplete)
        hub.log.clear()
        daemon.configure(both)
        daemon.wait_for(lambda: len(daemon.seen(e.ModelComplete)) == 2, "both")
        adopted = daemon.seen(e.FileAdopted)
        assert {event.how for event in adopted} <= {"reflink", "copy"}
        assert {event.source_repo for event in adopted} == {REPO} and hub.log.bytes_served() == 0
        cached = places.snapshot_dir(daemon.cache, REPO, commit) / WEIGHTS
        assert not cached.samefile(folder / WEIGHTS)
        mark = daemon.mark
        with (folder / WEIGHTS).open("r+b") as file:
            file.write(b"mine")
        assert cached.read_bytes() == BIG
        daemon.wait_complete(KEY, after=mark)
        assert contents(folder) == FILES and hub.log.bytes_served() == 0, "mended from the cache"


def test_two_folders_of_one_repository_keep_to_themselves(hub: SimHub, repo: SimRepo, tmp_path: Path) -> None:
    """Two commits: what they share is fetched once, and each has its own files, seals and records."""
    later = {**FILES, "README.md": b"# two\n"}
    repo.commit_files(later, branch="v2")
    one, two = tmp_path / "one", tmp_path / "two"
    models = [kept_in(one), kept_in(two, f"{REPO}@v2")]
    with Running(tmp_path, endpoint=hub.endpoint, models=models) as daemon:
        daemon.wait_for(lambda: len(daemon.seen(e.ModelComplete)) == 2, "both")
        assert (contents(one), contents(two)) == (FILES, later)
        assert not (one / WEIGHTS).samefile(two / WEIGHTS)
        assert hub.log.bytes_served() == CONTENT_BYTES + len(b"# two\n")


def test_a_model_moves_when_the_configuration_says_so(hub: SimHub, tmp_path: Path) -> None:
    """From the cache into a folder and back, without a byte from the Hub; the folder keeps its files."""
    folder = tmp_path / "one"
    with Running(tmp_path, endpoint=hub.endpoint, models=[REPO]) as daemon:
        cached = daemon.wait_complete(KEY).path
        hub.log.clear()
        for models, path in (([kept_in(folder)], str(folder)), ([REPO], cached)):
            mark = daemon.mark
            daemon.configure(models)
            assert daemon.wait_complete(KEY, after=mark).path == path
        assert hub.log.bytes_served() == 0 and contents(folder) == FILES


# Commands


def test_one_shot_commands_fill_and_check_a_folder(hub: SimHub, tmp_path: Path) -> None:
    """`--once`, `download`, `check`, with --local-dir; a running daemon is told to have been passed over."""
    folder = tmp_path / "one"
    with Running(tmp_path, endpoint=hub.endpoint) as daemon:
        before = command(daemon.env, "qwenctl", "check", REPO, "--local-dir", "one", cwd=tmp_path)
        assert before.returncode == 4 and "--local-dir" in before.stdout
        dry = command(daemon.env, "qwenctl", "download", REPO, "--local-dir", str(folder), "--dry-run", "--json")
        assert json.loads(dry.stdout)["fetch_files"] == len(FILES) and not folder.exists()
        done = command(daemon.env, "qwenctl", "download", REPO, "--local-dir", str(folder))
        assert (done.returncode, done.stdout) == (0, f"{folder}\n"), done.stderr
        assert "no command may name a folder" in done.stderr and daemon.status.models == {}
        assert contents(folder) == FILES
        (folder / WEIGHTS).write_bytes(bytes(len(BIG)))
        words = ("--local-dir", str(folder), "--verify", "full")
        assert command(daemon.env, "qwenctl", "check", REPO, *words).returncode == 4
        daemon.stop()
        assert daemon.run("--once", REPO, "--local-dir", str(folder)) == 0
        assert command(daemon.env, "qwenctl", "check", REPO, *words).returncode == 0


def test_a_loader_gets_the_folder(hub: SimHub, tmp_path: Path) -> None:
    """Waited for, proven by the seals, and handed to the command."""
    folder = tmp_path / "one"
    with Running(tmp_path, endpoint=hub.endpoint, models=[kept_in(folder)]) as daemon:
        done = command(daemon.env, "qwen-loader", REPO, "--", "printenv", "QWEN_MODEL_PATH", "HF_HUB_OFFLINE")
        assert done.stdout.splitlines() == [str(folder), "1"], done.stderr


@pytest.mark.fault("S3")
def test_no_command_over_the_socket_names_a_folder(hub: SimHub, tmp_path: Path) -> None:
    """Refused as an unknown field, whatever it says."""
    with Running(tmp_path, endpoint=hub.endpoint) as daemon:
        body = json.dumps({"model": REPO, "local_dir": str(tmp_path / "one")})
        words = ("--unix-socket", str(daemon.control), "--json", body, "http://d/v1/models")
        told = json.loads(subprocess.run(["curl", "-s", *words], capture_output=True, timeout=RUN_S).stdout)
        assert told["status"] == 400 and "local_dir" in told["detail"], told
        assert daemon.status.models == {} and not (tmp_path / "one").exists()


@pytest.mark.fault("K4")
def test_a_stopped_download_into_a_folder_resumes(hub: SimHub, tmp_path: Path) -> None:
    """Killed in mid-file, the same command fetches the rest only."""
    folder = tmp_path / "one"
    with Running(tmp_path, endpoint=hub.endpoint, models=[kept_in(folder)], config=SLOW) as daemon:
        daemon.wait_for(lambda: any(p.durable_bytes > MIB for p in daemon.seen(e.FileProgress)), "some of a large file")
        daemon.kill()
        (part,) = (folder / ".cache/huggingface/download").glob(".qwen-*.part")
        assert not (folder / WEIGHTS).exists() and not (folder / COPY).exists()
        daemon.configure([kept_in(folder)])
        daemon.start()
        daemon.wait_complete(KEY)
        assert daemon.seen(e.FileResumed)[0].kept_bytes > 0
        assert contents(folder) == FILES and not part.exists()


def test_what_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    """A file, the cache, a folder of another model; with what to do."""
    (tmp_path / "file").touch()
    env = Running(tmp_path, endpoint="http://127.0.0.1:9").env
    for name in ("file", "hf/hub", "hf/hub/x", "hf", "."):
        done = command(env, "qwen-daemon", "--once", REPO, "--local-dir", name, cwd=tmp_path)
        assert done.returncode == 78 and "local_dir" in done.stderr and REPO in done.stderr, done.stderr
    alone = command(env, "qwen-daemon", "--local-dir", "x", cwd=tmp_path)
    assert alone.returncode == 78 and "--once" in alone.stderr


@pytest.mark.fault("D22")
def test_a_folder_of_another_disk_below_it_is_named(tmp_path: Path) -> None:
    """A component's folder may be a mount: what came cannot be moved there. It is kept, and told where it belongs."""
    path, is_mounted = "transformer/model.safetensors", threading.Event()
    files = {**model_folder.transformers_model("Qwen2ForCausalLM"), WEIGHTS: model_folder.safetensors("w"), path: BIG}
    is_mounted.set()

    def decide(point: Point) -> int:
        return errno.EXDEV if is_mounted.is_set() and point.file == f"one/{path}" else 0

    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=files))) as hub:
        daemon = Running(tmp_path, endpoint=hub.endpoint, models=[kept_in(tmp_path / "one")])
        with overseeing(tmp_path, {"rename"}, decide) as (overseen, daemon.under), daemon:
            for attempt in (2, 3):
                told = daemon.wait_event(e.FileRetry, path=path, attempt=attempt)
                assert told.code == "E_DISK_IO" and told.detail.endswith(f"(EXDEV): {tmp_path / 'one' / path}")
                assert told.kept_bytes == len(BIG) and daemon.seen(e.ModelComplete) == []
                if attempt == 3:
                    is_mounted.clear()
                daemon.client.retry(KEY)
            daemon.wait_complete(KEY)
            assert len(overseen.refused) == 2 and "Traceback" not in daemon.stderr
        assert contents(tmp_path / "one") == files
        assert hub.log.bytes_served(path) == len(BIG)
