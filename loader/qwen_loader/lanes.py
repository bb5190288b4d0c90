"""One reader's way to the device: buffers that are filled from a file, sent, and filled again once that arrived.

A GPU fetches from a buffer after `send` has returned; filling it too early would send other bytes than were read, and
nobody would see it. So the order is kept here, once, for every kind of device, and tests run it with a device that
fetches as late as it may. Which bytes go where is decided in `mapped`; who has how many lanes, in `transfer`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, Protocol

from qwen_loader.mapped import Piece

BUFFERS = 2  # of each reader: one is filled while the other is fetched


class Sent(Protocol):
    """What has been sent, and perhaps not yet fetched."""

    def synchronize(self) -> None:
        """Return once it has arrived. Raises torch's errors."""


class Link(Protocol):
    """How bytes get from a buffer to the device."""

    def buffer(self, size_bytes: int) -> Any:
        """A torch.uint8 tensor on the CPU to send from."""

    def send(self, piece: Piece, buffer: Any, targets: list[Any], allocated: Any) -> Sent | None:
        """Begin to copy the piece out of `buffer` to its places in `targets`, once `allocated` has come.

        None: it is done. The buffer may be written to after `Sent.synchronize`.
        """


class Lane:
    """For one thread at a time. Raises what the link's buffers raise."""

    def __init__(self, link: Link, piece_bytes: int) -> None:
        self._link = link
        self._buffers = [link.buffer(piece_bytes) for _ in range(BUFFERS)]
        self._sent: list[Sent | None] = [None] * BUFFERS
        self._next = 0

    def move(self, piece: Piece, targets: list[Any], allocated: Any) -> Sent | None:
        """Read the piece and begin to send it. What is returned can be waited for. Raises OSError, torch's errors."""
        at, self._next = self._next, (self._next + 1) % BUFFERS
        if (before := self._sent[at]) is not None:
            before.synchronize()
        _read(piece, memoryview(self._buffers[at].numpy()))
        sent = self._sent[at] = self._link.send(piece, self._buffers[at], targets, allocated)
        return sent


def link_to(device: Any) -> Link:
    """To a torch.device: a GPU has a queue of its own for each link."""
    return _ToGpu(device) if device.type == "cuda" else _ToMemory()


class _ToMemory:
    def buffer(self, size_bytes: int) -> Any:
        return make_buffer(size_bytes, is_pinned=False)

    def send(self, piece: Piece, buffer: Any, targets: list[Any], allocated: Any) -> None:
        scatter(piece, buffer, targets)


class _ToGpu:
    def __init__(self, device: Any) -> None:
        import torch

        self._cuda = torch.cuda
        self._stream = torch.cuda.Stream(device)

    def buffer(self, size_bytes: int) -> Any:
        return make_buffer(size_bytes, is_pinned=True)

    def send(self, piece: Piece, buffer: Any, targets: list[Any], allocated: Any) -> Sent:
        fetched: Sent = self._cuda.Event(blocking=True)  # a reader that waits leaves its core to those that read
        with self._cuda.stream(self._stream):
            self._stream.wait_event(allocated)
            scatter(piece, buffer, targets)
            self._stream.record_event(fetched)
        return fetched


def make_buffer(size_bytes: int, *, is_pinned: bool) -> Any:
    """Pinned where the system allows it (containers and `ulimit -l` may not): ordinary memory is slower, not wrong."""
    import torch

    with suppress(RuntimeError):
        return torch.empty(size_bytes, dtype=torch.uint8, device="cpu", pin_memory=is_pinned)
    return torch.empty(size_bytes, dtype=torch.uint8, device="cpu")


def scatter(piece: Piece, buffer: Any, targets: list[Any]) -> None:
    """Copy each part of the piece to its target; on a GPU's stream, begin to."""
    import torch

    # What a caller in inference mode has made may be written to in that mode only, and a mode is one thread's.
    with torch.inference_mode():
        for number, source, target, size_bytes in piece.copies:
            targets[number][target : target + size_bytes].copy_(buffer[source : source + size_bytes], non_blocking=True)


def _read(piece: Piece, buffer: memoryview) -> None:
    """All of the piece, read ahead as one: a cold disk is asked for it in one go. Raises OSError."""
    handle = os.open(piece.path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, piece.offset, piece.size_bytes, os.POSIX_FADV_WILLNEED)
        done = 0
        while done < piece.size_bytes:
            got = os.preadv(handle, [buffer[done : piece.size_bytes]], piece.offset + done)
            if not got:
                raise OSError(f"{piece.path} ends before byte {piece.offset + piece.size_bytes}")
            done += got
    finally:
        os.close(handle)
