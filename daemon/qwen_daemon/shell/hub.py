"""What the Hub knows of a repository, through huggingface_hub: only this module and `hub_listing` import it.

Its calls block, so each runs in a thread; its exceptions are translated at the door. The listing is turned into a
Manifest, which refuses hostile names, sizes and hashes as a whole.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, cast

import httpx2
import huggingface_hub
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined] # exported lazily, which mypy does not see
    build_hf_headers,
    filter_repo_objects,
    hf_raise_for_status,
)
from huggingface_hub.utils._http import default_client_factory

from qwen_api.manifest import BadManifest, Manifest, make_manifest
from qwen_api.models import ModelRef, is_commit, is_repo
from qwen_daemon.core.errors import AskHuman, Trouble, TryAgain
from qwen_daemon.core.verdict import Answer, judge_refusal
from qwen_daemon.shell import durable
from qwen_daemon.shell.hub_bounds import raise_huge
from qwen_daemon.shell.hub_listing import every_file, info_at
from qwen_daemon.shell.proxy import named, proxy_for

ANSWER_TIMEOUT_S = 120.0  # a listing of many pages, with huggingface_hub's own retries of each
REQUESTS_MAX = 2000  # for one question: a listing without an end would be followed by its thread for ever

_PORTS = {"http": 80, "https": 443}
_CHAIN_MAX = 16  # httpx2 wraps httpcore's, which wraps the system's; a longer chain is not followed

_THREAD_NAME = "hub"

T = TypeVar("T")


class HubApi:
    """ports.Hub over huggingface_hub. `token` reads the current token at each call; None asks anonymously.

    `on_renamed` is told the asked and the present name of a repository that the Hub knows under another one.
    """

    def __init__(
        self,
        endpoint: str,
        token: Callable[[], str | None],
        on_renamed: Callable[[str, str], None] = lambda _repo, _name: None,
    ) -> None:
        self._endpoint = endpoint
        self._token = token
        self._on_renamed = on_renamed
        _use_own_client()

    async def resolve(self, ref: ModelRef) -> str:
        """See ports.Hub."""

        info = await self._call(lambda api: info_at(api, ref.repo, ref.revision))
        commit = info.sha
        if info.id != ref.repo and is_repo(info.id):
            self._on_renamed(ref.repo, info.id)
        if commit is None or not is_commit(commit):
            raise AskHuman("E_LISTING", "the Hub gave no commit for this revision")
        return commit

    async def list_files(self, repo: str, commit: str) -> Manifest:
        """See ports.Hub."""

        def ask(api: HfApi) -> Manifest:
            return make_manifest(repo, commit, every_file(api, repo, commit))

        return await self._call(ask)

    async def _call(self, ask: Callable[[HfApi], T]) -> T:
        api = HfApi(endpoint=self._endpoint, token=self._token() or False)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await _apart(lambda: _counted(ask, api))
        except BadManifest as error:
            raise AskHuman("E_LISTING", str(error)) from error
        except Exception as error:
            # huggingface_hub promises no closed set of exceptions (httpx2's, its own, ValueError for bad answers).
            raise translate(error) from error


def select(manifest: Manifest, include: Sequence[str], exclude: Sequence[str]) -> Manifest:
    """The files that `hf download --include ... --exclude ...` would take, by its own code."""
    if not include and not exclude:
        return manifest
    paths = filter_repo_objects(
        [f.path for f in manifest.files], allow_patterns=list(include) or None, ignore_patterns=list(exclude) or None
    )
    return manifest.keep(paths)


def user_agent() -> str:
    """The User-Agent of our own requests, in huggingface_hub's form."""
    version = importlib.metadata.version("qwen-daemon")
    headers = build_hf_headers(token=False, library_name="qwen-daemon", library_version=version)
    return str(headers["user-agent"])


def read_token(env: Mapping[str, str]) -> str | None:
    """The token now: systemd's credential `hf-token` (unless it is the word anonymous), else huggingface_hub's own."""
    folder = env.get("CREDENTIALS_DIRECTORY")
    if folder and (credential := Path(folder) / "hf-token").is_file():
        token = credential.read_text().strip()
        return token if token and token != "anonymous" else None  # noqa: S105 - the unit file's stand-in for "none"
    return huggingface_hub.get_token()


def quiet() -> None:
    """huggingface_hub's own log lines and bars are not the daemon's."""
    huggingface_hub.utils.logging.set_verbosity(logging.ERROR)


def translate(error: Exception) -> Trouble:
    """Which trouble a failed call is. Foreign messages are cut: they may hold addresses."""
    if isinstance(error, Trouble):
        return error
    if isinstance(error, TimeoutError):
        return TryAgain("E_TIMEOUT", "the Hub did not answer in time")
    if isinstance(error, GatedRepoError):
        return AskHuman("E_GATED", "access to this repository must be granted on the Hub first")
    if isinstance(error, DisabledRepoError):
        return AskHuman("E_DISABLED", "the Hub has disabled this repository")
    if isinstance(error, RevisionNotFoundError):
        return AskHuman("E_REVISION_NOT_FOUND", "the repository has no such revision")
    if isinstance(error, RepositoryNotFoundError):
        return AskHuman("E_NOT_FOUND", "no such repository, or it is private and the token may not see it")
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        headers = {name.lower(): value for name, value in error.response.headers.items()}
        return judge_refusal(Answer(status=error.response.status_code, headers=headers, from_hub=True))
    kind = type(error).__name__
    if isinstance(error, (ValueError, KeyError, TypeError, AttributeError)) and not isinstance(error, OSError):
        return TryAgain("E_LISTING", f"the Hub's answer could not be read ({kind})")
    if (spent := _out_of_descriptors(error)) is not None:
        return spent
    if (proxied := _proxy_trouble(error)) is not None:
        return proxied
    return TryAgain("E_NETWORK", _unreached(error))


def _proxy_trouble(error: Exception) -> Trouble | None:
    """Through a proxy it is the proxy that a connection is made to: then that is whom to name."""
    request = error._request if isinstance(error, httpx2.RequestError) else None
    proxy = proxy_for(str(request.url)) if request is not None else None
    if proxy is None:
        return None
    if isinstance(error, httpx2.ProxyError):
        return TryAgain("E_PROXY", f"the proxy {named(proxy)} refused to connect us")
    if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout)):
        return TryAgain("E_PROXY", f"cannot connect to the proxy {named(proxy)}: {_system_words(error)}")
    return None


def _unreached(error: Exception) -> str:
    """Which host could not be reached, and why in the system's own words: never the address's path or query."""
    request = error._request if isinstance(error, httpx2.RequestError) else None
    # Names and numbers of hosts are all that is taken of the address: users and passwords may stand in it too.
    where = _host_and_port(request.url) if request is not None else "the Hub"
    if isinstance(error, httpx2.TimeoutException):
        return f"{where} did not answer in time"
    if isinstance(error, httpx2.ConnectError):
        return f"cannot connect to {where}: {_system_words(error)}"
    return f"{where} could not be asked: {_system_words(error)}"


def _host_and_port(url: httpx2.URL) -> str:
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{host}:{url.port or _PORTS.get(url.scheme, '')}"


def _out_of_descriptors(error: BaseException) -> Trouble | None:
    """The trouble that is no server's, if it is at the bottom of a chain of exceptions."""
    cause = cast("BaseException | None", error)
    for _ in range(_CHAIN_MAX):
        if isinstance(cause, OSError) and cause.errno in durable.OUT_OF_DESCRIPTORS:
            return durable.translate(cause)
        cause = cause and (cause.__cause__ or cause.__context__)
    return None


def _system_words(error: BaseException) -> str:
    """What the system said at the bottom of a chain of exceptions; the outermost one's kind if it said nothing."""
    said, cause = "", cast("BaseException | None", error)
    for _ in range(_CHAIN_MAX):
        if cause is None:
            break
        if isinstance(cause, ssl.SSLCertVerificationError):
            said = f"its certificate is not trusted: {cause.verify_message}"
        elif isinstance(cause, socket.gaierror):
            said = f"its name could not be looked up: {(cause.strerror or '').lower()}"
        elif isinstance(cause, OSError) and cause.errno:
            said = os.strerror(cause.errno).lower()
        cause = cause.__cause__ or cause.__context__
    return said or type(error).__name__


async def _apart(work: Callable[[], T]) -> T:
    """Run blocking work in a thread that nobody waits for when this task is cancelled.

    huggingface_hub cannot be interrupted (it sleeps between tries, and its listing calls have no timeout); a worker of
    the loop's pool would hold up the end of the process for as long.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(cast("T", result))

    def run() -> None:
        result, failed = None, None
        try:
            result = work()
        except BaseException as error:
            failed = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, result, failed)

    threading.Thread(target=run, name=_THREAD_NAME, daemon=True).start()
    return await outcome


def is_asking() -> bool:
    """True while a question is on its way, also one that nobody waits for any more."""
    return any(thread.name == _THREAD_NAME for thread in threading.enumerate())


@functools.cache
def _use_own_client() -> None:
    """Once: setting it again would close the client under the questions of other endpoints."""
    huggingface_hub.set_client_factory(_client)


def _client() -> httpx2.Client:
    """huggingface_hub's own client, but refusals are raised at once: when to ask again is the engine's to say.

    Otherwise its listing call sleeps through a rate limit (six tries, minutes) without anybody seeing it.
    """
    client = default_client_factory()
    hooks = [raise_huge, _raise_refusal, _raise_other_origin, _raise_endless]
    client.event_hooks = {**client.event_hooks, "response": hooks}
    return client


def _raise_refusal(response: httpx2.Response) -> None:
    if response.status_code >= 400:
        hf_raise_for_status(response)


_question = threading.local()  # each is asked in a thread of its own


def _counted(ask: Callable[[HfApi], T], api: HfApi) -> T:
    _question.requests = 0
    return ask(api)


def _raise_endless(_response: httpx2.Response) -> None:
    """Pages of no files, each naming a next one, are read inside huggingface_hub, where nobody else counts them."""
    _question.requests = getattr(_question, "requests", 0) + 1
    if _question.requests > REQUESTS_MAX:
        raise BadManifest(f"the listing goes on after {REQUESTS_MAX} requests")


def _raise_other_origin(response: httpx2.Response) -> None:
    """A renamed repository is followed on the endpoint's own origin; nobody else may say what a model consists of."""
    if not response.has_redirect_location:
        return
    asked = response.request.url
    target = asked.join(response.headers["location"])
    if (target.scheme, _host_and_port(target)) != (asked.scheme, _host_and_port(asked)):
        where = f"{target.scheme}://{_host_and_port(target)}"
        raise AskHuman("E_REDIRECT", f"{_host_and_port(asked)} sends questions on to {where}")
