"""The layouts in which a model is kept, for tests of what they all promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from qwen_api import places
from qwen_daemon.config import ConfiguredModel
from qwen_daemon.shell.local_dir import LocalDir
from qwen_daemon.shell.plain_cache import PlainCache
from qwen_daemon.shell.store import HubCache


@dataclass(frozen=True)
class Layout:
    """`store` makes it in a folder; `has_links`: one content is one file, under however many names."""

    name: str
    store: Callable[[Path], HubCache | LocalDir]
    has_links: bool = False
    env: dict[str, str] = field(default_factory=dict)

    def model(self, root: Path, repo: str) -> ConfiguredModel:
        """The model as a daemon in `root` is told to keep it."""
        return ConfiguredModel(model=repo, local_dir=str(self.folder(root, repo, "")) if self is LOCAL_DIR else "")

    def folder(self, root: Path, repo: str, commit: str) -> Path:
        """Where its files will be."""
        return root / "local" / repo if self is LOCAL_DIR else places.snapshot_dir(root / "hf" / "hub", repo, commit)


async def _no_ref(_ref: object) -> None:
    return None


CACHE = Layout("cache", HubCache, has_links=True)
PLAIN_CACHE = Layout("plain cache", PlainCache, env={"HF_HUB_DISABLE_SYMLINKS": "1"})
LOCAL_DIR = Layout("local_dir", lambda folder: LocalDir(folder, _no_ref))

LAYOUTS = [CACHE, PLAIN_CACHE, LOCAL_DIR]

every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
