"""Which Hub URL asks for what: the paths of the API, resolve and resolve-cache, taken apart.

Repository ids have one part or two, revisions arrive percent-encoded in one path segment, file paths in many.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

from tests.fakes.hub_messages import Door

_API_WORDS = frozenset({"revision", "tree", "paths-info", "xet-read-token"})
_CACHE_PREFIX = ["api", "resolve-cache", "models"]
_SHA_DIGITS = 40


@dataclass(frozen=True, kw_only=True)
class Route:
    """A Hub URL: `verb` is what it asks for, `revision` and `path` what of."""

    door: Door
    verb: str
    repo: str
    revision: str = "main"
    path: str = ""

    @property
    def subject(self) -> str:
        """What fault rules and the log call the path: the file's, or `tree/main/folder` for API calls."""
        if self.door != "api":
            return self.path
        return "/".join(step for step in (self.verb, self.revision, self.path) if step)


def parse(target: str) -> Route | None:
    """The route of a request target; None for a URL that the Hub simulated here does not have."""
    steps = [unquote(step) for step in target.partition("?")[0].removeprefix("/").split("/")]
    if steps[:3] == _CACHE_PREFIX:
        return _resolve_cache(steps[3:])
    if steps[:2] == ["api", "models"]:
        return _api(steps[2:])
    for parts in (1, 2):
        if len(steps) > parts + 2 and steps[parts] == "resolve":
            repo, revision, path = "/".join(steps[:parts]), steps[parts + 1], "/".join(steps[parts + 2 :])
            return Route(door="resolve", verb="resolve", repo=repo, revision=revision, path=path)
    return None


def query(target: str) -> dict[str, str]:
    """The query's parameters, the last of each name."""
    return {name: values[-1] for name, values in parse_qs(target.partition("?")[2]).items()}


def _api(steps: list[str]) -> Route | None:
    parts = 1 if len(steps) == 1 or steps[1] in _API_WORDS else 2
    repo, rest = "/".join(steps[:parts]), steps[parts:]
    if not rest:
        return Route(door="api", verb="info", repo=repo)
    if rest[0] not in _API_WORDS or len(rest) < 2:
        return None
    verb = "info" if rest[0] == "revision" else rest[0]
    return Route(door="api", verb=verb, repo=repo, revision=rest[1], path="/".join(rest[2:]))


def _resolve_cache(steps: list[str]) -> Route | None:
    """The commit is the second or third step; a branch in its place is kept, to be refused."""
    if len(steps) < 3:
        return None
    parts = 1 if is_sha(steps[1]) and not is_sha(steps[2]) else 2
    repo, revision, path = "/".join(steps[:parts]), steps[parts], "/".join(steps[parts + 1 :])
    return Route(door="resolve-cache", verb="resolve-cache", repo=repo, revision=revision, path=path)


def is_sha(text: str) -> bool:
    """Whether this is a full commit sha."""
    return len(text) == _SHA_DIGITS and set(text) <= set("0123456789abcdef")
