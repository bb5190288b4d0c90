"""The real `qwen-daemon` as a process of its own, in directories of its own, and an ear on its event stream.

    with Running(tmp_path, endpoint=hub.endpoint, models=["org/name"]) as daemon:
        daemon.wait_complete("org--name")

It runs with a token that is a canary, and at the end nothing it left may hold it: see canary.

Nothing here sleeps to wait: start-up is awaited on the service manager's socket (READY=1) and on the process itself,
everything later on the event stream. Whatever happens, the process is gone when the context is left.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from qwen_api import events as e
from qwen_api import places
from qwen_api.client import Client, Disconnected, Follower
from qwen_api.commands import AddModel
from qwen_api.status import ModelStatus, Status
from tests import canary

WAIT_S = 30.0  # in a test, what takes longer will never happen

E = TypeVar("E")


class Exited(AssertionError):
    """The daemon ended before it was ready; `code` is its exit code."""

    def __init__(self, code: int, stderr: str) -> None:
        super().__init__(f"the daemon exited with {code}: {stderr}")
        self.code = code


class Running:
    """One daemon's directories, and its process while it runs. It may be started again after `stop` or `kill`.

    `events` are all durable events of the present (or last) process and the progress that was seen; `stderr` is
    everything that all its processes wrote. `config` is appended to the configuration file. `env` may name a token.
    `gaps` are those in the stream.
    """

    def __init__(
        self,
        root: Path,
        *,
        endpoint: str,
        models: Iterable[str | AddModel] = (),
        config: str = "",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.root = root
        self.cache = root / "hf" / "hub"
        self.state_dir = root / "state" / places.APP
        self.config_file = root / "config.toml"
        self.env = _environment(root, endpoint) | dict(env or {})
        self.events: list[e.Event] = []
        self.gaps: list[e.Gap] = []
        self.arguments: list[str] = []
        self.under: list[str] = []  # a command that runs it, such as strace -D
        self._process: subprocess.Popen[bytes] | None = None
        self._follower: Follower | None = None
        self._ear: threading.Thread | None = None
        self._changed = threading.Condition()
        root.mkdir(parents=True, exist_ok=True)
        canary.plant(self.env)
        self.configure(models, config)

    # Life

    def configure(self, models: Iterable[str | AddModel], more: str = "") -> None:
        """Write the configuration file: these models, and `more` in front of them."""
        texts = [more or "[disk]\nreserve_bytes = 0\n"]
        for model in models:
            wanted = AddModel(model=model) if isinstance(model, str) else model
            # TOML's strings and arrays are JSON's, for what stands in these.
            facts = msgspec.to_builtins(wanted).items()
            texts.append("\n".join(["[[models]]", *(f"{name} = {json.dumps(fact)}" for name, fact in facts)]))
        beside = self.config_file.with_suffix(".new")
        beside.write_text("\n".join(texts))
        beside.replace(self.config_file)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if kind is None:
            self.keeps_secrets()

    def start(self) -> None:
        """Start it and return when its sockets answer. Raises Exited if it ends instead."""
        self.events, self.gaps = [], []
        with _notify_socket(self.root / "notify") as notify:
            self._process = self.popen("--config", str(self.config_file))
            _await_ready(notify, self._process, lambda: self.stderr)
        canary.refuse_in_process(self.pid, [secret for secret in self._secrets if secret not in self.env.values()])
        epoch = self.client.version().epoch
        self._follower = Follower(lambda: self.control, since=0, epoch=epoch)
        self._ear = threading.Thread(target=self._listen, args=(self._follower,), name="ear")
        self._ear.start()

    def popen(self, *arguments: str) -> subprocess.Popen[bytes]:
        """The command with these arguments, in this daemon's environment."""
        command = [*self.under, sys.executable, "-m", "qwen_daemon", *arguments, *self.arguments]
        with (self.root / "stderr").open("ab") as stderr, (self.root / "stdout").open("ab") as stdout:
            return subprocess.Popen(command, env=self.env, stdout=stdout, stderr=stderr, cwd=self.root)

    def run(self, *arguments: str, timeout: float = WAIT_S) -> int:
        """The command with these arguments, to its end; returns its exit code."""
        process = self.popen(*arguments)
        try:
            return process.wait(timeout)
        finally:
            _end(process)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(WAIT_S)
        self.kill()
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self._process is not None:
            _end(self._process)
            self._process = None
        if self._follower is not None and self._ear is not None:
            self._follower.close()
            self._ear.join()
            self._follower = self._ear = None

    def keeps_secrets(self) -> None:
        """Nothing that it said or left in its folders holds its token or a signed address; raises canary.Leaked."""
        with self._changed:
            events = msgspec.json.encode(self.events)
        canary.refuse({"an event": events}, self._secrets)
        canary.refuse_in_files(self.root, self._secrets)

    @property
    def _secrets(self) -> tuple[str, ...]:
        own = self.env.get("HF_TOKEN", "")
        return (*canary.PLANTED, own) if own else canary.PLANTED

    # What it says

    @property
    def control(self) -> Path:
        """Its control socket."""
        return self.root / "run" / places.APP / places.CONTROL_SOCKET

    @property
    def client(self) -> Client:
        """Commands and questions."""
        return Client(self.control)

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    @property
    def stderr(self) -> str:
        """Everything its processes wrote there."""
        return (self.root / "stderr").read_text(errors="replace")

    @property
    def status(self) -> Status:
        """Its state as its events tell it."""
        assert self._follower is not None, "it does not run"
        return self._follower.status

    def model(self, key: str) -> ModelStatus:
        """The state of one model."""
        return self.status.models[key]

    @property
    def mark(self) -> int:
        """A point in the stream: events behind it have a greater index."""
        with self._changed:
            return len(self.events)

    def seen(self, kind: type[E], *, after: int = 0, **facts: object) -> list[E]:
        """The events of this type with these facts, behind a mark."""
        with self._changed:
            events = self.events[after:]
        return [event for event in events if isinstance(event, kind) and _has(event, facts)]

    def wait_for(self, happened: Callable[[], object], what: object = "", *, timeout: float = WAIT_S) -> None:
        """Return when `happened()`, which is asked at every event; AssertionError with all that was seen, if never."""
        with self._changed:
            if self._changed.wait_for(happened, timeout):
                return
            told = "\n".join(f"  {msgspec.json.encode(event).decode()[:300]}" for event in self.events[-40:])
        raise AssertionError(f"never seen: {what}\nevents:\n{told}\nstderr:\n{self.stderr[-4000:]}")

    def wait_event(self, kind: type[E], *, after: int = 0, timeout: float = WAIT_S, **facts: object) -> E:
        """The first event of this type with these facts behind a mark."""
        wanted = f"{kind.__name__} {facts}"
        self.wait_for(lambda: bool(self.seen(kind, after=after, **facts)), wanted, timeout=timeout)
        return self.seen(kind, after=after, **facts)[0]

    def wait_complete(self, key: str, *, after: int = 0, timeout: float = WAIT_S) -> e.ModelComplete:
        """The model is complete (again, if `after` is a mark)."""
        return self.wait_event(e.ModelComplete, after=after, timeout=timeout, model=key)

    def wait_state(self, key: str, state: str, *, after: int = 0, timeout: float = WAIT_S) -> e.ModelStateChanged:
        """The model is said to be in this state."""
        return self.wait_event(e.ModelStateChanged, after=after, timeout=timeout, model=key, state=state)

    def _listen(self, follower: Follower) -> None:
        for line in follower:
            with self._changed:
                if isinstance(line, Disconnected):
                    self._changed.notify_all()
                    return
                if isinstance(line, e.Gap):
                    self.gaps.append(line)
                if not isinstance(line, e.Unknown | e.Hello | e.Snapshot | e.Gap | e.Live | e.Bookmark):
                    self.events.append(line)
                self._changed.notify_all()


def _environment(root: Path, endpoint: str) -> dict[str, str]:
    """Nothing of the caller's but where programs are: its token, cache and configuration are none of ours."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        "HOME": str(root / "home"),
        "HF_HOME": str(root / "hf"),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_XET": "1",
        "XDG_STATE_HOME": str(root / "state"),
        "XDG_RUNTIME_DIR": str(root / "run"),
        "XDG_CONFIG_HOME": str(root / "config"),
        "NOTIFY_SOCKET": str(root / "notify"),
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _notify_socket(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(path))
    return listener


def _await_ready(notify: socket.socket, process: subprocess.Popen[bytes], stderr: Callable[[], str]) -> None:
    end = os.pidfd_open(process.pid)
    try:
        while True:
            ready, _, _ = select.select([notify.fileno(), end], [], [], WAIT_S)
            if notify.fileno() in ready:
                if b"READY=1" in notify.recv(4096).split(b"\n"):
                    return
            elif end in ready:
                raise Exited(process.wait(), stderr())
            else:
                raise AssertionError(f"the daemon was never ready: {stderr()}")
    finally:
        os.close(end)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait(WAIT_S)


def _has(event: object, facts: Mapping[str, object]) -> bool:
    return all(getattr(event, name) == value for name, value in facts.items())
