"""Embeddings without a model: a text always gets the same vector, which is a hash and carries no meaning."""

from __future__ import annotations

import base64
import hashlib
import math
import struct

from ...json_object import JsonObject
from .model import BadRequest, tokens

_DIMENSIONS = 1536
_MOST_DIMENSIONS = 4096
_MOST_INPUTS = 2048


def embeddings(body: JsonObject) -> JsonObject:
    """Answer a request for embeddings. Raises BadRequest."""
    model, size = body.get("model"), body.get("dimensions")
    if not isinstance(model, str) or not model:
        raise BadRequest("you must provide a model parameter")
    size = _DIMENSIONS if size is None else size
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= _MOST_DIMENSIONS:
        raise BadRequest(f"dimensions must be a number from 1 to {_MOST_DIMENSIONS}", param="dimensions")
    texts = _texts(body.get("input"))
    # The SDK requests base64 unless its caller names a format.
    in_base64 = body.get("encoding_format") == "base64"
    used = sum(tokens(text) for text in texts)
    return {
        "object": "list",
        "model": model,
        "data": [
            {"object": "embedding", "index": index, "embedding": _base64(vector) if in_base64 else vector}
            for index, vector in enumerate(_vector(text, size) for text in texts)
        ],
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }


def _texts(given: object) -> list[str]:
    """Return the texts to embed; the input is a text, a list of texts, or token ids in place of either."""
    if isinstance(given, str) or (isinstance(given, list) and given and isinstance(given[0], int)):
        given = [given]
    if not isinstance(given, list) or not 0 < len(given) <= _MOST_INPUTS:
        raise BadRequest(f"input must be a text, or a list of 1 to {_MOST_INPUTS} texts", param="input")
    texts = [one if isinstance(one, str) else str(one) if isinstance(one, list) else "" for one in given]
    if not all(texts):
        raise BadRequest("input must not hold anything but texts that are not empty", param="input")
    return texts


def _vector(text: str, size: int) -> list[float]:
    """Return a vector of length 1 that depends on the text alone."""
    # Not the random module: a text keeps its vector, in every process and with every release of Python.
    noise = hashlib.shake_256(text.encode("utf-8", "surrogatepass")).digest(2 * size)
    numbers = [number / 32768 for number in struct.unpack(f"<{size}h", noise)]
    length = math.hypot(*numbers) or 1.0
    return [number / length for number in numbers]


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
