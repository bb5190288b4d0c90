"""Tells a program that holds a model when a newer commit of it is complete and proven.

Whether the daemon fetches newer commits by itself is its `follow` policy's business (`qwenctl add --follow auto`, or
`qwenctl update`); whether a running process takes one is its own. Here it only hears of it, in a thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from qwen_api.client import Disconnected, Follower, find_socket
from qwen_api.models import ModelRef
from qwen_api.status import ModelStatus
from qwen_loader import gate
from qwen_loader.gate import Policy
from qwen_loader.ready import NotReady, ReadyModel
from qwen_loader.wait import Wait

OnUpdate = Callable[[ReadyModel], None]


class Updates:
    """While this context lasts, `on_update` is called in a thread with each newer commit of `ref`, once each."""

    def __init__(
        self,
        ref: ModelRef,
        commit: str,
        on_update: OnUpdate,
        *,
        socket: Path | None = None,
        env: Mapping[str, str] | None = None,
        policy: Policy | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        self._ref = ref
        self._commit = commit
        self._on_update = on_update
        self._env = os.environ if env is None else env
        self._socket = socket
        self._policy = policy
        self._cache_dir = cache_dir
        self._lock = threading.Lock()
        self._closed = False
        self._proving: Wait | None = None
        self._looked_at: ModelStatus | None = None  # what was refused is looked at again once it has changed
        self._follower = Follower(lambda: find_socket(self._env, self._socket))
        self._thread = threading.Thread(target=self._follow, name="updates", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            if self._proving is not None:
                self._proving.close()
        self._follower.close()
        self._thread.join()

    def _follow(self) -> None:
        for line in self._follower:
            if isinstance(line, Disconnected):
                self._looked_at = None  # it may be that the daemon was gone in the middle of a proof
                continue
            model = gate.pick_model(self._follower.status, self._ref)
            if model is None or model == self._looked_at:
                continue
            self._looked_at = model
            if model.state == "complete" and model.commit != self._commit:
                self._prove()

    def _prove(self) -> None:
        wait = Wait(
            self._ref,
            timeout_s=0,
            socket=self._socket,
            env=self._env,
            policy=self._policy,
            cache_dir=self._cache_dir,
        )
        with self._lock:
            if self._closed:
                return
            self._proving = wait
        try:
            ready = wait.run()
        except NotReady:
            return  # touched since, or not allowed in: not something to change to
        if ready.commit != self._commit:
            self._commit = ready.commit
            self._on_update(ready)
