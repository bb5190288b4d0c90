"""A repository with a million files, or one that says so: refused within bounds of memory, and before any byte."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.running import Running

REPO, KEY = "org/huge", "org--huge"
COMMIT = "c" * 40
FILES = 1_000_000
PAGE_FILES = 1000
MIB = 1 << 20
BLANKS_MIB = 256
RESIDENT_MAX_BYTES = 300 * MIB
GZIP = b"\x1f\x8b"


@cache
def packed(info: bytes) -> bytes:
    """With blanks behind it, which JSON allows."""
    packer = zlib.compressobj(wbits=31)
    parts = [packer.compress(info), *(packer.compress(b" " * MIB) for _ in range(BLANKS_MIB)), packer.flush()]
    return b"".join(parts)


class Huge(BaseHTTPRequestHandler):
    """A Hub with one repository, whose files are `said` so."""

    said: ClassVar[str]
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with suppress(ConnectionError):  # refused before it was all read
            super().handle()

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        if "/tree/" in asked.path:
            first = int(parse_qs(asked.query).get("cursor", ["0"])[0])
            rows = [
                {"type": "file", "path": f"f{number:07}.bin", "size": 1, "oid": f"{number:040x}"}
                for number in range(first, first + PAGE_FILES)
            ]
            following = f'<http://{self.headers["Host"]}{asked.path}?cursor={first + PAGE_FILES}>; rel="next"'
            self._answer(json.dumps(rows).encode(), following if first + PAGE_FILES < FILES else "")
        elif asked.path.startswith(f"/api/models/{REPO}"):
            count = FILES if self.said == "at once" else 1
            named = ",".join(f'{{"rfilename":"f{number:07}.bin"}}' for number in range(count))
            info = f'{{"id":"{REPO}","sha":"{COMMIT}","siblings":[{named}]}}'.encode()
            self._answer(packed(info) if self.said == "packed" else info)
        else:
            self._answer(b"", status=404)

    def _answer(self, body: bytes, following: str = "", status: int = 200) -> None:
        self.send_response(status)
        if body.startswith(GZIP):
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if following:
            self.send_header("Link", following)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextmanager
def serving(said: str) -> Iterator[str]:
    handler = type("Handler", (Huge,), {"said": said})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def peak_resident_bytes(pid: int) -> int:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) << 10


@pytest.mark.fault("H45", "H51")
@pytest.mark.parametrize("said", ["page by page", "at once", "packed"])
def test_a_million_files_are_refused_within_bounds(tmp_path: Path, said: str) -> None:
    """By the tree, by the model's info, or by what was packed a thousandfold: E_LISTING, little memory."""
    with serving(said) as endpoint, Running(tmp_path, endpoint=endpoint, models=[REPO]) as daemon:
        assert daemon.wait_state(KEY, "failed").code == "E_LISTING"
        assert peak_resident_bytes(daemon.pid) < RESIDENT_MAX_BYTES
        assert not (daemon.cache / "models--org--huge").exists()
