"""A conversation with function calls as plain data: calls, turns, the next request, and the result."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property

from ..calls.answer import Source, Usage
from ..calls.reply import Reply, source_list
from ..calls.requests import OLD_SEARCH, response_request
from ..json_object import JsonObject
from ..payer import Payer
from ..window import Window
from .arguments import TOOL, TOOL_NAME, parse_arguments

MAX_ROUNDS = 4
UNCONFIRMED = "unconfirmed"  # the status of a call whose `POST` may have been accepted


@dataclass(frozen=True)
class Turn:
    """One answer of the model; `cost` in US dollars, None if the gateway does not report it; `seconds` it took."""

    response_id: str | None
    model: str | None
    usage: Usage
    cost: float | None
    seconds: float


@dataclass
class ToolCall:
    """One function call of the model, and its result.

    Attributes:
        response_id: of the answer with the call.
        call_id: of the call, as the model made it.
        name: of the function.
        arguments: JSON text from the model, unchecked.
        round: the turn that it belongs to, from 1.
        output: the text that the model receives; None while the call is not answered.
        status: pending, refused (not sent to a relay), unconfirmed (perhaps accepted), failed, or that of the
            invocation.
        invocation_id: of the run; None unless a relay accepted it.
        invocation_token: reads and cancels the run; None unless a relay accepted it.
        upstream_response_id: the gateway's id of the run's response.
        summary: the text of the report, empty without one.
        sources: the pages that the report cites.
        error: the reason of the failure; None for a complete run.
        model: of the run; None if the relay does not report it.
        usage: tokens of the run.
        cost: of the run, in US dollars; None if the relay does not report it.
        seconds: duration of the run; None if the relay does not report it.
        window: the discount window of the run. The cost does not know the discount.
    """

    response_id: str
    call_id: str
    name: str
    arguments: str
    round: int = 0
    output: str | None = None
    status: str = "pending"
    invocation_id: str | None = None
    invocation_token: str | None = field(default=None, repr=False)
    upstream_response_id: str | None = None
    summary: str = ""
    sources: list[Source] = field(default_factory=list)
    error: str | None = None
    model: str | None = None
    usage: Usage = field(default_factory=Usage)
    cost: float | None = None
    seconds: float | None = None
    window: Window | None = None

    @cached_property
    def key(self) -> str:
        """The idempotency key: the same call of the same response never starts a second run.

        It covers the arguments, because some gateways give several calls the same id.
        """
        return call_key(self.response_id, self.call_id, self.name, self.arguments)

    @property
    def report(self) -> str:
        """The text of the report, followed by the cited pages that it does not name; empty without a report."""
        if not self.summary:
            return ""
        listed = source_list(self.sources, self.summary)
        return f"{self.summary.rstrip()}\n\n{listed}" if listed else self.summary

    @property
    def unread(self) -> bool:
        """Has a relay accepted the run, but its final view has not been read?"""
        return self.invocation_id is not None and self.seconds is None

    def copy_result(self, twin: ToolCall) -> None:
        """Copy the result of an identical call."""
        own = {"response_id", "call_id", "name", "arguments", "round"}
        for name in {one.name for one in fields(self)} - own:
            setattr(self, name, getattr(twin, name))


def call_key(response_id: str, call_id: str, name: str, arguments: str) -> str:
    """Return the key of a call; equal arguments give the same key however the model formatted them."""
    with suppress(ValueError):
        arguments = json.dumps(parse_arguments(arguments), sort_keys=True)
    return hashlib.sha256("\n".join((response_id, call_id, name, arguments)).encode()).hexdigest()


@dataclass(frozen=True)
class ToolCallingResult:
    """The answer and the calls behind it; the fields about one call are those of the last deep_research.

    Attributes:
        final_text: the answer.
        tool_called: True if a relay accepted a research run.
        response_id: of the last turn.
        previous_response_id: of the response that the last turn continued; None if it began the conversation.
        response_status: of the last turn.
        tool_name: deep_research; None if the model did not call it.
        tool_call_id: of the last call of deep_research, accepted or not.
        invocation_id: of its run; None unless a relay accepted it.
        invocation_token: reads and cancels its run; None unless a relay accepted it.
        upstream_response_id: the gateway's id of its run's response.
        research_summary: the texts of all reports with their sources; None without a report.
        calls: all function calls, with the errors of those that failed.
        sources: the pages that the answer and the reports cite, each once.
        cost: of all turns and runs, in US dollars; None unless the cost of each is known.
        turns: model, tokens, cost and time of every turn; those of a run are on its call.
        session_id: the id of all these calls, including those of the runs, in LiteLLM's logs.
    """

    final_text: str
    tool_called: bool
    response_id: str | None
    previous_response_id: str | None
    response_status: str
    tool_name: str | None = None
    tool_call_id: str | None = None
    invocation_id: str | None = None
    invocation_token: str | None = field(default=None, repr=False)
    upstream_response_id: str | None = None
    research_summary: str | None = None
    calls: tuple[ToolCall, ...] = ()
    sources: tuple[Source, ...] = ()
    cost: float | None = None
    turns: tuple[Turn, ...] = ()
    session_id: str | None = None

    @property
    def research_failed(self) -> bool:
        """Did the model call for research and get none, because every call was refused or its run failed?"""
        return self.tool_name is not None and self.research_summary is None

    @property
    def research_errors(self) -> tuple[str, ...]:
        """The errors of the deep_research calls, without duplicates."""
        called = (call for call in self.calls if call.name == TOOL_NAME)
        return tuple(dict.fromkeys(call.error for call in called if call.error))


@dataclass
class Conversation:
    """The whole state of a conversation as plain data, with which another process can continue it."""

    model: str
    prompt: str
    instructions: str | None = None
    web_search: bool = False
    previous_response_id: str | None = None
    response_id: str | None = None
    rounds: int = 0
    bridged: bool | None = None
    calls: list[ToolCall] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    search_tool: JsonObject = field(default_factory=lambda: {"type": OLD_SEARCH})
    fields: JsonObject = field(default_factory=dict)  # further fields of the create call
    session_id: str = field(default_factory=lambda: uuid.uuid4().hex)  # of all its calls and research runs
    window: Window | None = None  # discount window of the research runs
    # Messages before the prompt, for a model that cannot be given `previous_response_id`.
    earlier: list[JsonObject] = field(default_factory=list)

    def save(self) -> JsonObject:
        """Return the conversation as JSON data."""
        return asdict(self)

    @classmethod
    def load(cls, data: JsonObject) -> Conversation:
        """Return a saved conversation. Raise TypeError or KeyError if another version saved it."""
        calls = [
            ToolCall(
                **{**call, "sources": [Source(**page) for page in call["sources"]], "usage": Usage(**call["usage"])}
            )
            for call in data["calls"]
        ]
        turns = [Turn(**{**turn, "usage": Usage(**turn["usage"])}) for turn in data["turns"]]
        return cls(**{**data, "calls": calls, "turns": turns})

    def run_payer(self, payer: Payer) -> Payer:
        """Return the payer of the research runs: the payer of the model's calls, within this session."""
        return payer._replace(session_id=self.session_id)

    @property
    def pending(self) -> list[ToolCall]:
        """The unanswered calls of the last turn."""
        return [call for call in self.calls if call.output is None]

    @property
    def research(self) -> str:
        """The texts of all reports, each once."""
        return "\n\n".join({call.key: call.report for call in self.calls if call.summary}.values())

    @property
    def cost(self) -> float | None:
        """The cost of all turns and runs, in US dollars; None unless the cost of each is known."""
        # Identical calls share one run, which is paid once.
        runs = {call.invocation_id: call.cost for call in self.calls if call.invocation_id}
        # A sum that misses a part would look like the whole cost.
        costs = [*(turn.cost for turn in self.turns), *runs.values()]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if known and len(known) == len(costs) else None

    def request(self) -> JsonObject:
        """Return the arguments of the next `responses.create`."""
        previous = self.previous_response_id
        # The gateway stores the conversation, so the first request has the prompt and later ones only the outputs.
        given: object = self.prompt
        if self.calls and self.response_id is not None and not self.bridged:
            previous = self.response_id
            given = [_output(call) for call in self.calls if call.round == self.rounds]
        # A bridged model ignores the id, so it gets the whole conversation every time.
        elif self.calls or (self.bridged and self.earlier):
            messages = [*self.earlier, {"role": "user", "content": self.prompt}]
            items = [{"type": "message", **message} for message in messages]
            given = [*items, *map(_call, self.calls), *map(_output, self.calls)]
            previous = None if self.earlier else previous
        request = response_request(
            self.model,
            given,
            tools=[TOOL, *([self.search_tool] if self.web_search else [])],
            previous_response_id=previous,
            instructions=self.instructions,
            fields=self.fields,
        )
        # A model that keeps calling functions must answer in the end.
        return {**request, "tool_choice": "none"} if self.rounds >= MAX_ROUNDS else request

    def result(self, reply: Reply, previous: str | None) -> ToolCallingResult:
        """Return the result. `reply` is the last turn, and `previous` the id of the response before it, if any."""
        runs = [call for call in self.calls if call.name == TOOL_NAME]
        last = runs[-1] if runs else None
        return ToolCallingResult(
            final_text=reply.text,
            tool_called=any(call.invocation_id for call in runs),
            response_id=reply.answer.id,
            previous_response_id=previous or self.previous_response_id,
            response_status=reply.answer.status or "completed",
            tool_name=last.name if last else None,
            tool_call_id=last.call_id if last else None,
            invocation_id=last.invocation_id if last else None,
            invocation_token=last.invocation_token if last else None,
            upstream_response_id=last.upstream_response_id if last else None,
            research_summary=self.research or None,
            calls=tuple(self.calls),
            sources=_each_once([*reply.answer.sources, *(page for call in runs for page in call.sources)]),
            cost=self.cost,
            turns=tuple(self.turns),
            session_id=self.session_id,
        )


def _each_once(sources: Iterable[Source]) -> tuple[Source, ...]:
    titles: dict[str, str] = {}
    for source in sources:
        titles[source.url] = titles.get(source.url) or source.title
    return tuple(Source(url, title) for url, title in titles.items())


def _call(call: ToolCall) -> JsonObject:
    return {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments}


def _output(call: ToolCall) -> JsonObject:
    return {"type": "function_call_output", "call_id": call.call_id, "output": call.output or ""}
