"""What the real Hub and its CDN say, header for header, as far as it was recorded in 2026.

Pure functions from facts to an `Answer` (hub_messages). Header names, order and values follow recordings of the real
service; what was never recorded is marked so. Who may ask, what goes wrong and how bytes leave is decided elsewhere
(hub_clerk, hub_faults, hub_wire). Two things are unlike the real Hub: HTTP/1.1 without TLS instead of HTTP/2 with it,
and no Xet protocol behind the `xet-auth` link.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias
from urllib.parse import quote

from tests.fakes.hub_messages import Answer, Asked, Body, Headers, Visit, text_body
from tests.fakes.hub_repo import Commit, Content, Entry, SimRepo

Json: TypeAlias = bool | int | str | Sequence["Json"] | Mapping[str, "Json"] | None

_EXPOSED = (
    "X-Repo-Commit,X-Request-Id,X-Error-Code,X-Error-Message,X-Total-Count,ETag,Link,Accept-Ranges,Content-Range,"
    "X-Linked-Size,X-Linked-ETag,X-Xet-Hash"
)
_UNAUTHENTICATED = (
    "unauthenticated; You are sending unauthenticated requests to the HF Hub. Please set a HF_TOKEN to enable higher "
    "rate limits and faster downloads."
)


# What every answer of the Hub itself carries


def dressed(answer: Answer, *, request_id: str, endpoint: str, limits: Headers, has_token: bool) -> Answer:
    """A Hub answer with the headers that all of them carry; `limits` are the RateLimit ones, if metered."""
    warning = () if has_token or not limits else (("x-hf-warning", _UNAUTHENTICATED),)
    common = (
        ("x-powered-by", "huggingface-moon"),
        ("x-request-id", request_id),
        *limits,
        *warning,
        ("cross-origin-opener-policy", "same-origin"),
        ("referrer-policy", "strict-origin-when-cross-origin"),
        ("access-control-max-age", "86400"),
        ("access-control-allow-origin", endpoint),
        ("vary", "Origin, Accept"),
        ("access-control-expose-headers", _EXPOSED),
    )
    return replace(answer, headers=answer.headers + common)


# The API


def whoami(*, is_known: bool) -> Answer:
    """`/api/whoami-v2`: the account of a token; what it says to strangers was recorded, the rest shortened."""
    if is_known:
        return json_answer({"type": "user", "name": "somebody", "auth": {"type": "access_token"}})
    return replace(json_answer({"error": "Invalid username or password."}), status=401)


def json_answer(payload: Json) -> Answer:
    """A JSON answer."""
    answer = Answer(status=200, headers=(("content-type", "application/json; charset=utf-8"),))
    return answer.with_body(json.dumps(payload).encode())


def info(repo: SimRepo, commit: Commit, entries: Sequence[Entry], *, blobs: bool) -> Answer:
    """Model info; the shape of `siblings` with blobs is as huggingface_hub reads it, no recording was found."""
    author = repo.id.rpartition("/")[0]
    payload: dict[str, Json] = {
        "_id": repo.oid,
        "id": repo.id,
        "modelId": repo.id,
        "sha": commit.sha,
        "author": author or None,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": repo.disabled,
        "lastModified": "2026-01-01T00:00:00.000Z",
        "createdAt": "2025-12-01T00:00:00.000Z",
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "usedStorage": sum(entry.size for entry in entries),
        "siblings": [_sibling(entry, blobs=blobs) for entry in entries],
    }
    return json_answer(payload)


def _sibling(entry: Entry, *, blobs: bool) -> Json:
    if not blobs:
        return {"rfilename": entry.path}
    sibling: dict[str, Json] = {"rfilename": entry.path, "blobId": entry.oid, "size": entry.size}
    if entry.sha256 is not None:
        sibling["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": entry.pointer_size}
    return sibling


def tree(entries: Sequence[Entry], visit: Visit, *, folder: str, recursive: bool, start: int, page: int) -> Answer:
    """One page of the tree from item `start` on, and a Link to the next."""
    items = _tree_items(entries, folder=folder, recursive=recursive)
    answer = json_answer(items[start : start + page])
    if start + page >= len(items):
        return answer
    return answer.with_header("link", f'<{visit.url(cursor=cursor_of(start + page))}>; rel="next"')


def cursor_of(start: int) -> str:
    """An opaque cursor, as clients should think."""
    return base64.urlsafe_b64encode(b"item:%d" % start).decode()


def start_of(cursor: str | None) -> int:
    """The item a cursor means; the first for a cursor never handed out."""
    try:
        return int(base64.urlsafe_b64decode(cursor or "").removeprefix(b"item:"))
    except ValueError:
        return 0


def _tree_items(entries: Sequence[Entry], *, folder: str, recursive: bool) -> list[Json]:
    prefix = f"{folder}/" if folder else ""
    folders: dict[str, None] = {}
    files: list[Json] = []
    for entry in entries:
        if not entry.path.startswith(prefix):
            continue
        steps = entry.path.removeprefix(prefix).split("/")
        depths = range(1, len(steps)) if recursive else range(1, min(2, len(steps)))
        folders.update({prefix + "/".join(steps[:depth]): None for depth in depths})
        if recursive or len(steps) == 1:
            files.append(file_item(entry))
    return [*map(_folder_item, folders), *files]


def file_item(entry: Entry) -> Json:
    """A file as tree and paths-info show it: the sha256 is `lfs.oid` here, and git files have none."""
    item: dict[str, Json] = {"type": "file", "oid": entry.oid, "size": entry.size}
    if entry.sha256 is not None:
        item["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": entry.pointer_size}
        item["xetHash"] = entry.xet_hash
    item["path"] = entry.path
    return item


def _folder_item(path: str) -> Json:
    """A folder: seen only in servers' code, not in a recording."""
    return {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}


def paths_info(entries: Sequence[Entry], paths: Iterable[str]) -> Answer:
    """The asked-for files; unknown paths are silently dropped."""
    wanted = set(paths)
    return json_answer([file_item(entry) for entry in entries if entry.path in wanted])


def renamed(new_target: str) -> Answer:
    """The API's redirect after a rename: only content-type and location (and framing)."""
    headers = (("content-type", "text/plain; charset=utf-8"), ("location", new_target))
    return Answer(status=307, headers=headers).with_body(f"Temporary Redirect. Redirecting to {new_target}".encode())


# Resolve


def resolve_git(repo: SimRepo, commit: Commit, entry: Entry, target: str) -> Answer:
    """307 with a relative Location: files kept in git come from the Hub itself."""
    path = f"/api/resolve-cache/models/{repo.id}/{commit.sha}/{quote(entry.path)}"
    location = f"{path}?{quote(target, safe='')}=&etag=%22{entry.oid}%22"
    answer = text_body(307, f"Temporary Redirect. Redirecting to {location}").with_header("location", location)
    answer = _file_headers(answer, commit, entry).with_header("x-hub-cache", "MISS")
    return answer.with_header("content-security-policy", "default-src 'none'; sandbox")


def resolve_lfs(repo: SimRepo, commit: Commit, entry: Entry, *, signed_url: str, endpoint: str) -> Answer:
    """302 with an absolute, signed Location on the CDN; this answer, not the CDN's, holds size and sha256."""
    answer = text_body(302, f"Found. Redirecting to {signed_url}").with_header("location", signed_url)
    answer = _file_headers(answer, commit, entry)
    for name, value in (
        ("x-linked-size", str(entry.size)),
        ("x-linked-etag", f'"{entry.sha256}"'),
        ("x-xet-hash", entry.xet_hash or ""),
        ("link", _xet_links(repo, commit, entry, endpoint)),
        ("cache-control", "no-store"),
    ):
        answer = answer.with_header(name, value)
    return answer


def _xet_links(repo: SimRepo, commit: Commit, entry: Entry, endpoint: str) -> str:
    auth = f'<{endpoint}/api/models/{repo.id}/xet-read-token/{commit.sha}>; rel="xet-auth"'
    cas = f'<{endpoint}/cas/v1/reconstructions/{entry.xet_hash}>; rel="xet-reconstruction-info"'
    return f"{auth}, {cas}"


def _file_headers(answer: Answer, commit: Commit, entry: Entry) -> Answer:
    answer = answer.with_header("x-repo-commit", commit.sha).with_header("accept-ranges", "bytes")
    return answer.with_header("content-disposition", disposition(entry.path))


def disposition(path: str) -> str:
    """`inline; filename*=UTF-8''README.md; filename="README.md";`."""
    name = path.rpartition("/")[2]
    return f"inline; filename*=UTF-8''{quote(name, safe='')}; filename=\"{quote(name, safe=' ')}\";"


def resolve_cache(commit: Commit, entry: Entry, asked: Asked) -> Answer:
    """200 or 206 with the bytes of a file kept in git. Recorded only as far as ETag and Content-Length."""
    etag = f'"{entry.oid}"'
    answer = _bytes_answer(entry.content, asked, etag=etag, content_type="text/plain; charset=utf-8")
    if answer.status == 416:
        return answer
    return _file_headers(answer, commit, entry).with_header("etag", etag)


def bad_revision_in_cache_url() -> Answer:
    """resolve-cache wants a full sha; a branch there is a 400."""
    return _refusal(400, None, "Invalid rev id")


# The CDN


def cdn_file(content: Content, path: str, *, etag: str, asked: Asked) -> Answer:
    """200 or 206 from the CDN: its ETag is the xet hash, and it knows no RateLimit, commit or X-Linked-*."""
    answer = _bytes_answer(content, asked, etag=f'"{etag}"', content_type="application/octet-stream")
    if answer.status == 416:
        return answer
    for name, value in (
        ("accept-ranges", "bytes"),
        ("content-disposition", disposition(path)),
        ("etag", f'"{etag}"'),
        ("access-control-allow-headers", "Content-Type, Range, User-Agent, X-Requested-With"),
        ("access-control-expose-headers", "*"),
        ("vary", "origin, access-control-request-method, access-control-request-headers"),
        ("access-control-allow-origin", "*"),
        ("x-hf-cdn-pop", "aws-us-east-1"),
    ):
        answer = answer.with_header(name, value)
    return answer


def expired() -> Answer:
    """The CDN's refusal of a signature that is too old or wrong; CloudFront's shape, no recording was found."""
    error = b"<Error><Code>AccessDenied</Code><Message>Access denied</Message></Error>"
    headers = (("content-type", "text/xml"), ("x-cache", "Error from cloudfront"))
    return Answer(status=403, headers=headers).with_body(b'<?xml version="1.0" encoding="UTF-8"?>' + error)


def _bytes_answer(content: Content, asked: Asked, *, etag: str, content_type: str) -> Answer:
    if not asked.satisfiable:
        refused = text_body(416, "Range Not Satisfiable")
        return refused.with_header("content-range", f"bytes */{content.size}").with_header("etag", etag)
    headers: Headers = (("content-type", content_type), ("content-length", str(asked.end - asked.start)))
    if asked.ranged:
        headers += (("content-range", f"bytes {asked.start}-{asked.end - 1}/{content.size}"),)
    body = Body(content=content, start=asked.start, end=asked.end, of_file=True)
    return Answer(status=206 if asked.ranged else 200, headers=headers, body=body)


# Refusals


def _refusal(status: int, code: str | None, message: str, *, text: str | None = None) -> Answer:
    answer = text_body(status, message if text is None else text)
    length = answer.body.end
    answer = answer.with_header("content-type", "text/plain; charset=utf-8").with_header("etag", f'W/"{length:x}-sim"')
    if code is not None:
        answer = answer.with_header("x-error-code", code)
    return answer.with_header("x-error-message", message)


def for_api(refusal: Answer) -> Answer:
    """A refusal as the API words it: the same headers around `{"error": ...}`."""
    text = refusal.body.content.read(refusal.body.start, refusal.body.end).decode()
    answer = refusal.with_header("content-type", "application/json; charset=utf-8")
    return answer.with_body(json.dumps({"error": text}).encode())


_CHALLENGE = ("www-authenticate", 'Bearer realm="Authentication required", charset="UTF-8"')


def repo_not_found() -> Answer:
    """An unknown repository, or a private one and a stranger: 401, and no X-Error-Code."""
    return _refusal(401, None, "Invalid username or password.").with_header(*_CHALLENGE)


def repo_not_yours() -> Answer:
    """A private repository and a good token without access to it. Not recorded."""
    return _refusal(404, "RepoNotFound", "Repository not found")


def gated(repo: SimRepo, *, has_token: bool) -> Answer:
    """A gated repository's file: 401 for strangers (a garbage token too), 403 for a good token without access."""
    if has_token:
        said = f"Access to model {repo.id} is restricted and you are not in the authorized list. Visit the page to ask."
        return _refusal(403, "GatedRepo", said)
    said = (
        f"Access to model {repo.id} is restricted. You must have access to it and be authenticated to access it. "
        "Please log in."
    )
    return _refusal(401, "GatedRepo", said).with_header(*_CHALLENGE)


def disabled() -> Answer:
    """A repository taken down; known by its message, not by a code."""
    return _refusal(403, None, "Access to this resource is disabled.")


def revision_not_found(revision: str) -> Answer:
    """An unknown branch, tag or sha."""
    return _refusal(404, "RevisionNotFound", f"Invalid rev id: {quote(revision)}")


def entry_not_found(commit: str | None) -> Answer:
    """A path that the commit does not have."""
    answer = _refusal(404, "EntryNotFound", "Entry not found")
    if commit is not None:
        answer = answer.with_header("x-repo-commit", commit).with_header("accept-ranges", "bytes")
    return answer.with_header("x-hub-cache", "MISS").with_header("x-cache", "Error from cloudfront")
