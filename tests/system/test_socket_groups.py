"""A socket of a group as the system service has it, and people who are not in it, as other users of this machine.

Root makes the users' processes; the daemon, its sockets and the commands are the real ones.
"""

from __future__ import annotations

import grp
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import download
from tests.fakes.daemon import FakeDaemon
from tests.terminal import LEAVE_SCREEN, Terminal

pytestmark = pytest.mark.system

BIN = Path(sys.executable).parent
GROUP = "games"  # any of Debian's own that nobody is in
# Python may lie in root's home. The capability lets them read it, and opens no socket: that takes the right to write.
USER = (
    "setpriv",
    "--reuid=nobody",
    "--regid=nogroup",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
)
NOBODY = (*USER, "--clear-groups")
MEMBER = (*USER, f"--groups={GROUP}")
FIX = f"sudo usermod -aG {GROUP} $USER, then log in again"
RUN_S = 60  # only a hung process reaches it


@pytest.fixture
def control() -> Iterator[Path]:
    """The control socket of a daemon, of root and GROUP, with the mode of the service's."""
    with (
        tempfile.TemporaryDirectory(prefix="qd-", dir="/tmp") as folder,
        FakeDaemon(Path(folder), *download.half_way()) as daemon,
    ):
        for path in (Path(folder), daemon.control.parent):
            path.chmod(0o755)
        for socket in daemon.control.parent.glob("*.sock"):
            shutil.chown(socket, "root", GROUP)
            socket.chmod(0o660)
        yield daemon.control


def environment(control: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "QWEN_DAEMON_SOCKET": str(control), "PYTHONUTF8": "1"}


def run(control: Path, who: tuple[str, ...], *command: str) -> subprocess.CompletedProcess[str]:
    """An installed command as this user."""
    return subprocess.run(
        [*who, str(BIN / command[0]), *command[1:]],
        env=environment(control),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )


@pytest.mark.parametrize("command", ["qwenctl ls", "qwenctl pause qwen-image-edit", "qwen-monitor --once"])
def test_who_is_not_in_the_group_is_told_the_command_that_helps(control: Path, command: str) -> None:
    """69, and the group's own name in it; a member is answered."""
    refused = run(control, NOBODY, *command.split())
    assert (refused.returncode, "error[E_SOCKET_DENIED]" in refused.stderr) == (69, True), refused.stderr
    assert f"you may not open {control.parent}" in refused.stderr and FIX in refused.stderr
    assert run(control, MEMBER, *command.split()).returncode in (0, 4)


def test_without_a_group_that_helps_nobody_is_sent_to_usermod(control: Path) -> None:
    """Another user's own socket: its group is not one to join."""
    for socket in control.parent.glob("*.sock"):
        shutil.chown(socket, "games", "games")
        socket.chmod(0o600)
    told = run(control, NOBODY, "qwenctl", "ls").stderr
    assert "usermod" not in told and "another user's daemon" in told


def test_status_shows_the_disk_and_says_why(control: Path) -> None:
    """It works without the daemon, and tells what would be better."""
    told = run(control, NOBODY, "qwenctl", "status").stderr
    assert FIX in told and "this is what the disk shows" in told


def test_the_monitor_shows_the_command_and_goes_on_when_it_was_used(control: Path) -> None:
    """On the screen at 80x24; once the socket may be opened, the models are there."""
    pytest.importorskip("textual", reason="the monitor's screen is the extra [monitor]")
    with Terminal([*NOBODY, str(BIN / "qwen-monitor")], **environment(control)) as terminal:
        terminal.read_until(b"may not open")
        terminal.read_until(f"usermod -aG {GROUP} $USER".encode())
        for socket in control.parent.glob("*.sock"):
            socket.chmod(0o666)
        terminal.read_until(b"DOWNLOADING")
        terminal.type(b"q")
        assert terminal.end() == 0
    assert LEAVE_SCREEN in terminal.output


def test_the_group_is_one_of_this_machine() -> None:
    """Else the tests above would show nothing."""
    assert grp.getgrnam(GROUP).gr_mem == []
