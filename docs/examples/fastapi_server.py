"""The same server as edit_server.py with FastAPI: the model comes in the lifespan, beside the requests.

    pip install 'qwen-daemon[loader]' fastapi uvicorn
    python docs/examples/fastapi_server.py qwen-image-edit --port 8000
    curl -s localhost:8000/readyz                        {"state": "loading", "text": "loading: transformer, 12.3 GB"}
    curl -s --data-binary @cat.png 'localhost:8000/edit?prompt=Give+the+cat+a+red+hat' -o hat.png

503 with the progress while the model comes, then 200. On SIGTERM it stops waiting, gives the memory back and tells the
daemon.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from qwen_loader import LoadFailed, NotReady, edit, loaded_async, text_of


class Held:
    """The model on its way, and what is said of it meanwhile; one edit at a time: the GPU has no more."""

    def __init__(self) -> None:
        self.state, self.text = "starting", ""
        self.pipeline: Any = None
        self.one_at_a_time = asyncio.Lock()

    async def hold(self, model: str, device: Any) -> None:
        """Until it is cancelled."""
        try:
            async with loaded_async(model, device=device, name="fastapi-server", on_event=self._hear) as self.pipeline:
                self.state, self.text = "ready", ""
                await asyncio.Event().wait()
        except (NotReady, LoadFailed) as error:
            self.state, self.text = "failed", f"{error.code}: {error.why}; {error.fix}"
            print(self.text, file=sys.stderr, flush=True)
        finally:
            self.pipeline = None

    def _hear(self, news: Any) -> None:
        self.text = text_of(news)
        self.state = self.text.partition(":")[0]


def make_app(model: str, device: str) -> FastAPI:
    """The application; a server starts answering while its lifespan loads."""
    held = Held()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        holding = asyncio.create_task(held.hold(model, device))
        yield
        holding.cancel()
        with suppress(asyncio.CancelledError):
            await holding

    app = FastAPI(lifespan=lifespan)

    @app.get("/readyz")
    async def readyz() -> Response:
        body = {"state": held.state, "text": held.text}
        if held.pipeline is not None:
            return JSONResponse(body)
        return JSONResponse(body, status_code=503, headers={"Retry-After": "5"})

    @app.post("/edit")
    async def edit_picture(
        request: Request, prompt: str, steps: int | None = None, size: int | None = None
    ) -> Response:
        if held.pipeline is None:
            return await readyz()
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "in", Path(folder) / "out.png"
            source.write_bytes(await request.body())
            try:
                async with held.one_at_a_time:
                    await asyncio.to_thread(edit, held.pipeline, source, prompt, target, steps=steps, size_px=size)
            except ValueError as error:  # no picture, too few steps
                return JSONResponse({"error": str(error)}, status_code=400)
            return Response(target.read_bytes(), media_type="image/png")

    return app


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    options = parser.parse_args()
    uvicorn.run(make_app(options.model, options.device), host=options.host, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
