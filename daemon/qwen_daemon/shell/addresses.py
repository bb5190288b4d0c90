"""Where an endpoint's files really lie: asked once for each file, by whichever connection comes first.

The others of the same file wait for that answer and use it until the CDN refuses it. Nothing here makes requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from qwen_daemon.core.errors import Trouble, TryLater

KEPT_MAX = 1000  # more files than this are never in flight
_TOOK_ITS_TIME = frozenset({"E_STALLED"})  # to wait for the same once more, one after the other, helps nobody


class Addresses:
    """Addresses by the file's own at the endpoint. A file that is served right there has itself as address."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
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

        def learnt(address: str) -> None:
            self.keep(file_url, address)
            self._end(file_url, answer)

        try:
            yield learnt
        except Trouble as trouble:
            if not answer.done() and (isinstance(trouble, TryLater) or trouble.code in _TOOK_ITS_TIME):
                answer.set_exception(trouble)
                answer.exception()  # there may be nobody who waits for it
            raise
        finally:
            self._end(file_url, answer)  # without an address: the next one asks

    def keep(self, file_url: str, address: str) -> None:
        """From now on it is there."""
        if len(self._known) >= KEPT_MAX:
            self._known.pop(next(iter(self._known)))
        self._known[file_url] = address

    def drop(self, file_url: str, address: str) -> None:
        """It is no longer there; what somebody else learnt meanwhile stays."""
        if self._known.get(file_url) == address:
            del self._known[file_url]

    def _end(self, file_url: str, answer: asyncio.Future[None]) -> None:
        if self._asked.get(file_url) is answer:
            del self._asked[file_url]
        if not answer.done():
            answer.set_result(None)
