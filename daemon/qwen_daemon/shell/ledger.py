"""The ledger: one SQLite file that records which bytes are durable, which files were verified, and what is wanted.

It is a hint. A damaged, missing, foreign or newer ledger costs time (files are hashed, parts fetched again), never
correctness: the Hub's hashes are the judge. So a database that cannot be read is set aside as `.bad`, and each span
carries a checksum of its own row, because SQLite pages have none. One thread does all of it; each call returns only
after its commit is on disk (WAL with synchronous=FULL).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import xxhash

from qwen_api import places
from qwen_api.commands import AddModel
from qwen_api.seals import Ready, Seal
from qwen_daemon.core.spans import Span, keep_in_order
from qwen_daemon.shell import durable

FILE_NAME = "ledger.sqlite"
FORMAT = 1  # PRAGMA user_version; any other number is set aside

_SCHEMA = """
CREATE TABLE parts (etag TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, name TEXT) WITHOUT ROWID;
CREATE TABLE spans (etag TEXT NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, digest BLOB NOT NULL,
                    row_check INTEGER NOT NULL, PRIMARY KEY (etag, offset)) WITHOUT ROWID;
CREATE TABLE seals (etag TEXT PRIMARY KEY, seal BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE models (key TEXT PRIMARY KEY, wanted BLOB, commit_id TEXT) WITHOUT ROWID;
"""

T = TypeVar("T")


class SqliteLedger:
    """ports.Ledger, ports.Seals and ports.Desires over one SQLite file in the state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._path = state_dir / FILE_NAME
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._db: sqlite3.Connection | None = None

    async def open(self) -> str | None:
        """Open or create it; returns why an unreadable one was set aside, if one was."""
        return await self._run(self._open)

    async def close(self) -> None:
        """Close the database and end its thread."""
        await self._run(self._close)
        self._thread.shutdown()

    async def spans(self, etag: str, size_bytes: int) -> tuple[str | None, tuple[Span, ...]]:
        """See ports.Ledger; rows with a wrong checksum, and those of another size, are left out."""

        def read() -> tuple[str | None, tuple[Span, ...]]:
            part = self._conn.execute("SELECT size_bytes, name FROM parts WHERE etag = ?", (etag,)).fetchone()
            if part is None or part[0] != size_bytes:
                return None, ()
            rows = self._conn.execute("SELECT offset, length, digest, row_check FROM spans WHERE etag = ?", (etag,))
            good = [
                Span(offset=offset, length=length, digest=digest)
                for offset, length, digest, check in rows
                if check == _row_check(etag, size_bytes, offset, length, digest)
            ]
            return part[1], keep_in_order(good, size_bytes)

        return await self._run(read)

    async def record(self, etag: str, size_bytes: int, part: str | None, spans: Sequence[Span]) -> None:
        """See ports.Ledger."""

        def write() -> None:
            with self._conn:
                known = self._conn.execute("SELECT size_bytes FROM parts WHERE etag = ?", (etag,)).fetchone()
                if known is not None and known[0] != size_bytes:
                    self._conn.execute("DELETE FROM spans WHERE etag = ?", (etag,))
                self._conn.execute("INSERT OR REPLACE INTO parts VALUES (?, ?, ?)", (etag, size_bytes, part))
                self._conn.executemany(
                    "INSERT OR REPLACE INTO spans VALUES (?, ?, ?, ?, ?)",
                    [
                        (etag, s.offset, s.length, s.digest, _row_check(etag, size_bytes, s.offset, s.length, s.digest))
                        for s in spans
                    ],
                )

        await self._run(write)

    async def forget(self, etag: str, offsets: Sequence[int] | None = None) -> None:
        """See ports.Ledger."""

        def write() -> None:
            with self._conn:
                if offsets is None:
                    self._conn.execute("DELETE FROM spans WHERE etag = ?", (etag,))
                    self._conn.execute("DELETE FROM parts WHERE etag = ?", (etag,))
                else:
                    self._conn.executemany(
                        "DELETE FROM spans WHERE etag = ? AND offset = ?", [(etag, offset) for offset in offsets]
                    )

        await self._run(write)

    async def part_names(self) -> frozenset[str]:
        """Every part on record; a part file that is not is a stray."""

        def read() -> frozenset[str]:
            return frozenset(row[0] for row in self._conn.execute("SELECT name FROM parts WHERE name IS NOT NULL"))

        return await self._run(read)

    async def seals(self, etags: Sequence[str]) -> Mapping[str, Seal]:
        """See ports.Seals."""

        def read() -> dict[str, Seal]:
            found = {}
            for etag in etags:
                row = self._conn.execute("SELECT seal FROM seals WHERE etag = ?", (etag,)).fetchone()
                seal = _decode(row[0], Seal) if row else None
                if seal is not None:
                    found[etag] = seal
            return found

        return await self._run(read)

    async def seal(self, etag: str, seal: Seal | None) -> None:
        """See ports.Seals."""

        def write() -> None:
            with self._conn:
                if seal is None:
                    self._conn.execute("DELETE FROM seals WHERE etag = ?", (etag,))
                else:
                    self._conn.execute("INSERT OR REPLACE INTO seals VALUES (?, ?)", (etag, msgspec.json.encode(seal)))

        await self._run(write)

    async def desired(self) -> dict[str, AddModel]:
        """See ports.Desires."""

        def read() -> dict[str, AddModel]:
            rows = self._conn.execute("SELECT key, wanted FROM models WHERE wanted IS NOT NULL")
            decoded = {key: _decode(raw, AddModel) for key, raw in rows}
            return {key: wanted for key, wanted in decoded.items() if wanted is not None}

        return await self._run(read)

    async def desire(self, key: str, model: AddModel | None) -> None:
        """See ports.Desires."""

        def write() -> None:
            with self._conn:
                if model is None:
                    self._conn.execute("DELETE FROM models WHERE key = ?", (key,))
                else:
                    self._conn.execute(
                        "INSERT INTO models VALUES (?, ?, NULL) "
                        "ON CONFLICT (key) DO UPDATE SET wanted = excluded.wanted",
                        (key, msgspec.json.encode(model)),
                    )

        await self._run(write)

    async def commit_of(self, key: str) -> str | None:
        """See ports.Desires."""

        def read() -> str | None:
            row = self._conn.execute("SELECT commit_id FROM models WHERE key = ?", (key,)).fetchone()
            return row[0] if row else None

        return await self._run(read)

    async def set_commit(self, key: str, commit: str | None) -> None:
        """See ports.Desires."""

        def write() -> None:
            with self._conn:
                self._conn.execute(
                    "INSERT INTO models VALUES (?, NULL, ?) "
                    "ON CONFLICT (key) DO UPDATE SET commit_id = excluded.commit_id",
                    (key, commit),
                )

        await self._run(write)

    async def set_ready(self, key: str, ready: Ready | None) -> None:
        """See ports.Desires: the ready file appears whole and durable, or not at all."""
        path = places.ready_file(self._state_dir, key)
        if ready is None:
            await asyncio.to_thread(path.unlink, missing_ok=True)
        else:
            content = msgspec.json.format(msgspec.json.encode(ready))
            await asyncio.to_thread(durable.write_if_other, path, content)

    @property
    def _conn(self) -> sqlite3.Connection:
        assert self._db is not None, "the ledger is not open"
        return self._db

    async def _run(self, work: Callable[[], T]) -> T:
        # Shielded: a commit that has begun is waited for, so that a cancelled caller never overtakes it.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))

    def _open(self) -> str | None:
        try:
            self._db = _connect(self._path)
        except sqlite3.DatabaseError as error:
            _set_aside(self._path)
            self._db = _connect(self._path)
            return str(error)
        return None

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
        elif version != FORMAT:
            raise sqlite3.DatabaseError(f"the ledger has format {version}, this program writes {FORMAT}")
        elif (said := db.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(f"the ledger is damaged: {said}")
    except BaseException:
        db.close()
        raise
    return db


def _set_aside(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        old = path.with_name(path.name + suffix)
        if old.exists():
            old.replace(path.with_name(f"{path.name}.bad{suffix}"))


def _row_check(etag: str, size_bytes: int, offset: int, length: int, digest: bytes) -> int:
    # 63 bits: SQLite's integers are signed.
    return xxhash.xxh3_64_intdigest(f"{etag}/{size_bytes}/{offset}/{length}/".encode() + digest) >> 1


def _decode(raw: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError:
        return None
