"""The monitor's plain lines and JSON, alone and over a real socket, and the command's exit codes."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
from msgspec import structs

from qwen_api import events as e
from qwen_api.client import Client, DaemonRefused, Disconnected, Follower
from qwen_api.models import ModelRef
from qwen_api.status import Status, fold
from qwen_monitor.__main__ import can_draw, main
from qwen_monitor.display import ASCII, UNICODE
from qwen_monitor.event_text import event_text
from qwen_monitor.plain import Plain, follow, follow_json
from tests.fakes import download
from tests.fakes.daemon import FakeDaemon

NOW = datetime(2026, 11, 23, 14, 25, 50, tzinfo=UTC)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path, *download.half_way()) as fake:
        yield fake


class ClosingText(io.StringIO):
    """A stream that closes the follower when it has been told `word`, so that `follow` ends."""

    def __init__(self, follower: Follower, word: str) -> None:
        super().__init__()
        self.follower, self.word = follower, word

    def write(self, text: str) -> int:
        if self.word in text:
            self.follower.close()
        return super().write(text)


def followed(daemon: FakeDaemon, word: str, *, since: int | None = None, plain: Plain | None = None) -> str:
    follower = Follower(lambda: daemon.control, since=since, epoch=daemon.epoch)
    out = ClosingText(follower, word)
    ticks = count()
    plain = plain or Plain(glyphs=UNICODE)
    follow(follower, plain, out, io.StringIO(), no_wait=True, monotonic=lambda: float(next(ticks)), wall=lambda: NOW)
    return out.getvalue()


def test_the_first_line_is_a_summary_and_each_durable_event_has_one(daemon: FakeDaemon) -> None:
    """Progress has no line; a retry has its reason in words and its code."""
    lines = followed(daemon, "loader", since=0).splitlines()
    assert lines[0].startswith("2026-11-23 14:25:50 summary   Qwen/Qwen-Image-Edit-2511@6f3ccc0b downloading 20.3%")
    words = [line.split()[2] for line in lines[1:]]
    assert words == [
        "added",
        "resolved",
        "model",
        "verified",
        "verified",
        "verified",
        "started",
        "retry",
        "disk",
        "loader",
    ]
    retry = next(line for line in lines if " retry " in line)
    assert retry == (
        "2026-11-23 14:25:47 retry     Qwen--Qwen-Image-Edit-2511 vae/diffusion_pytorch_model.safetensors: "
        "try 3/4 in 0:10: the connection failed (E_NETWORK)"
    )


def test_a_summary_comes_every_thirty_seconds_while_something_is_to_do() -> None:
    """A complete model is summed up once, not for ever."""
    plain, status = Plain(glyphs=ASCII), status_of(download.half_way())
    snapshot = e.Snapshot(seq=1, ts="", state=b"{}")  # type: ignore[arg-type]
    beat = e.Bookmark(seq=1)
    assert len(plain.lines(snapshot, status, 0.0, NOW)) == 1
    assert plain.lines(beat, status, 29.0, NOW) == []
    assert len(plain.lines(beat, status, 30.0, NOW)) == 1
    done = status_of([*download.half_way(), *download.completed()])
    assert len(plain.lines(beat, done, 60.0, NOW)) == 1
    assert plain.lines(beat, done, 90.0, NOW) == []
    assert len(plain.summary(done, NOW)) == 1


def status_of(events: list[e.Event]) -> Status:
    status = Status(version="1.2.3")
    for event in events:
        status = fold(status, event)
    return status


def test_a_new_epoch_a_gap_and_an_unknown_line_are_told() -> None:
    """What a reader could miss or misunderstand is said, hostile bytes as escapes."""
    plain = Plain(glyphs=ASCII)
    hello = e.Hello(v=1, epoch="a", server="", seq=0)
    assert plain.lines(hello, Status(), 0.0, NOW) == []
    again = e.Hello(v=1, epoch="b", server="", seq=0)
    assert plain.lines(again, Status(), 0.0, NOW) == ["2026-11-23 14:25:50 daemon    restarted"]
    lost = Disconnected(code="E_DAEMON_DOWN", why="nobody listens", fix="start it", retry_in_s=1.0)
    away = [plain.lost(lost, now_s, NOW) for now_s in (1.0, 2.0, 30.9, 31.0, 60.0, 61.0)]
    assert [len(lines) for lines in away] == [1, 0, 0, 1, 0, 1]
    assert "waiting for the daemon ... (nobody listens; start it)" in away[0][0]
    assert "away for 1:00, waiting" in away[-1][0]
    assert plain.lines(again, Status(), 65.0, NOW)[0].endswith("daemon    back, was away 1:04")
    plain.lost(lost, 70.0, NOW)
    assert plain.lines(hello, Status(), 75.0, NOW)[0].endswith("daemon    restarted, was away 0:05")
    gap = e.Gap(first=5, last=9)
    assert plain.lines(gap, Status(), 0.0, NOW) == ["2026-11-23 14:25:50 missed    5 events"]
    unknown = e.Unknown(raw=b'{"type":"new.\x1b[2J"}\n')
    assert plain.lines(unknown, Status(), 0.0, NOW)[0].endswith('unknown   {"type":"new.\\x1b[2J"}')


def test_waiting_for_the_list_of_files_is_said_with_its_reason_and_its_end() -> None:
    """Nothing else moves meanwhile, so it counts as bad news and is shown over a progress line too."""
    refused = e.ModelStateChanged(
        ts="2026-11-23T14:25:50.000Z",
        model="m",
        state="checking",
        code="E_NETWORK",
        detail="cannot connect to hub:443: connection refused",
        retry_at="2026-11-23T14:25:54.100Z",
    )
    limited = structs.replace(refused, code="E_RATE_LIMITED", detail="HTTP 429")

    said, asked_to_wait = event_text(refused), event_text(limited)

    assert said is not None and asked_to_wait is not None and said.is_bad
    why = "cannot connect to hub:443: connection refused"
    assert said.detail == f"the Hub does not answer ({why}), trying again in 4 s"
    assert asked_to_wait.detail == "the Hub asks to wait (HTTP 429), trying again in 4 s"


def test_a_failed_loader_is_told_once_also_if_nobody_listened() -> None:
    """It says so once and is gone; who connects later reads it from the snapshot, and its replay is no news."""
    plain, snapshot = Plain(glyphs=ASCII), e.Snapshot(seq=1, ts="", state=b"{}")  # type: ignore[arg-type]
    failed = e.LoaderChanged(name="gpu0", state="failed", model=download.REPO, detail="no memory", ts=download.RETRY_AT)
    status = status_of([*download.half_way(), failed])
    said = plain.lines(snapshot, status, 0.0, NOW)
    assert [line for line in said if "gpu0: has failed: no memory" in line] == said[1:]
    assert plain.lines(failed, status, 1.0, NOW) == []
    again = structs.replace(failed, ts="2026-11-23T14:26:57.000Z")
    assert len(plain.lines(again, status, 2.0, NOW)) == 1
    named = Plain(glyphs=ASCII, wanted=ModelRef(repo=download.REPO))
    assert len(named.lines(failed, status, 1.0, NOW)) == 1


def test_a_summary_comes_on_the_real_stream_when_half_a_minute_is_over(daemon: FakeDaemon) -> None:
    """Progress and bookmarks move the clock; here each line of the stream takes a second."""
    daemon.say(*[download.progress(6_200_000_000 + number) for number in range(5)])
    follower = Follower(lambda: daemon.control)
    lines: list[tuple[float, str]] = []
    ticks = count()

    class Noting(io.StringIO):
        def write(self, text: str) -> int:
            lines.append((clock.now_s, text))
            if len(lines) == 3:
                follower.close()
            return len(text)

        def flush(self) -> None:
            if not lines or clock.now_s > 100:
                return
            daemon.say(download.progress(6_300_000_000 + int(clock.now_s) * 1_000_000))

    class Clock:
        now_s = 0.0

        def __call__(self) -> float:
            self.now_s = float(next(ticks))
            return self.now_s

    clock = Clock()
    follow(follower, Plain(glyphs=ASCII), Noting(), io.StringIO(), no_wait=True, monotonic=clock, wall=lambda: NOW)
    assert all(" summary " in text for _, text in lines)
    assert [later - earlier for (earlier, _), (later, _) in itertools.pairwise(lines)] == [30.0, 30.0]


def test_events_of_other_models_are_left_out_when_one_is_named(daemon: FakeDaemon) -> None:
    """With MODEL the lines are of that model and of the daemon."""
    daemon.say(download.added("org--other", "org/other"), e.DaemonStopping(reason="test"))
    text = followed(daemon, "stopping", since=0, plain=Plain(glyphs=UNICODE, wanted=ModelRef(repo="org/other")))
    assert "org--other: org/other at main" in text
    assert "Qwen-Image" not in text


def test_json_is_the_stream_byte_for_byte(daemon: FakeDaemon) -> None:
    """Also lines of types that this version does not know."""
    follower = Follower(lambda: daemon.control)
    lines: list[bytes] = []

    class Sink(io.BytesIO):
        def write(self, raw: object) -> int:
            lines.append(bytes(raw))  # type: ignore[call-overload]
            if json.loads(lines[-1])["type"] == "live":
                daemon.send_raw(b'{"type":"some.day","x":1}\n')
            if b"some.day" in lines[-1]:
                follower.close()
            return len(lines[-1])

    follow_json(follower, Plain(glyphs=ASCII), Sink(), io.StringIO(), no_wait=True)
    assert [json.loads(x)["type"] for x in lines] == ["hello", "snapshot", "live", "some.day"]
    assert lines[-1] == b'{"type":"some.day","x":1}\n'


def test_plain_waits_for_a_daemon_that_is_not_there_yet(tmp_path: Path) -> None:
    """One line on stderr with a way out, and then the stream as soon as the daemon answers."""
    fake = FakeDaemon(tmp_path, *download.half_way())
    with fake:
        fake.stop()
        follower = Follower(lambda: fake.control)
        out, err = ClosingText(follower, "summary"), io.StringIO()

        class Starting(io.StringIO):
            def write(self, text: str) -> int:
                fake.start()
                return err.write(text)

        plain = Plain(glyphs=ASCII)
        follow(follower, plain, out, Starting(), no_wait=False, monotonic=lambda: 0.0, wall=lambda: NOW)
    assert " daemon    waiting for the daemon ... (no daemon answers" in err.getvalue()
    assert err.getvalue().count("\n") == 1
    assert "summary" in out.getvalue()


@pytest.mark.fault("S5")
def test_a_reader_that_was_cut_off_is_told_what_it_missed(daemon: FakeDaemon) -> None:
    """The follower comes back with its seq and gets the durable events of the meantime, none twice."""
    follower = Follower(lambda: daemon.control)
    seen: list[str] = []
    for line in follower:
        if isinstance(line, e.Live) and not seen:
            seen.append("live")
            daemon.stop()
            daemon.say(download.verified(download.RETRYING))
            daemon.start()
        elif isinstance(line, e.FileVerified):
            seen.append(line.path)
        elif isinstance(line, e.Live):
            break
    assert seen == ["live", download.RETRYING]


def test_old_events_that_are_gone_are_announced_as_a_gap(tmp_path: Path) -> None:
    """The fake's ring is bounded as the daemon's is."""
    fake = FakeDaemon(tmp_path)
    fake.ring_events_max = 2
    with fake:
        fake.say(*download.half_way())
        lines = []
        for line in Follower(lambda: fake.control, since=1, epoch=fake.epoch):
            lines.append(line)
            if isinstance(line, e.Live):
                break
    assert lines[2] == e.Gap(first=2, last=9)
    assert [type(x).__name__ for x in lines[3:]] == ["DiskChanged", "LoaderChanged", "Live"]


def test_the_events_socket_takes_no_commands(daemon: FakeDaemon) -> None:
    """It answers questions and takes a loader's report; the rest is refused with a code."""
    reader = Client(daemon.events)
    assert download.MODEL in reader.state().models
    with pytest.raises(DaemonRefused) as refusal:
        reader.pause(download.MODEL)
    assert refusal.value.problem.code == "E_READ_ONLY_SOCKET"
    assert Client(daemon.control).version().epoch == "epoch-1"


# The command


def command(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "PYTHONPATH", "HOME")}
    return subprocess.run(
        [sys.executable, "-m", "qwen_monitor", *arguments],
        env={**kept, "PYTHONUTF8": "1", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_once_says_each_model_and_exits_with_4_until_all_are_complete(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code alone is enough for a script."""
    arguments = ["--once", "--socket", str(daemon.control)]
    assert main(arguments) == 4
    assert capsys.readouterr().out.startswith("Qwen/Qwen-Image-Edit-2511@6f3ccc0b downloading 20.3%")
    daemon.say(*download.completed())
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "complete 100.0% 30.1/30.1 GB, 8/8 files verified" in told
    assert "[ok] transformer       2/2         19.9 GB" in told and "Model complete: yes" in told
    assert main([*arguments, "--json"]) == 0
    unseen = capsys.readouterr()
    assert (json.loads(unseen.out)["complete"], "cannot be looked at from here" in unseen.err) == (True, True)
    assert main([*arguments, "org/other"]) == 3
    assert "error[E_UNKNOWN_MODEL]: org/other is not wanted by this daemon" in capsys.readouterr().err


def test_no_daemon_is_69_and_a_bad_name_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with three lines: what, why, fix."""
    missing = str(tmp_path / "control.sock")
    assert main(["--once", "--socket", missing]) == 69
    assert "error[E_DAEMON_DOWN]" in capsys.readouterr().err
    assert main(["no such model"]) == 2
    assert "error[E_USAGE]" in capsys.readouterr().err


def test_plain_with_no_wait_is_69_without_a_daemon(tmp_path: Path) -> None:
    """The real command, its output not a terminal: it neither draws nor waits."""
    done = command("--no-wait", "--socket", str(tmp_path / "control.sock"))
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.startswith("error[E_DAEMON_DOWN]: cannot follow the daemon\n  why: ")


def test_help_shows_examples_without_textual() -> None:
    """--help needs no toolkit and says how to start."""
    done = command("--help")
    assert done.returncode == 0
    assert "qwen-monitor --once && start-my-app" in done.stdout


def test_the_screen_needs_three_terminals_and_a_terminal_type() -> None:
    """Textual paints on stderr, so that must be a terminal too."""
    every = {"stdin": True, "stdout": True, "stderr": True}
    assert can_draw({"TERM": "xterm"}, every)
    assert not can_draw({"TERM": "dumb"}, every)
    assert not can_draw({}, every)
    assert not can_draw({"TERM": "xterm"}, {**every, "stderr": False})
