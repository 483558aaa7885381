"""Reading a request's body: within bounds, as strict JSON, and against the contract."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, NoReturn

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request

from ...config import is_unicode
from ...json_object import JsonObject
from ...research.arguments import DeepResearchArguments, unknown_name
from ...research.contract import (
    API_ERRORS,
    MAX_BODY_BYTES,
    ApiError,
    ApiErrorCode,
    ErrorBody,
    ErrorDetail,
    InvocationRequest,
)

_DEEPEST = 64
MOST_DETAILS = 10
_LONGEST_NAME = 64


class Problem(Exception):
    """A request that is not carried out, as the contract has it.

    Args:
        code: one of the contract's.
        message: in place of the usual one.
        details: what is wrong where.
        retry_after: seconds after which it is worth trying again.
    """

    def __init__(
        self,
        code: ApiErrorCode,
        message: str | None = None,
        *,
        details: list[ErrorDetail] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(code)
        self.code: ApiErrorCode = code
        self.status, usual = API_ERRORS[code]
        self.message = message or usual
        self.details = details or []
        self.retry_after = retry_after

    @property
    def body(self) -> ErrorBody:
        """What the client is told."""
        return ErrorBody(error=ApiError(code=self.code, message=self.message, details=self.details))


def bad_header(name: str, problem: str) -> Problem:
    """What is wrong with a header."""
    return Problem("invalid_request", details=[ErrorDetail(where=name, problem=problem)])


async def read_body(request: Request, seconds: float) -> bytes:
    """The whole body.

    Raises:
        Problem: it is of another type, too large, or takes longer than `seconds`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" or request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem("unsupported_media_type")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise Problem("body_too_large")
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise Problem("body_too_large")
    except TimeoutError:
        raise Problem("request_timeout") from None
    except ClientDisconnect:
        raise Problem("invalid_json") from None
    return bytes(body)


def parse(body: bytes) -> DeepResearchArguments:
    """The arguments in a body.

    Raises:
        Problem: it is not JSON, or not what the contract asks for. What was sent is not repeated.
    """
    data = _strict_json(body)
    _check_texts(data)
    try:
        return InvocationRequest.model_validate(data).arguments
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        raise Problem("invalid_request", details=[_detail(one) for one in errors[:MOST_DETAILS]]) from None


def _strict_json(body: bytes) -> object:
    """JSON, with neither NaN nor two fields of one name. (pydantic's parser keeps the last of the two, and turns 1e999
    into infinity.)"""
    try:
        return _STRICT.decode(body.decode("utf-8"))
    except RecursionError:
        raise Problem("invalid_json", "The body is nested too deeply.") from None
    except ValueError:
        raise Problem("invalid_json") from None


def _refuse(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("out of range")
    return value


def _unambiguous(pairs: list[tuple[str, object]]) -> JsonObject:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


_STRICT = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unambiguous)


def _check_texts(data: object) -> None:
    """Refuse what no database can store and no provider understands."""
    level = [data]
    for _ in range(_DEEPEST):
        for text in level:
            if isinstance(text, str) and ("\x00" in text or not is_unicode(text)):
                raise Problem("invalid_request", "A text holds a NUL character or half of a surrogate pair.")
        level = [part for value in level for part in _parts(value)]
        if not level:
            return
    raise Problem("invalid_request", "The body is nested too deeply.")


def _parts(value: object) -> list[object]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, list) else []


def _detail(error: Any) -> ErrorDetail:
    where = ".".join(_name(part) for part in error["loc"]) or "body"
    problem = {
        "string_pattern_mismatch": "must not be blank",
        "missing": "is required",
    }.get(error["type"], error["msg"].removeprefix("Value error, "))
    if error["type"] == "extra_forbidden":
        problem = _unknown(error["loc"])
    return ErrorDetail(where=where, problem=problem)


def _unknown(place: tuple[object, ...]) -> str:
    """Say what is known at the place of an unknown name; the nearest name may belong one level up or down."""
    top, arguments = list(InvocationRequest.model_fields), list(DeepResearchArguments.model_fields)
    name = str(place[-1])
    if len(place) == 1:
        return unknown_name(name, top, {one: f"arguments.{one}" for one in arguments})
    return unknown_name(name, arguments, {one: f"{one} beside arguments" for one in top if one != "arguments"})


def _name(part: object) -> str:
    """A part of a path; a name that the client made up is shortened."""
    text = "".join(c if c.isprintable() else "?" for c in str(part)[:_LONGEST_NAME])
    return text + ("..." if len(str(part)) > _LONGEST_NAME else "")
