"""The ledger's rows as values."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from ...calls.lenient import read_json
from ...json_object import DEEPEST, JsonObject, within_depth
from ...payer import Payer
from ...research.arguments import DeepResearchArguments
from ...research.contract import INVOCATION_ERRORS, TERMINAL, CitedPage, Invocation, TokenUsage, page_url
from ...window import Window, as_window, window_seconds

# The status that readers see for states of the ledger that are not statuses themselves.
_STATUS = {"submitting": "queued", "awaiting": "running"}


@dataclass(frozen=True)
class NewInvocation:
    """An invocation to accept: columns of its row. `tags` holds the headers of its `Payer` as JSON.

    The stored arguments hold the window even if it is the relay's default: any process that takes the run over must
    know it, and one of an older version, which does not, leaves the run to others. The fingerprint covers what the
    client sent, so that its repeats find the run after the default has changed.
    """

    id: str
    idempotency_hash: str | None
    fingerprint: str
    mode: str
    deliverable_format: str
    arguments: str
    tags: str | None = None
    token_hash: str | None = None
    completion_window: str | None = None

    @classmethod
    def of(
        cls,
        arguments: DeepResearchArguments,
        idempotency_key: str | None,
        payer: Payer,
        default_window: Window | None = None,
    ) -> NewInvocation:
        given = arguments.model_dump(exclude_none=True)
        same = json.dumps(given, sort_keys=True)  # equal in any order of the arguments
        window = arguments.window or default_window
        return cls(
            id=f"inv_{secrets.token_hex(16)}",
            idempotency_hash=None if idempotency_key is None else hashlib.sha256(idempotency_key.encode()).hexdigest(),
            fingerprint=hashlib.sha256(same.encode()).hexdigest(),
            mode=arguments.mode,
            deliverable_format=arguments.deliverable_format,
            arguments=json.dumps({**given, "window": window} if window else given),
            tags=json.dumps(payer.headers) if payer.headers else None,
            completion_window=window,
        )


@dataclass(frozen=True)
class Outcome:
    """The end of an invocation: its last state, and the kept part of the answer."""

    state: str
    error_code: str | None = None
    output_text: str | None = None
    response: JsonObject | None = None

    @property
    def columns(self) -> dict[str, object]:
        """The columns of the row that it sets."""
        return {
            "state": self.state,
            "error_code": self.error_code,
            "output_text": self.output_text,
            "response": None if self.response is None else json.dumps(self.response),
            "cost_usd": (self.response or {}).get("cost_usd"),
            "owner": None,
        }


@dataclass(frozen=True)
class Piece:
    """Streamed text: the `seq`-th piece (from 1) begins at character `start`."""

    seq: int
    start: int
    text: str

    @property
    def end(self) -> int:
        return self.start + len(self.text)


@dataclass(frozen=True)
class Record:
    """A row of the ledger; `schema` explains its columns.

    Attributes:
        public_url: the relay's address for people, which no column holds; None if the relay does not know it.
    """

    id: str
    mode: str
    deliverable_format: str
    arguments: str
    state: str
    owner: str | None
    cancel_requested: bool
    attempts: int
    upstream_id: str | None
    output_text: str | None
    response: str | None
    error_code: str | None
    created_at: float
    started_at: float | None
    updated_at: float
    cost_usd: float | None
    tags: str | None
    token_hash: str | None
    unsent: bool | None
    followed: float | None
    stop_reason: str | None
    completion_window: str | None = None
    public_url: str | None = field(default=None, kw_only=True, metadata={"column": False})

    @property
    def finished(self) -> bool:
        return self.state in TERMINAL

    @property
    def status(self) -> Any:
        return _STATUS.get(self.state, self.state)

    @property
    def window(self) -> Window | None:
        return as_window(self.completion_window)

    @property
    def window_ends_at(self) -> float | None:
        """The end of the window in seconds since 1970, counted from the first attempt to submit; None without one."""
        return (self.started_at or self.created_at) + window_seconds(self.window) if self.window else None

    @property
    def payer(self) -> Payer:
        try:
            return Payer.of(json.loads(self.tags or "{}"))
        except ValueError:  # another program wrote it
            return Payer()

    @cached_property
    def view(self) -> Invocation:
        response = _read_response(self.response) if self.response else None
        sources = response.pop("sources", []) if response else []
        if response and self.upstream_id is not None:
            # The id that create returned: the gateway gives another on each reply, and recognizes only the first.
            response = {"id": self.upstream_id, **response}
        return Invocation.model_construct(
            invocation_id=self.id,
            mode=self.mode,
            status=self.status,
            deliverable_format=self.deliverable_format,
            upstream_response_id=self.upstream_id,
            output_text=self.output_text,
            sources=[CitedPage.model_construct(**source) for source in sources],
            cost_usd=response.get("cost_usd") if response else None,
            usage=TokenUsage.read(response.get("usage")) if response else None,
            response=response,
            window=self.window,
            may_take_until=when(self.window_ends_at) if self.window_ends_at and not self.finished else None,
            error_code=self.error_code,
            error_message=_message(self.error_code, response),
            url=None if self.public_url is None else page_url(self.public_url, self.id),
            created_at=when(self.created_at),
            updated_at=when(self.updated_at),
        )

    @cached_property
    def view_json(self) -> bytes:
        return self.view.model_dump_json().encode()


def when(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _read_response(text: str) -> JsonObject:
    """Return a stored response, cut to the depth that can be sent: releases up to 0.2 stored deeper ones."""
    whole = read_json(text)
    response = within_depth(whole) if text.count("[") + text.count("{") > DEEPEST else whole
    return response if response is whole else {**response, "shortened": True}


def _message(code: str | None, response: JsonObject | None) -> str | None:
    text = INVOCATION_ERRORS.get(code) if code else None
    if code == "gateway_rejected_request" and response and response.get("content_type"):
        return (
            "A web page came instead of the gateway's answer, such as the sign-in page of a proxy: check that "
            "LITELLM_BASE_URL leads to LiteLLM itself. Nothing was paid."
        )
    model = response.get("model") if response else None
    if code == "model_unavailable" and model:
        return f"The gateway has no model {model} for the relay's key: check RELAY_MODEL. Nothing was paid."
    return text
