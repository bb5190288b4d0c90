"""Floor 2: what the engine needs of the world, as Protocols of at most five methods. Their docstrings are the contract.

Every method raises only the Troubles of core.errors (and is free to be cancelled at any await, leaving nothing
half-done that a restart would trust). The shell holds the real ones; tests may bring others that pass the same suite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qwen_api.commands import AddModel
from qwen_api.events import AdoptedHow
from qwen_api.manifest import Manifest, WantedFile
from qwen_api.models import ModelRef
from qwen_api.seals import Ready, Seal
from qwen_daemon.core.amounts import Free
from qwen_daemon.core.digest import Bytes
from qwen_daemon.core.errors import Trouble
from qwen_daemon.core.plan import Found
from qwen_daemon.core.spans import Span
from qwen_daemon.core.twins import Refusal, Taken, Twin


class Clock(Protocol):
    """Time and dice, so that the engine owns neither."""

    def monotonic_s(self) -> float:
        """Seconds that never run backwards; for every timeout, rate and order."""

    def utc(self, in_s: float = 0.0) -> str:
        """The wall clock (plus so many seconds) as RFC 3339 UTC with milliseconds; only to be shown to people."""

    def dice(self) -> float:
        """A random number in [0, 1)."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class Hub(Protocol):
    """The Hub's knowledge: which commit a revision is, and which files a commit has."""

    async def resolve(self, ref: ModelRef) -> str:
        """The commit (40 hex) that `ref` names now. AskHuman if it is gated, private or not there."""

    async def list_files(self, repo: str, commit: str) -> Manifest:
        """Every file of the commit with its size and hash. AskHuman(E_LISTING) if the listing cannot be trusted."""


class Origin(Protocol):
    """Where bytes come from."""

    def read(self, repo: str, commit: str, file: WantedFile, start: int, end: int) -> Reading:
        """Open bytes [start, end) of the file, in order; leaving the context ends the request.

        What comes are the right bytes (see core.verdict), and never more of them.
        """

    def splits(self, repo: str, file: WantedFile) -> bool:
        """False while the server answers a range of this file with all of it: then one connection is best."""

    def distrust(self, repo: str, file: WantedFile) -> None:
        """What came of this file does not have its hash: take it from elsewhere, if there is an elsewhere."""

    def host(self, repo: str, file: WantedFile) -> str:
        """Who served this file's last bytes, for people: `host` or `host:port`; "" if nobody did yet."""


class Body(Protocol):
    """Bytes that come over the line, for one reader."""

    async def read_into(self, room: memoryview) -> int:
        """Wait for bytes and put them at the start of `room`: how many; 0 after the last one asked for.

        An early end is a Trouble; what was given before stays good.
        """

    def reclaim(self) -> int:
        """After a `read_into` that was cancelled or raised: how many bytes it had put into its room."""


Reading = AbstractAsyncContextManager[Body]


class Part(Protocol):
    """A file being written, beside the place where it will be published."""

    name: str

    async def write(self, offset: int, data: Bytes, written: Callable[[Bytes], None]) -> None:
        """Write all of `data` at `offset`, then call `written(data)` in the same thread; several may run at once.

        MakeRoom when the disk is full, TryAgain(E_DISK_IO) otherwise.
        """

    async def feed(self, offset: int, length: int, take: Callable[[Bytes], None]) -> int:
        """Read up to `length` bytes, fewer at the end of the file: how many. One at a time, never cancelled.

        They are given to `take` in pieces, in a thread; a piece is gone when `take` returns.
        """

    async def sync(self) -> None:
        """Return only when everything written is durable. After a failure the part must be closed and re-read."""

    async def close(self) -> None:
        """Give the handle back; what was not synced is in no one's promise."""

    def is_published_as(self, seal: Seal) -> bool:
        """Whether the file with this seal is the one that was closed, and nobody wrote into it since."""


class Store(Protocol):
    """The layout on disk: the Hub cache's or a local_dir's. Paths never leave this port except snapshot paths."""

    async def find(self, manifest: Manifest) -> dict[str, Found]:
        """What is on disk of each wanted file, without reading content."""

    async def begin(self, manifest: Manifest, ref: ModelRef) -> None:
        """Write the commit's listing (trees/<commit>.json) before anything of the commit is published.

        A revision that a cache does not know yet points at the commit from now on; one it knows, after `finish`.
        """

    async def open_part(self, repo: str, file: WantedFile, name: str | None) -> Part:
        """Open the part `name` of an earlier try for reading and writing, or a fresh one if None or gone."""

    async def publish(self, manifest: Manifest, file: WantedFile, part: str | bytes | None) -> Seal:
        """Make the verified part the file of that path, durably; or these bytes; or, if None, what stands verified.

        Returns its seal.
        """

    async def finish(self, manifest: Manifest, ref: ModelRef) -> Path:
        """All wanted files are published: point the revision at the commit, durably. Returns the folder for loaders."""


class Batches(Protocol):
    """Publishing small files, apart from Store so that both stay small."""

    async def publish_all(
        self, manifest: Manifest, contents: Sequence[tuple[WantedFile, bytes]]
    ) -> Sequence[Seal | Trouble]:
        """Make these verified contents the snapshot's files, all durable on return; for each its seal, or why not."""


class Blobs(Protocol):
    """Reading what is already published, apart from Store so that both stay small."""

    async def digest(
        self, repo: str, file: WantedFile, found: Found, progress: Callable[[int], None]
    ) -> tuple[str, tuple[Span, ...]]:
        """Hash the published file: its hash in the file's algorithm and the spans of its bytes, in one pass."""

    async def copy_for_repair(self, repo: str, file: WantedFile, found: Found) -> str | None:
        """Copy a damaged published file into a fresh part (name returned) so that its good spans can be kept."""

    async def free(self) -> Free:
        """Room for this user on the layout's file system."""

    async def remove(self, manifest: Manifest, keep_etags: frozenset[str]) -> int:
        """Remove what was written for this commit and nothing else uses, parts too; returns bytes freed.

        What has one of these etags stays, if several snapshots may share it.
        """

    async def drop_part(self, repo: str, name: str) -> None:
        """Remove a part that nothing will resume; it may be gone already."""


class Reader(Protocol):
    """Reads what is published in the background: last in line for processor and disk."""

    async def digest(self, repo: str, file: WantedFile, found: Found) -> str:
        """Read the published file from the disk, and not from memory; its hash."""


class Locks(Protocol):
    """The lock huggingface_hub takes while it downloads a content."""

    def hold(self, repo: str, file: WantedFile) -> AbstractAsyncContextManager[bool]:
        """Hold the lock; gives False at once when another process has it. Correctness never depends on it."""


class Ledger(Protocol):
    """What was recorded as durable: spans of parts and blobs. A hint: losing it costs time, never correctness.

    By place and etag. The place, `where`, is the repository for a blob of the cache, which is one file for all its
    paths; for a file that stands at its own path (in a local_dir, in a cache without links) it is that absolute path.
    So no two files on disk ever share spans, a part or a seal. engine.disk.Disk.where gives it.
    """

    async def spans(self, where: str, etag: str, size_bytes: int) -> tuple[str | None, tuple[Span, ...]]:
        """The part's name (None once it is published or gone) and the recorded spans of this content."""

    async def kept_bytes(self, contents: Sequence[tuple[str, WantedFile]]) -> Mapping[str, int]:
        """How much the recorded spans of unfinished parts come to, by path; what has no part is left out.

        Of each file with its `where`.
        """

    async def record(self, where: str, etag: str, size_bytes: int, part: str | None, spans: Sequence[Span]) -> None:
        """Add spans. Called only after their data is durable; returns only when the record is durable."""

    async def settle(self, where: str, etag: str, size_bytes: int, spans: Sequence[Span], seal: Seal) -> None:
        """The content is published: add spans, there is no part any more, and this is its seal; all or nothing."""

    async def forget(self, where: str, etag: str, offsets: Sequence[int] | None = None) -> None:
        """Drop the spans at these offsets, or everything known of this content."""


class Seals(Protocol):
    """Which published files were verified, and looked how; by place and etag, as in Ledger."""

    async def seals(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Seal]:
        """The seals on record, by (where, etag)."""

    async def seal(self, where: str, etag: str, seal: Seal | None) -> None:
        """Record a seal, or break it (None)."""

    async def seal_all(self, seals: Mapping[tuple[str, str], Seal]) -> None:
        """Record these, by where and etag, in one go."""


class Twins(Protocol):
    """The content of a wanted file, lying elsewhere: in the cache's blobs under its name, or where a listing has it."""

    async def find(self, manifest: Manifest, file: WantedFile) -> tuple[Twin, ...]:
        """Every other file that is there for this content, in the cache and in every local_dir; nothing is read."""

    async def present(self, manifest: Manifest, files: Sequence[WantedFile]) -> frozenset[str]:
        """The etags of those files of which something lies elsewhere that may be worth `find`."""

    async def take(
        self,
        manifest: Manifest,
        file: WantedFile,
        twin: Twin,
        *,
        is_proven: bool,
        ways: Sequence[AdoptedHow],
        progress: Callable[[int], None],
    ) -> Taken | Refusal:
        """Make a part of ours from it, durable, by the first of the ways that works; the twin is never written to.

        Only a blob is ever hardlinked, and only to become one: other files people edit in place. What is not proven, or
        is copied, is hashed on the way. MakeRoom when a copy does not fit.
        """


class Desires(Protocol):
    """Which models were asked for by command, and which commit each wanted model is at."""

    async def desired(self) -> dict[str, AddModel]:
        """By model key."""

    async def desire(self, key: str, model: AddModel | None) -> None:
        """Want it from now on, or no more (None)."""

    async def commit_of(self, key: str) -> str | None:
        """The commit this model is at, if it was ever resolved."""

    async def set_commit(self, key: str, commit: str | None) -> None:
        """Stay at this commit across restarts."""

    async def set_ready(self, key: str, ready: Ready | None) -> None:
        """Write the ready file, or remove it."""


class Listings(Protocol):
    """The copies of the Hub's knowledge that the layout keeps, and where a model is."""

    async def listed(self, repo: str, commit: str) -> bytes | None:
        """The bytes of trees/<commit>.json, if it is there."""

    async def ref(self, ref: ModelRef) -> str | None:
        """The commit that is known here for this revision, if any."""

    def snapshot(self, manifest: Manifest) -> Path:
        """The folder that loaders are given."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What a look inside the files says, beyond their hashes. `problem` is empty if a loader can use them.

    `unreadable`: paths of files that are there, but that the disk does not give back.
    """

    problem: str
    has_code: bool
    has_pickle: bool
    unreadable: tuple[str, ...] = ()
