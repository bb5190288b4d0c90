"""The endpoints that the configuration names: the Hub's own, mirrors beside it, and the order in which to ask them.

    [mirrors]
    lan = "http://10.0.0.5:8090"

is all that most people write: mirrors are then asked for bytes before the Hub, in the order of the file. `endpoints`
(for all models, or in one of [[models]]) gives another order, or leaves some out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from qwen_api.language import _

HUB = "hub"  # the name of the Hub's own endpoint: `endpoint`, HF_ENDPOINT or https://huggingface.co
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PORTS = {"http": 80, "https": 443}


class BadEndpoint(ValueError):
    """The endpoints cannot be used as they are written; the message says where and why."""


class Mirror(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[mirrors.NAME]: another address of the same models. It gets no token but its own."""

    url: str
    token_file: str = ""  # read again when it is a second old
    token_env: str = ""  # the variable that holds it


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint in force. With no token named the Hub's own gets the Hub's token, a mirror none."""

    name: str
    url: str
    token_file: str = ""
    token_env: str = ""

    @property
    def is_mirror(self) -> bool:
        """Not the Hub's own."""
        return self.name != HUB


def with_mirrors_spelt_out(said: dict[str, object]) -> None:
    """`lan = "http://..."` is short for a table with a url."""
    mirrors = said.get("mirrors")
    if isinstance(mirrors, dict):
        for name, mirror in mirrors.items():
            if isinstance(mirror, str):
                mirrors[name] = {"url": mirror}


def check(mirrors: Mapping[str, Mirror], orders: Mapping[str, Sequence[str]]) -> None:
    """Raises BadEndpoint. `orders` by the path of their key, such as `$.models[0].endpoints`."""
    for name, mirror in mirrors.items():
        _check_mirror(name, mirror)
    _check_same(named(mirrors, ""))
    for path, order in orders.items():
        for name in order:
            if name != HUB and name not in mirrors:
                raise BadEndpoint(f"{_unknown(name, mirrors)} - at `{path}`")
        if len(set(order)) < len(order):
            raise BadEndpoint(_("an endpoint stands twice") + f" - at `{path}`")


def in_force(mirrors: Mapping[str, Mirror], hub_url: str) -> tuple[Named, ...]:
    """Every endpoint, the Hub's own last. Raises BadEndpoint if that is one of the mirrors, or a token is missing."""
    endpoints = named(mirrors, hub_url)
    _check_same(endpoints)
    for endpoint in endpoints:
        if endpoint.token_file and not Path(endpoint.token_file).is_file():
            why = _("there is no file {path}", path=endpoint.token_file)
            raise BadEndpoint(f"{why} - at `$.mirrors.{endpoint.name}.token_file`")
    return endpoints


def named(mirrors: Mapping[str, Mirror], hub_url: str) -> tuple[Named, ...]:
    """The mirrors in the order of the file, then the Hub's own."""
    beside = (
        Named(
            name=name,
            url=mirror.url.rstrip("/"),
            token_file=str(Path(mirror.token_file).expanduser()) if mirror.token_file else "",
            token_env=mirror.token_env,
        )
        for name, mirror in mirrors.items()
    )
    return (*beside, *((Named(name=HUB, url=hub_url),) if hub_url else ()))


def is_address(text: str) -> bool:
    """An http(s) address with a host."""
    try:
        url = urlsplit(text)
        return url.scheme in _PORTS and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:  # an IPv6 address without its bracket, a port that is none
        return False


def _check_mirror(name: str, mirror: Mirror) -> None:
    if why := _wrong_with(name, mirror):
        raise BadEndpoint(f"{why} - at `$.mirrors.{name}`")


def _wrong_with(name: str, mirror: Mirror) -> str:
    if name == HUB:
        return _("{name!r} is the Hub's own endpoint; set its address with `endpoint`", name=HUB)
    if not _NAME.fullmatch(name):
        return _("a mirror's name has up to 32 of a-z, 0-9, '.', '_', '-'")
    if "@" in mirror.url:
        return _("an address holds no password; use token_file or token_env")
    if not is_address(mirror.url) or any(part in mirror.url for part in "?#"):
        return _("{url!r} is no address such as http://10.0.0.5:8090", url=mirror.url)
    if mirror.token_file and mirror.token_env:
        return _("token_file and token_env are two tokens; keep one")
    if mirror.token_file and not Path(mirror.token_file).expanduser().is_absolute():
        return _("token_file is a path from the root or from ~")
    if mirror.token_env and not _VARIABLE.fullmatch(mirror.token_env):
        return _("token_env is the name of a variable, not the token itself")
    return ""


def _check_same(endpoints: Sequence[Named]) -> None:
    seen: dict[tuple[str, str, int, str], str] = {}
    for endpoint in endpoints:
        url = urlsplit(endpoint.url)
        address = (url.scheme, url.hostname or "", url.port or _PORTS.get(url.scheme, 0), url.path.rstrip("/"))
        if address in seen:
            one, two = seen[address], endpoint.name
            why = _("{one!r} and {two!r} are the same address, {url}; keep one", one=one, two=two, url=endpoint.url)
            raise BadEndpoint(f"{why} - at `$.mirrors`")
        seen[address] = endpoint.name


def _unknown(name: str, mirrors: Mapping[str, Mirror]) -> str:
    why = _("there is no endpoint {name!r}", name=name)
    if "://" in name:
        return why + "; " + _('give it a name: [mirrors] and under it lan = "{url}"', url=name)
    if near := get_close_matches(name, [*mirrors, HUB], n=1):
        return why + "; " + _("did you mean {near!r}?", near=near[0])
    return why + "; " + _("there is {names}", names=", ".join(map(repr, [*mirrors, HUB])))
