"""The units under a real systemd: a booted Debian, the installed service, its users and its hardening.

What the service does for models is other tests' business; here one small model goes through it, to show that nothing
it needs is forbidden by the unit.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import small_model
from tests.system.machine import Machine, booted, cached_tree

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]  # the first run makes the tree: minutes on a slow mirror

SERVICE = "qwen-daemon.service"
SOCKETS = ("qwen-daemon-control.socket", "qwen-daemon-events.socket")
PYTHON = "/opt/qwen-daemon/bin/python3"
CONTROL, EVENTS = "/run/qwen-daemon/control.sock", "/run/qwen-daemon/events.sock"
TOKEN = "hf_" + "canary" * 5
ASK = "import sys; from pathlib import Path; from qwen_api.client import Client; c = Client(Path(sys.argv[1])); "


@pytest.fixture(scope="session")
def tar() -> Path:
    return cached_tree()


@pytest.fixture
def machine(tar: Path, tmp_path: Path) -> Iterator[Machine]:
    """Booted, with the units installed, three people, and nothing started."""
    with booted(tar, tmp_path) as found:
        found.run("sh", "/opt/qwen-daemon/systemd/install.sh")
        found.run("useradd", "--create-home", "--groups=qwen", "reader")
        found.run("useradd", "--create-home", "--groups=qwen,qwen-admin", "admin")
        found.run("useradd", "--create-home", "outsider")
        yield found


def write(machine: Machine, path: str, text: str, mode: int = 0o644) -> None:
    target = machine.tree / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(mode)


def drop_in(machine: Machine, *lines: str) -> None:
    write(machine, f"/etc/systemd/system/{SERVICE}.d/test.conf", "\n".join(["[Service]", *lines, ""]))
    machine.run("systemctl", "daemon-reload")


def main_pid(machine: Machine) -> str:
    return machine.show(SERVICE, "MainPID")["MainPID"]


def wait_for_second_start(machine: Machine) -> None:
    """Until the service is active again after its process was lost."""
    starts = iter(range(2))
    machine.wait_for_journal(SERVICE, lambda line: "daemon.started" in line and next(starts) == 1)
    machine.run("systemctl", "start", SERVICE)  # returns when READY=1 has been said


def test_the_service_is_active_when_it_says_so_and_stops_clean(machine: Machine) -> None:
    """Active with a status for people, as its own user; no exposure beyond the promise; stopped with success."""
    machine.run("systemctl", "enable", "--now", SERVICE)
    shown = machine.show(SERVICE, "ActiveState", "SubState", "StatusText", "User", "NRestarts")
    assert shown == {
        "ActiveState": "active",
        "SubState": "running",
        "StatusText": "no model is wanted; add one: qwenctl add MODEL",
        "User": "qwen-daemon",
        "NRestarts": "0",
    }
    for unit in SOCKETS:
        assert machine.run("systemctl", "is-enabled", unit).strip() == "enabled"
    machine.run("systemd-analyze", "security", "--threshold=12", SERVICE)
    machine.run("systemctl", "stop", SERVICE, *SOCKETS)
    shown = machine.show(SERVICE, "ActiveState", "Result", "ExecMainStatus")
    assert shown == {"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0"}
    assert "event=daemon.stopping" in machine.journal(SERVICE)
    assert machine.run("ls", "/run/qwen-daemon") == ""


@pytest.mark.fault("S4", "K9")
def test_sockets_belong_to_their_groups_and_a_restart_changes_nothing(machine: Machine) -> None:
    """A reader may ask and not command, an outsider neither; owner and mode are the same after a restart."""
    machine.run("systemctl", "start", SERVICE)
    names = ("--format=%n %U:%G %a", "/run/qwen-daemon", CONTROL, EVENTS)
    expected = f"/run/qwen-daemon root:root 755\n{CONTROL} root:qwen-admin 660\n{EVENTS} root:qwen 660\n"
    assert machine.run("stat", *names) == expected
    machine.run("systemctl", "restart", SERVICE)
    assert machine.run("stat", *names) == expected

    def may(user: str, socket: str) -> bool:
        done = machine.attempt(PYTHON, "-c", ASK + "c.version()", socket, user=user)
        assert done.returncode == 0 or "E_SOCKET_DENIED" in done.stdout or "you may not open" in done.stdout, done
        return done.returncode == 0

    assert {user: (may(user, CONTROL), may(user, EVENTS)) for user in ("admin", "reader", "outsider")} == {
        "admin": (True, True),
        "reader": (False, True),
        "outsider": (False, False),
    }


def test_a_client_starts_the_service_and_the_log_knows_who_commanded(machine: Machine) -> None:
    """A command to a service that is not running is taken once it runs; the kernel's uid stands in the journal."""
    machine.run("systemctl", "start", *SOCKETS)
    assert machine.show(SERVICE, "ActiveState") == {"ActiveState": "inactive"}
    command = ASK + "from qwen_api.commands import AddModel; c.add(AddModel(model='tests/one'))"
    machine.run(PYTHON, "-c", command, CONTROL, user="admin")
    uid = machine.run("id", "-u", "admin").strip()
    assert f"uid={uid}" in machine.wait_for_journal(SERVICE, lambda line: "event=command.taken" in line)


def test_reload_takes_the_new_models(machine: Machine) -> None:
    """systemctl reload: the new model is worked on, by the same process."""
    machine.run("systemctl", "start", SERVICE)
    before = main_pid(machine)
    write(machine, "/etc/qwen-daemon/config.toml", 'offline = true\n[[models]]\nmodel = "tests/one"\n')
    machine.run("systemctl", "reload", SERVICE)
    machine.wait_for_journal(SERVICE, lambda line: "event=model.added" in line and "tests--one" in line)
    assert (main_pid(machine), machine.show(SERVICE, "ActiveState")) == (before, {"ActiveState": "active"})


@pytest.mark.fault("K6")
def test_a_process_that_hangs_is_ended_and_started_again(machine: Machine) -> None:
    """Stopped in its tracks, it misses the watchdog; systemd aborts it, its stacks are logged, a new one runs."""
    drop_in(machine, "WatchdogSec=2s", "RestartSec=100ms")
    machine.run("systemctl", "start", SERVICE)
    before = main_pid(machine)
    machine.run("kill", "-STOP", before)
    wait_for_second_start(machine)
    journal = machine.journal(SERVICE)
    assert "Watchdog timeout" in journal
    assert "Fatal Python error: Aborted" in journal
    assert machine.show(SERVICE, "NRestarts") == {"NRestarts": "1"}
    assert main_pid(machine) != before


@pytest.mark.fault("K9")
def test_a_killed_process_is_started_again_and_its_clients_wait_meanwhile(machine: Machine) -> None:
    """SIGKILL: the next one answers on the same sockets; whoever asked between was queued and not refused."""
    machine.run("systemctl", "start", SERVICE)
    before = main_pid(machine)
    machine.run("systemctl", "kill", "--signal=KILL", SERVICE)
    answered_by = machine.run(PYTHON, "-c", ASK + "print(c.version().pid)", EVENTS, user="reader").strip()
    assert answered_by != before
    wait_for_second_start(machine)
    assert machine.show(SERVICE, "NRestarts", "ActiveState") == {"NRestarts": "1", "ActiveState": "active"}


# Connects and asks, one after the other, until there were so many and the restarts are over; says what was refused.
CONNECT = """
import sys
from pathlib import Path
from qwen_api.client import Client
pids, asked, over = set(), 0, Path(sys.argv[2])
while asked < int(sys.argv[3]) or not over.exists():
    pids.add(Client(Path(sys.argv[1])).version().pid)
    asked += 1
print(len(pids), asked)
"""


@pytest.mark.fault("K9")
def test_a_hundred_connections_during_restarts_are_all_answered(machine: Machine) -> None:
    """systemd holds the sockets: who connects between one process and the next waits, and none is refused."""
    machine.run("systemctl", "start", SERVICE)
    write(machine, "/root/connect.py", CONNECT)
    restart = "for _ in 1 2 3; do systemctl restart qwen-daemon.service; done; touch /run/over"
    machine.run("systemd-run", "--unit=restarts", "sh", "-c", restart)
    processes, asked = machine.run(PYTHON, "/root/connect.py", EVENTS, "/run/over", "100").split()
    assert int(asked) >= 100 and int(processes) >= 2
    assert machine.show(SERVICE, "NRestarts", "ActiveState") == {"NRestarts": "0", "ActiveState": "active"}


def test_an_unusable_configuration_ends_the_tries_although_a_client_waits(machine: Machine) -> None:
    """Exit 78 is not restarted; a waiting client starts it again only so often; mended, one restart is enough."""
    write(machine, "/etc/qwen-daemon/config.toml", "ofline = true\n")
    machine.run("systemctl", "start", *SOCKETS)
    done = machine.attempt(PYTHON, "-c", ASK + "c.version()", EVENTS, user="reader")
    assert done.returncode == 1
    shown = machine.settled(SERVICE, "ActiveState", "ExecMainStatus", "NRestarts")
    assert shown == {"ActiveState": "failed", "ExecMainStatus": "78", "NRestarts": "0"}
    assert machine.journal(SERVICE).count("error[E_CONFIG]") <= 20
    assert machine.show(SOCKETS[1], "Result") == {"Result": "trigger-limit-hit"}
    write(machine, "/etc/qwen-daemon/config.toml", "offline = true\n")
    machine.run("systemctl", "restart", SERVICE)
    machine.run(PYTHON, "-c", ASK + "c.version()", EVENTS, user="reader")


@pytest.mark.fault("T2")
def test_the_token_is_a_credential_and_nothing_else(machine: Machine) -> None:
    """The service can read it; environment, properties and journal do not have it, nor may others open it."""
    credential = f"/run/credentials/{SERVICE}/hf-token"
    machine.run("systemctl", "start", SERVICE)
    assert machine.run("cat", credential) == "anonymous"
    write(machine, "/etc/qwen-daemon/hf-token", TOKEN + "\n", 0o600)
    machine.run("systemctl", "restart", SERVICE)
    assert machine.run("cat", credential).strip() == TOKEN
    seen = [
        machine.run("cat", f"/proc/{main_pid(machine)}/environ", f"/proc/{main_pid(machine)}/cmdline"),
        machine.run("systemctl", "show", SERVICE),
        machine.journal(SERVICE),
    ]
    assert TOKEN not in "".join(seen)
    assert "CREDENTIALS_DIRECTORY=/run/credentials/qwen-daemon.service" in seen[0]
    for user in ("reader", "admin", "outsider"):
        assert machine.attempt("cat", credential, user=user).returncode != 0


def test_a_model_goes_through_the_hardened_service_to_a_reader(machine: Machine) -> None:
    """From a mirror to verified files of the group; qwen-ready@ becomes active; an outsider sees nothing."""
    for path, content in small_model.CONTENTS.items():
        target = machine.tree / "srv/models/Qwen/Qwen-Image-Edit-2511" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    serve = ["/opt/qwen-daemon/bin/qwen-daemon", "mirror", "/srv/models", "--listen", "127.0.0.1:8090"]
    machine.run("systemd-run", "--unit=mirror", *serve)
    machine.wait_for_journal("mirror.service", lambda line: "127.0.0.1:8090" in line)
    drop_in(machine, "Environment=HF_ENDPOINT=http://127.0.0.1:8090")
    write(machine, "/etc/qwen-daemon/config.toml", '[[models]]\nmodel = "qwen-image-edit"\n')
    machine.run("systemctl", "start", "qwen-ready@qwen-image-edit.service")
    assert machine.show("qwen-ready@qwen-image-edit.service", "ActiveState", "SubState") == {
        "ActiveState": "active",
        "SubState": "exited",
    }
    journal = machine.journal(SERVICE)
    assert "event=model.complete" in journal
    weights = f"/var/lib/qwen-daemon/hf/hub/models--Qwen--Qwen-Image-Edit-2511/snapshots/*/{small_model.WEIGHTS}"
    assert machine.run("sh", "-c", f"stat --dereference --format='%U:%G %a' {weights}") == "qwen-daemon:qwen 664\n"
    assert machine.attempt("sh", "-c", f"cat {weights} >/dev/null", user="reader").returncode == 0
    assert machine.attempt("sh", "-c", f"cat {weights} >/dev/null", user="outsider").returncode != 0
    # What seccomp or a read-only path would have refused
    assert "Operation not permitted" not in journal
    assert "Read-only file system" not in journal


HOLDER = "holder.service"
HOLDER_UNIT = """
[Unit]
Requires=qwen-ready@qwen-image-edit.service
After=qwen-ready@qwen-image-edit.service
[Service]
User=reader
Environment=QWEN_DAEMON_SOCKET=/run/qwen-daemon/events.sock
ExecStart=/opt/qwen-daemon/bin/qwen-loader qwen-image-edit --device cpu --until-update
Restart=always
RestartSec=100ms
"""


def serve(machine: Machine, unit: str) -> None:
    command = ["/opt/qwen-daemon/bin/qwen-daemon", "mirror", "/srv/models", "--listen", "127.0.0.1:8090"]
    machine.run("systemd-run", f"--unit={unit}", *command)
    machine.wait_for_journal(f"{unit}.service", lambda line: "127.0.0.1:8090" in line)


@pytest.mark.loader
def test_a_service_that_needs_the_model_starts_when_it_is_ready_and_again_when_a_newer_one_is(
    machine: Machine, tiny: Path
) -> None:
    """Requires= and After= the ready unit, which outlives a refusal; --until-update ends when a newer one is complete,
    and Restart= takes it.
    """
    model = machine.tree / "srv/models/Qwen/Qwen-Image-Edit-2511"
    shutil.copytree(tiny, model)
    write(machine, f"/etc/systemd/system/{HOLDER}", HOLDER_UNIT)
    drop_in(machine, "Environment=HF_ENDPOINT=http://127.0.0.1:8090")
    serve(machine, "mirror")
    machine.run("systemctl", "start", "--no-block", HOLDER)
    ready = "qwen-ready@qwen-image-edit.service"
    machine.wait_for_journal(ready, lambda line: "E_UNKNOWN_MODEL" in line)
    assert machine.show(ready, "ActiveState") == {"ActiveState": "activating"}
    assert machine.show(HOLDER, "ActiveState", "ExecMainPID") == {"ActiveState": "inactive", "ExecMainPID": "0"}
    machine.run("/opt/qwen-daemon/bin/qwenctl", "add", "qwen-image-edit")
    machine.wait_for_journal(HOLDER, lambda line: line.startswith("ready: holding"))
    begun = int(machine.show(HOLDER, "ExecMainStartTimestampMonotonic")["ExecMainStartTimestampMonotonic"])
    assert begun >= int(machine.show(ready, "ActiveEnterTimestampMonotonic")["ActiveEnterTimestampMonotonic"]) > 0

    machine.run("systemctl", "stop", "mirror.service")
    (model / "README.md").write_text("# newer\n")
    serve(machine, "mirror-again")
    machine.run("/opt/qwen-daemon/bin/qwenctl", "update", "qwen-image-edit")
    starts = iter(range(2))
    machine.wait_for_journal(HOLDER, lambda line: line.startswith("ready: holding") and next(starts) == 1)
    assert machine.show(HOLDER, "NRestarts", "ActiveState") == {"NRestarts": "1", "ActiveState": "active"}
    assert "update: commit " in machine.journal(HOLDER)


def test_a_loader_of_another_user_is_not_taken_for_dead(machine: Machine) -> None:
    """Its process is hidden from the service's /proc. One that ends without a word failed; one that lives has not."""
    machine.run("systemctl", "start", SERVICE)
    report = ASK + (
        "import os; from qwen_api.commands import LoaderReport; "
        "c.report_loader(sys.argv[2], LoaderReport(state='waiting', pid=os.getpid())); "
        "os.execv('/bin/sleep', ['sleep', sys.argv[3]])"
    )
    machine.run(
        "systemd-run", "--uid=reader", "--gid=qwen", "--unit=stays", PYTHON, "-c", report, EVENTS, "stays", "infinity"
    )
    machine.wait_for_journal(SERVICE, lambda line: "event=loader.changed" in line and "name=stays" in line)
    machine.run(PYTHON, "-c", report, EVENTS, "ends", "0", user="reader")
    machine.wait_for_journal(SERVICE, lambda line: "event=loader.changed" in line and "state=failed" in line)
    states = "print(sorted((l.name, l.state) for l in c.state().loaders.values()))"
    assert machine.run(PYTHON, "-c", ASK + states, EVENTS).strip() == "[('ends', 'failed'), ('stays', 'waiting')]"


def test_the_user_units_run_under_a_user_s_manager(machine: Machine) -> None:
    """Installed into the home by the user; active, with the user's own socket that nobody else may open."""
    uid = machine.run("id", "-u", "reader").strip()
    machine.run("systemctl", "start", f"user@{uid}.service")

    def as_reader(*command: str) -> str:
        return machine.run("env", f"XDG_RUNTIME_DIR=/run/user/{uid}", "HOME=/home/reader", *command, user="reader")

    as_reader("sh", "/opt/qwen-daemon/systemd/install.sh", "--user", "--venv", "/opt/qwen-daemon")
    as_reader("systemctl", "--user", "enable", "--now", SERVICE)
    assert "ActiveState=active" in as_reader("systemctl", "--user", "show", SERVICE)
    control = f"/run/user/{uid}/qwen-daemon/control.sock"
    version = as_reader(PYTHON, "-c", ASK + "print(c.version().state_dir, c.version().cache_dir)", control)
    assert version.split() == ["/home/reader/.local/state/qwen-daemon", "/home/reader/.cache/huggingface/hub"]
    assert machine.run("stat", "--format=%U %a", control) == "reader 600\n"
    as_reader("systemctl", "--user", "stop", SERVICE, *SOCKETS)
    as_reader("sh", "/opt/qwen-daemon/systemd/install.sh", "--user", "--uninstall")
