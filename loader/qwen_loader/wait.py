"""One wait for one model: follows the daemon for ever, and looks for itself while none answers.

While no daemon answers, its ready file and then the disk itself are asked, so a model that is here is loaded without
a daemon. `gate` decides, `evidence` looks; this module asks, adds, verifies and waits. Telling the daemon how the
loader fares is left to `presence`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from qwen_api import places
from qwen_api.client import (
    RETRY_MAX_S,
    Client,
    DaemonRefused,
    DaemonUnreachable,
    Disconnected,
    Follower,
    Line,
    find_socket,
)
from qwen_api.commands import AddModel
from qwen_api.events import Gap, Hello, ModelComplete, ModelRemoved, Snapshot, Unknown
from qwen_api.inventory import Stopped
from qwen_api.language import _
from qwen_api.models import ModelRef
from qwen_api.seals import Ready, Seal
from qwen_api.status import ModelStatus
from qwen_api.undecodable import UNDECODABLE
from qwen_loader import evidence, gate, words
from qwen_loader.gate import Broken, Candidate, Policy, Waiting
from qwen_loader.patience import TO_MEND, Patience
from qwen_loader.ready import ModelUnavailable, NotReady, ReadyModel, ReadyTimeout, WaitClosed

VERIFY_TRIES_MAX = 2  # asked to verify the same damage more often than this, the daemon and we do not see one disk
VERIFIED = "sha256"  # git-sha1 for the small files that the Hub keeps in git; sha256 for every weight
_TIMEOUT = "E_WAIT_TIMEOUT"
# Without a daemon these are what is wrong, and not that too little time was given.
_TIME_IS_NO_CURE = ("E_DAEMON_DOWN", "E_SOCKET_DENIED", "E_PROTOCOL", "E_CORRUPT", "E_NO_LISTING")

OnEvent = Callable[[Waiting], None]
OnModel = Callable[[ModelStatus], None]


class Wait:
    """One wait for one model. `run()` in one thread; `close()` from any, except from inside a signal handler."""

    def __init__(
        self,
        ref: ModelRef,
        *,
        timeout_s: float | None = None,
        on_event: OnEvent | None = None,
        socket: Path | None = None,
        env: Mapping[str, str] | None = None,
        policy: Policy | None = None,
        cache_dir: Path | None = None,
        on_model: OnModel | None = None,
        patience_s: float | None = None,
    ) -> None:
        """`on_model` is given the daemon's whole word on a model that is not complete yet, with each line.

        `patience_s`: end with what is wrong after so long without any daemon in which nobody wrote to the cache,
        although files of the model there are missing or damaged; None: never.
        """
        self._ref = ref
        self._env = os.environ if env is None else env
        self._socket = socket
        self._policy = policy or Policy()
        self._timeout_s = timeout_s
        self._patience = Patience(patience_s)
        self._lost: Disconnected | None = None  # while no daemon answers
        self._on_event = on_event
        self._on_model = on_model
        self._cache = cache_dir or places.hub_cache(self._env)
        self._follower = Follower(self._find)
        self._memory = evidence.HashMemory()
        self._last: Waiting | None = None
        self._greeted = False  # a snapshot has come over the present connection
        self._met = False  # a daemon has answered at some time
        self._asked_to_add = False
        self._verify_tries = 0
        self._verify_since: int | None = None  # `complete` counts again from this event on
        self._expired = threading.Event()
        self._closed = threading.Event()

    def run(self) -> ReadyModel:
        """Wait. Raises ModelUnavailable, ReadyTimeout, or WaitClosed after `close()`."""
        timer = threading.Timer(self._timeout_s or 0.0, self._expire)
        timer.daemon = True
        if self._timeout_s:
            timer.start()
        try:
            for line in self._follower:
                ready = self._consider(line)
                if ready is not None:
                    return ready
                if self._timeout_s == 0 and (self._greeted or isinstance(line, Disconnected)):
                    self._expired.set()
                    break
        except Stopped:
            pass
        finally:
            timer.cancel()
            self._follower.close()
        raise self._why_it_ended()

    def close(self) -> None:
        """End `run()` at once, also in the middle of hashing."""
        self._closed.set()
        self._follower.close()

    def _expire(self) -> None:
        self._expired.set()
        self._follower.close()

    def _is_over(self) -> bool:
        return self._closed.is_set() or self._expired.is_set()

    def _why_it_ended(self) -> NotReady:
        last = self._last
        if self._closed.is_set() or not self._expired.is_set():
            return WaitClosed("E_CLOSED", "the wait was closed", "")
        if last is None:
            return ReadyTimeout(
                "E_TIMEOUT", "the daemon did not answer in time", "journalctl -u qwen-daemon", waiting=None
            )
        return ReadyTimeout(
            last.code if last.code in _TIME_IS_NO_CURE and not self._met else _TIMEOUT,
            last.text + (f": {words.names_text(last.missing)}" if last.missing else ""),
            last.fix or f"wait longer, or look at it with: qwenctl status {self._ref}",
            waiting=last,
        )

    def _find(self) -> Path:
        return find_socket(self._env, self._socket)

    # One line of the stream, one decision.

    def _consider(self, line: Line | Disconnected) -> ReadyModel | None:
        match line:
            case Disconnected():
                self._greeted = False
                return self._alone(line)
            case Hello():
                self._met, self._greeted, self._asked_to_add, self._verify_since = True, False, False, None
                self._lost = None
                return None
            case Gap() | Unknown():
                return None
            case Snapshot():
                self._greeted = True
                if self._verify_since is not None and line.seq > self._verify_since:
                    self._verify_since = None
            case ModelRemoved() if line.model == self._ref.key:
                raise ModelUnavailable(
                    "E_MODEL_REMOVED", "somebody told the daemon to forget the model", f"qwenctl add {self._ref}"
                )
            case ModelComplete() if self._verify_since is not None and line.seq >= self._verify_since:
                self._verify_since = None
        return self._ask_daemon() if self._greeted else None

    def _ask_daemon(self) -> ReadyModel | None:
        found = gate.find_candidate(self._ref, self._follower.status, None, None)
        match found:
            case gate.AskToAdd():
                return self._add()
            case Broken():
                raise self._unavailable(found)
            case Waiting():
                self._verify_since = None  # it looks again: the next `complete` is a new one
                self._tell(found)
                self._show_model()
                return None
        if self._verify_since is not None:
            return None
        model = gate.pick_model(self._follower.status, self._ref)
        key = model.model if model is not None else self._ref.key
        return self._prove(found, evidence.read_ready_files(self._env, key, *self._state_dirs()))

    def _show_model(self) -> None:
        model = gate.pick_model(self._follower.status, self._ref)
        if model is not None and self._on_model is not None:
            self._on_model(model)

    def _state_dirs(self) -> tuple[Path, ...]:
        """Where ready files may be besides this user's and the system's state: `qwenctl download`'s, the daemon's."""
        private = places.private_state_dir(self._env, self._cache)
        try:
            return (private, Path(Client(self._find()).version().state_dir))
        except (DaemonUnreachable, DaemonRefused, *UNDECODABLE):
            return (private,)

    def _add(self) -> ReadyModel | None:
        if self._asked_to_add:
            return None
        self._asked_to_add = True
        try:
            Client(self._find()).add(AddModel(model=str(self._ref)))
        except DaemonUnreachable:
            return None  # the stream will say so too
        except DaemonRefused as refused:
            ready = self._look(patient=True)
            if ready is None:
                why = refused.problem.detail or refused.problem.title
                raise ModelUnavailable(
                    "E_UNKNOWN_MODEL",
                    f"the daemon was not asked for this model, and does not let us ask: {why}",
                    f"qwenctl add {self._ref}",
                ) from refused
            return ready
        self._tell(Waiting(code="", why=_("the daemon was asked for it")))
        return None

    def _alone(self, lost: Disconnected) -> ReadyModel | None:
        # A daemon that was here a moment ago is restarting: it need not be overtaken with hashing of our own.
        patient = not self._met or lost.retry_in_s >= RETRY_MAX_S
        self._lost = lost
        ready = self._look(patient=patient)
        last = self._last
        if ready is None and last is not None and not self._met:
            changed_ns = evidence.last_change_ns(self._cache, self._ref)
            if self._patience.is_over(last, changed_ns, time.monotonic()):
                raise ModelUnavailable(last.code, last.why, last.fix, last.missing)
        return ready

    def _look(self, *, patient: bool) -> ReadyModel | None:
        """Without a daemon: each ready file that fits, then the disk."""
        readies = [
            r
            for r in evidence.read_ready_files(self._env, self._ref.key, *self._state_dirs())
            if r.repo == self._ref.repo
        ]
        for ready in readies:
            proven = self._prove(gate.candidate_of_ready(ready), [ready], hash_now=patient)
            if proven is not None:
                return proven
        found = gate.find_candidate(self._ref, None, None, evidence.look_at_disk(self._cache, self._ref))
        match found:
            case Waiting():
                self._tell(_alone_text(found, self._lost))
            case Candidate() if patient:
                return self._prove(found, readies)
            case Candidate():
                waiting = Waiting(code="E_DAEMON_DOWN", why=_("the daemon was here"), phase="alone")
                self._tell(_alone_text(waiting, self._lost))
        return None

    # A candidate, and what proves it.

    def _prove(self, candidate: Candidate, readies: list[Ready], *, hash_now: bool = True) -> ReadyModel | None:
        while True:
            found = evidence.examine(candidate, readies, self._memory)
            verdict = gate.admit(found.candidate, found.proofs, self._policy, found.strays)
            match verdict:
                case gate.Admitted():
                    return _ready(found.candidate, found.seals)
                case gate.ToHash():
                    if not hash_now:
                        return None
                    if not self._hash(found, verdict.paths):
                        return None
                case gate.Damaged():
                    self._damaged(candidate, verdict.paths)
                    return None
                case Broken(code="E_NO_LISTING") if candidate.source != "daemon":
                    # A daemon that comes later can cure this.
                    self._tell(Waiting(code=verdict.code, why=verdict.why, fix=verdict.fix, phase="alone"))
                    return None
                case Broken():
                    raise self._unavailable(verdict)

    def _hash(self, found: evidence.Examined, paths: tuple[str, ...]) -> bool:
        """Hash what nothing proves; False when nothing came of it (unreadable, or being written to)."""
        listed = found.listing.by_path() if found.listing is not None else {}
        wanted = [listed[path] for path in paths if path in listed]
        folder = Path(found.candidate.path)
        why = _("hashing what no seal proves: {names}", names=", ".join(evidence.components_of(paths)))

        def tell(done_bytes: int, size_bytes: int) -> None:
            self._tell(Waiting(code="", why=why, phase="hashing", done_bytes=done_bytes, size_bytes=size_bytes))

        evidence.hash_listed(folder, wanted, self._memory, progress=tell, stop=self._is_over)
        return all(self._memory.get(folder / file.path) is not None for file in wanted)

    def _damaged(self, candidate: Candidate, paths: tuple[str, ...]) -> None:
        cause = evidence.cause_of(candidate, paths, self._memory)
        why = words.damaged_text(len(paths)) + (f": {cause}" if cause else "")
        damage = Waiting(code="E_CORRUPT", why=why, missing=paths, fix=f"qwenctl verify {self._ref}")
        if candidate.source != "daemon":
            alone = msgspec.structs.replace(damage, phase="alone", fix=f"qwenctl download {self._ref}")
            self._tell(_alone_text(alone, self._lost))
            return
        self._verify_tries += 1
        broken = Broken(code="E_CORRUPT", why=why, fix=damage.fix, findings=paths)
        if self._verify_tries > VERIFY_TRIES_MAX:
            raise self._unavailable(
                msgspec.structs.replace(
                    broken,
                    why=f"{why}, and the daemon calls it complete: it and this process do not see the same files",
                    fix="mount the daemon's cache at the same path here, and test the disk",
                )
            )
        model = gate.pick_model(self._follower.status, self._ref)
        try:
            accepted = Client(self._find()).verify(model.model if model is not None else self._ref.key)
        except DaemonUnreachable:
            return  # the stream will say so too
        except DaemonRefused as refused:
            raise self._unavailable(broken) from refused
        self._verify_since = accepted.seq
        self._tell(msgspec.structs.replace(damage, why=_("{why}; the daemon was asked to verify and repair", why=why)))

    def _tell(self, waiting: Waiting) -> None:
        self._last = waiting
        if self._on_event is not None:
            self._on_event(waiting)

    def _unavailable(self, broken: Broken) -> ModelUnavailable:
        return ModelUnavailable(broken.code, broken.why, broken.fix, broken.findings)


def _alone_text(waiting: Waiting, lost: Disconnected | None) -> Waiting:
    if lost is None:
        return waiting
    if waiting.code in TO_MEND:
        why = _("{why}; nobody repairs it: {lost}", why=waiting.why, lost=lost.why)
        return msgspec.structs.replace(waiting, why=why)
    code = lost.code if waiting.code == "E_DAEMON_DOWN" else waiting.code
    return msgspec.structs.replace(waiting, code=code, why=f"{lost.why}; {waiting.why}", fix=waiting.fix or lost.fix)


def _ready(candidate: Candidate, seals: dict[str, Seal]) -> ReadyModel:
    return ReadyModel(
        repo=candidate.repo,
        commit=candidate.commit,
        path=candidate.path,
        verified=VERIFIED,
        source=candidate.source,
        seals=seals,
    )
