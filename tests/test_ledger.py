"""The ledger is a hint: damaged, cut, foreign or newer, it may forget, and it never says what was not recorded."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qwen_api import places
from qwen_api.commands import AddModel
from qwen_api.seals import Ready, Seal, read_ready
from qwen_daemon.core.errors import MakeRoom, TryAgain
from qwen_daemon.core.spans import Span
from qwen_daemon.shell.ledger import FILE_NAME, SqliteLedger
from tests.fakes.model_folder import COMMIT, REPO

SIZE = 1000
PART = f".qwen-{'a' * 64}-01234567.part"
ETAGS = [f"{n:064x}" for n in range(20)]
SPANS = tuple(Span(offset=n * 100, length=100, digest=bytes([n]) * 16) for n in range(10))
SEAL = Seal(inode=12345, size_bytes=SIZE, mtime_ns=1_700_000_000_123_456_789, ctime_ns=1_700_000_000_123_456_789)
WANTED = AddModel(model=REPO, include=("*.json",))
KEY = "Qwen--Qwen-Image-Edit-2511"


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[SqliteLedger]:
    ledger = SqliteLedger(folder)
    await ledger.open()
    try:
        yield ledger
    finally:
        await ledger.close()


async def fill(folder: Path) -> Path:
    """A ledger with something of everything; returns its file, with nothing left in the write-ahead log."""
    async with opened(folder) as ledger:
        for etag in ETAGS:
            await ledger.record(REPO, etag, SIZE, PART, SPANS)
            await ledger.seal(REPO, etag, SEAL)
        await ledger.desire(KEY, WANTED)
        await ledger.set_commit(KEY, COMMIT)
    return folder / FILE_NAME


async def check_nothing_is_made_up(folder: Path) -> tuple[int, int]:
    """Everything the ledger says was recorded; returns how many spans and seals it still knows."""
    async with opened(folder) as ledger:
        spans = 0
        for etag in ETAGS:
            part, known = await ledger.spans(REPO, etag, SIZE)
            assert part in (PART, None) and set(known) <= set(SPANS)
            spans += len(known)
        seals = await ledger.seals([(REPO, etag) for etag in ETAGS])
        assert set(seals.values()) <= {SEAL}
        assert await ledger.commit_of(KEY) in (COMMIT, None)
        assert await ledger.desired() in ({KEY: WANTED}, {})
        # It works on.
        await ledger.record(REPO, "f" * 64, SIZE, PART, SPANS)
        assert (await ledger.spans(REPO, "f" * 64, SIZE))[1] == SPANS
        return spans, len(seals)


async def test_what_was_recorded_is_there_after_opening_again(tmp_path: Path) -> None:
    """Spans by content and repository, seals, wants and commits."""
    await fill(tmp_path)
    async with opened(tmp_path) as ledger:
        assert await ledger.spans(REPO, ETAGS[0], SIZE) == (PART, SPANS)
        assert await ledger.spans("other/repo", ETAGS[0], SIZE) == (None, ())
        assert await ledger.seals([("other/repo", etag) for etag in ETAGS]) == {}
        assert await ledger.spans(REPO, ETAGS[0], SIZE + 1) == (None, ())
        assert await ledger.part_names() == {PART}
        await ledger.forget(REPO, ETAGS[0], [100, 300])
        assert [span.offset for span in (await ledger.spans(REPO, ETAGS[0], SIZE))[1]] == [
            0,
            200,
            *range(400, 1000, 100),
        ]
        await ledger.record(REPO, ETAGS[0], SIZE, None, ())
        part, spans = await ledger.spans(REPO, ETAGS[0], SIZE)
        assert part is None and len(spans) == 8
        await ledger.record(REPO, ETAGS[0], SIZE + 1, PART, ())
        assert await ledger.spans(REPO, ETAGS[0], SIZE + 1) == (PART, ())
        await ledger.forget(REPO, ETAGS[1])
        assert await ledger.spans(REPO, ETAGS[1], SIZE) == (None, ())
        await ledger.seal(REPO, ETAGS[0], None)
        assert set(await ledger.seals([(REPO, etag) for etag in ETAGS])) == {(REPO, etag) for etag in ETAGS[1:]}
        await ledger.desire(KEY, None)
        assert (await ledger.desired(), await ledger.commit_of(KEY)) == ({}, None)


@pytest.mark.fault("D5")
@pytest.mark.parametrize("seed", range(3))
async def test_flipped_bits_cost_memory_and_never_truth(tmp_path: Path, seed: int) -> None:
    """Thirty ledgers with bits flipped anywhere: rows vanish, or the whole is set aside; nothing is invented."""
    dice = random.Random(seed)
    good = (await fill(tmp_path / "good")).read_bytes()
    lost = 0
    for n in range(10):
        folder = tmp_path / str(n)
        folder.mkdir()
        damaged = bytearray(good)
        for _ in range(dice.choice((1, 1, 5, 50))):
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        (folder / FILE_NAME).write_bytes(damaged)
        spans, seals = await check_nothing_is_made_up(folder)
        lost += (spans, seals) != (len(ETAGS) * len(SPANS), len(ETAGS))
    assert lost, "no flip did any harm: the test damages nothing"


@pytest.mark.fault("D4")
async def test_a_cut_ledger_is_a_smaller_ledger(tmp_path: Path) -> None:
    """Cut anywhere, also in its first bytes and in the middle of a page."""
    path = await fill(tmp_path / "good")
    good = path.read_bytes()
    for kept in (0, 1, 50, 100, *range(1021, len(good), 1021)):
        folder = tmp_path / str(kept)
        folder.mkdir()
        (folder / FILE_NAME).write_bytes(good[:kept])
        await check_nothing_is_made_up(folder)


@pytest.mark.fault("D7", "K7")
async def test_garbage_and_other_formats_are_set_aside(tmp_path: Path) -> None:
    """What cannot be read is kept as .bad for a person to look at; the reason is told."""
    for name, content in (("text", b"not a database at all" * 100), ("zeros", bytes(8192))):
        folder = tmp_path / name
        folder.mkdir()
        (folder / FILE_NAME).write_bytes(content)
        assert await check_nothing_is_made_up(folder) == (0, 0)
    assert (tmp_path / "text" / f"{FILE_NAME}.bad").read_bytes() == b"not a database at all" * 100
    path = await fill(tmp_path / "newer")
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    ledger = SqliteLedger(tmp_path / "newer")
    assert "99" in (await ledger.open() or "")
    assert await ledger.desired() == {KEY: WANTED}, "what people asked for is taken over"
    await ledger.close()


@pytest.mark.fault("D9")
async def test_rows_of_others_are_not_believed(tmp_path: Path) -> None:
    """A row whose checksum is not its own is not there: moved, edited or made by hand."""
    path = await fill(tmp_path)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE spans SET offset = 5000 WHERE offset = 100")
        db.execute("UPDATE spans SET digest = ? WHERE offset = 200", (b"x" * 16,))
        db.execute("UPDATE parts SET name = '../../etc/passwd' WHERE blob = ?", (f"{REPO}/{ETAGS[0]}",))
        db.execute("UPDATE seals SET seal = replace(seal, '12345', '54321')")
        db.execute("UPDATE commits SET commit_id = ?", ("0" * 40,))
        db.execute("UPDATE models SET wanted = replace(wanted, 'json', 'yaml')")
    db.close()
    async with opened(tmp_path) as ledger:
        assert await ledger.spans(REPO, ETAGS[0], SIZE) == (None, ())
        part, spans = await ledger.spans(REPO, ETAGS[1], SIZE)
        assert part == PART and [span.offset for span in spans] == [0, *range(300, 1000, 100)]
        assert await ledger.seals([(REPO, etag) for etag in ETAGS]) == {}
        assert (await ledger.commit_of(KEY), await ledger.desired()) == (None, {})


@pytest.mark.fault("D7")
async def test_damage_that_shows_later_does_not_stop_the_work(tmp_path: Path) -> None:
    """A database that breaks under a running daemon is set aside, and the work goes on with a fresh one."""
    async with opened(tmp_path) as ledger:
        for etag in ETAGS:
            await ledger.record(REPO, etag, SIZE, PART, SPANS)
    path = tmp_path / FILE_NAME
    ledger = SqliteLedger(tmp_path)
    await ledger.open()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    await ledger.record(REPO, "f" * 64, SIZE, PART, SPANS)
    assert (await ledger.spans(REPO, "f" * 64, SIZE))[1] == SPANS
    await ledger.close()
    await check_nothing_is_made_up(tmp_path)


@pytest.mark.fault("D12")
async def test_a_full_or_broken_disk_is_told_as_trouble(tmp_path: Path) -> None:
    """SQLite's own words do not leave the ledger: full is MakeRoom, the rest is tried again."""
    path = await fill(tmp_path)
    pages = path.stat().st_size // 4096
    async with opened(tmp_path) as ledger:
        await ledger._run(lambda: ledger._conn.execute(f"PRAGMA max_page_count = {pages}").fetchone())
        with pytest.raises(MakeRoom):
            for n in range(1000):
                await ledger.record(REPO, f"{n:040x}", SIZE, PART, SPANS)
        await ledger._run(lambda: ledger._conn.execute("PRAGMA query_only = 1").fetchone())
        with pytest.raises(TryAgain):
            await ledger.record(REPO, "e" * 64, SIZE, PART, SPANS)
        assert (await ledger.spans(REPO, ETAGS[0], SIZE))[1] == SPANS


async def test_the_ready_file_is_whole_or_absent(tmp_path: Path) -> None:
    """Written, replaced, removed, and removing twice is no error."""
    ready = Ready(
        repo=REPO,
        revision="main",
        commit=COMMIT,
        path="/x",
        verified="sha256",
        seals={"a": SEAL},
        has_code=False,
        has_pickle=False,
    )
    path = places.ready_file(tmp_path, KEY)
    async with opened(tmp_path) as ledger:
        await ledger.set_ready(KEY, ready)
        assert read_ready(path) == ready and [p.name for p in path.parent.iterdir()] == [path.name]
        await ledger.set_ready(KEY, None)
        await ledger.set_ready(KEY, None)
        assert read_ready(path) is None
