"""The report says which file is missing, short, empty, too long or corrupt, and why; every row of the fault table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_api.causes import CAUSES, code_of, finding_of
from qwen_api.inventory import Inventory, explain_mismatch, look
from qwen_api.manifest import Manifest
from qwen_api.models import ModelRef
from qwen_api.report import Report, make_report
from tests.fakes.model_folder import (
    COMMIT,
    PAGE,
    POINTER,
    REPO,
    Files,
    git_sha1,
    listing,
    qwen,
    safetensors,
    write,
    write_cache,
)

REF = ModelRef(repo=REPO)
GOOD = qwen()
SHARD = "transformer/diffusion_pytorch_model-00003-of-00005.safetensors"
OTHER = "transformer/diffusion_pytorch_model-00004-of-00005.safetensors"
ENCODER = "text_encoder/model-00002-of-00004.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Inventory:
    return look(write(tmp_path_factory.mktemp("whole"), GOOD))


def hashes_of(files: Files, manifest: Manifest) -> dict[str, str]:
    wanted = manifest.by_path()
    return {
        path: hashlib.sha256(content).hexdigest() if wanted[path].sha256 else git_sha1(content)
        for path, content in files.items()
        if path in wanted
    }


def check(folder: Path, files: Files, *, listed: Files | None = None, hashed: bool = False) -> Report:
    """Report on `files` in a folder, against the listing of `listed` (the good pipeline)."""
    manifest = listing(GOOD if listed is None else listed)
    inventory = look(write(folder, files))
    hashes = hashes_of(files, manifest) if hashed else None
    return make_report(ref=REF, folder=folder, manifest=manifest, inventory=inventory, hashes=hashes)


def says(report: Report) -> dict[str, tuple[str, str]]:
    return {p.path: (p.finding, p.cause) for p in report.findings}


def test_a_whole_folder_is_complete_as_far_as_was_proven(tmp_path: Path) -> None:
    """Sizes alone leave every file unverified; hashes prove it."""
    sizes = check(tmp_path, GOOD)
    proven = check(tmp_path, GOOD, hashed=True)

    assert (sizes.complete, sizes.verified, sizes.source) == (True, "sizes", "listing")
    assert (proven.complete, proven.verified, proven.findings) == (True, "sha256", ())
    assert {f.finding for c in sizes.components for f in c.files} == {"unverified"}
    assert {f.finding for c in proven.components for f in c.files} == {"present"}
    assert (proven.model, proven.commit, proven.folder) == (REPO, COMMIT, str(tmp_path))


@pytest.mark.parametrize(
    ("path", "damage", "expected"),
    [
        (SHARD, lambda c: c[: len(c) // 2], ("short", "truncated")),
        (SHARD, lambda c: c[:-1], ("short", "truncated")),
        (SHARD, lambda c: c[:4], ("short", "truncated")),
        (SHARD, lambda c: b"", ("empty", "empty")),
        (SHARD, lambda c: c + bytes(100), ("long", "trailing_bytes")),
        (SHARD, lambda c: PAGE, ("corrupt", "html_page")),
        (SHARD, lambda c: POINTER, ("corrupt", "lfs_pointer")),
        (SHARD, lambda c: bytes(len(c)), ("corrupt", "zero_filled_header")),
        (SHARD, lambda c: c[:20] + b"\xff\xff" + c[22:], ("corrupt", "bad_header")),
        (SHARD, lambda c: safetensors("block.3.0", "block.3.1", floats=32), ("corrupt", "other_revision")),
        (SHARD, lambda c: safetensors("block.9.0", "block.9.1"), ("corrupt", "other_revision")),
        (ENCODER, lambda c: c[: len(c) // 2], ("short", "truncated")),
        (ENCODER, lambda c: POINTER, ("corrupt", "lfs_pointer")),
        (VAE, lambda c: b"", ("empty", "empty")),
        ("model_index.json", lambda c: b"", ("empty", "empty")),
        ("model_index.json", lambda c: c[:50], ("short", "truncated")),
        ("tokenizer/merges.txt", lambda c: c[:-4], ("short", "truncated")),
        ("scheduler/scheduler_config.json", lambda c: PAGE, ("corrupt", "html_page")),
        ("vae/config.json", lambda c: b'{"other": 1}', ("corrupt", "other_revision")),
        ("vae/config.json", lambda c: c[:-1] + b"]", ("corrupt", "bad_json")),
        ("README.md", lambda c: c + b"more", ("long", "trailing_bytes")),
    ],
)
def test_each_damage_has_its_finding_and_cause(
    tmp_path: Path, path: str, damage: Callable[[bytes], bytes], expected: tuple[str, str]
) -> None:
    """No hash is needed for any of these, and no other file is blamed."""
    report = check(tmp_path, GOOD | {path: damage(GOOD[path])})

    assert says(report) == {path: expected}
    assert not report.complete


@pytest.mark.parametrize("path", sorted(GOOD))
def test_any_absent_file_is_missing_when_the_listing_has_it(tmp_path: Path, path: str) -> None:
    """Also those that a loader would do without; with the size that is still to come."""
    report = check(tmp_path, {p: c for p, c in GOOD.items() if p != path})

    assert [(p.path, p.finding, p.expected_bytes) for p in report.findings] == [(path, "missing", len(GOOD[path]))]
    assert report.findings[0].code == "E_MISSING"
    assert (report.totals.files, report.totals.found, report.totals.missing) == (len(GOOD), len(GOOD) - 1, 1)


def test_the_memory_trap_is_named_with_a_listing_too(tmp_path: Path) -> None:
    """A file of 3 kB whose absence takes the machine down is not just missing."""
    report = check(tmp_path, {p: c for p, c in GOOD.items() if p != "text_encoder/config.json"})

    assert report.findings[0].cause == "missing_config_builds_default_model"


@settings(max_examples=40, deadline=None)
@given(gone=st.sets(st.sampled_from(sorted(GOOD))))
def test_with_a_listing_absent_is_exactly_what_it_has_and_the_folder_lacks(whole: Inventory, gone: set[str]) -> None:
    """Whatever the structure thinks, and with everything gone as well."""
    manifest = listing(GOOD)
    report = make_report(ref=REF, manifest=manifest, inventory=without(whole, gone))

    assert {p.path for p in report.findings if p.finding == "missing"} == gone
    assert report.complete == (not gone)
    assert report.totals.present_bytes == sum(len(c) for p, c in GOOD.items() if p not in gone)


@pytest.mark.parametrize(
    ("path", "damage", "cause"),
    [
        (SHARD, lambda c: c[:-16] + bytes(16), "hash_mismatch"),
        (SHARD, lambda c: safetensors("block.3.0", "block.3.1", seed=2), "hash_mismatch"),
        (SHARD, lambda c: c[: len(c) - 256] + bytes(256), "hole_of_zeros"),
        (ENCODER, lambda c: c[:-1] + bytes([c[-1] ^ 1]), "hash_mismatch"),
        ("README.md", lambda c: c.upper(), "hash_mismatch"),
    ],
)
def test_what_only_a_hash_sees(tmp_path: Path, path: str, damage: Callable[[bytes], bytes], cause: str) -> None:
    """Flipped bytes, half a shard of zeros, another revision with the same shapes: sizes say well, hashes corrupt."""
    files = GOOD | {path: damage(GOOD[path])}
    manifest = listing(GOOD)
    by_size = check(tmp_path, files)
    hashes = hashes_of(files, manifest)
    wrong = [p for p, h in hashes.items() if h != manifest.by_path()[p].etag]
    explanations = {p: explain_mismatch(tmp_path / p) for p in wrong}
    by_hash = make_report(
        ref=REF, manifest=manifest, inventory=look(tmp_path), hashes=hashes, explanations=explanations
    )

    assert by_size.complete
    assert says(by_hash) == {path: ("corrupt", cause)}
    assert by_hash.totals.corrupt == 1


def test_swapped_files_are_named(tmp_path: Path) -> None:
    """Loaders read shards by tensor name and would not notice; the report says whose content it is."""
    files = GOOD | {SHARD: GOOD[OTHER], OTHER: GOOD[SHARD]}

    for report in (check(tmp_path, files, hashed=True), check(tmp_path, files)):
        assert {p.path: (p.cause, p.other_path) for p in report.findings} == {
            SHARD: ("swapped_with", OTHER),
            OTHER: ("swapped_with", SHARD),
        }


def test_a_pointer_that_the_hub_itself_holds_is_still_useless(tmp_path: Path) -> None:
    """Size and hash are right; downloading again will not help, and the detail says so."""
    files = GOOD | {VAE: POINTER}
    report = check(tmp_path, files, listed=files, hashed=True)

    assert says(report) == {VAE: ("corrupt", "lfs_pointer")}
    assert "the repository itself" in report.findings[0].detail and report.findings[0].in_repository


def test_a_pointer_in_the_place_of_weights_that_no_loader_takes_is_a_remark(tmp_path: Path) -> None:
    """The safetensors beside it are taken; a pointer in the place of a small file is opened, and fails."""
    spare, small = "vae/diffusion_pytorch_model.bin", "tokenizer/special_tokens_map.json"
    files = GOOD | {spare: POINTER, small: POINTER}
    report = check(tmp_path, files, listed=files, hashed=True)

    assert says(report) == {small: ("corrupt", "lfs_pointer")}
    assert any(spare in note for note in report.notes)


def test_an_odd_file_that_no_loader_needs_is_judged_by_its_hash(tmp_path: Path) -> None:
    """A broken JSON in the repository is what it is: a remark."""
    files = GOOD | {"assets/broken.json": b"{oops"}
    report = check(tmp_path, files, listed=files, hashed=True)

    assert report.complete
    assert any("assets/broken.json" in note for note in report.notes)


@pytest.mark.parametrize("gone", [SHARD, VAE])
def test_weights_that_the_repository_itself_lacks_keep_it_incomplete(tmp_path: Path, gone: str) -> None:
    """An index names the shard, or the component has no weights at all: everything arrived and nothing can load it."""
    files = {path: content for path, content in GOOD.items() if path != gone}
    manifest = listing(files)

    report = make_report(ref=REF, manifest=manifest, inventory=look(write(tmp_path, files)), listed=files)

    assert says(report).keys() == {gone} and not report.complete
    assert "the repository itself" in report.findings[0].detail and report.findings[0].in_repository


def test_weights_that_only_the_patterns_leave_out_are_not_the_repositorys_fault(tmp_path: Path) -> None:
    """Nor is a component whose weights are another framework's, which this check knows too little of."""
    kept = {path: content for path, content in GOOD.items() if path not in (SHARD, VAE)}
    others = {path: content for path, content in GOOD.items() if path != VAE} | {"vae/flax_model.msgpack": b"flax"}

    report = make_report(ref=REF, manifest=listing(kept), inventory=look(write(tmp_path / "a", kept)), listed=GOOD)
    foreign = make_report(
        ref=REF, manifest=listing(others), inventory=look(write(tmp_path / "b", others)), listed=others
    )

    assert (report.complete, foreign.complete) == (True, True)


def test_no_files_at_all_are_no_complete_model(tmp_path: Path) -> None:
    """An empty repository, or patterns that leave nothing."""
    report = check(tmp_path, {}, listed={})

    assert not report.complete and any("no file is wanted" in note for note in report.notes)


def test_an_empty_file_that_should_be_empty_is_well(tmp_path: Path) -> None:
    """Zero bytes are what the listing asks for."""
    files = GOOD | {"assets/none.json": b""}

    assert check(tmp_path, files, listed=files).complete
    assert check(tmp_path, files, listed=files, hashed=True).complete


def test_files_that_the_listing_lacks_are_counted_and_ignored(tmp_path: Path) -> None:
    """Somebody's notes, another variant, a broken file: none of them makes the model incomplete."""
    report = check(tmp_path, GOOD | {"notes.txt": b"x", "vae/diffusion_pytorch_model.fp16.safetensors": b""})

    assert (report.complete, report.totals.extra, report.totals.files) == (True, 2, len(GOOD))


def test_patterns_that_leave_out_what_a_loader_needs_are_remarked(tmp_path: Path) -> None:
    """What was not wanted is not missing; that the loader will want it is said."""
    kept = {p: c for p, c in GOOD.items() if not p.startswith("vae/")}
    report = check(tmp_path, kept, listed=kept)

    assert report.complete
    assert sum("is not among the wanted files" in note for note in report.notes) == 2


def test_a_snapshot_with_a_lost_blob_and_a_begun_download(tmp_path: Path) -> None:
    """A dangling link is told from an absent file, and a part beside the blobs from both."""
    folder = write_cache(tmp_path, GOOD)
    manifest = listing(GOOD)
    blobs = folder.parents[1] / "blobs"
    etags = {p: f.etag for p, f in manifest.by_path().items()}
    (blobs / etags[VAE]).unlink()
    (blobs / etags[SHARD]).rename(blobs / f"{etags[SHARD]}.0a1b2c3d.incomplete")

    report = make_report(ref=REF, manifest=manifest, inventory=look(folder))

    assert says(report) == {VAE: ("missing", "dangling_link"), SHARD: ("short", "unfinished_download")}
    assert (report.totals.missing, report.totals.incomplete) == (1, 1)


def test_a_folder_that_is_not_there_is_missing_whole(tmp_path: Path) -> None:
    """With the listing, every file and every component reads as missing, and the sizes say how much is to come."""
    report = make_report(ref=REF, manifest=listing(GOOD), inventory=look(tmp_path / "absent"))

    assert (report.complete, report.verified) == (False, "sizes")
    assert report.totals.missing == len(GOOD) == len(report.findings)
    assert report.totals.size_bytes == sum(map(len, GOOD.values()))
    assert not any(c.complete for c in report.components)


def test_components_carry_what_the_text_needs(tmp_path: Path) -> None:
    """Per component: class, files with sizes, the index in numbers, bytes done of bytes in all."""
    report = check(tmp_path, {p: c for p, c in GOOD.items() if p != SHARD})
    transformer = next(c for c in report.components if c.name == "transformer")

    assert [c.name for c in report.components] == [
        "", "processor", "scheduler", "text_encoder", "tokenizer", "transformer", "vae",
    ]  # fmt: skip
    assert (transformer.class_name, transformer.required, transformer.complete) == (
        "QwenImageTransformer2DModel",
        True,
        False,
    )
    assert (transformer.found_files, len(transformer.files)) == (6, 7)
    assert transformer.size_bytes - transformer.done_bytes == len(GOOD[SHARD])
    assert transformer.index is not None
    assert (transformer.index.shards_found, transformer.index.shards_expected) == (4, 5)


def test_without_a_listing_a_cut_shard_still_says_its_size(tmp_path: Path) -> None:
    """The header knows how long the file should be."""
    files = GOOD | {SHARD: GOOD[SHARD][:-7]}
    report = make_report(ref=None, inventory=look(write(tmp_path, files)))

    assert says(report) == {SHARD: ("short", "truncated")}
    assert (report.findings[0].expected_bytes, report.findings[0].found_bytes) == (
        len(GOOD[SHARD]),
        len(GOOD[SHARD]) - 7,
    )


@given(
    damaged=st.dictionaries(st.sampled_from(sorted(GOOD)), st.sampled_from([b"", b"x", POINTER, PAGE]), max_size=6),
    gone=st.sets(st.sampled_from(sorted(GOOD)), max_size=6),
    listed=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_the_sums_always_agree(
    tmp_path_factory: pytest.TempPathFactory, damaged: Files, gone: set[str], listed: bool
) -> None:
    """files = found + missing + incomplete + corrupt; a finding for each that is not found; and JSON round-trips."""
    files = {p: c for p, c in (GOOD | damaged).items() if p not in gone}
    folder = tmp_path_factory.mktemp("model")
    report = make_report(ref=REF, manifest=listing(GOOD) if listed else None, inventory=look(write(folder, files)))
    totals = report.totals

    assert totals.files == totals.found + totals.missing + totals.incomplete + totals.corrupt
    assert totals.files - totals.found == len(report.findings)
    assert totals.files == sum(len(c.files) for c in report.components)
    assert totals.present_bytes == sum(c.done_bytes for c in report.components)
    assert report.complete == (not report.findings) == all(c.complete for c in report.components)
    assert report == msgspec.json.decode(msgspec.json.encode(report), type=Report)


@pytest.mark.parametrize("cause", sorted(CAUSES))
def test_every_cause_has_a_sentence_a_finding_and_a_code(cause: str) -> None:
    """Nothing that can be found is unexplained."""
    assert CAUSES[cause]
    assert finding_of(cause) not in ("present", "unverified")
    assert code_of(cause).startswith("E_")


def without(inventory: Inventory, gone: set[str]) -> Inventory:
    return msgspec.structs.replace(inventory, files=tuple(f for f in inventory.files if f.path not in gone))
