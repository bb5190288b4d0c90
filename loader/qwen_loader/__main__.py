"""qwen-loader: waits for a verified model, then loads it, edits a picture with it, or becomes another command.

Standard output carries the result only (a path, or one JSON object), standard error everything else. The main thread
attends to signals, prints and reports; `job` does the work in a thread of its own; torch is imported only there.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NoReturn

import msgspec

from qwen_api.commands import LoaderReport
from qwen_api.language import N_, _, choose, speak
from qwen_api.snapshots import snapshot_parts
from qwen_api.streams import open_streams, settle
from qwen_loader import words
from qwen_loader.arguments import Asked, UsageError, read_arguments
from qwen_loader.arrival import Later, Ordered, report_of, text_of
from qwen_loader.assembly import Dropped, Loaded, Placed
from qwen_loader.gate import Policy, Waiting
from qwen_loader.job import Failure, InMemory, Job, Loading, News, Outcome, Stepped
from qwen_loader.libraries import LoadFailed
from qwen_loader.presence import Presence
from qwen_loader.ready import NotReady, ReadyModel
from qwen_loader.ticker import Ticker
from qwen_loader.updates import Updates

ENDING_S = 2.0  # how long the waiting thread may take to end after a signal; loading is not waited for

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)  # and what is ignored stays so over exec


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, or never where it becomes COMMAND."""
    open_streams()
    given = sys.argv[1:] if argv is None else argv
    speak(choose(given, os.environ, sys.stdout.encoding))
    try:
        return _run(given)
    except KeyboardInterrupt:  # before anybody attended to signals: arguments and pictures are read first
        return words.EXIT_SIGNAL + signal.SIGINT


def _run(given: Sequence[str]) -> int:
    try:
        asked = read_arguments(given)
    except UsageError as error:
        _print_error("E_USAGE", _("the command cannot be understood"), str(error), error.fix or "qwen-loader --help")
        return words.EXIT_USAGE
    if asked.command and shutil.which(asked.command[0]) is None:
        return _no_command(asked.command[0])
    with Presence(asked.name, asked.ref.key, socket=asked.socket) as presence:
        return _Attendant(asked, presence).attend()


class _Attendant:
    """Stays in the main thread: hears the job and the signals, prints, reports, and decides the exit code."""

    def __init__(self, asked: Asked, presence: Presence) -> None:
        self._asked = asked
        self._presence = presence
        # SimpleQueue.put is reentrant: the one thing a signal handler may safely call.
        self._inbox: SimpleQueue[News | ReadyModel | signal.Signals] = SimpleQueue()
        self._job = Job(asked, self._inbox.put)
        self._thread = threading.Thread(target=self._job.run, name="job", daemon=True)
        self._components: tuple[str, ...] = ()
        self._is_in_memory = False
        self._ticker = Ticker(_print, time.monotonic)
        # What nohup or a shell's `&` had ignored stays so, for the loader and for COMMAND after it.
        self._heard = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]

    def attend(self) -> int:
        for number in self._heard:
            signal.signal(number, lambda received, _: self._inbox.put(signal.Signals(received)))
        if self._asked.command and os.getpid() == 1:  # what dies in a container is its PID 1's to take away
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        self._report(LoaderReport(state="waiting"))
        self._thread.start()
        while True:
            match self._next():
                case signal.Signals() as received:
                    return self._interrupted(received)
                case Waiting() | Loaded() as moving:
                    fix = moving.fix if isinstance(moving, Waiting) else ""
                    about = moving.why if isinstance(moving, Waiting) else moving.component
                    self._ticker.tell(text_of(moving), about=about, fix=fix)
                    self._report(report_of(moving))
                case Ordered() as ordered:
                    self._components = ordered.components
                    self._report(report_of(ordered))
                case Placed() | Later() | Dropped() as step:
                    _print(text_of(step))
                    self._report(report_of(step))
                case Loading() as loading:
                    self._ticker.end()
                    self._begin(loading)
                case InMemory() as in_memory:
                    self._ticker.end()
                    self._say_ready(in_memory)
                case Stepped() as stepped:
                    _print(_("editing: step {step} of {steps}", step=stepped.step, steps=stepped.steps))
                case Failure() as failure:
                    return self._failed(failure.error)
                case Outcome() as outcome:
                    return self._done(outcome)

    def _next(self) -> News | ReadyModel | signal.Signals:
        while True:
            try:
                return self._inbox.get(timeout=self._ticker.due_in_s())
            except Empty:
                self._ticker.print_due()

    def _report(self, report: LoaderReport | None) -> None:
        if report is not None:
            self._presence.say(msgspec.structs.replace(report, components=self._components))

    # Each kind of news.

    def _begin(self, loading: Loading) -> None:
        detail = ""
        if loading.fallback is not None:
            detail = f"unverified, from the Hub: {loading.fallback.code}"
            why = words.printable(loading.fallback.why)
            words_of_it = N_("warning: {ref} is loaded from the Hub, UNVERIFIED, because the daemon gave up: {why}")
            _print(_(words_of_it, ref=self._asked.ref, why=why))
        if not self._asked.command:
            self._report(LoaderReport(state="loading", detail=detail))

    def _say_ready(self, loaded: InMemory) -> None:
        self._is_in_memory = True
        detail = "unverified, from the Hub" if loaded.ready.source == "hub" else ""
        self._report(LoaderReport(state="ready", device=loaded.device, vram_bytes=loaded.vram_bytes, detail=detail))

    def _done(self, outcome: Outcome) -> int:
        if self._asked.command:
            return self._become(outcome.ready)
        try:
            self._print_result(outcome)
        except OSError as error:
            _print_error("E_IO", _("the result cannot be written"), str(error), _("check the paths and the disk"))
            return words.EXIT_OTHER
        if not self._asked.keep:
            return words.EXIT_OK
        _print(_("ready: holding the pipeline until a signal"))
        with Updates(
            self._asked.ref,
            outcome.ready.commit,
            self._inbox.put,
            socket=self._asked.socket,
            policy=self._asked.policy,
            cache_dir=self._asked.cache_dir,
        ):
            while True:
                match self._inbox.get():
                    case signal.Signals():
                        return words.EXIT_OK
                    case ReadyModel() as newer:
                        facts = {"commit": newer.commit, "ref": self._asked.ref, "path": newer.path}
                        _print(_("update: commit {commit} of {ref} is complete: {path}", **facts))
                        if self._asked.until_update:
                            return words.EXIT_OK

    def _failed(self, error: BaseException) -> int:
        code, why, fix = "E_INTERNAL", f"{type(error).__name__}: {error}", "run it again with --debug and report it"
        if isinstance(error, NotReady | LoadFailed):
            code, why, fix = error.code, error.why, error.fix
        elif isinstance(error, OSError):
            code, fix = "E_IO", "check the paths and the disk"
        missing = error.missing if isinstance(error, NotReady) else ()
        self._presence.leave("failed", words.for_daemon(code, why))
        if missing and words.names_text(missing) not in why:
            why = f"{why}: {words.names_text(missing)}"
        why, fix = words.of_code(code, why, fix)
        words_of_it = N_("the picture was not made") if self._is_in_memory else N_("{ref} is not ready")
        _print_error(code, _(words_of_it, ref=self._asked.ref), why, fix)
        if self._asked.debug:
            traceback.print_exception(error)
        if self._asked.json:
            problem = {"code": code, "why": why, "fix": fix, "missing": missing}
            with suppress(OSError):
                _print_json({"model": str(self._asked.ref), "state": "failed", "error": problem})
        if self._job.is_reading:
            _end_now(words.exit_code(code))
        return words.exit_code(code)

    def _interrupted(self, received: signal.Signals) -> int:
        code = words.EXIT_SIGNAL + received
        self._job.close()
        self._thread.join(ENDING_S)
        if self._thread.is_alive() or self._job.is_reading:
            self._presence.leave("gone", received.name)
            _end_now(code)
        return code

    def _become(self, ready: ReadyModel) -> int:
        self._presence.leave("gone", f"became {self._asked.command[0]}")
        self._thread.join()
        environment = command_environment(os.environ.copy(), ready, self._asked.policy)
        # From here on a signal is COMMAND's: it is held back until COMMAND's own disposition is in force.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        received = self._signal_in_inbox()
        if received is not None:
            return words.EXIT_SIGNAL + received
        for number in (*self._heard, *_IGNORED_BY_PYTHON, *([signal.SIGCHLD] if os.getpid() == 1 else [])):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        command = self._asked.command
        try:
            os.execvpe(command[0], command, environment)  # noqa: S606  # the user's own command, no shell
        except OSError as error:
            return _cannot_run(command[0], str(error))

    def _signal_in_inbox(self) -> signal.Signals | None:
        while True:
            try:
                news = self._inbox.get_nowait()
            except Empty:
                return None
            if isinstance(news, signal.Signals):
                return news

    # Printing.

    def _print_result(self, outcome: Outcome) -> None:
        ready = outcome.ready
        if self._asked.json:
            _print_json(
                {
                    "model": str(self._asked.ref),
                    "state": "ready",
                    **{name: value for name, value in msgspec.to_builtins(ready).items() if name != "seals"},
                    "device": outcome.loaded.device if outcome.loaded else "",
                    "dtype": outcome.loaded.dtype if outcome.loaded else "",
                    "picture": str(outcome.picture) if outcome.picture else "",
                    "wait_s": round(outcome.wait_s, 3),
                    "load_s": round(outcome.load_s, 3),
                    "edit_s": round(outcome.edit_s, 3),
                }
            )
            return
        unverified = " (unverified)" if ready.source == "hub" else ""
        _print_out(f"{outcome.picture or ready.path or ready.repo}{unverified}")


def _end_now(code: int) -> NoReturn:
    """Without waiting for what is inside torch and cannot be asked to stop."""
    os._exit(code)


def command_environment(environment: dict[str, str], ready: ReadyModel, policy: Policy) -> dict[str, str]:
    """COMMAND's environment: offline, the snapshot's path, and the cache it lies in, so that repository ids work.

    Where code was not let in, diffusers is told so too.
    """
    parts = snapshot_parts(Path(ready.path))
    cache = {"HF_HUB_CACHE": str(parts.cache)} if parts is not None else {}
    code = {} if policy.allow_code else {"DIFFUSERS_DISABLE_REMOTE_CODE": "1"}
    return {**environment, **cache, **code, "HF_HUB_OFFLINE": "1", "QWEN_MODEL_PATH": ready.path}


def _no_command(name: str) -> int:
    """The codes of a shell, before an hour has been waited for it."""
    if os.path.exists(name) and "/" in name:  # noqa: PTH110  # "./x" and "x" are not the same command
        return _cannot_run(name, _("it is no file that may be run"))
    what = _("{command!r} cannot be run", command=name)
    _print_error("E_NO_COMMAND", what, _("no such command"), _("check the part after '--'"))
    return words.EXIT_NO_COMMAND


def _cannot_run(name: str, why: str) -> int:
    what = _("{command!r} cannot be run", command=name)
    _print_error("E_CANNOT_RUN", what, why, _("check its permissions"))
    return words.EXIT_CANNOT_RUN


def _print(text: str) -> None:
    """What is only told stops nothing: a log's disk is full exactly when a model comes to it."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _print_error(code: str, what: str, why: str, fix: str) -> None:
    _print(words.error_text(code, what, why, fix))


def _print_json(value: dict[str, object]) -> None:
    _print_out(msgspec.json.encode(value).decode())


def _print_out(text: str) -> None:
    """Raises OSError, but not where nobody listens any more."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        settle()
    except OSError:
        settle()
        raise


if __name__ == "__main__":
    sys.exit(main())
