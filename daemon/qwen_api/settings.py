"""What a daemon started here would run with and where each value came from, as `qwen-daemon config` prints it.

The JSON document between it and `qwenctl config`. A secret is told as `set`. Pure.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Origin = Literal["default", "file", "environment", "command line"]


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One value, as TOML writes it. `place` is `file:line`, the variable's name or the flag; "" for a default."""

    key: str
    value: str
    origin: Origin = "default"
    place: str = ""


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """Every value in force. `file` is "" if there is no configuration file."""

    file: str = ""
    models: int = 0
    mirrors: int = 0
    settings: tuple[Setting, ...] = ()
