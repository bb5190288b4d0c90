"""One file's part of the status, and how it changes: by what happens to the file, by a check, by a pause.

Pure and total, as `status` is, which sums files up and folds everything else; readers take both from there.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from qwen_api import events as e


class PastTrouble(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong last, kept when the next try has begun."""

    code: str
    detail: str = ""
    at: str = ""


class FileStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file. On the network, on disk and verified are kept apart: `received_bytes`, `done_bytes`, state.

    While it is `verifying`, `hashed_bytes` of what is on disk have been read again. `code` is about now, `last_trouble`
    about a try that is over. While it is `stalled`, no byte came since `last_byte_at` and `retry_at` is when its
    connection is cut. `paused` and `priority` are what a person wants of it; a paused file that is here is verified all
    the same.
    """

    path: str
    size_bytes: int
    state: e.FileState = "queued"
    done_bytes: int = 0
    received_bytes: int = 0
    rate_bps: int = 0
    attempt: int = 0
    attempts_max: int = 0
    retry_at: str = ""
    code: str = ""
    detail: str = ""
    needs_human: bool = False  # it failed, and to try again by itself is pointless
    last_trouble: PastTrouble | None = None
    last_byte_at: str = ""
    hashed_bytes: int = 0
    endpoint: str = ""  # of several, the one that its bytes come or came from
    paused: bool = False
    priority: int = 0

    @property
    def is_verified(self) -> bool:
        """True when the file's hash is known to be the Hub's."""
        return self.state == "verified"

    @property
    def is_held(self) -> bool:
        """True when it is not here and will not be fetched, because a person paused it."""
        return self.paused and not self.is_verified


FileEvent: TypeAlias = (
    e.FileStarted
    | e.FileSource
    | e.FileResumed
    | e.FileProgress
    | e.FileAdopted
    | e.FileStalled
    | e.FileRetry
    | e.FileVerified
    | e.FileCorrupt
    | e.FileFailed
)


def fold_file(file: FileStatus, event: FileEvent) -> FileStatus:
    """The file after `event`, which is about it."""
    match event:
        case e.FileStarted():
            return _started(file, event)
        case e.FileSource():
            return _with(file, endpoint=event.endpoint)
        case e.FileResumed():
            return _with(file, done_bytes=max(file.done_bytes, event.kept_bytes))
        case e.FileProgress():
            return _hashed(file, event) if event.verifying else _received(file, event)
        case e.FileStalled():
            at = event.last_byte_at
            return _with(file, state="stalled", rate_bps=0, retry_at=event.next_at, last_byte_at=at)
        case e.FileRetry():
            return _retrying(file, event)
        case e.FileVerified():
            return _verified(file, event)
        case e.FileCorrupt():
            return _corrupt(file, event)
        case e.FileFailed():
            return _failed(file, event)
        case _:
            return file


def _started(file: FileStatus, event: e.FileStarted) -> FileStatus:
    return _with(
        file,
        state="downloading",
        attempt=event.attempt,
        done_bytes=event.offset_bytes,
        retry_at="",
        last_byte_at="",
        code="",
        detail="",
        needs_human=False,
    )


def _hashed(file: FileStatus, event: e.FileProgress) -> FileStatus:
    """What is hashed is here, however much of it is hashed by now."""
    done_bytes = max(file.done_bytes, event.done_bytes)
    return _with(file, state="verifying", hashed_bytes=event.done_bytes, done_bytes=done_bytes, rate_bps=0)


def _received(file: FileStatus, event: e.FileProgress) -> FileStatus:
    """The last word of a connection may come after the pause that ended it."""
    return _with(
        file,
        state="queued" if file.paused else "downloading",
        done_bytes=event.done_bytes,
        received_bytes=event.received_bytes,
        rate_bps=0 if file.paused else event.rate_bps,
        retry_at="",
        last_byte_at="",
    )


def _retrying(file: FileStatus, event: e.FileRetry) -> FileStatus:
    return _with(
        file,
        state="retrying",
        rate_bps=0,
        attempt=event.attempt,
        attempts_max=event.attempts_max,
        retry_at=event.retry_at,
        last_byte_at="",
        code=event.code,
        detail=event.detail,
        last_trouble=PastTrouble(code=event.code, detail=event.detail, at=event.ts),
    )


def _verified(file: FileStatus, event: e.FileVerified) -> FileStatus:
    return _with(
        file,
        state="verified",
        rate_bps=0,
        done_bytes=file.size_bytes,
        received_bytes=max(file.received_bytes, event.received_bytes),
        hashed_bytes=0,
        retry_at="",
        last_byte_at="",
        code="",
        detail="",
        needs_human=False,
    )


def _corrupt(file: FileStatus, event: e.FileCorrupt) -> FileStatus:
    code = "E_CORRUPT" if event.found else "E_UNREADABLE"
    return _with(
        file,
        state="queued",
        rate_bps=0,
        done_bytes=event.kept_bytes,
        hashed_bytes=0,
        code=code,
        detail=event.detail,
        last_trouble=PastTrouble(code=code, detail=event.detail, at=event.ts),
    )


def _failed(file: FileStatus, event: e.FileFailed) -> FileStatus:
    return _with(
        file,
        state="failed",
        rate_bps=0,
        code=event.code,
        detail=event.detail,
        retry_at=event.retry_at,
        last_byte_at="",
        needs_human=event.needs_human,
        last_trouble=PastTrouble(code=event.code, detail=event.detail, at=event.ts),
    )


def checked(file: FileStatus, found: e.CheckedFile | None) -> FileStatus:
    """The file after a check, of which `found` is what it says about this one."""
    if found is None:
        return file
    done = file.size_bytes if found.finding == "present" else found.done_bytes
    state: e.FileState = "missing" if found.finding == "missing" and not done else "queued"
    return FileStatus(
        path=file.path,
        size_bytes=file.size_bytes,
        state="verified" if found.finding == "present" else state,
        done_bytes=done,
        received_bytes=file.received_bytes,
        last_trouble=file.last_trouble,
        endpoint=file.endpoint,
        paused=file.paused,
        priority=file.priority,
    )


def at_rest(files: dict[str, FileStatus]) -> dict[str, FileStatus]:
    """Nothing moves any more (paused, failed, waiting): what was under way is queued again."""
    return {
        path: _with(file, state="queued", rate_bps=0, retry_at="")
        if file.state in ("downloading", "stalled", "retrying", "verifying")
        else file
        for path, file in files.items()
    }


def halted(file: FileStatus) -> FileStatus:
    """A paused file is not under way any more, and its failure is no trouble."""
    if not file.paused or file.state not in ("downloading", "stalled", "retrying", "failed"):
        return file
    return _with(file, state="queued", rate_bps=0, retry_at="", code="", detail="")


def _with(file: FileStatus, **changes: object) -> FileStatus:
    return msgspec.structs.replace(file, **changes)
