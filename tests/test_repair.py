"""Harm to a complete model is noticed without asking, and mended with as few bytes as can be, in each layout."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qwen_api import events as e
from qwen_api.commands import AddModel
from tests.fakes import model_folder
from tests.fakes.hub import SimHub, SimRepo, ThreadedSimHub
from tests.layouts import Layout, every_layout
from tests.running import Running

REPO, KEY, WEIGHTS, CONFIG, NOTE = "org/one", "org--one", "model.safetensors", "config.json", "docs/a/note.md"
MIB = 1 << 20
SPAN = 16 * MIB
BIG = model_folder.safetensors("w", floats=10 * MIB)  # 40 MiB: three spans
OTHER = model_folder.safetensors("v", floats=10)
FILES = {
    **model_folder.transformers_model("Qwen2ForCausalLM"),
    WEIGHTS: BIG,
    NOTE: b"note",
}


@pytest.fixture
def hub() -> Iterator[SimHub]:
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=FILES))) as hub:
        yield hub


def running(root: Path, hub: SimHub, layout: Layout) -> Running:
    return Running(root, endpoint=hub.endpoint, models=[layout.model(root, REPO)], env=layout.env)


class Complete:
    """A daemon that keeps the model complete, and what it costs to mend it."""

    def __init__(self, daemon: Running, hub: SimHub, layout: Layout) -> None:
        self.daemon, self.hub, self.layout = daemon, hub, layout
        self.folder = Path(daemon.wait_complete(KEY).path)

    def after(self, harm: Callable[[Path], None], path: str) -> tuple[set[str], int]:
        """Do harm; returns what the daemon says has changed and the bytes that mending took."""
        self.hub.log.clear()
        mark = self.daemon.mark
        harm(self.folder / path)
        changed = self.daemon.wait_event(e.ModelChanged, after=mark)
        self.daemon.wait_complete(KEY, after=mark)
        assert {name: (self.folder / name).read_bytes() for name in FILES} == FILES
        assert all((self.folder / name).is_symlink() == self.layout.has_links for name in FILES)
        self.hub.log.settle()
        return set(changed.paths), self.hub.log.bytes_served()


def flip(offset: int) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1]))

    return harm


def truncate(size: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, size)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x" * 100)


def into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "mine.txt").write_text("do not lose me")


def into_plain_file(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"something else")


@pytest.mark.fault("D29", "C10")
@every_layout
def test_damage_is_found_and_mended_without_being_asked(hub: SimHub, tmp_path: Path, layout: Layout) -> None:
    """Flipped, cut, lengthened, deleted, unlinked, replaced: noticed, and only damaged spans come over the network."""
    name_only = 0 if layout.has_links else 1  # where the name is the file, losing the one is losing the other
    with running(tmp_path, hub, layout) as daemon:
        model = Complete(daemon, hub, layout)
        # A span is what one write made durable: at most SPAN, and less of a download that was slow.
        changed, cost_bytes = model.after(flip(SPAN + 7), WEIGHTS)
        assert changed == {WEIGHTS} and 0 < cost_bytes <= SPAN
        assert daemon.seen(e.FileCorrupt)[-1].where == "disk"
        changed, cost_bytes = model.after(truncate(2 * SPAN), WEIGHTS)
        assert changed == {WEIGHTS} and 0 <= cost_bytes - (len(BIG) - 2 * SPAN) <= SPAN
        assert model.after(lengthen, WEIGHTS) == ({WEIGHTS}, 0)
        assert model.after(lambda path: path.unlink(), WEIGHTS) == ({WEIGHTS}, len(BIG) * name_only)
        assert model.after(lambda path: path.resolve().unlink(), WEIGHTS) == ({WEIGHTS}, len(BIG))
        assert model.after(lambda path: os.utime(path), WEIGHTS) == ({WEIGHTS}, 0)
        assert model.after(into_plain_file, CONFIG) == ({CONFIG}, len(FILES[CONFIG]) * name_only)
        assert model.after(into_folder, WEIGHTS) == ({WEIGHTS}, len(BIG) * name_only)
        assert [path.read_text() for path in tmp_path.rglob("mine.txt")] == ["do not lose me"]
        assert list(tmp_path.rglob(".qwen-*.part")) == []


@pytest.mark.fault("C2")
@every_layout
def test_a_link_that_leads_out_is_replaced_and_never_written_through(
    hub: SimHub, tmp_path: Path, layout: Layout
) -> None:
    """A planted link (blob, snapshot file, folder) is not believed, its target is untouched, and the model mended."""
    outside = tmp_path / "outside"
    outside.mkdir()
    precious = outside / "precious"
    precious.write_bytes(b"x" * len(BIG))

    def plant_blob(path: Path) -> None:
        blob = path.resolve()
        blob.unlink()
        blob.symlink_to(precious)

    def plant_file(path: Path) -> None:
        path.unlink()
        path.symlink_to(precious)

    def plant_folder(path: Path) -> None:
        path.unlink()
        path.parent.rmdir()
        path.parent.symlink_to(outside)

    def plant_folder_and_lose_the_content(path: Path) -> None:
        content = path.resolve()
        plant_folder(path)
        content.unlink(missing_ok=True)

    name_only = 0 if layout.has_links else 1  # where the name is the file, losing the one is losing the other
    with running(tmp_path, hub, layout) as daemon:
        model = Complete(daemon, hub, layout)
        assert model.after(plant_blob, WEIGHTS) == ({WEIGHTS}, len(BIG))
        assert model.after(plant_file, WEIGHTS) == ({WEIGHTS}, len(BIG) * name_only)
        assert model.after(plant_folder, NOTE) == ({NOTE}, len(FILES[NOTE]) * name_only)
        assert model.after(plant_folder_and_lose_the_content, NOTE) == ({NOTE}, len(FILES[NOTE]))
        assert list(outside.iterdir()) == [precious] and precious.read_bytes() == b"x" * len(BIG)


@pytest.mark.fault("D28")
@every_layout
def test_a_full_check_finds_what_no_seal_shows(hub: SimHub, tmp_path: Path, layout: Layout) -> None:
    """`verify` hashes everything."""
    with running(tmp_path, hub, layout) as daemon:
        daemon.wait_complete(KEY)
        mark = daemon.mark
        daemon.client.verify(KEY)
        daemon.wait_complete(KEY, after=mark)
        assert len(daemon.seen(e.FileVerified, after=mark)) == len(FILES)
        assert hub.log.bytes_twice() == 0


@pytest.mark.fault("C3")
@every_layout
def test_files_that_others_brought_are_hashed_once_and_kept(hub: SimHub, tmp_path: Path, layout: Layout) -> None:
    """Plain files, in a cache or in a folder, whoever put them there, are proven and not fetched; wrong ones are."""
    folder = layout.folder(tmp_path, REPO, SimRepo(id=REPO, files=FILES).sha)
    model_folder.write(folder, {**FILES, WEIGHTS: OTHER})
    with running(tmp_path, hub, layout) as daemon:
        daemon.wait_complete(KEY)
        assert hub.log.bytes_served() == len(BIG)
        assert {v.path for v in daemon.seen(e.FileVerified) if not v.received_bytes} == set(FILES) - {WEIGHTS}
        daemon.stop()
        daemon.start()
        daemon.wait_complete(KEY)
        assert daemon.seen(e.FileVerified) == []


@pytest.mark.fault("D6")
@every_layout
def test_without_the_hub_what_is_here_counts_and_what_is_not_is_said(
    hub: SimHub, tmp_path: Path, layout: Layout
) -> None:
    """Offline or with the Hub down a complete cache is complete; an incomplete one is told as such, with no request."""
    with running(tmp_path, hub, layout) as daemon:
        folder = Path(daemon.wait_complete(KEY).path)
        daemon.stop()
        hub.log.clear()
        down = "http://127.0.0.1:9"  # discard: nobody listens
        daemon.env["HF_ENDPOINT"] = down
        daemon.start()
        daemon.wait_complete(KEY)
        daemon.stop()
        daemon.env |= {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "1"}
        for path in daemon.state_dir.glob("ledger*") if layout.name != "local_dir" else ():
            path.unlink()  # a cache knows its refs; a folder does not know which branch it is
        daemon.start()
        daemon.wait_complete(KEY)
        mark = daemon.mark
        (folder / WEIGHTS).resolve().unlink()
        assert daemon.wait_state(KEY, "incomplete", after=mark).code == "E_OFFLINE"
        assert daemon.client.state().models[KEY].files[WEIGHTS].state == "missing"
        assert hub.log.requests() == []
        daemon.client.add(AddModel(model="org/never-seen"))
        assert daemon.wait_state("org--never-seen", "incomplete").code == "E_OFFLINE"
        assert daemon.run("--once", REPO, "--socket", str(tmp_path / "o.sock"), "--state-dir", str(tmp_path / "o")) == 4
