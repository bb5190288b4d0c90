"""Every refusal of the API in one shape: application/problem+json with a stable code and a way out.

What a handler raises is told here, and nowhere else; a surprise is logged whole and told as E_INTERNAL.
"""

from __future__ import annotations

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from qwen_api import commands
from qwen_api.language import N_
from qwen_api.models import BadModelName
from qwen_daemon.core.choice import UnknownFile
from qwen_daemon.core.errors import Configured, FilesUnknown, Trouble, UnknownModel
from qwen_daemon.shell.visitors import Visitors

log = structlog.get_logger(__name__)


class Refusal(Exception):
    """The API itself says no."""

    def __init__(self, status: int, code: str, title: str, detail: str, fix: str) -> None:
        self.problem = commands.Problem(status=status, code=code, title=title, detail=detail, fix=fix)


def answer_problems(visitors: Visitors, *, control: bool) -> Middleware:
    """The middleware that turns whatever a handler raises into a Problem, and tells who was refused a command."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            problem = _http_problem(request, error, control=control)
        except Exception as error:
            problem = _problem(error)
        if request.method not in ("GET", "HEAD"):
            about = f"{request.method} {request.path}"
            visitors.tell("command.refused", request.transport, command=about, code=problem.code, status=problem.status)
        body = msgspec.json.encode(problem)
        return web.Response(body=body, status=problem.status, content_type="application/problem+json")

    return answer


def _problem(error: Exception) -> commands.Problem:
    match error:
        case Refusal():
            return error.problem
        case BadModelName():
            return commands.Problem(
                status=400,
                code="E_USAGE",
                title=N_("no such model name"),
                detail=str(error),
                fix="write org/name or an alias",
            )
        case UnknownModel():
            return commands.Problem(
                status=404,
                code="E_UNKNOWN_MODEL",
                title=N_("the daemon does not know this model"),
                detail=str(error.args[0]),
                fix="qwenctl ls shows the models it knows, qwenctl add MODEL adds one",
            )
        case UnknownFile():
            whole = "a path is written whole, and a pattern must match the whole of it: '*.json'"
            near = f"did you mean: {error.nearest}" if error.nearest else whole
            return commands.Problem(
                status=404,
                code="E_UNKNOWN_FILE",
                title=N_("no file of this model is meant"),
                detail=error.word,
                fix=near,
            )
        case FilesUnknown():
            return commands.Problem(
                status=409,
                code="E_FILES_UNKNOWN",
                title=N_("the model's files are not known yet"),
                detail=str(error.args[0]),
                fix="try again once it is listed; qwenctl status MODEL says what it waits for",
            )
        case Configured():
            return commands.Problem(
                status=409,
                code="E_CONFIGURED",
                title=N_("the configuration wants this model"),
                detail=str(error.args[0]),
                fix="take it out of [[models]] in the configuration file",
            )
        case ConnectionError() | web.RequestPayloadError():  # most likely nobody reads this answer
            return commands.Problem(status=400, code="E_HTTP", title=N_("the request broke off"))
        case Trouble():
            return commands.Problem(status=503, code=error.code, title=N_("it could not be done"), detail=error.detail)
        case _:
            log.error("request.surprised", exc_info=error)
            return commands.Problem(
                status=500, code="E_INTERNAL", title=N_("the daemon has a fault"), detail=type(error).__name__
            )


def _http_problem(request: web.Request, error: web.HTTPException, *, control: bool) -> commands.Problem:
    if not control and error.status in (404, 405) and request.method not in ("GET", "HEAD"):
        return commands.Problem(
            status=403,
            code="E_READ_ONLY_SOCKET",
            title=N_("this socket only answers questions"),
            detail=f"{request.method} {request.path}",
            fix="use control.sock; its group is qwen-admin",
        )
    return commands.Problem(status=error.status, code="E_HTTP", title=error.reason, detail=request.path)
