"""Answers that tell of an error, in the shapes that clients of the FLUX API and of OpenAI's read."""

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from openkontext.errors import InputError
from openkontext.service.rejections import NotAccepted, Refused, WrongInputError

OPENAI = ("/v1/images/", "/v1/models")
"""Beginnings of the paths whose errors are told as OpenAI's clients read them."""
INSTEAD = {
    "guidance_scale": "guidance", "num_inference_steps": "steps", "mask_image": "mask", "mask_url": "mask",
    "num_images": "one request for each picture",
    "n": "one request for each picture", "image": "input_image", "image_url": "input_image",
    "images": "input_image, input_image_2, ...", "input_images": "input_image, input_image_2, ...",
    "cfg_scale": "true_cfg_scale",
}  # fmt: skip
"""What the FLUX API's models take in place of fields that other APIs have."""
KINDS = ("str", "bytes", "list[str]", "list[union[bytes,str]]", "ImageReference", "[key]")
"""What pydantic says besides of where an error is: which kind of a value it tried."""
NO_PROMPTS = "is not taken: the model knows no picture as a prompt; edit one with /v1/flux-kontext-dev"


class Problem(BaseModel):
    """What went wrong."""

    detail: str
    message: str


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
        416: "Range Not Satisfiable",
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
    return _answer(request, error.status, error.reason, error.headers, code=error.code)


async def not_accepted(request: Request, error: Exception) -> JSONResponse:
    """Answer for `NotAccepted`."""
    assert isinstance(error, NotAccepted)
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    return _answer(request, error.status, error.reason, headers)


async def bad_input(request: Request, error: Exception) -> JSONResponse:
    """Answer for `InputError`."""
    assert isinstance(error, InputError)
    if not isinstance(error, WrongInputError):
        return _answer(request, 422, str(error), {})
    detail = {"loc": [error.place, error.name], "msg": error.reason, "type": "value_error"}
    return _answer(request, 422, str(error), {}, [detail])


async def invalid(request: Request, error: Exception) -> JSONResponse:
    """Answer for a request that does not fit its schema."""
    assert isinstance(error, RequestValidationError)
    details: list[dict[str, Any]] = [dict(detail) for detail in error.errors()]
    for detail in details:
        detail["loc"] = [part for part in detail["loc"] if part not in KINDS]
        if detail["type"] == "extra_forbidden":
            detail["msg"] = _not_taken(request, str(detail["loc"][-1]))
        elif detail["type"] == "json_invalid":
            detail |= {"loc": ["body"], "msg": "the body is no JSON"}
        elif detail["loc"] in ([], ["body"]):
            kind = request.headers.get("content-type", "").partition(";")[0].strip()
            sent = (
                "" if kind.endswith(("/json", "+json")) else "; send it with Content-Type: application/json"
            )
            detail["msg"] = f"the body must be a JSON object{sent}"
        elif detail["type"] == "missing":
            detail["msg"] = "is missing"
        detail["msg"] = detail["msg"].removeprefix("Value error, ")
    first = [part for part in details[0]["loc"] if part != "body"][:1]
    alike = [detail for detail in details if first and first[0] in detail["loc"][:2]]
    # Of a field that may have several forms, the innermost error is of the form that was meant.
    details.sort(key=lambda detail: (detail in alike, len(detail["loc"])), reverse=True)
    name = ".".join(str(part) for part in details[0]["loc"] if part != "body")
    said = details[0]["msg"]
    return _answer(request, 422, f"{name}: {said}" if name else said, {}, details)


def _not_taken(request: Request, name: str) -> str:
    """What to say of a field that a route does not have."""
    if request.url.path.startswith(OPENAI):
        return "is not taken here; leave it out"
    if name in ("image_prompt", "image_prompt_strength"):
        return NO_PROMPTS
    if name.startswith("input_image") and "kontext" in request.url.path:
        return "is not taken: an edit takes four pictures at most"
    if name.startswith("input_image"):
        return "is not taken by this model; edit with /v1/flux-kontext-dev, which takes four pictures"
    instead = INSTEAD.get(name)
    return f"is not taken here; give {instead}" if instead else "is not taken here; leave it out"


async def http_error(request: Request, error: Exception) -> JSONResponse:
    """Answer for what the framework refuses, such as an unknown address or too large a body."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:  # the framework names the methods of one of the address's routes only
        paths = request.app.openapi()["paths"]
        found = [paths[path] for path in paths if compile_path(path)[0].match(request.url.path)]
        headers["Allow"] = ", ".join(sorted(method.upper() for methods in found for method in methods))
    reason = str(error.detail)
    model = request.url.path.removeprefix("/v1/")
    if error.status_code == 404 and model.startswith("flux-"):
        paths = [path.removeprefix("/v1/") for path in request.app.openapi()["paths"]]
        there = ", ".join(path for path in paths if path.startswith("flux-"))
        reason = f"there is no model {model[:50]} here; there are {there}"
    return _answer(request, error.status_code, reason, headers)


def openai_error(
    status: int, reason: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error")
    return {"error": {"message": reason, "type": kind, "param": param, "code": code}}


def _answer(
    request: Request,
    status: int,
    reason: str,
    headers: dict[str, str],
    details: list[dict[str, Any]] | None = None,
    code: str | None = None,
) -> JSONResponse:
    if request.url.path.startswith(OPENAI):
        where = [str(part) for part in details[0]["loc"] if part != "body"] if details else []
        said = openai_error(status, reason, param=".".join(where) or None, code=code)
        return JSONResponse(said, status, headers)
    if status == 422:  # as the FLUX API documents it: a list
        found = details or [{"loc": ["body"], "msg": reason, "type": "value_error"}]
        plain = [{key: part[key] for key in ("loc", "msg", "type")} for part in found]
        return JSONResponse({"detail": plain, "message": reason}, status, headers)
    return JSONResponse({"detail": reason, "message": reason}, status, headers)
