"""The plan: wanted files x what was found -> what to do with each, in which order. It can be printed before it runs.

Nothing here trusts a size alone: a file that is there counts as done only with a seal; without one it is hashed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from qwen_api.events import CheckedFile, Finding
from qwen_api.manifest import Manifest, WantedFile
from qwen_api.seals import Seal
from qwen_daemon.core.order import file_places

Action = Literal["keep", "link", "hash", "fetch"]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the disk holds for one wanted file. `seal` is None if there is no file at all.

    `linked`: the snapshot names it (in a local_dir, its metadata does). `seal` is of the file that the snapshot names
    or, if it names none, of the blob. `unreadable` says why the disk cannot even tell what is there.
    """

    linked: bool = False
    seal: Seal | None = None
    unreadable: str = ""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What will be done with one file. `kept_bytes` of an earlier part are on record."""

    file: WantedFile
    action: Action
    finding: Finding
    kept_bytes: int = 0

    @property
    def fetch_bytes(self) -> int:
        """Bytes that have to come over the network."""
        return self.file.size_bytes - self.kept_bytes if self.action == "fetch" else 0

    @property
    def done_bytes(self) -> int:
        """Bytes on disk that count already."""
        return self.kept_bytes if self.action == "fetch" else self.file.size_bytes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every wanted file, in the order in which it will be dealt with."""

    steps: tuple[Step, ...]

    def of(self, *actions: Action) -> tuple[Step, ...]:
        """The steps with one of these actions."""
        return tuple(step for step in self.steps if step.action in actions)

    @property
    def fetch_bytes(self) -> int:
        """Bytes to fetch."""
        return sum(step.fetch_bytes for step in self.steps)

    @property
    def kept_bytes(self) -> int:
        """Bytes of earlier parts that will not be fetched again."""
        return sum(step.kept_bytes for step in self.of("fetch"))

    @property
    def is_done(self) -> bool:
        """True when nothing is left to hash, link or fetch."""
        return not self.of("link", "hash", "fetch")

    def checked_files(self) -> tuple[CheckedFile, ...]:
        """The plan as the check's finding."""
        return tuple(
            CheckedFile(path=step.file.path, finding=step.finding, done_bytes=step.done_bytes) for step in self.steps
        )


def make_plan(
    manifest: Manifest,
    found: Mapping[str, Found],
    seals: Mapping[str, Seal],
    kept: Mapping[str, int],
    *,
    distrust: bool = False,
    components: Sequence[str] = (),
) -> Plan:
    """Decide for every file. `seals` and `kept` (recorded bytes of parts) are by path; `distrust` hashes everything.

    `components` is the order in which a loader wants them; core.order says what comes first besides.
    """
    steps = [_step(file, found.get(file.path, Found()), seals, kept, distrust) for file in manifest.files]
    places = file_places(manifest.files, components)
    return Plan(steps=tuple(sorted(steps, key=lambda step: places[step.file.path])))


def _step(file: WantedFile, found: Found, seals: Mapping[str, Seal], kept: Mapping[str, int], distrust: bool) -> Step:
    finding = _finding(file, found, seals, distrust)
    if finding == "present":
        return Step(
            file=file, action="keep" if found.linked else "link", finding="present" if found.linked else "missing"
        )
    if finding == "unverified":
        return Step(file=file, action="hash", finding=finding)
    kept_bytes = min(kept.get(file.path, 0), file.size_bytes)
    if finding == "missing" and kept_bytes:
        finding = "short"
    return Step(file=file, action="fetch", finding=finding, kept_bytes=kept_bytes)


def _finding(file: WantedFile, found: Found, seals: Mapping[str, Seal], distrust: bool) -> Finding:
    if found.unreadable:
        return "corrupt"
    if found.seal is None:
        return "missing"
    if found.seal.size_bytes != file.size_bytes:
        if found.seal.size_bytes == 0:
            return "empty"
        return "short" if found.seal.size_bytes < file.size_bytes else "long"
    return "present" if not distrust and seals.get(file.path) == found.seal else "unverified"
