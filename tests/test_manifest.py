"""A listing comes from a stranger: whatever it says, it is a listing or it is refused, before anything is written."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_api.manifest import BadManifest, WantedFile, check_names, make_manifest, read_tree

COMMIT, SHA = "c" * 40, "a" * 64
MARKS = ("\\", "\0", "\n", "\r", "\x1b[2J", "\x7f", "\u202e", "\u2066", "\u200f", "\udcff")  # nowhere in a path
PARTS = ("..", ".", "")  # no part of a path
SHAPES = ("{}", "{}/a", "a/{}", "a/{}/b", "a/b/{}/c/d", "a{}/b", "a/{}b", "/{}", "a//{}")
WINDOWS = (
    "CON",
    "nul.txt",
    "Aux .json",
    "com1",
    "lpt9.bin",
    "COM\u00b9",
    "a.",
    "a ",
    "...",
    "a:b",
    "what?",
    "*",
    "a|b",
    '"',
)
WHOLE = ("/etc/passwd", "//a", "C:", "C:\\x", "c:/x", "\\\\server\\share", "~/../x", "a/" * 600 + "a", "x" * 256)
CLASHES = (
    *(("a", "a"), ("a", "a/b"), ("a/b/c", "a/b"), ("x/y", "x"), ("README.md", "readme.md"), ("d/A", "D/a")),
    *(("X", "x/y"), ("\u00e9", "e\u0301"), ("straße", "STRASSE"), ("\u212a", "k")),
)
HARMLESS = ("a", "a b", "CONFIG", "com10", "console.json", "A", "é", "e\u0301", "模型/权重", "..a", "-rf", "~", "$(x)")


def is_harmful(path: str) -> bool:
    parts = path.split("/")
    return any(mark in path for mark in MARKS) or any(part in PARTS or len(part) > 255 for part in parts)


@pytest.mark.fault("H49")
def test_names_that_could_do_harm_are_refused() -> None:
    """Every part that could climb, hide or steer, in every place of a path; and the forms of other systems."""
    paths = {shape.format(bad) for shape in SHAPES for bad in (*MARKS, *PARTS)} | set(WHOLE)
    paths |= {f"a/{chr(code)}b" for code in (*range(0x20), 0x7F, *range(0x80, 0xA0))}
    accepted: set[str] = set()
    for path in paths:
        try:
            check_names([path])
        except BadManifest:
            continue
        accepted.add(path)
    assert all(not is_harmful(path) for path in accepted) and not accepted & set(WHOLE)
    assert len(accepted) < 20 < 150 < len(paths), "most of them are harmful"


@pytest.mark.fault("H49")
@pytest.mark.parametrize("path", HARMLESS)
def test_odd_names_that_do_no_harm_are_kept(path: str) -> None:
    """Spaces, other scripts, what only begins like a device of Windows."""
    check_names([path])


@pytest.mark.fault("H49")
@pytest.mark.parametrize("shape", ["{}", "{}/a", "a/{}/b", "a/{}"])
@pytest.mark.parametrize("part", WINDOWS)
def test_names_that_are_others_on_windows_are_refused(part: str, shape: str) -> None:
    """A cache may lie on such a disk (a mounted NTFS, exFAT, a share): there it would be another file, or none."""
    with pytest.raises(BadManifest):
        check_names([shape.format(part)])


@pytest.mark.fault("H49")
@pytest.mark.parametrize("paths", CLASHES)
def test_names_that_clash_are_refused(paths: tuple[str, ...]) -> None:
    """Twice, or as a file and as a folder; also where a disk takes letters of either case for the same."""
    with pytest.raises(BadManifest):
        check_names(paths)


@pytest.mark.fault("H49")
@given(st.lists(st.text(max_size=20), max_size=4))
def test_no_names_break_the_check(paths: list[str]) -> None:
    """Accepted or refused; and what is accepted stays below the folder it is put in."""
    try:
        check_names(paths)
    except BadManifest:
        return
    for path in paths:
        parts = PurePosixPath(path).parts
        assert parts and not PurePosixPath(path).is_absolute() and ".." not in parts and "\0" not in path


def file(**said: object) -> WantedFile:
    return WantedFile(**{"path": "a", "size_bytes": 1, "git_sha1": "0" * 40, "sha256": SHA} | said)  # type: ignore[arg-type]


@pytest.mark.fault("H46", "H50", "H52")
@pytest.mark.parametrize(
    "files",
    [
        [file(size_bytes=-1)],
        [file(size_bytes=1 << 63)],
        [file(sha256="../../../x")],
        [file(sha256="A" * 64)],
        [file(sha256="a" * 63)],
        [file(sha256=None, git_sha1="..")],
        [file(sha256=None, git_sha1="")],
        [file(sha256="a" * 63 + "\n")],
        [file(path="a"), file(path="b", size_bytes=2)],
    ],
)
def test_sizes_and_hashes_that_are_none_are_refused(files: list[WantedFile]) -> None:
    """Only hex digits become a file's name; one hash has one size."""
    with pytest.raises(BadManifest):
        make_manifest("org/one", COMMIT, files)


@pytest.mark.fault("H50")
@pytest.mark.parametrize("commit", ["", "main", "../x", "C" * 40, "c" * 39, "c" * 40 + "\n", "c" * 41])
def test_a_commit_that_is_none_is_refused(commit: str) -> None:
    """It becomes a folder's name."""
    with pytest.raises(BadManifest):
        make_manifest("org/one", commit, [file()])


WORDS = st.sampled_from(["files", "format_version", "a", "size", "blob_id", "lfs_sha256"])
LEAVES = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=20
)


@pytest.mark.fault("H51")
@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_a_tree_of_any_content_is_one_or_none(content: bytes) -> None:
    """Wrong types, NaN, no JSON at all: a listing, or refused in words."""
    try:
        assert read_tree("org/one", COMMIT, content).repo == "org/one"
    except BadManifest as refused:
        assert str(refused)


@pytest.mark.fault("H51")
def test_a_tree_as_deep_as_an_attack_is_refused() -> None:
    """And nothing worse."""
    with pytest.raises(BadManifest):
        read_tree("org/one", COMMIT, b'{"files":' + b"[" * 100_000)
