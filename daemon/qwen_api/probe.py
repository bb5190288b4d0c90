"""What `qwen-daemon probe` found on its way to the Hub: the JSON document that `qwenctl doctor` reads.

The clients never talk to the Hub; a process of the daemon's package does, with the endpoints, tokens and proxies that a
daemon started here would use. A token is told by what it is good for, never by itself. Pure.
"""

from __future__ import annotations

from typing import Literal

import msgspec

TokenState = Literal["ok", "none", "refused", "unknown"]


class EndpointProbe(msgspec.Struct, frozen=True, kw_only=True):
    """How one endpoint answered. `code` is "" if it did; `clock_ahead_s` is None if it named no time.

    `user` is the account that its token belongs to; `proxy` is host and port of the one between, without a password.
    """

    name: str
    url: str
    proxy: str = ""
    code: str = ""
    detail: str = ""
    latency_s: float = 0.0
    clock_ahead_s: float | None = None
    token: TokenState = "unknown"  # noqa: S105  # a state, no token
    user: str = ""


class ThroughputProbe(msgspec.Struct, frozen=True, kw_only=True):
    """So many bytes of a file came in so many seconds, from the request on; `code` if they did not come."""

    path: str = ""
    size_bytes: int = 0
    duration_s: float = 0.0
    code: str = ""
    detail: str = ""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer. `listing` is the model's, as `qwen-daemon listing` prints it, null if there is none.

    `reserve_bytes` are what a daemon started here would leave free on every disk.
    """

    endpoints: tuple[EndpointProbe, ...] = ()
    listing: msgspec.Raw = msgspec.Raw(b"null")
    throughput: ThroughputProbe | None = None
    is_offline: bool = False
    reserve_bytes: int = 0
