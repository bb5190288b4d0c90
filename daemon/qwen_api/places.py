"""Where everything lives: sockets, state, ready files, configuration and the Hub cache.

Pure: each function is given an environment mapping (and reads no other), so a test, a user session and a system
service get the same answer from the same variables. systemd sets STATE_DIRECTORY, RUNTIME_DIRECTORY and
CREDENTIALS_DIRECTORY (systemd.exec(5)); the HF_* variables keep huggingface_hub's meaning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

APP = "qwen-daemon"
SYSTEM_RUNTIME_DIR = Path("/run/qwen-daemon")
SYSTEM_CONFIG_FILE = Path("/etc/qwen-daemon/config.toml")
DEFAULT_ENDPOINT = "https://huggingface.co"

CONTROL_SOCKET = "control.sock"
EVENTS_SOCKET = "events.sock"

_TRUE = {"1", "ON", "YES", "TRUE"}  # huggingface_hub constants.ENV_VARS_TRUE_VALUES

Env = Mapping[str, str]


def runtime_dir(env: Env) -> Path:
    """Where this daemon puts its sockets: systemd's directory, the user's, else one in the home."""
    if given := env.get("RUNTIME_DIRECTORY"):
        return Path(given.split(":")[0])
    if given := env.get("XDG_RUNTIME_DIR"):
        return Path(given) / APP
    return _home(env) / ".cache" / APP / "run"


def sockets_to_try(env: Env) -> tuple[Path, ...]:
    """The control sockets a client tries, in order: $QWEN_DAEMON_SOCKET alone if set, the user's, the system's."""
    if given := env.get("QWEN_DAEMON_SOCKET"):
        return (Path(given),)
    return (runtime_dir(env) / CONTROL_SOCKET, SYSTEM_RUNTIME_DIR / CONTROL_SOCKET)


def events_socket(control: Path) -> Path:
    """The read-only socket beside a control socket."""
    return control.with_name(EVENTS_SOCKET)


def state_dir(env: Env) -> Path:
    """The ledger, the ready files and the lock."""
    if given := env.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0])
    base = env.get("XDG_STATE_HOME")
    return (Path(base) if base else _home(env) / ".local" / "state") / APP


def private_state_dir(env: Env, place: Path) -> Path:
    """The state of the daemons that `qwenctl download` starts for itself: one per cache or local_dir, to resume."""
    name = hashlib.sha256(str(place.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return state_dir(env) / "private" / name


def ready_file(state: Path, model_key: str) -> Path:
    """The file that exists while a model is complete; holds {repo, commit, path, verified, seals}."""
    return state / "ready" / f"{model_key}.json"


def last_rates_file(state: Path) -> Path:
    """How fast each model came the last time, by its key; see last_rates."""
    return state / "last-rates.json"


def config_files(env: Env) -> tuple[Path, ...]:
    """Configuration files in order of preference; the first that exists is used."""
    if given := env.get("QWEN_DAEMON_CONFIG"):
        return (Path(given),)
    base = env.get("XDG_CONFIG_HOME")
    user = (Path(base) if base else _home(env) / ".config") / APP / "config.toml"
    return (user, SYSTEM_CONFIG_FILE)


def hub_cache(env: Env) -> Path:
    """The Hub cache: HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub (huggingface_hub constants.py)."""
    given = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE")
    return _expand(given, env) if given else hf_home(env) / "hub"


def hf_home(env: Env) -> Path:
    """HF_HOME, else $XDG_CACHE_HOME/huggingface, else ~/.cache/huggingface."""
    if given := env.get("HF_HOME"):
        return _expand(given, env)
    base = env.get("XDG_CACHE_HOME")
    return (_expand(base, env) if base else _home(env) / ".cache") / "huggingface"


def token_file(env: Env) -> Path:
    """HF_TOKEN_PATH, else HF_HOME/token."""
    given = env.get("HF_TOKEN_PATH")
    return _expand(given, env) if given else hf_home(env) / "token"


def endpoint(env: Env) -> str:
    """HF_ENDPOINT without a trailing slash, else the Hub's own."""
    return (env.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def is_offline(env: Env) -> bool:
    """HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) as huggingface_hub reads it."""
    return any((env.get(name) or "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def has_links(env: Env) -> bool:
    """False under HF_HUB_DISABLE_SYMLINKS, where huggingface_hub puts files into the snapshot instead of links."""
    return (env.get("HF_HUB_DISABLE_SYMLINKS") or "").upper() not in _TRUE


def repo_dir(cache: Path, repo: str) -> Path:
    """A model repository's folder in the cache: `models--org--name`."""
    return cache / f"models--{repo.replace('/', '--')}"


def snapshot_dir(cache: Path, repo: str, commit: str) -> Path:
    """The folder that a loader is given."""
    return repo_dir(cache, repo) / "snapshots" / commit


def tree_file(cache: Path, repo: str, commit: str) -> Path:
    """huggingface_hub's copy of the Hub's listing of one commit."""
    return repo_dir(cache, repo) / "trees" / f"{commit}.json"


def ref_file(cache: Path, repo: str, revision: str) -> Path:
    """The 40 bytes that say which commit a branch or tag was last seen at."""
    return repo_dir(cache, repo) / "refs" / revision


def _home(env: Env) -> Path:
    home = env.get("HOME")
    return Path(home) if home else Path("~").expanduser()


def _expand(text: str, env: Env) -> Path:
    for name in sorted(env, key=len, reverse=True):
        text = text.replace(f"${{{name}}}", env[name]).replace(f"${name}", env[name])
    return _home(env) / text[2:] if text.startswith("~/") else Path(text)
