"""Answers that tell of an error, in the shapes that clients of the FLUX API and of OpenAI's read."""

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from openkontext.errors import InputError
from openkontext.service.jobs import NotAccepted


class Problem(BaseModel):
    """What went wrong."""

    detail: str
    message: str


class Refused(Exception):
    """A request is answered with an error.

    Args:
        status: of the answer.
        reason: one line for the client.
        headers: of the answer.
    """

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers or {}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of error answers, for a route."""
    said = {
        400: "Bad Request: no JSON, or a host name that is none of the service's",
        401: "Not authenticated",
        402: "Payment Required: not enough credit",
        403: "Forbidden: no valid key, terms not accepted, or the account is suspended",
        404: "Not Found",
        409: "Conflict",
        413: "Content Too Large",
        429: "Too Many Requests: see Retry-After",
    }
    return {status: {"model": Problem, "description": said[status]} for status in statuses}


def json_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same for a route whose other answers are no JSON; the framework would document errors as those."""
    problem = {"application/json": {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}}
    said = responses(*statuses)
    return {status: {"description": said[status]["description"], "content": problem} for status in statuses}


async def refused(request: Request, error: Exception) -> JSONResponse:
    """Answer for `Refused`."""
    assert isinstance(error, Refused)
    return _answer(request, error.status, error.reason, error.headers)


async def not_accepted(request: Request, error: Exception) -> JSONResponse:
    """Answer for `NotAccepted`."""
    assert isinstance(error, NotAccepted)
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    return _answer(request, error.status, error.reason, headers)


async def bad_input(request: Request, error: Exception) -> JSONResponse:
    """Answer for `InputError`."""
    assert isinstance(error, InputError)
    return _answer(request, 422, str(error), {})


async def invalid(request: Request, error: Exception) -> JSONResponse:
    """Answer for a request that does not fit its schema."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"] if part != "body")
    return _answer(request, 422, f"{name}: {first['msg']}" if name else first["msg"], {}, error.errors())


async def http_error(request: Request, error: Exception) -> JSONResponse:
    """Answer for what the framework refuses, such as an unknown address or too large a body."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:  # the framework names the methods of one of the address's routes only
        paths = request.app.openapi()["paths"]
        found = [paths[path] for path in paths if compile_path(path)[0].match(request.url.path)]
        headers["Allow"] = ", ".join(sorted(method.upper() for methods in found for method in methods))
    return _answer(request, error.status_code, str(error.detail), headers)


def _answer(
    request: Request, status: int, reason: str, headers: dict[str, str], details: Any = None
) -> JSONResponse:
    if request.url.path.startswith("/v1/images/"):  # as OpenAI's clients read it
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(status)
        content = {
            "error": {"message": reason, "type": kind or "invalid_request_error", "param": None, "code": None}
        }
        return JSONResponse(content, status, headers)
    if status == 422:  # as the FLUX API documents it: a list
        found = details or [{"loc": ["body"], "msg": reason, "type": "value_error"}]
        plain = [{key: part[key] for key in ("loc", "msg", "type")} for part in found]
        return JSONResponse({"detail": plain, "message": reason}, status, headers)
    return JSONResponse({"detail": reason, "message": reason}, status, headers)
