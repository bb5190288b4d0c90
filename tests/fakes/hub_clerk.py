"""Who may see what of the simulated Hub, and which answer they get: repositories, tokens, signed URLs, quotas.

A Clerk is SimHub without its servers: it turns a logged request into an Answer and knows nothing of sockets. What the
answers look like is hub_answers' business.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn
from urllib.parse import quote

from tests import canary
from tests.fakes import hub_answers as answers
from tests.fakes.hub_kinds import ChangedETag, EntryVanished, ForgeListing, IgnoreRange, Kind, QueryLost
from tests.fakes.hub_log import Request
from tests.fakes.hub_messages import Answer, Asked, Headers, Visit, asked_bytes, text_body
from tests.fakes.hub_repo import Commit, Content, Entry, SimRepo
from tests.fakes.hub_routes import Route, is_sha, query

TREE_PAGE_ENTRIES = 1000  # as the Hub's
URL_TTL_S = 3600.0  # as the CDN's
WINDOW_S = 300  # RateLimit windows are five minutes
QUOTAS = {("api", False): 500, ("api", True): 1000, ("resolvers", False): 3000, ("resolvers", True): 5000}


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What a signed URL gives access to, and until when."""

    cdn_path: str
    repo: str
    entry: Entry
    until: float


class _Refused(Exception):
    """The request gets this answer instead of what it asked for."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Clerk:
    """Repositories, tokens and grants. Every method may be called from any thread."""

    def __init__(
        self,
        *repos: SimRepo,
        tokens: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        page_entries: int = TREE_PAGE_ENTRIES,
        url_ttl_s: float = URL_TTL_S,
    ) -> None:
        self.endpoint = ""  # both are known once the servers listen
        self.cdn_endpoints: tuple[str, ...] = ("",)
        self.tokens = frozenset(tokens)
        self.moved_to = ""  # the origin that a rename's redirect names; "" is relative, as the Hub's
        self.page_entries = page_entries
        self.url_ttl_s = url_ttl_s
        self.wall = wall
        self._clock = clock
        self._repos = {repo.id: repo for repo in repos}
        self._grants: dict[str, Grant] = {}
        self._metered: Counter[tuple[str, bool]] = Counter()

    @property
    def cdn_endpoint(self) -> str:
        """The CDN's address, or the first of them."""
        return self.cdn_endpoints[0]

    # Control

    def add(self, repo: SimRepo) -> SimRepo:
        """Serve this repository too."""
        self._repos[repo.id] = repo
        return repo

    def remove(self, repo_id: str) -> None:
        """Delete a repository: everyone gets 401. URLs signed before still work."""
        del self._repos[repo_id]

    def rename(self, repo_id: str, name: str) -> None:
        """Rename a repository: API and resolve redirect from the old name, as recorded for the API (307, relative)."""
        repo = self._repos[repo_id]
        self._repos[name] = repo.under(name)
        repo.renamed_to = name

    def expire_urls(self) -> None:
        """Every URL signed so far gets 403 from now on."""
        for signature, grant in list(self._grants.items()):
            self._grants[signature] = replace(grant, until=-math.inf)

    # The Hub

    def entry(self, route: Route) -> Entry | None:
        """The file a route means, whoever may see it."""
        repo = self._repos.get(route.repo)
        commit = repo.find(route.revision) if repo else None
        return commit.files.get(route.path) if commit else None

    def answer_hub(
        self, arrived: Request, route: Route, visit: Visit, kind: Kind | None, paths: Sequence[str]
    ) -> Answer:
        """What the Hub says; `kind` is the misbehaviour that such an answer has to obey from the start."""
        try:
            answer = self._asked_of_hub(arrived, route, visit, kind, paths)
        except _Refused as refused:
            answer = answers.for_api(refused.answer) if route.door == "api" else refused.answer
        return self._dressed(answer, arrived, route)

    def answer_whoami(self, arrived: Request) -> Answer:
        """Whose token came along."""
        return answers.whoami(is_known=self._knows(arrived))

    def _asked_of_hub(
        self, arrived: Request, route: Route, visit: Visit, kind: Kind | None, paths: Sequence[str]
    ) -> Answer:
        repo, commit = self._admitted(arrived, route)
        if route.door == "api":
            return self._api(route, visit, repo, commit, kind, paths)
        entry = commit.files.get(route.path)
        if entry is None or isinstance(kind, EntryVanished):
            _refuse(answers.entry_not_found(commit.sha))
        entry = _replaced(entry, kind)
        if route.door == "resolve-cache":
            asked = asked_of(arrived, entry.content, etag=entry.oid, kind=kind)
            return answers.resolve_cache(commit, entry, asked)
        if entry.sha256 is None:
            return answers.resolve_git(repo, commit, entry, arrived.target)
        signed_url = self._sign(repo, entry)
        return answers.resolve_lfs(repo, commit, entry, signed_url=signed_url, endpoint=self.endpoint)

    def _api(
        self, route: Route, visit: Visit, repo: SimRepo, commit: Commit, kind: Kind | None, paths: Sequence[str]
    ) -> Answer:
        entries: Sequence[Entry] = list(commit.files.values())
        if isinstance(kind, ForgeListing):
            entries = kind.edit(entries)
        asked = {} if isinstance(kind, QueryLost) else query(visit.target)
        match route.verb:
            case "info":
                return answers.info(repo, commit, entries, blobs=asked.get("blobs", "").lower() == "true")
            case "paths-info":
                return answers.paths_info(entries, paths)
            case "tree":
                if route.path and not any(entry.path.startswith(f"{route.path}/") for entry in entries):
                    _refuse(answers.entry_not_found(commit.sha))
                return answers.tree(
                    entries,
                    visit,
                    folder=route.path,
                    recursive=asked.get("recursive", "").lower() == "true",
                    start=answers.start_of(asked.get("cursor")),
                    page=self.page_entries,
                )
            case _:
                return text_body(404, "Not Found")

    def _admitted(self, arrived: Request, route: Route) -> tuple[SimRepo, Commit]:
        """The repository and commit, if whoever asks may see them through this door."""
        repo = self._repos.get(route.repo)
        known = self._knows(arrived)
        if repo is None or (repo.private and not known):
            _refuse(answers.repo_not_found())
        reader = known and (not repo.readers or _token(arrived) in repo.readers)
        if repo.private and not reader:
            _refuse(answers.repo_not_yours())
        if repo.disabled:
            _refuse(answers.disabled())
        if repo.renamed_to is not None:
            raise _Refused(answers.renamed(self.moved_to + arrived.target.replace(repo.id, repo.renamed_to, 1)))
        if route.door != "api" and repo.gated and not reader:
            _refuse(answers.gated(repo, has_token=known))
        if route.door == "resolve-cache" and not is_sha(route.revision):
            _refuse(answers.bad_revision_in_cache_url())
        commit = repo.find(route.revision)
        if commit is None:
            _refuse(answers.revision_not_found(route.revision))
        return repo, commit

    def _dressed(self, answer: Answer, arrived: Request, route: Route) -> Answer:
        if route.door == "api" and answer.status == 307:
            return answer  # a rename's redirect was recorded bare
        known = self._knows(arrived)
        return answers.dressed(
            answer,
            request_id=f"Root=1-{int(self.wall()):08x}-{arrived.number:024x}",
            endpoint=self.endpoint,
            limits=self._limits(route, known),
            has_token=known,
        )

    def _limits(self, route: Route, known: bool) -> Headers:
        """The RateLimit headers; resolve-cache is not metered. They count but never refuse: RateLimited does."""
        if route.door == "resolve-cache":
            return ()
        bucket = "api" if route.door == "api" else "resolvers"
        self._metered[bucket, known] += 1
        quota = QUOTAS[bucket, known]
        left = max(0, quota - self._metered[bucket, known])
        reset_s = WINDOW_S - int(self._clock()) % WINDOW_S
        return (
            ("ratelimit", f'"{bucket}";r={left};t={reset_s}'),
            ("ratelimit-policy", f'"fixed window";"{bucket}";q={quota};w={WINDOW_S}'),
        )

    def _knows(self, arrived: Request) -> bool:
        """Whether a valid token came along; a garbage one is as good as none."""
        return _token(arrived) in self.tokens

    def _sign(self, repo: SimRepo, entry: Entry) -> str:
        cdn_path = f"/xet-bridge-us/{repo.oid}/{entry.xet_hash}"
        cdn_endpoint = self.cdn_endpoints[len(self._grants) % len(self.cdn_endpoints)]
        expires = int(self.wall() + self.url_ttl_s)
        digest = hashlib.sha256(f"{cdn_path} {expires} {len(self._grants)}".encode()).hexdigest()
        signature = canary.SIGNATURE + digest  # whoever signs an address has a secret to look for
        self._grants[signature] = Grant(
            cdn_path=cdn_path, repo=repo.id, entry=entry, until=self._clock() + self.url_ttl_s
        )
        said = quote(answers.disposition(entry.path), safe="")
        return (
            f"{cdn_endpoint}{cdn_path}?X-Xet-Cas-Uid=public&response-content-disposition={said}"
            f"&user_id=public&Expires={expires}&Policy={canary.SIGNATURE}{answers.cursor_of(expires)}&Signature={signature}"
        )

    # The CDN

    def grant(self, target: str) -> Grant | None:
        """What a signed URL was signed for, even if it is no longer good."""
        return self._grants.get(query(target).get("Signature", ""))

    def is_good(self, grant: Grant, arrived: Request) -> bool:
        """Whether the CDN still honours it, and for this path."""
        return grant.cdn_path == arrived.target.partition("?")[0] and self._clock() < grant.until

    def answer_cdn(self, arrived: Request, grant: Grant | None, kind: Kind | None) -> Answer:
        """What the CDN says."""
        if grant is None or not self.is_good(grant, arrived):
            return answers.expired()
        entry = _replaced(grant.entry, kind)
        etag = entry.xet_hash or ""
        asked = asked_of(arrived, entry.content, etag=etag, kind=kind)
        return answers.cdn_file(entry.content, entry.path, etag=etag, asked=asked)


def _refuse(answer: Answer) -> NoReturn:
    raise _Refused(answer)


def _token(arrived: Request) -> str:
    return (arrived.header("authorization") or "").removeprefix("Bearer ")


def _replaced(entry: Entry, kind: Kind | None) -> Entry:
    """The file as a ChangedETag has it."""
    if not isinstance(kind, ChangedETag):
        return entry
    return replace(
        entry,
        oid=kind.etag,
        sha256=kind.etag if entry.sha256 else None,
        xet_hash=kind.etag if entry.xet_hash else None,
        content=kind.content or entry.content,
    )


def asked_of(arrived: Request, content: Content, *, etag: str, kind: Kind | None = None) -> Asked:
    """The bytes a request means, as a misbehaving server takes it."""
    asked_range = None if isinstance(kind, IgnoreRange) else arrived.range
    return asked_bytes(asked_range, content.size, if_range=arrived.header("if-range"), etag=f'"{etag}"')
