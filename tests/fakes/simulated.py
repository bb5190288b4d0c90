"""A world for the engine under one seed: disk, ledger, endpoints and clock, all of which may fail, in virtual time.

`Platter` is what outlives a process; the ports of one process stand on it, and once the process is killed they do
nothing any more, whatever its tasks still try. The rules that must hold at every step are asserted where they can be
broken: recorded only what is durable, published only what is right, asked for only what is not on record.
"""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from qwen_api.manifest import Manifest, WantedFile, make_manifest
from qwen_api.models import ModelRef
from qwen_api.seals import Ready, Seal
from qwen_daemon.core.amounts import Free
from qwen_daemon.core.digest import Bytes, SpanDigester, new_hash, span_digest
from qwen_daemon.core.errors import MakeRoom, ResolveAgain, Trouble, TryAgain, TryLater
from qwen_daemon.core.plan import Found
from qwen_daemon.core.spans import Span, keep_in_order, recorded_bytes
from qwen_daemon.core.twins import Refusal, Taken, Twin
from qwen_daemon.ports import Body, Part, Reading
from tests.fakes.virtual_time import VirtualLoop

PAGE_BYTES = 4096
PIECE_BYTES = 1 << 18  # that come at once, at most
STALL_S = 15.0  # enough to be told and to lose against others; each second costs a dozen ticks of the engine

T = TypeVar("T")


class InlineLoop(VirtualLoop):
    """Virtual time, and asyncio.to_thread without threads: at once, so that nothing depends on their order."""

    def run_in_executor(  # type: ignore[override]  # typeshed's has a ParamSpec of its own
        self, executor: Any, work: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """See asyncio."""
        done = self.create_future()
        try:
            done.set_result(work(*args))
        except Exception as error:
            done.set_exception(error)
        return done


def run_simulated(work: Callable[[SimClock], Coroutine[Any, Any, T]], seed: int) -> T:
    """asyncio.run in virtual time, with dice of that seed."""
    gc.disable()  # looking through everything again and again costs a seventh
    try:
        with asyncio.Runner(loop_factory=InlineLoop) as runner:
            loop = runner.get_loop()
            assert isinstance(loop, InlineLoop)
            return runner.run(work(SimClock(loop, random.Random(seed))))
    finally:
        gc.enable()


@dataclass
class SimClock:
    """ports.Clock, and the dice for everything else."""

    loop: VirtualLoop
    random: random.Random

    def monotonic_s(self) -> float:
        """See ports.Clock."""
        return self.loop.time()

    def utc(self, in_s: float = 0.0) -> str:
        """See ports.Clock."""
        return f"{self.loop.time() + in_s:.3f}"

    def dice(self) -> float:
        """See ports.Clock."""
        return self.random.random()

    async def sleep(self, seconds: float) -> None:
        """See ports.Clock."""
        await asyncio.sleep(seconds)


@dataclass
class Chaos:
    """How often what goes wrong, until `left` is used up: then all goes well, and everything must end."""

    clock: SimClock
    rates: Mapping[str, float]
    left: int

    def strikes(self, what: str) -> bool:
        """Whether it goes wrong now."""
        if self.left <= 0 or self.clock.dice() >= self.rates.get(what, 0.0):
            return False
        self.left -= 1
        return True

    async def pause(self, at_most_s: float) -> None:
        """Things take their time."""
        await asyncio.sleep(self.clock.dice() * at_most_s)


@dataclass
class Medium:
    """A part: what reads give, and what a power cut leaves."""

    etag: str
    written: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, int]] = field(default_factory=list)  # offset, length: all in which the two may differ

    def write(self, offset: int, data: Bytes) -> None:
        """Not durable yet."""
        end = offset + len(data)
        if end > len(self.written):
            self.written.extend(bytes(end - len(self.written)))
        self.written[offset:end] = data
        self.unsynced.append((offset, len(data)))

    def forget_unsynced(self) -> None:
        """As after a failed fsync."""
        self.written = bytearray(self.durable)
        self.unsynced.clear()

    def make_durable(self, pieces: Sequence[tuple[int, bytes]], size_bytes: int) -> None:
        """These, and that it is so long."""
        self.durable.extend(bytes(max(0, size_bytes - len(self.durable))))
        for offset, data in pieces:
            self.durable[offset : offset + len(data)] = data


@dataclass
class Platter:
    """Everything that outlives a process."""

    manifest: Manifest
    contents: Mapping[str, bytes]  # by etag
    room_bytes: int
    parts: dict[str, Medium] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    touched: dict[str, int] = field(default_factory=dict)  # how often a blob was written: its seal
    links: dict[str, str] = field(default_factory=dict)
    tree: bytes | None = None
    ref: str | None = None
    part_of: dict[str, str | None] = field(default_factory=dict)
    spans: dict[str, dict[int, Span]] = field(default_factory=dict)
    seals: dict[str, Seal] = field(default_factory=dict)
    commit: str | None = None
    ready: Ready | None = None
    names: int = 0

    def used_bytes(self) -> int:
        """On the disk."""
        return sum(map(len, self.blobs.values())) + sum(len(part.written) for part in self.parts.values())

    def cut_power(self, dice: random.Random) -> None:
        """Pages that were not synced are there or not."""
        for part in self.parts.values():
            for start in range(0, len(part.written), PAGE_BYTES):
                if dice.random() < 0.5:
                    old = part.durable[start : start + PAGE_BYTES].ljust(PAGE_BYTES, b"\0")
                    part.written[start : start + PAGE_BYTES] = old[: len(part.written) - start]
            part.durable, part.unsynced = bytearray(part.written), []

    def rot(self, dice: random.Random) -> None:
        """While nobody looks: a byte of a part, or of a published file; or some of the ledger is gone."""
        for part in self.parts.values():
            if part.written and dice.random() < 0.1:
                part.written[dice.randrange(len(part.written))] ^= 1
                part.durable = bytearray(part.written)
        for etag, blob in self.blobs.items():
            if blob and dice.random() < 0.1:
                at = dice.randrange(len(blob))
                self.blobs[etag] = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
                self.touched[etag] += 1
        if dice.random() < 0.1:
            self.spans, self.part_of, self.seals = {}, {}, {}
        for known in self.spans.values():
            for offset in [offset for offset in known if dice.random() < 0.02]:
                del known[offset]

    def seal(self, etag: str) -> Seal:
        """Of a blob as it is."""
        return Seal(inode=1, size_bytes=len(self.blobs[etag]), mtime_ns=self.touched[etag], ctime_ns=0)

    def is_sound(self, etag: str, at: int) -> bool:
        """Whether this byte is on record and still there."""
        part = self.parts.get(self.part_of.get(etag) or "")
        if part is None:
            return False
        known = keep_in_order(self.spans.get(etag, {}).values(), len(self.contents[etag]))
        span = next((span for span in known if span.offset <= at < span.end), None)
        return span is not None and span_digest(part.written[span.offset : span.end]) == span.digest


class Process:
    """Whether the process that uses these ports still lives."""

    def __init__(self, platter: Platter, chaos: Chaos) -> None:
        self.platter = platter
        self.chaos = chaos
        self.is_alive = True

    async def touch(self, most_s: float = 0.01) -> None:
        """Before each thing that is done to the disk; TryAgain if there is nobody any more to do it."""
        if self.is_alive:
            await self.chaos.pause(most_s)
        if not self.is_alive:
            raise TryAgain("E_DISK_IO", "killed")


class SimPart:
    """ports.Part."""

    def __init__(self, process: Process, name: str) -> None:
        self.name = name
        self._process = process
        self._medium = process.platter.parts[name]
        self._is_broken = False

    async def write(self, offset: int, data: Bytes, written: Callable[[Bytes], None]) -> None:
        """See ports.Part."""
        await self._process.touch()
        platter, part = self._process.platter, self._medium
        more = max(0, offset + len(data) - len(part.written))
        if platter.used_bytes() + more > platter.room_bytes:
            raise MakeRoom("E_DISK_FULL")
        if self._process.chaos.strikes("write"):
            raise TryAgain("E_DISK_IO")
        part.write(offset, data)
        written(data)

    async def feed(self, offset: int, length: int, take: Callable[[Bytes], None]) -> int:
        """See ports.Part."""
        await self._process.touch()
        if self._process.chaos.strikes("feed"):
            raise TryAgain("E_DISK_IO")
        data = memoryview(self._medium.written[offset : offset + length])
        for at in range(0, len(data), 50_000):
            take(data[at : at + 50_000])
        return len(data)

    async def sync(self) -> None:
        """See ports.Part. After a failure the pages are dropped, and the next sync says that all is well."""
        part = self._medium
        size_bytes, unsynced = len(part.written), part.unsynced
        before = [(offset, bytes(part.written[offset : offset + length])) for offset, length in unsynced]
        part.unsynced = []
        try:
            await self._process.touch(0.05)
        except BaseException:
            part.unsynced += unsynced
            raise
        if self._process.chaos.strikes("sync"):
            self._is_broken = True
            part.forget_unsynced()
            raise TryAgain("E_DISK_IO")
        if self._is_broken:
            part.unsynced += unsynced
        else:
            part.make_durable(before, size_bytes)

    def is_published_as(self, seal: Seal) -> bool:
        """See ports.Part: nobody else writes here."""
        return seal is not None

    async def close(self) -> None:
        """See ports.Part."""


class SimStore:
    """ports.Store, ports.Batches, ports.Blobs, ports.Locks and ports.Listings."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._platter = process.platter

    async def find(self, manifest: Manifest) -> dict[str, Found]:
        """See ports.Store."""
        await self._process.touch()
        platter = self._platter
        seals = {file.path: platter.seal(file.etag) if file.etag in platter.blobs else None for file in manifest.files}
        return {path: Found(linked=bool(seal) and path in platter.links, seal=seal) for path, seal in seals.items()}

    async def begin(self, manifest: Manifest, ref: ModelRef) -> None:
        """See ports.Store."""
        await self._process.touch()
        self._platter.tree = b"listed"

    async def open_part(self, repo: str, file: WantedFile, name: str | None) -> Part:
        """See ports.Store."""
        await self._process.touch()
        if name is None or name not in self._platter.parts:
            name = self._new_part(file.etag, b"")
        return SimPart(self._process, name)

    def _new_part(self, etag: str, content: bytes) -> str:
        self._platter.names += 1
        name = f".qwen-{etag}-{self._platter.names}.part"
        self._platter.parts[name] = Medium(etag, bytearray(content), bytearray(content))
        return name

    async def publish(self, manifest: Manifest, file: WantedFile, part: str | bytes | None) -> Seal:
        """See ports.Store. What is published is right."""
        await self._process.touch(0.05)
        platter, etag = self._platter, file.etag
        if part is not None:
            content = bytes(platter.parts[part].written) if isinstance(part, str) else part
            assert content == platter.contents[etag], "published what is wrong"
            platter.blobs[etag], platter.touched[etag] = content, platter.touched.get(etag, 0) + 1
            if isinstance(part, str):
                del platter.parts[part]
        assert platter.tree is not None, "named before it was listed"
        platter.links[file.path] = etag
        return platter.seal(etag)

    async def publish_all(
        self, manifest: Manifest, contents: Sequence[tuple[WantedFile, bytes]]
    ) -> Sequence[Seal | Trouble]:
        """See ports.Batches. Some of them may be published when it is killed."""
        return [await self._unless_refused(manifest, file, content) for file, content in contents]

    async def _unless_refused(self, manifest: Manifest, file: WantedFile, content: bytes) -> Seal | Trouble:
        try:
            return await self.publish(manifest, file, content)
        except Trouble as trouble:
            return trouble

    async def finish(self, manifest: Manifest, ref: ModelRef) -> Path:
        """See ports.Store. Complete means complete."""
        await self._process.touch()
        platter = self._platter
        for file in manifest.files:
            assert platter.blobs[platter.links[file.path]] == platter.contents[file.etag], "complete, and is not"
        platter.ref = manifest.commit
        wanted = {file.etag for file in manifest.files}
        platter.parts = {name: part for name, part in platter.parts.items() if part.etag not in wanted}
        return Path("snapshot")

    async def digest(
        self, repo: str, file: WantedFile, found: Found, progress: Callable[[int], None]
    ) -> tuple[str, tuple[Span, ...]]:
        """See ports.Blobs."""
        await self._process.touch(0.1)
        whole, spans, content = new_hash(file), SpanDigester(0), self._platter.blobs[file.etag]
        whole.update(content)
        spans.update(content)
        return whole.hexdigest(), spans.take()

    async def copy_for_repair(self, repo: str, file: WantedFile, found: Found) -> str | None:
        """See ports.Blobs."""
        await self._process.touch(0.1)
        return self._new_part(file.etag, self._platter.blobs[file.etag])

    async def free(self) -> Free:
        """See ports.Blobs."""
        return Free(self._platter.room_bytes - self._platter.used_bytes())

    async def remove(self, manifest: Manifest, keep_etags: frozenset[str]) -> int:
        """See ports.Blobs."""
        raise AssertionError("nobody removes a model here")

    async def drop_part(self, repo: str, name: str) -> None:
        """See ports.Blobs."""
        await self._process.touch()
        self._platter.parts.pop(name, None)

    @asynccontextmanager
    async def hold(self, repo: str, file: WantedFile) -> AsyncIterator[bool]:
        """See ports.Locks: now and then another program has it."""
        yield not self._process.chaos.strikes("lock")

    async def listed(self, repo: str, commit: str) -> bytes | None:
        """See ports.Listings: the Hub is asked in every round."""
        return None

    async def ref(self, ref: ModelRef) -> str | None:
        """See ports.Listings."""
        return self._platter.ref

    def snapshot(self, manifest: Manifest) -> Path:
        """See ports.Listings."""
        return Path("snapshot")


class Alone:
    """ports.Twins of a cache with one model; and ports.Reader, whom nobody asks."""

    async def find(self, manifest: Manifest, file: WantedFile) -> tuple[Twin, ...]:
        """See ports.Twins."""
        return ()

    async def present(self, manifest: Manifest, files: Sequence[WantedFile]) -> frozenset[str]:
        """See ports.Twins."""
        return frozenset()

    async def take(self, *_: Any, **__: Any) -> Taken | Refusal:
        """See ports.Twins."""
        raise AssertionError("there are no twins")

    async def digest(self, repo: str, file: WantedFile, found: Found) -> str:
        """See ports.Reader."""
        raise AssertionError("nobody reads in the background")


class SimLedger:
    """ports.Ledger, ports.Seals and ports.Desires: believed by the next process, so it must be true."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._platter = process.platter

    async def spans(self, where: str, etag: str, size_bytes: int) -> tuple[str | None, tuple[Span, ...]]:
        """See ports.Ledger."""
        await self._process.touch()
        known = self._platter.spans.get(etag, {}).values()
        return self._platter.part_of.get(etag), keep_in_order(known, size_bytes)

    async def kept_bytes(self, contents: Sequence[tuple[str, WantedFile]]) -> Mapping[str, int]:
        """See ports.Ledger."""
        found = {file.path: await self.spans(where, file.etag, file.size_bytes) for where, file in contents}
        return {path: recorded_bytes(spans) for path, (part, spans) in found.items() if part is not None}

    async def record(self, where: str, etag: str, size_bytes: int, part: str | None, spans: Sequence[Span]) -> None:
        """See ports.Ledger. What is recorded is durable."""
        await self._process.touch()
        if self._process.chaos.strikes("ledger"):
            raise MakeRoom("E_DISK_FULL")
        platter = self._platter
        data = platter.parts[part].durable if part is not None else platter.blobs[etag]
        for span in spans:
            assert span_digest(bytes(data[span.offset : span.end])) == span.digest, "recorded before it was durable"
        self._add(etag, part, spans)

    async def settle(self, where: str, etag: str, size_bytes: int, spans: Sequence[Span], seal: Seal) -> None:
        """See ports.Ledger."""
        await self._process.touch()
        self._add(etag, None, spans)
        self._platter.seals[etag] = seal

    async def forget(self, where: str, etag: str, offsets: Sequence[int] | None = None) -> None:
        """See ports.Ledger."""
        await self._process.touch()
        if offsets is None:
            self._platter.spans.pop(etag, None)
            self._platter.part_of.pop(etag, None)
        for offset in offsets or ():
            self._platter.spans.get(etag, {}).pop(offset, None)

    def _add(self, etag: str, part: str | None, spans: Sequence[Span]) -> None:
        self._platter.part_of[etag] = part
        self._platter.spans.setdefault(etag, {}).update({span.offset: span for span in spans})

    async def seals(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Seal]:
        """See ports.Seals."""
        return {key: self._platter.seals[key[1]] for key in keys if key[1] in self._platter.seals}

    async def seal(self, where: str, etag: str, seal: Seal | None) -> None:
        """See ports.Seals."""
        await self._process.touch()
        self._platter.seals.pop(etag, None)
        if seal is not None:
            self._platter.seals[etag] = seal

    async def seal_all(self, seals: Mapping[tuple[str, str], Seal]) -> None:
        """See ports.Seals."""
        await self._process.touch()
        self._platter.seals.update({etag: seal for (_, etag), seal in seals.items()})

    async def desired(self) -> dict[str, Any]:
        """See ports.Desires."""
        return {}

    async def desire(self, key: str, model: Any) -> None:
        """See ports.Desires."""

    async def commit_of(self, key: str) -> str | None:
        """See ports.Desires."""
        return self._platter.commit

    async def set_commit(self, key: str, commit: str | None) -> None:
        """See ports.Desires."""
        await self._process.touch()
        self._platter.commit = commit

    async def set_ready(self, key: str, ready: Ready | None) -> None:
        """See ports.Desires."""
        await self._process.touch()
        self._platter.ready = ready


class SimSource:
    """ports.Hub and ports.Origin: an endpoint on a bad line. A liar sends wrong bytes while anything goes wrong."""

    def __init__(self, process: Process, *, is_liar: bool, has_ranges: bool) -> None:
        self._process = process
        self._is_liar = is_liar
        self._has_ranges = has_ranges

    async def resolve(self, ref: ModelRef) -> str:
        """See ports.Hub."""
        await self._answer()
        return self._process.platter.manifest.commit

    async def list_files(self, repo: str, commit: str) -> Manifest:
        """See ports.Hub."""
        await self._answer()
        return self._process.platter.manifest

    def splits(self, repo: str, file: WantedFile) -> bool:
        """See ports.Origin."""
        return self._has_ranges

    def distrust(self, repo: str, file: WantedFile) -> None:
        """See ports.Origin."""

    def host(self, repo: str, file: WantedFile) -> str:
        """See ports.Origin."""
        return ""

    def read(self, repo: str, commit: str, file: WantedFile, start: int, end: int) -> Reading:
        """See ports.Origin."""
        assert 0 <= start < end <= file.size_bytes
        return self._read(file, start, end)

    @asynccontextmanager
    async def _read(self, file: WantedFile, start: int, end: int) -> AsyncIterator[Body]:
        await self._answer()
        yield SimBody(self._process, file, start, end, self._is_liar)

    async def _answer(self) -> None:
        chaos = self._process.chaos
        await chaos.pause(0.7)
        if chaos.strikes("refuse"):
            raise TryAgain("E_NETWORK")
        if chaos.strikes("later"):
            raise TryLater("E_RATE_LIMITED", after_s=30 * chaos.clock.dice())
        if chaos.strikes("spent"):
            raise ResolveAgain("E_URL_EXPIRED")


class SimBody:
    """ports.Body. What is on record is not read; what it put into the room when it was cancelled can be reclaimed."""

    def __init__(self, process: Process, file: WantedFile, start: int, end: int, is_liar: bool) -> None:
        self._process = process
        self._chaos = process.chaos
        self._etag, self._content = file.etag, memoryview(process.platter.contents[file.etag])
        self._at, self._end = start, end
        self._is_liar = is_liar
        self._came_bytes = 0
        self._bps = 10 ** (5 + 3 * self._chaos.clock.dice())

    async def read_into(self, room: memoryview) -> int:
        """See ports.Body."""
        chaos = self._chaos
        if chaos.strikes("stall"):
            await asyncio.sleep(STALL_S)
            raise TryAgain("E_STALLED")
        if chaos.strikes("cut"):
            raise TryAgain("E_CUT_SHORT")
        if chaos.strikes("short"):
            return 0
        count = min(len(room), self._end - self._at, chaos.clock.random.randint(1, PIECE_BYTES))
        room[:count] = self._content[self._at : self._at + count]
        # Its first byte: the rest of the room may have been another connection's since it was given.
        if count and self._process.is_alive:
            assert not self._process.platter.is_sound(self._etag, self._at), "read what is on record"
        if count and ((self._is_liar and chaos.left > 0) or chaos.strikes("lie")):
            room[0] ^= 1
        self._at += count
        self._came_bytes = count
        await asyncio.sleep(count / self._bps)
        return self.reclaim()

    def reclaim(self) -> int:
        """See ports.Body."""
        count, self._came_bytes = self._came_bytes, 0
        return count


def manifest_of(files: Mapping[str, bytes], repo: str, commit: str) -> Manifest:
    """The listing of these files, each with its sha256."""
    listed = []
    for path, content in files.items():
        plain = WantedFile(path=path, size_bytes=len(content), git_sha1="0" * 40, sha256="0" * 64)
        digest = new_hash(plain)
        digest.update(content)
        listed.append(WantedFile(path=path, size_bytes=len(content), git_sha1="0" * 40, sha256=digest.hexdigest()))
    return make_manifest(repo, commit, listed)
