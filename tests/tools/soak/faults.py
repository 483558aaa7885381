"""A provider with random faults and a log of paid requests."""

from __future__ import annotations

import random
import re
import time
from collections import defaultdict

from ...fakes.gateway import Fault, Gateway, Json, Work, message
from .reconcile import Post, answer_to

_QUESTION = re.compile(r"soak question \d+")
_PIECES = 5
_BUSY = {"error": {"message": "try again later"}}


class BadDay:
    """The faults of one gateway.

    Attributes:
        posts: the creates received, by question.
        over: True to behave from now on.
        accept: the longest time in seconds to accept a submission.
    """

    def __init__(self, gateway: Gateway, seed: int) -> None:
        self.posts: dict[str, list[Post]] = defaultdict(list)
        self.over = False
        self.accept: tuple[float, ...] = (0.0, 0.05, 0.3, 1.0)
        self._random = random.Random(seed)
        self._gateway = gateway
        gateway.final = self._final
        gateway.on_post, gateway.on_get, gateway.during_stream = self._on_post, self._on_get, self._during_stream

    def _on_post(self, request: Json, _: int) -> Fault | None:
        gateway, draw = self._gateway, self._random.random
        question = asked(request)
        gateway.accept = self._random.choice(self.accept)
        gateway.seconds = 0.2 if self.over else self._random.uniform(0.1, 4.0)
        text = answer_to(question)
        gateway.pieces = [text[start : start + _PIECES] for start in range(0, len(text), _PIECES)]
        ends_as = (
            "completed" if self.over else self._random.choices(("completed", "incomplete", "failed"), (94, 3, 3))[0]
        )
        fault = self._post_fault(draw()) if not self.over else None
        paid = fault is None or fault.paid
        refused = fault is not None and (fault.status == 429 or fault.kind == "garbage")
        self.posts[question].append(Post(time.monotonic(), paid, fault is None, ends_as, gateway.accept, refused))
        return fault

    def _post_fault(self, drawn: float) -> Fault | None:
        ways = (
            (0.03, Fault("status", 429, _BUSY, {"retry-after": "1"})),
            (0.01, Fault("status", 503, _BUSY)),  # leaves the outcome unknown
            (0.01, Fault("status", 503, _BUSY, paid=True)),
            (0.01, Fault("status", 500, paid=True)),  # LiteLLM's answer if its connection breaks too late
            (0.01, Fault("drop", paid=True)),
            (0.01, Fault("cut", paid=True)),
            (0.01, Fault("empty", paid=True)),
            (0.01, Fault("garbage")),  # a proxy's web page: the provider was not reached
        )
        for share, fault in ways:
            drawn -= share
            if drawn < 0:
                return fault
        return None

    def _on_get(self, _: Work, __: int) -> Fault | None:
        if self.over:
            return None
        ways = (
            (0.03, Fault("status", 500)), (0.02, Fault("drop")), (0.01, Fault("cut")), (0.01, Fault("garbage")),
            (0.01, Fault("status", 429, _BUSY, {"retry-after": "1"})), (0.01, Fault("status", 404)),
            (0.002, Fault("hang")),
        )  # fmt: skip
        drawn = self._random.random()
        for share, fault in ways:
            drawn -= share
            if drawn < 0:
                return fault
        return None

    def _during_stream(self, sent: int) -> Fault | None:
        if self.over or sent < 0 or self._random.random() > 0.01:
            return None
        return Fault(self._random.choice(("drop", "status", "hang")))

    def _final(self, request: Json) -> Json:
        question = asked(request)
        ends_as = self.posts[question][-1].ends_as
        if ends_as == "failed":
            return {"status": "failed", "error": {"code": "server_error", "message": "no"}, "output": []}
        if ends_as == "incomplete":
            return message(answer_to(question)) | {
                "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"},
            }  # fmt: skip
        return message(answer_to(question))


def asked(request: Json) -> str:
    """Return the question in a research request."""
    found = _QUESTION.search(str(request.get("input")))
    assert found is not None
    return found[0]
