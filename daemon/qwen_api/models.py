"""Which model is meant: aliases, repository ids, revisions, and the key each model is known by.

People write `qwen-image-edit`, `Qwen/Qwen-Image-Edit-2511` or `org/name@revision`; everything else in the system
sees a `ModelRef`. The alias table is data. Whether such a repository exists is the Hub's to say, not this module's.
"""

from __future__ import annotations

import re
from difflib import get_close_matches

import msgspec

from qwen_api.language import _

ALIASES: dict[str, str] = {
    "qwen-image-edit": "Qwen/Qwen-Image-Edit-2511",
    "qwen-image-edit-2511": "Qwen/Qwen-Image-Edit-2511",
    "qwen-image-edit-2509": "Qwen/Qwen-Image-Edit-2509",
    "qwen-image-edit-2508": "Qwen/Qwen-Image-Edit",
    "qwen-image": "Qwen/Qwen-Image",
    "qwen-image-2512": "Qwen/Qwen-Image-2512",
    "qwen-image-layered": "Qwen/Qwen-Image-Layered",
}

DEFAULT_REVISION = "main"

# One path component of a repository id, as huggingface_hub's validate_repo_id accepts it: no leading or trailing
# "-" or ".", at most 96 characters. "--" and ".." are refused apart.
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
# A branch, tag, commit or pull-request ref; git forbids much more, the Hub answers 404 for the rest.
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._/+-]{0,198}[A-Za-z0-9_+-])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class BadModelName(ValueError):
    """The text names no model; the message says why and what is accepted. `near`: the alias that was meant, or ""."""

    def __init__(self, why: str, near: str = "") -> None:
        super().__init__(why)
        self.near = near


class ModelRef(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A repository at a revision, as it was asked for (`main` moves; a commit does not)."""

    repo: str
    revision: str = DEFAULT_REVISION

    @property
    def key(self) -> str:
        """The one name of this model in URLs, file names and events: `Org--Name`, or `Org--Name@revision`."""
        name = self.repo.replace("/", "--")
        return name if self.revision == DEFAULT_REVISION else f"{name}@{self.revision.replace('/', '--')}"

    @property
    def is_pinned(self) -> bool:
        """True when the revision is a full commit, which can never move."""
        return is_commit(self.revision)

    def __str__(self) -> str:
        return self.repo if self.revision == DEFAULT_REVISION else f"{self.repo}@{self.revision}"


def parse_model(text: str, *, revision: str | None = None) -> ModelRef:
    """Read an alias, `org/name` or `org/name@revision`; `revision` (a flag) wins over the suffix.

    Raises BadModelName with the nearest alias when the text is none of these.
    """
    name, at, suffix = text.strip().partition("@")
    if at and not suffix:
        raise BadModelName(_("{text!r} ends in '@' with no revision behind it; write org/name@revision", text=text))
    repo = ALIASES.get(name.lower(), name)
    if not is_repo(repo):
        near = next(iter(get_close_matches(name.lower(), ALIASES, n=1, cutoff=0.6)), "")
        raise BadModelName(_why_not(name, near), f"{near}{at}{suffix}" if near else "")
    wanted = revision or suffix or DEFAULT_REVISION
    if not is_revision(wanted):
        raise BadModelName(
            _("{text!r} is not a revision: a branch, a tag or a 40-digit commit is expected", text=wanted)
        )
    return ModelRef(repo=repo, revision=wanted)


def same_repo(key: str, other: str) -> bool:
    """True if both keys are of one repository, at whatever revisions: then they may share files."""
    return key.partition("@")[0] == other.partition("@")[0]


def is_repo(text: str) -> bool:
    """True for `org/name` with the characters the Hub allows."""
    parts = text.split("/")
    return (
        len(parts) == 2
        and len(text) <= 96
        and "--" not in text
        and ".." not in text
        and not text.endswith(".git")
        and all(_NAME.fullmatch(part) for part in parts)
    )


def is_revision(text: str) -> bool:
    """True for a name that may stand in a refs/ path: no traversal, no control character, no empty part."""
    return bool(_REVISION.fullmatch(text)) and all(p not in ("", ".", "..") for p in text.split("/"))


def is_commit(text: str) -> bool:
    """True for a full 40-digit commit."""
    return _COMMIT.fullmatch(text) is not None


def is_etag(text: str) -> bool:
    """True for a git sha1 or a sha256 in lower-case hex: all that may become a blob's file name."""
    return _ETAG.fullmatch(text) is not None


def _why_not(name: str, near: str) -> str:
    return _(
        "{name!r} names no model: {hint}write an alias ({aliases}), org/name, or org/name@revision",
        name=name,
        hint=_("did you mean {near!r}? ", near=near) if near else "",
        aliases=", ".join(sorted(ALIASES)),
    )
