"""The hash of the whole file, following the contiguous written prefix while later ranges still arrive.

So the hash is known when the last byte lands. What was written is read back out of the page cache, whichever connection
brought it: many megabytes in one hop to a thread, which is cheaper than to hash each batch from memory. Recorded spans
of an earlier try are checked as it passes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qwen_api.manifest import WantedFile
from qwen_daemon.core.digest import Bytes, SpanDigester, new_hash
from qwen_daemon.core.errors import StartOver, TryAgain
from qwen_daemon.core.segments import Segments
from qwen_daemon.core.spans import Span
from qwen_daemon.engine.cancel import finish
from qwen_daemon.ports import Part

STEP_MAX_BYTES = 32 << 20  # of what was written ahead: so long, at most, a try that ends has to wait for the hash


class Frontier:
    """`position` is how far the file is hashed, in steps of `step_bytes` at least while more is to come.

    Spans that turn out damaged are told to `damaged`, once.
    """

    def __init__(
        self,
        file: WantedFile,
        part: Part,
        segments: Segments,
        recorded: Sequence[Span],
        damaged: Callable[[Span], None],
        step_bytes: int,
    ) -> None:
        self._size_bytes = file.size_bytes
        self._part = part
        self._segments = segments
        self._recorded = {span.offset: span for span in recorded}
        self._damaged = damaged
        self._step_bytes = step_bytes
        self._whole = new_hash(file)
        self._unreadable: list[Span] = []
        self.position = 0
        self.kept_bytes = 0  # of earlier tries, re-read and still good

    @property
    def is_done(self) -> bool:
        """The whole file is hashed."""
        return self.position >= self._size_bytes

    def hexdigest(self) -> str:
        """The file's hash, once it is done."""
        return self._whole.hexdigest()

    async def step(self) -> bool:
        """Hash some of what is here already; False if too little has come. Raises the disk's Trouble."""
        span = self._recorded.pop(self.position, None)
        if span is not None:
            await self._reread(span)
            return True
        end = self._segments.written_to(self.position)
        goes_on = end < self._size_bytes and end not in self._recorded
        if end - self.position < (self._step_bytes if goes_on else 1):
            return False
        length = min(end - self.position, STEP_MAX_BYTES)
        if await self._feed(length) < length:
            raise TryAgain("E_DISK_IO", "the part is shorter than what was written to it")
        self.position += length
        self._segments.hashed(length)
        return True

    async def _feed(self, length: int) -> int:
        try:
            return await finish(self._part.feed(self.position, length, self._whole.update))
        except TryAgain as trouble:
            if any(span.offset < self.position + length and self.position < span.end for span in self._unreadable):
                raise StartOver(trouble.code, "the disk takes what is written to it and cannot read it") from trouble
            raise

    async def _reread(self, span: Span) -> None:
        digester, whole = SpanDigester(span.offset), self._whole.copy()

        def take(piece: Bytes) -> None:
            digester.update(piece)
            whole.update(piece)

        try:
            await finish(self._part.feed(span.offset, span.length, take))
        except TryAgain:
            self._unreadable.append(span)  # as good as damaged: written anew, a disk mostly finds another place for it
        if digester.take() != (span,):
            self._damaged(span)
            return
        self._whole = whole
        self.position = span.end
        self.kept_bytes += span.length
