"""The real daemon under a service manager: what it says to it, what it takes from it, and who may run beside it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import TypeVar

import pytest

from qwen_api import events as e
from qwen_api.client import Client, Disconnected, Follower
from qwen_api.commands import AddModel
from tests.fakes.service_manager import (
    DEADLINE_S,
    ServiceManager,
    ended,
    quiet_environment,
    running_daemon,
)

EventT = TypeVar("EventT", bound=e.Event)
CONFIG = 'offline = true\n[[models]]\nmodel = "tests/one"\n'


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return quiet_environment(tmp_path / "home")


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, env: dict[str, str]) -> Iterator[ServiceManager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@qwen-test-{os.getpid()}-{tmp_path.name}"
    with ServiceManager(address) as found:
        env["NOTIFY_SOCKET"] = address
        yield found


@pytest.fixture
def plain_manager(tmp_path: Path, env: dict[str, str]) -> Iterator[ServiceManager]:
    with ServiceManager(str(tmp_path / "notify")) as found:
        env["NOTIFY_SOCKET"] = found.address
        yield found


def control_socket(env: dict[str, str]) -> Path:
    return Path(env["XDG_RUNTIME_DIR"]) / "qwen-daemon" / "control.sock"


def write_config(env: dict[str, str], text: str) -> Path:
    path = Path(env["XDG_CONFIG_HOME"]) / "qwen-daemon" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


class UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("d", timeout=DEADLINE_S)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def get(path: Path, url: str) -> tuple[int, dict[str, object]]:
    with closing(UnixConnection(path)) as connection:
        connection.request("GET", url)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def first_event(control: Path, kind: type[EventT], *, after: Callable[[], None] = lambda: None) -> EventT:
    """Call `after` once the stream stands, then give the first event of this kind."""
    follower = Follower(lambda: control)
    try:
        for line in follower:
            assert not isinstance(line, Disconnected), line.why
            if isinstance(line, e.Live):
                after()
            if isinstance(line, kind):
                return line
        raise AssertionError("the stream ended")
    finally:
        follower.close()


def stop(process: subprocess.Popen[str], manager: ServiceManager) -> tuple[int, str]:
    process.send_signal(signal.SIGTERM)
    manager.wait_for_word("STOPPING")
    return ended(process)


def test_ready_is_said_when_both_sockets_answer_and_stopping_before_the_end(
    manager: ServiceManager, env: dict[str, str]
) -> None:
    """READY=1 is the first word, with a status for people; after it /healthz answers; SIGTERM ends it with 0."""
    with running_daemon(env) as process:
        message = manager.receive()
        assert message == {"READY": "1", "STATUS": "no model is wanted; add one: qwenctl add MODEL"}
        control = control_socket(env)
        for path in (control, control.with_name("events.sock")):
            assert get(path, "/healthz") == (200, {"status": "ok"})
        code, errors = stop(process, manager)
    assert (code, "Traceback" in errors) == (0, False)
    assert not control.exists()


def test_the_status_line_tells_what_the_models_do(plain_manager: ServiceManager, env: dict[str, str]) -> None:
    """A model that cannot be had is named, with the code of the reason."""
    write_config(env, CONFIG)
    with running_daemon(env) as process:
        plain_manager.wait_for(lambda message: "tests--one: E_OFFLINE" in message.get("STATUS", ""))
        assert stop(process, plain_manager)[0] == 0


@pytest.mark.fault("K6")
def test_the_watchdog_is_fed_for_as_long_as_the_loop_lives(plain_manager: ServiceManager, env: dict[str, str]) -> None:
    """WATCHDOG=1 again and again; a stopped process sends none, and sends again when it goes on."""
    env["WATCHDOG_USEC"] = "400000"
    with running_daemon(env) as process:
        plain_manager.wait_for_word("READY")
        for _ in range(3):
            plain_manager.wait_for_word("WATCHDOG")
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        process.send_signal(signal.SIGCONT)
        for _ in range(3):
            plain_manager.wait_for_word("WATCHDOG")
        assert stop(process, plain_manager)[0] == 0


def test_no_watchdog_is_fed_where_none_was_asked_for(plain_manager: ServiceManager, env: dict[str, str]) -> None:
    """WATCHDOG_PID of another process means that other process."""
    env |= {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    with running_daemon(env) as process:
        plain_manager.wait_for_word("READY")
        process.send_signal(signal.SIGHUP)
        plain_manager.wait_for_word("RELOADING")
        assert stop(process, plain_manager)[0] == 0
    assert not [message for message in plain_manager.seen if "WATCHDOG" in message]


def test_hup_takes_the_new_configuration(plain_manager: ServiceManager, env: dict[str, str]) -> None:
    """RELOADING=1 with the monotonic time, then READY=1; a model that was added is wanted."""
    write_config(env, CONFIG)
    before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    with running_daemon(env) as process:
        plain_manager.wait_for_word("READY")
        write_config(env, CONFIG + '[[models]]\nmodel = "tests/two"\n')
        process.send_signal(signal.SIGHUP)
        reloading = plain_manager.wait_for_word("RELOADING")
        assert int(reloading["MONOTONIC_USEC"]) > before_us
        plain_manager.wait_for_word("READY")
        assert set(Client(control_socket(env)).state().models) == {"tests--one", "tests--two"}
        assert stop(process, plain_manager)[0] == 0


def test_a_broken_configuration_keeps_the_old_one_and_says_so(
    plain_manager: ServiceManager, env: dict[str, str]
) -> None:
    """config.rejected names the file and the key; the models stay; the reload ends."""
    path = write_config(env, CONFIG)
    with running_daemon(env) as process:
        plain_manager.wait_for_word("READY")
        control = control_socket(env)

        def break_it() -> None:
            path.write_text("ofline = true\n")
            process.send_signal(signal.SIGHUP)

        rejected = first_event(control, e.ConfigRejected, after=break_it)
        assert rejected.path == str(path)
        assert "did you mean `offline`?" in rejected.detail
        plain_manager.wait_for_word("RELOADING")
        plain_manager.wait_for_word("READY")
        assert set(Client(control).state().models) == {"tests--one"}
        assert stop(process, plain_manager)[0] == 0


def test_a_changed_file_is_taken_without_a_signal(plain_manager: ServiceManager, env: dict[str, str]) -> None:
    """The file is watched."""
    path = write_config(env, CONFIG)
    with running_daemon(env) as process:
        plain_manager.wait_for_word("READY")
        # Watching begins a moment after READY, and nothing tells when: write until it is seen.
        follower = Follower(lambda: control_socket(env))
        seen = None
        for line in follower:
            if isinstance(line, e.ConfigReloaded):
                seen = line
                break
            if isinstance(line, e.Live | e.Bookmark):
                path.write_text(CONFIG + '[[models]]\nmodel = "tests/two"\n')
        follower.close()
        assert seen is not None
        assert seen.models == ("tests/one", "tests/two")
        assert stop(process, plain_manager)[0] == 0


def test_an_unusable_configuration_at_the_start_is_not_to_be_restarted(env: dict[str, str]) -> None:
    """Exit code 78 with the reason; the unit names it in RestartPreventExitStatus=."""
    write_config(env, "models = 3\n")
    with running_daemon(env) as process:
        code, errors = ended(process)
    assert code == 78
    assert errors.startswith("error[E_CONFIG]")


def test_a_service_manager_that_does_not_listen_changes_nothing(env: dict[str, str], tmp_path: Path) -> None:
    """A failed notify is never fatal."""
    env["NOTIFY_SOCKET"] = str(tmp_path / "nobody")
    listener, path = listening(tmp_path, "control")
    with listener, running_daemon(env, sockets=[("control", listener)]) as process:
        assert get(path, "/healthz") == (200, {"status": "ok"})
        process.send_signal(signal.SIGTERM)
        assert ended(process)[0] == 0


def listening(folder: Path, name: str) -> tuple[socket.socket, Path]:
    path = folder / f"{name}.sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(16)
    return listener, path


@pytest.mark.fault("K9")
def test_sockets_handed_over_are_served_by_role_and_outlive_the_daemon(
    plain_manager: ServiceManager, env: dict[str, str], tmp_path: Path
) -> None:
    """In any order, named by FileDescriptorName=, in a folder it may not write; a restart refuses no client."""
    folder = tmp_path / "handed"
    folder.mkdir()
    (events, events_path), (control, control_path) = listening(folder, "events"), listening(folder, "control")
    handed = [("events", events), ("control", control)]
    with events, control:
        for _ in range(2):
            with closing(UnixConnection(control_path)) as early:
                early.request("GET", "/v1/version")  # before there is a daemon: it waits in the queue
                with running_daemon(env, sockets=handed) as process:
                    assert json.loads(early.getresponse().read())["pid"] == process.pid
                    plain_manager.wait_for_word("READY")
                    with closing(UnixConnection(events_path)) as reader:
                        reader.request("POST", "/v1/models", b"{}")
                        assert json.loads(reader.getresponse().read())["code"] == "E_READ_ONLY_SOCKET"
                    assert Client(control_path).add(AddModel(model="tests/one")).model == "tests--one"
                    assert stop(process, plain_manager)[0] == 0
            assert sorted(path.name for path in folder.iterdir()) == ["control.sock", "events.sock"]
    assert not control_socket(env).exists()


def test_a_handed_socket_under_a_wrong_name_is_told(
    plain_manager: ServiceManager, env: dict[str, str], tmp_path: Path
) -> None:
    """Nobody would ever answer there: the log says which name was expected, and the daemon listens at its own place."""
    listener, _ = listening(tmp_path, "other")
    with listener, running_daemon(env, sockets=[("qwen.socket", listener)]) as process:
        plain_manager.wait_for_word("READY")
        assert get(control_socket(env), "/healthz")[0] == 200
        _, errors = stop(process, plain_manager)
    assert "FileDescriptorName= must be control or events" in errors


@pytest.mark.fault("C5")
def test_a_second_daemon_refuses_and_names_the_first(plain_manager: ServiceManager, env: dict[str, str]) -> None:
    """On the same state, and on the same socket with a state of its own; the first goes on."""
    with running_daemon(env) as first:
        plain_manager.wait_for_word("READY")
        silent = {name: value for name, value in env.items() if name != "NOTIFY_SOCKET"}
        elsewhere = str(Path(env["HOME"]) / "elsewhere")
        for arguments in (["--socket", f"{elsewhere}/control.sock"], ["--state-dir", elsewhere]):
            with running_daemon(silent, *arguments) as second:
                code, errors = ended(second)
            assert code == 1
            assert errors.startswith("error[E_ALREADY_RUNNING]")
            assert f"pid {first.pid}, socket {control_socket(env)}" in errors
        assert get(control_socket(env), "/healthz")[0] == 200
        assert stop(first, plain_manager)[0] == 0


def test_a_daemon_with_the_sockets_of_systemd_does_not_share_its_state(
    plain_manager: ServiceManager, env: dict[str, str], tmp_path: Path
) -> None:
    """Whoever runs `qwen-daemon` by hand beside the service is told the service's socket."""
    listener, path = listening(tmp_path, "control")
    events, _ = listening(tmp_path, "events")
    with listener, events, running_daemon(env, sockets=[("control", listener), ("events", events)]) as first:
        plain_manager.wait_for_word("READY")
        silent = {name: value for name, value in env.items() if name != "NOTIFY_SOCKET"}
        with running_daemon(silent) as second:
            code, errors = ended(second)
        assert code == 1
        assert f"pid {first.pid}, socket {path}" in errors
        assert stop(first, plain_manager)[0] == 0


@pytest.mark.fault("S7")
def test_the_socket_of_a_killed_daemon_is_taken_over(plain_manager: ServiceManager, env: dict[str, str]) -> None:
    """SIGKILL leaves the file; the next daemon listens there, and what was wanted by command is still wanted."""
    control = control_socket(env)
    with running_daemon(env) as first:
        plain_manager.wait_for_word("READY")
        Client(control).add(AddModel(model="tests/one"))
        first.kill()
        first.wait(DEADLINE_S)
    assert control.exists()
    with running_daemon(env) as second:
        plain_manager.wait_for_word("READY")
        assert get(control, "/v1/version")[1]["pid"] == second.pid
        assert set(Client(control).state().models) == {"tests--one"}
        assert stop(second, plain_manager)[0] == 0
