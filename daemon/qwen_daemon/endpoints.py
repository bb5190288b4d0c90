"""Opens the endpoints that the configuration names, at the start and at each reload: one Hub and one Origin for each.

Only here meet an endpoint's address and its token: the Hub's token goes to the Hub's own endpoint, a mirror gets the
one that was configured for it, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import aiohttp

from qwen_api.models import parse_model
from qwen_daemon.config import Config, endpoint_in_force, endpoints_in_force
from qwen_daemon.core.errors import AskHuman
from qwen_daemon.endpoint_keys import HUB, Named
from qwen_daemon.engine.endpoints import Endpoint, Endpoints, Order
from qwen_daemon.shell.fetch import HttpOrigin
from qwen_daemon.shell.hub import HubApi, read_token
from qwen_daemon.shell.tokens import Token


class Opener:
    """Keeps `endpoints` as the configuration says; what did not change keeps its signed addresses and its standing."""

    def __init__(
        self,
        endpoints: Endpoints,
        session: aiohttp.ClientSession,
        env: Mapping[str, str],
        hub_url: str,
        *,
        on_throttled: Callable[[str, float], None],
        on_renamed: Callable[[str, str], None] = lambda _repo, _name: None,
    ) -> None:
        self._endpoints = endpoints
        self._session = session
        self._env = env
        self._hub_url = hub_url
        self._on_throttled = on_throttled
        self._on_renamed = on_renamed
        self._open: dict[Named, Endpoint] = {}

    def configure(self, config: Config) -> bool:
        """Take this configuration's endpoints. False if the Hub's own address is another one now: that needs a restart.

        Raises BadConfig, and then nothing has changed.
        """
        named = endpoints_in_force(config, self._hub_url)
        self._open = {one: self._open.get(one) or self._opened(one) for one in named}
        self._endpoints.configure(list(self._open.values()), order_of(config, named))
        return endpoint_in_force(self._env, config) == self._hub_url

    def _opened(self, named: Named) -> Endpoint:
        token = token_of(named, self._env)
        return Endpoint(
            name=named.name,
            url=named.url,
            is_mirror=named.is_mirror,
            hub=HubApi(named.url, token.fresh, self._on_renamed),
            origin=HttpOrigin(
                self._session, named.url, token, on_throttled=self._on_throttled, on_renamed=self._on_renamed
            ),
        )


def order_of(config: Config, named: Sequence[Named]) -> Order:
    """The order for all models and those of single ones; none given: as they stand, the Hub last."""
    return Order(
        names=config.endpoints or tuple(one.name for one in named),
        of_models={parse_model(model.model).key: model.endpoints for model in config.models if model.endpoints},
    )


def token_of(named: Named, env: Mapping[str, str]) -> Token:
    """The endpoint's own token; None: it is asked without."""
    if named.token_file:
        return Token(lambda: _token_in(Path(named.token_file)))
    if named.token_env:
        return Token(lambda: env.get(named.token_env, "").strip() or None)
    return Token(lambda: read_token(env) if named.name == HUB else None)


def _token_in(path: Path) -> str | None:
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise AskHuman("E_AUTH", f"the token in {path} cannot be read: {why}") from error
    if not token.isascii() or not token.isprintable() or " " in token:
        raise AskHuman("E_AUTH", f"{path} holds more than a token")
    return token or None
