# SPDX-License-Identifier: Apache-2.0
"""Errors as the APIs write them: what went wrong, as a status and in each API's own shape."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from adapmoe.errors import (
    AdapmoeError,
    BudgetError,
    CancelledError,
    ChatTemplateError,
    ClosedError,
    ContextOverflowError,
    PackError,
    ReadError,
)
from adapmoe.serve.constraint import ConstraintError
from adapmoe.serve.json_text import json_bytes
from adapmoe.serve.service import QueueFullError, RequestTimeoutError

_log = logging.getLogger("adapmoe")

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
}

# For OpenAPI: what every API may answer instead of a result.
DOCUMENTED: dict[int | str, dict[str, Any]] = {
    400: {"description": "A parameter is wrong, unknown or not supported; the message names it."},
    404: {"description": "The model is not the one that is served."},
    429: {"description": "Too many requests wait; Retry-After says when to try again."},
    503: {"description": "The model cannot be read, or the server is full, at the moment."},
    504: {"description": "The request took longer than the server allows."},
}


class ApiError(Exception):
    """An error to answer a request with.

    Attributes:
        status: of HTTP.
        param: the parameter that is wrong, such as "messages[0].content"; None: no single one.
        code: a word that programs can compare, such as "model_not_found".
        retry_after: seconds; None: trying again makes no difference.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Those of the response."""
        if self.status == 504:  # the official clients would ask for the same long answer again
            return {"x-should-retry": "false"}
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


class ClientGoneError(ApiError):
    """The client has left: nobody reads an answer."""

    def __init__(self) -> None:
        """499 is what web servers write into logs for it."""
        super().__init__(499, "the client closed the connection")


def openai_error(error: ApiError) -> dict[str, Any]:
    """The body of an error in the shape of OpenAI's APIs."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    if error.status == 429:
        kind = "rate_limit_error"
    return {
        "error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}
    }


def anthropic_error(error: ApiError) -> dict[str, Any]:
    """The body of an error in the shape of Anthropic's API."""
    other = "invalid_request_error" if error.status < 500 else "api_error"
    kind = _ANTHROPIC_TYPES.get(error.status, other)
    return {"type": "error", "error": {"type": kind, "message": str(error)}}


def error_response(path: str, error: ApiError) -> Response:
    """The response for an error, in the shape of the API that `path` belongs to."""
    anthropic = path == "/v1/messages" or path.startswith("/v1/messages/")
    body = anthropic_error(error) if anthropic else openai_error(error)
    return Response(json_bytes(body), error.status, error.headers, "application/json")


def refused(error: Exception) -> ApiError:
    """What to answer where preparing a request failed: a wrong value is the request's fault.

    So is a text that the pack has no token for.
    """
    if isinstance(error, ContextOverflowError):
        return ApiError(400, str(error), code="context_length_exceeded")
    if isinstance(error, ChatTemplateError | PackError | ValueError):
        return ApiError(400, str(error))
    return failed(error)


def failed(error: Exception) -> ApiError:
    """What to answer where computing an answer failed. Logs what nobody expected."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        return ApiError(
            429, str(error), code="rate_limit_exceeded", retry_after=max(1, error.retry_after)
        )
    if isinstance(error, RequestTimeoutError):
        return ApiError(504, str(error), code="timeout")
    if isinstance(error, ConstraintError):  # the grammar took too much
        return ApiError(400, str(error))
    if isinstance(error, MemoryError | BudgetError):
        return ApiError(429, f"not enough memory now: {error}", code="memory", retry_after=5)
    if isinstance(error, ClosedError | CancelledError):
        return ApiError(503, str(error), code="unavailable", retry_after=5)
    if isinstance(error, AdapmoeError):  # of the disk or the pack, most likely
        _log.error("a request failed: %s", error)
        status, code = (
            (503, "unavailable") if isinstance(error, ReadError | PackError) else (500, "failed")
        )
        return ApiError(status, str(error), code=code)
    _log.error("a request failed", exc_info=error)
    return ApiError(500, "the server made a mistake; its log has the details", code="internal")


def wrong_model(asked: str, served: str) -> ApiError:
    """The error for a request to a model that is not here."""
    return ApiError(
        404,
        f"the model {asked!r} does not exist here; this server has {served!r}",
        param="model",
        code="model_not_found",
    )


def wrong_body(errors: Sequence[Mapping[str, Any]], body: object) -> ApiError:
    """The error for a body that does not validate: one that names the parameter.

    Args:
        errors: pydantic's, at least one.
        body: what the request held.
    """
    unknown = [error for error in errors if error["type"] == "extra_forbidden"]
    if unknown:
        param = _path(unknown[0], body)
        return ApiError(400, f"unknown parameter: {param!r}", param=param, code="unknown_parameter")
    if errors[0]["type"] == "json_invalid":
        reason = errors[0].get("ctx", {}).get("error", "")
        return ApiError(400, f"the body is not JSON: {reason}", code="invalid_json")
    # Of the alternatives of one parameter, the one that fails deepest was probably meant.
    group = [error for error in errors if error["loc"][:2] == errors[0]["loc"][:2]]
    param = max((_path(error, body) for error in group), key=_depth)
    there = [error for error in group if _path(error, body) == param]
    code = "not_supported" if there[0]["type"] == "not_supported" else "invalid_value"
    message = ", or: ".join(dict.fromkeys(error["msg"] for error in there))
    if param:
        return ApiError(400, f"{param}: {message}", param=param, code=code)
    if not isinstance(body, dict):
        message = "the body must be a JSON object, sent with Content-Type: application/json"
    return ApiError(400, message, code=code)


def _depth(path: str) -> int:
    return path.count(".") + path.count("[")


def _path(error: Mapping[str, Any], body: object) -> str:
    """Where an error is, such as "messages[0].role", without the names of alternative types."""
    path, value, location = "", body, error["loc"]
    is_missing = error["type"] == "missing"
    for at, step in enumerate(location[1:], 2):  # the first is "body"
        if isinstance(step, int):
            if isinstance(value, list) and step < len(value):
                path, value = f"{path}[{step}]", value[step]
        elif isinstance(value, dict) and (step in value or (is_missing and at == len(location))):
            path, value = f"{path}.{step}" if path else step, value.get(step)
    return path


def install_errors(app: FastAPI) -> None:
    """Answer every error of `app` in the shape of the API that was called."""

    async def on_api_error(request: Request, error: Exception) -> Response:
        return error_response(request.url.path, failed(error))

    async def on_wrong_body(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return error_response(request.url.path, wrong_body(error.errors(), error.body))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        found = ApiError(error.status_code, str(error.detail))
        response = error_response(request.url.path, found)
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(RequestValidationError, on_wrong_body)
    app.add_exception_handler(HTTPException, on_http)
    for kind in (ApiError, AdapmoeError, Exception):
        app.add_exception_handler(kind, on_api_error)
