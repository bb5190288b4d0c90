"""Servers below HTTP: TLS that must not be trusted, connections that end oddly, answers before the answer.

Raw servers, because a proper one will not do these things. Certificates are made by openssl for each run.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from qwen_api.manifest import WantedFile
from qwen_daemon.core.errors import AskHuman, TryAgain
from qwen_daemon.shell.edges import Edges
from qwen_daemon.shell.fetch import HttpOrigin
from qwen_daemon.shell.tokens import Token
from tests.fakes.bodies import read_out
from tests.fakes.hub import SparseContent
from tests.test_range_faults import CONFIG, CONTENT, FILE, LOOPS, MIB, RANGES, REPO, TOKEN, fetch, run

START, END = 5 * MIB, 10 * MIB
TLS_HELD_BYTES = 2 * (256 << 10)  # its high-water mark, and one read beyond
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]


def head(start: int, end: int, total: int = len(CONTENT)) -> bytes:
    """Of a proper answer."""
    return (
        f"HTTP/1.1 206 Partial Content\r\nContent-Length: {end - start}\r\n"
        f"Content-Range: bytes {start}-{end - 1}/{total}\r\n\r\n"
    ).encode()


@asynccontextmanager
async def serving(answer: Answer, context: ssl.SSLContext | None = None) -> AsyncIterator[tuple[str, list[str]]]:
    """A server that answers each request so: its address, and the heads it was sent."""
    heads: list[str] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                asked = (await reader.readuntil(b"\r\n\r\n")).decode()
                heads.append(asked)
                start = int(asked.lower().partition("range: bytes=")[2].partition("-")[0])
                await answer(reader, writer, start)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.transport.abort()

    async with await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context, limit=1 << 20) as server:
        scheme = "https" if context else "http"
        yield f"{scheme}://localhost:{server.sockets[0].getsockname()[1]}", heads


@asynccontextmanager
async def origin_at(endpoint: str, context: ssl.SSLContext | None = None) -> AsyncIterator[HttpOrigin]:
    """As shell.fetch makes its sessions, but with this idea of whom to trust."""
    connector = Edges(limit=100, trust=context)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=CONFIG.read_timeout_s)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        yield HttpOrigin(session, endpoint, Token(lambda: TOKEN), on_throttled=lambda _origin, _after_s: None)


async def honest(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, start: int) -> None:
    """All that was asked for, on a connection that goes on."""
    writer.write(head(start, END) + CONTENT[start:END])
    await writer.drain()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority; what it signed for localhost, another host, and the past, for clients, or with a
    condition that nobody knows; and what nobody signed, or somebody who is no authority.
    """
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    by = ("-CA", "ca.pem", "-CAkey", "ca.key")
    openssl(*new, "-x509", "-subj", "/CN=test authority", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem")
    for name, extension, days, signed in (
        ("good", "subjectAltName=DNS:localhost", "2", by),
        ("other", "subjectAltName=DNS:elsewhere.example", "2", by),
        ("expired", "subjectAltName=DNS:localhost", "-1", by),
        ("self", "subjectAltName=DNS:localhost", "2", ("-signkey", "self.key")),
        ("client", "extendedKeyUsage=clientAuth", "2", by),
        ("unheard of", "1.2.3.4.5=critical,ASN1:NULL", "2", by),
        ("no authority", "subjectAltName=DNS:localhost", "2", ("-CA", "good.pem", "-CAkey", "good.key")),
    ):
        host = "elsewhere.example" if name == "other" else "localhost"
        openssl(*new, "-subj", f"/CN={host}", "-addext", extension, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        files = ("-in", f"{name}.csr", "-out", f"{name}.pem")
        openssl("x509", "-req", *files, *signed, "-days", days, "-copy_extensions", "copy")
    with (folder / "no authority.pem").open("ab") as chain:
        chain.write((folder / "good.pem").read_bytes())
    return folder


UNTRUSTED = ("other", "expired", "self", "client", "unheard of", "no authority", "unknown authority", "TLS 1.1")


def server_context(certificates: Path, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    return context


def trusting(certificates: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificates / "ca.pem"))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
@pytest.mark.fault("H28")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", UNTRUSTED)
def test_whom_nobody_vouches_for_gets_no_request(certificates: Path, name: str, loop: str) -> None:
    """Another host's, expired, self-signed, a client's, with a condition nobody knows, of none or an unknown authority,
    too old: refused, and the token never left.
    """

    async def work() -> None:
        server = server_context(certificates, name if (certificates / f"{name}.pem").exists() else "good")
        ours = trusting(certificates)
        if name == "unknown authority":
            ours = ssl.create_default_context()
        if name == "TLS 1.1":
            server.maximum_version = ssl.TLSVersion.TLSv1_1
            server.minimum_version = ssl.TLSVersion.TLSv1_1
        async with serving(honest, server) as (endpoint, heads), origin_at(endpoint, ours) as origin:
            with pytest.raises((AskHuman, TryAgain)) as refused:
                async with origin.read(REPO.id, REPO.sha, FILE, START, END):
                    pass
            assert refused.value.code == ("E_TLS" if name != "TLS 1.1" else "E_NETWORK") and heads == []

    run(loop, work())


@contextmanager
def blunt(context: ssl.SSLContext, at: int, goodbye: str) -> Iterator[tuple[str, list[int]]]:
    """A server of blocking sockets, so that all is in the kernel when it ends its first connection, this way, there."""
    starts: list[int] = []

    def talk(connection: ssl.SSLSocket) -> None:
        asked = b""
        while not asked.endswith(b"\r\n\r\n"):
            asked += connection.recv(65536)
        start = int(asked.decode().lower().partition("range: bytes=")[2].partition("-")[0])
        starts.append(start)
        connection.sendall(head(start, END) + CONTENT[start : END if len(starts) > 1 else START + at])
        if goodbye == "close_notify":
            connection.unwrap().close()
        if goodbye == "reset" and len(starts) == 1:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def serve() -> None:
        with suppress(OSError):  # the end of the listener
            while True:
                accepted = listener.accept()[0]
                with suppress(OSError), accepted, context.wrap_socket(accepted, server_side=True) as connection:
                    talk(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"https://localhost:{listener.getsockname()[1]}", starts
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.fault("H24", "H41")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("goodbye", ["close_notify", "none", "reset"])
@pytest.mark.parametrize("at", [0, 1, 4 * MIB, 5 * MIB - 1, 5 * MIB])
def test_over_tls_a_connection_may_end_in_any_way(certificates: Path, at: int, goodbye: str, loop: str) -> None:
    """With or without close_notify, at any byte: what came is right, the rest is asked for; no trouble at the end."""
    # uvloop's TLS throws away what it holds if the end comes while nobody reads: eof_received() in its sslproto.pyx
    held_bytes = TLS_HELD_BYTES if loop == "uvloop" else 0

    async def work(endpoint: str, starts: list[int]) -> None:
        async with origin_at(endpoint, trusting(certificates)) as origin:
            came, codes = await fetch(origin, START, END)
            assert came == CONTENT[START:END]
            if goodbye == "reset":  # that one throws away what has not been read
                return
            assert codes == ["E_CUT_SHORT"] * (len(starts) - 1)
            sent = [START + at, *[END] * len(starts)]  # up to where the server went, time after time
            for asked, end in zip(starts[1:], sent, strict=False):
                assert end - held_bytes <= asked < END and asked <= end, "what came is not asked for again"
            assert loop == "uvloop" or len(starts) == 1 + (at < 5 * MIB)

    with blunt(server_context(certificates, "good"), at, goodbye) as (endpoint, starts):
        run(loop, work(endpoint, starts))


@pytest.mark.fault("H40", "H41")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    "before", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"]
)
def test_answers_before_the_answer_are_skipped(before: bytes, loop: str) -> None:
    """100 and 103, and the server closes right after the last byte."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, start: int) -> None:
        writer.write(before + head(start, END) + CONTENT[start:END])
        await writer.drain()
        writer.close()

    async def work() -> None:
        async with serving(answer) as (endpoint, _), origin_at(endpoint) as origin:
            assert await fetch(origin, START, END) == (CONTENT[START:END], [])

    run(loop, work())


@pytest.mark.fault("H31", "T1")
@pytest.mark.parametrize(("start", "end"), RANGES)
def test_https_never_becomes_http(certificates: Path, start: int, end: int) -> None:
    """A redirect from https to http is refused before anybody there is asked, at whichever range."""

    async def work() -> None:
        asked: list[int] = []
        async with serving(honest) as (plain, heads):

            async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, at: int) -> None:
                asked.append(at)
                if at == start and asked.count(at) == 1:
                    writer.write(f"HTTP/1.1 302 Found\r\nLocation: {plain}/x\r\nContent-Length: 0\r\n\r\n".encode())
                else:
                    writer.write(head(at, at + 5 * MIB) + CONTENT[at : at + 5 * MIB])
                await writer.drain()

            context = server_context(certificates, "good")
            async with serving(answer, context) as (endpoint, _), origin_at(endpoint, trusting(certificates)) as origin:
                for one in RANGES:
                    expected = ["E_REDIRECT"] if one == (start, end) else []
                    assert await fetch(origin, *one) == (CONTENT[slice(*one)], expected)
            assert heads == [] and len(asked) == len(RANGES) + 1

    run("asyncio", work())


@pytest.mark.fault("H32", "T1")
def test_another_origin_never_sees_the_token() -> None:
    """Another port of the same host is another origin: it is followed to, and not told."""

    async def work() -> None:
        async with serving(honest) as (elsewhere, heads):

            async def redirect(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _start: int) -> None:
                writer.write(f"HTTP/1.1 302 Found\r\nLocation: {elsewhere}/x\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()

            async with serving(redirect) as (endpoint, asked), origin_at(endpoint) as origin:
                assert await fetch(origin, START, END) == (CONTENT[START:END], [])
            assert TOKEN in asked[0] and TOKEN not in "".join(heads) and "authorization" not in heads[0].lower()

    run("asyncio", work())


@pytest.mark.fault("H26", "H25")
@pytest.mark.parametrize("loop", LOOPS)
def test_what_came_before_a_silence_is_given(loop: str) -> None:
    """Some bytes with the headers, some later, some a byte at a time, then none: each of them is given once."""
    times = [1]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, start: int) -> None:
        if times[0] == 0:
            await honest(reader, writer, start)
            return
        times[0] -= 1
        writer.write(head(start, END) + CONTENT[start : start + 1000])
        for at in range(start + 1000, start + 1020):
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(CONTENT[at : at + 1])
        await reader.read()  # until the client goes

    async def work() -> None:
        async with serving(answer) as (endpoint, heads), origin_at(endpoint) as origin:
            assert await fetch(origin, START, END) == (CONTENT[START:END], ["E_STALLED"])
            assert f"bytes={START + 1020}-" in heads[1]

    run(loop, work())


@pytest.mark.fault("H48")
@pytest.mark.parametrize("loop", LOOPS)
def test_offsets_above_four_gigabytes_are_exact(loop: str) -> None:
    """Around 2^32 and at the end of a file of 60 GB: the bytes of there, in a bounded range."""
    huge = SparseContent(size=60_000_000_000, seed=3)
    wanted = WantedFile(path=FILE.path, size_bytes=huge.size, git_sha1=FILE.git_sha1, sha256=FILE.sha256)

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, start: int) -> None:
        writer.write(head(start, start + 5 * MIB, huge.size) + huge.read(start, start + 5 * MIB))
        await writer.drain()

    async def work() -> None:
        async with serving(answer) as (endpoint, _), origin_at(endpoint) as origin:
            for start in ((1 << 32) - 5, huge.size - 5 * MIB):
                came = bytearray()
                async with origin.read(REPO.id, REPO.sha, wanted, start, start + 5 * MIB) as body:
                    assert await read_out(body, came) == 5 * MIB
                assert came == huge.read(start, start + 5 * MIB)

    run(loop, work())
