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
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    computed_field,
    model_validator,
)

# The codes are part of the contract.
from ..json_object import JsonObject
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
MAX_TEXT: Final = 100_000
MAX_ITEMS: Final = 100
MAX_IDEMPOTENCY_KEY: Final = 255
MAX_TEXT_FORMAT_BYTES: Final = 64 * 1024
VISIBLE: Final = "^[!-~]+$"  # what can travel in a path and in a header

DeliverableFormat = Literal["markdown_brief", "markdown_report", "json_outline"]
Mode = Literal["foreground", "background", "stream"]
Status = Literal["queued", "running", "completed", "incomplete", "failed", "cancelled"]
TERMINAL: Final[frozenset[str]] = frozenset({"completed", "incomplete", "failed", "cancelled"})

Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def _check_text_format(given: JsonObject) -> JsonObject:
    if given.get("type") not in ("text", "json_object", "json_schema"):
        raise ValueError("type must be one of: text, json_object, json_schema")
    if given["type"] == "json_schema" and not (
        isinstance(given.get("name"), str) and isinstance(given.get("schema"), dict)
    ):
        raise ValueError("json_schema needs a name and a schema")
    if len(json.dumps(given)) > MAX_TEXT_FORMAT_BYTES:
        raise ValueError(f"must have at most {MAX_TEXT_FORMAT_BYTES} bytes of JSON")
    return given


# `text.format` of the Responses API: the form that the model's text must have. A dict and no model, because the order
# of its keys counts: models write the properties of a JSON schema in the order in which they stand there.
TextFormat = Annotated[
    JsonObject,
    AfterValidator(_check_text_format),
    WithJsonSchema(
        {
            "type": "object",
            "properties": {"type": {"type": "string", "enum": ["text", "json_object", "json_schema"]}},
            "required": ["type"],
            "if": {"properties": {"type": {"const": "json_schema"}}},
            "then": {
                "required": ["name", "schema"],
                "properties": {"name": {"type": "string"}, "schema": {"type": "object"}},
            },
        }
    ),
]


class ToolArguments(_Strict):
    """What a model may set when it calls the tool: its schema is made of these fields and their descriptions."""

    research_question: Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT, pattern=r"\S")] = Field(
        description="The question, complete in itself: the researcher does not see the conversation.",
        examples=["How did jajangmyeon come to Korea?"],
    )
    deliverable_format: DeliverableFormat = Field("markdown_brief", description="Form of the result.")
    context: list[Text] = Field(
        default_factory=list, max_length=MAX_ITEMS, description="Facts from the conversation that the researcher needs."
    )
    constraints: list[Text] = Field(
        default_factory=list,
        max_length=MAX_ITEMS,
        description="Limits to keep to, such as a period, a region or sources to leave out.",
    )
    require_citations: bool = Field(True, description="Whether each finding must name its source.")


class DeepResearchArguments(ToolArguments):
    """What to research, how to deliver it, and what only the caller decides."""

    model_config = ConfigDict(
        json_schema_extra={
            "not": {
                "properties": {"background": {"const": True}, "stream": {"const": True}},
                "required": ["background", "stream"],
            }
        }
    )

    system_prompt: Text | None = Field(None, description="Becomes the model's `instructions`.")
    text_format: TextFormat | None = Field(
        None,
        description=f"Becomes `text.format`; at most {MAX_TEXT_FORMAT_BYTES} bytes of JSON.",
        examples=[{"type": "json_object"}],
    )
    background: bool = Field(False, description="Answer 202 at once. Not together with `stream`.")
    stream: bool = Field(False, description="Answer 202 at once, and relay the text as it comes (see events).")

    @model_validator(mode="after")
    def _one_mode(self) -> DeepResearchArguments:
        if self.background and self.stream:
            raise ValueError("background and stream exclude each other")
        return self

    @property
    def mode(self) -> Mode:
        return "stream" if self.stream else "background" if self.background else "foreground"


class InvocationRequest(_Strict):
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
        "annotations), `usage`, and `cost_usd` as the gateway reckoned it; each may be missing.",
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
