"""Looks at this machine for `qwenctl doctor`: its groups, the disk of the cache, and the way to the Hub.

What it means is `doctor`'s to decide. The Hub is asked by a process of the daemon's package (`questions`).
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """The groups of the system service that exist here; none for root, who needs none."""
    if os.geteuid() == 0:
        return ()
    found = []
    for name in GROUPS:
        try:
            group = grp.getgrnam(name)
        except KeyError:
            continue
        is_ours = group.gr_gid in (os.getegid(), *os.getgroups())
        found.append(Group(name=name, is_ours=is_ours, is_listed=user in group.gr_mem))
    return tuple(found)


def rooms_in(needs: Sequence[tuple[Path, int | None]], *, reserve_bytes: int, is_ours_to_write: bool) -> Iterator[Room]:
    """The disks of these places, each once, with all that is still to come to it; None: nobody knows.

    `is_ours_to_write`: no daemon of another user does.
    """
    disks: dict[int, list[tuple[Path, int | None]]] = {}
    for place, needed_bytes in needs:
        disks.setdefault(_standing(place).stat().st_dev, []).append((place, needed_bytes))
    for on_it in disks.values():
        place, known = on_it[0][0], [needed_bytes for _, needed_bytes in on_it if needed_bytes is not None]
        yield Room(
            place=str(place),
            free_bytes=free_bytes(place),
            needed_bytes=sum(known) if known else None,
            may_write=not is_ours_to_write or os.access(_standing(place), os.W_OK | os.X_OK),
            reserve_bytes=reserve_bytes,
        )


def lacking_bytes(cache: Path, manifest: Manifest, *, has_links: bool) -> int:
    """Bytes of the model that are not in the cache, by name and size.

    Without links a content that has several names takes its room for each of them, and a blob is copied.
    """
    blobs = places.repo_dir(cache, manifest.repo) / "blobs"
    snapshot = places.snapshot_dir(cache, manifest.repo, manifest.commit)
    sizes = {
        file.etag if has_links else file.path: file.size_bytes
        for file in manifest.files
        if file.size_bytes != _size_of(snapshot / file.path)
        and not (has_links and file.size_bytes == _size_of(blobs / file.etag))
    }
    return sum(sizes.values())


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


def _standing(place: Path) -> Path:
    """The folder that `place` is in, or will be: the deepest that can be seen."""
    return next((folder for folder in (place, *place.parents) if os.access(folder, os.F_OK)), Path("/"))


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
