"""Where an endpoint's files really lie: asked once for each file, by whichever connection comes first.

The others of the same file wait for that answer and use it until it fails: a spent signature, a dead edge, the login
page of a hotel. Nothing here makes requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from qwen_daemon.core.errors import Trouble, TryLater
from qwen_daemon.shell.newest import Newest

KEPT_MAX = 1000  # more files than this are never in flight
_TOOK_ITS_TIME = frozenset({"E_STALLED"})  # to wait for the same once more, one after the other, helps nobody


class Addresses:
    """Addresses by the file's own at the endpoint. A file that is served right there has itself as address."""

    def __init__(self) -> None:
        self._known = Newest[str, str](KEPT_MAX)
        self._asked: dict[str, asyncio.Future[None]] = {}

    async def find(self, file_url: str) -> str | None:
        """The address; None if it is not known and nobody is asking: then the caller asks (see `asking`).

        Raises the Trouble of a question that was waited for, if it would be the same for everybody.
        """
        while file_url not in self._known and (answer := self._asked.get(file_url)) is not None:
            await asyncio.shield(answer)
        return self._known.get(file_url)

    @contextmanager
    def asking(self, file_url: str) -> Iterator[Callable[[str], None]]:
        """Ask inside; call what is given with the address as soon as it is known."""
        answer = asyncio.get_running_loop().create_future()
        self._asked[file_url] = answer
        address = ""

        def learnt(new: str) -> None:
            nonlocal address
            address = new
            self.keep(file_url, address)
            self._end(file_url, answer)

        try:
            yield learnt
        except Exception as error:
            self._forget(file_url, address, error)
            if isinstance(error, TryLater) or (isinstance(error, Trouble) and error.code in _TOOK_ITS_TIME):
                self._end(file_url, answer, error)
            raise
        finally:
            self._end(file_url, answer)  # without an address: the next one asks

    @contextmanager
    def using(self, file_url: str, address: str) -> Iterator[None]:
        """Open the address inside; if that fails it is forgotten."""
        try:
            yield
        except Exception as error:
            self._forget(file_url, address, error)
            raise

    def forget_all(self) -> None:
        """What came from one of them was wrong: the next answer may lead elsewhere."""
        self._known.clear()

    def keep(self, file_url: str, address: str) -> None:
        """From now on it is there."""
        self._known[file_url] = address

    def _forget(self, file_url: str, address: str, error: Exception) -> None:
        """It led to nothing, unless its server only said "later"; what somebody else learnt meanwhile stays."""
        if not isinstance(error, TryLater) and self._known.get(file_url) == address:
            del self._known[file_url]

    def _end(self, file_url: str, answer: asyncio.Future[None], error: Exception | None = None) -> None:
        if self._asked.get(file_url) is answer:
            del self._asked[file_url]
        if answer.done():
            return
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)
            answer.exception()  # there may be nobody who waits for it
