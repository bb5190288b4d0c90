"""What must be true of one download whenever it has been stopped, and what once it has ended: the same after any fault.

Truth is asked from outside: the files by sha256sum and from the disk, the ledger with SQLite, the bytes sent from the
Hub simulator's own log, the events from two subscribers and from the log, descriptors from /proc.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Mapping, Set
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from qwen_api import events as e
from qwen_api import places
from qwen_api.client import Disconnected, Follower
from qwen_api.models import parse_model
from qwen_daemon.shell.ledger_file import FORMAT, intact
from tests.fakes.hub import SimHub, SimRepo
from tests.running import Running

PAGE_BYTES = 4096
NEVER_SAID = ("Traceback", "E_INTERNAL", "Task was destroyed", "was never awaited", "was never retrieved")


class Oracle:
    """Of one model in the Hub cache; `look` after each life of the daemon, in the order in which they were."""

    def __init__(self, daemon: Running, hub: SimHub, sim: SimRepo, files: Mapping[str, bytes]) -> None:
        self.daemon, self.hub = daemon, hub
        self._sim, self._files = sim, files
        self._key = parse_model(sim.id).key
        self._recorded: dict[str, set[range]] = {}
        self._named: set[str] = set()
        self._said_bytes = 0

    def look(self, code: int | None = None) -> None:
        """Nothing wrong is named or told, nothing on record was fetched again; `code` is the exit code of an end."""
        self._look_at_bytes_sent()
        self._look_at_names()
        self._recorded = self._read_ledger()
        self._look_at_log(code)

    def may_be_fetched_again(self, path: str) -> None:
        """What is on record of this file could not be read: whoever doubts it is right."""
        self._recorded.pop(path, None)
        self._named.discard(path)

    def told_verified(self) -> set[str]:
        """The files that the life that has just ended called durable and named; asked before the power goes."""
        whole = (self.daemon.root / "stderr").read_bytes()
        events = logged(whole[self._said_bytes :].decode(errors="replace"))
        return {event["path"] for event in events if event["event"] == "file.verified"}

    def look_after_a_power_cut(self, told: Set[str] = frozenset(), durable: Mapping[str, int] | None = None) -> None:
        """What was not synced is lost, the log too; but not one file that was told verified, nor bytes told durable."""
        self.forget()
        self.look()
        assert told <= self._named, "told verified, and lost"
        for path, told_bytes in (durable or {}).items():
            kept_bytes = sum(map(len, self._recorded[path])) if path in self._recorded else 0
            assert path in self._named or kept_bytes >= told_bytes, f"{path}: told durable, and lost"

    def forget(self) -> None:
        """The disk has lost what was not synced, its log too: what was named or on record need not be any more."""
        self._recorded, self._named = {}, set()
        log = self.daemon.root / "stderr"
        self._said_bytes = log.stat().st_size if log.exists() else 0

    def check_done(self) -> None:
        """All is there, read from the disk by another program, and nothing else lies about."""
        assert self._named == set(self._files)
        for path in self._files:
            _read_anew(self._snapshot / path)
        told = subprocess.check_output(["sha256sum", *self._files], cwd=self._snapshot, text=True).split()[::2]
        assert told == [hashlib.sha256(content).hexdigest() for content in self._files.values()]
        assert places.ref_file(self.daemon.cache, self._sim.id, "main").read_text() == self._sim.sha
        ready = json.loads(places.ready_file(self.daemon.state_dir, self._key).read_bytes())
        assert (ready["commit"], set(ready["seals"])) == (self._sim.sha, set(self._files))
        assert [path for path in self.daemon.root.rglob(".qwen-*") if not path.is_dir()] == [], "strays"

    def check_running(self) -> None:
        """Of the daemon that has just told the model complete, and still runs: one end, no gap, nothing open."""
        numbers = check_running(self.daemon, self._key)
        life = (self.daemon.root / "stderr").read_bytes()[self._said_bytes :].decode(errors="replace")
        assert {event["seq"] for event in logged(life) if event["seq"] <= numbers[-1]} <= set(numbers)

    @property
    def _snapshot(self) -> Path:
        return places.snapshot_dir(self.daemon.cache, self._sim.id, self._sim.sha)

    def _look_at_bytes_sent(self) -> None:
        for path, spans in self._recorded.items():
            again = [
                (max(sent.start, span.start), min(sent.end, span.stop))
                for sent in self.hub.log.served(path=path)
                for span in spans
                if max(sent.start, span.start) < min(sent.end, span.stop)
            ]
            assert again == [], f"{path}: recorded and fetched again"
        again_whole = {path for path in self._named if self.hub.log.served(path=path)}
        assert again_whole == set(), "published and fetched again"
        self.hub.log.clear()

    def _look_at_names(self) -> None:
        self._named = {path for path in self._files if (self._snapshot / path).exists()}
        for path in self._named:
            assert (self._snapshot / path).read_bytes() == self._files[path], f"{path} is wrong"
        assert not any((self._snapshot / path).is_symlink() for path in self._files.keys() - self._named), (
            "leads nowhere"
        )
        listing = places.tree_file(self.daemon.cache, self._sim.id, self._sim.sha)
        ref = places.ref_file(self.daemon.cache, self._sim.id, "main")
        assert (ref.exists() or bool(self._named)) <= listing.exists(), "huggingface_hub would take it for complete"
        assert not ref.exists() or ref.read_text() == self._sim.sha
        is_ready = places.ready_file(self.daemon.state_dir, self._key).exists()
        assert is_ready <= (self._named == set(self._files)), "called ready"
        assert list(self.daemon.state_dir.glob("*.bad*")) == [], "the ledger was set aside"

    def _read_ledger(self) -> dict[str, set[range]]:
        """Stretches of the files that are on record, read from a copy; no kill makes a ledger that cannot be read."""
        copy = self.daemon.root / "ledger-copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for path in self.daemon.state_dir.glob("ledger*"):
            shutil.copy(path, copy)
        if not (copy / "ledger.sqlite").exists():
            return {}
        with closing(sqlite3.connect(copy / "ledger.sqlite")) as db:
            (made,) = db.execute("PRAGMA user_version").fetchone()
            if not made:  # stopped in the transaction that makes all of it
                assert db.execute("SELECT name FROM sqlite_master").fetchall() == []
                return {}
            assert made == FORMAT
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            rows = db.execute("SELECT blob, offset, length, digest, row_check FROM spans").fetchall()
        assert None not in [intact(row) for row in rows]
        return {
            path: {range(row[1], row[1] + row[2]) for row in rows if row[0] == f"{self._sim.id}/{etag}"}
            for path, etag in ((path, self._sim.entry(path).etag) for path in self._files)
        }

    def _look_at_log(self, code: int | None) -> None:
        """What one life said on stderr: numbers that rise, one end and that one told, no surprise."""
        whole = (self.daemon.root / "stderr").read_bytes() if (self.daemon.root / "stderr").exists() else b""
        said, self._said_bytes = whole[self._said_bytes :].decode(errors="replace"), len(whole)
        assert [word for word in NEVER_SAID if word in said] == [], said
        events = logged(said)
        numbers = [event["seq"] for event in events]
        assert numbers == sorted(set(numbers)), numbers
        ends = [event for event in events if event["event"] == "model.complete"]
        if code is None:
            assert len(ends) <= 1, ends
            return
        complaints = re.findall(r"^error\[(\w+)\]", said, re.MULTILINE)
        assert (len(ends), len(complaints)) == ((1, 0) if code == 0 else (0, 1)), (code, said)
        states = [event for event in events if event["event"] == "model.state"]
        if code and complaints != ["E_START"]:
            assert states and (states[-1]["state"], states[-1].get("code")) in [
                (state, complaints[0]) for state in ("failed", "waiting", "incomplete")
            ], said


def check_running(daemon: Running, key: str) -> list[int]:
    """Of a model that was just told complete, by a daemon that still runs: told once and last, nothing is open.

    The numbers of events rise, and who asks only now is told the same as who heard. Returns the numbers.
    """
    # Folders are looked into at any time.
    kept = [held for held in _descriptors(daemon.pid) if ".part" in held or ".tmp" in held]
    assert kept == [], "still open"
    late = Follower(lambda: daemon.control, since=0, epoch=daemon.client.version().epoch)
    backlog: list[e.Event] = []
    for line in late:
        assert not isinstance(line, Disconnected | e.Gap), line
        if isinstance(line, e.Live):
            break
        if not isinstance(line, e.Unknown | e.Hello | e.Snapshot | e.Bookmark):
            backlog.append(line)
    last = backlog[-1].seq
    daemon.wait_for(lambda: daemon.events[-1].seq >= last, f"event {last}")
    heard = [event for event in list(daemon.events) if event.seq <= last]
    numbers = [event.seq for event in heard]
    assert numbers == sorted(set(numbers)), "numbers do not rise"
    assert daemon.gaps == []
    assert [event for event in heard if e.is_durable(event)] == backlog, "lost without a word"
    assert len([event for event in backlog if isinstance(event, e.ModelComplete) and event.model == key]) == 1
    after = backlog[[isinstance(event, e.ModelComplete) for event in backlog].index(True) + 1 :]
    assert not [event for event in after if isinstance(event, e.ModelStateChanged) and event.model == key], after
    asked = daemon.client.state().models[key]
    assert (asked.state, {file.state for file in asked.files.values()}) == ("complete", {"verified"})
    return numbers


def logged(said: str) -> list[dict[str, Any]]:
    """The events among the lines of a log in JSON."""
    lines = []
    for line in said.splitlines():
        with suppress(ValueError):  # the last one of a killed process; complaints
            lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict) and "seq" in line]


def _read_anew(path: Path) -> None:
    """What is read next comes from the disk and not from the page cache, where the file system has one to drop."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        if _is_cached(descriptor) and os.geteuid() == 0:
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("3")
    finally:
        os.close(descriptor)


def _is_cached(descriptor: int) -> bool:
    try:
        return os.preadv(descriptor, [bytearray(PAGE_BYTES)], 0, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False
    except OSError:  # a file system that is nothing but cache
        return True


def _descriptors(pid: int) -> list[str]:
    """What each of them leads to."""
    held = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            held.append(os.readlink(path))
    return held
