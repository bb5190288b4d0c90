"""The ledger: one SQLite file that records which bytes are durable, which files were verified, and what is wanted.

It is a hint. A damaged, missing, foreign or newer ledger costs time (files are hashed, parts fetched again), never
correctness: the Hub's hashes are the judge. So a database that cannot be read is set aside as `.bad`, at the start or
whenever it shows, and each row carries its own checksum, because SQLite pages have none: a row with a wrong one is not
there. One thread does all of it; each call returns only
after its commit is on disk (WAL with synchronous=FULL).
"""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from qwen_api import places
from qwen_api.commands import AddModel
from qwen_api.manifest import WantedFile
from qwen_api.seals import Ready, Seal
from qwen_api.undecodable import UNDECODABLE
from qwen_daemon.core.spans import Span, keep_in_order, recorded_bytes
from qwen_daemon.shell import durable
from qwen_daemon.shell.ledger_file import connect, intact, is_damage, may_pass, row_check, set_aside, translate

FILE_NAME = "ledger.sqlite"
log = structlog.get_logger(__name__)
T = TypeVar("T")


class SqliteLedger:
    """ports.Ledger, ports.Seals and ports.Desires over one SQLite file in the state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._path = state_dir / FILE_NAME
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._waiting: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._db: sqlite3.Connection | None = None

    async def open(self) -> str | None:
        """Open or create it; returns why an unreadable one was set aside, if one was."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._open)

    async def close(self) -> None:
        """Close the database and end its thread."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def spans(self, where: str, etag: str, size_bytes: int) -> tuple[str | None, tuple[Span, ...]]:
        """See ports.Ledger; rows with a wrong checksum, and those of another size, are left out."""

        return await self._run(lambda: self._spans(_blob(where, etag), size_bytes))

    async def kept_bytes(self, contents: Sequence[tuple[str, WantedFile]]) -> Mapping[str, int]:
        """See ports.Ledger."""

        def read() -> dict[str, int]:
            known = {file.path: self._spans(_blob(where, file.etag), file.size_bytes) for where, file in contents}
            return {path: recorded_bytes(spans) for path, (part, spans) in known.items() if part is not None}

        return await self._run(read)

    def _spans(self, blob: str, size_bytes: int) -> tuple[str | None, tuple[Span, ...]]:
        part = self._conn.execute("SELECT blob, size_bytes, name, row_check FROM parts WHERE blob = ?", (blob,))
        row = intact(part.fetchone())
        if row is None or row[1] != size_bytes:
            return None, ()
        rows = self._conn.execute("SELECT blob, offset, length, digest, row_check FROM spans WHERE blob = ?", (blob,))
        good = [Span(offset=s[1], length=s[2], digest=s[3]) for s in map(intact, rows) if s is not None]
        return row[2], keep_in_order(good, size_bytes)

    async def record(self, where: str, etag: str, size_bytes: int, part: str | None, spans: Sequence[Span]) -> None:
        """See ports.Ledger."""

        def write() -> None:
            self._record(_blob(where, etag), size_bytes, part, spans)

        await self._write(write)

    async def settle(self, where: str, etag: str, size_bytes: int, spans: Sequence[Span], seal: Seal) -> None:
        """See ports.Ledger."""

        def write() -> None:
            self._record(_blob(where, etag), size_bytes, None, spans)
            self._put("seals", _blob(where, etag), msgspec.json.encode(seal))

        await self._write(write)

    def _record(self, blob: str, size_bytes: int, part: str | None, spans: Sequence[Span]) -> None:
        known = self._conn.execute("SELECT size_bytes FROM parts WHERE blob = ?", (blob,)).fetchone()
        if known is not None and known[0] != size_bytes:
            self._conn.execute("DELETE FROM spans WHERE blob = ?", (blob,))
        self._put("parts", blob, size_bytes, part)
        for span in spans:
            self._put("spans", blob, span.offset, span.length, span.digest)

    async def forget(self, where: str, etag: str, offsets: Sequence[int] | None = None) -> None:
        """See ports.Ledger."""

        def write() -> None:
            if offsets is None:
                self._conn.execute("DELETE FROM spans WHERE blob = ?", (_blob(where, etag),))
                self._conn.execute("DELETE FROM parts WHERE blob = ?", (_blob(where, etag),))
            else:
                self._conn.executemany(
                    "DELETE FROM spans WHERE blob = ? AND offset = ?",
                    [(_blob(where, etag), offset) for offset in offsets],
                )

        await self._write(write)

    async def part_names(self) -> frozenset[str]:
        """Every part on record; a part file that is not is a stray."""

        def read() -> frozenset[str]:
            return frozenset(row[0] for row in self._conn.execute("SELECT name FROM parts WHERE name IS NOT NULL"))

        return await self._run(read)

    async def seals(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Seal]:
        """See ports.Seals."""

        def read() -> dict[tuple[str, str], Seal]:
            rows = {key: self._get("seals", "blob", "seal", _blob(*key)) for key in keys}
            decoded = {key: _decode(raw, Seal) for key, raw in rows.items() if raw is not None}
            return {key: seal for key, seal in decoded.items() if seal is not None}

        return await self._run(read)

    async def seal(self, where: str, etag: str, seal: Seal | None) -> None:
        """See ports.Seals."""

        def write() -> None:
            if seal is None:
                self._conn.execute("DELETE FROM seals WHERE blob = ?", (_blob(where, etag),))
            else:
                self._put("seals", _blob(where, etag), msgspec.json.encode(seal))

        await self._write(write)

    async def seal_all(self, seals: Mapping[tuple[str, str], Seal]) -> None:
        """See ports.Seals."""

        def write() -> None:
            for (where, etag), seal in seals.items():
                self._put("seals", _blob(where, etag), msgspec.json.encode(seal))

        await self._write(write)

    async def last_read(self, where: str, etag: str) -> str | None:
        """See engine.scrub.Readings."""
        return await self._run(lambda: self._get("readings", "blob", "at", _blob(where, etag)))

    async def set_last_read(self, where: str, etag: str, at: str) -> None:
        """See engine.scrub.Readings."""

        def write() -> None:
            self._put("readings", _blob(where, etag), at)

        await self._write(write)

    async def desired(self) -> dict[str, AddModel]:
        """See ports.Desires."""
        return await self._run(lambda: _desired(self._conn))

    async def desire(self, key: str, model: AddModel | None) -> None:
        """See ports.Desires."""

        def write() -> None:
            if model is None:
                self._conn.execute("DELETE FROM models WHERE key = ?", (key,))
                self._conn.execute("DELETE FROM commits WHERE key = ?", (key,))
            else:
                self._put("models", key, msgspec.json.encode(model))

        await self._write(write)

    async def commit_of(self, key: str) -> str | None:
        """See ports.Desires."""
        return await self._run(lambda: self._get("commits", "key", "commit_id", key))

    async def set_commit(self, key: str, commit: str | None) -> None:
        """See ports.Desires."""

        def write() -> None:
            if commit is None:
                self._conn.execute("DELETE FROM commits WHERE key = ?", (key,))
            else:
                self._put("commits", key, commit)

        await self._write(write)

    async def set_ready(self, key: str, ready: Ready | None) -> None:
        """See ports.Desires: the ready file appears whole and durable, or not at all."""
        path = places.ready_file(self._state_dir, key)
        try:
            if ready is None:
                await asyncio.to_thread(path.unlink, missing_ok=True)
            else:
                content = msgspec.json.format(msgspec.json.encode(ready))
                await asyncio.to_thread(durable.write_if_other, path, content)
        except OSError as error:
            raise durable.translate(error) from error

    @property
    def _conn(self) -> sqlite3.Connection:
        assert self._db is not None, "the ledger is not open"
        return self._db

    def _put(self, table: str, *row: object) -> None:
        marks = ", ".join("?" * (len(row) + 1))
        self._conn.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", (*row, row_check(row)))  # noqa: S608 - ours

    def _get(self, table: str, key_column: str, column: str, key: str) -> Any:
        found = self._conn.execute(
            f"SELECT {key_column}, {column}, row_check FROM {table} WHERE {key_column} = ?",  # noqa: S608 - ours
            (key,),
        )
        row = intact(found.fetchone())
        return None if row is None else row[1]

    async def _run(self, work: Callable[[], T]) -> T:
        # Shielded: a commit that has begun is waited for, so that a cancelled caller never overtakes it.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, self._read, work))

    def _read(self, work: Callable[[], T]) -> T:
        def together() -> T:
            with self._conn:
                self._conn.execute("BEGIN")  # one look at the file for thousands of rows, not one for each
                return work()

        return self._guarded(together)

    async def _write(self, work: Callable[[], None]) -> None:
        """Do it in a transaction, together with whatever else is waiting: each commit waits for the disk."""
        done: Future[None] = Future()
        self._waiting.append((work, done))
        self._thread.submit(self._commit_waiting)
        await asyncio.shield(asyncio.wrap_future(done))  # as in _run

    def _commit_waiting(self) -> None:
        """In the ledger's thread: everything that waits by now; later ones find that there is nothing left to do."""
        waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not waiting:
            return

        def commit() -> None:
            with self._conn:
                for work, _ in waiting:
                    work()

        try:
            self._guarded(commit)
        except BaseException as error:  # handed to all who wait
            for _, done in waiting:
                done.set_exception(error)
        else:
            for _, done in waiting:
                done.set_result(None)

    def _guarded(self, work: Callable[[], T]) -> T:
        """Do it; a database that turns out damaged is set aside and the work done on a fresh one."""
        try:
            return self._once_more(work)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise translate(error) from error
            log.warning("ledger.set_aside", why=str(error))
            self._renew()
            return work()

    def _once_more(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except sqlite3.DatabaseError as error:
            if not may_pass(error):
                raise
            return work()

    def _open(self) -> str | None:
        durable.drop_unfinished(places.ready_file(self._state_dir, "").parent)
        try:
            self._db = connect(self._path)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise OSError(errno.EIO, str(error), str(self._path)) from error
            self._renew()
            return str(error)
        return None

    def _renew(self) -> None:
        """A fresh ledger instead of a damaged one; which models were wanted is taken over as far as it can be read."""
        wanted: dict[str, AddModel] = {}
        with suppress(sqlite3.DatabaseError), closing(self._db or sqlite3.connect(self._path)) as damaged:
            wanted = _desired(damaged)
        self._db = None
        set_aside(self._path)
        self._db = connect(self._path)
        with self._db:
            for key, model in wanted.items():
                self._put("models", key, msgspec.json.encode(model))

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _desired(db: sqlite3.Connection) -> dict[str, AddModel]:
    rows = map(intact, db.execute("SELECT key, wanted, row_check FROM models"))
    decoded = {row[0]: _decode(row[1], AddModel) for row in rows if row is not None}
    return {key: wanted for key, wanted in decoded.items() if wanted is not None}


def _blob(where: str, etag: str) -> str:
    """One name for both: an etag has no slash, so no two keys have one name."""
    return f"{where}/{etag}"


def _decode(raw: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(raw, type=kind)
    except UNDECODABLE:
        return None  # another version's
