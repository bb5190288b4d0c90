"""Bodies in and out of the API: closed schemas, JSON answers, and who is asking."""

from __future__ import annotations

from typing import TypeVar

import msgspec
import structlog
from aiohttp import web

from qwen_api import commands
from qwen_api.language import N_
from qwen_api.undecodable import UNDECODABLE
from qwen_daemon.shell import door
from qwen_daemon.shell.problems import Refusal

log = structlog.get_logger(__name__)
T = TypeVar("T")


async def read_body(request: web.Request, kind: type[T]) -> T:
    """The body as `kind`; Refusal if it is anything else."""
    try:
        return msgspec.json.decode(await request.read() or b"{}", type=kind)
    except UNDECODABLE as error:
        raise Refusal(400, "E_USAGE", N_("the request's body is wrong"), str(error), "see docs/api.md") from error


def json_answer(body: bytes, *, status: int = 200) -> web.Response:
    """JSON that is encoded already."""
    return web.Response(body=body, status=status, content_type="application/json")


def accepted(seq: int, model: str, *, status: int = 202, files: tuple[str, ...] | None = None) -> web.Response:
    """A command was taken."""
    about = msgspec.UNSET if files is None else files
    return json_answer(msgspec.json.encode(commands.Accepted(seq=seq, model=model, files=about)), status=status)


def audit(request: web.Request, command: str, model: str) -> None:
    """Log who commanded."""
    pid, uid = peer(request)
    log.info("command.taken", command=command, model=model, uid=uid, pid=pid)


def peer(request: web.Request) -> tuple[int, int]:
    """pid and uid of who asks, by the kernel's word."""
    return door.peer(request.transport)
