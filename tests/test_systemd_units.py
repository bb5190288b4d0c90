"""The units, the install script and the example configuration, checked with systemd's own tools and without root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from qwen_daemon import config as configuration

SYSTEMD = Path(__file__).parents[1] / "systemd"
EXPOSURE_MAX = 1.2
UNITS = sorted(path for scope in ("system", "user") for path in (SYSTEMD / scope).iterdir())
# What installs: the instance names of templates are aliases.
INSTALLED = {"qwen-ready@.service": "qwen-ready@qwen-image-edit.service"}


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert shutil.which("systemd-analyze"), "systemd-analyze is missing: apt-get install systemd"
    command = ["systemd-analyze", "--no-pager", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def install(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    script = ["sh", str(SYSTEMD / "install.sh"), *arguments]
    minimal = {"PATH": os.environ["PATH"]}
    return subprocess.run(script, capture_output=True, text=True, timeout=200, check=False, env=minimal | env)


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def verifiable(tmp_path: Path) -> Path:
    """The units and the example as installed, with a program that exists in the place of ours."""
    folder = tmp_path / "units"
    for scope in ("system", "user"):
        (folder / scope).mkdir(parents=True)
    for path in [*UNITS, SYSTEMD / "examples" / "image-edit.service"]:
        scope = path.parent.name if path.parent.name in ("system", "user") else "system"
        text = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", path.read_text(), flags=re.MULTILINE)
        (folder / scope / INSTALLED.get(path.name, path.name)).write_text(text)
    return folder


@pytest.mark.parametrize("scope", ["system", "user"])
def test_systemd_has_no_word_against_any_unit(verifiable: Path, tmp_path: Path, scope: str) -> None:
    """Unknown keys, bad values, units that are named and do not exist: nothing of the kind."""
    units = [str(path) for path in (verifiable / scope).iterdir()]
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    environment = {"XDG_RUNTIME_DIR": str(runtime), "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    assert shutil.which("systemd-analyze"), "systemd-analyze is missing: apt-get install systemd"
    found = subprocess.run(
        ["systemd-analyze", f"--{scope}", "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    ours = [line for line in found.stderr.splitlines() if str(verifiable) in line or "qwen" in line]
    assert (found.returncode, ours) == (0, [])


def test_the_service_is_exposed_no_more_than_promised() -> None:
    """`systemd-analyze security` fails above the threshold, in tenths."""
    unit = str(SYSTEMD / "system" / "qwen-daemon.service")
    found = analyze("security", "--offline=yes", f"--threshold={int(EXPOSURE_MAX * 10)}", unit)
    assert found.returncode == 0, found.stdout


def test_the_ready_units_are_exposed_no_more_than_the_service(verifiable: Path) -> None:
    """What waits for a model needs less than what fetches it."""
    unit = str(verifiable / "system" / "qwen-ready@qwen-image-edit.service")
    found = analyze("security", "--offline=yes", f"--threshold={int(EXPOSURE_MAX * 10)}", unit)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    "unit",
    [path for path in UNITS if "# --- Hardening" in path.read_text()],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_each_hardening_line_has_its_reason_above_it(unit: Path) -> None:
    """A comment stands directly above every line of the hardening part."""
    lines = unit.read_text().partition("# --- Hardening")[2].partition("[Install]")[0].splitlines()[1:]
    bare = [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if "=" in line.partition("#")[0] and not above.startswith("#")
    ]
    assert bare == []


def test_the_documentation_named_in_units_exists() -> None:
    """No Documentation= of pages that were never written."""
    assert [path.name for path in UNITS if "Documentation=" in path.read_text()] == []


@pytest.mark.parametrize("scope", ["system", "user"])
def test_the_sockets_are_where_clients_look_and_named_as_the_daemon_expects(scope: str) -> None:
    """Path, descriptor name and group of both sockets."""
    runtime = {"system": "/run", "user": "%t"}[scope]
    for name, group in (("control", "qwen-admin"), ("events", "qwen")):
        text = (SYSTEMD / scope / f"qwen-daemon-{name}.socket").read_text()
        assert f"\nListenStream={runtime}/qwen-daemon/{name}.sock\n" in text
        assert f"\nFileDescriptorName={name}\n" in text
        assert "\nRemoveOnStop=yes\n" in text
        if scope == "system":
            assert f"\nSocketGroup={group}\nSocketMode=0660\n" in text


def test_users_and_folders_can_be_made(tmp_path: Path) -> None:
    """systemd-sysusers takes the file, and makes the user, both groups and the membership."""
    assert shutil.which("systemd-sysusers"), "systemd-sysusers is missing: apt-get install systemd"
    (tmp_path / "etc").mkdir()
    conf = str(SYSTEMD / "sysusers.d" / "qwen-daemon.conf")
    command = ["systemd-sysusers", f"--root={tmp_path}", conf]
    found = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert found.returncode == 0, found.stderr
    groups = {line.split(":")[0]: line.split(":")[3] for line in (tmp_path / "etc/group").read_text().splitlines()}
    assert groups["qwen"] == "qwen-daemon"
    assert "qwen-admin" in groups
    assert "/var/lib/qwen-daemon:" in (tmp_path / "etc/passwd").read_text()


def test_the_system_install_puts_every_file_in_its_place_and_nothing_else(tmp_path: Path) -> None:
    """Into DESTDIR: units, users, folders, configuration; run twice it changes nothing; uninstalling keeps /etc."""
    target = {"DESTDIR": str(tmp_path)}
    first = install(env=target)
    assert first.returncode == 0, first.stderr
    installed = files_under(tmp_path)
    units = {f"usr/local/lib/systemd/system/{path.name}" for path in (SYSTEMD / "system").iterdir()}
    assert installed.keys() == units | {
        "usr/local/lib/sysusers.d/qwen-daemon.conf",
        "usr/local/lib/tmpfiles.d/qwen-daemon.conf",
        "etc/qwen-daemon/config.toml",
    }
    assert "systemctl enable --now qwen-daemon" in first.stdout
    assert install(env=target).returncode == 0
    assert files_under(tmp_path) == installed
    assert install("--uninstall", env=target).returncode == 0
    assert files_under(tmp_path).keys() == {"etc/qwen-daemon/config.toml"}


def test_an_edited_configuration_is_kept(tmp_path: Path) -> None:
    """The example is only a start."""
    config = tmp_path / "etc/qwen-daemon/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("offline = true\n")
    assert install(env={"DESTDIR": str(tmp_path)}).returncode == 0
    assert config.read_text() == "offline = true\n"


def test_prefix_and_venv_are_where_they_were_asked_to_be(tmp_path: Path) -> None:
    """For a distribution's package: /usr, and a program of its own place."""
    done = install("--prefix", "/usr", "--venv", "/usr/libexec/qd", env={"DESTDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    service = (tmp_path / "usr/lib/systemd/system/qwen-daemon.service").read_text()
    assert "\nExecStart=/usr/libexec/qd/bin/qwen-daemon --config" in service
    assert "/opt/qwen-daemon" not in service


def test_the_user_install_stays_in_the_home(tmp_path: Path) -> None:
    """Units under ~/.config/systemd/user, and gone again after --uninstall."""
    home = {"HOME": "/home/ada", "DESTDIR": str(tmp_path)}
    done = install("--user", env=home)
    assert done.returncode == 0, done.stderr
    folder = "home/ada/.config/systemd/user"
    assert files_under(tmp_path).keys() == {f"{folder}/{path.name}" for path in (SYSTEMD / "user").iterdir()}
    assert install("--user", "--uninstall", env=home).returncode == 0
    assert files_under(tmp_path) == {}


@pytest.mark.parametrize("arguments", [("--prefix",), ("--prefix", "here"), ("--wrong",)])
def test_a_wrong_command_line_changes_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Exit code 2, and not one file."""
    assert install(*arguments, env={"DESTDIR": str(tmp_path)}).returncode == 2
    assert files_under(tmp_path) == {}


def test_the_example_configuration_shows_every_key_with_its_default(tmp_path: Path) -> None:
    """As it is it changes nothing; with the comment signs taken off each key decodes, and none is left out."""
    example = SYSTEMD / "config.toml"
    assert configuration.read(example) == configuration.Config()
    live = tmp_path / "config.toml"
    live.write_text(re.sub(r"^#(?=\S)", "", example.read_text(), flags=re.MULTILINE))
    shown = configuration.read(live)
    defaults = configuration.Config()
    assert (shown.network, shown.check, shown.disk, shown.offline) == (
        defaults.network,
        defaults.check,
        defaults.disk,
        defaults.offline,
    )
    named = set(re.findall(r"^(\w+) =|^\[+(\w+)[\].]", live.read_text(), flags=re.MULTILINE))
    keys = {key or table for key, table in named}
    structs: tuple[type[msgspec.Struct], ...] = (
        configuration.Config,
        configuration.Network,
        configuration.Check,
        configuration.Disk,
        configuration.ConfiguredModel,
        configuration.Mirror,
    )
    assert keys == {field for struct in structs for field in struct.__struct_fields__}
