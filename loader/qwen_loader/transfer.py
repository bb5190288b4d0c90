"""Moves a mapped model to its device: files -> pinned memory -> GPU, by several threads, each byte once.

`from_pretrained` on the CPU only maps the files. Copying such a tensor to a GPU faults its pages in one by one and goes
through the driver's own small buffer; reading them with pread(2) into pinned memory, from which the GPU fetches by
itself, is several times faster, and no copy of the model is made in RAM. What is not the untouched part of a file
(computed buffers, converted weights) is copied as it is. Which bytes are read is decided in `mapped`; how each reader
uses its buffers is in `lanes`.

On a device "cpu" the same way ends in ordinary memory: that is what tests measure it with.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from qwen_loader.lanes import Lane, Link, Sent, link_to
from qwen_loader.mapped import Extent, Piece, cut, extent_at, read_mappings

READERS = 8  # one core copies 6 to 10 GB/s out of the page cache; PCIe 5 takes 55
PIECE_BYTES = 16 << 20  # a third of a millisecond on PCIe 5: far above what asking for it costs
TELL_EVERY_S = 1.0
SMAPS = Path("/proc/self/smaps")
# Between two reads a reader needs the interpreter some ten times, each time for microseconds, and whoever builds the
# next component gives it away once in this long: at Python's 5 ms eight readers come to a third of what they can do.
SWITCH_S = 0.0002
_ALLOCATION_BYTES = 512  # torch's allocator rounds up to this


class Transfer:
    """Moves models, one after the other. Use as a context manager: leaving it ends what still moves.

    Making one begins to make its buffers, in its threads: pinning them takes as long as building a model.
    """

    def __init__(
        self,
        device: str,
        *,
        readers: int = READERS,
        piece_bytes: int = PIECE_BYTES,
        tell_every_s: float = TELL_EVERY_S,
        link_to: Callable[[Any], Link] = link_to,
    ) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(device)
        if self._device.type == "cuda" and self._device.index is None:  # each thread has its own current one
            self._device = torch.device("cuda:0")
        self._piece_bytes = piece_bytes
        self._tell_every_s = tell_every_s
        self._link_to = link_to
        self._switch_s = sys.getswitchinterval()
        sys.setswitchinterval(min(self._switch_s, SWITCH_S))
        self._own = threading.local()
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="transfer", initializer=self._make_lane_early)
        for _ in range(readers):
            self._pool.submit(int)  # a thread is begun for each: none is idle before it has its buffers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget what was not begun and wait for what was: nothing is written to memory that is given back."""
        self._pool.shutdown(cancel_futures=True)
        if self._switch_s > SWITCH_S:  # else it was not this one that changed it
            sys.setswitchinterval(self._switch_s)
        if self._device.type == "cuda" and self._torch.cuda.is_initialized():
            self._torch.cuda.synchronize(self._device)

    def begin(self, model: Any, files: Iterable[Path], tell: Callable[[int], None]) -> Moving:
        """Begin to move `model` (torch.nn.Module), which is on the CPU and was made of these files; returns at once.

        `tell` is given the bytes of it that have arrived, about once a second, from several threads. Until
        `Moving.wait` has returned the model is on the CPU and must not be touched.
        """
        mappings = read_mappings(_smaps(), frozenset(os.path.realpath(path) for path in files))
        moving = Moving(tell, self._tell_every_s)
        extents: list[Extent] = []
        targets: list[Any] = []
        known: dict[tuple[object, ...], Any] = {}  # tensors that share their bytes share them afterwards
        held = [*model.parameters(), *model.buffers()]
        self._reserve(held)
        for tensor in held:
            same = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())  # W.T is not W
            size_bytes = tensor.numel() * tensor.element_size()
            extent = extent_at(mappings, tensor.data_ptr(), size_bytes) if tensor.is_contiguous() else None
            if same not in known:
                if extent is None or not size_bytes:
                    known[same] = tensor.data.to(self._device)
                else:
                    known[same] = self._torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
                    extents.append(extent)
                    targets.append(known[same].view(-1).view(self._torch.uint8))
            moving.add(tensor, known[same])
        moving.read_bytes = sum(extent.size_bytes for extent in extents)
        allocated = self._allocated()
        for piece in cut(extents, self._piece_bytes):
            moving.await_(self._pool.submit(self._move, piece, targets, allocated, moving))
        return moving

    def _reserve(self, held: list[Any]) -> None:
        """Have torch ask the driver for all of it at once: it keeps what is given back and hands it out in parts."""
        if self._device.type != "cuda":
            return
        sizes = (tensor.numel() * tensor.element_size() for tensor in held)
        needed = sum(-(-size // _ALLOCATION_BYTES) * _ALLOCATION_BYTES for size in sizes)
        # PYTORCH_ALLOC_CONF=max_split_size_mb:N (-1 where it is not set): what is larger is never handed out in parts.
        if not 0 <= self._torch.cuda.memory_stats(self._device).get("max_split_size", -1) < needed:
            with suppress(self._torch.OutOfMemoryError):  # in parts it may fit in what torch has lying about
                self._torch.empty(needed, dtype=self._torch.uint8, device=self._device)

    def _allocated(self) -> Any:
        """What a lane's stream waits for: this one may still work on what the targets' memory was before."""
        if self._device.type != "cuda":
            return None
        event = self._torch.cuda.Event()
        event.record(self._torch.cuda.current_stream(self._device))
        return event

    def _make_lane_early(self) -> None:
        with suppress(Exception):  # the first piece tries again, and its error is one that people are told
            self._lane()

    def _lane(self) -> Lane:
        lane: Lane | None = getattr(self._own, "lane", None)
        if lane is None:
            lane = self._own.lane = Lane(self._link_to(self._device), self._piece_bytes)
        return lane

    def _move(self, piece: Piece, targets: list[Any], allocated: Any, moving: Moving) -> Sent | None:
        arrived = self._lane().move(piece, targets, allocated)
        moving.count(sum(copy.size_bytes for copy in piece.copies))
        return arrived


class Moving:
    """A model on its way. `wait` puts it in its place; `read_bytes` of it come from the files."""

    def __init__(self, tell: Callable[[int], None], tell_every_s: float) -> None:
        self.read_bytes = 0
        self._tell = tell
        self._tell_every_s = tell_every_s
        self._lock = threading.Lock()
        self._arrived_bytes = 0
        self._told_at_s = time.monotonic()
        self._places: list[tuple[Any, Any]] = []
        self._pieces: list[Future[Sent | None]] = []

    def add(self, tensor: Any, target: Any) -> None:
        """`tensor` of the model becomes `target`."""
        self._places.append((tensor, target))

    def await_(self, piece: Future[Sent | None]) -> None:
        """This must be done first."""
        self._pieces.append(piece)

    def count(self, more_bytes: int) -> None:
        """So much has arrived."""
        with self._lock:
            self._arrived_bytes += more_bytes
            now_s, arrived_bytes = time.monotonic(), self._arrived_bytes
            if now_s - self._told_at_s < self._tell_every_s:
                return
            self._told_at_s = now_s
        self._tell(arrived_bytes)

    def wait(self) -> None:
        """Return once all of the model is on the device. Raises OSError, torch's errors."""
        for piece in self._pieces:
            arrived = piece.result()
            if arrived is not None:
                arrived.synchronize()
        for tensor, target in self._places:
            tensor.data = target
        self._places, self._pieces = [], []


def _smaps() -> str:
    try:
        return SMAPS.read_text()
    except OSError:
        return ""  # not this kernel: everything is copied from memory
