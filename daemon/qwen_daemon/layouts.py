"""Where each model is kept, and by which layout: the one place that decides it.

A model with a local_dir is kept in that folder, every other one in the Hub cache, which has no links under
HF_HUB_DISABLE_SYMLINKS. All share the ledger, the locks' rules and each other's contents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from qwen_api import events as e
from qwen_api.models import parse_model
from qwen_daemon.config import ConfiguredModel, Settings, local_dirs
from qwen_daemon.engine.disk import Disk
from qwen_daemon.engine.room import Claim, Room
from qwen_daemon.engine.world import Place
from qwen_daemon.shell import durable
from qwen_daemon.shell.elsewhere import Elsewhere
from qwen_daemon.shell.ledger import SqliteLedger
from qwen_daemon.shell.local_dir import LocalDir
from qwen_daemon.shell.locks import HubLocks
from qwen_daemon.shell.plain_cache import PlainCache
from qwen_daemon.shell.scrub import BackgroundReader
from qwen_daemon.shell.store import HubCache
from qwen_daemon.shell.structure import SnapshotStructure


class Layouts:
    """The places of all models; `cache` is the one of those without a local_dir."""

    def __init__(
        self,
        settings: Settings,
        ledger: SqliteLedger,
        reader: BackgroundReader,
        publish: Callable[[e.Event], int],
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._reader = reader
        self._publish = publish
        self._claims: dict[int, dict[str, Claim]] = {}  # by file system
        self._folders: dict[str, Path] = {}  # by model key
        self._repos: dict[Path, str] = {}
        self._places: dict[Path, Place] = {}
        self.store = HubCache(settings.cache_dir) if settings.has_links else PlainCache(settings.cache_dir)
        self.cache = self._place(settings.cache_dir, self.store)

    def configure(self, models: Sequence[ConfiguredModel]) -> None:
        """Keep these in their local_dirs, and all others in the cache. Raises BadConfig."""
        self._folders = local_dirs(models, self._settings.cache_dir)
        refs = [parse_model(model.model) for model in models]
        self._repos = {self._folders[ref.key]: ref.repo for ref in refs if ref.key in self._folders}

    def of(self, key: str) -> Place:
        """The place of a model: the same object as long as it is kept in the same folder."""
        folder = self._folders.get(key)
        if folder is None:
            return self.cache
        if folder not in self._places:
            self._places[folder] = self._place(folder, LocalDir(folder, self.store.ref))
        return self._places[folder]

    def _sources(self) -> Mapping[Path, str]:
        return self._repos

    def _place(self, folder: Path, store: HubCache | LocalDir) -> Place:
        ledger = self._ledger
        return Place(
            disk=Disk(
                store=store,
                batches=store,
                blobs=store,
                ledger=ledger,
                seals=ledger,
                locks=HubLocks(store.lock),
                twins=Elsewhere(self._settings.cache_dir, store, self._sources),
                reader=self._reader.at(store.current),
                where=store.where,
            ),
            listings=store,
            room=self._room(folder, store),
            structure=SnapshotStructure(store),
            watched=store.watched,
        )

    def _room(self, folder: Path, store: HubCache | LocalDir) -> Room:
        claims = self._claims.setdefault(durable.standing_folder(folder).stat().st_dev, {})
        return Room(store, str(folder), self._settings.config.disk.reserve_bytes, self._publish, claims)
