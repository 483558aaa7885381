"""The API's documentation: `/openapi.json` beyond the routes' signatures, and Swagger UI at `/docs`.

FastAPI's own page loads its script from a public network: offline it is blank, and online a third party's script runs
where keys and tokens are typed. Here the files come from the package fastapi-offline, and the page may not load
anything from elsewhere.
"""

from __future__ import annotations

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
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
from .responses import Problem

Responses = dict[int | str, JsonObject]

# 'unsafe-inline', because FastAPI's page starts Swagger UI by an inline script.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)

docs = APIRouter(include_in_schema=False)
assets = StaticFiles(packages=[("fastapi_offline", "static")])

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
    "usage": {
        "input_tokens": 181200,
        "cached_tokens": 120800,
        "output_tokens": 23400,
        "reasoning_tokens": 17100,
        "total_tokens": 204600,
    },
    "response": {"model": "gpt-6.1-sol", "status": "completed"},
    "error_code": None,
    "error_message": None,
    "url": "https://relay.example.org/runs/inv_5f0c1d6e8b7a4c3f9e2d1a0b6c7d8e9f",
    "created_at": "2026-01-31T12:00:00Z",
    "updated_at": "2026-01-31T12:07:30Z",
}
_EXAMPLE_RUNNING = _EXAMPLE_VIEW | {
    "status": "running",
    "output_text": None,
    "sources": [],
    "cost_usd": None,
    "usage": None,
    "response": None,
}
_EXAMPLE_FAILED = _EXAMPLE_RUNNING | {
    "status": "failed",
    "upstream_response_id": None,
    "error_code": "submission_indeterminate",
    "error_message": INVOCATION_ERRORS["submission_indeterminate"],
}
_TOKEN = {
    "invocation_token": "kqX3v1yVY0m3C9bqkZ8p0sR7wJ2nT5uL4aQeGdHfBcA",
    "url": f"{_EXAMPLE_VIEW['url']}#kqX3v1yVY0m3C9bqkZ8p0sR7wJ2nT5uL4aQeGdHfBcA",
}
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
    """Return an entry for each status, with an example for each code."""
    # Several codes share a status, and OpenAPI has one entry for each status.
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
    200: _answer(Invocation, "The invocation has ended", completed=_EXAMPLE_VIEW, failed=_EXAMPLE_FAILED),
    202: _answer(Invocation, "The invocation has not ended yet", running=_EXAMPLE_RUNNING),
}
ACCEPTED: Responses = {
    200: _answer(AcceptedInvocation, "A foreground invocation has ended", completed=_EXAMPLE_VIEW | _TOKEN),
    202: _answer(AcceptedInvocation, "The invocation was accepted", running=_EXAMPLE_RUNNING | _TOKEN),
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
        "description": "Server-sent events: `status`, `output_text`, and finally `completed` or `error`. "
        "A comment every 15 s keeps the connection alive.",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EVENTS}},
    },
    204: {"description": "`Last-Event-ID` is the id of the last event: no more events will follow."},
    **_errors(*_TOKENED),
}
HEALTH: Responses = {
    200: _answer(Health, "Yes", ok={"status": "ok"}),
    **_errors("invalid_http", "internal_error", "ledger_unavailable", "shutting_down"),
}


def schema_of(app: FastAPI, *, needs_key: bool) -> JsonObject:
    """Return the OpenAPI of `app`, and in it the body of `POST`, and whether that needs a key."""
    schema = FastAPI.openapi(app)
    _, definitions = models_json_schema(
        [(InvocationRequest, "validation")], ref_template="#/components/schemas/{model}"
    )
    # The route parses its body itself, as strict JSON, so FastAPI knows neither its model nor that it has one.
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


@docs.api_route("/docs", methods=["GET", "HEAD"])
async def documentation(request: Request) -> HTMLResponse:
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=request.app.title,
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon.png",
    )
    # Should a release of the page refer to another host after all, the browser refuses to load from it.
    page.headers["Content-Security-Policy"] = _POLICY
    return page
