"""Room on the disk is promised once: to one model, less what it has taken already."""

from __future__ import annotations

import pytest

from qwen_api import events as e
from qwen_daemon.core.amounts import Free
from qwen_daemon.core.errors import MakeRoom
from qwen_daemon.engine.room import Room


class FreeSpace:
    """A disk of which only what is free matters."""

    def __init__(self, free_bytes: int) -> None:
        self.bytes, self.names = free_bytes, 100

    async def free(self) -> Free:
        return Free(self.bytes, self.names)


@pytest.mark.fault("D13")
async def test_models_share_the_room_that_is_left() -> None:
    """What one model still needs is not free for another; what it has written no longer counts twice."""
    told: list[e.Event] = []

    def publish(event: e.Event) -> int:
        told.append(event)
        return len(told)

    disk, moved = FreeSpace(1000), 0
    room = Room(disk, "/cache", 100, publish)
    assert await room.claim("a", 600, lambda: moved) == 1000
    with pytest.raises(MakeRoom) as full:
        await room.claim("b", 400, lambda: 0)
    assert (full.value.needed_bytes, full.value.free_bytes) == (400, 1000)
    moved, disk.bytes = 500, 500  # half-way: 100 to come for a, 300 over the reserve for b
    await room.claim("b", 300, lambda: 0)
    room.release("a")
    room.release("b")
    assert await room.claim("c", 400, lambda: 0) == 500
    with pytest.raises(MakeRoom):
        await room.claim("c", 401, lambda: 0)
    disk.bytes = 0
    assert await room.claim("d", 0, lambda: 0) == 0, "who needs nothing is not held up"
    assert [event.state for event in told if isinstance(event, e.DiskChanged)][:3] == ["ok", "full", "ok"]


@pytest.mark.fault("D11", "D14", "D18")
async def test_a_disk_that_refuses_a_write_is_told_with_numbers() -> None:
    """What is still to come and what is free, also if that is more: a quota may be what refused."""
    told: list[e.DiskChanged] = []

    def publish(event: e.Event) -> int:
        assert isinstance(event, e.DiskChanged)
        told.append(event)
        return len(told)

    disk = FreeSpace(1000)
    room = Room(disk, "/cache", 0, publish)
    await room.claim("a", 600, lambda: 200)
    disk.bytes = 17
    full = await room.ran_out("a", MakeRoom("E_QUOTA", "Disk quota exceeded (EDQUOT)"))
    assert (full.needed_bytes, full.free_bytes, told[-1].state, told[-1].free_bytes) == (400, 17, "full", 17)
    assert full.detail == "Disk quota exceeded (EDQUOT): 400 B are still to come on /cache, where 17 B are free"
    assert full.code == "E_QUOTA"
    disk.names = 0
    nameless = await room.ran_out("a", MakeRoom("E_DISK_FULL", "No space left on device (ENOSPC)"))
    assert nameless.code == "E_NO_INODES" and "17 B and no inode are free" in nameless.detail
    other = MakeRoom("E_READ_ONLY", "Read-only file system (EROFS)")
    assert await room.ran_out("a", other) is other
    with pytest.raises(MakeRoom) as foreseen:
        await room.claim("b", 18, lambda: 0)
    assert (foreseen.value.is_foreseen, full.is_foreseen) == (True, False)
    assert await room.ran_out("a", foreseen.value) is foreseen.value
    room.release("a")
    unclaimed = MakeRoom("E_DISK_FULL", "No space left on device (ENOSPC)")
    assert await room.ran_out("a", unclaimed) is unclaimed, "nothing was claimed: there are no numbers"
