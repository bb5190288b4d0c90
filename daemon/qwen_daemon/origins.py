"""Where each value comes from that a daemon started here would run with: default, file and line, environment, flag.

For `qwen-daemon config`. The values are `config`'s; this module only finds out who said them. Secrets are left out:
a token is `set` or not, and an address loses its password.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from qwen_api import places
from qwen_api.settings import Configuration, Origin, Setting
from qwen_daemon import config as files
from qwen_daemon.logs import redact
from qwen_daemon.shell.proxy import named

_PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
# Who may say where things are kept, the first that does wins; behind the flag and, for the cache, the file.
_VARIABLES = {
    "cache_dir": ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"),
    "state_dir": ("STATE_DIRECTORY", "XDG_STATE_HOME"),
    "control_socket": ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"),
    "config": ("QWEN_DAEMON_CONFIG",),
    "symlinks": ("HF_HUB_DISABLE_SYMLINKS",),
}
_FLAGS = {
    "cache_dir": "--cache-dir",
    "state_dir": "--state-dir",
    "control_socket": "--socket",
    "config": "--config",
}


def configuration(env: Mapping[str, str], flags: Mapping[str, Path]) -> Configuration:
    """Every value in force; `flags` are the daemon's own, by the key they set. Raises BadConfig."""
    config, path = files.load(env, flags.get("config"))
    settings = files.settle(
        config,
        path,
        env,
        cache_dir=flags.get("cache_dir"),
        state_dir=flags.get("state_dir"),
        control_socket=flags.get("control_socket"),
    )
    said = lines_of_keys(path.read_text()) if path is not None else {}
    source = _Source(env=env, flags=flags, file=path, lines=said)
    rows = [source.of("config", str(path or ""), in_file=False)]
    rows += [source.of("cache_dir", str(settings.cache_dir)), source.of("endpoint", settings.endpoint)]
    rows += [source.of("offline", settings.offline), source.of("state_dir", str(settings.state_dir), in_file=False)]
    rows += [source.of("control_socket", str(settings.control_socket), in_file=False)]
    rows += [source.of("symlinks", settings.has_links, in_file=False), _token(env)]
    rows += [_proxy(name, env) for name in _PROXIES if env.get(name) or env.get(name.lower())]
    done = {row.key for row in rows}
    rows += [source.of(key, value) for key, value in _leaves(msgspec.to_builtins(config)) if _root(key) not in done]
    return Configuration(
        file=str(path or ""), models=len(config.models), mirrors=len(config.mirrors), settings=tuple(rows)
    )


def lines_of_keys(text: str) -> dict[str, int]:
    """Where each key of a TOML file is set: the line (from 1) on which its statement begins.

    A statement ends where the lines since the last one are TOML by themselves, so strings and arrays of several lines
    are taken whole. Keys are written `network.max_files`, `models[0].model`.
    """
    found: dict[str, int] = {}
    header, begin, tables = "", 0, Counter[str]()
    lines = text.split("\n")
    for end in range(1, len(lines) + 1):
        chunk = "\n".join(lines[begin:end])
        try:
            said = tomllib.loads(chunk)
        except tomllib.TOMLDecodeError:
            continue
        if chunk.lstrip().startswith("["):
            header = chunk
            tables.update(name for name, value in said.items() if isinstance(value, list))
        elif said:
            for key, _value in _leaves(tomllib.loads(f"{header}\n{chunk}")):
                name = _root(key)
                found.setdefault(key.replace("[0]", f"[{tables[name] - 1}]", 1) if tables[name] else key, begin + 1)
        begin = end
    return found


class _Source(msgspec.Struct, frozen=True, kw_only=True):
    env: Mapping[str, str]
    flags: Mapping[str, Path]
    file: Path | None
    lines: Mapping[str, int]

    def of(self, key: str, value: object, *, in_file: bool = True) -> Setting:
        """`in_file`: it is a key of the file as well."""
        origin, place = self._origin(key, in_file)
        return Setting(key=key, value=_written(value), origin=origin, place=place)

    def _origin(self, key: str, in_file: bool) -> tuple[Origin, str]:
        if key in self.flags:
            return "command line", _FLAGS[key]
        if key == "endpoint" and self.env.get("HF_ENDPOINT"):
            return "environment", "HF_ENDPOINT"
        line = self._line(key) if in_file else None
        if line is not None:
            return "file", f"{self.file}:{line}"
        if key == "offline" and places.is_offline(self.env):
            return "environment", "HF_HUB_OFFLINE" if self.env.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"
        variable = next((name for name in _VARIABLES.get(key, ()) if self.env.get(name)), "")
        return ("environment", variable) if variable else ("default", "")

    def _line(self, key: str) -> int | None:
        """Of the key, or of what holds it: `lan = "http://..."` says `mirrors.lan.url`."""
        while key:
            if key in self.lines:
                return self.lines[key]
            key = key.rpartition(".")[0]
        return None


def _token(env: Mapping[str, str]) -> Setting:
    """Whether there is one, and where: never what it is."""
    folder = env.get("CREDENTIALS_DIRECTORY")
    if folder and (Path(folder) / "hf-token").is_file():
        return Setting(key="token", value="set", origin="environment", place="CREDENTIALS_DIRECTORY")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if env.get(name):
            return Setting(key="token", value="set", origin="environment", place=name)
    stored = places.token_file(env)
    if stored.is_file():
        return Setting(key="token", value="set", origin="file", place=str(stored))
    return Setting(key="token", value="none")


def _proxy(name: str, env: Mapping[str, str]) -> Setting:
    variable = name.lower() if env.get(name.lower()) else name
    value = env[variable] if name == "NO_PROXY" else named(env[variable])
    return Setting(key=name.lower(), value=_written(value), origin="environment", place=variable)


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    elif path not in ("models", "mirrors"):
        yield path, value


def _root(key: str) -> str:
    return re.split(r"[.\[]", key, maxsplit=1)[0]


def _written(value: object) -> str:
    """As TOML writes it; no speed limit is `"off"`."""
    text = json.dumps("off" if value is None else value, ensure_ascii=False)
    return redact(_PASSWORD.sub("***@", text))
