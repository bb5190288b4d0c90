"""What README.md says works: its own commands, in its order, in a home of their own, with a mirror for the Hub.

The commands are taken from README.md, so a renamed flag or a changed sentence there is seen here. Only what cannot be
had is put in another place: the Hub (HF_ENDPOINT), the port, the pictures' size, and torch's GPU.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from qwen_api.models import parse_model
from qwen_daemon.config import Config, read
from tests import canary, readme
from tests.fakes import model_folder

BIN = Path(sys.executable).parent
LOCAL_DIR = ("qwenctl download", "qwenctl check")
RUN_S = 60  # only a hung process reaches it
REPOS = ("Qwen/Qwen-Image-Edit-2511", "Qwen/Qwen-Image-Edit-2509")


class Home:
    """A user's home: README's commands run in it as they are typed. Its paths are short enough for sockets."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder = folder
        self.env = {
            "PATH": f"{BIN}:{os.environ.get('PATH', '')}",
            "HOME": str(folder),
            "HF_ENDPOINT": endpoint,
            "PYTHONUTF8": "1",
            "PYTHONWARNINGS": "error::ResourceWarning",
        }
        canary.plant(self.env)

    def start(self, line: str, **env: str) -> subprocess.Popen[str]:
        """Begin a command line, in a shell."""
        shell = ["sh", "-c", f"exec {line}" if ";" not in line and "|" not in line and "&" not in line else line]
        return subprocess.Popen(
            shell,
            env=self.env | env,
            cwd=self.folder,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, line: str, code: int = 0, **env: str) -> str:
        """Run a command line to its end; what it printed, both streams. It must end with `code`."""
        process = self.start(line, **env)
        try:
            said, _ = process.communicate(timeout=RUN_S)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == code, f"{line}: {process.returncode}\n{said}"
        canary.refuse({line: said})
        return said

    @contextmanager
    def running(self, line: str, until: str) -> Iterator[str]:
        """Run a command beside others once it has printed a line with `until`; SIGTERM at the end. Gives that line."""
        process = self.start(line)
        assert process.stdout is not None
        reader = threading.Thread(target=process.stdout.read)
        try:
            told = []
            for said in process.stdout:
                told.append(said)
                if until in said:
                    break
            else:
                raise AssertionError(f"{line} ended: {''.join(told)}")
            reader.start()  # or a full pipe would stop it
            yield told[-1].strip()
        finally:
            process.terminate()
            process.wait(RUN_S)
            if reader.is_alive():
                reader.join()
            process.stdout.close()


@contextmanager
def mirror(folder: Path) -> Iterator[str]:
    """Serve the folder in the place of the Hub."""
    command = [str(BIN / "qwen-daemon"), "mirror", str(folder), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(RUN_S)
        process.stdout.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for repo in REPOS:
        model_folder.write(folder / repo, model_folder.qwen())
    return folder


@pytest.fixture(scope="module")
def hub(models: Path) -> Iterator[str]:
    with mirror(models) as url:
        yield url


@pytest.fixture
def home(hub: str) -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="home-") as folder:  # tmp_path may be too long for a socket
        yield Home(Path(folder), hub)


def test_check_and_download_without_a_daemon(home: Home) -> None:
    """Not complete and which files; download; complete by sizes, by hashes, and as a plain folder."""
    check, full = readme.command("qwenctl check qwen-image-edit"), readme.command("qwenctl check ./my-folder")
    missing = home.run(check, code=4)
    assert "Model complete: no" in missing and "model_index.json" in missing
    path = home.run(readme.command("qwenctl download qwen-image-edit")).splitlines()[-1]
    assert "Model complete: yes" in home.run(check)
    assert "every byte" in home.run(next(c for c in readme.commands() if "--verify full" in c))
    home.run(f"cp -rL {shlex.quote(path)} my-folder")
    assert "Model complete: yes" in home.run(full)
    dry_run = home.run(readme.command("qwenctl download Qwen/"))
    assert "transformer/" in dry_run and "vae/" not in dry_run and "[dry-run]" in dry_run


def test_a_folder_of_ones_own(home: Home) -> None:
    """Filled and checked; it is the answer."""
    fill, check = (next(c for c in readme.commands() if c.startswith(w) and "--local-dir" in c) for w in LOCAL_DIR)
    assert home.run(fill).splitlines()[-1] == str(home.folder / "qwen")
    assert "Model complete: yes" in home.run(check)


def test_a_daemon_keeps_a_model_and_tells_everybody(home: Home) -> None:
    """Add, monitor, status, pause, resume, wait, the start-up hook, curl: in README's order, against one daemon."""
    (home.folder / "serve.py").write_text(
        "import os\nprint(os.environ['HF_HUB_OFFLINE'], os.environ['QWEN_MODEL_PATH'])\n"
    )
    with home.running(readme.command("qwen-daemon"), until="daemon.started"):
        home.run(readme.command("qwenctl add"))
        waited = home.run(readme.command("qwenctl wait"))
        assert waited.endswith("ready\n")
        with home.running(readme.command("qwen-monitor"), until="complete"):
            assert "Model complete: yes" in home.run(readme.command("qwenctl status"))
        home.run(readme.command("qwenctl pause"))
        assert "paused" in home.run(readme.command("qwenctl status"), code=4)
        home.run(readme.command("qwenctl resume"))
        home.run(readme.command("qwenctl wait"))
        hook = next(line for line in readme.commands() if " -- python serve.py" in line)
        offline, path = home.run(hook).splitlines()[-1].split()
        assert offline == "1" and Path(path, "model_index.json").is_file()
        _curl(home)


def _curl(home: Home) -> None:
    where, models, events = readme.block_with("curl").splitlines()
    known = json.loads(home.run("qwenctl version --json"))
    where = where.partition(" # ")[0]
    assert where.strip() == "S=$(qwenctl version --json | jq -r .socket)"  # jq is not everybody's
    assert str(home.folder) in known["socket"]
    at = known["socket"]
    models, _, jq = models.partition(" | ")
    assert jq == "jq '.[].state'"
    assert [m["state"] for m in json.loads(home.run(models, S=at))] == ["complete"]
    home.env["S"] = at
    with home.running(events, until='"snapshot"') as line:
        assert json.loads(line)["type"] == "snapshot"


def test_a_mirror_serves_what_was_downloaded(home: Home) -> None:
    """README's two lines, with a free port in the place of 8090."""
    home.run(readme.command("qwenctl download qwen-image-edit"))
    serve, fetch = readme.without_comments(readme.block_with("qwen-daemon mirror"))
    with home.running(serve.replace(":8090", ":0"), until="http://") as url:
        address = url.split()[-1].removeprefix("HF_ENDPOINT=")
        given, _, command = fetch.partition(" ")
        assert given == "HF_ENDPOINT=http://127.0.0.1:8090"
        home.run(command, HF_ENDPOINT=address, HF_HOME=str(home.folder / "other"))
    assert (home.folder / "other/hub").is_dir()


def test_the_cache_is_what_any_hub_client_reads(home: Home) -> None:
    """huggingface_hub finds the model with no network."""
    home.run(readme.command("qwenctl download qwen-image-edit"))
    ask = f"from huggingface_hub import snapshot_download; print(snapshot_download({REPOS[0]!r}))"
    path = home.run(f"python -c {shlex.quote(ask)}", HF_HUB_OFFLINE="1").splitlines()[-1]
    assert Path(path, "model_index.json").is_file()


@pytest.mark.parametrize("path", [readme.ENGLISH, readme.RUSSIAN], ids=lambda path: path.name)
def test_the_configuration_shown_is_the_default(path: Path, tmp_path: Path) -> None:
    """It is accepted, each value is the default, and what is commented out is a key as well."""
    file = tmp_path / "config.toml"
    shown = readme.block_with("[network]", path)
    file.write_text(shown)
    config = read(file)
    assert msgspec.structs.replace(config, models=()) == Config()
    assert [m.model for m in config.models] == ["qwen-image-edit"]
    used = "\n".join(line.removeprefix("# ") for line in readme.without_comments(shown))
    file.write_text(used)
    assert read(file).cache_dir and read(file).endpoint


def test_what_readme_calls_an_alias_is_one() -> None:
    """And the flagship's is the flagship."""
    text = readme.ENGLISH.read_text()
    named = text[text.index("A model is given by an alias (") :].partition(")")[0].split("`")[1::2]
    assert len(named) >= 3
    assert [parse_model(name).repo.split("/")[0] for name in named] == ["Qwen"] * len(named)
    assert parse_model("qwen-image-edit").repo == REPOS[0]


@pytest.mark.parametrize("command", ["qwen-daemon", "qwen-daemon mirror", "qwenctl", "qwenctl wait", "qwen-monitor"])
def test_help_has_examples(command: str, home: Home) -> None:
    """`Every command has --help with examples and exit codes`."""
    said = home.run(f"{command} --help")
    assert "examples:" in said
    assert "exit codes:" in said or command == "qwen-daemon mirror"


@pytest.mark.loader
def test_a_picture_is_edited(tiny: Path, tmp_path: Path) -> None:
    """The loader's command and the Python lines, on a real small pipeline, on the CPU."""
    from PIL import Image

    shutil.copytree(tiny, tmp_path / REPOS[0])
    with mirror(tmp_path) as url, tempfile.TemporaryDirectory(prefix="home-") as folder:
        home = Home(Path(folder), url)
        home.run(readme.command("qwenctl download qwen-image-edit"))
        Image.linear_gradient("L").convert("RGB").resize((64, 64)).save(home.folder / "cat.png")
        edit = next(line for line in readme.commands() if "--edit cat.png" in line)
        editing = home.start(f"{edit} --size 64 --steps 2 --device cpu")
        script = readme.block_with("from qwen_loader").replace('"cuda"', '"cpu"')
        (home.folder / "script.py").write_text(f"{script}\nprint(type(pipeline).__name__)\n")
        assert "QwenImageEditPlusPipeline" in home.run("python script.py", PYTHONWARNINGS="")
        said, _ = editing.communicate(timeout=RUN_S)
        assert editing.returncode == 0, said
        with Image.open(home.folder / "hat.png") as hat:
            assert hat.size == (64, 64)
