"""The ledger's SQLite file: made, checked, set aside; its rows' checksums, and what its errors mean.

quick_check finds a broken tree, not a changed value (it missed 197 of 300 flipped bits), so each row has a checksum.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xxhash

from qwen_daemon.core.errors import MakeRoom, Trouble, TryAgain

FORMAT = 3  # PRAGMA user_version; any other number is set aside

_SCHEMA = """
CREATE TABLE parts (blob TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, name TEXT,
                    row_check INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE spans (blob TEXT NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, digest BLOB NOT NULL,
                    row_check INTEGER NOT NULL, PRIMARY KEY (blob, offset)) WITHOUT ROWID;
CREATE TABLE seals (blob TEXT PRIMARY KEY, seal BLOB NOT NULL, row_check INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE models (key TEXT PRIMARY KEY, wanted BLOB NOT NULL, row_check INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE commits (key TEXT PRIMARY KEY, commit_id TEXT NOT NULL, row_check INTEGER NOT NULL) WITHOUT ROWID;
"""

# Tables that came later and that an older program does not miss.
_ADDED = """
CREATE TABLE IF NOT EXISTS readings (blob TEXT PRIMARY KEY, at TEXT NOT NULL, row_check INTEGER NOT NULL) WITHOUT ROWID;
"""

_OURS = {
    "parts": ("blob", "size_bytes", "name", "row_check"),
    "spans": ("blob", "offset", "length", "digest", "row_check"),
    "seals": ("blob", "seal", "row_check"),
    "models": ("key", "wanted", "row_check"),
    "commits": ("key", "commit_id", "row_check"),
}

# What SQLite says when the file is not at fault but the system under it.
_OF_THE_SYSTEM = {
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM,
}  # fmt: skip


def connect(path: Path) -> sqlite3.Connection:
    """Open or make it. Raises sqlite3.DatabaseError (see is_damage)."""
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if not may_pass(error):
            raise
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, check_same_thread=False)
    try:
        # Before anything is written: it may be another program's.
        version, tables = db.execute("PRAGMA user_version").fetchone()[0], _tables(db)
        is_new = version == 0 and not tables
        if not is_new and (version != FORMAT or not _OURS.items() <= tables.items()):
            what = f"format {version}" if version != FORMAT else "other tables"
            raise sqlite3.DatabaseError(f"the ledger has {what}, this program writes format {FORMAT}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        if is_new:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
        elif (said := db.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(f"the ledger is damaged: {said}")
        db.executescript(_ADDED)
    except BaseException:
        db.close()
        raise
    return db


def _tables(db: sqlite3.Connection) -> dict[str, tuple[str, ...]]:
    """The names of all tables and of their columns."""
    names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {
        name: tuple(row[0] for row in db.execute("SELECT name FROM pragma_table_info(?)", (name,))) for name in names
    }


def set_aside(path: Path) -> None:
    """Keep a damaged one as `.bad`, for a person to look at."""
    for suffix in ("", "-wal", "-shm"):
        old = path.with_name(path.name + suffix)
        if old.exists():
            old.replace(path.with_name(f"{path.name}.bad{suffix}"))


def row_check(row: Sequence[object]) -> int:
    """The checksum of a row, without the checksum itself."""
    # 63 bits: SQLite's integers are signed.
    return xxhash.xxh3_64_intdigest(repr(tuple(row)).encode()) >> 1


def intact(row: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """A row without its checksum, its last column; None if that is not the checksum of the others."""
    if row is None or row[-1] != row_check(row[:-1]):
        return None
    return row[:-1]


def _code(error: sqlite3.DatabaseError) -> int:
    """SQLite's primary result code (sqlite.org/rescode.html); SQLITE_CORRUPT for errors that we raise ourselves."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """True if the file is at fault, and not the system under it."""
    return _code(error) not in _OF_THE_SYSTEM


def may_pass(error: sqlite3.DatabaseError) -> bool:
    """True if it may be well at the second try, which SQLite does not make: nothing is set aside for less.

    A signal may have interrupted what makes it durable (EINTR), and a page that the disk did not give back once is
    called damage, too. The transaction is rolled back; to do all of it again is safe: it writes the same pages anew.
    """
    unsynced = (sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC)
    return is_damage(error) or getattr(error, "sqlite_errorcode", 0) in unsynced


def translate(error: sqlite3.DatabaseError) -> Trouble:
    """Which trouble the system's refusal is."""
    if _code(error) == sqlite3.SQLITE_FULL:
        return MakeRoom("E_DISK_FULL", "the state directory's file system is full")
    return TryAgain("E_DISK_IO", f"the ledger could not be used ({error})")
