"""The gate lets in a model only when every file is proven, and never what may run code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_api import events as e
from qwen_api.models import ModelRef
from qwen_api.seals import Ready, Seal
from qwen_api.status import FileStatus, ModelStatus, Status
from qwen_loader import gate, words
from qwen_loader.foreign_code import index_names_code, is_code, is_pickle, read_pickles
from qwen_loader.gate import Candidate, Disk, Policy, Proof, Waiting, admit, find_candidate
from qwen_loader.strays import read_strays

REF = ModelRef(repo="org/name")
COMMIT = "c" * 40
PROVEN = {Proof.SEALED, Proof.HASHED}
FILES = ("a.json", "unet/b.safetensors", "vae/c.safetensors")

proofs = st.fixed_dictionaries({path: st.sampled_from(Proof) for path in FILES})


def candidate(
    source: gate.Source = "daemon", *more: str, has_code: bool = False, has_pickle: bool = False
) -> Candidate:
    return Candidate(
        repo="org/name",
        commit=COMMIT,
        path="/c",
        source=source,
        files=(*FILES, *more),
        has_code=has_code,
        has_pickle=has_pickle,
    )


def status(state: e.ModelState, *, code: str = "", path: str = "") -> Status:
    files = {
        "a": FileStatus(path="a", size_bytes=40, state="verified", done_bytes=40),
        "b": FileStatus(path="b", size_bytes=60, state="downloading", done_bytes=12, rate_bps=7),
    }
    model = ModelStatus(
        model=REF.key,
        repo="org/name",
        revision="main",
        commit=COMMIT,
        state=state,
        files=files,
        code=code,
        path=path,
    )
    return Status(models={REF.key: model})


@given(proofs, st.sampled_from(["daemon", "ready-file", "disk"]))
def test_only_proven_files_get_in(known: dict[str, Proof], source: gate.Source) -> None:
    """Whoever calls it complete: admitted if and only if each single file is sealed or hashed."""
    verdict = admit(candidate(source), known, Policy())
    assert (set(known.values()) <= PROVEN) == isinstance(verdict, gate.Admitted)


@given(proofs)
def test_hashing_is_asked_for_only_where_it_can_help(known: dict[str, Proof]) -> None:
    """Nobody waits minutes for hashes when a file is missing, wrong or unreadable anyway."""
    verdict = admit(candidate(), known, Policy())
    if isinstance(verdict, gate.ToHash):
        assert set(known.values()) <= PROVEN | {Proof.UNPROVEN}
        assert set(verdict.paths) == {path for path, proof in known.items() if proof is Proof.UNPROVEN}


@given(proofs)
def test_a_file_that_nobody_looked_at_is_missing(known: dict[str, Proof]) -> None:
    """A proof that was forgotten never admits anything."""
    del known["vae/c.safetensors"]
    assert not isinstance(admit(candidate(), known, Policy()), gate.Admitted)


@pytest.mark.fault("X3")
@given(proofs, st.sampled_from(["x.py", "unet/lib.so", "text/model.bin", "data/data.pkl"]), st.booleans())
def test_what_runs_code_is_refused_by_name(known: dict[str, Proof], path: str, is_stray: bool) -> None:
    """Listed or slipped into the folder by somebody: refused whatever the proofs say."""
    found = candidate() if is_stray else candidate("daemon", path)
    verdict = admit(found, {**known, path: Proof.SEALED}, Policy(), (path,) if is_stray else ())
    assert isinstance(verdict, gate.Broken)
    assert (path,) == verdict.findings
    assert verdict.code == ("E_HAS_CODE" if is_code(path) else "E_HAS_PICKLE")


@pytest.mark.fault("X3")
@pytest.mark.parametrize(
    ("risky", "code", "policy"),
    [
        (candidate(has_code=True), "E_HAS_CODE", Policy(allow_code=True)),
        (candidate(has_pickle=True), "E_HAS_PICKLE", Policy(allow_pickle=True)),
    ],
)
def test_the_daemons_word_on_risks_counts_and_a_flag_lets_in(risky: Candidate, code: str, policy: Policy) -> None:
    """Each risk has its own flag."""
    sealed = dict.fromkeys(FILES, Proof.SEALED)
    refused = admit(risky, sealed, Policy())
    assert isinstance(refused, gate.Broken)
    assert code == refused.code
    assert isinstance(admit(risky, sealed, policy), gate.Admitted)


def test_an_empty_model_is_not_ready() -> None:
    """Patterns that leave nothing are a mistake, not a model."""
    empty = Candidate(repo="org/name", commit=COMMIT, path="/c", source="disk", files=())
    verdict = admit(empty, {}, Policy())
    assert isinstance(verdict, gate.Broken)
    assert verdict.code == "E_EMPTY"


def test_another_mount_is_told_from_damage() -> None:
    """All files gone although the daemon sees them: a container without the cache, nothing to repair."""
    verdict = admit(candidate(), {}, Policy())
    assert isinstance(verdict, gate.Broken)
    assert verdict.code == "E_PATH_NOT_HERE"
    assert isinstance(admit(candidate("ready-file"), {}, Policy()), gate.Damaged)


@pytest.mark.parametrize("state", ["queued", "checking", "downloading", "paused", "waiting"])
def test_waits_while_the_daemon_works(state: e.ModelState) -> None:
    """An old ready file proves nothing while the daemon says otherwise."""
    ready = Ready(
        repo="org/name",
        revision="main",
        commit=COMMIT,
        path="/c",
        verified="sha256",
        seals={},
        has_code=False,
        has_pickle=False,
    )
    found = find_candidate(REF, status(state), ready, Disk(commit=COMMIT, path="/c", files=FILES))
    assert isinstance(found, Waiting)
    assert (found.done_bytes, found.size_bytes, found.missing) == (52, 100, ("b",))
    assert found.why == words.STATES[state]


def test_a_waiting_line_says_how_far_and_what() -> None:
    """Numbers first, as in the daemon's own status line."""
    waiting = Waiting(code="", why="so", size_bytes=57_700_000_000, done_bytes=30_100_000_000, missing=("a", "b", "c"))
    assert waiting.text == "52 % 30.1/57.7 GB, 3 files missing, so"


def test_never_says_100_percent_before_the_end() -> None:
    """Rounding up would be a lie that people wait at."""
    assert words.progress_text(done_bytes=999_999, size_bytes=1_000_000).startswith("99 %")
    assert words.progress_text(done_bytes=1_000_000, size_bytes=1_000_000).startswith("100 %")


@pytest.mark.parametrize(("state", "code"), [("failed", "E_GATED"), ("incomplete", "E_OFFLINE")])
def test_gives_up_where_only_a_person_helps(state: e.ModelState, code: str) -> None:
    """The daemon's code goes through, with a way out and the files that lack."""
    found = find_candidate(REF, status(state, code=code), None, None)
    assert isinstance(found, gate.Broken)
    assert (code, words.FIXES[code].replace("MODEL", "org/name"), ("b",)) == (found.code, found.fix, found.findings)


def test_waits_for_files_that_a_person_paused() -> None:
    """As for a paused model: whoever paused them will go on, and the way to it is told."""
    found = find_candidate(REF, status("incomplete", code="E_FILES_PAUSED"), None, None)
    assert isinstance(found, gate.Waiting)
    assert (found.code, found.fix) == ("E_FILES_PAUSED", "qwenctl resume org/name --file '*'")


def test_complete_is_a_candidate_with_the_daemons_files() -> None:
    """The wanted files are the daemon's, patterns applied, not the whole listing."""
    found = find_candidate(REF, status("complete", path="/c"), None, None)
    assert isinstance(found, Candidate)
    assert (found.source, found.files, found.commit) == ("daemon", ("a", "b"), COMMIT)


def test_an_unknown_model_is_asked_for() -> None:
    """A daemon that was never told of the model can be told."""
    assert isinstance(find_candidate(REF, Status(), None, None), gate.AskToAdd)


def test_a_commit_is_found_under_any_revision() -> None:
    """Asked by commit, a model that the daemon follows as main will do, if it is that commit."""
    pinned = ModelRef(repo="org/name", revision=COMMIT)
    assert isinstance(find_candidate(pinned, status("complete", path="/c"), None, None), Candidate)
    other = ModelRef(repo="org/name", revision="d" * 40)
    assert isinstance(find_candidate(other, status("complete", path="/c"), None, None), gate.AskToAdd)


def test_without_a_daemon_the_ready_file_goes_before_the_disk() -> None:
    """It has seals, so nothing need be hashed."""
    seal = Seal(inode=1, size_bytes=9, mtime_ns=1, ctime_ns=1)
    ready = Ready(
        repo="org/name",
        revision="main",
        commit=COMMIT,
        path="/r",
        verified="sha256",
        seals={"a": seal},
        has_code=False,
        has_pickle=False,
    )
    disk = Disk(commit=COMMIT, path="/d", files=FILES)
    found = find_candidate(REF, None, ready, disk)
    assert isinstance(found, Candidate)
    assert (found.source, found.path, found.size_bytes) == ("ready-file", "/r", 9)
    alone = find_candidate(REF, None, None, disk)
    assert isinstance(alone, Candidate)
    assert (alone.source, alone.path) == ("disk", "/d")


@pytest.mark.parametrize(
    ("disk", "code"),
    [
        (None, "E_DAEMON_DOWN"),
        (Disk(why="nothing of it is here"), "E_DAEMON_DOWN"),
        (Disk(commit=COMMIT, path="/d", files=FILES, size_bytes=9, done_bytes=5, missing=("a.json",)), "E_INCOMPLETE"),
    ],
)
def test_alone_with_less_than_all_it_waits(disk: Disk | None, code: str) -> None:
    """Somebody may still bring the rest; what lacks is told."""
    found = find_candidate(REF, None, None, disk)
    assert isinstance(found, Waiting)
    assert code == found.code
    assert found.missing == (disk.missing if disk else ())


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ({"_class_name": "QwenImageEditPlusPipeline", "vae": ["diffusers", "AutoencoderKLQwenImage"]}, False),
        ({"_class_name": "P", "safety_checker": [None, None], "unet": ["stable_diffusion", "X"]}, False),
        ({"_class_name": ["pipeline", "Mine"]}, True),
        ({"_class_name": "P", "unet": ["my_unet", "MyUNet"]}, True),
        ({"_class_name": "P", "unet": ["../../evil", "X"]}, True),
        ({"_class_name": "P", "steps": [1, 2], "flag": True}, False),
    ],
)
def test_model_index_that_names_code_is_recognised(index: dict[str, object], expected: bool) -> None:
    """The way in of CVE-2026-44513: a class from the repository instead of from a library."""
    assert expected == index_names_code(index)


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (("vae/m.safetensors", "vae/m.bin"), ()),
        (("vae/m.bin", "vae/config.json"), ("vae/m.bin",)),
        (("model_index.json", "v1-5.ckpt", "unet/m.safetensors"), ()),
        (("pytorch_model.bin", "config.json"), ("pytorch_model.bin",)),
        (("model.safetensors", "pytorch_model.bin"), ()),
    ],
)
def test_only_pickles_that_would_be_read_keep_a_model_out(paths: tuple[str, ...], expected: tuple[str, ...]) -> None:
    """A pickle beside safetensors is a duplicate that nothing opens; one alone would have to be read."""
    assert expected == read_pickles(paths)


@given(st.sampled_from(["m.safetensors", "a/config.json", "merges.txt", "README.md", "t.jinja", "m.gguf"]))
def test_plain_data_is_neither_code_nor_pickle(path: str) -> None:
    """The usual files of a safetensors repository get in."""
    assert not is_code(path)
    assert not is_pickle(path)


@pytest.mark.fault("X1")
@given(st.text())
def test_nothing_printed_can_steer_a_terminal(text: str) -> None:
    """Names and details come from the network."""
    assert words.printable(text).isprintable()


PIPELINE = ("model_index.json", "te/config.json", "te/model-1-of-2.safetensors", "vae/w.fp16.safetensors")


@pytest.mark.fault("X6")
@pytest.mark.parametrize(
    ("files", "stray", "is_read"),
    [
        (PIPELINE, "te/model.safetensors", True),
        (PIPELINE, "te/adapter_config.json", True),
        (PIPELINE, "te/additional_chat_templates/tool.jinja", True),
        (PIPELINE, "te/merges.txt", True),
        (PIPELINE, "te/notes.txt", False),
        (PIPELINE, "te/.DS_Store", False),
        (PIPELINE, "te/model.fp32.safetensors", False),
        (PIPELINE, "my-lora.safetensors", False),
        (PIPELINE, "pictures/settings.json", False),
        (("config.json", "model-1-of-2.safetensors"), "model.safetensors", True),
        (("config.json", "model-1-of-2.safetensors"), "requirements.txt", False),
    ],
)
def test_what_a_load_would_read_has_to_be_the_models(files: tuple[str, ...], stray: str, is_read: bool) -> None:
    """By where it lies and what it is called: a folder of the user's own may hold other things."""
    assert read_strays(files, [stray]) == ((stray,) if is_read else ())


def test_a_stray_that_would_be_read_is_refused_before_anything_is_hashed() -> None:
    """It is named, and what to do; no hash can make it the model's."""
    known = {**dict.fromkeys(FILES, Proof.UNPROVEN), "unet/x.json": Proof.STRAY}
    verdict = admit(candidate("disk", "unet/x.json"), known, Policy())
    assert isinstance(verdict, gate.Broken)
    assert (verdict.code, verdict.findings) == ("E_STRAY", ("unet/x.json",))
