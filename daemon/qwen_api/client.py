"""The one client of the daemon: HTTP/1.1 over its Unix socket with nothing but the standard library and msgspec.

`Client` asks and commands; `Follower` follows the event stream for ever, reconnecting, and keeps the folded status.
aiohttp alone would cost 0.2 s of start-up in every command; asyncio programs run a Follower in a thread and stop it
with `close()`. What a status means to a person is the monitor's business, what it means to a GPU process the loader's.
"""

from __future__ import annotations

import errno
import http.client
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec

from qwen_api import commands, places
from qwen_api.events import (
    WIRE_VERSION,
    BadLine,
    Bookmark,
    Event,
    Frame,
    Gap,
    Hello,
    Live,
    Snapshot,
    Unknown,
    decode_line,
)
from qwen_api.language import _
from qwen_api.status import Status, fold
from qwen_api.undecodable import UNDECODABLE

ANSWER_TIMEOUT_S = 30.0  # a command is answered at once; a daemon scanning a cold disk may take seconds
ASIDE_TIMEOUT_S = 2.0
SILENCE_MAX_S = 20.0  # bookmarks come every 5 s, so four missed ones mean the stream is dead
LINE_BYTES_MAX = 64 << 20  # a snapshot of 100,000 files
RETRY_FIRST_S, RETRY_MAX_S = 0.5, 5.0

SOCKET_PATH_BYTES_MAX = 107  # sun_path holds 108 with the NUL, unix(7)

Line = Event | Frame | Unknown
_T = TypeVar("_T")


class DaemonUnreachable(ConnectionError):
    """No daemon answers. `code` is stable; `why` and `fix` are for people."""

    def __init__(self, code: str, why: str, fix: str) -> None:
        super().__init__(f"{why}; {fix}")
        self.code, self.why, self.fix = code, why, fix


class DaemonRefused(RuntimeError):
    """The daemon understood and said no."""

    def __init__(self, problem: commands.Problem) -> None:
        super().__init__(f"{problem.title}: {problem.detail}" if problem.detail else problem.title)
        self.problem = problem


class Disconnected(msgspec.Struct, frozen=True, kw_only=True):
    """Yielded by a Follower when it has no daemon; it tries again after `retry_in_s`."""

    code: str
    why: str
    fix: str
    retry_in_s: float


def find_socket(env: Mapping[str, str], given: Path | None = None) -> Path:
    """The socket of a running daemon: its control socket, or the read-only one where only that may be opened.

    Raises DaemonUnreachable, which says what was tried and what to do.
    """
    candidates = (given,) if given else places.sockets_to_try(env)
    denied: Path | None = None
    for control in candidates:
        for path in (control, places.events_socket(control)):
            try:
                _connect(path, timeout_s=ANSWER_TIMEOUT_S).close()
            except PermissionError:
                denied = path
            except OSError:
                break  # nobody listens: the daemon behind both sockets is one process
            else:
                return path
    if denied:
        raise _denied(denied)
    tried = ", ".join(str(p) for p in candidates)
    if any(len(os.fsencode(p)) > SOCKET_PATH_BYTES_MAX for p in candidates):
        raise DaemonUnreachable(
            "E_DAEMON_DOWN",
            _(
                "no daemon answers (tried {tried}), and a Unix socket's path has at most {most} bytes",
                tried=tried,
                most=SOCKET_PATH_BYTES_MAX,
            ),
            _("give the daemon a shorter one with --socket PATH, and the clients QWEN_DAEMON_SOCKET=PATH"),
        )
    raise DaemonUnreachable(
        "E_DAEMON_DOWN",
        _("no daemon answers (tried {tried})", tried=tried),
        _("start it with: systemctl start qwen-daemon (system), systemctl --user start qwen-daemon, or: qwen-daemon"),
    )


class Client:
    """Questions and commands to one daemon; each call is one connection.

    All methods raise DaemonUnreachable when nobody answers and DaemonRefused when the answer is a refusal.
    """

    def __init__(self, control: Path, *, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """`timeout_s`: how long an answer may take; ASIDE_TIMEOUT_S where one can do without it."""
        self._control = control
        self._timeout_s = timeout_s

    @property
    def control(self) -> Path:
        """Its socket."""
        return self._control

    def version(self) -> commands.Version:
        """Which daemon this is and where it keeps things."""
        return _decoded(self._ask("GET", "/v1/version", any_wire=True), commands.Version)

    def state(self) -> Status:
        """Everything it knows now."""
        return _decoded(self._ask("GET", "/v1/state"), Status)

    def files(self, model_key: str) -> commands.ModelFiles:
        """A model's files, where they are, and the seals of those that are right."""
        return _decoded(self._ask("GET", _model_url(model_key, "files")), commands.ModelFiles)

    def file(self, model_key: str, path: str) -> commands.FileDetails:
        """One file: where its bytes are, what comes from where, what went wrong."""
        return _decoded(self._ask("GET", _model_url(model_key, f"files/{quote(path)}")), commands.FileDetails)

    def add(self, request: commands.AddModel) -> commands.Accepted:
        """Want a model from now on; wanting it again with other patterns replaces them."""
        return self._command("POST", "/v1/models", request)

    def pause(self, model_key: str) -> commands.Accepted:
        """Stop fetching; what is recorded stays."""
        return self._command("POST", _model_url(model_key, "pause"))

    def resume(self, model_key: str) -> commands.Accepted:
        """Fetch again after a pause."""
        return self._command("POST", _model_url(model_key, "resume"))

    def retry(self, model_key: str) -> commands.Accepted:
        """Cut every wait short and try failed files again now."""
        return self._command("POST", _model_url(model_key, "retry"))

    def update(self, model_key: str) -> commands.Accepted:
        """Take the commit that the followed revision names now (after `model.moved`)."""
        return self._command("POST", _model_url(model_key, "update"))

    def verify(self, model_key: str, *, full: bool = True) -> commands.Accepted:
        """Compare the disk with the listing again; `full` hashes every file, seals or not."""
        return self._command("POST", _model_url(model_key, "verify"), commands.VerifyModel(full=full))

    def pause_files(self, model_key: str, paths: Sequence[str]) -> commands.Accepted:
        """Do not fetch these files (paths, or patterns as in `hf download`) until they are resumed."""
        return self._command("POST", _model_url(model_key, "files/pause"), commands.ChosenFiles(paths=tuple(paths)))

    def resume_files(self, model_key: str, paths: Sequence[str]) -> commands.Accepted:
        """Fetch these files again."""
        return self._command("POST", _model_url(model_key, "files/resume"), commands.ChosenFiles(paths=tuple(paths)))

    def retry_files(self, model_key: str, paths: Sequence[str]) -> commands.Accepted:
        """Try these files now, if they wait between tries or have failed."""
        return self._command("POST", _model_url(model_key, "files/retry"), commands.ChosenFiles(paths=tuple(paths)))

    def prioritise_files(self, model_key: str, paths: Sequence[str], priority: int) -> commands.Accepted:
        """Have these files begun before the model's others of lower priority."""
        asked = commands.SetFilePriority(paths=tuple(paths), priority=priority)
        return self._command("PUT", _model_url(model_key, "files/priority"), asked)

    def set_limits(self, limits: commands.SetLimits) -> commands.Accepted:
        """Change what holds for the whole daemon, until it ends."""
        return self._command("PUT", "/v1/limits", limits)

    def limit(self, model_key: str, rate_limit_bps: int | None) -> commands.Accepted:
        """Give one model a speed limit of its own, or none (None), until the daemon ends."""
        limits = commands.SetModelLimits(rate_limit_bps=rate_limit_bps)
        return self._command("PUT", _model_url(model_key, "limits"), limits)

    def prioritise(self, model_key: str, priority: int) -> commands.Accepted:
        """Have a model's files begun before those of lower priority, until the daemon ends."""
        return self._command("PUT", _model_url(model_key, "priority"), commands.SetPriority(priority=priority))

    def remove(self, model_key: str, *, delete_files: bool = False) -> commands.Accepted:
        """Want the model no more; with `delete_files` its files go too."""
        return self._command("DELETE", _model_url(model_key), commands.RemoveModel(delete_files=delete_files))

    def report_loader(self, name: str, report: commands.LoaderReport) -> commands.Accepted:
        """Tell a loader's own state; allowed on the events socket too."""
        return self._command("PUT", f"/v1/loaders/{quote(name, safe='')}", report)

    def _command(self, method: str, url: str, body: msgspec.Struct | None = None) -> commands.Accepted:
        raw = self._ask(method, url, msgspec.json.encode(body) if body is not None else b"")
        return _decoded(raw, commands.Accepted)

    def _ask(self, method: str, url: str, body: bytes = b"", *, any_wire: bool = False) -> bytes:
        connection = _UnixConnection(self._control, self._timeout_s)
        try:
            connection.request(method, url, body, {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            if not any_wire:
                _check_wire(answer)
            raw = answer.read()
        except DaemonUnreachable:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self._control, error) from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise DaemonRefused(_problem(answer.status, raw))
        return raw


class Follower:
    """Follow the event stream for ever: iterate it for lines and Disconnected notes; `status` is always current.

    `find` gives the socket each time (a restarted daemon may be another one). `since` asks for the backlog of durable
    events behind that number (0: all that are kept); after a reconnection the backlog is asked for by itself. Iterate
    in one thread; `close()` from any thread ends the iteration. `raw` is the last yielded line as the daemon wrote it.
    """

    def __init__(self, find: Callable[[], Path], *, since: int | None = None, epoch: str = "") -> None:
        self.status = Status()
        self.epoch = epoch
        self.connected = False
        self.raw = b""
        self._find = find
        self._since = since
        self._greeted = False
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """End the iteration at once, also while it waits for a line or for the next try."""
        self._closed.set()
        with self._lock:
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError as error:
                    if error.errno != errno.ENOTCONN:
                        raise

    def __iter__(self) -> Iterator[Line | Disconnected]:
        retry_in_s = RETRY_FIRST_S
        while not self._closed.is_set():
            try:
                for line in self._stream():
                    retry_in_s = RETRY_FIRST_S
                    yield line
                lost = DaemonUnreachable("E_DAEMON_DOWN", _("the daemon closed the stream"), _("it may be restarting"))
            except DaemonUnreachable as error:
                lost = error
            self.connected = False
            if self._closed.is_set():
                return
            yield Disconnected(code=lost.code, why=lost.why, fix=lost.fix, retry_in_s=retry_in_s)
            self._closed.wait(retry_in_s)
            retry_in_s = min(RETRY_MAX_S, retry_in_s * 2)

    def _stream(self) -> Iterator[Line]:
        control = self._find()
        connection = _UnixConnection(control, SILENCE_MAX_S)
        try:
            connection.connect()
            with self._lock:
                self._socket = connection.sock
                if self._closed.is_set():  # close() came before there was a socket to shut
                    return
            connection.request("GET", f"/v1/events?{self._query()}", headers={"Accept": "application/x-ndjson"})
            answer = connection.getresponse()
            _check_wire(answer)
            if answer.status != 200:
                problem = _problem(answer.status, answer.read())
                raise DaemonUnreachable(problem.code, problem.title, problem.fix)
            while raw := answer.readline(LINE_BYTES_MAX):
                if not raw.endswith(b"\n"):
                    return  # the daemon died in the middle of a line
                yield self._take(raw)
        except (OSError, http.client.HTTPException, BadLine) as error:
            if isinstance(error, DaemonUnreachable):
                raise
            raise _unreachable(control, error) from error
        finally:
            with self._lock:
                self._socket = None
            connection.close()

    def _query(self) -> str:
        known: dict[str, str | int] = {} if self._since is None else {"since": self._since}
        if self.epoch:
            known["epoch"] = self.epoch
        return urlencode(known)

    def _take(self, raw: bytes) -> Line:
        line = decode_line(raw)
        self.raw = raw
        match line:
            case Hello():
                if line.v != WIRE_VERSION:
                    raise _other_wire(str(line.v))
                self.connected = True
                if self._since is not None and self.epoch not in ("", line.epoch):
                    self._since = 0  # the number was of another epoch's counting
                self.epoch = line.epoch
                self._greeted = False
            case Snapshot():
                self.status = _decoded(bytes(line.state), Status)
                if self._greeted or self._since is None:  # else the backlog is still to come
                    self._since = line.seq
            case Live():
                self._greeted, self._since = True, line.seq
            case Gap() | Bookmark() | Unknown():
                pass
            case _:
                if line.seq > self.status.seq:  # the backlog repeats what the snapshot already holds
                    self.status = fold(self.status, line)
                self._since = max(self._since or 0, line.seq)
        return line


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("qwen-daemon", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = _connect(self._path, timeout_s=self.timeout or ANSWER_TIMEOUT_S)


def _connect(path: Path, *, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Blocking while it connects, bounded by SO_SNDTIMEO: with a timeout of Python's (a non-blocking socket) a full
        # backlog is EAGAIN at once instead of a short wait (unix(7)).
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(timeout_s), 0))
        connection.connect(str(path))
        connection.settimeout(timeout_s)
    except BaseException:
        connection.close()
        raise
    return connection


def _model_url(model_key: str, verb: str = "") -> str:
    url = f"/v1/models/{quote(model_key, safe='')}"
    return f"{url}/{verb}" if verb else url


def _decoded(raw: bytes, kind: type[_T]) -> _T:
    """What the daemon answered. Raises DaemonUnreachable for what this version cannot read: there is no talking."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except UNDECODABLE as error:
        why = _("the daemon's answer cannot be read ({error})", error=error)
        raise DaemonUnreachable("E_DAEMON_DOWN", why, _("it may be of another version: qwenctl version")) from error


def _check_wire(answer: http.client.HTTPResponse) -> None:
    """Raise DaemonUnreachable for a daemon whose answers mean something else than this version reads in them."""
    told = answer.headers.get(commands.WIRE_HEADER, str(WIRE_VERSION))  # the first ones did not say it
    if told != str(WIRE_VERSION):
        raise _other_wire(told)


def _other_wire(told: str) -> DaemonUnreachable:
    theirs = told[:9] if told.isascii() and told.isprintable() else "?"
    why = _("it speaks version {theirs} of the protocol, this program version {ours}", theirs=theirs, ours=WIRE_VERSION)
    is_older = theirs.isdigit() and int(theirs) < WIRE_VERSION
    restart = _("restart it, it is older than what is installed: systemctl restart qwen-daemon")
    update = _("use the programs that were installed with it, or update these: qwenctl version")
    return DaemonUnreachable("E_PROTOCOL", why, restart if is_older else update)


def _problem(status: int, raw: bytes) -> commands.Problem:
    try:
        return msgspec.json.decode(raw, type=commands.Problem)
    except UNDECODABLE:
        text = raw[:200].decode(errors="replace")
        return commands.Problem(title=f"HTTP {status}", status=status, code="E_HTTP", detail=text)


def _unreachable(path: Path, error: Exception) -> DaemonUnreachable:
    if isinstance(error, PermissionError):
        return _denied(path)
    why = _("no daemon answers on {path} ({error})", path=path, error=error)
    return DaemonUnreachable("E_DAEMON_DOWN", why, _("is it running?"))


def _denied(path: Path) -> DaemonUnreachable:
    """Three cases: the group is ours but not this session's, it can be joined, or the socket is one user's alone."""
    group, is_listed = _group_of(path)
    if is_listed:
        fix = _(
            "you are in its group {group}, but this session is older: log in again, or: newgrp {group}", group=group
        )
    elif path.parent == places.SYSTEM_RUNTIME_DIR:
        fix = _("join its group: sudo usermod -aG qwen-admin $USER (or qwen, only to watch), then log in again")
    elif group:
        fix = _("join its group: sudo usermod -aG {group} $USER, then log in again", group=group)
    else:
        fix = _("it is another user's daemon: be that user, or start your own")
    return DaemonUnreachable("E_SOCKET_DENIED", _("you may not open {path}", path=path), fix)


def _group_of(path: Path) -> tuple[str, bool]:
    """The group that may open the socket, and whether we are listed in it; "" if there is none, or only its owner's."""
    import grp
    import pwd

    try:
        facts = path.stat()
        group, owner = grp.getgrgid(facts.st_gid), pwd.getpwuid(facts.st_uid)
        user = pwd.getpwuid(os.geteuid()).pw_name
    except (OSError, KeyError):  # a folder that may not be looked into; a number without a name
        return "", False
    is_shared = bool(facts.st_mode & stat.S_IWGRP) and group.gr_name != owner.pw_name
    return (group.gr_name, user in group.gr_mem) if is_shared else ("", False)
