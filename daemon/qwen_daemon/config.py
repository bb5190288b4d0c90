"""The configuration: a TOML file, decoded and checked by msgspec into frozen structs; every limit with unit and reason.

An unknown key is an error that names its path and the nearest key. Flags win over everything. For the endpoint
HF_ENDPOINT wins over the file; for the cache the file wins over HF_HOME, which the system unit sets.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import msgspec

from qwen_api import places
from qwen_api.commands import AddModel, Count
from qwen_api.events import FollowPolicy
from qwen_api.language import N_, _
from qwen_api.models import BadModelName, parse_model
from qwen_api.rates import BadRate, Rate, parse_limit_bps
from qwen_daemon import endpoint_keys
from qwen_daemon.endpoint_keys import BadEndpoint, Mirror, Named

Positive = Annotated[float, msgspec.Meta(gt=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class BadConfig(ValueError):
    """The file cannot be used; the message says where and why."""


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[network]"""

    max_files: Count = 8  # files in flight over all models; one stream of the CDN gives about 28 MiB/s
    max_connections: Count = 16  # over all files in flight
    rate_limit_bps: Rate | None = None  # over everything that is fetched; also written as "20MB/s" or "off"
    connect_timeout_s: Positive = 20.0
    read_timeout_s: Positive = 30.0  # silence on an open connection before it is cut


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[check]"""

    disk_interval_s: Positive = 900.0  # a look at sizes and times; watchfiles tells of changes at once
    hub_interval_s: Positive = 21600.0  # has the branch moved? one metadata request
    scrub_interval_s: Seconds = (
        604800.0  # every file is read and hashed again in this time, in the background; 0: never
    )


class Disk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[disk]"""

    reserve_bytes: Annotated[int, msgspec.Meta(ge=0)] = 1_000_000_000  # left free for everything else


class ConfiguredModel(AddModel, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One of [[models]]: what a command may say, and what none may: which endpoints are asked, and where it is kept."""

    endpoints: tuple[str, ...] = ()  # by name, in order; none: those for all models
    local_dir: str = ""  # as in `hf download --local-dir`; empty: the Hub cache


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file. Paths and endpoint default to what the HF_* variables say."""

    cache_dir: str = ""
    endpoint: str = ""
    mirrors: dict[str, Mirror] = {}
    endpoints: tuple[str, ...] = ()  # by name, in order; none: every mirror, then the Hub
    offline: bool = False
    network: Network = Network()
    check: Check = Check()
    disk: Disk = Disk()
    models: tuple[ConfiguredModel, ...] = ()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the process runs with: the file joined with environment and flags."""

    config: Config
    config_file: Path | None
    cache_dir: Path
    has_links: bool  # in the cache, see places.has_links
    state_dir: Path
    control_socket: Path
    endpoint: str
    endpoints: tuple[Named, ...]
    offline: bool


def load(env: Mapping[str, str], given: Path | None) -> tuple[Config, Path | None]:
    """The configuration in force and where it came from (None: defaults). Raises BadConfig."""
    if given is not None:
        return read(given), given
    for path in places.config_files(env):
        if path.exists():
            return read(path), path
    if "QWEN_DAEMON_CONFIG" in env:
        raise BadConfig(_("{path} (from QWEN_DAEMON_CONFIG) does not exist", path=env["QWEN_DAEMON_CONFIG"]))
    return Config(), None


def read(path: Path) -> Config:
    """Read one file. Raises BadConfig."""
    try:
        config = msgspec.convert(_spelt_out(tomllib.loads(path.read_bytes().decode())), type=Config)
    except OSError as error:
        raise BadConfig(_("{path} cannot be read: {why}", path=path, why=error.strerror)) from error
    except msgspec.ValidationError as error:
        raise BadConfig(f"{path}: {_with_hint(str(error))}") from error
    except BadRate as error:
        raise BadConfig(f"{path}: {error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadConfig(_("{path} is not TOML: {why}", path=path, why=error)) from error
    _check_models(path, config.models)
    _check_endpoints(path, config)
    if config.endpoint:
        endpoint_url(config.endpoint, f"{path}: `$.endpoint`")
    return config


def _spelt_out(said: dict[str, Any]) -> dict[str, Any]:
    """The file with what people write short in full, and every speed ("20MB/s", "off") as a number. Raises BadRate."""
    endpoint_keys.with_mirrors_spelt_out(said)
    network, models = said.get("network"), said.get("models")
    if isinstance(network, dict):
        _read_rate(network, "$.network")
    for index, model in enumerate(models if isinstance(models, list) else ()):
        if isinstance(model, dict):
            _read_rate(model, f"$.models[{index}]")
    return said


def _read_rate(table: dict[str, Any], path: str) -> None:
    text = table.get("rate_limit_bps")
    if isinstance(text, str):
        try:
            table["rate_limit_bps"] = parse_limit_bps(text)
        except BadRate as error:
            raise BadRate(f"{error} - at `{path}.rate_limit_bps`") from error


def endpoint_url(text: str, source: str) -> str:
    """The Hub's address without a trailing slash. Raises BadConfig, naming `source`, if it is none."""
    if "@" in text.partition("://")[2].partition("/")[0]:
        why = _("an address holds no password, for it is shown and logged; use HF_TOKEN")
        raise BadConfig(f"{source}: {why}")
    if not endpoint_keys.is_address(text):
        hub = places.DEFAULT_ENDPOINT
        why = _("{url!r} is no address such as {hub} or http://127.0.0.1:8090", url=text, hub=hub)
        raise BadConfig(f"{source}: {why}")
    return text.rstrip("/")


def _check_endpoints(path: Path, config: Config) -> None:
    orders = {f"$.models[{index}].endpoints": model.endpoints for index, model in enumerate(config.models)}
    try:
        endpoint_keys.check(config.mirrors, {"$.endpoints": config.endpoints, **orders})
    except BadEndpoint as error:
        raise BadConfig(f"{path}: {error}") from error


def _check_models(path: Path, models: Sequence[AddModel]) -> None:
    seen: dict[str, int] = {}
    for index, model in enumerate(models):
        try:
            key = parse_model(model.model).key
        except BadModelName as error:
            raise BadConfig(f"{path}: {error} - at `$.models[{index}].model`") from error
        if key in seen:
            why = _(
                "`{one}` and `{two}` are the same model ({model}); write it once, with the patterns of both",
                one=f"$.models[{seen[key]}]",
                two=f"$.models[{index}]",
                model=model.model,
            )
            raise BadConfig(f"{path}: {why}")
        seen[key] = index


def local_dirs(models: Sequence[ConfiguredModel], cache_dir: Path) -> dict[str, Path]:
    """The real folder of every model that has one, by model key. Raises BadConfig if two would lie in one another."""
    folders: dict[str, Path] = {}
    names = {Path(os.path.realpath(cache_dir)): _("the Hub cache")}
    for model in models:
        if not model.local_dir:
            continue
        folder = _real_folder(model)
        for other, name in names.items():
            if folder.is_relative_to(other) or other.is_relative_to(folder):
                how = _IS if folder == other else _LIES_IN if folder.is_relative_to(other) else _HOLDS
                why = _(how, folder=folder, model=model.model, other=other, name=name)
                raise BadConfig(f"{why}: {_('give it a folder of its own')}")
        folders[parse_model(model.model).key] = folder
        names[folder] = _("the local_dir of {model}", model=model.model)
    return folders


_IS = N_("local_dir {folder} of {model} is {other}, {name}")
_LIES_IN = N_("local_dir {folder} of {model} lies in {other}, {name}")
_HOLDS = N_("local_dir {folder} of {model} holds {other}, {name}")


def _real_folder(model: ConfiguredModel) -> Path:
    """Links resolved, as huggingface_hub does it: this is the path that loaders get."""
    said = {"folder": model.local_dir, "model": model.model}
    try:
        folder = Path(model.local_dir).expanduser()
        if not folder.is_absolute():
            why = N_(
                "local_dir {folder!r} of {model} is not a whole path; write it from the root, such as "
                "/srv/models/name or ~/name"
            )
            raise BadConfig(_(why, **said))
        folder = folder.resolve()
        is_other = folder.exists() and not folder.is_dir()
    except (RuntimeError, OSError, ValueError) as error:  # nobody's home, links in a circle, a NUL
        if isinstance(error, BadConfig):
            raise
        raise BadConfig(_("local_dir {folder!r} of {model} cannot be used: {why}", **said, why=error)) from error
    if is_other:
        raise BadConfig(_("local_dir {folder!r} of {model} is not a folder", **said))
    return folder


def settle(
    config: Config,
    config_file: Path | None,
    env: Mapping[str, str],
    *,
    cache_dir: Path | None = None,
    state_dir: Path | None = None,
    control_socket: Path | None = None,
) -> Settings:
    """Join file, environment and flags.

    Raises BadConfig if HF_ENDPOINT is no address or that of a mirror, or if a local_dir cannot be.
    """
    from_file = Path(config.cache_dir).expanduser() if config.cache_dir else None
    cache = (cache_dir or from_file or places.hub_cache(env)).absolute()
    local_dirs(config.models, cache)
    return Settings(
        config=config,
        config_file=config_file,
        cache_dir=cache,
        has_links=places.has_links(env),
        state_dir=(state_dir or places.state_dir(env)).absolute(),
        control_socket=(control_socket or places.runtime_dir(env) / places.CONTROL_SOCKET).absolute(),
        endpoint=endpoint_in_force(env, config),
        endpoints=endpoints_in_force(config, endpoint_in_force(env, config)),
        offline=config.offline or places.is_offline(env),
    )


def endpoint_in_force(env: Mapping[str, str], config: Config | None = None) -> str:
    """HF_ENDPOINT, else the file's, else the Hub's own. Raises BadConfig."""
    if given := env.get("HF_ENDPOINT"):
        return endpoint_url(given, "HF_ENDPOINT")
    return ((config.endpoint if config else "") or places.DEFAULT_ENDPOINT).rstrip("/")


def endpoints_in_force(config: Config, hub_url: str) -> tuple[Named, ...]:
    """Every endpoint; the Hub's own is at `hub_url`. Raises BadConfig."""
    try:
        return endpoint_keys.in_force(config.mirrors, hub_url)
    except BadEndpoint as error:
        raise BadConfig(str(error)) from error


def _with_hint(message: str) -> str:
    """msgspec's sentence, and what was probably meant."""
    if re.search(r"at `\$\.(mirrors|endpoints)(\[[^`]*\])?`$", message) and "unknown field" not in message:
        right = N_('write [mirrors] and under it lan = "http://10.0.0.5:8090", and endpoints = ["lan", "hub"]')
        return f"{message}; {_(right)}"
    if message.endswith("at `$.models`"):
        return f"{message}; " + _('write [[models]] and under it model = "org/name"')
    wrong = re.search(r"Invalid enum value '([^']*)' - at `[^`]*follow`", message)
    if wrong is not None:
        return f"{message}; " + _("it is one of: {words}", words=", ".join(get_args(FollowPolicy)))
    return _with_nearest_key(message)


def _with_nearest_key(message: str) -> str:
    """msgspec says "Object contains unknown field `conection` - at `$.network`"; add what was probably meant."""
    unknown = re.search(r"unknown field `([^`]*)`(?: - at `\$([^`]*)`)?", message)
    if unknown is None:
        return message
    near = get_close_matches(unknown[1], list(_keys_at(unknown[2] or "")), n=1)
    if near:
        return f"{message}; " + _("did you mean `{near}`?", near=near[0])
    return f"{message}; " + _("remove it, or update qwen-daemon if a newer one knows it (`qwenctl version`)")


def _keys_at(path: str) -> Iterator[str]:
    kind: object = Config
    for name in re.findall(r"\w+", re.sub(r"\[[^\]]*\]", "", path)):
        hint = get_type_hints(kind).get(name) if isinstance(kind, type) else None
        inner = [arg for arg in get_args(hint) if isinstance(arg, type)]
        kind = inner[-1] if inner else hint  # a dict's values, a tuple's items
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield from kind.__struct_fields__
