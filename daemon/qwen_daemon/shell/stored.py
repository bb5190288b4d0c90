"""What every layout does alike once it is known where its files and its parts are: reading, and beginning new ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from qwen_api.manifest import Manifest, WantedFile
from qwen_api.seals import Seal
from qwen_daemon.core.errors import MakeRoom, Trouble, TryAgain
from qwen_daemon.core.plan import Found
from qwen_daemon.core.spans import Span
from qwen_daemon.shell import durable, parts
from qwen_daemon.shell.beneath import Root, held
from qwen_daemon.shell.digest import digest_file
from qwen_daemon.shell.durable import in_thread
from qwen_daemon.shell.part import PartFile


class StoredFiles(ABC):
    """The half of ports.Store and ports.Blobs that does not depend on the layout; `_root` is where all of it lies."""

    _root: Root

    @abstractmethod
    def current(self, repo: str, file: WantedFile, found: Found) -> Path:
        """The file that `find` found. Raises OSError if there is none by now."""

    @abstractmethod
    def parts_folder(self, repo: str) -> Path:
        """The folder for what is being written, on the same file system as what is published."""

    def writing(self, repo: str) -> AbstractContextManager[Path]:
        """The folder for what is being written, made and held open (beneath.Root.inside)."""
        return self._root.inside(self.parts_folder(repo), make=True)

    @abstractmethod
    def _publish(self, manifest: Manifest, file: WantedFile, part: str | bytes | None) -> Seal:
        """See ports.Store.publish. Raises Troubles and OSError."""

    @contextmanager
    def _listing(self, path: Path) -> Iterator[Path]:
        """The commit's listing, which `begin` wrote, in its folder. Raises TryAgain if somebody removed it since.

        Only the Hub, or `begin`, knows the whole of it: what is published may be a part.
        """
        try:
            with self._root.inside(path.parent) as trees:
                (trees / path.name).lstat()
                yield trees / path.name
        except (FileNotFoundError, NotADirectoryError) as error:
            raise TryAgain("E_DISK_CHANGING", "the listing of the commit was removed meanwhile") from error

    def _seen(self, look: Callable[..., Found], *args: object) -> Found:
        """What `look` finds of one file: damaged, if the disk cannot say what it is."""
        try:
            return look(*args)
        except OSError as error:
            if not durable.is_unreadable(error):
                raise
            return Found(unreadable=durable.translate(error).detail)

    async def publish_all(
        self, manifest: Manifest, contents: Sequence[tuple[WantedFile, bytes]]
    ) -> Sequence[Seal | Trouble]:
        """See ports.Batches."""
        return await in_thread(self._publish_all, manifest, contents)

    def _publish_all(
        self, manifest: Manifest, contents: Sequence[tuple[WantedFile, bytes]]
    ) -> Sequence[Seal | Trouble]:
        """One by one, but in one thread; a layout that can wait for the disk once for all of them does."""
        return [self._published(manifest, file, content) for file, content in contents]

    def _published(self, manifest: Manifest, file: WantedFile, content: bytes) -> Seal | Trouble:
        try:
            return self._publish(manifest, file, content)
        except OSError as error:
            return durable.translate(error)
        except Trouble as trouble:
            return trouble

    async def open_part(self, repo: str, file: WantedFile, name: str | None) -> PartFile:
        """See ports.Store."""
        async with held(self.writing(repo)) as folder:
            return await parts.open_part(folder, file, name)

    async def drop_part(self, repo: str, name: str) -> None:
        """See ports.Blobs."""
        await in_thread(self._drop_part, repo, name)

    async def digest(
        self, repo: str, file: WantedFile, found: Found, progress: Callable[[int], None]
    ) -> tuple[str, tuple[Span, ...]]:
        """See ports.Blobs. `progress` is called in the hashing thread with the bytes hashed so far."""
        path = await in_thread(self.current, repo, file, found)
        try:
            return await digest_file(path, file, progress)
        except OSError as error:
            raise durable.translate(error) from error

    async def copy_for_repair(self, repo: str, file: WantedFile, found: Found) -> str | None:
        """See ports.Blobs. None if there is no room for it, or no reading it; then the file is fetched whole."""

        def copy() -> str:
            with self.writing(repo) as folder:
                return parts.copy_to_part(self.current(repo, file, found), folder, file.etag)

        try:
            return await in_thread(copy)
        except MakeRoom as refused:
            if refused.code == "E_FILES":
                raise  # not the disk's word: later it can be copied
            return None
        except TryAgain:
            return None

    def _drop_part(self, repo: str, name: str) -> None:
        with suppress(FileNotFoundError), self._root.inside(self.parts_folder(repo)) as folder:
            if parts.PART_NAME.fullmatch(name):  # a ledger is a hint
                (folder / name).unlink()
