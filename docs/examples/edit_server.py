"""An image-editing server that answers from its first second: 503 with the progress while its model comes, then 200.

    python docs/examples/edit_server.py qwen-image-edit --port 8000
    curl -s localhost:8000/readyz                        {"state": "loading", "text": "loading: transformer, 12.3 GB"}
    curl -s --data-binary @cat.png 'localhost:8000/edit?prompt=Give+the+cat+a+red+hat' -o hat.png

Needs `pip install 'qwen-daemon[loader]'`. On SIGTERM it stops waiting, gives the memory back and tells the daemon.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import web

from qwen_loader import LoadFailed, NotReady, edit, loaded_async, text_of

PICTURE_BYTES_MAX = 32 << 20
RETRY_AFTER_S = "5"


class Server:
    """One model, one edit at a time: the GPU has no more."""

    def __init__(self, model: str, device: str) -> None:
        self._model, self._device = model, device
        self._state, self._text = "starting", ""
        self._pipeline: Any = None
        self._one_at_a_time = asyncio.Lock()

    async def lifespan(self, _app: web.Application) -> AsyncIterator[None]:
        """Load beside the server: aiohttp serves while this task waits."""
        holding = asyncio.create_task(self._hold())
        yield
        holding.cancel()
        await asyncio.wait([holding])

    async def _hold(self) -> None:
        try:
            async with loaded_async(
                self._model, device=self._device, name="edit-server", on_event=self._hear, on_update=self._hear_update
            ) as pipeline:
                self._pipeline, self._state, self._text = pipeline, "ready", ""
                del pipeline
                try:
                    await asyncio.Event().wait()  # until the server stops
                finally:
                    self._pipeline = None
        except (NotReady, LoadFailed) as error:
            self._state, self._text = "failed", f"{error.code}: {error.why}; {error.fix}"
            print(self._text, file=sys.stderr, flush=True)

    def _hear(self, news: Any) -> None:
        self._text = text_of(news)
        self._state = self._text.partition(":")[0]

    def _hear_update(self, newer: Any) -> None:
        print(f"commit {newer.commit} is complete: restart to serve it", file=sys.stderr, flush=True)

    async def readyz(self, _request: web.Request) -> web.Response:
        """200 when a picture can be edited now."""
        body = {"state": self._state, "text": self._text}
        if self._pipeline is not None:
            return web.json_response(body)
        return web.json_response(body, status=503, headers={"Retry-After": RETRY_AFTER_S})

    async def edit(self, request: web.Request) -> web.Response:
        """The picture in the body, edited as ?prompt= says; ?steps= and ?size= are the pipeline's own by default."""
        if self._pipeline is None:
            return await self.readyz(request)
        asked = request.query
        steps, size = asked.get("steps"), asked.get("size")
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "in", Path(folder) / "out.png"
            source.write_bytes(await request.read())
            try:
                async with self._one_at_a_time:
                    await asyncio.to_thread(
                        edit,
                        self._pipeline,
                        source,
                        asked.get("prompt", ""),
                        target,
                        steps=int(steps) if steps else None,
                        size_px=int(size) if size else None,
                    )
            except ValueError as error:  # no picture, no number, too few steps
                return web.json_response({"error": str(error)}, status=400)
            return web.Response(body=target.read_bytes(), content_type="image/png")


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    options = parser.parse_args()
    app = web.Application(client_max_size=PICTURE_BYTES_MAX)
    server = Server(options.model, options.device)
    app.cleanup_ctx.append(server.lifespan)
    app.add_routes([web.get("/readyz", server.readyz), web.post("/edit", server.edit)])
    web.run_app(app, host=options.host, port=options.port)


if __name__ == "__main__":
    main()
