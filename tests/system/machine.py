"""A booted Debian in a container: systemd-nspawn over a tree that mmdebstrap made once and a cache keeps.

The tree is unpacked afresh for each machine, so a test may break it. The program is put in as a venv made by hand:
Debian's own Python, this environment's dependencies read-only, and our packages copied. Needs root.
"""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("daemon/qwen_api", "daemon/qwen_daemon", "monitor/qwen_monitor", "loader/qwen_loader")
INCLUDE = "systemd,systemd-sysv,dbus,python3,procps,libpam-systemd,dbus-user-session"
TOOLS = {"systemd-nspawn": "systemd-container", "mmdebstrap": "mmdebstrap", "nsenter": "util-linux"}
# Compiled dependencies are for one version of Python; a Debian that has it.
SUITES = {(3, 11): "bookworm", (3, 13): "trixie"}
BOOT_S = 60.0
COMMAND_S = 90.0


class Machine:
    """A running container. `run` runs a command in it as root, or as somebody else through `runuser`."""

    def __init__(self, tree: Path, leader: int) -> None:
        self.tree = tree
        self._enter = ["nsenter", f"--target={leader}", "-m", "-u", "-i", "-n", "-p", "-C", "--root"]

    def run(self, *command: str, user: str = "", check: bool = True) -> str:
        """What the command wrote to stdout and stderr together. Raises AssertionError if it fails and `check`."""
        done = self.attempt(*command, user=user)
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def attempt(self, *command: str, user: str = "") -> subprocess.CompletedProcess[str]:
        """The finished command, failed or not."""
        become = ["runuser", "-u", user, "--"] if user else []
        return subprocess.run(
            [
                *self._enter,
                "env",
                "-i",
                "--chdir=/",
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                "LC_ALL=C.UTF-8",
                *become,
                *command,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit."""
        lines = self.run("systemctl", "show", unit, *(f"--property={name}" for name in names)).splitlines()
        return dict(line.split("=", 1) for line in lines)

    def settled(self, unit: str, *names: str) -> dict[str, str]:
        """The same, once systemd is not starting or stopping it any more."""
        deadline = time.monotonic() + COMMAND_S
        while self.show(unit, "ActiveState")["ActiveState"] in ("activating", "deactivating", "reloading"):
            assert time.monotonic() < deadline, f"{unit} does not settle:\n{self.journal(unit)}"
            time.sleep(0.1)
        return self.show(unit, *names)

    def journal(self, unit: str) -> str:
        """All the unit has said since the boot."""
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}")

    def wait_for_journal(self, unit: str, wanted: Callable[[str], bool]) -> str:
        """Follow the unit's journal until a line is wanted; the line. It fails at the deadline."""
        # Ended through its stdin: killing nsenter would leave journalctl behind, and the power-off would wait for it.
        follow = f"journalctl --follow --lines=all --output=cat --unit={unit} & read -r _; kill $!"
        pipe = subprocess.PIPE
        with subprocess.Popen([*self._enter, "sh", "-c", follow], stdin=pipe, stdout=pipe, text=True) as journal:
            assert journal.stdin is not None
            assert journal.stdout is not None
            deadline = threading.Timer(COMMAND_S, journal.stdin.close)
            deadline.start()
            try:
                for line in journal.stdout:
                    if wanted(line):
                        return line
            finally:
                deadline.cancel()
                journal.stdin.close()
        raise AssertionError(f"{unit} never said it:\n{self.journal(unit)}")


def cached_tree() -> Path:
    """The tar of a bare Debian, made if it is not there. Raises AssertionError, with what to install if that lacks."""
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    assert not missing, f"apt-get install --no-install-recommends {' '.join(missing)}"
    assert os.geteuid() == 0, "these tests need root: sudo make test-system"
    suite = SUITES.get(sys.version_info[:2])
    assert suite, f"no Debian has Python {sys.version_info[0]}.{sys.version_info[1]}; use one of {sorted(SUITES)}"
    cache = Path(os.environ.get("QWEN_TEST_CACHE", "/var/cache/qwen-daemon-tests"))
    cache.mkdir(parents=True, exist_ok=True)
    name = f"{suite}-{zlib.crc32(INCLUDE.encode()):08x}.tar"
    tar = cache / name
    if not tar.exists():
        partial = cache / f".{os.getpid()}-{name}"
        subprocess.run(["mmdebstrap", "--variant=apt", f"--include={INCLUDE}", suite, str(partial)], check=True)
        partial.replace(tar)
    return tar


@contextmanager
def booted(tar: Path, folder: Path) -> Iterator[Machine]:
    """A machine with the program and its units installed, up to the default target; powered off at the end."""
    tree = folder / "tree"
    tree.mkdir()
    subprocess.run(["tar", "-xf", str(tar), "-C", str(tree)], check=True)
    _put_program(tree / "opt" / "qwen-daemon")
    shutil.copytree(ROOT / "systemd", tree / "opt" / "qwen-daemon" / "systemd")
    _make_quiet(tree)
    dependencies = sysconfig.get_path("platlib")
    command = [
        "systemd-nspawn",
        "--boot",
        f"--directory={tree}",
        "--register=no",
        "--keep-unit",
        f"--machine=qwen-{os.getpid()}",
        "--private-network",
        f"--bind-ro={dependencies}:/opt/dependencies",
    ]
    master, slave = pty.openpty()  # without a terminal nspawn shows nothing and may not boot
    try:
        process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        console = _Console(master)
        try:
            console.wait_until_up()
            yield Machine(tree, _leader(process.pid))
        finally:
            process.send_signal(signal.SIGTERM)  # a power-off, see systemd-nspawn(1)
            try:
                process.wait(BOOT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(BOOT_S)
    finally:
        os.close(master)
        shutil.rmtree(tree, ignore_errors=True)


class _Console:
    """Reads all the machine prints, for a full terminal would stop it."""

    def __init__(self, master: int) -> None:
        self._text = b""
        self._up = threading.Event()
        self._master = master
        threading.Thread(target=self._read, name="console", daemon=True).start()

    def wait_until_up(self) -> None:
        assert self._up.wait(BOOT_S), f"the machine did not boot:\n{self._text.decode(errors='replace')}"

    def _read(self) -> None:
        with suppress(OSError):  # the terminal ends with the machine
            while chunk := os.read(self._master, 4096):
                self._text += chunk
                if b"QWEN-MACHINE-IS-UP" in self._text:
                    self._up.set()


def _put_program(venv: Path) -> None:
    """What `python3 -m venv` and pip would make, without a network."""
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python3").symlink_to("/usr/bin/python3")
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    site = venv / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    site.mkdir(parents=True)
    (site / "dependencies.pth").write_text("/opt/dependencies\n")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, site / Path(package).name, ignore=shutil.ignore_patterns("__pycache__"))
    scripts = {
        "qwen-daemon": "qwen_daemon.__main__",
        "qwenctl": "qwen_monitor.control",
        "qwen-loader": "qwen_loader.__main__",
    }
    for name, module in scripts.items():
        script = venv / "bin" / name
        script.write_text(f"#!/opt/qwen-daemon/bin/python3\nimport sys\nfrom {module} import main\nsys.exit(main())\n")
        script.chmod(0o755)


def _make_quiet(tree: Path) -> None:
    """No login prompts and no questions; one line on the console when all is up."""
    units = tree / "etc" / "systemd" / "system"
    (units / "say-up.service").write_text(
        "[Unit]\nAfter=basic.target dbus.service systemd-tmpfiles-setup.service\n"
        "[Service]\nType=oneshot\nExecStart=/bin/echo QWEN-MACHINE-IS-UP\nStandardOutput=tty\n"
    )
    wants = units / "multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "say-up.service").symlink_to("/etc/systemd/system/say-up.service")
    for unit in ("apt-daily.timer", "apt-daily-upgrade.timer", "systemd-firstboot.service"):
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")


def _leader(nspawn: int) -> int:
    """The machine's PID 1 as the host sees it: the descendant of nspawn that is 1 in a namespace of its own."""
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            numbers = fields.get("NSpid", "").split()
            if len(numbers) > 1 and numbers[-1] == "1" and nspawn in _ancestors(int(numbers[0])):
                return int(numbers[0])
    raise AssertionError("the machine has no PID 1")


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        yield pid
        # the command's name may hold anything but a line's end; what follows its last ")" is plain
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
