"""Answers that come in pieces, put together. What is done for a piece costs no more when much has arrived before."""

from __future__ import annotations

from dataclasses import replace

from ..errors import GatewayError
from ..json_object import JsonObject
from .answer import Answer
from .chat_stream import ChatStream
from .lenient import read_json, with_whole_characters
from .reasons import Cut, CutKind
from .response_stream import ResponseStream
from .sse import EventParser, data_of, looks_like_events

CUT = "the stream ended before the answer was complete"
Assembly = ChatStream | ResponseStream


def _read_json_body(content: bytes | str, kind: type[Assembly], beginning: bool) -> tuple[Answer, JsonObject]:
    try:
        body = read_json(content, beginning=beginning)
        return kind.read(body), body
    except ValueError:
        body = read_json(with_whole_characters(content), beginning=beginning)
        answer = kind.read(body)
        if not answer.text:  # one broken byte is no reason to lose the text around it, but ids and errors need all
            raise
        return answer, body


def read_body(content: bytes | str, kind: type[Assembly], *, beginning: bool = False) -> tuple[Answer, JsonObject]:
    """An answer that came in one piece, and its JSON; also where a gateway sends events though none were asked for.

    Raises:
        ValueError: it is neither.
    """
    if not looks_like_events(content):
        return _read_json_body(content, kind, beginning)
    reader, parser = kind(), EventParser()
    try:
        for event in parser.feed(content.encode() if isinstance(content, str) else content) + parser.end():
            reader.feed(data_of(event))
            if event.is_last:
                reader.end()
            if reader.ended:
                break
    except GatewayError as error:
        message = error.message or error.cause
        answer = replace(reader.answer(), status="failed", error_code=error.code, error_message=message)
        return answer, reader.body()
    answer = reader.answer()
    if not answer.status:
        answer = replace(answer, status="incomplete", cut_short=Cut(CutKind.BROKEN, CUT))
    return answer, reader.body()
