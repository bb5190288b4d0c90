"""One read of one stretch, from as many endpoints as it takes: where one breaks off, the next goes on at that byte."""

from __future__ import annotations

from collections.abc import Callable

from qwen_api.manifest import WantedFile
from qwen_daemon.core import endpoints as decide
from qwen_daemon.core.attempts import PROGRESS_BYTES
from qwen_daemon.core.errors import MakeRoom, StillShut, Trouble, TryAgain, TryLater
from qwen_daemon.engine.endpoints import Endpoint, Endpoints
from qwen_daemon.ports import Body, Reading


class Relay:
    """ports.Body. `read` opens the rest, from a byte on, at an endpoint; `close` must be called at the end."""

    def __init__(
        self,
        endpoints: Endpoints,
        model: str,
        repo: str,
        file: WantedFile,
        read: Callable[[Endpoint, int], Reading],
        start: int,
        end: int,
    ) -> None:
        self._endpoints = endpoints
        self._model = model
        self._repo, self._file, self._content = repo, file, (repo, file.etag)
        self._read = read
        self._at, self._end = start, end
        self._endpoint: Endpoint | None = None  # of the open body, as are the next five
        self._reading: Reading | None = None
        self._body: Body | None = None
        self._brought_bytes = 0
        self._lately_bytes, self._lately_s = 0, 0.0
        self._refused: dict[str, Trouble] = {}  # by name, since the last real progress
        self._why: Trouble | None = None  # the last of them

    async def read_into(self, room: memoryview) -> int:
        """See ports.Body. Raises what the endpoints' Troubles are together, once none is left to ask."""
        while self._at < self._end:
            body = self._body or await self._open()
            asked_s = self._endpoints.clock.monotonic_s()
            try:
                count = await body.read_into(room)
            except Exception as error:  # foreign ones, which leaving the reading makes a Trouble of
                count = self.reclaim()
                await self._leave(error)
            else:
                if count == 0:
                    break  # it was asked for more, but promised no more
                self._took(count)
                await self._unless_crawling(count, self._endpoints.clock.monotonic_s() - asked_s)
            if count:
                return count
        return 0

    def reclaim(self) -> int:
        """See ports.Body."""
        count = self._body.reclaim() if self._body is not None else 0
        if count:
            self._took(count)
        return count

    async def close(self) -> None:
        """End the request, if one is open."""
        reading, self._reading, self._body = self._reading, None, None
        if reading is not None:
            await reading.__aexit__(None, None, None)

    async def _open(self) -> Body:
        while True:
            self._endpoint = endpoint = await self._next()
            self._endpoints.chosen(endpoint)
            reading = self._read(endpoint, self._at)
            try:
                self._body = await reading.__aenter__()
            except Trouble as trouble:
                self._note(trouble)
            else:
                self._reading = reading
                self._brought_bytes, self._lately_bytes, self._lately_s = 0, 0, 0.0
                return self._body

    async def _next(self) -> Endpoint:
        """The best that did not fail in this read. If all were told to wait, that is waited for."""
        while True:
            middle_of = self._file if self._at else None
            for endpoint in self._endpoints.in_order(self._model, "files", self._content, middle_of):
                if endpoint.name not in self._refused:
                    return endpoint
            trouble = decide.conclude(list(self._refused.items()))
            was_anybody_asked = not all(isinstance(refusal, StillShut) for refusal in self._refused.values())
            if was_anybody_asked or not isinstance(trouble, TryLater):
                raise trouble
            await self._endpoints.clock.sleep(trouble.after_s)
            self._refused.clear()

    async def _leave(self, error: Exception) -> None:
        """Close what broke. Raises only what is no Trouble even then."""
        reading, self._reading, self._body = self._reading, None, None
        assert reading is not None, "what is not open cannot break"
        try:
            await reading.__aexit__(type(error), error, error.__traceback__)
        except Trouble as trouble:
            self._note(trouble)
            return
        if not isinstance(error, Trouble):
            raise error
        self._note(error)

    def _note(self, trouble: Trouble) -> None:
        if isinstance(trouble, MakeRoom):
            raise trouble  # no endpoint's fault: this machine lets no connection be opened
        assert self._endpoint is not None
        self._refused[self._endpoint.name] = self._why = trouble
        self._endpoints.failed(self._endpoint, "files", self._content, trouble)

    def _took(self, count: int) -> None:
        assert self._endpoint is not None
        if self._brought_bytes == 0:
            self._endpoints.gave(self._model, self._endpoint, self._file, self._repo, self._why)
        before_bytes, self._brought_bytes = self._brought_bytes, self._brought_bytes + count
        self._at += count
        if before_bytes < PROGRESS_BYTES <= self._brought_bytes or self._at >= self._end:
            self._refused.clear()
            self._endpoints.worked(self._endpoint, self._content)

    async def _unless_crawling(self, count: int, waited_s: float) -> None:
        """Give up a trickle, if there is something better. Waits of those who read do not count."""
        self._lately_bytes += count
        self._lately_s += waited_s
        if self._lately_s < decide.CRAWL_S:
            return
        if decide.is_crawling(self._lately_bytes, self._lately_s) and self._has_another():
            await self._leave(TryAgain("E_STALLED", f"less than {decide.CRAWL_BPS} bytes a second came"))
        self._lately_bytes, self._lately_s = 0, 0.0

    def _has_another(self) -> bool:
        others = self._endpoints.in_order(self._model, "files", self._content, self._file)
        return any(
            other is not self._endpoint
            and other.name not in self._refused
            and not self._endpoints.rests(other, "files", self._content)
            for other in others
        )
