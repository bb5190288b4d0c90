"""Loads components while the rest of the model still downloads, so that little is left to do after the last byte.

The daemon says which components are complete; each is loaded in a thread once its own files and model_index.json are
proven by their seals (or by a hash, where a seal does not hold). Nothing here ever fails a load: what cannot be loaded
early is left to `Assembly.finish`, which sees every proof again. Who waits for `complete` is `wait`; if that fails,
what was loaded is let go of.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Self

from qwen_api.client import Client, DaemonRefused, DaemonUnreachable
from qwen_api.commands import ModelFiles
from qwen_api.inventory import Stopped
from qwen_api.language import N_, _
from qwen_api.manifest import component_of
from qwen_api.seals import Ready, Seal
from qwen_api.status import ModelStatus
from qwen_api.undecodable import UNDECODABLE
from qwen_loader import evidence, gate
from qwen_loader.assembly import Assembly
from qwen_loader.gate import Candidate, Policy
from qwen_loader.libraries import LoadFailed
from qwen_loader.ready import NotReady
from qwen_loader.snapshot import MODEL_INDEX
from qwen_loader.stored import pick_variant, sum_by_component, weight_paths

ENDING_S = 2.0  # how long a failed wait is held up by a component that is being read


class Overlap:
    """A context manager around the wait; `look` is told the model's state whenever it changes, from any thread."""

    def __init__(
        self,
        assembly: Assembly,
        find_socket: Callable[[], Path],
        *,
        policy: Policy,
        on_order: Callable[[tuple[str, ...]], None],
        on_trouble: Callable[[str, str], None],
    ) -> None:
        """`on_order` is told the order in which components are wanted, `on_trouble` a component and why not now."""
        self._assembly = assembly
        self._find_socket = find_socket
        self._policy = policy
        self._on_order = on_order
        self._on_trouble = on_trouble
        self._memory = evidence.HashMemory()
        self._changed = threading.Condition()
        self._model: ModelStatus | None = None
        self._ending = False
        self._let_go = ""  # why nothing of it is wanted any more
        self._commit = ""
        self._left: set[str] = set()  # what could not be loaded early
        self._thread = threading.Thread(target=self._run, name="overlap", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        with self._changed:
            self._ending = True
            if error is not None:
                came_not = N_("the model did not come: {why}")
                self._let_go = _(came_not, why=error.why) if isinstance(error, NotReady) else _("the wait was ended")
            self._changed.notify()
        # A component that is being read is wanted if the model is complete; else it is freed whenever it has been read.
        self._thread.join(ENDING_S if error is not None else None)

    @property
    def is_reading(self) -> bool:
        """A component is still being read, inside torch, which cannot be asked to stop."""
        return self._thread.is_alive()

    def end_reading(self) -> None:
        """After a wait that has failed: return when nothing is being read and all that was loaded is let go of."""
        if self._thread.is_alive():
            self._thread.join()

    def look(self, model: ModelStatus) -> None:
        """This is the model now. Returns at once."""
        with self._changed:
            self._model = model
            self._changed.notify()

    def _run(self) -> None:
        self._load_what_comes()
        if self._let_go:
            self._assembly.free(self._let_go)

    def _load_what_comes(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ending or self._model is not None)
                if self._ending:
                    return
                model, self._model = self._model, None
            if model is not None and model.commit:
                self._consider(model)

    def _consider(self, model: ModelStatus) -> None:
        if model.commit != self._commit:
            self._commit, self._left = model.commit, set()
            self._assembly.free("another commit is downloaded now")
            self._on_order(load_order(model))
        name = next_component(model, self._assembly.held | self._left)
        if name is None:
            return
        try:
            if not self._load(model, name):
                self._left.add(name)
        except (LoadFailed, OSError) as error:  # OSError: its folder was taken away while it was looked at
            self._left.add(name)
            self._on_trouble(name, error.why if isinstance(error, LoadFailed) else str(error))
        with self._changed:  # there may be another one, without any news of the daemon's
            self._model = self._model or model

    def _load(self, model: ModelStatus, name: str) -> bool:
        try:
            answer = Client(self._find_socket()).files(model.model)
        except (DaemonUnreachable, DaemonRefused, *UNDECODABLE):
            return False
        if answer.commit != model.commit or not answer.folder:
            return False
        seals = self._prove(model, name, answer)
        if seals is None:
            self._on_trouble(name, "its files are not proven yet")
            return False
        sizes = {file.path: file.size_bytes for file in model.files.values()}
        self._assembly.load_early(Path(answer.folder), name, sizes, seals)
        return name in self._assembly.held

    def _prove(self, model: ModelStatus, name: str, answer: ModelFiles) -> dict[str, Seal] | None:
        """What the component's files look like, if each of them is proven and nothing forbidden lies beside them."""
        candidate = Candidate(
            repo=model.repo,
            commit=model.commit,
            path=answer.folder,
            source="daemon",
            files=tuple(path for path in model.files if path == MODEL_INDEX or component_of(path) == name),
        )
        known = Ready(
            repo=model.repo,
            revision=model.revision,
            commit=model.commit,
            path=answer.folder,
            verified="sha256",
            seals=answer.seals,
            has_code=model.has_code,  # what is not complete is not yet judged: the look at the files is what counts
            has_pickle=model.has_pickle,
        )
        for _try in range(2):
            found = evidence.examine(candidate, [known], self._memory)
            verdict = gate.admit(found.candidate, found.proofs, self._policy, found.strays)
            if isinstance(verdict, gate.Admitted):
                return found.seals
            if not isinstance(verdict, gate.ToHash) or found.listing is None:
                return None
            listed = found.listing.by_path()
            wanted = [listed[path] for path in verdict.paths if path in listed]
            try:
                evidence.hash_listed(Path(answer.folder), wanted, self._memory, stop=lambda: self._ending)
            except Stopped:
                return None
        return None


def load_order(model: ModelStatus) -> tuple[str, ...]:
    """The components with weights, by what a load reads of each, the largest first.

    Loading takes its time by the byte: with the largest first, the least is left to load after the last byte.
    """
    sizes = {file.path: file.size_bytes for file in model.files.values()}
    return tuple(sum_by_component(sizes, weight_paths(sizes, pick_variant(sizes))))


def next_component(model: ModelStatus, done: Collection[str]) -> str | None:
    """The component to load now: one whose every file is verified, in `load_order`; None while there is none."""
    index = model.files.get(MODEL_INDEX)
    if index is None or not index.is_verified or model.state not in ("downloading", "waiting"):
        return None
    order = load_order(model)
    ranks = {name: rank for rank, name in enumerate(order)}
    complete = [part.name for part in model.components() if part.is_complete and part.name and part.name not in done]
    return min(complete, key=lambda name: (ranks.get(name, len(order)), name), default=None)
