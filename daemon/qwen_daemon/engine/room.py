"""Room on the disk: a model's fetch begins only if everything still to come fits, with a reserve left over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from qwen_api import events as e
from qwen_daemon.core.amounts import Free, size_text
from qwen_daemon.core.errors import MakeRoom


class Volume(Protocol):
    """All that is asked of a disk here; ports.Blobs is one."""

    async def free(self) -> Free:
        """Room for this user on its file system."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Room that one model's fetch still needs."""

    needed_bytes: int
    moved_bytes: Callable[[], int]


class Room:
    """Room in one layout. `claims` are those of all layouts on its file system; `reserve_bytes` is left free there."""

    def __init__(
        self,
        volume: Volume,
        path: str,
        reserve_bytes: int,
        publish: Callable[[e.Event], int],
        claims: dict[str, Claim] | None = None,
    ) -> None:
        self._volume = volume
        self._path = path
        self._reserve_bytes = reserve_bytes
        self._publish = publish
        self._claims = {} if claims is None else claims
        self._told: tuple[str, int] | None = None

    async def claim(self, model: str, needed_bytes: int, moved_bytes: Callable[[], int]) -> int:
        """Claim room; returns the free bytes. Raises MakeRoom, with the numbers, if it does not fit.

        `moved_bytes` tells how much of the claim is on disk already and so is in the free bytes' count.
        """
        self._claims.pop(model, None)
        free_bytes = (await self._volume.free()).size_bytes
        claimed_bytes = sum(max(0, c.needed_bytes - c.moved_bytes()) for c in self._claims.values())
        short_bytes = needed_bytes + claimed_bytes + self._reserve_bytes - free_bytes
        fits = needed_bytes == 0 or short_bytes <= 0
        self._tell("ok" if fits else "full", free_bytes, needed_bytes + claimed_bytes)
        if not fits:
            raise MakeRoom(
                "E_DISK_FULL",
                f"needs {size_text(needed_bytes)} on {self._path}, where {size_text(free_bytes)} are free; "
                f"{size_text(self._reserve_bytes)} are kept in reserve and {size_text(claimed_bytes)} claimed by other "
                f"models: {size_text(short_bytes)} too little",
                needed_bytes=needed_bytes,
                free_bytes=free_bytes,
                is_foreseen=True,
            )
        if needed_bytes:
            self._claims[model] = Claim(needed_bytes=needed_bytes, moved_bytes=moved_bytes)
        return free_bytes

    async def ran_out(self, model: str, refused: MakeRoom) -> MakeRoom:
        """The disk refused a write of this model's fetch: the same trouble with the numbers, which are told too.

        There may be room by its own count all the same: a quota, or no names left, which is another code.
        """
        claim = self._claims.get(model)
        if refused.code not in ("E_DISK_FULL", "E_QUOTA") or refused.is_foreseen or claim is None:
            return refused
        needed_bytes = max(0, claim.needed_bytes - claim.moved_bytes())
        free = await self._volume.free()
        self._tell("full", free.size_bytes, needed_bytes)
        missing = f"{size_text(needed_bytes)} are still to come" if needed_bytes else "what came could not be kept"
        names = " and no inode" if free.names == 0 else ""
        return MakeRoom(
            "E_NO_INODES" if free.names == 0 and refused.code == "E_DISK_FULL" else refused.code,
            f"{refused.detail}: {missing} on {self._path}, where {size_text(free.size_bytes)}{names} are free",
            needed_bytes=needed_bytes,
            free_bytes=free.size_bytes,
        )

    def release(self, model: str) -> None:
        """The model's fetch ended."""
        self._claims.pop(model, None)

    def _tell(self, state: e.DiskState, free_bytes: int, needed_bytes: int) -> None:
        if (state, needed_bytes) != self._told:
            self._told = (state, needed_bytes)
            self._publish(e.DiskChanged(path=self._path, state=state, free_bytes=free_bytes, needed_bytes=needed_bytes))
