"""The relay's API as both sides see it: routes, headers, request, view, events and error codes.

Every answer is JSON, except the event stream (server-sent events). An event's `data` is JSON too:

=============== ======================== =========================================================
event           data                     sent
=============== ======================== =========================================================
`status`        `StatusEvent`            when the invocation is queued, and when it starts to run
`output_text`   `OutputTextEvent`        for each piece of the text; together they are the text
`completed`     `LastEvent`              once, last: the run is complete
`error`         `LastEvent`              once, last: the run ended incomplete, failed or cancelled
=============== ======================== =========================================================

Beside its own fields every event's data has `invocation_id`, `type` (the event's name), `status` and `data`, the form
of the public reference implementation: its clients read `data.text` of a piece, `data.output_text` or `data.message`
of the end.

Each event has an `id`. A reader that was cut off sends the last one as `Last-Event-ID` and gets what followed; one
that has had the last event already is answered 204. A stream that ends without a last event is to be taken up again.

What a run is told stands in `arguments`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, Field, computed_field

from ..json_object import JsonObject
from .arguments import DeepResearchArguments, DeliverableFormat, Mode, Strict

# The codes are part of the contract.
from .error_codes import API_ERRORS as API_ERRORS
from .error_codes import INVOCATION_ERRORS as INVOCATION_ERRORS
from .error_codes import ApiErrorCode as ApiErrorCode
from .error_codes import InvocationErrorCode as InvocationErrorCode

INVOCATIONS_PATH: Final = "/api/v1/tool-invocations"
TOOL_NAME: Final = "deep_research"
TOKEN_HEADER: Final = "X-Invocation-Token"  # noqa: S105 - the name of a header
IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
LAST_EVENT_HEADER: Final = "Last-Event-ID"

MAX_BODY_BYTES: Final = 1024 * 1024
MAX_IDEMPOTENCY_KEY: Final = 255
VISIBLE: Final = "^[!-~]+$"  # what can travel in a path and in a header

Status = Literal["queued", "running", "completed", "incomplete", "failed", "cancelled"]
TERMINAL: Final[frozenset[str]] = frozenset({"completed", "incomplete", "failed", "cancelled"})


class InvocationRequest(Strict):
    """The body of `POST /api/v1/tool-invocations`."""

    tool_name: Literal["deep_research"]
    arguments: DeepResearchArguments


class Source(BaseModel):
    """A page that the report cites."""

    url: str
    title: str = Field("", description="Empty where the provider gives none.")


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
    sources: list[Source] = Field(
        default_factory=list, description="The pages that the text cites, each once, in the order of their first use."
    )
    cost_usd: float | None = Field(
        None, description="US dollars, as the gateway reckons them; null while it is unknown, in every mode."
    )
    response: JsonObject | None = Field(
        None,
        description="The provider's final response: `id`, `model`, `status`, `output` items (with citations in their "
        "annotations), `usage`, and `cost_usd` as the gateway reckoned it; each may be missing. `shortened` is true if "
        "parts were left out because they are too large or nested too deeply.",
    )
    error_code: InvocationErrorCode | None = None
    error_message: str | None = None
    created_at: datetime
    updated_at: datetime

    @property
    def finished(self) -> bool:
        return self.status in TERMINAL


class AcceptedInvocation(Invocation):
    """The view as `POST` returns it: the one answer that holds the token which reads and cancels it."""

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
    """Data of an `output_text` event: `delta` begins at character `offset` of the text."""

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
    """Data of a `completed` or an `error` event: the view of the invocation, which has ended."""

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
    """One thing that is wrong with a request; `where` is a path like `arguments.context.0`."""

    where: str
    problem: str


class ApiError(BaseModel):
    code: ApiErrorCode
    message: str
    details: list[ErrorDetail] = Field(default_factory=list)


class ErrorBody(BaseModel):
    """Every answer with a status of 400 or more."""

    error: ApiError


class Health(BaseModel):
    status: Literal["ok", "ready"]
