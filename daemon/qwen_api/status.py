"""The fold (status, event) -> status: what the daemon greets with, the monitor draws and the loader waits on.

Pure and total: any event in any order gives a status, so a reader that joined late or lost lines is right again with
the next snapshot. The daemon folds its own events with this same function; there is no second bookkeeping. What
happens to one file is `file_status`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TypeVar

import msgspec

from qwen_api import events as e
from qwen_api.file_status import FileEvent, FileStatus, PastTrouble, at_rest, checked, fold_file, halted
from qwen_api.manifest import component_of
from qwen_api.models import ModelRef

__all__ = [
    "ENDED_LOADERS_MAX",
    "ComponentStatus",
    "DiskStatus",
    "EndpointStatus",
    "FileStatus",
    "LimitsStatus",
    "LoaderStatus",
    "ModelStatus",
    "PastTrouble",
    "Status",
    "Verifying",
    "decode_status",
    "encode_status",
    "fold",
    "fold_all",
]

ENDED_LOADERS_MAX = 32  # those that came last; anybody who may read the events may report as a loader


class ComponentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over one component's files."""

    name: str
    files: int
    verified_files: int
    size_bytes: int
    done_bytes: int
    verified_bytes: int
    rate_bps: int
    failed_files: int = 0
    retrying_files: int = 0
    stalled_files: int = 0
    active_files: int = 0
    paused_files: int = 0

    @property
    def is_complete(self) -> bool:
        """True when every file is verified."""
        return self.verified_files == self.files


class Verifying(msgspec.Struct, frozen=True, kw_only=True):
    """How far the hashing of files that are here has come."""

    files: int
    size_bytes: int
    done_files: int
    done_bytes: int
    rate_bps: int


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One wanted model; `path` is set while it is complete, which it stays while `verifying`."""

    model: str
    repo: str
    revision: str
    state: e.ModelState = "queued"
    commit: str = ""
    path: str = ""
    code: str = ""
    detail: str = ""
    retry_at: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow: e.FollowPolicy = "notify"
    rate_limit_bps: int = 0
    priority: int = 0
    newer_commit: str = ""
    has_code: bool = False
    has_pickle: bool = False
    verifying: Verifying | None = None
    files: dict[str, FileStatus] = {}

    @property
    def ref(self) -> ModelRef:
        """The model as it was asked for."""
        return ModelRef(repo=self.repo, revision=self.revision)

    @property
    def size_bytes(self) -> int:
        """Sum of all wanted files."""
        return sum(f.size_bytes for f in self.files.values())

    @property
    def done_bytes(self) -> int:
        """Bytes on disk that need not be fetched again."""
        return sum(f.done_bytes for f in self.files.values())

    @property
    def verified_bytes(self) -> int:
        """Bytes of files whose hash is the Hub's."""
        return sum(f.size_bytes for f in self.files.values() if f.is_verified)

    @property
    def received_bytes(self) -> int:
        """Bytes that came over the network for the files of this commit since the daemon started."""
        return sum(f.received_bytes for f in self.files.values())

    @property
    def rate_bps(self) -> int:
        """Bytes per second over all files being fetched."""
        return sum(f.rate_bps for f in self.files.values() if f.state == "downloading")

    def components(self) -> tuple[ComponentStatus, ...]:
        """Sums by component, the largest first, the root ("") last."""
        groups: dict[str, list[FileStatus]] = {}
        for file in self.files.values():
            groups.setdefault(component_of(file.path), []).append(file)
        sums = [_sum_component(name, files) for name, files in groups.items()]
        return tuple(sorted(sums, key=lambda c: (c.name == "", -c.size_bytes, c.name)))


class LoaderStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a loader last said of itself."""

    name: str
    state: e.LoaderState
    model: str = ""
    pid: int = 0
    device: str = ""
    detail: str = ""
    component: str = ""
    component_bytes: int = 0
    component_size_bytes: int = 0
    loaded_bytes: int = 0
    vram_bytes: int = 0
    components: tuple[str, ...] = ()
    since: str = ""

    @property
    def is_over(self) -> bool:
        """True when it said so, or died."""
        return self.state in ("failed", "gone")

    @property
    def holds_files(self) -> bool:
        """True while it reads the model's files, or may have them mapped."""
        return self.state in ("loading", "ready")


class DiskStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Room on one file system."""

    path: str
    state: e.DiskState
    free_bytes: int
    needed_bytes: int = 0


class EndpointStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of several endpoints; `aside` until `retry_at` because of `code`."""

    endpoint: str
    url: str
    state: e.EndpointState = "ok"
    code: str = ""
    detail: str = ""
    retry_at: str = ""


class LimitsStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What holds for the whole daemon; 0 is no speed limit, and a count that is not known."""

    rate_limit_bps: int = 0
    max_files: int = 0
    max_connections: int = 0


class Status(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole state of one daemon at event `seq`."""

    seq: int = 0
    version: str = ""
    pid: int = 0
    started_at: str = ""
    stopping: bool = False
    throttled_until: str = ""
    limits: LimitsStatus = LimitsStatus()
    models: dict[str, ModelStatus] = {}
    loaders: dict[str, LoaderStatus] = {}
    disks: dict[str, DiskStatus] = {}
    endpoints: dict[str, EndpointStatus] = {}


def fold(status: Status, event: e.Event) -> Status:
    """The status after `event`."""
    return fold_all(status, [event])


def fold_all(status: Status, events: Sequence[e.Event]) -> Status:
    """The status after all these, in order. Thousands of files are copied once, not once for each event."""
    for model, run in groupby(events, key=_model_of_file):
        if model:
            status = _fold_files(status, model, run)
        else:
            for event in run:
                status = _fold(status, event)
    return _with(status, seq=max([status.seq, *(event.seq for event in events)]))


def decode_status(raw: bytes | msgspec.Raw) -> Status:
    """Read the `state` of a snapshot; fields of a newer daemon are ignored."""
    return msgspec.json.decode(bytes(raw), type=Status)


def encode_status(status: Status) -> bytes:
    """The JSON that stands in a snapshot and in /v1/state."""
    return msgspec.json.encode(status)


_S = TypeVar("_S", bound=msgspec.Struct)


def _with(struct: _S, **changes: object) -> _S:
    return msgspec.structs.replace(struct, **changes)


def _fold(status: Status, event: e.Event) -> Status:
    match event:
        case e.DaemonStarted():
            return Status(
                version=event.version,
                pid=event.pid,
                started_at=event.ts,
                models=status.models,
                endpoints=status.endpoints,
            )
        case e.DaemonStopping():
            return _with(status, stopping=True)
        case e.ConfigReloaded() | e.ConfigRejected() | e.HubRenamed():
            return status
        case e.LimitsChanged():
            limits = LimitsStatus(
                rate_limit_bps=event.rate_limit_bps,
                max_files=event.max_files,
                max_connections=event.max_connections,
            )
            return _with(status, limits=limits)
        case e.HubThrottled():
            return _with(status, throttled_until=event.retry_at)
        case e.EndpointChanged():
            return _with(status, endpoints=_fold_endpoint(status.endpoints, event))
        case e.DiskChanged():
            disk = DiskStatus(
                path=event.path,
                state=event.state,
                free_bytes=event.free_bytes,
                needed_bytes=event.needed_bytes,
            )
            return _with(status, disks={**status.disks, event.path: disk})
        case e.LoaderChanged():
            return _with(status, loaders=_fold_loader(status.loaders, event))
        case e.ModelAdded():
            return _with(status, models={**status.models, event.model: _added(status.models.get(event.model), event)})
        case e.ModelRemoved():
            return _with(status, models={k: m for k, m in status.models.items() if k != event.model})
        case _:
            model = status.models.get(event.model)
            if model is None:
                return status
            return _with(status, models={**status.models, event.model: _fold_model(model, event)})


def _fold_loader(loaders: dict[str, LoaderStatus], event: e.LoaderChanged) -> dict[str, LoaderStatus]:
    if event.state == "gone" and event.name not in loaders:
        return loaders
    facts = {f: getattr(event, f) for f in LoaderStatus.__struct_fields__ if f != "since"}
    ended = [name for name, loader in loaders.items() if loader.is_over and name != event.name]
    forgotten = set(ended[: max(0, len(ended) - ENDED_LOADERS_MAX)])
    kept = {name: loader for name, loader in loaders.items() if name not in forgotten}
    return {**kept, event.name: LoaderStatus(since=event.ts, **facts)}


def _fold_endpoint(endpoints: dict[str, EndpointStatus], event: e.EndpointChanged) -> dict[str, EndpointStatus]:
    others = {name: endpoint for name, endpoint in endpoints.items() if name != event.endpoint}
    if event.state == "gone":
        return others
    facts = {fact: getattr(event, fact) for fact in EndpointStatus.__struct_fields__}
    return {**others, event.endpoint: EndpointStatus(**facts)}


def _added(known: ModelStatus | None, event: e.ModelAdded) -> ModelStatus:
    base = known or ModelStatus(model=event.model, repo=event.repo, revision=event.revision)
    return _with(base, include=event.include, exclude=event.exclude, follow=event.follow)


def _fold_model(model: ModelStatus, event: e.Event) -> ModelStatus:
    match event:
        case e.ModelStateChanged():
            path = model.path if event.state in ("complete", "checking") else ""
            files = model.files if event.state in ("checking", "downloading") else at_rest(model.files)
            return _with(
                model,
                files=files,
                state=event.state,
                code=event.code,
                detail=event.detail,
                retry_at=event.retry_at,
                path=path,
                verifying=model.verifying if event.state == "checking" else None,
            )
        case e.ModelResolved():
            return _with(model, commit=event.commit, files=_listed(model, event), newer_commit="")
        case e.ModelChecked():
            found = {c.path: c for c in event.files}
            return _with(model, files={p: checked(f, found.get(p)) for p, f in model.files.items()})
        case e.ModelComplete():
            return _with(
                model,
                state="complete",
                commit=event.commit,
                path=event.path,
                code="",
                detail="",
                retry_at="",
                has_code=event.has_code,
                has_pickle=event.has_pickle,
                verifying=None,
            )
        case e.ModelPlanned():
            waiting = {p: _with(f, state="queued") for p, f in model.files.items() if f.state == "missing"}
            return _with(model, files={**model.files, **waiting})
        case e.ModelVerifying():
            facts = {name: getattr(event, name) for name in Verifying.__struct_fields__}
            return _with(model, verifying=Verifying(**facts))
        case e.ModelVerified():
            return _with(model, verifying=None)
        case e.ModelLimitsChanged():
            return _with(model, rate_limit_bps=event.rate_limit_bps, priority=event.priority)
        case e.ModelMoved():
            return _with(model, newer_commit=event.new_commit)
        case e.FilesPaused():
            return _with_files(model, event.paths, paused=True)
        case e.FilesResumed():
            return _with_files(model, event.paths, paused=False)
        case e.FilesPrioritised():
            return _with_files(model, event.paths, priority=event.priority)
        case _:
            return model


def _listed(model: ModelStatus, event: e.ModelResolved) -> dict[str, FileStatus]:
    def fresh(file: e.ListedFile) -> FileStatus:
        known = model.files.get(file.path)
        paused, priority = (known.paused, known.priority) if known else (False, 0)
        return FileStatus(path=file.path, size_bytes=file.size_bytes, paused=paused, priority=priority)

    kept = model.files if model.commit == event.commit else {}
    return {f.path: kept.get(f.path) or fresh(f) for f in event.files}


def _with_files(model: ModelStatus, paths: tuple[str, ...], **changes: object) -> ModelStatus:
    changed = {path: _with(model.files[path], **changes) for path in paths if path in model.files}
    return _with(model, files={**model.files, **{path: halted(file) for path, file in changed.items()}})


def _model_of_file(event: e.Event) -> str:
    """The model of an event that changes one file and nothing else; "" for any other."""
    return event.model if isinstance(event, FileEvent) else ""


def _fold_files(status: Status, key: str, events: Iterable[e.Event]) -> Status:
    model = status.models.get(key)
    if model is None:
        return status
    files = dict(model.files)
    for event in events:
        assert isinstance(event, FileEvent)
        file = files.get(event.path)
        if file is not None:
            files[event.path] = fold_file(file, event)
    return _with(status, models={**status.models, key: _with(model, files=files)})


def _sum_component(name: str, files: list[FileStatus]) -> ComponentStatus:
    return ComponentStatus(
        name=name,
        files=len(files),
        verified_files=sum(f.is_verified for f in files),
        size_bytes=sum(f.size_bytes for f in files),
        done_bytes=sum(f.done_bytes for f in files),
        verified_bytes=sum(f.size_bytes for f in files if f.is_verified),
        rate_bps=sum(f.rate_bps for f in files if f.state == "downloading"),
        failed_files=sum(f.state == "failed" for f in files),
        retrying_files=sum(f.state == "retrying" for f in files),
        stalled_files=sum(f.state == "stalled" for f in files),
        active_files=sum(f.state in ("downloading", "verifying") for f in files),
        paused_files=sum(f.is_held for f in files),
    )
