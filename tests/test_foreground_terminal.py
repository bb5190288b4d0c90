"""`qwenctl download` as a person over SSH sees it: the installed command on a real terminal, a Hub with faults."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import canary
from tests.fakes import model_folder
from tests.fakes.hub import Fault, SimHub, SimRepo, SparseContent, ThreadedSimHub
from tests.fakes.hub_kinds import Reset, Status
from tests.terminal import ENTER_SCREEN, PATIENCE_S, Terminal, Tmux
from tests.terminal import environment as terminal_environment

QWENCTL = str(Path(sys.executable).with_name("qwenctl"))
REPO, LARGE, BESIDE = "org/one", "transformer/large.safetensors", "vae/large.safetensors"
LARGE_BYTES, HELD_AT = 40_000_000, 30_000_000
HIDE_CURSOR = b"\x1b[?25l"


@pytest.fixture
def hub() -> Iterator[SimHub]:
    """A pipeline with two files that take a while."""
    files = {
        **model_folder.qwen(),
        LARGE: SparseContent(size=LARGE_BYTES, seed=1),
        BESIDE: SparseContent(size=20_000_000, seed=2),
    }
    with ThreadedSimHub(SimHub(SimRepo(id=REPO, files=files))) as simulator:
        yield simulator


def environment(hub: SimHub, home: Path, **env: str) -> dict[str, str]:
    """A home of its own, no daemon."""
    return {
        "HOME": str(home),
        "HF_ENDPOINT": hub.endpoint,
        "QWEN_DAEMON_SOCKET": str(home / "nobody.sock"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **env,
    }


def test_rows_are_drawn_and_ctrl_c_leaves_a_clean_screen_and_the_way_to_go_on(hub: SimHub, tmp_path: Path) -> None:
    """At 80x24: model, bar and the files in hand; then two sentences; then the same command ends it."""
    gate = hub.gate(LARGE, HELD_AT)
    env = environment(hub, tmp_path)
    with Tmux(tmp_path, [QWENCTL, "download", REPO], **env) as tmux:
        gate.wait_reached()
        file = re.compile(rf"▶ {LARGE} +\S+/40\.0 MB")
        shown = tmux.wait_for(lambda rows: any(map(file.search, rows)) and any("█" in row for row in rows))
        top = next(index for index, row in enumerate(shown) if row.startswith(f"{REPO}@"))
        assert re.search(r"downloading .*B/s +ETA", shown[top])
        assert re.search(r"█.* \d+\.\d% .*/\S+ MB .*files verified", shown[top + 1])
        tmux.press("C-c")
        left = tmux.wait_for(lambda rows: "ended with 130" in rows)
    seen = [row for row in left if row]
    assert seen[-3:] == [
        "stopping; what has arrived is being recorded (once more: at once) ...",
        "stopped; the same command resumes where it was",
        "ended with 130",
    ]
    assert not any("█" in row or "▶" in row or row.startswith(REPO) for row in left)

    gate.open()
    (tmp_path / "again").mkdir()
    with Tmux(tmp_path / "again", [QWENCTL, "download", REPO], **env) as tmux:
        left = tmux.wait_for(lambda rows: "ended with 0" in rows)
    assert "/snapshots/" in "".join(left)  # of a path that is wider than the screen
    assert not any("█" in row or "▶" in row for row in left)
    assert hub.log.bytes_twice(LARGE) == 0


def test_ctrl_c_gives_the_terminal_back_as_it_was(hub: SimHub, tmp_path: Path) -> None:
    """No alternate screen, the cursor was never hidden, the modes are those of before."""
    gate = hub.gate(LARGE, HELD_AT)
    with Terminal([QWENCTL, "download", REPO], **environment(hub, tmp_path)) as terminal:
        terminal.read_until(LARGE.encode())
        gate.wait_reached()
        terminal.type(b"\x03")
        assert terminal.end() == 130
        assert terminal.modes_now() == terminal.modes_before
    assert ENTER_SCREEN not in terminal.output and HIDE_CURSOR not in terminal.output


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_it_as_ctrl_c_does(hub: SimHub, tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Recorded, said, and gone on with by the same command without a byte twice."""
    gate = hub.gate(LARGE, HELD_AT)
    env = environment(hub, tmp_path)
    with Terminal([QWENCTL, "download", REPO], **env) as terminal:
        terminal.read_until(LARGE.encode())
        gate.wait_reached()
        terminal.process.send_signal(number)
        assert terminal.end() == code
        assert b"the same command resumes where it was" in terminal.output
    gate.open()
    assert canary.run([QWENCTL, "download", REPO], env=terminal_environment(**env)).returncode == 0
    assert hub.log.bytes_twice(LARGE) == 0


def test_a_terminal_that_is_closed_ends_it_and_what_came_is_kept(hub: SimHub, tmp_path: Path) -> None:
    """The kernel's SIGHUP comes together with a terminal that takes no more words."""
    gate = hub.gate(LARGE, HELD_AT)
    env = environment(hub, tmp_path)
    with Terminal([QWENCTL, "download", REPO], **env) as terminal:
        terminal.read_until(LARGE.encode())
        gate.wait_reached()
        terminal.close()
        assert terminal.process.wait(PATIENCE_S) == 129
    gate.open()
    assert canary.run([QWENCTL, "download", REPO], env=terminal_environment(**env)).returncode == 0
    assert hub.log.bytes_twice(LARGE) == 0


def test_a_second_ctrl_c_does_not_wait(hub: SimHub, tmp_path: Path) -> None:
    """The daemon under it, which does not end here because it is stopped, is killed; its state is good all the same."""
    gate = hub.gate(LARGE, HELD_AT)
    env = environment(hub, tmp_path)
    with Terminal([QWENCTL, "download", REPO], **env) as terminal:
        terminal.read_until(LARGE.encode())
        gate.wait_reached()
        (child,) = children(terminal.process.pid)
        os.kill(child, signal.SIGSTOP)
        terminal.type(b"\x03")
        terminal.read_until(b"being recorded")
        terminal.type(b"\x03")
        assert terminal.end() == 130
    gate.open()
    assert canary.run([QWENCTL, "download", REPO], env=terminal_environment(**env)).returncode == 0


def test_quiet_says_nothing_but_the_path(hub: SimHub, tmp_path: Path) -> None:
    """Also on a terminal, for $(...)."""
    with Terminal([QWENCTL, "download", "--quiet", REPO], **environment(hub, tmp_path)) as terminal:
        assert terminal.end() == 0
    (line,) = terminal.output.decode().splitlines()
    assert Path(line).is_dir() and "/snapshots/" in line


def children(pid: int) -> list[int]:
    """The processes that this one started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_what_goes_wrong_stands_above_the_rows_and_does_not_tear_them(hub: SimHub, tmp_path: Path) -> None:
    """A reset, and a server that errs for ever: each is told in lines that stay, and the block below them is whole."""
    hub.faults.add(Fault(Reset(), path=LARGE, on="cdn", after_bytes=1_000_000, times=1))
    hub.faults.add(Fault(Status(code=500), path=BESIDE, on="cdn"))
    gate = hub.gate(LARGE, HELD_AT)
    with Tmux(tmp_path, [QWENCTL, "download", REPO], **environment(hub, tmp_path)) as tmux:
        gate.wait_reached()
        shown = tmux.wait_for(lambda rows: any(re.match(f" [↻✗] {BESIDE}", row) for row in rows))
        assert len([row for row in shown if row.startswith(f"{REPO}@")]) == 1
        assert len([row for row in shown if "█" in row or "░" in row]) == 1
        said = [row for row in tmux.past() if row.startswith("retry")]
        assert any(LARGE in row for row in said) and any(BESIDE in row for row in said)
        tmux.press("C-c")
        tmux.wait_for(lambda rows: "ended with 130" in rows)
