"""The body of a request: read within bounds, parsed as strict JSON, checked against the contract."""

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
from ...research.contract import MAX_BODY_BYTES, ErrorDetail, InvocationRequest
from .responses import MOST_DETAILS, Problem

_DEEPEST = 64
_LONGEST_NAME = 64


async def read_body(request: Request, seconds: float) -> bytes:
    """Return the whole body.

    Raises:
        Problem: it is not JSON by its type, too large, or takes longer than `seconds`.
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
                # Counted as well: the declared length is the client's word, and a chunked body has none.
                if len(body) > MAX_BODY_BYTES:
                    raise Problem("body_too_large")
    except TimeoutError:
        raise Problem("request_timeout") from None
    except ClientDisconnect:  # nobody reads the answer
        raise Problem("invalid_json") from None
    return bytes(body)


def parse(body: bytes) -> DeepResearchArguments:
    """Return the arguments in a body.

    Raises:
        Problem: it is not JSON, or violates the contract. The message does not repeat the body.
    """
    data = _strict_json(body)
    _check_texts(data)
    try:
        return InvocationRequest.model_validate(data).arguments
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        raise Problem("invalid_request", details=[_detail(one) for one in errors[:MOST_DETAILS]]) from None


def _strict_json(body: bytes) -> object:
    """Parse JSON without NaN, infinity or duplicate names.

    Pydantic's parser would keep the last of two fields of one name, and turn 1e999 into infinity.
    """
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
    """Raise Problem for a text that no database can store and no provider understands."""
    # Level by level, not recursively: the depth is the client's choice.
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
    """Return the problem of an unknown name, with the nearest known one, which may belong one level up or down."""
    top, arguments = list(InvocationRequest.model_fields), list(DeepResearchArguments.model_fields)
    name = str(place[-1])
    if len(place) == 1:
        return unknown_name(name, top, {one: f"arguments.{one}" for one in arguments})
    return unknown_name(name, arguments, {one: f"{one} beside arguments" for one in top if one != "arguments"})


def _name(part: object) -> str:
    """Return a part of a path, shortened: it may be a name that the client made up."""
    text = "".join(c if c.isprintable() else "?" for c in str(part)[:_LONGEST_NAME])
    return text + ("..." if len(str(part)) > _LONGEST_NAME else "")
