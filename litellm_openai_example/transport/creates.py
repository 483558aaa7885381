"""The body of a create as LiteLLM must get it, so that the provider gets all of it.

LiteLLM drops some fields of a create without an error. It merges the body's own `extra_body` object, its documented
way to reach a provider, into what it sends, so each of those fields is copied there as well. A provider that LiteLLM
bridges to another API gets them too, and refuses what it does not know: better than to pay for less than was asked for.

A background create asks the provider to store the response: in some projects OpenAI deletes one without an explicit
`store: true` ten minutes after its end, read or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import openai
from openai import Omit, omit

from ..diagnosis import explain
from ..errors import ErrorKind
from ..json_object import JsonObject

# The fields that LiteLLM drops, by the path of the create. tests/e2e/test_fields_real.py finds them by posting every
# field of the SDK's methods. 1.108.12 drops all of them; 1.110.2 passes `moderation` and `prompt_cache_retention` on.
DROPPED: Mapping[str, tuple[str, ...]] = {
    "/responses": ("access_programs", "background_options", "conversation", "image", "moderation"),
    "/chat/completions": ("prompt_cache_retention",),
}


class Create:
    """One call of the SDK: where it is a create, its body is completed.

    Args:
        options: the SDK's options of the call. A body that is not a JSON object, and any other call, are left alone.
    """

    def __init__(self, options: Any) -> None:
        self._options = options
        self._stored = False
        path = _path(options)
        body = _body(options) if path else None
        if path and body is not None:
            self._stored = _wants_store(path, body)
            if self._stored:
                self._add(store=True)
            elif "store" in body and body["store"] is None:  # the provider is to decide, as without the field
                self._add(store=omit)
            inner = inner_body(path, body)
            if inner is not None:
                self._add(extra_body=inner)

    def drop_refused_store(self, error: openai.APIStatusError) -> bool:
        """Take `store` out of the body if it was added here and `error` refuses it; return True if the call may repeat.

        Such an error is a 400 or 422: the request was not executed.
        """
        if not self._stored or explain(error).kind is not ErrorKind.UNSUPPORTED_STORE:
            return False
        self._stored = False
        self._add(store=omit)
        return True

    def _add(self, **fields: object) -> None:
        self._options.extra_json = {**(self._options.extra_json or {}), **fields}


def inner_body(path: str, body: JsonObject) -> JsonObject | None:
    """Return the `extra_body` of a body, with the fields that LiteLLM drops; None if the body may stay as it is.

    Args:
        path: a key of `DROPPED`.
        body: what the caller put into its `extra_body` wins.
    """
    inner = body.get("extra_body")
    carried = {name: body[name] for name in DROPPED[path] if body.get(name) is not None}
    if path == "/chat/completions" and body.get("store") is True and isinstance(body.get("metadata"), Mapping):
        # On this path `metadata` is LiteLLM's own (tags, trace ids), and goes no further. A provider takes texts alone,
        # and only with a completion that it stores.
        carried["metadata"] = {name: value for name, value in body["metadata"].items() if isinstance(value, str)}
    if not carried or not isinstance(inner, Mapping | None):
        return None
    return {**carried, **(inner or {})}


def _path(options: Any) -> str | None:
    if str(getattr(options, "method", "")).upper() != "POST":
        return None
    path = "/" + str(options.url).partition("?")[0].strip("/")
    return next((known for known in DROPPED if path.endswith(known)), None)


def _body(options: Any) -> JsonObject | None:
    """The JSON object that the SDK would send: the fields of the method, and its `extra_body` over them."""
    fields, further = options.json_data or {}, options.extra_json or {}
    if not isinstance(fields, Mapping) or not isinstance(further, Mapping):
        return None
    return {name: value for name, value in {**fields, **further}.items() if not isinstance(value, Omit)}


def _wants_store(path: str, body: JsonObject) -> bool:
    inner = body.get("extra_body")
    said = "store" in body or (isinstance(inner, Mapping) and "store" in inner)
    return path == "/responses" and body.get("background") is True and not said
