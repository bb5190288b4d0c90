"""Puts a mirror's answers into the Hub's words: status, headers, JSON.

It exists so that the shape of an answer can be compared with the Hub's in one place. Which answer a request gets
is left to ``http``.
"""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

import msgspec
from aiohttp import web

from qwen_daemon.mirror import tree
from qwen_daemon.mirror.disk import Listing
from qwen_daemon.mirror.tree import Entry, LastCommit


class RefusedError(Exception):
    """The request is answered with an error status; ``headers`` go with it."""

    def __init__(self, status: int, message: str, *, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if code is not None:
            self.headers["X-Error-Code"] = code


def refusal(refused: RefusedError) -> web.Response:
    """Answer with an error, as text for people and as headers for clients (utils/_http.py: hf_raise_for_status)."""
    headers = {"X-Error-Message": printable(refused.message), **refused.headers}
    body = msgspec.json.encode({"error": refused.message})
    return web.Response(status=refused.status, headers=headers, body=body, content_type="application/json")


def entry_missing(listing: Listing) -> RefusedError:
    """Refuse a path that this commit does not have."""
    return RefusedError(404, "Entry not found", code="EntryNotFound", X_Repo_Commit=listing.commit)


def json_answer(content: object) -> web.Response:
    """Answer with JSON."""
    return web.Response(body=msgspec.json.encode(content), content_type="application/json")


def nodes_answer(nodes: Sequence[tree.Node], listing: Listing, *, expand: bool) -> web.Response:
    """Answer tree or paths-info; with ``expand``, each node names the commit that touched it."""
    touched = LastCommit(id=listing.commit, title="as found on disk", date=modified(listing)) if expand else None
    return json_answer([tree.wire_node(node, touched) for node in nodes])


def modified(listing: Listing) -> str:
    """Name the time of the newest file as the Hub does (it is read by utils/_datetime.py)."""
    moment = datetime.fromtimestamp(listing.modified_ns // 1_000_000_000, tz=UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def next_page(request: web.Request, cursor: str) -> str:
    """Build the URL of the page after this one, for a Link header."""
    kept = {name: request.query[name] for name in ("recursive", "expand", "limit") if name in request.query}
    query = urlencode({**kept, "cursor": cursor}, errors="replace")
    # The Hub sends an absolute URL, and clients rely on it. `quote` keeps a hostile Host inside the brackets.
    host = quote(request.host, safe=":[]")
    return f"{request.scheme}://{host}{request.rel_url.raw_path}?{query}"


def file_headers(entry: Entry, listing: Listing) -> dict[str, str]:
    """Describe a file: what `get_hf_file_metadata` reads, and what keeps a browser from harm."""
    headers = {
        "ETag": f'"{entry.etag}"',
        "X-Repo-Commit": listing.commit,
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream" if entry.sha256 else "text/plain; charset=utf-8",
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(entry.path.rpartition('/')[2], safe='')}",
        # A browser must not run what a model's folder holds (the Hub sends the same).
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "X-Content-Type-Options": "nosniff",
    }
    if entry.sha256:
        headers |= {"X-Linked-Size": str(entry.size_bytes), "X-Linked-ETag": f'"{entry.sha256}"'}
    return headers


def head_answer(entry: Entry, headers: dict[str, str]) -> web.Response:
    """Describe a file without sending it."""
    return web.Response(headers={**headers, "Content-Length": str(entry.size_bytes)})


def is_local_name(host: str) -> bool:
    """Whether a Host header names this machine without DNS: localhost, or an address."""
    host = host.lower()
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def printable(text: str) -> str:
    """Escape all but printable ASCII: names are hostile, and terminals and headers obey control characters."""
    return "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode("ascii") for c in text)
