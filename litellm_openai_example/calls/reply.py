"""What a call gives back: the answer with everything that came along, and the verdict whether it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..diagnosis import explain_body
from ..errors import CutShortError, ErrorKind, GatewayError, one_line
from ..transport import headers
from ..transport.bodies import MAX_ANSWER, is_cut, too_large
from ..transport.raw_response import RawResponse
from .answer import Answer, FunctionCall, Usage, as_beginning
from .assembly import Assembly, read_body
from .reasons import RUNNING, TERMINAL
from .sources import Source


@dataclass(frozen=True)
class Reply:
    """One answered call.

    Attributes:
        answer: everything that was read out of it.
        raw: the gateway's JSON text, exactly; empty for a stream.
        headers: of the HTTP answer, lower case.
        retries: how often the call was sent again before it was answered.
        skipped: lines of a stream that could not be read, such as a proxy's comments.
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
        """Its id, by which a response is continued or retrieved; None if the gateway gives none."""
        return self.answer.id

    @property
    def status(self) -> str:
        """completed, incomplete, failed, cancelled, queued or in_progress."""
        return self.answer.status

    @property
    def model(self) -> str | None:
        """The model that answered, by the name the gateway gives it."""
        return self.answer.model

    @property
    def usage(self) -> Usage:
        """Tokens, as the provider counted them."""
        return self.answer.usage

    @property
    def sources(self) -> tuple[Source, ...]:
        """The pages that the answer rests on, each once, cited ones first."""
        return self.answer.sources

    @property
    def calls(self) -> tuple[FunctionCall, ...]:
        """The functions that the model asks for."""
        return self.answer.calls

    @property
    def cost(self) -> float | None:
        """US dollars as LiteLLM reckons them, in `x-litellm-response-cost` or (a stream) in `usage`; None if unknown.

        A job that is queued has cost nothing yet, which LiteLLM calls 0 from 1.110 on.
        """
        if self.answer.status in RUNNING:
            return None
        cost = headers.cost(self.headers)
        return self.answer.usage.cost if cost is None else cost


def read_reply(raw: RawResponse, kind: type[Assembly]) -> Reply:
    """Put a reply together from the SDK's raw response, whose body has been read.

    Raises:
        ValueError: the body is not a JSON object.
        GatewayError: it is a web page; or it is larger than what is read of one answer, and its beginning holds no
            text.
    """
    content, cut = raw.http_response.content, is_cut(raw.http_response)
    if headers.is_web_page({}, content):  # by its first bytes alone: some gateways label their JSON as HTML
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


def headers_of(raw: RawResponse) -> dict[str, str]:
    """The headers of the SDK's raw response, names in lower case."""
    return dict(raw.headers.items())  # which are in lower case there


def require_complete(reply: Reply) -> Reply:
    """The reply, if it holds a whole answer.

    Raises:
        CutShortError: it holds only a part of one, or one that is said to have failed.
        GatewayError: it holds none.
    """
    answer = reply.answer
    failure = _failure(answer)
    if failure is not None:
        raise with_text(failure, reply)
    refused = answer.refusal and not answer.text  # its words say more than the filter that stopped it
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
    """The reply to a background submit, if there is something to pick up."""
    answer = reply.answer
    if answer.failed:
        return require_complete(reply)
    if not answer.id:
        raise GatewayError(
            "the gateway accepted the background response without an id",
            hint="it cannot be picked up; look into the gateway's log",
            outcome_unknown=True,
        )
    return reply


def with_text(failure: GatewayError, reply: Reply, cause: str = "") -> GatewayError:
    """The same failure, with the part of an answer that the call has brought, if it has."""
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
            message=explained.message or "no reason is given",
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
