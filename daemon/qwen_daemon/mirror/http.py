"""Answers HTTP requests as the Hub would, for the files of one folder, read-only.

It exists so that any client that honours HF_ENDPOINT can download from a folder on disk. Shapes, headers and
error codes are those huggingface_hub 2.4 reads (hf_api.py, file_download.py, utils/_http.py). Where the Hub would
redirect to a CDN, the bytes come at once: clients follow redirects, they do not require them. What the files are
is left to ``disk``, what a path means to ``routes``, which bytes to ``ranges``.
"""

import asyncio
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never
from urllib.parse import parse_qs

from aiohttp import web

from qwen_daemon.mirror import tree
from qwen_daemon.mirror.answers import (
    RefusedError,
    entry_missing,
    file_headers,
    head_answer,
    is_local_name,
    json_answer,
    modified,
    next_page,
    nodes_answer,
    printable,
    refusal,
)
from qwen_daemon.mirror.disk import Folder, Listing, RepoMissingError, RevisionMissingError
from qwen_daemon.mirror.hash import FileChangedError, Found, Hasher, HashProgress, open_found, read_found
from qwen_daemon.mirror.pace import Pace
from qwen_daemon.mirror.ranges import Slice, Unsatisfiable, asked_range, is_known, range_applies
from qwen_daemon.mirror.routes import (
    BadPathError,
    InfoRoute,
    PathsInfoRoute,
    ResolveRoute,
    Route,
    StatsRoute,
    TreeRoute,
    read_path,
)
from qwen_daemon.mirror.tally import Sending, Tally

PAGE_SIZE_ENTRIES = 1000  # the Hub's
PAGE_SIZE_EXPANDED_ENTRIES = 50  # the Hub's, with ?expand=true
READ_BYTES = 256 * 1024  # per visit to a thread: a few writes' worth, so that the visits cost little
BODY_BYTES_MAX = 1024 * 1024  # of a paths-info request
PATHS_MAX = 10_000  # in a paths-info request
RETRY_AFTER_S = 1  # when the folder is being written to


def ignore(_: object) -> None:
    """Listen to nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MirrorConfig:
    """What a mirror serves, where, and how fast."""

    folder: Path
    repo: str | None = None  # `org/name`: serve this model only; the folder is it, or a cache that holds it
    host: str = "127.0.0.1"
    port: int = 0  # 0: any free one
    allow_lan: bool = False  # listen on an address that other machines reach
    rate_limit_bps: int | None = None  # bytes per second over all connections; None: no limit
    page_size_entries: int = PAGE_SIZE_ENTRIES


@dataclass(frozen=True, kw_only=True, slots=True)
class Listeners:
    """Who is told what. ``hashing`` and ``notes`` are called from threads."""

    hashing: Callable[[HashProgress], None] = ignore
    notes: Callable[[str], None] = ignore  # one line for people: a file that is left out, a failure
    requests: Callable[[str], None] = ignore  # one line per request, safe to print


def build_app(config: MirrorConfig, listeners: Listeners) -> web.Application:
    """Build the application that serves ``config.folder``; its hashing threads end with its cleanup."""
    mirror = _Mirror(config, listeners)
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    # One route for all: aiohttp would decode %2F before it matches. [\s\S]: a name may hold a newline.
    app.router.add_route("*", r"/{path:[\s\S]*}", mirror.door)
    app.on_cleanup.append(mirror.close)
    return app


class _Mirror:
    def __init__(self, config: MirrorConfig, listeners: Listeners) -> None:
        self._config = config
        self._listeners = listeners
        self._hasher = Hasher(listeners.hashing)
        self._folder = Folder(config.folder, repo=config.repo, hasher=self._hasher, notes=listeners.notes)
        self._pace = Pace(config.rate_limit_bps)
        self._tally = Tally()

    async def close(self, _: web.Application) -> None:
        self._hasher.close()

    async def door(self, request: web.Request) -> web.StreamResponse:
        """Every request comes in and every answer goes out here."""
        began_s = time.monotonic()
        response = await self._guarded(request)
        took_ms = (time.monotonic() - began_s) * 1000
        asked = f"{request.method} {request.raw_path} {request.headers.get('Range', '-')}"
        self._listeners.requests(printable(f"{request.remote} {asked} {response.status} {took_ms:.0f} ms"))
        return response

    async def _guarded(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self.answer(request)
        except RefusedError as refused:
            return refusal(refused)
        except web.HTTPRequestEntityTooLarge:
            return refusal(RefusedError(413, f"a request's body may hold {BODY_BYTES_MAX} bytes"))
        except FileChangedError as error:
            self._folder.forget()
            return refusal(RefusedError(503, f"{error} is being written to", Retry_After=str(RETRY_AFTER_S)))
        except ConnectionError:
            raise  # the client has gone; aiohttp closes the rest
        except OSError as error:
            self._listeners.notes(printable(f"cannot read: {error}"))
            return refusal(RefusedError(500, f"the mirror cannot read a file: {error.strerror}"))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request.

        Raises:
            RefusedError, FileChangedError, OSError: to be answered with an error status.
        """
        self._must_be_meant(request)
        route = _route(request)
        if isinstance(route, StatsRoute):
            return json_answer(self._tally.stats())
        self._tally.asked()
        listing = await self._listing(request, route.repo, route.revision)
        match route:
            case InfoRoute():
                return self._info(request, route, listing)
            case TreeRoute():
                return self._tree(request, route, listing)
            case PathsInfoRoute():
                return await self._paths_info(request, listing)
            case ResolveRoute():
                return await self._resolve(request, route, listing)
            case _:
                assert_never(route)

    def _must_be_meant(self, request: web.Request) -> None:
        """Refuse a foreign Host on a private address: a web page that rebinds its name to loopback sends one."""
        host = request.headers.get("Host")
        if not self._config.allow_lan and host is not None and not is_local_name(host):
            raise RefusedError(421, "this mirror answers only to localhost and IP addresses")

    async def _listing(self, request: web.Request, repo: str, revision: str) -> Listing:
        try:
            return await self._folder.listing(repo, revision)
        except RepoMissingError as error:
            # As the Hub: who has not said who he is, is not told whether it exists.
            if "Authorization" in request.headers:
                raise RefusedError(404, "Repository not found", code="RepoNotFound") from error
            message, who = "Repository not found", 'Bearer realm="Authentication required", charset="UTF-8"'
            raise RefusedError(401, message, code="RepoNotFound", WWW_Authenticate=who) from error
        except RevisionMissingError as error:
            raise RefusedError(404, f"Invalid rev id: {revision}", code="RevisionNotFound") from error

    def _info(self, request: web.Request, route: InfoRoute, listing: Listing) -> web.Response:
        blobs = _flag(request, "blobs")
        entries = listing.entries.values()
        info = tree.ModelInfo(
            id=route.repo,
            model_id=route.repo,
            author=route.repo.partition("/")[0],
            sha=listing.commit,
            last_modified=modified(listing),
            siblings=[tree.wire_sibling(entry, blobs=blobs) for entry in entries],
            used_storage=sum(entry.size_bytes for entry in entries),
        )
        return json_answer(info)

    def _tree(self, request: web.Request, route: TreeRoute, listing: Listing) -> web.Response:
        expand, recursive = _flag(request, "expand"), _flag(request, "recursive")
        try:
            entries = tuple(listing.entries.values())
            nodes = tree.nodes(entries, under=route.path, recursive=recursive)
            part, cursor = tree.page(
                nodes, cursor=request.query.get("cursor"), limit=self._page_size(request, expand=expand)
            )
        except tree.NoSuchFolderError as error:
            raise entry_missing(listing) from error
        except tree.BadCursorError as error:
            raise RefusedError(400, "invalid cursor") from error
        response = nodes_answer(part, listing, expand=expand)
        if cursor is not None:
            response.headers["Link"] = f'<{next_page(request, cursor)}>; rel="next"'
        return response

    def _page_size(self, request: web.Request, *, expand: bool) -> int:
        limit = self._config.page_size_entries
        if expand:
            limit = min(limit, PAGE_SIZE_EXPANDED_ENTRIES)
        asked = request.query.get("limit", "")
        return max(1, min(limit, int(asked))) if re.fullmatch("[0-9]{1,9}", asked) else limit

    async def _paths_info(self, request: web.Request, listing: Listing) -> web.Response:
        try:
            form = parse_qs((await request.read()).decode(), max_num_fields=PATHS_MAX)
        except ValueError as error:  # not UTF-8, or more fields than that
            raise RefusedError(400, "the form cannot be read, or has too many fields") from error
        nodes = tree.named(tuple(listing.entries.values()), form.get("paths", ()))
        return nodes_answer(nodes, listing, expand=form.get("expand", [""])[0].lower() in ("true", "1"))

    async def _resolve(self, request: web.Request, route: ResolveRoute, listing: Listing) -> web.StreamResponse:
        entry, found = listing.entries.get(route.path), listing.on_disk.get(route.path)
        if entry is None:
            raise entry_missing(listing)
        if found is None:
            # No X-Repo-Commit here: with it, huggingface_hub would note for good that the commit has no such file.
            raise RefusedError(404, "this mirror's copy of the commit lacks the file", code="EntryNotFound")
        headers = file_headers(entry, listing)
        if is_known(request.headers.get("If-None-Match"), entry.etag):
            return web.Response(status=304, headers=headers)
        if request.method == "HEAD":
            return head_answer(entry, headers)
        asked = None
        if range_applies(request.headers.get("If-Range"), entry.etag):
            asked = asked_range(request.headers.get("Range"), entry.size_bytes)
        if isinstance(asked, Unsatisfiable):
            headers["Content-Range"] = f"bytes */{entry.size_bytes}"
            return web.Response(status=416, headers=headers, text="Range Not Satisfiable")
        return await self._body(request, f"{route.repo}:{route.path}", found, asked, headers)

    async def _body(
        self, request: web.Request, name: str, found: Found, asked: Slice | None, headers: dict[str, str]
    ) -> web.StreamResponse:
        size = found.stamp.size_bytes
        part = asked or Slice(start=0, stop=size)
        response = web.StreamResponse(status=200 if asked is None else 206, headers=headers)
        response.content_length = part.length
        if asked is not None:
            response.headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
        descriptor = await asyncio.to_thread(open_found, found)
        sending = self._tally.begin(name, part.start)
        try:
            await response.prepare(request)
            await self._send(request, response, descriptor, found, part, sending)
        except ConnectionError:
            pass  # the client has gone: what it was sent is counted
        except (FileChangedError, OSError) as error:
            # Half an answer is out; only a broken connection can still say that the rest is not coming.
            self._listeners.notes(printable(f"broke off {name}: {error!r}"))
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._tally.finish(name, sending)
            os.close(descriptor)
        return response

    async def _send(
        self,
        request: web.Request,
        response: web.StreamResponse,
        descriptor: int,
        found: Found,
        part: Slice,
        sending: Sending,
    ) -> None:
        for start in range(part.start, part.stop, READ_BYTES):
            length = min(READ_BYTES, part.stop - start)
            block = memoryview(await asyncio.to_thread(read_found, descriptor, found, start, length))
            for at in range(0, length, self._pace.piece_bytes):
                piece = block[at : at + self._pace.piece_bytes]
                await self._pace.take(len(piece))
                if request.transport is None or request.transport.is_closing():
                    return
                # Counted first: from here to the socket's buffer nothing gives way to another task.
                sending.wrote(len(piece))
                await response.write(piece)
        await response.write_eof()


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name, "").lower() in ("true", "1")


def _route(request: web.Request) -> Route:
    try:
        route = read_path(request.rel_url.raw_path)
    except BadPathError as error:
        raise RefusedError(400, str(error)) from error
    if route is None:
        raise RefusedError(404, "Not Found")
    allowed = ("POST",) if isinstance(route, PathsInfoRoute) else ("GET", "HEAD")
    if request.method not in allowed:
        raise RefusedError(405, "this mirror is read-only", Allow=", ".join(allowed))
    return route
