"""Looks at this machine for `qwenctl doctor`: its groups, the disk of the cache, and the way to the Hub.

What it means is `doctor`'s to decide. The Hub is asked by a process of the daemon's package (`questions`).
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from qwen_api import places
from qwen_api.language import _
from qwen_api.manifest import Manifest
from qwen_api.models import ModelRef
from qwen_api.probe import Probe
from qwen_monitor.check import free_bytes
from qwen_monitor.doctor import Group, Room
from qwen_monitor.questions import ask

GROUPS = ("qwen", "qwen-admin")  # of the system service
PROBE_S = 180.0  # every endpoint may take its time, one after another


def user_name() -> str:
    """Who runs this; the number if nobody named it."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def groups_of(user: str) -> tuple[Group, ...]:
    """The groups of the system service that exist here."""
    found = []
    for name in GROUPS:
        try:
            group = grp.getgrnam(name)
        except KeyError:
            continue
        is_ours = os.geteuid() == 0 or group.gr_gid in (os.getegid(), *os.getgroups())
        found.append(Group(name=name, is_ours=is_ours, is_listed=user in group.gr_mem))
    return tuple(found)


def room_in(place: Path, needed_bytes: int | None, *, is_ours_to_write: bool) -> Room:
    """The disk that `place` is on, or will be on. `is_ours_to_write`: no daemon of another user does."""
    here = next((folder for folder in (place, *place.parents) if folder.exists()), Path("/"))
    may_write = not is_ours_to_write or os.access(here, os.W_OK | os.X_OK)
    return Room(place=str(place), free_bytes=free_bytes(place), needed_bytes=needed_bytes, may_write=may_write)


def lacking_bytes(cache: Path, manifest: Manifest) -> int:
    """Bytes of the model whose blobs are not in the cache, by name and size."""
    blobs = places.repo_dir(cache, manifest.repo) / "blobs"
    sizes = {file.etag: file.size_bytes for file in manifest.files}
    return sum(size for etag, size in sizes.items() if _size_of(blobs / etag) != size)


def probe(ref: ModelRef, env: Mapping[str, str], *, with_bytes: bool, on_wait: Callable[[], None]) -> Probe:
    """How the endpoints of the configuration answer. Raises Refusal."""
    words = ("probe", ref.repo, "--revision", ref.revision, *(() if with_bytes else ("--no-bytes",)))
    told = ask(
        words,
        env,
        failed=_("the way to the Hub could not be tried"),
        late=_("the way to the Hub could not be tried within {seconds:.0f} s", seconds=PROBE_S),
        limit_s=PROBE_S,
        on_wait=on_wait,
    )
    return msgspec.json.decode(told, type=Probe)


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
