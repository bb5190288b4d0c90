"""The content that a model wants, lying elsewhere: in the cache's blobs, its shared store, plain snapshots, local_dirs.

huggingface_hub's shared store is <cache>/blobs/<2 hex>/<xet hash>, to which a repository's blob may be a link: it is
read through the link and never written to. Only blobs are hardlinked, and only to blobs: files that stand at their own
path people edit in place, and would edit every other name's content with them. Whose content is to be believed is
core.twins' to say; here a file that is not proven is hashed before it is handed over.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from qwen_api import places
from qwen_api.events import AdoptedHow
from qwen_api.manifest import Manifest, WantedFile
from qwen_api.seals import Seal, take_seal
from qwen_daemon.core.errors import MakeRoom
from qwen_daemon.core.twins import SHARED_STORE, Refusal, Taken, Twin, is_same_file
from qwen_daemon.shell import clone, durable
from qwen_daemon.shell.digest import hash_file
from qwen_daemon.shell.inside import is_straight, plain_inside, real_inside, seal_of
from qwen_daemon.shell.listed import ByEtag, Listed
from qwen_daemon.shell.parts import new_part_name

_MODELS = "models--"  # how huggingface_hub begins a model repository's folder
log = structlog.get_logger(__name__)


class Own(Protocol):
    """The layout that wants the content."""

    def standing(self, manifest: Manifest, file: WantedFile) -> Path:
        """The file that holds the content once it is published."""

    def writing(self, repo: str) -> AbstractContextManager[Path]:
        """The folder for what is being written, made and held open."""


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where the content may lie. `real()` is the path to read, None if nothing that counts is there."""

    repo: str
    where: str
    path: Path
    cache: Path | None  # None: a local_dir's
    is_blob: bool

    def real(self) -> Path | None:
        if self.cache is None:
            return self.path if is_straight(self.path) else None
        if self.is_blob:
            return real_inside(self.cache, self.repo, self.path)
        return self.path if plain_inside(self.cache, self.repo, self.path) else None

    def seal(self) -> Seal | None:
        try:
            return seal_of(self.path) if self.real() is not None else None
        except OSError as error:
            if durable.is_unreadable(error):  # another model's trouble, and no reason to fetch less
                return None
            raise


class Elsewhere:
    """ports.Twins over the cache directory `cache` and the local_dirs that there are, with their repositories."""

    def __init__(self, cache: Path, own: Own, local_dirs: Callable[[], Mapping[Path, str]] = dict) -> None:
        self._cache = cache
        self._own = own
        self._local_dirs = local_dirs
        self._listed = Listed(cache)

    async def find(self, manifest: Manifest, file: WantedFile) -> tuple[Twin, ...]:
        """See ports.Twins."""
        return await durable.in_thread(self._find, manifest, file)

    async def present(self, manifest: Manifest, files: Sequence[WantedFile]) -> frozenset[str]:
        """See ports.Twins."""
        return await durable.in_thread(self._present, manifest, files)

    async def take(
        self,
        manifest: Manifest,
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
            return await asyncio.to_thread(self._take, manifest, file, twin, is_proven, ways, progress, stop)
        except asyncio.CancelledError:
            stop.set()
            raise

    def _present(self, manifest: Manifest, files: Sequence[WantedFile]) -> frozenset[str]:
        repos, listed = self._repositories(), list(self._listed.plain_files(self._local_dirs()))
        return frozenset(
            file.etag
            for file in files
            if any(os.path.lexists(place.path) for place in self._places(manifest, file, repos, listed))
        )

    def _find(self, manifest: Manifest, file: WantedFile) -> tuple[Twin, ...]:
        own = self._own.standing(manifest, file)
        there = [place for place in self._all_places(manifest, file) if os.path.lexists(place.path)]
        # A link to a blob, left where a file shall stand, does not make that blob ours.
        is_ours = self._is_blob(manifest, file) or not own.is_symlink()
        ours = seal_of(own) if there and is_ours else None
        found = []
        for place in there:
            seal = place.seal()
            if seal is not None:
                shared = ours is not None and ours.inode == seal.inode and place.path.samefile(own)
                found.append(Twin(repo=place.repo, where=place.where, seal=seal, shared=shared))
        return tuple(found)

    def _all_places(self, manifest: Manifest, file: WantedFile) -> list[_Place]:
        listed = self._listed.plain_files(self._local_dirs())
        return list(self._places(manifest, file, self._repositories(), list(listed)))

    def _places(
        self,
        manifest: Manifest,
        file: WantedFile,
        repos: Sequence[str],
        listed: Sequence[tuple[str, Path, ByEtag]],
    ) -> Iterator[_Place]:
        """Every place where the content may lie, but the one where ours stands."""
        own = self._own.standing(manifest, file)
        for repo in repos if not file.xet_hash else [*repos, SHARED_STORE]:
            if (path := self._blob(repo, file)) != own:
                yield _Place(repo=repo, where=repo, path=path, cache=self._cache, is_blob=True)
        for repo, folder, paths in listed:
            cache = self._cache if folder.is_relative_to(self._cache) else None
            for path in (folder / name for name in paths.get(file.etag, ())):
                if path != own and not (cache is not None and path.is_symlink()):  # then it is a blob's name
                    yield _Place(repo=repo, where=str(path), path=path, cache=cache, is_blob=False)

    def _repositories(self) -> list[str]:
        try:
            names = [found.name for found in self._cache.iterdir() if found.name.startswith(_MODELS)]
        except FileNotFoundError:
            names = []
        return [name.removeprefix(_MODELS).replace("--", "/") for name in sorted(names)]

    def _blob(self, repo: str, file: WantedFile) -> Path:
        if repo != SHARED_STORE:
            return places.repo_dir(self._cache, repo) / "blobs" / file.etag
        name = file.xet_hash or ""
        return self._cache / "blobs" / name[:2] / name

    def _take(
        self,
        manifest: Manifest,
        file: WantedFile,
        twin: Twin,
        is_proven: bool,
        ways: Sequence[AdoptedHow],
        progress: Callable[[int], None],
        stop: threading.Event,
    ) -> Taken | Refusal:
        place = next((p for p in self._all_places(manifest, file) if p.where == twin.where), None)
        path = place.real() if place is not None else None
        if place is None or path is None:
            return "wrong"
        if not (place.is_blob and self._is_blob(manifest, file)):
            ways = [way for way in ways if way != "hardlink"]
        try:
            with self._own.writing(manifest.repo) as folder:
                target = folder / new_part_name(file.etag)
                return _take_seen(path, twin.seal, target, file, is_proven, ways, progress, stop)
        except OSError as error:
            trouble = durable.translate(error)
            if isinstance(trouble, MakeRoom):
                raise trouble from error
            log.warning("twin.unusable", path=str(path), why=trouble.detail)
            return "wrong"

    def _is_blob(self, manifest: Manifest, file: WantedFile) -> bool:
        return self._own.standing(manifest, file) == self._blob(manifest.repo, file)


def _take_seen(
    path: Path,
    seen: Seal,
    target: Path,
    file: WantedFile,
    is_proven: bool,
    ways: Sequence[AdoptedHow],
    progress: Callable[[int], None],
    stop: threading.Event,
) -> Taken | Refusal:
    """Put the content of the file that was seen at the path at `target`, if it is still that one when it is done."""
    try:
        with _opened(path) as source:
            if _seal_of_open(source) != seen:
                return "wrong"
            taken = _take_open(source, target, file, is_proven, ways, progress, stop)
            now = _seal_of_open(source)
            if not isinstance(taken, Taken) or (now is not None and is_same_file(seen, now) and not stop.is_set()):
                return taken
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    target.unlink(missing_ok=True)  # the source changed meanwhile, or nobody waits any more
    return "wrong"


def _take_open(
    source: int,
    target: Path,
    file: WantedFile,
    is_proven: bool,
    ways: Sequence[AdoptedHow],
    progress: Callable[[int], None],
    stop: threading.Event,
) -> Taken | Refusal:
    """Put the open file's content at `target`; there is nothing there if it is refused."""
    how = clone.clone(source, target, ways)
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
    return take_seal(source) if stat.S_ISREG(os.fstat(source).st_mode) else None
