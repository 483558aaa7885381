"""What `/openapi.json` says beyond what the routes' signatures do."""

from __future__ import annotations

from functools import cache

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ...json_object import JsonObject
from ...research.arguments import ToolArguments
from ...research.contract import (
    INVOCATION_ERRORS,
    INVOCATIONS_PATH,
    AcceptedInvocation,
    ApiErrorCode,
    ErrorBody,
    Health,
    Invocation,
    InvocationRequest,
)
from .body import Problem

Responses = dict[int | str, JsonObject]

_EXAMPLE_VIEW: JsonObject = {
    "invocation_id": "inv_5f0c1d6e8b7a4c3f9e2d1a0b6c7d8e9f",
    "tool_name": "deep_research",
    "mode": "background",
    "status": "completed",
    "deliverable_format": "markdown_brief",
    "upstream_response_id": "resp_abc123",
    "output_text": "# Jajangmyeon\n\nIt came to Korea with ...",
    "sources": [{"url": "https://example.com/jajangmyeon", "title": "A history of jajangmyeon"}],
    "cost_usd": 1.42,
    "response": {"model": "gpt-6.1-sol", "status": "completed"},
    "error_code": None,
    "error_message": None,
    "created_at": "2026-01-31T12:00:00Z",
    "updated_at": "2026-01-31T12:07:30Z",
}
_EXAMPLE_RUNNING = _EXAMPLE_VIEW | {
    "status": "running",
    "output_text": None,
    "sources": [],
    "cost_usd": None,
    "response": None,
}
_EXAMPLE_FAILED = _EXAMPLE_RUNNING | {
    "status": "failed",
    "upstream_response_id": None,
    "error_code": "submission_indeterminate",
    "error_message": INVOCATION_ERRORS["submission_indeterminate"],
}
_TOKEN = {"invocation_token": "kqX3v1yVY0m3C9bqkZ8p0sR7wJ2nT5uL4aQeGdHfBcA"}
_REQUESTS = {
    "brief": {
        "tool_name": "deep_research",
        "arguments": {"research_question": "How did jajangmyeon come to Korea?", "background": True},
    },
    "everything": {
        "tool_name": "deep_research",
        "arguments": {
            **{name: (field.examples or [None])[0] for name, field in ToolArguments.model_fields.items()},
            "system_prompt": "You write for a museum.",
            "stream": True,
        },
    },
}


def _errors(*codes: ApiErrorCode) -> Responses:
    """One entry for each status, with an example for each code."""
    responses: Responses = {}
    for problem in map(Problem, codes):
        entry = responses.setdefault(problem.status, _answer(ErrorBody, problem.message))
        entry["content"]["application/json"]["examples"][problem.code] = {"value": problem.body.model_dump()}
    return responses


def _answer(model: type[BaseModel], description: str, **examples: JsonObject) -> JsonObject:
    values = {name: {"value": value} for name, value in examples.items()}
    return {"model": model, "description": description, "content": {"application/json": {"examples": values}}}


_ALWAYS: tuple[ApiErrorCode, ...] = ("invalid_http", "host_not_allowed", "internal_error")
_TOKENED: tuple[ApiErrorCode, ...] = (*_ALWAYS, "forbidden", "not_found", "invalid_request", "ledger_unavailable")

VIEW: Responses = {
    200: _answer(Invocation, "The view", completed=_EXAMPLE_VIEW, running=_EXAMPLE_RUNNING, failed=_EXAMPLE_FAILED),
    **_errors(*_TOKENED),
}
WAITED: Responses = {
    **VIEW,
    200: _answer(Invocation, "It has ended", completed=_EXAMPLE_VIEW, failed=_EXAMPLE_FAILED),
    202: _answer(Invocation, "Not yet", running=_EXAMPLE_RUNNING),
}
ACCEPTED: Responses = {
    200: _answer(AcceptedInvocation, "A foreground invocation that has ended", completed=_EXAMPLE_VIEW | _TOKEN),
    202: _answer(AcceptedInvocation, "Accepted; it runs", running=_EXAMPLE_RUNNING | _TOKEN),
    **_errors(
        *_ALWAYS,
        "invalid_json",
        "unauthorized",
        "request_timeout",
        "idempotency_conflict",
        "body_too_large",
        "unsupported_media_type",
        "invalid_request",
        "queue_full",
        "shutting_down",
        "ledger_unavailable",
    ),
}
_EVENTS = (
    "retry: 1000\n\n"
    'id: 1\nevent: status\ndata: {"invocation_id":"inv_...","type":"status","status":"queued",...}\n\n'
    'id: 2\nevent: status\ndata: {"invocation_id":"inv_...","type":"status","status":"running",...}\n\n'
    'id: 3\nevent: output_text\ndata: {"invocation_id":"inv_...","type":"output_text","delta":"# Jaj",...}\n\n'
    'id: 4\nevent: completed\ndata: {"invocation_id":"inv_...","type":"completed","status":"completed",...}\n\n'
)
STREAM: Responses = {
    200: {
        "description": "Server-sent events: `status`, `output_text`, then `completed` or `error` as the last one. "
        "A comment every 15 s keeps the connection alive.",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EVENTS}},
    },
    204: {"description": "`Last-Event-ID` was that of the last event: there is nothing more."},
    **_errors(*_TOKENED),
}
HEALTH: Responses = {
    200: _answer(Health, "Yes", ok={"status": "ok"}),
    **_errors("invalid_http", "internal_error", "ledger_unavailable", "shutting_down"),
}


def describe(app: FastAPI, *, needs_key: bool) -> None:
    """Make `app` tell what it does itself, past the framework: the body of `POST`, and whether that needs a key."""
    app.openapi = cache(lambda: _schema(app, needs_key))  # type: ignore[method-assign]


def _schema(app: FastAPI, needs_key: bool) -> JsonObject:
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, definitions = models_json_schema(
        [(InvocationRequest, "validation")], ref_template="#/components/schemas/{model}"
    )
    schema["components"]["schemas"] |= definitions["$defs"]
    start = schema["paths"][INVOCATIONS_PATH]["post"]
    if not needs_key:
        start["security"] = []
    start["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/InvocationRequest"},
                "examples": {name: {"value": value} for name, value in _REQUESTS.items()},
            }
        },
    }
    return schema
