"""What a client may ask of the daemon, and how it answers: the bodies of the HTTP requests and answers.

The closed schema is a safety rule: a command names a model, patterns and policies, never a path, endpoint, token,
header or proxy; those come from the daemon's own configuration.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from qwen_api.events import FollowPolicy, LoaderState
from qwen_api.rates import Rate
from qwen_api.seals import Seal
from qwen_api.status import FileStatus

WIRE_HEADER = "Qwen-Wire"  # in every answer: events.WIRE_VERSION of the daemon

Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]

COUNT_MAX = 64
Count = Annotated[int, msgspec.Meta(ge=1, le=COUNT_MAX)]  # files or connections at once
Priority = Annotated[int, msgspec.Meta(ge=-100, le=100)]
ChosenPaths = Annotated[
    tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=1024)], ...], msgspec.Meta(min_length=1, max_length=100)
]
ComponentName = Annotated[str, msgspec.Meta(max_length=255)]


class AddModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """POST /v1/models. `model` is an alias, org/name or org/name@revision; patterns as in `hf download`.

    A limit and a priority that are left out stay as they are if the model is known, else there is none.
    """

    model: Annotated[str, msgspec.Meta(max_length=400)]
    include: Annotated[tuple[Pattern, ...], msgspec.Meta(max_length=100)] = ()
    exclude: Annotated[tuple[Pattern, ...], msgspec.Meta(max_length=100)] = ()
    follow: FollowPolicy = "notify"
    rate_limit_bps: Rate | None = None
    priority: Priority = 0


class SetLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """PUT /v1/limits: of the whole daemon, until it ends. What is left out stays; null is no speed limit."""

    rate_limit_bps: Rate | msgspec.UnsetType | None = msgspec.UNSET
    max_files: Count | msgspec.UnsetType = msgspec.UNSET
    max_connections: Count | msgspec.UnsetType = msgspec.UNSET


class SetModelLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PUT /v1/models/{id}/limits: of one model, until the daemon ends; null is no speed limit of its own."""

    rate_limit_bps: Rate | None


class SetPriority(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PUT /v1/models/{id}/priority: whose files are begun first, the greater the sooner, until the daemon ends."""

    priority: Priority


class ChosenFiles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/models/{id}/files/pause, resume and retry: paths, or patterns as in `hf download`; each must mean some.

    A paused file is not fetched until it is resumed or the daemon ends, and the model is incomplete without it.
    """

    paths: ChosenPaths


class SetFilePriority(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PUT /v1/models/{id}/files/priority: which of a model's files are begun first, until the daemon ends."""

    paths: ChosenPaths
    priority: Priority


class VerifyModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """POST /v1/models/{id}/verify. `full` hashes every file again, seals or not."""

    full: bool = True


class RemoveModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """DELETE /v1/models/{id}. With `delete_files` the snapshot and the blobs that only it uses go too."""

    delete_files: bool = False


LOADER_NAME_MAX = 64


def is_loader_name(name: str) -> bool:
    """What the daemon takes as a loader's name: at most 64 printable characters."""
    return 0 < len(name) <= LOADER_NAME_MAX and name.isprintable()


class LoaderReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """PUT /v1/loaders/{name}: a loader's own state.

    `components`, if there are any, is the order in which it loads them; they are fetched in that order from then on.
    A `pid` other than 0 (the daemon takes the kernel's word for the number) says that this process stays: when it ends
    without a last word, the loader has failed. The same goes for one that promises to say its state again within
    `heartbeat_s` seconds and is silent for three times as long; saying it again is no event.
    `loaded_bytes` counts all that is loaded, `component_bytes` what has come of `component`.
    """

    state: LoaderState
    model: Annotated[str, msgspec.Meta(max_length=400)] = ""
    pid: int = 0
    device: Annotated[str, msgspec.Meta(max_length=100)] = ""
    detail: Annotated[str, msgspec.Meta(max_length=2000)] = ""
    component: Annotated[str, msgspec.Meta(max_length=255)] = ""
    component_bytes: int = 0
    component_size_bytes: int = 0
    loaded_bytes: int = 0
    vram_bytes: int = 0
    heartbeat_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 0.0
    components: Annotated[tuple[ComponentName, ...], msgspec.Meta(max_length=64)] = ()


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A command was taken; its effect shows in the event stream at or after `seq`. `files`: those it was about."""

    seq: int
    model: str = ""
    files: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


class ModelFiles(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/models/{id}/files: each wanted file, and the seals of those whose hash was found right.

    `path` is the snapshot of a complete model, `folder` the same while it is still being filled: what a seal vouches
    for may be read there. Both are empty while the commit is not known.
    """

    model: str
    commit: str
    path: str
    files: tuple[FileStatus, ...]
    seals: dict[str, Seal]
    folder: str = ""


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """An open request for the bytes [start, end) of a file; `position` is the next one to come."""

    start: int
    end: int
    position: int
    rate_bps: int = 0


class Whereabouts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where one file's bytes are at this moment, and where more come from.

    `present` are the stretches [start, end) that are here: while it is fetched what has come, else what is on record of
    an earlier try; of a published file it says nothing. `durable_bytes` of them are on record. `hashed_bytes` is how
    far the hash of the whole has followed. `endpoint` is asked first, `host` is who served the last bytes; without
    `has_ranges` it sends the whole file each time, so that one connection is best.
    """

    etag: str
    endpoint: str = ""
    host: str = ""
    has_ranges: bool = True
    hashed_bytes: int = 0
    durable_bytes: int = 0
    present: tuple[tuple[int, int], ...] = ()
    connections: tuple[Connection, ...] = ()


class FileDetails(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/models/{id}/files/{path}: one file, as far as the daemon knows it."""

    model: str
    file: FileStatus
    whereabouts: Whereabouts


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/version. `reserve_bytes` are left free on every disk."""

    version: str
    wire: int
    epoch: str
    pid: int
    cache_dir: str
    state_dir: str
    endpoint: str
    reserve_bytes: int = 0


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Any refusal: application/problem+json (RFC 9457) with a stable `code` and a way out in `fix`."""

    title: str
    status: int
    code: str
    detail: str = ""
    fix: str = ""
    type: str = "about:blank"
