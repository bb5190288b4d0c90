"""Network, on-disk and verified bytes of one model as it is watched: none of them falls without saying why.

Pure. What is on the disk does fall: a damaged file is dropped, and a try that ended may have brought bytes that were
not durable yet. Then as much is added to `dropped_bytes`, so that on disk and dropped together never fall; verified and
doubted bytes likewise. A restarted daemon knows nothing of a file until it has looked, and counts the network from 0:
until then a file stays as it was seen last, and what came before is in `earlier_bytes`.
"""

from __future__ import annotations

import msgspec

from qwen_api.events import ModelState
from qwen_api.file_status import at_rest
from qwen_api.status import FileStatus, ModelStatus

# States in which a file of which nothing is said may be one that was not looked at yet.
_NOT_LOOKED: tuple[ModelState, ...] = ("queued", "checking", "paused", "waiting", "failed")


class Amounts(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of one commit's files so far; begins anew with another commit or another choice of files.

    `dropped_bytes` were on the disk and are so no more; `earlier_bytes` came over the network before a count of a file
    began anew; `proven` are the paths that were verified at some time.
    """

    commit: str = ""
    files: dict[str, FileStatus] = {}
    dropped_bytes: int = 0
    earlier_bytes: int = 0
    proven: frozenset[str] = frozenset()

    def fed(self, model: ModelStatus) -> Amounts:
        """With what `model` says now."""
        if not model.files or model.files is self.files:
            return self
        if model.commit != self.commit or model.files.keys() != self.files.keys():
            proven = frozenset(path for path, file in model.files.items() if file.is_verified)
            return Amounts(commit=model.commit, files=model.files, proven=proven, earlier_bytes=self._earlier(model))
        before, looked = self.files, model.state not in _NOT_LOOKED
        rested = before if looked else at_rest(before)  # its bytes stay; that it moves, or stands still, does not
        files = {p: file if looked or not _is_blank(file) else rested[p] for p, file in model.files.items()}
        moved = [(before[path], file) for path, file in model.files.items() if file is not before[path]]
        return Amounts(
            commit=self.commit,
            files=_counted(files, model.files),
            dropped_bytes=self.dropped_bytes
            + sum(max(0, before[p].done_bytes - file.done_bytes) for p, file in files.items()),
            earlier_bytes=self.earlier_bytes
            + sum(old.received_bytes for old, new in moved if new.received_bytes < old.received_bytes),
            proven=self.proven | {new.path for _, new in moved if new.is_verified},
        )

    def shown(self, model: ModelStatus) -> ModelStatus:
        """The model, with the files as they are to be shown."""
        if not self.files or model.files is self.files:
            return model
        return msgspec.structs.replace(model, commit=model.commit or self.commit, files=self.files)

    @property
    def doubted_bytes(self) -> int:
        """Of files that were verified and are so no more: damaged, touched, or hashed anew."""
        return sum(self.files[path].size_bytes for path in self.proven if not self.files[path].is_verified)

    def _earlier(self, model: ModelStatus) -> int:
        """With another choice of files: those of both keep their count, and are counted there."""
        kept = model.files if model.commit == self.commit else {}
        counts = {path: file.received_bytes for path, file in kept.items()}
        before = self.files.items()
        return self.earlier_bytes + sum(f.received_bytes for p, f in before if counts.get(p, -1) < f.received_bytes)


def _is_blank(file: FileStatus) -> bool:
    """True if nothing is said of it."""
    return file.state == "queued" and not (file.done_bytes or file.code or file.last_trouble)


def _counted(files: dict[str, FileStatus], told: dict[str, FileStatus]) -> dict[str, FileStatus]:
    """The network's count is always the one that was told, also of a file that stays as it was seen."""
    return {
        path: file
        if file.received_bytes == told[path].received_bytes
        else msgspec.structs.replace(file, received_bytes=told[path].received_bytes)
        for path, file in files.items()
    }
