"""Refusals: every answer that is not a success, with a body that says what is wrong and can always be encoded."""

import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from workload.store import StoreUnavailable

RETRY_AFTER_S = 1


class NotHandedOver(Exception):
    """A server that the request needs is away, and its work was surely not handed over (503)."""


class OutcomeUnknown(Exception):
    """The work may or may not have been handed over (504)."""


def invalid(field: str, message: str) -> RequestValidationError:
    """Return the 422 that says what is wrong with one field of the body."""
    return RequestValidationError([{"type": "value_error", "loc": ("body", field), "msg": message}])


def install(app: FastAPI) -> None:
    """Give an app its answers to refused requests."""
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(NotHandedOver, _answer_not_handed_over)
    app.add_exception_handler(OutcomeUnknown, _answer_outcome_unknown)
    app.add_exception_handler(StoreUnavailable, _answer_store_unavailable)
    app.add_exception_handler(HTTPException, _answer_http)


def answer(status: int, detail: Any, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON answer in ASCII: escaped, even a lone surrogate of the client's can be sent back."""
    return Response(json.dumps({"detail": detail}), status, headers, media_type="application/json")


async def _answer_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # What was sent is not sent back: it may be large, and the place and the message say what is wrong with it.
    problems = [{key: problem[key] for key in ("loc", "msg", "type")} for problem in error.errors()]
    # The router and the endpoint both declare the request id, and so both complain.
    return answer(422, [problem for at, problem in enumerate(problems) if problem not in problems[:at]])


async def _answer_not_handed_over(_request: Request, error: Exception) -> Response:
    return answer(503, str(error), {"Retry-After": str(RETRY_AFTER_S)})


async def _answer_outcome_unknown(_request: Request, error: Exception) -> Response:
    return answer(504, str(error), {"Retry-After": str(RETRY_AFTER_S)})


async def _answer_store_unavailable(_request: Request, _error: Exception) -> Response:
    return answer(503, "The database cannot be reached; nothing was done.", {"Retry-After": str(RETRY_AFTER_S)})


async def _answer_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return answer(error.status_code, error.detail, dict(error.headers or {}))
