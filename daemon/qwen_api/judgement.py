"""Decides about one file: is it present, missing, short, long, empty, corrupt or not verified yet, and why.

Pure. Each rule takes the facts about one path: what the listing wants, what the folder has, what the structure needs
or finds contradictory, and the hash if somebody computed it. `report` collects the facts and the answers.
"""

from __future__ import annotations

from pathlib import PurePosixPath

import msgspec

from qwen_api.causes import finding_of
from qwen_api.contents import WEIGHT_SUFFIXES
from qwen_api.events import Finding
from qwen_api.inventory import FoundFile, PartFile
from qwen_api.language import _, whole
from qwen_api.manifest import WantedFile
from qwen_api.weight_needs import Fault, Need

# What the file shows by itself and no size can excuse.
_IMPOSTORS = frozenset({"lfs_pointer", "html_page", "not_a_file", "unreadable"})


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known about one path. `hash` is "" when nobody hashed it.

    `explanation`: what hashing.explain_mismatch said after a mismatch. `owner`: the wanted file whose hash this
    content has. `part`: an unfinished download of it. `is_in_repository` is False for what the commit does not have.
    """

    path: str
    wanted: WantedFile | None = None
    found: FoundFile | None = None
    need: Need | None = None
    fault: Fault | None = None
    hash: str = ""
    explanation: str = ""
    owner: str = ""
    part: PartFile | None = None
    is_in_repository: bool = True


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be said about the path. `cause` is a key of causes.CAUSES, "" when nothing is wrong.

    `expected_bytes` is None where nothing says how long the file should be. `note` is a remark that makes nothing
    incomplete. `in_repository`: so it is in the repository itself, and no download will mend it.
    """

    finding: Finding
    cause: str = ""
    expected_bytes: int | None = None
    found_bytes: int = 0
    detail: str = ""
    other_path: str = ""
    in_repository: bool = False
    note: str = ""

    @property
    def is_well(self) -> bool:
        """True when the file is there and nothing is known against it."""
        return self.finding in ("present", "unverified")


def judge(facts: Facts) -> Verdict:
    """The verdict on one path.

    1. Not there: missing, or begun and not finished.
    2. There, and a listing knows its size and hash: the size decides first, then the hash, then the content.
    3. There, and no listing: the content and the structure are all there is to go by.
    """
    if facts.found is None or facts.found.dangling:
        return _judge_absent(facts)
    if facts.wanted is not None:
        return _judge_listed(facts, facts.wanted, facts.found)
    return _judge_unlisted(facts, facts.found)


def _judge_absent(facts: Facts) -> Verdict:
    expected = facts.wanted.size_bytes if facts.wanted else None
    if facts.part is not None:
        return _bad(
            "unfinished_download",
            expected=expected,
            found=facts.part.size_bytes,
            detail=_("begun in {path}", path=facts.part.path),
        )
    if facts.found is not None:
        return _bad("dangling_link", expected=expected, detail=facts.found.detail)
    if facts.need is not None and not facts.is_in_repository:
        verdict = _bad(facts.need.cause, expected=None, detail=_("the repository itself does not have this file"))
        return msgspec.structs.replace(verdict, in_repository=True)
    if facts.need is not None:
        return _bad(facts.need.cause, expected=expected, detail=facts.need.detail if facts.wanted is None else "")
    return _bad("missing", expected=expected)


def _judge_listed(facts: Facts, wanted: WantedFile, found: FoundFile) -> Verdict:
    expected, size = wanted.size_bytes, found.size_bytes
    if facts.hash and facts.hash == wanted.etag:
        return _judge_hashed(facts, wanted, found)
    if found.cause in _IMPOSTORS:
        return _bad(found.cause, expected=expected, found=size, detail=found.detail)
    if size != expected:
        cause, detail = _why_other_size(found, expected)
        return _bad(cause, expected=expected, found=size, detail=detail)
    if facts.hash:
        return _judge_mismatch(facts, wanted)
    if found.cause and expected:
        return _bad(found.cause, expected=expected, found=size, detail=found.detail)
    if facts.fault is not None:
        return _faulty(facts.fault, expected=expected, found=size)
    return Verdict(finding="unverified", expected_bytes=expected, found_bytes=size)


def _judge_hashed(facts: Facts, wanted: WantedFile, found: FoundFile) -> Verdict:
    """The content is the Hub's. If it is unusable all the same, the repository is: downloading again will not help."""
    cause, detail, other = found.cause, found.detail, ""
    if facts.fault is not None and not cause:
        cause, detail, other = facts.fault.cause, facts.fault.detail, facts.fault.other_path
    if not cause or wanted.size_bytes == 0:
        return Verdict(finding="present", expected_bytes=wanted.size_bytes, found_bytes=found.size_bytes)
    remark = _("{what}; the hash is the Hub's, so the repository itself holds this", what=detail)
    # A pointer in the place of a small file is opened and fails; in that of weights that are not chosen it is not.
    is_opened = facts.need is not None or (
        cause == "lfs_pointer" and PurePosixPath(facts.path).suffix.lower() not in WEIGHT_SUFFIXES
    )
    if not is_opened:
        return Verdict(
            finding="present",
            expected_bytes=wanted.size_bytes,
            found_bytes=found.size_bytes,
            note=f"{facts.path}: {remark}",
        )
    verdict = _bad(cause, expected=wanted.size_bytes, found=found.size_bytes, detail=remark)
    return msgspec.structs.replace(verdict, other_path=other, in_repository=True)


def _judge_mismatch(facts: Facts, wanted: WantedFile) -> Verdict:
    cause = "swapped_with" if facts.owner else facts.explanation or "hash_mismatch"
    detail = facts.owner or _("expected {hash}, found {other}", hash=wanted.etag, other=facts.hash)
    verdict = _bad(cause, expected=wanted.size_bytes, found=wanted.size_bytes, detail=detail)
    return msgspec.structs.replace(verdict, other_path=facts.owner)


def _why_other_size(found: FoundFile, expected: int) -> tuple[str, str]:
    """1. empty; 2. whole in itself, so another revision's; 3. the right file with more behind it; 4. cut or longer."""
    size = found.size_bytes
    if size == 0:
        return "empty", ""
    header = found.header
    if header is not None and header.end_bytes == size:
        return "other_revision", _(
            "a whole file of {size} bytes; this revision's has {expected}", size=whole(size), expected=whole(expected)
        )
    if found.path.endswith(".json") and not found.cause and not found.detail:
        return "other_revision", _(
            "valid JSON of {size} bytes; this revision's has {expected}", size=whole(size), expected=whole(expected)
        )
    if found.cause in ("zero_filled_header", "zero_filled") and size > expected:
        return found.cause, found.detail
    return (
        ("truncated", found.detail)
        if size < expected
        else (
            "trailing_bytes",
            _("{count} bytes too many", count=whole(size - expected)),
        )
    )


def _judge_unlisted(facts: Facts, found: FoundFile) -> Verdict:
    header = found.header
    expected = header.end_bytes if header is not None and header.is_readable else None
    if found.cause:
        return _bad(found.cause, expected=expected, found=found.size_bytes, detail=found.detail)
    if facts.fault is not None:
        return _faulty(facts.fault, expected=expected, found=found.size_bytes)
    return Verdict(finding="unverified", expected_bytes=expected, found_bytes=found.size_bytes)


def _faulty(fault: Fault, *, expected: int | None, found: int) -> Verdict:
    verdict = _bad(fault.cause, expected=expected, found=found, detail=fault.detail)
    return msgspec.structs.replace(verdict, other_path=fault.other_path)


def _bad(cause: str, *, expected: int | None, found: int = 0, detail: str = "") -> Verdict:
    return Verdict(finding=finding_of(cause), cause=cause, expected_bytes=expected, found_bytes=found, detail=detail)
