"""The inventory says what a folder holds, from a stat and a few bytes per file, and writes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import struct
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_api.causes import CAUSES
from qwen_api.headers import parse_header
from qwen_api.inventory import (
    FoundFile,
    Stopped,
    explain_mismatch,
    find_snapshot,
    hash_file,
    listing_beside,
    look,
)
from qwen_api.models import ModelRef
from tests.fakes.model_folder import (
    COMMIT,
    PAGE,
    POINTER,
    REPO,
    git_sha1,
    listing,
    qwen,
    safetensors,
    write,
    write_cache,
)

GOOD = safetensors("a", "b")
HEADER_BYTES = 8 + struct.unpack("<Q", GOOD[:8])[0]
REF = ModelRef(repo=REPO)


def look_at(folder: Path, name: str, content: bytes) -> FoundFile:
    return look(write(folder, {name: content})).by_path()[name]


def test_sound_weights_show_their_header(tmp_path: Path) -> None:
    """Of a good file the inventory knows where the data begins, where the file ends and which tensors it has."""
    found = look_at(tmp_path, "model.safetensors", GOOD)

    assert found.header is not None
    assert ("", len(GOOD), HEADER_BYTES) == (found.cause, found.header.end_bytes, found.header.data_offset_bytes)
    assert frozenset({"a", "b"}) == found.header.tensors


@pytest.mark.fault("X4")
@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (GOOD[: len(GOOD) // 2], "truncated"),
        (GOOD[:-1], "truncated"),
        (GOOD[:4], "truncated"),
        (GOOD[:40], "truncated"),
        (GOOD + b"x" * 100, "trailing_bytes"),
        (b"", "empty"),
        (bytes(len(GOOD)), "zero_filled_header"),
        (GOOD[:8] + bytes(len(GOOD) - 8), "zero_filled_header"),
        (PAGE, "html_page"),
        (b"\n  <html lang='en'>", "html_page"),
        (POINTER, "lfs_pointer"),
        (GOOD[:20] + b"\xff\xfe" + GOOD[22:], "bad_header"),
        (struct.pack("<Q", 1 << 40) + GOOD[8:], "bad_header"),
    ],
)
def test_damaged_weights_are_told_apart(tmp_path: Path, content: bytes, cause: str) -> None:
    """Each way a shard breaks that loaders fold into one sentence has its own cause."""
    assert cause == look_at(tmp_path, "model.safetensors", content).cause


def test_a_truncated_file_still_says_how_long_it_should_be(tmp_path: Path) -> None:
    """The header of a cut file gives its full length, with no listing at all."""
    header = look_at(tmp_path, "model.safetensors", GOOD[:-7]).header

    assert header is not None
    assert len(GOOD) == header.end_bytes


@pytest.mark.fault("X4")
@pytest.mark.parametrize(
    "tensors",
    [
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 9]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}},
        {
            "a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
            "b": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]},
        },
        {"a": {"dtype": "F32", "shape": [2]}},
        {"a": 1},
        [],
    ],
)
def test_a_header_that_contradicts_itself_is_bad(tensors: object) -> None:
    """Holes, overlaps, and sizes that the shape denies are refused before anybody trusts the offsets."""
    assert parse_header(json.dumps(tensors).encode(), 10_000).cause == "bad_header"


@pytest.mark.fault("X4")
def test_json_as_deep_as_an_attack_is_bad_and_nothing_worse(tmp_path: Path) -> None:
    """A header or a config of brackets alone does not take the reader down."""
    deep = b'{"a":' * 200_000 + b"1" + b"}" * 200_000

    assert parse_header(deep, len(deep) + 8).cause == "bad_header"
    assert look_at(tmp_path, "config.json", deep).cause == "bad_json"


@pytest.mark.fault("X4")
@given(st.binary(max_size=200))
def test_any_bytes_give_a_header_or_a_known_cause(raw: bytes) -> None:
    """No content makes the header reader fail, and what it says is in the table."""
    assert parse_header(raw, 8 + len(raw)).cause in {*CAUSES, ""}


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("config.json", b"", "empty"),
        ("config.json", b'{"a": 1', "bad_json"),
        ("config.json", b'{"a": NaN}', ""),
        ("config.json", bytes(30), "zero_filled"),
        ("config.json", PAGE, "html_page"),
        ("config.json", POINTER, "lfs_pointer"),
        ("merges.txt", b"#version: 0.2\na b\nc", "truncated"),
        ("merges.txt", b"#version: 0.2\na b\nc d\n", ""),
        ("merges.txt", POINTER, "lfs_pointer"),
        ("spiece.model", POINTER, "lfs_pointer"),
        ("README.md", b"", ""),
        ("pytorch_model.bin", b"PK\x03\x04" + bytes(100), "truncated"),
        ("pytorch_model.bin", b"PK\x03\x04" + bytes(100) + b"PK\x05\x06" + bytes(18), ""),
        ("pytorch_model.bin", POINTER, "lfs_pointer"),
        ("openvino_model.bin", bytes(100), ""),
        ("model.gguf", bytes(100), "zero_filled_header"),
        ("model.gguf", b"{}  and more", "bad_header"),
        ("model.gguf", b"GGUF\x03\0\0\0", ""),
    ],
)
def test_other_files_are_looked_into_as_well(tmp_path: Path, name: str, content: bytes, cause: str) -> None:
    """JSON is parsed as loaders parse it; pointers, pages and zeros are seen wherever they stand."""
    assert cause == look_at(tmp_path, name, content).cause


def test_snapshot_links_are_followed_and_dangling_ones_told(tmp_path: Path) -> None:
    """A link into blobs/ counts as its content; one whose blob is gone is dangling; neither is outside."""
    files = qwen()
    folder = write_cache(tmp_path, files)
    gone = listing(files).by_path()["vae/config.json"]
    (folder.parents[1] / "blobs" / gone.etag).unlink()

    found = look(folder).by_path()

    assert set(files) == set(found)
    assert all(f.is_link and not f.outside for f in found.values())
    assert [f.path for f in found.values() if f.dangling] == ["vae/config.json"]
    assert len(files["README.md"]) == found["README.md"].size_bytes


def test_content_from_elsewhere_is_pointed_out(tmp_path: Path) -> None:
    """A link that leaves the folder and its cache is a fact worth knowing, not an error."""
    write(tmp_path / "elsewhere", {"x": b"{}"})
    folder = write(tmp_path / "model", {})
    (folder / "config.json").symlink_to(tmp_path / "elsewhere" / "x")

    assert look(folder).by_path()["config.json"].outside


def test_unfinished_downloads_are_listed_apart(tmp_path: Path) -> None:
    """Parts of huggingface_hub and of the daemon are no files of the model; their names say which blob they are."""
    folder = write_cache(tmp_path, {"README.md": b"x"})
    etag = "a" * 64
    write(folder.parents[1] / "blobs", {f"{etag}.0123abcd.incomplete": b"12345", f".qwen-{'b' * 64}-x1.part": b"1"})

    inventory = look(folder)

    assert [f.path for f in inventory.files] == ["README.md"]
    assert {etag: 5, "b" * 64: 1} == {p.etag: p.size_bytes for p in inventory.parts}


def test_bookkeeping_of_a_local_dir_is_left_out(tmp_path: Path) -> None:
    """`.cache/huggingface` is not the model's, its parts are."""
    write(
        tmp_path,
        {
            "config.json": b"{}",
            ".cache/huggingface/.gitignore": b"*",
            f".cache/huggingface/download/vae/x.{'c' * 40}.00000000.incomplete": b"123",
            "vae/stray.incomplete": b"1",
        },
    )

    inventory = look(tmp_path)

    assert [f.path for f in inventory.files] == ["config.json"]
    assert {"c" * 40, ""} == {p.etag for p in inventory.parts}


def test_a_sparse_part_counts_only_what_it_occupies(tmp_path: Path) -> None:
    """A part whose room was reserved and not written is not reported as downloaded."""
    part = write(tmp_path, {}) / "x.incomplete"
    with part.open("wb") as file:
        file.truncate(10 << 20)

    assert look(tmp_path).parts[0].size_bytes < 10 << 20


def test_odd_things_in_a_folder_do_no_harm(tmp_path: Path) -> None:
    """A FIFO is not opened, a loop of links ends, a folder that is not there is an empty inventory."""
    os.mkfifo(tmp_path / "model.safetensors")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")

    found = look(tmp_path).by_path()

    assert found["model.safetensors"].cause == "not_a_file"
    assert found["self"].dangling
    assert not look(tmp_path / "absent").exists


def test_hashes_are_the_hubs(tmp_path: Path) -> None:
    """sha256 of the content, and git's blob id; progress adds up to the size."""
    content = os.urandom(10_000_000)
    path = write(tmp_path, {"x": content}) / "x"
    seen: list[int] = []

    sha256 = hash_file(path, algorithm="sha256", size_bytes=len(content), progress=seen.append)

    assert hashlib.sha256(content).hexdigest() == sha256
    assert git_sha1(content) == hash_file(path, algorithm="git-sha1", size_bytes=len(content))
    assert len(content) == sum(seen)
    with pytest.raises(Stopped):
        hash_file(path, algorithm="sha256", size_bytes=len(content), stop=lambda: True)


@pytest.mark.parametrize("floats", [16, 600, 100_000])
def test_a_hole_is_the_explanation_when_a_part_was_never_written(tmp_path: Path, floats: int) -> None:
    """Half a shard of zeros at full size is seen after its hash was wrong; a few flipped bytes show nothing."""
    good = safetensors("a", "b", floats=floats)
    begin = len(good) - 2 * floats * 4
    half = begin + floats * 4
    flipped = good[:-4] + bytes(4)
    write(tmp_path, {"h.safetensors": good[:half] + bytes(len(good) - half), "f.safetensors": flipped})

    assert explain_mismatch(tmp_path / "h.safetensors") == "hole_of_zeros"
    assert explain_mismatch(tmp_path / "f.safetensors") == "hash_mismatch"


def test_the_cache_says_which_snapshot_a_branch_is(tmp_path: Path) -> None:
    """refs/ names the commit; the listing beside the snapshot comes with it."""
    files = qwen()
    folder = write_cache(tmp_path, files)

    found = find_snapshot(tmp_path, REF)

    assert found is not None
    assert (COMMIT, folder, "ref", listing(files)) == (found.commit, found.folder, found.found_by, found.manifest)
    assert listing(files) == listing_beside(folder)


def test_a_listing_without_a_snapshot_is_still_an_answer(tmp_path: Path) -> None:
    """Before the first file arrives, the listing alone lets everything read as missing."""
    folder = write_cache(tmp_path, qwen(), snapshot=False)

    found = find_snapshot(tmp_path, REF)

    assert found is not None and found.manifest is not None
    assert not folder.exists()


def test_without_refs_the_newest_snapshot_stands_for_the_default_branch(tmp_path: Path) -> None:
    """And the answer says that it was a guess; for a branch that was named, nothing is guessed."""
    folder = write_cache(tmp_path, qwen(), ref="")
    write(folder.parents[1] / "trees", {f"{'0' * 40}.json": b"{}"})

    found = find_snapshot(tmp_path, REF)

    assert found is not None and found.found_by == "newest"
    assert find_snapshot(tmp_path, ModelRef(repo=REPO, revision="other")) is None


@pytest.mark.parametrize("snapshot", [True, False])
def test_the_only_commit_that_was_ever_heard_of_is_no_guess(tmp_path: Path, snapshot: bool) -> None:
    """A first download that was stopped leaves a listing and no refs/."""
    write_cache(tmp_path, qwen(), ref="", snapshot=snapshot)

    found = find_snapshot(tmp_path, REF)

    assert found is not None and (found.found_by, found.manifest) == ("only", listing(qwen()))
    assert find_snapshot(tmp_path, ModelRef(repo=REPO, revision="other")) is None


def test_a_commit_needs_no_refs(tmp_path: Path) -> None:
    """A pinned revision is looked up directly; one that is not there is not found."""
    write_cache(tmp_path, {"x": b"1"}, ref="", tree=False)

    found = find_snapshot(tmp_path, ModelRef(repo=REPO, revision=COMMIT))

    assert found is not None and found.found_by == "commit" and found.manifest is None
    assert find_snapshot(tmp_path, ModelRef(repo=REPO, revision="0" * 40)) is None


def test_a_damaged_listing_is_said_to_be_one(tmp_path: Path) -> None:
    """A trees/ file that cannot be read is no listing, and the reason is kept."""
    folder = write_cache(tmp_path, {"x": b"1"})
    write(folder.parents[1] / "trees", {f"{COMMIT}.json": b'{"format_version": 1, "fil'})

    found = find_snapshot(tmp_path, REF)

    assert found is not None and found.manifest is None
    assert "not a listing" in found.listing_error


def test_a_local_dir_has_its_listing_in_its_own_bookkeeping(tmp_path: Path) -> None:
    """The listing that `--local-dir` leaves is found from the folder alone."""
    from qwen_api.manifest import write_tree

    files = qwen()
    write(tmp_path, files)
    write(tmp_path / ".cache/huggingface/trees", {f"{COMMIT}.json": write_tree(listing(files))})

    assert listing(files) == listing_beside(tmp_path, REPO)


def test_a_link_that_is_swapped_while_it_is_followed_raises_nothing(tmp_path: Path) -> None:
    """os.path.realpath raises when a link is gone between its lstat and its readlink; a look never does."""
    target = tmp_path / "target"
    target.write_bytes(GOOD)
    link = tmp_path / "model" / "x.safetensors"
    link.parent.mkdir()
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            link.symlink_to(target)
            link.unlink()

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        seen = set[str]()
        while "dangling_link" not in seen:  # it did vanish while it was looked at
            seen |= {file.cause for _ in range(3000) for file in look(link.parent).files}
    finally:
        over.set()
        swapper.join()


def test_who_cannot_open_a_folder_says_so_and_calls_no_file_missing(tmp_path: Path) -> None:
    """Out of descriptors: a report of an empty folder would be taken for a model that no loader can use."""
    write(tmp_path, qwen())
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(tmp_path, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            look(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
