"""The relay's API, shared by server and client: routes, headers, request, view, events and error codes.

Every answer is JSON, except the event stream (server-sent events). An event's `data` is JSON too:

=============== ======================== =========================================================
event           data                     sent
=============== ======================== =========================================================
`status`        `StatusEvent`            when the invocation is queued, and when it starts to run
`output_text`   `OutputTextEvent`        for each piece of the text; together they are the text
`completed`     `LastEvent`              once, last: the run is complete
`error`         `LastEvent`              once, last: the run ended incomplete, failed or cancelled
=============== ======================== =========================================================

Besides its own fields, the data of every event has `invocation_id`, `type` (the event's name), `status` and `data`, as
in the public reference implementation, whose clients read `data.text` of a piece, and `data.output_text` or
`data.message` of the final event.

Each event has an `id`. A reader that was cut off sends the last id as `Last-Event-ID` and gets the events after it, or
204 if it has already read the final one. A reader resumes any stream that ends without a final event.

The arguments of a run are in `arguments`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal, Self
from urllib.parse import quote

from pydantic import BaseModel, Field, computed_field

from ..calls.answer import read_usage
from ..json_object import JsonObject
from ..window import FULL_PRICE, Window
from .arguments import DeepResearchArguments, DeliverableFormat, Mode, Strict

INVOCATIONS_PATH: Final = "/api/v1/tool-invocations"
PAGES_PATH: Final = "/runs"
TOKEN_HEADER: Final = "X-Invocation-Token"  # noqa: S105 - the name of a header
IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
LAST_EVENT_HEADER: Final = "Last-Event-ID"

MAX_BODY_BYTES: Final = 1024 * 1024
MAX_IDEMPOTENCY_KEY: Final = 255
VISIBLE: Final = "^[!-~]+$"  # visible ASCII, which paths and headers can carry

Status = Literal["queued", "running", "completed", "incomplete", "failed", "cancelled"]
TERMINAL: Final[frozenset[str]] = frozenset({"completed", "incomplete", "failed", "cancelled"})


# `error_code` and `error_message` of a view: why the invocation did not complete.
InvocationErrorCode = Literal[
    "submission_indeterminate",
    "gateway_unavailable",
    "gateway_key_rejected",
    "gateway_budget_exceeded",
    "gateway_rejected_request",
    "window_refused",
    "model_unavailable",
    "research_timeout",
    "result_unavailable",
    "upstream_failed",
    "upstream_incomplete",
    "upstream_cancelled",
    "output_limit_reached",
    "content_filtered",
    "output_too_large",
    "model_refused",
    "empty_output",
    "cancelled_by_client",
]
INVOCATION_ERRORS: Final[dict[str, str]] = {
    "submission_indeterminate": "It is unknown whether the gateway accepted the research run: no answer to the "
    "submission was recorded. It may have been paid for, so it is not sent again; a new invocation would pay again.",
    "gateway_unavailable": "The gateway could not be reached or took no work until the time limit. Nothing was paid.",
    "gateway_key_rejected": "The gateway does not accept the relay's key. Nothing was paid.",
    "gateway_budget_exceeded": "The budget of the relay's gateway key is spent. Nothing was paid.",
    "gateway_rejected_request": "The gateway refused the request. Nothing was paid.",
    "window_refused": "The model or its provider refuses the discount window. Nothing was paid.",
    "model_unavailable": "The gateway has no such model for the relay's key. Nothing was paid.",
    "research_timeout": "The research run did not end within the relay's time limit, so the relay had it stopped.",
    "result_unavailable": "The gateway accepted the research run but can no longer give its result.",
    "upstream_failed": "The provider reports that the research run failed.",
    "upstream_incomplete": "The provider stopped the research run early; the text is only a part.",
    "upstream_cancelled": "The research run was cancelled at the provider.",
    "output_limit_reached": "The length limit was reached; the text is only a part.",
    "content_filtered": "The provider's content filter stopped the research run; the text is only a part.",
    "output_too_large": "The text is larger than the relay stores; it is cut off.",
    "model_refused": "The model refused to do the research.",
    "empty_output": "The provider reports a completed research run without any text.",
    "cancelled_by_client": "The invocation was cancelled on request.",
}
# The failures of a run that was certainly not executed, so that another one pays nothing twice.
NEVER_EXECUTED: Final = frozenset(
    {"gateway_unavailable", "gateway_key_rejected", "gateway_budget_exceeded", "gateway_rejected_request"}
    | {"window_refused", "model_unavailable"}
)

# `error.code` of an `ErrorBody`, with the HTTP status and the message: why the relay refused a request.
ApiErrorCode = Literal[
    "invalid_http",
    "invalid_json",
    "invalid_request",
    "host_not_allowed",
    "unauthorized",
    "forbidden",
    "not_found",
    "method_not_allowed",
    "request_timeout",
    "idempotency_conflict",
    "body_too_large",
    "unsupported_media_type",
    "queue_full",
    "shutting_down",
    "ledger_unavailable",
    "internal_error",
]
API_ERRORS: Final[dict[str, tuple[int, str]]] = {
    "invalid_http": (400, "The request is not valid HTTP/1.1, or ambiguous about its host or its length."),
    "invalid_json": (400, "The body is not valid JSON (RFC 8259, UTF-8)."),
    "invalid_request": (422, "The request does not have the documented form."),
    "host_not_allowed": (400, "This relay serves this machine only: the Host header must name it."),
    "unauthorized": (401, "Authorization: Bearer with the relay's key is required."),
    "forbidden": (403, "X-Invocation-Token is missing or does not belong to this invocation."),
    "not_found": (404, "There is nothing here."),
    "method_not_allowed": (405, "This method is not available here."),
    "request_timeout": (408, "The body did not arrive in time."),
    "idempotency_conflict": (409, "This Idempotency-Key was used with other arguments."),
    "body_too_large": (413, "The body is too large."),
    "unsupported_media_type": (415, "The body must be application/json, without a content encoding."),
    "queue_full": (503, "Too many invocations are queued. Nothing was accepted; try again later."),
    "shutting_down": (503, "The relay is shutting down. Nothing was accepted; try again."),
    "ledger_unavailable": (503, "The relay's database does not answer at the moment; try again."),
    "internal_error": (500, "The relay failed. Please report it."),
}


def page_url(base_url: str, invocation_id: str) -> str:
    """Return the address of the page that shows a run to a person, at a relay's base URL without a slash at its end."""
    return f"{base_url}{PAGES_PATH}/{quote(invocation_id, safe='')}"


def with_token(url: str, token: str) -> str:
    """Return the address of a page with a run's token as its fragment, which browsers send to no server."""
    return f"{url.partition('#')[0]}#{quote(token, safe='')}"


class InvocationRequest(Strict):
    """The body of `POST /api/v1/tool-invocations`."""

    tool_name: Literal["deep_research"]
    arguments: DeepResearchArguments


class CitedPage(BaseModel):
    """A page that the report cites."""

    url: str
    title: str = Field("", description="Empty if the provider gives none.")


class TokenUsage(BaseModel):
    """The tokens of a run as the provider counted them; null for each that it does not report."""

    input_tokens: int | None = None
    cached_tokens: int | None = Field(
        None, description="The part of the input tokens that came from the provider's prompt cache."
    )
    output_tokens: int | None = None
    reasoning_tokens: int | None = Field(
        None, description="The part of the output tokens that the model spent on reasoning."
    )
    total_tokens: int | None = None

    @classmethod
    def read(cls, usage: object) -> Self | None:
        """Return the tokens in the `usage` of a response; None if it counts none."""
        counted = read_usage(usage)
        counts = {name: count for name in cls.model_fields if (count := getattr(counted, name)) is not None}
        return cls(**counts) if counts else None


class Invocation(BaseModel):
    """The view of an invocation."""

    invocation_id: str = Field(pattern=VISIBLE, examples=["inv_5f0c1d6e8b7a4c3f9e2d1a0b6c7d8e9f"])
    tool_name: Literal["deep_research"] = "deep_research"
    mode: Mode
    status: Status
    deliverable_format: DeliverableFormat
    upstream_response_id: str | None = Field(
        None,
        description="The gateway's id of the response, as create returned it; opaque, up to some 1,200 characters.",
    )
    output_text: str | None = Field(
        None, description="The report once the invocation has ended; only a part unless it is completed."
    )
    sources: list[CitedPage] = Field(
        default_factory=list, description="The pages that the text cites, each once, in the order of their first use."
    )
    cost_usd: float | None = Field(
        None,
        description="US dollars as computed by the gateway; null while unknown, in every mode. With a `window`: "
        f"{FULL_PRICE}.",
    )
    window: Window | None = Field(None, description="The discount window of the run, requested or the relay's default.")
    may_take_until: datetime | None = Field(None, description="The end of that window, until the invocation ends.")
    usage: TokenUsage | None = Field(None, description="The tokens of the run; null while unknown.")
    response: JsonObject | None = Field(
        None,
        description="The provider's final response: `id`, `model`, `status`, `output` items (with citations in their "
        "annotations), `usage`, and `cost_usd` as computed by the gateway; each may be missing. `shortened` is true if "
        "parts were left out because they are too large or nested too deeply.",
    )
    error_code: InvocationErrorCode | None = None
    error_message: str | None = None
    url: str | None = Field(
        None,
        repr=False,
        description="The page that shows the run to a person; null if the relay does not know its public address. In "
        "the answer of `POST` its fragment is the token.",
        examples=["https://relay.example.org/runs/inv_5f0c1d6e8b7a4c3f9e2d1a0b6c7d8e9f"],
    )
    created_at: datetime
    updated_at: datetime

    @property
    def finished(self) -> bool:
        """Is the status terminal?"""
        return self.status in TERMINAL


class AcceptedInvocation(Invocation):
    """The view as returned by `POST`, the only answer with the token that reads and cancels the invocation."""

    invocation_token: str = Field(repr=False, pattern=VISIBLE)


class StatusEvent(BaseModel):
    """Data of a `status` event."""

    invocation_id: str
    type: Literal["status"] = "status"
    status: Literal["queued", "running"]
    data: dict[str, str] = Field(default_factory=dict)
    upstream_response_id: str | None = None
    updated_at: datetime


class OutputTextEvent(BaseModel):
    """Data of an `output_text` event; `delta` begins at character `offset` of the text."""

    invocation_id: str
    type: Literal["output_text"] = "output_text"
    status: Status = "running"
    offset: int
    delta: str

    @computed_field  # type: ignore[prop-decorator]
    @property
    def data(self) -> dict[str, str]:
        return {"text": self.delta}


class LastEvent(Invocation):
    """Data of a `completed` or an `error` event: the final view of the invocation."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def type(self) -> Literal["completed", "error"]:
        return "completed" if self.status == "completed" else "error"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def data(self) -> dict[str, str]:
        if self.status == "completed":
            return {"output_text": self.output_text or ""}
        return {"message": self.error_message or ""}


class ErrorDetail(BaseModel):
    """One problem of a request; `where` is a path such as `arguments.context.0`."""

    where: str
    problem: str


class ApiError(BaseModel):
    """The reason of a refusal."""

    code: ApiErrorCode
    message: str
    details: list[ErrorDetail] = Field(default_factory=list)


class ErrorBody(BaseModel):
    """The body of every answer with a status of 400 or more."""

    error: ApiError


class Health(BaseModel):
    """The body of a health check."""

    status: Literal["ok", "ready"]
