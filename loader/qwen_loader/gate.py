"""Decides whether a model may be loaded: pure, so that every way of being not quite ready can be tested in a line.

Two questions, in this order. `find_candidate`: who says that the model is complete, and where (the daemon, else its
ready file, else the disk itself)? `admit`: is every file of that candidate proven, by an unbroken seal or by a fresh
hash, and is nothing in it that may run code? Looking at the disk, hashing and asking the daemon are left to
`evidence` and `hook`, the sentences for people to `words`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Literal, TypeAlias

import msgspec

from qwen_api.events import FILES_PAUSED
from qwen_api.language import _
from qwen_api.models import ModelRef
from qwen_api.seals import Ready as ReadyFile
from qwen_api.status import ModelStatus, Status
from qwen_loader import words
from qwen_loader.foreign_code import is_code, read_pickles

Source = Literal["daemon", "ready-file", "disk", "hub"]
"""Who said that the model is complete; `hub` is the unverified fallback, where nobody did."""


class Proof(Enum):
    """What is known of one file's content."""

    SEALED = "sealed"  # untouched since the daemon found its hash right
    HASHED = "hashed"  # its hash was found right just now
    UNPROVEN = "unproven"  # here, and a hash can tell
    UNLISTED = "unlisted"  # here, and there is neither a seal nor a listing to compare it with
    STRAY = "stray"  # here, of no listing, and a load would read it
    WRONG = "wrong"  # here, with another content
    MISSING = "missing"
    UNREADABLE = "unreadable"


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller lets in by name; nothing that runs code gets in otherwise."""

    allow_code: bool = False
    allow_pickle: bool = False


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """What lies on the disk when nobody vouches for it: the newest snapshot of the revision, against its listing."""

    commit: str = ""
    path: str = ""
    files: tuple[str, ...] = ()  # what the listing wants
    size_bytes: int = 0
    done_bytes: int = 0
    missing: tuple[str, ...] = ()  # absent, short or malformed
    cause: str = ""  # why the first of them is
    why: str = ""  # set when there is no snapshot, or no listing to compare it with


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that somebody calls complete."""

    repo: str
    commit: str
    path: str
    source: Source
    files: tuple[str, ...]
    size_bytes: int = 0
    has_code: bool = False
    has_pickle: bool = False


class Waiting(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Not yet, and why; the numbers are of the whole model. `phase` says what is going on."""

    code: str
    why: str
    fix: str = ""
    phase: Literal["daemon", "alone", "hashing"] = "daemon"
    size_bytes: int = 0
    done_bytes: int = 0
    rate_bps: int = 0
    retry_at: str = ""
    missing: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One line for people: `52 % 30.1/57.7 GB, 3 files missing, the daemon downloads it`."""
        numbers = words.progress_text(done_bytes=self.done_bytes, size_bytes=self.size_bytes, rate_bps=self.rate_bps)
        missing = words.missing_text(len(self.missing)) if self.missing else ""
        return words.printable(", ".join(part for part in (numbers, missing, self.why) if part))


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """Waiting will not help: a person must act."""

    code: str
    why: str
    fix: str
    findings: tuple[str, ...] = ()


class AskToAdd(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon answers and does not know the model."""


class ToHash(msgspec.Struct, frozen=True, kw_only=True):
    """These files are here and only a hash can tell whether they are right."""

    paths: tuple[str, ...]


class Damaged(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody called this complete, and these files are not what they should be."""

    paths: tuple[str, ...]


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """Every file is proven and nothing forbidden is among them."""

    candidate: Candidate


Found: TypeAlias = Candidate | Waiting | Broken | AskToAdd
Verdict: TypeAlias = Admitted | ToHash | Damaged | Broken


def find_candidate(ref: ModelRef, status: Status | None, ready: ReadyFile | None, disk: Disk | None) -> Found:
    """Who calls the model complete. `status` is None when no daemon answers; then the ready file, then the disk counts.

    A daemon's word goes before what lies around: while it says `downloading`, an old ready file proves nothing.
    """
    if status is not None:
        return _ask_daemon(ref, pick_model(status, ref))
    if ready is not None:
        return candidate_of_ready(ready)
    if disk is None or disk.why:
        return Waiting(
            code="E_DAEMON_DOWN",
            why=disk.why if disk else _("the disk was not looked at yet"),
            phase="alone",
        )
    if disk.missing:
        return Waiting(
            code="E_INCOMPLETE",
            why=_("the snapshot on this disk is incomplete") + (f": {disk.cause}" if disk.cause else ""),
            fix=f"qwenctl download {ref}",
            phase="alone",
            size_bytes=disk.size_bytes,
            done_bytes=disk.done_bytes,
            missing=disk.missing,
        )
    return Candidate(
        repo=ref.repo,
        commit=disk.commit,
        path=disk.path,
        source="disk",
        files=disk.files,
        size_bytes=disk.size_bytes,
    )


def candidate_of_ready(ready: ReadyFile) -> Candidate:
    """What a ready file vouches for."""
    return Candidate(
        repo=ready.repo,
        commit=ready.commit,
        path=ready.path,
        source="ready-file",
        files=tuple(sorted(ready.seals)),
        size_bytes=sum(seal.size_bytes for seal in ready.seals.values()),
        has_code=ready.has_code,
        has_pickle=ready.has_pickle,
    )


def pick_model(status: Status, ref: ModelRef) -> ModelStatus | None:
    """The daemon's model that answers to `ref`: its own key, or any revision of the repository at the asked commit."""
    exact = status.models.get(ref.key)
    if exact is not None or not ref.is_pinned:
        return exact
    same = (m for m in status.models.values() if m.repo == ref.repo and m.commit == ref.revision)
    return next(same, None)


def admit(candidate: Candidate, proofs: Mapping[str, Proof], policy: Policy, strays: Collection[str] = ()) -> Verdict:
    """May this be loaded? `proofs` by path; `strays` are files in the snapshot that nobody vouches for.

    What no hash can cure is said first, so that nobody waits minutes for a refusal.
    """
    forbidden = _forbidden(candidate, policy, strays)
    if forbidden is not None:
        return forbidden
    by_proof = {proof: tuple(p for p in candidate.files if proofs.get(p, Proof.MISSING) is proof) for proof in Proof}
    if by_proof[Proof.UNREADABLE]:
        return Broken(
            code="E_PATH_DENIED",
            why=f"you may not read {candidate.path}",
            fix="join the readers' group: sudo usermod -aG qwen $USER, then log in again",
            findings=by_proof[Proof.UNREADABLE],
        )
    if by_proof[Proof.STRAY]:
        return Broken(
            code="E_STRAY",
            why=f"files that are not the model's lie among its own in {candidate.path}, and loading would read them",
            fix="take them out of that folder",
            findings=by_proof[Proof.STRAY],
        )
    damaged = by_proof[Proof.MISSING] + by_proof[Proof.WRONG]
    if candidate.source == "daemon" and candidate.files and by_proof[Proof.MISSING] == candidate.files:
        return Broken(
            code="E_PATH_NOT_HERE",
            why=f"the daemon calls the model complete in {candidate.path}, and nothing is there for this process",
            fix="mount the daemon's cache at the same path here (containers: -v PATH:PATH:ro)",
        )
    if damaged:
        return Damaged(paths=damaged)
    if by_proof[Proof.UNLISTED]:
        return Broken(
            code="E_NO_LISTING",
            why="neither the daemon's seals nor the Hub's listing can be read, so nothing can be compared",
            fix="let this user read the daemon's ready file (group qwen), or: qwenctl verify " + candidate.repo,
            findings=by_proof[Proof.UNLISTED],
        )
    if by_proof[Proof.UNPROVEN]:
        return ToHash(paths=by_proof[Proof.UNPROVEN])
    if not candidate.files:
        return Broken(code="E_EMPTY", why="the model has no files", fix="check the include and exclude patterns")
    return Admitted(candidate=candidate)


def _ask_daemon(ref: ModelRef, model: ModelStatus | None) -> Found:
    if model is None:
        return AskToAdd()
    missing = tuple(f.path for f in model.files.values() if not f.is_verified)
    if model.state == "complete" and model.path:
        return Candidate(
            repo=model.repo,
            commit=model.commit,
            path=model.path,
            source="daemon",
            files=tuple(sorted(model.files)),
            size_bytes=model.size_bytes,
            has_code=model.has_code,
            has_pickle=model.has_pickle,
        )
    is_held = model.state == "incomplete" and model.code == FILES_PAUSED
    if model.state in ("failed", "incomplete") and not is_held:
        return Broken(
            code=model.code or ("E_INCOMPLETE" if model.state == "incomplete" else "E_MODEL_FAILED"),
            why=model.detail or f"the daemon says: {model.state}",
            fix=words.FIXES.get(model.code, "see why with: qwenctl status MODEL, then: qwenctl retry MODEL").replace(
                "MODEL", str(ref)
            ),
            findings=missing,
        )
    return Waiting(
        code=model.code,
        why=_(words.STATES.get(model.state, model.state)) + (f": {model.detail}" if model.detail else ""),
        fix=_resume(ref, model),
        size_bytes=model.size_bytes,
        done_bytes=model.done_bytes,
        rate_bps=model.rate_bps,
        retry_at=model.retry_at,
        missing=missing,
    )


def _resume(ref: ModelRef, model: ModelStatus) -> str:
    if model.state == "paused":
        return f"qwenctl resume {ref}"
    return f"qwenctl resume {ref} --file '*'" if model.code == FILES_PAUSED else ""


def _forbidden(candidate: Candidate, policy: Policy, strays: Collection[str]) -> Broken | None:
    present = (*candidate.files, *strays)
    code = tuple(path for path in present if is_code(path))
    if (candidate.has_code or code) and not policy.allow_code:
        return Broken(
            code="E_HAS_CODE",
            why="the model brings code of its own, which loading might run",
            fix="read that code; if you trust it: --allow-code",
            findings=code,
        )
    pickles = read_pickles(present)
    if (candidate.has_pickle or pickles) and not policy.allow_pickle:
        return Broken(
            code="E_HAS_PICKLE",
            why="the model brings pickled weights, which run code when they are read",
            fix="exclude them (qwenctl add --exclude '*.bin' ...); to keep them, unread: --allow-pickle",
            findings=pickles,
        )
    return None
