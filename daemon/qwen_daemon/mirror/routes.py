"""Reads a URL's path the way the Hub does, and refuses what no Hub client would send.

It exists because names are hostile input and ``%2F`` inside a revision is not a slash: the path is taken apart
before it is decoded. What a route means is left to ``http``; nothing here ever becomes a path on disk.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote

DEFAULT_REVISION = "main"
# One part of `org/name` (huggingface_hub 2.4, utils/_validators.py), in ASCII and with no leading dot or dash.
_REPO_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?", re.ASCII)


class BadPathError(ValueError):
    """The path is malformed or tries to climb: answer 400."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InfoRoute:
    """``/api/models/{repo}[/revision/{revision}]``."""

    repo: str
    revision: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeRoute:
    """``/api/models/{repo}/tree/{revision}[/{path}]``; an empty path is the root."""

    repo: str
    revision: str
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PathsInfoRoute:
    """``/api/models/{repo}/paths-info/{revision}``."""

    repo: str
    revision: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolveRoute:
    """``/{repo}/resolve/{revision}/{path}``."""

    repo: str
    revision: str
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StatsRoute:
    """``/-/mirror/stats``; ``-`` is no organisation's name, so it can hide none."""


Route = InfoRoute | TreeRoute | PathsInfoRoute | ResolveRoute | StatsRoute


def is_repo_id(repo: str) -> bool:
    """Whether this is an ``org/name`` that the Hub would accept; such a name cannot leave its folder."""
    parts = repo.split("/")
    well_formed = len(parts) == 2 and all(_REPO_PART.fullmatch(part) for part in parts)
    # `--` separates the parts in a cache's folder names, so the Hub forbids it; `.git` and `..` likewise.
    return well_formed and "--" not in repo and ".." not in repo and not repo.endswith(".git")


def read_path(raw_path: str) -> Route | None:
    """Find the route of a still percent-encoded path; None when the Hub's shape has no such route.

    Raises:
        BadPathError: empty, ``.`` or ``..`` parts, a NUL, or bytes that are not UTF-8.
    """
    if not raw_path.startswith("/"):
        raise BadPathError("the path must start with a slash")
    if raw_path == "/":
        return None
    match [_decoded(part) for part in raw_path.removeprefix("/").removesuffix("/").split("/")]:
        case ["-", "mirror", "stats"]:
            return StatsRoute()
        case ["api", "models", org, name]:
            return InfoRoute(repo=f"{org}/{name}", revision=DEFAULT_REVISION)
        case ["api", "models", org, name, "revision", revision]:
            return InfoRoute(repo=f"{org}/{name}", revision=revision)
        case ["api", "models", org, name, "paths-info", revision]:
            return PathsInfoRoute(repo=f"{org}/{name}", revision=revision)
        case ["api", "models", org, name, "tree", revision, *path]:
            return TreeRoute(repo=f"{org}/{name}", revision=revision, path="/".join(path))
        case [org, name, "resolve", revision, first, *rest] if org != "api":
            return ResolveRoute(repo=f"{org}/{name}", revision=revision, path="/".join([first, *rest]))
        case _:
            return None


def _decoded(part: str) -> str:
    try:
        text = unquote(part, errors="strict")
    except UnicodeDecodeError as error:
        raise BadPathError("the path is not UTF-8") from error
    # An encoded slash may stand in a revision (refs%2Fpr%2F1), so each piece between slashes is looked at.
    if "\0" in text or any(piece in ("", ".", "..") for piece in text.split("/")):
        raise BadPathError("a part of the path is empty, '.', '..' or holds a NUL")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # raw bytes in the request line arrive as lone surrogates
        raise BadPathError("the path is not UTF-8") from error
    return text
