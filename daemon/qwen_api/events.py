"""Everything the daemon can say: one frozen struct per fact, one union, one wire encoding.

Events are facts in the past tense; they carry codes and numbers, never sentences for people (`detail` is the one
free text, for logs and bug reports). The daemon's bus stamps `seq` and `ts`; `status.fold` turns events into state;
the monitor turns state into pictures. docs/events.md is generated from this module.

Times are RFC 3339 UTC with milliseconds; sizes are bytes; fields end in their unit (`_bytes`, `_bps`, `_s`, `_at`).
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import msgspec

from qwen_api.undecodable import UNDECODABLE

FILES_PAUSED = "E_FILES_PAUSED"  # a model is incomplete for no other reason than that a person paused files of it
WIRE_VERSION = 1  # raised only when an old reader could misunderstand a new stream

ModelState = Literal["queued", "checking", "downloading", "complete", "incomplete", "paused", "waiting", "failed"]
"""queued: known, not looked at yet. waiting: something failed, `retry_at` says when the daemon tries again.
failed: a human must act (gated, not found). incomplete: checked, something is missing that may not be fetched: the
daemon is offline, or a person paused the files."""

FileState = Literal["missing", "queued", "downloading", "stalled", "retrying", "verifying", "verified", "failed"]
LoaderState = Literal["waiting", "loading", "ready", "failed", "gone"]
Finding = Literal["present", "missing", "short", "long", "empty", "corrupt", "unverified"]
DiskState = Literal["ok", "low", "full"]
FollowPolicy = Literal["notify", "auto", "pin"]
AdoptedHow = Literal["reflink", "hardlink", "copy"]
EndpointState = Literal["ok", "aside", "gone"]


class _Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    seq: int = 0
    ts: str = ""


class _ModelEvent(_Event, frozen=True, kw_only=True, omit_defaults=True):
    model: str


class _FileEvent(_ModelEvent, frozen=True, kw_only=True, omit_defaults=True):
    path: str


class DaemonStarted(_Event, frozen=True, kw_only=True, tag="daemon.started"):
    """The daemon answers on its socket."""

    version: str
    pid: int


class DaemonStopping(_Event, frozen=True, kw_only=True, tag="daemon.stopping"):
    """The daemon was asked to stop and is recording what it has."""

    reason: str = ""


class ConfigReloaded(_Event, frozen=True, kw_only=True, tag="config.reloaded"):
    """A new configuration is in force."""

    path: str
    models: tuple[str, ...] = ()


class ConfigRejected(_Event, frozen=True, kw_only=True, tag="config.rejected"):
    """A changed configuration has an error; the one before stays in force."""

    path: str
    detail: str


class LimitsChanged(_Event, frozen=True, kw_only=True, tag="limits.changed"):
    """What holds for the whole daemon from now on; a `rate_limit_bps` of 0 is no limit."""

    max_files: int
    max_connections: int
    rate_limit_bps: int = 0


class ModelAdded(_ModelEvent, frozen=True, kw_only=True, tag="model.added"):
    """A model is wanted from now on (or is wanted with other patterns)."""

    repo: str
    revision: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow: FollowPolicy = "notify"


class ModelRemoved(_ModelEvent, frozen=True, kw_only=True, tag="model.removed"):
    """The model is no longer wanted; its files stay unless `freed_bytes` says otherwise."""

    freed_bytes: int = 0


class ModelLimitsChanged(_ModelEvent, frozen=True, kw_only=True, tag="model.limits"):
    """The model's own speed limit (0: none) and its priority (the greater the sooner) from now on."""

    rate_limit_bps: int = 0
    priority: int = 0


class ModelStateChanged(_ModelEvent, frozen=True, kw_only=True, tag="model.state"):
    """The model is in another state; `code`, `detail` and `retry_at` say why and until when."""

    state: ModelState
    code: str = ""
    detail: str = ""
    retry_at: str = ""


class ListedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a resolved model."""

    path: str
    size_bytes: int
    etag: str


class ModelResolved(_ModelEvent, frozen=True, kw_only=True, tag="model.resolved"):
    """The revision was resolved to a commit and its files are known."""

    commit: str
    files: tuple[ListedFile, ...]
    size_bytes: int
    source: Literal["hub", "cache"] = "hub"


class CheckedFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the check found of one file; `done_bytes` counts bytes that need not be fetched again."""

    path: str
    finding: Finding
    done_bytes: int = 0


class ModelChecked(_ModelEvent, frozen=True, kw_only=True, tag="model.checked"):
    """The disk was compared with the listing. `reason`: start, change, timer, command, signal, recheck."""

    commit: str
    reason: str
    files: tuple[CheckedFile, ...]
    missing: int = 0
    incomplete: int = 0
    unverified: int = 0
    missing_bytes: int = 0


class ModelPlanned(_ModelEvent, frozen=True, kw_only=True, tag="model.planned"):
    """What will be done about the check: files and bytes to fetch, bytes kept from earlier tries, room on the disk."""

    fetch_files: int
    fetch_bytes: int
    kept_bytes: int
    free_bytes: int
    verify_files: int = 0


class ModelComplete(_ModelEvent, frozen=True, kw_only=True, tag="model.complete"):
    """Every wanted file of the commit is hashed to the Hub's hash, durable, and named under `path`."""

    repo: str
    commit: str
    path: str
    files: int
    size_bytes: int
    has_code: bool = False
    has_pickle: bool = False


class ModelMoved(_ModelEvent, frozen=True, kw_only=True, tag="model.moved"):
    """The followed branch points to another commit; `follow` says what the daemon does about it."""

    commit: str
    new_commit: str
    follow: FollowPolicy


class ModelChanged(_ModelEvent, frozen=True, kw_only=True, tag="model.changed"):
    """Something touched a complete model's files on disk; a check follows."""

    paths: tuple[str, ...] = ()


class ModelScrubbed(_ModelEvent, frozen=True, kw_only=True, tag="model.scrubbed"):
    """Files of a complete model were read and hashed again because it was time; `damaged` ones are repaired next."""

    files: int
    size_bytes: int
    damaged: int = 0
    duration_s: float = 0.0


class ModelVerifying(_ModelEvent, frozen=True, kw_only=True, tag="model.verifying"):
    """Progress, not a fact: of `files` that are being hashed so many are done. A complete model stays complete."""

    files: int
    size_bytes: int
    done_files: int = 0
    done_bytes: int = 0
    rate_bps: int = 0


class ModelVerified(_ModelEvent, frozen=True, kw_only=True, tag="model.verified"):
    """Files that were here have been hashed: how many, how fast, and how many are `damaged` and are repaired next."""

    files: int
    size_bytes: int
    damaged: int = 0
    duration_s: float = 0.0
    rate_bps: int = 0


class ComponentComplete(_ModelEvent, frozen=True, kw_only=True, tag="component.complete"):
    """Every wanted file of one component ("" is the root) is verified; a loader may load it."""

    component: str
    path: str
    files: int
    size_bytes: int


class FileStarted(_FileEvent, frozen=True, kw_only=True, tag="file.started"):
    """A try at a file begins (`attempt` counts from 1); `offset_bytes` of it are on record and need not come again."""

    attempt: int
    size_bytes: int
    offset_bytes: int = 0


class FileSource(_FileEvent, frozen=True, kw_only=True, tag="file.source"):
    """With several endpoints: the one that the file's bytes come from now, and why no longer from the one before."""

    endpoint: str
    code: str = ""
    detail: str = ""


class FileResumed(_FileEvent, frozen=True, kw_only=True, tag="file.resumed"):
    """`kept_bytes` of an earlier part were re-read, agreed with their digests and will not be fetched again."""

    kept_bytes: int
    size_bytes: int


class FileProgress(_FileEvent, frozen=True, kw_only=True, tag="file.progress"):
    """Progress, not a fact: coalesced, never replayed.

    `done_bytes` are on disk, or while `verifying` hashed; `received_bytes` came by network since the daemon started.
    """

    done_bytes: int
    size_bytes: int
    received_bytes: int = 0
    durable_bytes: int = 0
    rate_bps: int = 0
    verifying: bool = False


class FileAdopted(_FileEvent, frozen=True, kw_only=True, tag="file.adopted"):
    """The content lay elsewhere, in this cache or in a local_dir, was proven and is taken from there, not fetched.

    `source_repo` is empty if it lay in huggingface_hub's shared store. Reflinks and hardlinks take no room.
    """

    size_bytes: int
    source_repo: str
    how: AdoptedHow


class FileStalled(_FileEvent, frozen=True, kw_only=True, tag="file.stalled"):
    """No byte for `idle_s`, that is since `last_byte_at`; the connection will be cut at `next_at`.

    Never, and it is empty, while it is the disk that is waited for.
    """

    idle_s: float
    next_at: str
    last_byte_at: str = ""


class FileRetry(_FileEvent, frozen=True, kw_only=True, tag="file.retry"):
    """A try failed with `code`; the next one, `attempt` of `attempts_max`, begins at `retry_at`.

    `kept_bytes` of the file are on record and will not be fetched again, unless they turn out to be damaged.
    """

    attempt: int
    attempts_max: int
    retry_at: str
    code: str
    detail: str = ""
    kept_bytes: int = 0


class FileVerified(_FileEvent, frozen=True, kw_only=True, tag="file.verified"):
    """The file's hash is the Hub's; it is durable and named in the snapshot. `received_bytes` is 0 if it was here."""

    size_bytes: int
    algorithm: Literal["sha256", "git-sha1"]
    received_bytes: int = 0
    duration_s: float = 0.0


class FileCorrupt(_FileEvent, frozen=True, kw_only=True, tag="file.corrupt"):
    """The content is not the Hub's. `where`: disk (a published file) or network (a finished download).

    `found` is empty if the disk could not read it; `detail` says why.
    """

    where: Literal["disk", "network"]
    expected: str
    found: str
    kept_bytes: int = 0
    detail: str = ""


class FileFailed(_FileEvent, frozen=True, kw_only=True, tag="file.failed"):
    """The file's tries are spent, or nothing but a human can help (`needs_human`).

    In the first case the next round tries it again; when that is, the model's own `retry_at` says at the round's end.
    """

    code: str
    detail: str = ""
    retry_at: str = ""
    needs_human: bool = False


class FilesPaused(_ModelEvent, frozen=True, kw_only=True, tag="files.paused"):
    """A person wants these files not to be fetched until they are resumed; what is on record of them stays."""

    paths: tuple[str, ...]


class FilesResumed(_ModelEvent, frozen=True, kw_only=True, tag="files.resumed"):
    """These files may be fetched again. (`file.resumed` is another thing: an earlier part of a file was still good.)"""

    paths: tuple[str, ...]


class FilesPrioritised(_ModelEvent, frozen=True, kw_only=True, tag="files.priority"):
    """These files are begun before the model's others of lower priority (the greater the sooner) from now on."""

    paths: tuple[str, ...]
    priority: int


class HubThrottled(_Event, frozen=True, kw_only=True, tag="hub.throttled"):
    """The Hub asked to wait (429, 503 or an empty RateLimit bucket); nothing is asked of it before `retry_at`."""

    origin: str
    retry_at: str
    status: int = 429


class HubRenamed(_Event, frozen=True, kw_only=True, tag="hub.renamed"):
    """The Hub knows the wanted `repo` by another name now: it is followed there and stays `repo` here. Told once."""

    repo: str
    name: str


class EndpointChanged(_Event, frozen=True, kw_only=True, tag="endpoint.changed"):
    """One of several endpoints may be used (`ok`), rests until `retry_at` (`aside`), or is not configured any more."""

    endpoint: str
    url: str
    state: EndpointState
    code: str = ""
    detail: str = ""
    retry_at: str = ""


class DiskChanged(_Event, frozen=True, kw_only=True, tag="disk.changed"):
    """Room on the cache's file system against what the models still need."""

    path: str
    state: DiskState
    free_bytes: int
    needed_bytes: int = 0


class LoaderChanged(_Event, frozen=True, kw_only=True, tag="loader.changed"):
    """A loader told its state, or was missed (`failed`); `components` is the order in which it loads, if it said so.

    `loaded_bytes` counts all that is loaded, `component_bytes` what has come of `component`.
    """

    name: str
    state: LoaderState
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


Event: TypeAlias = (
    DaemonStarted
    | DaemonStopping
    | ConfigReloaded
    | ConfigRejected
    | LimitsChanged
    | ModelAdded
    | ModelRemoved
    | ModelLimitsChanged
    | ModelStateChanged
    | ModelResolved
    | ModelChecked
    | ModelPlanned
    | ModelComplete
    | ModelMoved
    | ModelChanged
    | ModelScrubbed
    | ModelVerifying
    | ModelVerified
    | ComponentComplete
    | FileStarted
    | FileSource
    | FileResumed
    | FileProgress
    | FileAdopted
    | FileStalled
    | FileRetry
    | FileVerified
    | FileCorrupt
    | FileFailed
    | FilesPaused
    | FilesResumed
    | FilesPrioritised
    | HubThrottled
    | HubRenamed
    | EndpointChanged
    | DiskChanged
    | LoaderChanged
)

EVENT_TYPES: tuple[type[_Event], ...] = get_args(Event)


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="hello"):
    """First line of every stream. Another `epoch` than before means another daemon process: drop what you knew."""

    v: int
    epoch: str
    server: str
    seq: int
    features: tuple[str, ...] = ()


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="snapshot"):
    """Second line: the whole state at `seq` (a `status.Status`); everything after folds onto it."""

    seq: int
    ts: str
    state: msgspec.Raw


class Gap(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="gap"):
    """Events from `first` to `last` are gone for this reader; a snapshot follows or stood before."""

    first: int
    last: int


class Live(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="live"):
    """The backlog ends here; what follows happens now."""

    seq: int


class Bookmark(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="bookmark"):
    """Heartbeat: nothing durable happened up to `seq`."""

    seq: int


Frame: TypeAlias = Hello | Snapshot | Gap | Live | Bookmark


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a newer daemon; readers show or skip it, never fail on it."""

    raw: bytes


class BadLine(ValueError):
    """The line is not JSON of this protocol at all."""


_Line: TypeAlias = Event | Frame
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_Line)
_encoder = msgspec.json.Encoder()


def is_durable(event: Event) -> bool:
    """True for facts that a reader must see or be told it missed; False for progress that a later one replaces."""
    return not isinstance(event, FileProgress | ModelVerifying)


def type_of(event: Event | Frame) -> str:
    """The event's name on the wire, such as `file.retry`."""
    return str(event.__struct_config__.tag)


def encode_line(line: Event | Frame) -> bytes:
    """One JSON line with its newline."""
    return _encoder.encode(line) + b"\n"


def decode_line(raw: bytes) -> Event | Frame | Unknown:
    """Read one line; a type or shape this version does not know is `Unknown`; BadLine if it is not a JSON object."""
    try:
        decoded: Event | Frame = _decoder.decode(raw)
    except msgspec.ValidationError:
        return Unknown(raw=bytes(raw))
    except UNDECODABLE as error:
        raise BadLine(f"not a line of the event stream: {error}") from error
    return decoded
