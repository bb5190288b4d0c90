"""What the monitor remembers of each model while it watches: bytes that do not fall silently, and how fast they come.

Pure. `monitor` feeds it with each picture and draws what it shows.
"""

from __future__ import annotations

import msgspec

from qwen_api.status import Status
from qwen_monitor.amounts import Amounts
from qwen_monitor.pace import Pace


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """By the models' keys; a model that is no longer wanted is kept, for it may come back with a restarted daemon."""

    amounts: dict[str, Amounts] = {}
    paces: dict[str, Pace] = {}

    def fed(self, status: Status, now_s: float, *, is_live: bool) -> Memory:
        """With what `status` says at monotonic `now_s`; rates are of a connection that is live."""
        models = status.models
        amounts = {key: self.amounts_of(key).fed(model) for key, model in models.items()}
        counts = {key: model.received_bytes + amounts[key].earlier_bytes for key, model in models.items()}
        fed = {key: self.pace_of(key).fed(now_s, count) for key, count in counts.items()} if is_live else {}
        return Memory(amounts=self.amounts | amounts, paces=self.paces | fed)

    def shown(self, status: Status) -> Status:
        """`status` with each model as it is to be shown."""
        shown = {key: self.amounts_of(key).shown(model) for key, model in status.models.items()}
        return msgspec.structs.replace(status, models=shown)

    def amounts_of(self, key: str) -> Amounts:
        """Of one model; none yet of an unknown one."""
        return self.amounts.get(key, Amounts())

    def pace_of(self, key: str) -> Pace:
        """Of one model; none yet of an unknown one."""
        return self.paces.get(key, Pace())
