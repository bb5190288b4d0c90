"""Everything a stranger can say is judged by pure functions; here a plain loop says millions of things to them.

Whatever is said, they answer or refuse in their own way, and what they let pass is harmless by rules that are written
here a second time. A failure names its number; to see it again: python -m tests.test_fuzz 4711
"""

from __future__ import annotations

import math
import posixpath
import random
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path, PureWindowsPath

import pytest

from qwen_api import events as e
from qwen_api import places
from qwen_api.manifest import FILE_BYTES_MAX, BadManifest, WantedFile, check_names, make_manifest, read_tree, write_tree
from qwen_api.models import BadModelName, is_commit, is_etag, is_revision, parse_model
from qwen_api.status import Status, fold, fold_all
from qwen_daemon.core.backoff import WAIT_MAX_S, asked_wait_s
from qwen_daemon.core.errors import Trouble
from qwen_daemon.core.verdict import Answer, Asked, Follow, TakeBody, judge
from tests import long_run

PER_NUMBER = 10_000  # executions, a second or less
ROOT = "/cache/snapshots"
COMMIT, SHA256 = "c" * 40, "5" * 64
# What names, hashes, headers and lines are made of, and what has broken others.
PIECES = (
    "a", "A", "model", ".safetensors", "/", "/", "//", "..", "../", ".", "./", "\\", "C:", "\\\\host\\x", "CON", "nul",
    " ", "~", "\0", "\n", "\r\n", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u202e", "\u2066", "\u200b", "\ufeff",
    "\ud800", "é", "e\u0301", "%2e%2e", "x" * 255, "y" * 1100, "0", "9", "00", "-1", "1e9", "0x1", "٣", "²",
    "18446744073709551616", "9" * 30, "9" * 5000, "NaN", "bytes ", "0-9/10", "bytes 5-9/10", "/*", "-", "=", ";", ",",
    '"', "W/", '"api";r=0;t=55', "t=", "r=", COMMIT, SHA256, "f" * 41, "F" * 40, "https://", "hub@evil",
    "http://127.0.0.1/", "file:", "gzip", "identity", "multipart/byteranges", "text/html",
    "Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 99 Oct 99999 07:28:00 GMT", "main", "refs/pr/1", "@", "--", ".git", "{",
    "}", "[", "]", ":", "null", "true",
)  # fmt: skip
TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
HEADERS = (
    "content-range", "content-length", "content-type", "content-encoding", "location", "retry-after", "date",
    "ratelimit", "x-linked-etag", "x-linked-size", "x-repo-commit", "x-error-code", "x-error-message", "etag",
)  # fmt: skip
STATUSES = (200, 206, 206, 206, 301, 302, 307, 400, 401, 403, 404, 408, 410, 416, 429, 451, 500, 503, 599)
ASKED = Asked(start=5, end=10, size_bytes=10, etag=SHA256, commit=COMMIT)
LINES = tuple(
    e.encode_line(line)
    for line in (
        e.ModelAdded(model="org--m", repo="org/m", revision="main", follow="auto"),
        e.ModelResolved(
            model="org--m", commit=COMMIT, files=(e.ListedFile(path="a/b", size_bytes=7, etag=SHA256),), size_bytes=7
        ),
        e.FileStarted(model="org--m", path="a/b", attempt=1, size_bytes=7),
        e.FileVerified(model="org--m", path="a/b", size_bytes=7, algorithm="sha256", received_bytes=7, duration_s=0.5),
        e.LoaderChanged(name="l", state="loading"),
        e.Gap(first=1, last=2),
    )
)
KNOWN = fold_all(Status(), [line for line in map(e.decode_line, LINES) if isinstance(line, e.EVENT_TYPES)])
TREE = write_tree(
    make_manifest("org/m", COMMIT, [WantedFile(path="a/b", size_bytes=7, git_sha1="1" * 40, sha256=SHA256)])
)


def text(dice: random.Random) -> str:
    return "".join(dice.choices(PIECES, k=dice.choice((1, 1, 2, 3, 5))))


def cut_and_changed(dice: random.Random, raw: bytes) -> bytes:
    """With a few bytes changed, a piece put in, or its end missing."""
    changed = bytearray(raw)
    for _ in range(dice.choice((1, 1, 2, 8))):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    if dice.random() < 0.3:
        at = dice.randrange(len(changed))
        changed[at:at] = dice.choice(PIECES).encode(errors="surrogatepass")
    return bytes(changed[: dice.randrange(len(changed))] if dice.random() < 0.1 else changed)


def is_harmless(path: str) -> bool:
    """Below any folder it names one file inside, on POSIX and on Windows, and shows what it is."""
    return (
        posixpath.normpath(f"{ROOT}/{path}") == f"{ROOT}/{path}"
        and path != ""
        and PureWindowsPath(path).anchor == ""
        and "\\" not in path
        and not any(unicodedata.category(c) in ("Cc", "Cs") or unicodedata.bidirectional(c) in TURNING for c in path)
        and all(len(part.encode()) <= 255 for part in path.split("/"))
    )


def is_same_on_windows(path: str) -> bool:
    parts = path.split("/")
    return not any(
        PureWindowsPath(part).is_reserved() or part[-1] in ". " or set(part) & set('<>:"|?*') for part in parts
    )


def say_name(dice: random.Random) -> None:
    names = [text(dice) for _ in range(dice.choice((1, 1, 3)))]
    try:
        check_names(names)
    except BadManifest:
        return
    assert all(map(is_harmless, names)) and all(map(is_same_on_windows, names)), names
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == len(names), names
    assert not any(other.startswith(f"{name}/") for name in names for other in names), names


def say_hash(dice: random.Random) -> None:
    said = text(dice)
    assert is_etag(said) <= (len(said) in (40, 64) and set(said) <= set("0123456789abcdef")), said
    assert is_commit(said) <= is_etag(said), said


def say_model(dice: random.Random) -> None:
    said = text(dice)
    if is_revision(said):
        assert is_harmless(said) and said.isascii(), said
    try:
        ref = parse_model(said)
    except BadModelName:
        return
    cache = Path(ROOT)
    for path in (places.repo_dir(cache, ref.repo), places.ref_file(cache, ref.repo, ref.revision), cache / ref.key):
        assert is_harmless(str(path.relative_to(cache))), said
    assert "/" not in ref.key and ref.key.isascii(), said


def say_file(dice: random.Random) -> None:
    files = [
        WantedFile(
            path=dice.choice(("a", "b", text(dice))),
            size_bytes=dice.choice((0, 1, -1, FILE_BYTES_MAX, FILE_BYTES_MAX + 1, 1 << 63, dice.getrandbits(70))),
            git_sha1=dice.choice(("1" * 40, text(dice))),
            sha256=dice.choice((None, SHA256, text(dice))),
        )
        for _ in range(dice.choice((1, 2)))
    ]
    try:
        manifest = make_manifest("org/m", COMMIT, files)
    except BadManifest:
        return
    assert all(0 <= file.size_bytes <= FILE_BYTES_MAX and is_etag(file.etag) for file in manifest.files), files


def say_listing(dice: random.Random) -> None:
    said = cut_and_changed(dice, TREE)
    try:
        manifest = read_tree("org/m", COMMIT, said)
    except BadManifest:
        return
    assert read_tree("org/m", COMMIT, write_tree(manifest)) == manifest, said


def say_headers(dice: random.Random) -> None:
    # bytes that are no UTF-8 come as lone surrogates of this half
    headers = {name: text(dice).replace("\ud800", "\udc80") for name in dice.sample(HEADERS, dice.choice((0, 1, 2, 5)))}
    answer = Answer(status=dice.choice(STATUSES), headers=headers, from_hub=dice.random() < 0.5)
    verdict = judge(ASKED, answer)
    if isinstance(verdict, TakeBody):
        assert verdict.skip in (0, ASKED.start) and 0 < verdict.length <= ASKED.end - ASKED.start, answer
    elif isinstance(verdict, Follow):
        assert verdict.location.isascii() and verdict.location.isprintable() and " " not in verdict.location, answer
    else:
        assert isinstance(verdict, Trouble) and str(verdict).isprintable(), answer
    waits_s = asked_wait_s(headers, default_s=10.0)
    assert math.isfinite(waits_s) and 0 <= waits_s <= WAIT_MAX_S, answer


def say_event(dice: random.Random) -> None:
    said = cut_and_changed(dice, dice.choice(LINES))
    try:
        line = e.decode_line(said)
    except e.BadLine:
        return
    if isinstance(line, e.EVENT_TYPES):
        fold(KNOWN, line)


SAYINGS: tuple[Callable[[random.Random], None], ...] = (
    say_name, say_hash, say_model, say_file, say_listing, say_headers, say_event,
)  # fmt: skip


def fuzz(number: int) -> int:
    """So many executions; returns their number."""
    dice = random.Random(number)
    for _ in range(PER_NUMBER):
        say = dice.choice(SAYINGS)
        try:
            say(dice)
        except BaseException as error:
            error.add_note(f"{say.__name__} in number {number}; to see it again: python -m tests.test_fuzz {number}")
            raise
    return PER_NUMBER


@pytest.mark.fault("H49", "H50", "H51", "X1")
def test_whatever_a_stranger_says_nothing_harmful_passes() -> None:
    """Names, hashes, revisions, sizes, listings, headers and events, ten thousand times."""
    fuzz(0)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.fault("H49", "H50", "H51", "X1")
def test_ten_million_sayings() -> None:
    """The same, for minutes."""
    long_run.run("fuzz", "executions of the validators", fuzz, range(1000), at_once=2)


if __name__ == "__main__":
    fuzz(int(sys.argv[1]))
