"""What a create call sends: a prompt, the options of a method, and any further field of the API, as one flat dict.

This is the one place that knows fields by name. Those that the SDK's method knows become its arguments, all others
go into the body as they are, so that neither the SDK nor this package has to know a field before it can be used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TypeVar

from ..config import header_value, is_unicode
from ..json_object import JsonObject

T = TypeVar("T")

Tools = list[JsonObject]

# Fields that a method sets itself, and how to have them otherwise.
RESERVED = {
    "input": "the prompt",
    "messages": "the prompt",
    "stream": "the method (stream_response, stream_chat_completion)",
    "background": "create_response and respond",
    "previous_response_id": "the methods of the Responses API",
    "num_retries": "the rule that nothing is paid for twice",
}
SEARCH, OLD_SEARCH = "web_search", "web_search_preview"


def chat_request(model: str, content: object, instructions: str | None, fields: Mapping[str, object]) -> JsonObject:
    """The fields of a chat completion for one prompt; see `response_request`."""
    messages = [{"role": "system", "content": instructions}] if instructions else []
    return {"model": model, "messages": [*messages, {"role": "user", "content": content}]} | further(fields)


def response_request(
    model: str,
    input: object,
    *,
    fields: Mapping[str, object],
    tools: Tools | None = None,
    previous_response_id: str | None = None,
    instructions: str | None = None,
    background: bool = False,
) -> JsonObject:
    """The fields of a response; what is not given is not sent.

    Args:
        input: the prompt, or a list of items.
        fields: further ones, as the API has them.

    Raises:
        ValueError: one of the further fields is set by the method itself.
    """
    given = {
        "tools": tools,
        "previous_response_id": previous_response_id,
        "instructions": instructions,
        "background": background or None,
    }
    request = {"model": model, "input": input} | {name: value for name, value in given.items() if value is not None}
    return request | further(fields)


def further(fields: Mapping[str, object], **taken: str) -> JsonObject:
    """Return `fields`, if a caller may set them.

    Args:
        fields: of a create call; `extra_body`, `extra_query` and `extra_headers` are those of the SDK.
        taken: further fields that are set otherwise, and by what.

    Raises:
        ValueError: one of them may not be set, inside `extra_body` too, and inside the `extra_body` of that: LiteLLM
            puts what it holds over the fields of the body.
    """
    reserved = {**RESERVED, **taken}
    level: object = fields
    while isinstance(level, Mapping):
        for name in level:
            if name in reserved:
                raise ValueError(f"{name} is set by {reserved[name]}")
        level = level.get("extra_body")
    return dict(fields)


def create(method: Callable[..., T], request: JsonObject, **more: object) -> T:
    """Call a `create` of the SDK with the fields of a request, those that it does not know in `extra_body`.

    Texts go there too, unless the method demands them: the SDK would hold each against all that its field can be (the
    hundred names of `model`, the forms of `input`), for a tenth of the time of a call.
    """
    known, demanded = _parameters(inspect.unwrap(method))
    body = {
        name: value for name, value in request.items() if name not in (demanded if isinstance(value, str) else known)
    }
    if body:
        arguments = {name: value for name, value in request.items() if name not in body}
        request = {**arguments, "extra_body": {**body, **(arguments.get("extra_body") or {})}}
    return method(**request, **more)


def foreign_fields(method: Callable[..., object], fields: Mapping[str, object]) -> list[str]:
    """Return the names of those fields that a `create` of the SDK does not have."""
    known, _ = _parameters(inspect.unwrap(method))
    return [name for name in fields if name not in known]


@cache
def _parameters(function: Callable[..., object]) -> tuple[frozenset[str], frozenset[str]]:
    """The names of all parameters, and of those that have no default."""
    parameters = inspect.signature(function).parameters
    return frozenset(parameters), frozenset(
        n for n, parameter in parameters.items() if parameter.default is parameter.empty
    )


def renamed_search(tools: Sequence[object] | None) -> Tools | None:
    """`tools` with web search by its newer name, for a model that refused the older one; None if none bears it."""
    found = [dict(tool) for tool in tools or () if isinstance(tool, Mapping)]
    if not any(tool.get("type") == OLD_SEARCH for tool in found):
        return None
    return [{**tool, "type": SEARCH} if tool.get("type") == OLD_SEARCH else tool for tool in found]


def check_prompt(prompt: object, name: str = "prompt") -> str:
    """`prompt`, if it can be sent.

    Raises:
        ValueError: it is not a text, is blank, or is no valid Unicode.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"the {name} is empty")
    if not is_unicode(prompt):
        raise ValueError(f"the {name} is not valid Unicode (half of a surrogate pair)")
    return prompt


def check_response_id(response_id: object) -> str:
    """`response_id`, if it can stand in a URL: whole, without white space.

    Raises:
        ValueError: it is not a text, or is blank or broken.
    """
    if not isinstance(response_id, str) or not response_id.strip():
        raise ValueError("the response id is empty")
    return header_value(response_id, "the response id")
