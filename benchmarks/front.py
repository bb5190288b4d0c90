"""The Hub in front of the origin: listing and redirects only, so that no byte of a file passes through it.

Shapes are those huggingface_hub 2.4 reads (model info, tree, HEAD and GET of resolve with X-Linked-*). It lives in a
thread of the harness; a client's CPU is measured on the client's own process, so the front costs wall time at most.
The redirect's query carries the number of the run, which is how the origin's log tells runs apart.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self
from urllib.parse import quote

import uvloop
from aiohttp import web

from benchmarks.content import Item, Model

SIGNED = "Expires=9999999999&Policy=benchmark&Signature=none&Key-Pair-Id=none"


class Front:
    """Use as a context manager; `endpoint` is what HF_ENDPOINT should be."""

    def __init__(self) -> None:
        self._models: dict[str, tuple[Model, dict[str, Item]]] = {}
        self._base, self._run = "", -1
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()), name="front")

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def publish(self, model: Model) -> None:
        """From now on the Hub has this model."""
        self._models[model.repo] = (model, {item.path: item for item in model.items})

    def direct(self, base: str, run: int) -> None:
        """From now on redirects lead to this origin, in the name of this run."""
        self._base, self._run = base, run

    def address(self, model: Model, item: Item) -> str:
        """What a client that knows nothing of the Hub is given."""
        return f"{self.endpoint}/{model.repo}/resolve/{model.commit}/{quote(item.path)}"

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_get("/api/models/{repo:[^/]+/[^/]+}/revision/{revision}", self._guarded(self._info))
        app.router.add_get("/api/models/{repo:[^/]+/[^/]+}", self._guarded(self._info))
        app.router.add_get("/api/models/{repo:[^/]+/[^/]+}/tree/{revision}", self._guarded(self._tree))
        app.router.add_get("/{repo:[^/]+/[^/]+}/resolve/{revision}/{path:.+}", self._guarded(self._resolve))
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.endpoint = f"http://{host}:{port}"
        self._started.set()
        await self._stopping.wait()
        await runner.cleanup()

    def _guarded(
        self, answer: Callable[[web.Request, Model], web.Response]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            found = self._models.get(request.match_info["repo"])
            if found is None:
                return web.json_response({"error": "Repository not found"}, status=404)
            return answer(request, found[0])

        return handle

    def _info(self, request: web.Request, model: Model) -> web.Response:
        siblings = [{"rfilename": item.path} for item in model.items]
        return web.json_response({"id": model.repo, "modelId": model.repo, "sha": model.commit, "siblings": siblings})

    def _tree(self, request: web.Request, model: Model) -> web.Response:
        return web.json_response([_tree_item(item) for item in model.items])

    def _resolve(self, request: web.Request, model: Model) -> web.Response:
        item = self._models[model.repo][1].get(request.match_info["path"])
        if item is None:
            return web.json_response(
                {"error": "Entry not found"}, status=404, headers={"X-Error-Code": "EntryNotFound"}
            )
        location = f"{self._base}/{model.name}/{quote(item.path)}?{SIGNED}&run={self._run}"
        headers = {
            "Location": location,
            "X-Repo-Commit": model.commit,
            "X-Linked-Size": str(item.size_bytes),
            "X-Linked-ETag": f'"{item.sha256}"',
            "Accept-Ranges": "bytes",
        }
        return web.Response(status=302, headers=headers)


def _tree_item(item: Item) -> dict[str, object]:
    lfs = {"oid": item.sha256, "size": item.size_bytes, "pointerSize": 134}
    return {"type": "file", "oid": item.sha256[:40], "size": item.size_bytes, "lfs": lfs, "path": item.path}
