"""Replies: the body of a call read, its answer with usage, cost and sources, and errors for one that is not whole.

Longer than other files, because the body and the verdict on its answer are read together.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from ..diagnosis import explain_body
from ..error_table import PAGE, words_of
from ..errors import CutShortError, ErrorKind, GatewayError, one_line
from ..http_library import httpx
from ..json_object import JsonObject
from ..transport.bodies import CUT_SHORT_AT, MAX_ANSWER, too_large
from ..transport.packing import unpacked
from .accumulator import Accumulator
from .answer import Answer, FunctionCall, Source, Usage, as_beginning, read_cost
from .finish_reasons import RUNNING, TERMINAL, Cut, CutKind
from .lenient import read_json, with_whole_characters
from .sse import EventParser

COST_HEADER = "x-litellm-response-cost"
_EVENT_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b"error:", b":")


class RawResponse(Protocol):
    """A raw response of the SDK (`with_raw_response`): `LegacyAPIResponse` or `APIResponse`, which differ by call."""

    @property
    def headers(self) -> httpx.Headers:
        """The headers of the answer; names in any case."""

    @property
    def http_response(self) -> httpx.Response:
        """The HTTP answer; its body may be unread."""

    @property
    def retries_taken(self) -> int:
        """The number of retries by the SDK."""


@dataclass(frozen=True)
class Reply:
    """The reply to a call.

    Attributes:
        answer: everything that was read from the body.
        raw: the gateway's JSON text, unchanged; empty for a stream.
        headers: the headers of the HTTP answer, names in lower case.
        retries: the number of retries before the answer.
        skipped: the number of unreadable lines in a stream, such as a proxy's comments.
    """

    answer: Answer
    raw: str
    headers: Mapping[str, str]
    retries: int = 0
    skipped: int = 0

    @property
    def text(self) -> str:
        """The text of the answer."""
        return self.answer.text

    @property
    def id(self) -> str | None:
        """The id, to continue or retrieve a response; None if the gateway sends none."""
        return self.answer.id

    @property
    def status(self) -> str:
        """completed, incomplete, failed, cancelled, queued or in_progress."""
        return self.answer.status

    @property
    def model(self) -> str | None:
        """The model that answered, as the gateway names it."""
        return self.answer.model

    @property
    def usage(self) -> Usage:
        """Tokens, as the provider counted them."""
        return self.answer.usage

    @property
    def sources(self) -> tuple[Source, ...]:
        """The pages behind the answer, each once, cited ones first."""
        return self.answer.sources

    @property
    def calls(self) -> tuple[FunctionCall, ...]:
        """The functions that the model calls."""
        return self.answer.calls

    @property
    def cost(self) -> float | None:
        """US dollars by LiteLLM, from `x-litellm-response-cost` or (a stream) `usage`; None if unknown.

        LiteLLM reports 0 for a queued response from 1.110 on, although its cost is not known yet. It does not know the
        discount of a window.
        """
        if self.answer.status in RUNNING:
            return None
        cost = response_cost(self.headers)
        return self.answer.usage.cost if cost is None else cost


def response_cost(headers: Mapping[str, str]) -> float | None:
    """Return the US dollars that LiteLLM charges for a call; None if it does not say."""
    return read_cost(headers.get(COST_HEADER))


def key_budget(headers: Mapping[str, str]) -> tuple[float | None, float | None]:
    """Return the US dollars spent with the key, and its budget; None for each that LiteLLM does not give."""
    return _finite(headers.get("x-litellm-key-spend")), _finite(headers.get("x-litellm-key-max-budget"))


def _finite(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def read_reply(raw: RawResponse, kind: type[Accumulator]) -> Reply:
    """Return the reply in a raw response of the SDK, whose body has been read.

    Raises:
        ValueError: the body is not a JSON object.
        GatewayError: the body is a web page, or it exceeds the limit and its beginning has no text.
    """
    content, cut = body_of(raw)
    # By its first bytes alone: some gateways label their JSON as HTML.
    if PAGE.match(content):
        raise GatewayError(
            "the gateway's answer cannot be read: it is a web page",
            kind=ErrorKind.WRONG_ADDRESS,
            hint="check that LITELLM_BASE_URL leads to LiteLLM itself, past a proxy's sign-in page",
        )
    answer, _, reader = read_body(content, kind, beginning=cut)
    if cut:
        too_long = too_large(MAX_ANSWER)
        if not answer.text:
            raise too_long
        answer = as_beginning(answer, too_long.cause)
    skipped = reader.skipped if reader else 0
    return Reply(answer, content.decode("utf-8", "replace"), headers_of(raw), raw.retries_taken, skipped)


def body_of(raw: RawResponse) -> tuple[bytes, bool]:
    """Return the body of a raw response, without a compression that its headers did not name, and whether it is cut.

    Raises:
        httpx.DecodingError: it cannot be decompressed.
    """
    content = raw.http_response.content
    if not content.startswith(b"{"):  # a JSON object is not compressed
        content = unpacked(content, MAX_ANSWER)
    return content, CUT_SHORT_AT in raw.http_response.extensions or len(content) > MAX_ANSWER


def headers_of(raw: RawResponse) -> dict[str, str]:
    """Return the headers of a raw response, names in lower case."""
    return dict(raw.headers.items())  # `items` yields the names in lower case


def require_complete(reply: Reply) -> Reply:
    """Return the reply if it has a whole answer.

    Raises:
        CutShortError: the answer is incomplete, or has a text although the call failed.
        GatewayError: it has no answer.
    """
    answer = reply.answer
    failure = _failure(answer)
    if failure is not None:
        try:
            raise with_text(failure, reply)
        finally:
            # The traceback refers to this frame: a cycle.
            del failure
    # The refusal says more than the filter that stopped it.
    refused = answer.refusal and not answer.text
    if answer.cut_short and not refused and not (answer.calls and not answer.text):
        raise CutShortError(
            f"the answer is cut short: {answer.cut_short}", text=answer.text, raw=reply.raw, response_id=answer.id
        )
    if answer.refusal:
        words = f"the model refused: {one_line(answer.refusal)}"
        raise with_text(GatewayError(words, kind=ErrorKind.REFUSED, response_id=answer.id), reply, words)
    if not answer.text:
        raise GatewayError(_why_empty(answer), response_id=answer.id)
    return reply


def require_submitted(reply: Reply) -> Reply:
    """Return the reply to a background submit if its response can be retrieved. Raises GatewayError otherwise."""
    answer = reply.answer
    if answer.failed:
        return require_complete(reply)
    if not answer.id:
        raise GatewayError(
            "the gateway accepted the background response without an id",
            hint="it cannot be retrieved; check the gateway's log",
            outcome_unknown=True,
        )
    return reply


def with_text(failure: GatewayError, reply: Reply, cause: str = "") -> GatewayError:
    """Return `failure` with the text that the call has brought, if any, as a `CutShortError`."""
    if isinstance(failure, CutShortError) or not reply.text:
        return failure
    return CutShortError(
        cause or f"the answer is cut short: {failure.cause}",
        text=reply.text,
        raw=reply.raw,
        status=failure.status,
        code=failure.code,
        message=failure.message,
        hint=failure.hint,
        kind=failure.kind,
        support_ids=failure.support_ids,
        response_id=reply.answer.id,
    )


def _failure(answer: Answer) -> GatewayError | None:
    if answer.status == "failed" or answer.error_message is not None:
        explained = explain_body({"error": {"code": answer.error_code, "message": answer.error_message}})
        return GatewayError(
            "the response failed" if answer.status == "failed" else "the gateway reported an error",
            kind=ErrorKind.FAILED if explained.kind is ErrorKind.OTHER else explained.kind,
            code=explained.code,
            message=explained.message or "no reason given",
            hint=explained.hint,
            response_id=answer.id,
        )
    cause, kind = "", ErrorKind.UNREADABLE
    if answer.status == "cancelled":
        cause, kind = "the response was cancelled", ErrorKind.CANCELLED
    elif answer.status in RUNNING:
        cause = f"the gateway answered before the response was finished (status {answer.status})"
    elif answer.status and answer.status not in TERMINAL:
        cause = f"the response has an unknown status: {one_line(answer.status)}"
    return GatewayError(cause, kind=kind, response_id=answer.id) if cause else None


def _why_empty(answer: Answer) -> str:
    if answer.calls:
        names = ", ".join(one_line(call.name) or "?" for call in answer.calls)
        return f"the model called a function instead of answering: {names}"
    only = f", only {', '.join(answer.besides)}" if answer.besides else ""
    return f"the answer holds no text{only}"


def read_body(
    content: bytes | str, kind: type[Accumulator], *, beginning: bool = False
) -> tuple[Answer, JsonObject, Accumulator | None]:
    """Read a whole body.

    Gateways may send events without having been asked, lines of JSON, or JSON followed by the end of a stream.

    Args:
        content: the body.
        kind: the accumulator for events of this API.
        beginning: the body is cut off; read the part that is there.

    Returns:
        The answer, its JSON, and the accumulator if it came as events.

    Raises:
        ValueError: the body is neither JSON nor events.
    """
    if looks_like_events(content):
        return _read_events(content, kind)
    try:
        return *_read_json(content, kind, beginning), None
    except ValueError:
        # Lines of JSON, or JSON followed by `[DONE]`: the parser of events reads both.
        answer, body, reader = _read_events(content, kind)
        if not (answer.text or answer.refusal or answer.calls or answer.error_message):
            raise
        return answer, body, reader


def _read_json(content: bytes | str, kind: type[Accumulator], beginning: bool) -> tuple[Answer, JsonObject]:
    try:
        body = read_json(content, beginning=beginning)
        return _or_error(kind.read(body), body), body
    except ValueError:
        body = read_json(with_whole_characters(content), beginning=beginning)
        answer = kind.read(body)
        # A broken byte must not cost the text, but ids and errors need every byte.
        if not answer.text:
            raise
        return answer, body


def _or_error(answer: Answer, body: JsonObject) -> Answer:
    """Return the answer, or an error if it is empty and the body has one in another shape than the API's."""
    silent = answer.status in ("", "completed") and not (answer.text or answer.refusal or answer.calls)
    if not silent or answer.besides or answer.error_message is not None:
        return answer
    return replace(answer, error_message=words_of(body) or None)


def _read_events(content: bytes | str, kind: type[Accumulator]) -> tuple[Answer, JsonObject, Accumulator]:
    reader, parser = kind(), EventParser()
    try:
        for event in parser.feed(content.encode() if isinstance(content, str) else content) + parser.end():
            reader.take(event)
            if reader.ended:
                break
    except GatewayError as error:
        return _failed(reader, error), reader.body(), reader
    # Moves text that was held back into the answer.
    reader.rest()
    answer = reader.answer()
    if not answer.status:
        told = kind.read(reader.body())
        # A background submit that was answered with events.
        if told.status == "queued" and told.id and not answer.text:
            return replace(answer, status=told.status), reader.body(), reader
        if reader.reported is not None:
            return _failed(reader, reader.report()), reader.body(), reader
        answer = replace(answer, status="incomplete", cut_short=Cut(CutKind.BROKEN, reader.why_cut))
    return answer, reader.body(), reader


def _failed(reader: Accumulator, error: GatewayError) -> Answer:
    # The text before the error was paid for, so it stays in the answer.
    message = error.message or error.cause
    return replace(reader.answer(), status="failed", error_code=error.code, error_message=message)


def looks_like_events(content: bytes | str) -> bool:
    """Does a body that should be JSON begin like an event stream?"""
    start = content[:64].encode() if isinstance(content, str) else content[:64]
    return start.removeprefix(codecs.BOM_UTF8).lstrip().lower().startswith(_EVENT_FIELDS)


class Cited(Protocol):
    """A page that an answer cites."""

    @property
    def url(self) -> str: ...
    @property
    def title(self) -> str: ...


def source_list(sources: Iterable[Cited], text: str) -> str:
    """Return a list, under a heading, of the pages that the text does not mention; empty if there are none.

    Nothing in the sources is trusted.
    """
    lines: dict[str, str] = {}
    for source in sources:
        url, title = _one_line(source.url), _one_line(source.title)
        page = url.rstrip("/")
        if page and page not in lines and not _holds(text, page):
            lines[page] = f"- {title}: {url}" if title and title != url else f"- {url}"
    return "\n".join(["Sources:", *lines.values()]) if lines else ""


def _holds(text: str, page: str) -> bool:
    """Does the text have this URL, and not only a longer one that begins with it?"""
    return page in text and re.search(re.escape(page) + r"/?(?![\w/%?&=#~+@:-]|[.,;!]\w)", text, re.ASCII) is not None


def _one_line(text: object) -> str:
    return " ".join(text.split()) if isinstance(text, str) else ""
