"""The content that a model wants, lying elsewhere in the same cache: in other repositories' blobs or the shared store.

huggingface_hub's shared store is <cache>/blobs/<2 hex>/<xet hash>, to which a repository's blob may be a link: it is
read through the link and never written to. Whose content is to be believed is core.twins' to say; here a file that is
not proven is hashed before it is handed over.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from qwen_api import places
from qwen_api.events import AdoptedHow
from qwen_api.manifest import WantedFile
from qwen_api.seals import Seal
from qwen_daemon.core.errors import MakeRoom
from qwen_daemon.core.twins import SHARED_STORE, Refusal, Taken, Twin, is_same_file
from qwen_daemon.shell import clone, durable
from qwen_daemon.shell.digest import hash_file
from qwen_daemon.shell.inside import real_inside, seal_inside, seal_of
from qwen_daemon.shell.store import new_part_name

_MODELS = "models--"  # how huggingface_hub begins a model repository's folder
log = structlog.get_logger(__name__)


class OtherBlobs:
    """ports.Twins over the cache directory `cache`."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    async def find(self, repo: str, file: WantedFile) -> tuple[Twin, ...]:
        """See ports.Twins."""
        try:
            return await asyncio.to_thread(self._find, repo, file)
        except OSError as error:
            raise durable.translate(error) from error

    async def present(self, repo: str, files: Sequence[WantedFile]) -> frozenset[str]:
        """See ports.Twins."""
        try:
            return await asyncio.to_thread(self._present, repo, files)
        except OSError as error:
            raise durable.translate(error) from error

    async def take(
        self,
        repo: str,
        file: WantedFile,
        twin: Twin,
        *,
        is_proven: bool,
        ways: Sequence[AdoptedHow],
        progress: Callable[[int], None],
    ) -> Taken | Refusal:
        """See ports.Twins. `progress` is called in the working thread with the bytes read so far."""
        stop = threading.Event()
        try:
            return await asyncio.to_thread(self._take, repo, file, twin, is_proven, ways, progress, stop)
        except asyncio.CancelledError:
            stop.set()
            raise

    def _present(self, repo: str, files: Sequence[WantedFile]) -> frozenset[str]:
        others = self._repositories(repo)
        return frozenset(
            file.etag
            for file in files
            if any(os.path.lexists(self._path(other, file)) for other in self._with_store(others, file))
        )

    def _find(self, repo: str, file: WantedFile) -> tuple[Twin, ...]:
        others = self._with_store(self._repositories(repo), file)
        paths = {other: self._path(other, file) for other in others}
        there = {other: path for other, path in paths.items() if os.path.lexists(path)}  # most are not: be quick
        ours = seal_inside(self._cache, repo, self._path(repo, file)) if there else None
        found = []
        for other, path in there.items():
            seal = seal_inside(self._cache, other, path)
            if seal is not None:
                shared = ours is not None and ours.inode == seal.inode and path.samefile(self._path(repo, file))
                found.append(Twin(repo=other, seal=seal, shared=shared))
        return tuple(found)

    def _repositories(self, repo: str) -> list[str]:
        """Those of the cache besides `repo`."""
        own = places.repo_dir(self._cache, repo).name
        try:
            names = [found.name for found in self._cache.iterdir() if found.name.startswith(_MODELS)]
        except FileNotFoundError:
            names = []
        return [name.removeprefix(_MODELS).replace("--", "/") for name in sorted(names) if name != own]

    def _with_store(self, repos: Sequence[str], file: WantedFile) -> Sequence[str]:
        return [*repos, SHARED_STORE] if file.xet_hash else repos

    def _path(self, repo: str, file: WantedFile) -> Path:
        if repo != SHARED_STORE:
            return places.repo_dir(self._cache, repo) / "blobs" / file.etag
        name = file.xet_hash or ""
        return self._cache / "blobs" / name[:2] / name

    def _take(
        self,
        repo: str,
        file: WantedFile,
        twin: Twin,
        is_proven: bool,
        ways: Sequence[AdoptedHow],
        progress: Callable[[int], None],
        stop: threading.Event,
    ) -> Taken | Refusal:
        target = places.repo_dir(self._cache, repo) / "blobs" / new_part_name(file.etag)
        path = real_inside(self._cache, twin.repo, self._path(twin.repo, file))
        if path is None:
            return "wrong"
        try:
            durable.make_folder(target.parent)
            with _opened(path) as source:
                if _seal_of_open(source) != twin.seal:
                    return "wrong"
                taken = _take_open(source, path, target, file, is_proven, ways, progress, stop)
                if not isinstance(taken, Taken):
                    return taken
                if _is_untouched(source, twin) and not stop.is_set():
                    return taken
        except OSError as error:
            target.unlink(missing_ok=True)
            trouble = durable.translate(error)
            if isinstance(trouble, MakeRoom):
                raise trouble from error
            log.warning("twin.unusable", path=str(path), why=trouble.detail)
            return "wrong"
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        target.unlink(missing_ok=True)  # the source changed meanwhile, or nobody waits any more
        return "wrong"


def _take_open(
    source: int,
    path: Path,
    target: Path,
    file: WantedFile,
    is_proven: bool,
    ways: Sequence[AdoptedHow],
    progress: Callable[[int], None],
    stop: threading.Event,
) -> Taken | Refusal:
    """Put the open file's content at `target`; there is nothing there if it is refused."""
    how = clone.clone(source, path, target, ways)
    digest, spans = file.etag, None
    if how is None and "copy" in ways:
        how = "copy"
        digest, spans = clone.copy(source, target, file, progress, stop)
    elif how is not None and not is_proven:
        digest, spans = hash_file(target, file, progress, stop)
    if how is None:
        return "no way"
    seal = seal_of(target)
    if digest != file.etag or seal is None:
        target.unlink(missing_ok=True)
        return "wrong"
    return Taken(name=target.name, how=how, seal=seal, spans=spans)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    # Not blocking: whatever has taken the place of the regular file since it was looked at is refused below.
    source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield source
    finally:
        os.close(source)


def _seal_of_open(source: int) -> Seal | None:
    found = os.fstat(source)
    if not stat.S_ISREG(found.st_mode):
        return None
    return Seal(inode=found.st_ino, size_bytes=found.st_size, mtime_ns=found.st_mtime_ns, ctime_ns=found.st_ctime_ns)


def _is_untouched(source: int, twin: Twin) -> bool:
    now = _seal_of_open(source)
    return now is not None and is_same_file(twin.seal, now)
