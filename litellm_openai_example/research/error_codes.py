"""The relay's error codes, and what a person is told of each: why a run did not complete, why a request was refused."""

from __future__ import annotations

from typing import Final, Literal

# Why an invocation did not complete, and what a person is told. `error_code` and `error_message` of the view.
InvocationErrorCode = Literal[
    "submission_indeterminate",
    "gateway_unavailable",
    "gateway_key_rejected",
    "gateway_budget_exceeded",
    "gateway_rejected_request",
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

# Why a request to the relay was not carried out. `error.code` of `ErrorBody`.
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
